"""The demo: a GMVAE on real cells, a cGMVAE with a counterfactual, figures and a report."""

from __future__ import annotations

import base64
import html
import logging
import string
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scanpy as sc
import scvi
import torch
from anndata import AnnData
from matplotlib.axes import Axes
from rich.console import Console

from mixvi import CGMVAE, GMVAE, datasets, metrics, pl

matplotlib.use("Agg")

_SEED = 0
_HELD_OUT = 0.2


@dataclass
class _Part:
    """One section of the report."""

    title: str
    text: str
    figures: dict[str, Path] = field(default_factory=dict)
    merit: dict[str, str] = field(default_factory=dict)
    tables: list[pd.DataFrame] = field(default_factory=list)


def run_demo(
    output: str | Path = "mixvi-demo", *, epochs: int = 100, progress: bool = True
) -> Path:
    """Train two models and leave annotated cells, figures and a report.

    Parameters
    ----------
    output
        Directory for ``pbmc68k.h5ad``, ``counterfactual.h5ad``, PNG figures and ``report.html``;
        made if need be. Only files of these names are overwritten.
    epochs
        Passes over the data for each model.
    progress
        Whether progress bars are shown.

    Returns
    -------
    Path of the report.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    console = Console()
    start = time.perf_counter()
    with warnings.catch_warnings(), _one_torch_thread():
        warnings.simplefilter("ignore")
        console.print("[bold]1/3[/] GMVAE without labels on 700 blood cells (pbmc68k_reduced)")
        first = _clusters(output, epochs, progress)
        console.print("[bold]2/3[/] cGMVAE with a counterfactual")
        second = _counterfactual(output, epochs, progress)
    console.print("[bold]3/3[/] Report")
    report = _write_report(output, [first, second], time.perf_counter() - start)
    console.print(f"Done in {time.perf_counter() - start:.0f} s. Open [bold]{report}[/].")
    return report


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    # small tensors on several threads wait for each other where cores are busy
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _clusters(output: Path, epochs: int, progress: bool) -> _Part:
    adata = datasets.pbmc68k_reduced()
    scvi.settings.seed = _SEED
    GMVAE.setup_anndata(adata, layer="counts")
    model = GMVAE(adata, n_components=10, likelihood="nb", n_hidden=128)
    model.train(epochs, batch_size=64, enable_progress_bar=progress)
    # the known types are read from here on, to score and to name components
    assignment = model.assign_components("bulk_labels")
    model.annotate(adata)
    report = metrics.clustering_report(
        adata.obs["gmvae_component"].astype(str), adata.obs["bulk_labels"].astype(str)
    )
    figures = {
        "umap": _save(
            pl.latent(
                adata,
                color=["gmvae_component", "bulk_labels", "gmvae_confidence"],
                titles=["component", "known type", "confidence"],
            )[0],
            output / "umap.png",
        ),
        "heatmap": _save(pl.component_heatmap(adata, "bulk_labels"), output / "heatmap.png"),
        "loss": _save(pl.loss_terms(model)[0], output / "loss_terms.png"),
    }
    notes = adata.uns["gmvae"]
    merit = {
        "accuracy by overlap": f"{report['accuracy_overlap']:.3f}",
        "Hungarian accuracy": f"{report['accuracy_hungarian']:.3f}",
        "ARI": f"{report['ari']:.3f}",
        "NMI": f"{report['nmi']:.3f}",
        f"used components (mean probability above 0.5 / {model.n_components})": (
            f"{notes['used_components']} of {model.n_components}"
        ),
        "types with a component": f"{report['labels_with_component']} of {report['n_labels']}",
        "active units of z": f"{notes['active_z']} of 12",
        "active units of w": f"{notes['active_w']} of 12",
    }
    adata.write_h5ad(output / "pbmc68k.h5ad")
    recall = assignment.recall.rename("recall").to_frame()
    recall.insert(0, "cells", adata.obs["bulk_labels"].value_counts().reindex(recall.index))
    return _Part(
        "Clusters without labels: 700 blood cells",
        "A GMVAE with 10 components and a Dirichlet prior, trained on the raw counts of scanpy's "
        "pbmc68k_reduced (700 cells, 765 genes). Genes are those that set a component apart from "
        "all other cells, by the model. The known types were read after training, to score; the "
        "map from components to types is fitted on the scored cells, as in the thesis, and so "
        "flatters.",
        figures,
        merit,
        [recall, _genes(model, adata)],
    )


def _genes(model: GMVAE, adata: AnnData) -> pd.DataFrame:
    """Cells, most frequent type and foremost genes of each component that has 10 cells."""
    found = model.differential_expression(groupby="gmvae_component", silent=True)
    found = found[found["lfc_mean"] > 0].sort_values("proba_de", ascending=False)
    rows = {}
    for component, cells in adata.obs.groupby("gmvae_component", observed=True):
        if len(cells) >= 10:
            genes = found.index[found["group1"] == str(component)][:5]
            kind = cells["bulk_labels"].value_counts().index[0]
            rows[component] = {"cells": len(cells), "mostly": kind, "genes": ", ".join(genes)}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("component", axis=1)


def _counterfactual(output: Path, epochs: int, progress: bool) -> _Part:
    adata, name, target = _conditional_cells()
    scvi.settings.seed = _SEED
    held_out = np.random.default_rng(_SEED).random(adata.n_obs) < _HELD_OUT
    train, test = adata[~held_out].copy(), adata[held_out].copy()
    CGMVAE.setup_anndata(train, labels_key="cell_type", condition_key="condition")
    model = CGMVAE(
        train,
        n_components=train.obs["cell_type"].nunique(),
        condition_in="x_only",
        likelihood="mse",
        output_activation="softplus" if train.X.min() >= 0 else None,
        dropout_rate=0.0,
        n_hidden=128,
    )
    model.train(epochs, enable_progress_bar=progress)
    start = (test.obs["condition"] != target).to_numpy()
    predicted = model.counterfactual(test, to=target, indices=start)
    real = test[~start]
    sides = _baselines(train, test[start], target) | {"cGMVAE": np.asarray(predicted.X)}
    r2, energy = _compared(sides, real, test.obs["cell_type"][start])
    right = (model.predict(test, level="label") == test.obs["cell_type"].astype(str)).mean()
    model.annotate(test, counterfactual_to=target)
    test.write_h5ad(output / "counterfactual.h5ad")
    means = AnnData(sides["class means"], var=test.var)
    figures = {
        "counterfactual": _save(
            _beside_baseline(predicted, means, real, test[start]),
            output / "counterfactual.png",
        ),
        "counterfactual_umap": _save(
            pl.latent(
                test,
                color=["condition", "cell_type", "gmvae_confidence"],
                titles=["condition", "type", "confidence"],
            )[0],
            output / "counterfactual_umap.png",
        ),
        "counterfactual_loss": _save(
            pl.loss_terms(model)[0], output / "counterfactual_loss_terms.png"
        ),
    }
    merit = {
        "data": name,
        "held-out cells": f"{test.n_obs} of {adata.n_obs}",
        "mean expression, predicted / real": f"{sides['cGMVAE'].mean() / real.X.mean():.3f}",
        "label accuracy on held-out cells": f"{right:.3f}",
    }
    return _Part(
        f"Counterfactual: {name}",
        f"A supervised cGMVAE converts held-out cells to “{target}”; each cell keeps what the "
        "model leaves unexplained of it. They are compared with real held-out cells under that "
        "condition, type by type, beside three baselines that are told each cell's type, too: the "
        "cells shifted by the difference of their type's training means, those means themselves, "
        "and the cells as they are. The first table is the R² of mean expression, which does not "
        "see means that are all too small by one factor (the ratio above does). The second is the "
        "energy distance of the populations: 0 if they are the same, and means of a type, which "
        "do not vary, are far.",
        figures,
        merit,
        [r2, energy],
    )


def _baselines(train: AnnData, cells: AnnData, target: str) -> dict[str, np.ndarray]:
    """What needs no model: means of the type, a shift by their difference, no change."""
    types, conditions = train.obs["cell_type"], train.obs["condition"]
    (source,) = cells.obs["condition"].unique()
    after = metrics.class_mean_baseline(train.X, types, conditions, target)
    before = metrics.class_mean_baseline(train.X, types, conditions, source)
    kinds, x = cells.obs["cell_type"], np.asarray(cells.X)
    change = np.stack([after[kind] - before[kind] for kind in kinds])
    return {
        "shift of means": np.maximum(x + change, min(x.min(), 0.0)),
        "class means": np.stack([after[kind] for kind in kinds]),
        "no change": x,
    }


def _compared(
    sides: dict[str, np.ndarray], real: AnnData, types: pd.Series
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """R² of means and energy distance of each type, a column for each prediction."""
    r2, energy = {}, {}
    for name in ("cGMVAE", "shift of means", "class means", "no change"):
        for kind in types.unique():
            x, y = sides[name][types == kind], real.X[real.obs["cell_type"] == kind]
            r2[kind, name] = metrics.mean_expression_r2(x, y)
            energy[kind, name] = metrics.energy_distance(x, y)
    return tuple(
        pd.Series(values).unstack(sort=False).rename_axis(title, axis=1)
        for title, values in (("R² of means", r2), ("energy distance", energy))
    )


def _conditional_cells() -> tuple[AnnData, str, str]:
    """Kang cells if they are on this machine, else toy cells."""
    if datasets.find(datasets.KANG["both_1556"]) is None:
        adata = datasets.toy_conditional_blobs(n_per_group=150)
        return adata, "toy cells (the Kang cells are not on this machine)", "condition 1"
    adata = datasets.kang("both_1556")
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    adata.X = adata.X.toarray()
    return adata, "Kang et al. 2018, this part (1,556 cells)", "stim"


def _beside_baseline(
    predicted: AnnData, baseline: AnnData, real: AnnData, control: AnnData
) -> Axes:
    _, axes = plt.subplots(1, 2, figsize=(8.6, 4), sharey=True, layout="constrained")
    pl.mean_expression(predicted, real, control=control, ax=axes[0], title="cGMVAE")
    pl.mean_expression(baseline, real, control=control, ax=axes[1], title="class means")
    axes[1].set(ylabel="")
    return axes[0]


def _save(ax, path: Path) -> Path:
    ax.figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(ax.figure)
    return path


def _write_report(output: Path, parts: list[_Part], seconds: float) -> Path:
    """One HTML file with everything inside."""
    template = string.Template(files("mixvi").joinpath("report_template.html").read_text())
    versions = ", ".join(f"{p} {version(p)}" for p in ("mixvi", "scvi-tools", "torch", "anndata"))
    path = output / "report.html"
    path.write_text(
        template.substitute(
            body="\n".join(_section(part) for part in parts),
            foot=html.escape(f"Seed {_SEED}. {seconds:.0f} s. {versions}."),
        ),
        encoding="utf-8",
    )
    return path


def _section(part: _Part) -> str:
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        for name, value in part.merit.items()
    )
    images = "".join(
        f'<figure><img alt="{html.escape(name)}" src="data:image/png;base64,'
        f'{base64.b64encode(path.read_bytes()).decode()}"></figure>'
        for name, path in part.figures.items()
    )
    tables = "".join(table.to_html(float_format="{:.3f}".format, border=0) for table in part.tables)
    return (
        f"<section><h2>{html.escape(part.title)}</h2><p>{html.escape(part.text)}</p>"
        f'<div class="figures"><table>{rows}</table>{tables}</div>{images}</section>'
    )
