"""Disentangling VAEs on sprites: a grid of method, strength and seed, at a chosen budget.

The thesis (Mushom 2020) trains 345,600 updates on the 737,280 images of dSprites, 17 settings and
ten seeds. ``--updates`` and ``--images`` are this record's share of it; with fewer images the grid
is thinned (``--thin`` keeps each n-th orientation and place). The published file is read where it
is, else images are rendered, and the record says which. Settings are the thesis's recipes; no
strength is chosen on the scores, and tables have all. ``--report`` renders the tables, findings and
figures of a record. To try: ``--seeds 1 --updates 50 --thin 4 --grid small --name images/trial``.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import scvi
from anndata import AnnData
from benchmarks.compare import compare
from benchmarks.record import RESULTS, TRAINER, add_device, use_device

import mixvi
from mixvi import metrics
from mixvi.images import GenerativeInference, disentangling_recipe

matplotlib.use("Agg")

FACTORS = ["shape", "scale", "orientation", "x", "y"]
SUPERVISED = ["beta_vae", "factor_vae", "mig", "sap", "dci", "modularity"]
UNSUPERVISED = ["loss", "reconstruction", "kl", "gaussian_tc"]
# strengths of each objective: the thesis's, a share of them for a smaller budget, and to try
GRIDS: dict[str, dict[str, tuple[int, ...]]] = {
    "thesis": {
        "beta_vae": (0, 1, 2, 3),
        "factor_vae": (0, 1, 2, 3, 4),
        "beta_tcvae": (0, 1, 2, 3),
        "dip_vae": (0, 1, 2, 3),
    },
    "public": {
        "beta_vae": (0, 1, 2, 3),
        "factor_vae": (1, 2),
        "beta_tcvae": (0,),
        "dip_vae": (0, 2),
    },
    "small": {"beta_vae": (0, 3), "factor_vae": (1,), "beta_tcvae": (0,), "dip_vae": (0,)},
}
# mean and standard deviation over ten seeds: beta-VAE metric, FactorVAE metric, MIG
THESIS = {
    "beta_vae 1": ((0.867, 0.079), (0.696, 0.065), (0.201, 0.070)),
    "beta_vae 3": ((0.860, 0.055), (0.737, 0.031), (0.269, 0.028)),
    "beta_vae 10": ((0.762, 0.038), (0.666, 0.018), (0.270, 0.013)),
    "beta_vae 30": ((0.729, 0.006), (0.658, 0.014), (0.269, 0.013)),
    "factor_vae 10": ((0.894, 0.033), (0.758, 0.054), None),
    "factor_vae 25": (None, None, (0.297, 0.061)),
    "beta_tcvae 1": ((0.884, 0.049), (0.736, 0.028), (0.285, 0.060)),
}
SETTINGS: dict = {
    "updates": 20_000,
    "thin": 1,
    "images": None,
    "evaluated": 10_000,
    "points": (10_000, 5_000),
    "rows_of_udr": 200,
}
DATA: dict[str, AnnData] = {}


def load() -> None:
    """Images that train, and rows at random that scores are of."""
    thin = SETTINGS["thin"]
    part = {"orientation": range(0, 40, thin), "x": range(0, 32, thin), "y": range(0, 32, thin)}
    images = mixvi.datasets.sprites(part, n_obs=SETTINGS["images"])
    n = min(SETTINGS["evaluated"], images.n_obs)
    rows = np.random.default_rng(0).choice(images.n_obs, n, replace=False)
    DATA.update(train=images, scored=images[rows].copy())
    SETTINGS.update(source=images.uns["source"], n_images=images.n_obs, n_scored=n)


def run(objective: str, place: int, case: str, seed: int) -> dict:
    """Train one model and score it."""
    recipe = disentangling_recipe(objective)
    options = recipe.grid[place]
    images, scored = DATA["train"], DATA["scored"]
    scvi.settings.seed = seed
    GenerativeInference.setup_anndata(images)
    model = GenerativeInference(images, **(recipe.model_kwargs | {"objective_kwargs": options}))
    train = dict(recipe.train_kwargs)
    n_minibatches = images.n_obs // train["batch_size"]
    train["max_epochs"] = max(1, round(SETTINGS["updates"] / n_minibatches))
    model.train(**train, **TRAINER)
    last = {name: float(table.iloc[-1, 0]) for name, table in model.history.items()}
    mean, variance = model.get_latent_representation(scored, return_dist=True)
    kls = metrics.kl_per_dimension(mean, variance)
    # only parts of the grid may have too few rows of a value for as many pairs
    found = scores(mean, scored.obs[FACTORS])
    return found | {
        "objective": objective,
        "strength": strength(options),
        "reconstruction": last["reconstruction_train"],
        "kl": last["kl_train"],
        "loss": last["autoencoder_loss_train"],
        "gaussian_tc": metrics.gaussian_total_correlation(mean, variance),
        "active": float((kls > 0.1).sum()),
        "kls": kls.round(4).tolist(),
        "codes": mean[: SETTINGS["rows_of_udr"]].round(3).tolist(),
        "epochs": train["max_epochs"],
    }


def scores(codes: np.ndarray, factors: pd.DataFrame) -> dict[str, float]:
    """All supervised metrics of codes; the first two by both protocols."""
    n_train, n_test = SETTINGS["points"]
    points = {"n_train": n_train, "n_test": n_test}
    with_colour = factors.assign(colour=0)
    dci = metrics.dci(codes, factors)
    return {
        "beta_vae": float(metrics.beta_vae_score(codes, factors, **points)),
        "factor_vae": float(metrics.factor_vae_score(codes, factors, **points)),
        "mig": float(metrics.mig(codes, factors)),
        "sap": float(metrics.sap(codes, factors)),
        "dci": float(dci),
        "completeness": dci.completeness,
        "modularity": float(metrics.modularity(codes, factors)),
        # as the thesis has them: colour counts, and dead dimensions vote
        "beta_vae_thesis": float(
            metrics.beta_vae_score(codes, with_colour, keep_constant=True, **points)
        ),
        "factor_vae_thesis": float(
            metrics.factor_vae_score(
                codes, with_colour, keep_constant=True, prune_threshold=0.0, **points
            )
        ),
    }


def baseline(kind: str, case: str, seed: int) -> dict:
    """Scores of codes that nothing was trained for: principal components, and the factors."""
    scored = DATA["scored"]
    factors = scored.obs[FACTORS]
    if kind == "factors":
        codes = factors.assign(shape=factors["shape"].cat.codes).to_numpy(float)
        codes = (codes - codes.mean(axis=0)) / codes.std(axis=0)
    else:
        x = scored.obsm["image"].reshape(scored.n_obs, -1) / 255.0
        x = x - x.mean(axis=0)
        u, s, _ = np.linalg.svd(x[:4000], full_matrices=False)
        codes, factors = u[:, :10] * s[:10], factors[:4000]
    return scores(codes, factors)


def strength(options: dict) -> float:
    """The weight that a strength is named for."""
    return float(
        next(options[name] for name in ("beta", "tc_weight", "lambda_offdiag") if name in options)
    )


def frame(record: dict) -> pd.DataFrame:
    """One row a trained model."""
    runs = pd.DataFrame([run for run in record["runs"] if "objective" in run])
    return runs.rename(columns={"method": "setting", "objective": "method"})


def report(name: str) -> None:
    """Tables, findings and figures of a record, beside it."""
    record = json.loads((RESULTS / f"{name}.json").read_text())
    results = frame(record)
    settings = record["settings"]
    lines = [
        f"# {name}: the thesis's tables",
        "",
        f"{settings['updates']} updates of 345,600, {settings['n_images']} images of 737,280 "
        f"({settings['source']}), {results['seed'].nunique()} of 10 seeds. Mean ± standard "
        "deviation over seeds. The thesis counts a constant factor and lets dead dimensions vote: "
        "columns 'as there' do, too.",
        "",
        *_table_of_settings(results),
        "",
        "## Does a loss tell which model to choose? (Spearman, thesis section 5.5.3)",
        "",
        *_markdown(metrics.rank_agreement(results, SUPERVISED, UNSUPERVISED)),
        "",
        "## Do metrics agree?",
        "",
        *_markdown(metrics.rank_agreement(results, SUPERVISED)),
        "",
        "## What decides a score? (shares of variance)",
        "",
        *_markdown(
            pd.DataFrame(
                {s: metrics.variance_shares(results, s, ["method", "strength"]) for s in SUPERVISED}
            )
        ),
        "",
        "## Findings",
        "",
        *_findings(results),
    ]
    (RESULTS / f"{name}_thesis.md").write_text("\n".join(lines) + "\n")
    _figures(results, RESULTS / f"{name}_figures")


def _table_of_settings(results: pd.DataFrame) -> list[str]:
    columns = {
        "beta_vae_thesis": "beta-VAE metric, as there",
        "factor_vae_thesis": "FactorVAE metric, as there",
        "mig": "MIG",
        "beta_vae": "beta-VAE metric",
        "factor_vae": "FactorVAE metric",
        "dci": "DCI",
        "sap": "SAP",
        "reconstruction": "nats an image",
        "active": "active",
    }
    lines = ["| setting | " + " | ".join(columns.values()) + " | thesis |"]
    lines.append("| --- |" + " --- |" * (len(columns) + 1))
    for setting, rows in results.groupby("setting", sort=False):
        cells = [f"{rows[c].mean():.3f} ± {rows[c].std(ddof=1):.3f}" for c in columns]
        there = THESIS.get(setting)
        text = "–"
        if there:
            text = ", ".join("–" if t is None else f"{t[0]:.3f} ± {t[1]:.3f}" for t in there)
        lines.append(f"| {setting} | " + " | ".join(cells) + f" | {text} |")
    return lines


def _findings(results: pd.DataFrame) -> list[str]:
    """What the thesis says in words, as this record has it; numbers, no verdicts."""
    by = results.groupby(["method", "strength"]).mean(numeric_only=True)
    lines = []
    for method, statement in (
        ("beta_vae", "reconstruction rises and KL falls with beta"),
        ("factor_vae", "reconstruction stays low over all weights"),
        ("beta_tcvae", "reconstruction rises with the weight"),
    ):
        of = by.loc[method]
        pairs = zip(of.index, of["reconstruction"], of["kl"], of["active"], strict=True)
        text = "; ".join(f"{s:g}: {r:.1f}, {k:.1f}, {a:.1f}" for s, r, k, a in pairs)
        lines.append(f"- {method}: {statement} (strength: nats, KL, active dimensions): {text}.")
    spread = results.groupby(["method", "strength"])[SUPERVISED].std(ddof=1).mean()
    between = by.groupby("method")[SUPERVISED].mean().std(ddof=1)
    text = ", ".join(f"{s}: {spread[s]:.3f} and {between[s]:.3f}" for s in SUPERVISED)
    lines.append(f"- Standard deviation between seeds and between methods: {text}.")
    for (method, value), rows in results.groupby(["method", "strength"]):
        if len(rows) > 1:
            ranking = metrics.udr(list(rows["codes"]), list(rows["kls"]))
            chosen = rows["mig"].to_numpy()[ranking.scores.argmax()]
            lines.append(
                f"- UDR among seeds of {method} {value:g}: the model it chooses has MIG "
                f"{chosen:.3f}, mean {rows['mig'].mean():.3f}, best {rows['mig'].max():.3f}."
            )
    return lines


def _figures(results: pd.DataFrame, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    drawn = {f"tradeoff_{s}": mixvi.pl.tradeoff(results, s) for s in ("beta_vae", "mig")}
    drawn |= {f"robustness_{s}": mixvi.pl.robustness(results, s) for s in ("factor_vae", "mig")}
    drawn["agreement"] = mixvi.pl.rank_correlations(results, SUPERVISED)
    drawn["selection"] = mixvi.pl.rank_correlations(results, SUPERVISED, UNSUPERVISED)
    for name, ax in drawn.items():
        ax.figure.savefig(folder / f"{name}.png", dpi=110)


def _markdown(table: pd.DataFrame) -> list[str]:
    lines = ["| | " + " | ".join(map(str, table.columns)) + " |"]
    lines.append("| --- |" + " --- |" * table.shape[1])
    for name, row in table.iterrows():
        lines.append(f"| {name} | " + " | ".join(f"{value:.2f}" for value in row) + " |")
    return lines


def main() -> None:
    """Run the grid, or render a record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--grid", choices=GRIDS, default="public")
    parser.add_argument("--updates", type=int, default=SETTINGS["updates"])
    parser.add_argument("--thin", type=int, default=SETTINGS["thin"])
    parser.add_argument("--images", type=int, help="so many at random of the grid")
    parser.add_argument("--points", type=int, nargs=2, default=SETTINGS["points"])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on one thread")
    parser.add_argument("--name", default="images/disentanglement", help="of the record")
    parser.add_argument("--resume", action="store_true", help="run what the record lacks")
    parser.add_argument("--report", action="store_true", help="render the record alone")
    add_device(parser)
    given = parser.parse_args()
    if given.report:
        report(given.name)
        return
    use_device(given.device)
    for name in ("updates", "thin", "images"):
        SETTINGS[name] = getattr(given, name)
    SETTINGS["points"] = list(given.points)
    load()
    methods = {kind: partial(baseline, kind) for kind in ("factors", "principal components")}
    for objective, places in GRIDS[given.grid].items():
        for place in places:
            weight = strength(disentangling_recipe(objective).grid[place])
            methods[f"{objective} {weight:g}"] = partial(run, objective, place)
    compare(
        given.name, methods, ["sprites"], SETTINGS, given.seeds, given.jobs, resume=given.resume
    )
    report(given.name)


if __name__ == "__main__":
    main()
