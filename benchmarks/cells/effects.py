"""Counterfactual methods on one task, all with the same residual rule, and their figures.

A task is a set of training cells, control cells to convert, the real cells under the target, and
other control cells that changes are taken from. Lists and weights of genes, the change that groups
share and the principal components come from the training cells.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import anndata
import numpy as np
import pandas as pd
import scanpy as sc
import scvi
from anndata import AnnData
from benchmarks.compare import compare
from benchmarks.record import TRAINER, add_device, use_device

import mixvi
from mixvi.cells import (
    evaluate_counterfactual,
    predict_class_means,
    predict_label_condition_cvae,
    predict_latent_shift,
    predict_linear_shift,
    predict_mean_shift,
    predict_no_change,
    train_label_condition_cvae,
    training_reference,
)
from mixvi.core.arguments import check_choice
from mixvi.metrics import de_table

NETWORK = {"n_hidden": 256, "n_layers": 2, "likelihood": "mse"}
CGMVAE = {
    "n_latent_z": 24,
    "n_latent_w": 24,
    "dropout_rate": 0.0,
    "output_activation": "softplus",
    "condition_in": "x_only",
}
VAE = {"n_latent": 24, "dropout_rate": 0.0, "output_activation": "softplus"}
TRAIN = {"stages": [(1e-3, 80), (1e-4, 20)], "batch_size": 128}
SETTINGS = {"network": NETWORK, "cgmvae": CGMVAE, "vae": VAE, "train": TRAIN}
RESIDUALS = {"residual": True, "centred residual": "centred"}
_LEVEL = 0.9

Predictions = dict[str, AnnData]


class Task(NamedTuple):
    """Cells to learn from, to convert, to compare with."""

    train: AnnData
    cells: AnnData
    """To convert."""
    real: AnnData
    """Under the target."""
    control: AnnData
    """Other cells than those that are converted where there are some."""
    targets: Sequence[str]
    """Conditions to convert to; the real cells have the same."""
    labels_key: str
    condition_key: str
    groupby: str
    """Column by which figures are taken: of types, or the condition itself."""
    batch_key: str | None = None
    duplicate: AnnData | None = None
    """Training cells under the target, which are the ceiling; None: half of the real cells."""
    has_labels: bool = True
    """Whether labels are types that a model takes; a batch that stands in for them is none."""

    @property
    def columns(self) -> dict[str, str]:
        """Arguments of the predictions."""
        return {"labels_key": self.labels_key, "condition_key": self.condition_key}

    @property
    def of_conditions(self) -> bool:
        """Whether each target is a group of its own."""
        return self.groupby == self.condition_key

    def by_target(self, predict: Callable[[str], AnnData]) -> AnnData:
        """Cells converted to each target."""
        parts = {to: predict(to) for to in self.targets}
        if len(parts) == 1:
            return next(iter(parts.values()))
        joined = anndata.concat(parts, index_unique=" ")
        joined.uns["mixvi_prediction"] = next(iter(parts.values())).uns["mixvi_prediction"]
        return joined


def baselines(task: Task, seed: int) -> Predictions:
    """Arithmetic on means, no change, and class means, which keep no residual."""
    found = {
        "no change": task.by_target(
            lambda to: predict_no_change(task.cells, condition_key=task.condition_key, to=to)
        ),
        "class means": task.by_target(
            lambda to: predict_class_means(task.train, task.cells, to=to, **task.columns)
        ),
    }
    for kind, keep in RESIDUALS.items():
        options = {"keep_residual": keep, "seed": seed} | task.columns
        for weights in ("own", "similar", "nearest", "mean"):
            found[f"mean shift {weights}, {kind}"] = task.by_target(
                partial(_to, predict_mean_shift, task, options | {"weights": weights})
            )
        found[f"linear shift, {kind}"] = task.by_target(
            partial(_to, predict_linear_shift, task, options)
        )
    return found


def _to(predict: Callable[..., AnnData], task: Task, options: dict[str, Any], to: str) -> AnnData:
    return predict(task.train, task.cells, to=to, **options)


def latent_shift(task: Task, seed: int) -> Predictions:
    """ScGen's method on mixvi's VAE, with and without the residual."""
    scvi.settings.seed = seed
    train = task.train.copy()
    mixvi.VAE.setup_anndata(train)
    model = mixvi.VAE(train, **NETWORK, **VAE)
    model.train(**TRAIN, **TRAINER)
    options = {"seed": seed} | task.columns
    return {
        kind: task.by_target(
            lambda to, keep=keep: predict_latent_shift(
                model, task.cells, to=to, keep_residual=keep, **options
            )
        )
        for kind, keep in ({"no residual": False} | RESIDUALS).items()
    }


def cvae(task: Task, seed: int) -> Predictions:
    """CVAE on the pair of label and condition; it cannot leave a pair out."""
    keys = list(task.columns.values())
    pairs, own = (
        {tuple(pair) for pair in cells.obs[keys].astype(str).to_numpy()}
        for cells in (task.train, task.cells)
    )
    needed = own | {(label, to) for label, _ in own for to in task.targets}
    if needed - pairs:
        return {}
    scvi.settings.seed = seed
    options = {"model_kwargs": NETWORK | VAE} | task.columns
    model = train_label_condition_cvae(task.train, **options, **TRAIN, **TRAINER)
    return {
        kind: task.by_target(
            lambda to, keep=keep: predict_label_condition_cvae(
                model, task.cells, to=to, keep_residual=keep, seed=seed, **task.columns
            )
        )
        for kind, keep in RESIDUALS.items()
    }


def cgmvae(task: Task, seed: int) -> tuple[Predictions, dict[str, dict[str, float]]]:
    """One model: its shift with residuals, corrected or not; and what its intervals cover."""
    scvi.settings.seed = seed
    train = task.train.copy()
    labels = task.labels_key if task.has_labels else None
    setup = {"condition_key": task.condition_key, "batch_key": task.batch_key}
    mixvi.CGMVAE.setup_anndata(train, labels_key=labels, **setup)
    n = train.obs[labels].nunique() if labels else 5
    model = mixvi.CGMVAE(train, n_components=n, **NETWORK, **CGMVAE)
    model.train(**TRAIN, **TRAINER)
    found = {}
    for name, correct in (("shift", False), ("corrected", True)):
        for kind, keep in RESIDUALS.items():
            found[f"{name}, {kind}"] = task.by_target(
                lambda to, c=correct, k=keep: model.counterfactual(
                    task.cells, to=to, correct_means=c, keep_residual=k
                )
            )
    cover = {f"coverage_{round(100 * _LEVEL)}": _coverage(model, task)}
    return found, {name: cover for name in found if name.startswith("corrected")}


def _coverage(model: mixvi.CGMVAE, task: Task) -> float:
    """Share of genes and groups whose real change lies in the interval."""
    held = []
    for to in task.targets:
        of_target = (task.real.obs[task.condition_key] == to).to_numpy()
        groups = ["all"] if task.of_conditions else task.real.obs[task.groupby].unique()
        for group in groups:
            sides = [task.real[of_target], task.cells]
            if not task.of_conditions:
                sides = [of[(of.obs[task.groupby] == group).to_numpy()] for of in sides]
            after, before = (np.asarray(of.X).mean(axis=0) for of in sides)
            table = model.get_mean_change(sides[1].copy(), to, level=_LEVEL, n_real=sides[0].n_obs)
            change = after - before
            held.append(((table["lower"] <= change) & (change <= table["upper"])).mean())
    return float(np.mean(held))


def figures(task: Task, predicted: Predictions, seed: int) -> dict[str, dict[str, Any]]:
    """Means over groups of each metric, their mean score, and the figures of each group."""
    control = task.control.obs[task.condition_key].astype(str).iloc[0]
    to = None if task.of_conditions else task.targets[0]
    reference = training_reference(
        task.train,
        groupby=task.groupby,
        condition_key=task.condition_key,
        control=control,
        to=to,
    )
    others = task.control.copy()
    if task.of_conditions:
        # one control for all perturbations
        del others.obs[task.groupby]
    table = evaluate_counterfactual(
        predicted,
        task.real,
        others,
        groupby=task.groupby,
        reference=reference,
        duplicate=task.duplicate,
        n_permutations=0,
        seed=seed,
    )
    groups = table[table["group"] != "all"] if table["group"].nunique() > 1 else table
    found = {}
    for method, rows in groups.groupby("method", sort=False):
        means = rows.groupby("metric", sort=False)[["value", "score"]].mean()
        # worse than the floor is no better than it, and better than half of the real cells as good
        score = means["score"].clip(0, 1).mean()
        by_group = rows[["group", "metric", "value", "score"]].round(4).to_numpy().tolist()
        found[method] = means["value"].to_dict() | {"score": score, "by_group": by_group}
    bounds = groups.groupby("metric", sort=False)[["floor", "ceiling"]].mean()
    return found | {name: of.to_dict() for name, of in bounds.items()}


def false_effects(task: Task, predicted: Predictions, null: Sequence[str]) -> dict[str, float]:
    """Share of genes that differ from other controls though nothing was changed, by method."""
    found = {}
    for method, cells in predicted.items():
        shares = []
        for name in null:
            own = cells[(cells.obs["target_condition"] == name).to_numpy()]
            shares.append((de_table(own, task.control)["p_adjusted"] < 0.05).mean())
        found[method] = float(np.mean(shares))
    return found


Score = Callable[[Task, Predictions, int], dict[str, dict[str, Any]]]


def methods(
    split: Callable[[str, int], Task],
    score: Score = figures,
    more: Mapping[str, Callable] | None = None,
) -> dict[str, Callable]:
    """Functions of (case, seed) for :func:`benchmarks.compare.compare`; ``more`` by name."""

    def run(predict: Callable, case: str, seed: int) -> dict:
        task = split(case, seed)
        made = predict(task, seed)
        predicted, extra = made if isinstance(made, tuple) else (made, {})
        if not predicted:
            return {}
        found = score(task, predicted, seed)
        if predict is not baselines:
            # bounds are the same for all methods
            found = {name: of for name, of in found.items() if name in predicted}
        return {name: of | extra.get(name, {}) for name, of in found.items()}

    named = {
        "baselines": baselines,
        "cGMVAE": cgmvae,
        "latent shift (scGen)": latent_shift,
        "CVAE (label, condition)": cvae,
    } | dict(more or {})
    return {name: partial(run, predict) for name, predict in named.items()}


def log_normalised(adata: AnnData, target_sum: float = 1e4) -> AnnData:
    """Log-normalised values in X, dense, and the counts in a layer."""
    adata.layers["counts"] = adata.X.copy()
    sc.pp.normalize_total(adata, target_sum=target_sum)
    sc.pp.log1p(adata)
    adata.X = adata.X.toarray()
    return adata


def halves(cells: AnnData, seed: int) -> tuple[AnnData, AnnData]:
    """Cells dealt into two halves."""
    order = np.random.default_rng(seed).permutation(cells.n_obs)
    return cells[np.sort(order[::2])].copy(), cells[np.sort(order[1::2])].copy()


def joined_columns(adata: AnnData, *keys: str) -> pd.Series:
    """Several columns of ``obs`` as one of text."""
    return adata.obs[list(keys)].astype(str).agg(" ".join, axis=1)


def main(
    name: str,
    description: str,
    split: Callable[[str, int], Task],
    cases: Sequence[str],
    settings: Mapping[str, Any],
    score: Score = figures,
    more: Mapping[str, Callable] | None = None,
) -> None:
    """Run a benchmark from the command line and write its record.

    Settings were chosen, and are to be, on cells that no record scores: see ``settings``.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cases", nargs="+", choices=cases, default=list(cases))
    parser.add_argument("--methods", nargs="+", help="by name; all unless said")
    parser.add_argument("--epochs", type=int, help="of both stages, to try the script")
    parser.add_argument("--name", default=name)
    parser.add_argument("--resume", action="store_true")
    add_device(parser)
    given = parser.parse_args()
    use_device(given.device)
    if given.epochs:
        TRAIN["stages"] = [(1e-3, given.epochs)]
    settings = SETTINGS | settings
    named = methods(split, score, more)
    for name in given.methods or ():
        check_choice("--methods", name, named)
    named = {name: of for name, of in named.items() if name in (given.methods or named)}
    compare(given.name, named, given.cases, settings, given.seeds, resume=given.resume)
