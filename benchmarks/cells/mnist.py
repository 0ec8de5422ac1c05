"""Acceptance rows 1-8: MNIST through GMVAE with the bernoulli likelihood.

Trained on the first 50,000 training images, scored on the last 10,000 (and on the 10,000 official
test images). Maps from components to digits are fitted on
the training images for ``held_out`` and on the scored ones for ``held_out_own_map``, the thesis's
way. Clusterings never see a digit; the semi-supervised runs see 5 % of the training ones.
"""

from __future__ import annotations

import argparse

import numpy as np
import scvi
from benchmarks.compare import compare
from benchmarks.record import TRAINER, add_device, use_device
from sklearn.neighbors import KNeighborsClassifier

import mixvi
from mixvi.cells import cluster_cells, spread_labels, train_guided
from mixvi.metrics import accuracy_by_overlap, component_table, overlap_map, used_components

SETTINGS = {
    "model": {
        "n_latent_z": 16,
        "n_latent_w": 16,
        "n_hidden": 512,
        "n_layers": 2,
        "likelihood": "bernoulli",
    },
    "batch_size": 256,
    "clustering": {"dropout_rate": 0.1, "init_epochs": 8, "stages": [(1e-4, 8)]},
    "semi": {
        "share": 0.05,
        "dropout_rate": 0.1,
        "classification_weight": 100.0,
        "labelled_fraction": 0.3,
        "n_clusters": 40,
        "first_stages": [(1e-3, 8)],
        "stages": [(1e-4, 6)],
    },
    "guided": {"supervised": [(1e-3, 8), (1e-4, 2)], "unsupervised": [(1e-5, 6)]},
}
DIGITS = mixvi.datasets.mnist()
TRAIN = DIGITS[DIGITS.obs["split"] == "train"].copy()
SCORED = {name: DIGITS[DIGITS.obs["split"] == name].copy() for name in ("held_out", "test")}


def _scores(model: mixvi.GMVAE, mapping: dict | None = None) -> dict[str, float]:
    """Accuracy with a map of the training images (or the one given), and with one of the scored."""
    truth = TRAIN.obs["digit"].astype(str)
    found = model.predict(TRAIN)
    mapping = mapping or overlap_map(component_table(found, truth))
    scores = {"train": accuracy_by_overlap(found, truth, mapping)}
    for name, images in SCORED.items():
        digits, components = images.obs["digit"].astype(str), model.predict(images)
        scores[name] = accuracy_by_overlap(components, digits, mapping)
        scores[f"{name}_own_map"] = accuracy_by_overlap(components, digits)
        scores[f"{name}_digits"] = len(
            set(overlap_map(component_table(components, digits)).values())
        )
    scores["used"] = used_components(model.predict(TRAIN, soft=True).to_numpy())
    return scores


def _model(n_components: int, **settings) -> mixvi.GMVAE:
    return mixvi.GMVAE(TRAIN, n_components=n_components, **SETTINGS["model"], **settings)


def _clustered(n_components: int, seed: int) -> dict[str, float]:
    scvi.settings.seed = seed
    mixvi.GMVAE.setup_anndata(TRAIN)
    own = SETTINGS["clustering"]
    model = _model(n_components, dropout_rate=own["dropout_rate"])
    model.train(
        mode="unsupervised",
        init="leiden",
        init_epochs=own["init_epochs"],
        stages=own["stages"],
        batch_size=SETTINGS["batch_size"],
        **TRAINER,
    )
    return _scores(model)


def unsupervised_10(case: str, seed: int) -> dict[str, float]:
    """Row 4: as many components as digits, no hand in it."""
    return _clustered(10, seed)


def unsupervised_20(case: str, seed: int) -> dict[str, float]:
    """Row 5: twice as many."""
    return _clustered(20, seed)


def semi_supervised(case: str, seed: int) -> dict[str, float]:
    """Rows 1-3: 5 % of the digits; Leiden clusters on pixels' components and on z."""
    own = SETTINGS["semi"]
    scvi.settings.seed = seed
    shown = np.random.default_rng(seed).random(TRAIN.n_obs) < own["share"]
    TRAIN.obs["shown"] = np.where(shown, TRAIN.obs["digit"].astype(str), "Unknown")
    mixvi.GMVAE.setup_anndata(TRAIN, labels_key="shown")
    model = _model(
        10,
        dropout_rate=own["dropout_rate"],
        classification_weight=own["classification_weight"],
    )
    options = {"batch_size": SETTINGS["batch_size"], **TRAINER}
    clusters = cluster_cells(TRAIN, n_clusters=own["n_clusters"], seed=seed)
    spread = spread_labels(clusters, TRAIN.obs["shown"])
    model.train(mode="guided", clusters=spread, stages=own["first_stages"], **options)
    model.train(
        mode="semi",
        stages=own["stages"],
        labelled_fraction=own["labelled_fraction"],
        **options,
    )
    images = SCORED["held_out"].copy()
    images.obsm["z"] = model.get_latent_representation(images)
    on_z = cluster_cells(images, basis="z", seed=seed).nunique()
    grid = model.sample(1)
    digit = KNeighborsClassifier(5).fit(TRAIN.X, TRAIN.obs["digit"].astype(str)).predict(grid.X)
    return _scores(model, model.component_labels) | {
        "grid_digits_right": int((digit == grid.obs["label"].astype(str)).sum()),
        "leiden_clusters_on_pca": cluster_cells(images, seed=seed).nunique(),
        "leiden_clusters_on_z": on_z,
    }


def guided(case: str, seed: int) -> dict[str, float]:
    """Rows 6-8: Leiden on the training images, a model taught by it, then left to itself."""
    own, truth = SETTINGS["guided"], TRAIN.obs["digit"].astype(str)
    scvi.settings.seed = seed
    clusters = cluster_cells(TRAIN, seed=seed)
    mixvi.GMVAE.setup_anndata(TRAIN)
    model = _model(clusters.nunique())
    options = {"batch_size": SETTINGS["batch_size"], **TRAINER}
    first = train_guided(
        model, clusters, supervised_stages=own["supervised"], unsupervised_stages=None, **options
    )
    taught = _scores(model)
    model.train(mode="unsupervised", stages=own["unsupervised"], **options)
    after = _scores(model)
    alone = cluster_cells(SCORED["held_out"], seed=seed)
    return {
        "leiden_train": accuracy_by_overlap(clusters, truth),
        "leiden_held_out": accuracy_by_overlap(alone, SCORED["held_out"].obs["digit"].astype(str)),
        "n_clusters": int(clusters.nunique()),
        "agreement": first.supervised,
        **{f"taught_{k}": v for k, v in taught.items()},
        **after,
    }


GROUPS = {
    "clustering": {
        "unsupervised K=10": unsupervised_10,
        "unsupervised K=20": unsupervised_20,
    },
    "guided": {"guided by Leiden": guided},
    "labels": {"5 % labels": semi_supervised},
}


def main() -> None:
    """Run all seeds of the groups and write a record of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on one thread")
    add_device(parser)
    given = parser.parse_args()
    use_device(given.device)
    for group in given.groups:
        name = f"cells/mnist_{group}"
        compare(name, GROUPS[group], ["MNIST"], SETTINGS, given.seeds, given.jobs)


if __name__ == "__main__":
    main()
