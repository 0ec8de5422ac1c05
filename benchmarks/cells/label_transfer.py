"""Labels of a reference for the cells of other donors and studies: GMVAE by its defaults and peers.

Every method sees the expression of reference and query, and the labels of the reference. Cases are
donors of Kang's control cells (three aside, others at each seed), the same with a part of their
labels wrong (any other type, or the one whose mean is nearest), studies (the genes they share), and
types that the reference lacks: all its cells of one type are left out, and the score of a method is
to tell the query's cells of that type from the rest.
"""

from __future__ import annotations

import argparse
from functools import cache, partial

import numpy as np
import pandas as pd
import scanpy as sc
import scvi
from anndata import AnnData, concat
from benchmarks.compare import compare
from benchmarks.record import TRAINER, add_device, use_device
from scipy.sparse import csr_matrix
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, recall_score, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

import mixvi

SETTINGS = {
    "n_donors_aside": 3,
    "n_pcs": 50,
    "scvi": {"n_latent": 10, "n_layers": 2, "gene_likelihood": "nb"},
    "scvi_epochs": 100,
    "scanvi_epochs": 50,
    # scvi-tools' warm-up of 400 epochs would never end
    "kl_warmup": 1,
    "n_neighbors": 15,
    "reject": 0.05,
}
COARSE = {
    "nk": "NK cells",
    "bcells": "B cells",
    "monocytes": "Monocytes",
    "CD14+ Monocytes": "Monocytes",
    "FCGR3A+ Monocytes": "Monocytes",
    "cytotoxict": "CD8 T cells",
    "naivecytotoxic": "CD8 T cells",
    "memoryt": "CD4 T cells",
    "regulatoryt": "CD4 T cells",
    "thelper": "CD4 T cells",
    "naivet": "CD4 T cells",
}


@cache
def study(name: str) -> AnnData:
    """Raw counts with ``obs["cell_type"]`` and ``obs["batch"]``."""
    if name == "kang":
        adata = mixvi.datasets.kang("control_12261")
        batch, types = adata.obs["donor"].astype(str), adata.obs["cell_type"]
    elif name == "pbmc3k":
        adata = mixvi.datasets.pbmc3k()
        batch, types = name, adata.obs["cell_type"]
    else:
        adata = mixvi.datasets.sorted_pbmc()
        batch, types = name, adata.obs["sorted_population"]
    obs = pd.DataFrame({"cell_type": types.astype(str), "batch": batch}, index=adata.obs_names)
    return AnnData(adata.X.astype(np.float32), obs=obs, var=pd.DataFrame(index=adata.var_names))


def task(case: str, seed: int) -> tuple[AnnData, np.ndarray]:
    """Cells with ``layers["counts"]`` and ``X`` logged, and the mask of the reference."""
    if " to " in case:
        parts = dict(zip(("reference", "query"), map(study, case.split(" to ")), strict=True))
        adata = concat(parts, join="inner", label="part", index_unique="-")
        if "sorted" in case:
            adata.obs["cell_type"] = adata.obs["cell_type"].replace(COARSE)
        reference = (adata.obs["part"] == "reference").to_numpy()
        shared = np.isin(adata.obs["cell_type"], adata.obs["cell_type"][reference])
        adata, reference = adata[shared].copy(), reference[shared]
    else:
        adata = study("kang").copy()
        donors = np.random.default_rng(seed).permutation(adata.obs["batch"].unique())
        reference = ~adata.obs["batch"].isin(donors[: SETTINGS["n_donors_aside"]]).to_numpy()
        if case.startswith("without "):
            left_out = reference & (adata.obs["cell_type"] == case.removeprefix("without "))
            adata, reference = adata[~left_out].copy(), reference[~left_out]
    adata.layers["counts"] = adata.X.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    labels = adata.obs["cell_type"].to_numpy().astype(str)
    if "wrong" in case:
        labels[reference] = with_errors(labels[reference], adata.X[reference], case, seed)
    adata.obs["label"] = np.where(reference, labels, "Unknown")
    return adata, reference


def with_errors(labels: np.ndarray, x: csr_matrix, case: str, seed: int) -> np.ndarray:
    """Labels of which a share is wrong, both as the case says.

    Parameters
    ----------
    labels
        ``(n,)``.
    x
        Expression of the same cells ``(n, G)``, by which types are near.
    case
        Such as ``"donors, 10 % wrong"`` or ``"donors, 10 % wrong, neighbours"``.
    seed
        Of which cells, and of the other types.
    """
    rng = np.random.default_rng(1000 + seed)
    share = int(case.split(", ")[1].split()[0]) / 100
    names, codes = np.unique(labels, return_inverse=True)
    wrong = rng.permutation(len(labels))[: round(share * len(labels))]
    if case.endswith("neighbours"):
        means = np.stack(
            [np.asarray(x[codes == i].mean(axis=0)).ravel() for i in range(len(names))]
        )
        apart = cdist(means, means)
        np.fill_diagonal(apart, np.inf)
        other = apart.argmin(axis=1)[codes[wrong]]
    else:
        other = (codes[wrong] + rng.integers(1, len(names), len(wrong))) % len(names)
    labels = labels.copy()
    labels[wrong] = names[other]
    return labels


def figures(case: str, adata: AnnData, reference: np.ndarray, probs, novelty, limit) -> dict:
    """Scores on the query.

    Parameters
    ----------
    probs
        Table ``(n_obs, n_labels)``.
    novelty
        Score of each cell, ``(n_obs,)``.
    limit
        Beyond which a cell counts as of no known type.
    """
    truth = adata.obs["cell_type"].to_numpy().astype(str)[~reference]
    if case.startswith("without "):
        novel = truth == case.removeprefix("without ")
        called_known = novelty[~reference] <= limit
        return {
            "auroc": float(roc_auc_score(novel, novelty[~reference])),
            "novel_called_known": float(called_known[novel].mean()),
            "known_called_known": float(called_known[~novel].mean()),
        }
    probs = probs[~reference]
    predicted = probs.columns.to_numpy().astype(str)[probs.to_numpy().argmax(1)]
    names, sizes = np.unique(truth, return_counts=True)
    rarest = names[sizes.argmin()]
    return {
        "accuracy": float((predicted == truth).mean()),
        "macro_f1": float(f1_score(truth, predicted, labels=names, average="macro")),
        "recall_of_rarest": float(recall_score(truth == rarest, predicted == rarest)),
        "ece": mixvi.metrics.expected_calibration_error(probs, truth),
    }


def _by_probability(case: str, adata: AnnData, reference: np.ndarray, probs: pd.DataFrame) -> dict:
    """Figures where the largest probability is all there is; its limit is the reference's own."""
    novelty = 1.0 - probs.max(axis=1).to_numpy()
    limit = np.quantile(novelty[reference], 1.0 - SETTINGS["reject"])
    return figures(case, adata, reference, probs, novelty, limit)


def gmvae(layer: str | None, case: str, seed: int) -> dict:
    """GMVAE, every setting the default: on log-normalised expression, or on a layer's counts."""
    adata, reference = task(case, seed)
    scvi.settings.seed = seed
    mixvi.GMVAE.setup_anndata(adata, layer=layer, labels_key="label", batch_key="batch")
    model = mixvi.GMVAE(adata)
    model.train(**TRAINER)
    probs = model.predict(soft=True, level="label")
    novelty = model.get_novelty_score().to_numpy()
    rejected = (model.predict(reject=SETTINGS["reject"]) == "Unknown").to_numpy()
    limit = novelty[~rejected].max()
    return figures(case, adata, reference, probs, novelty, limit)


def _scvi(adata: AnnData, seed: int) -> scvi.model.SCVI:
    scvi.settings.seed = seed
    scvi.model.SCVI.setup_anndata(adata, layer="counts", labels_key="label", batch_key="batch")
    model = scvi.model.SCVI(adata, **SETTINGS["scvi"])
    plan = {"n_epochs_kl_warmup": SETTINGS["kl_warmup"]}
    model.train(SETTINGS["scvi_epochs"], plan_kwargs=plan, **TRAINER)
    return model


def scanvi(case: str, seed: int) -> dict[str, dict]:
    """SCANVI from SCVI, and neighbours in SCVI's latent space: votes, and distance."""
    adata, reference = task(case, seed)
    first = _scvi(adata, seed)
    z, labels = first.get_latent_representation(), adata.obs["label"].to_numpy()
    model = scvi.model.SCANVI.from_scvi_model(first, unlabeled_category="Unknown")
    plan = {"n_epochs_kl_warmup": SETTINGS["kl_warmup"]}
    model.train(SETTINGS["scanvi_epochs"], plan_kwargs=plan, **TRAINER)
    k = SETTINGS["n_neighbors"]
    voters = KNeighborsClassifier(k, weights="distance").fit(z[reference], labels[reference])
    votes = pd.DataFrame(voters.predict_proba(z), adata.obs_names, voters.classes_)
    near = NearestNeighbors(n_neighbors=k + 1).fit(z[reference])
    # a reference cell is its own nearest neighbour
    distance = near.kneighbors(z)[0]
    novelty = np.where(reference, distance[:, 1:].mean(1), distance[:, :-1].mean(1))
    limit = np.quantile(novelty[reference], 1.0 - SETTINGS["reject"])
    return {
        "SCANVI": _by_probability(case, adata, reference, model.predict(soft=True)),
        "neighbours in SCVI": figures(case, adata, reference, votes, novelty, limit),
    }


def logistic(case: str, seed: int) -> dict:
    """Logistic regression on principal components of the log-normalised expression."""
    adata, reference = task(case, seed)
    points = PCA(SETTINGS["n_pcs"], random_state=seed).fit_transform(adata.X.toarray())
    labels = adata.obs["label"].to_numpy()
    model = LogisticRegression(max_iter=2000).fit(points[reference], labels[reference])
    probs = pd.DataFrame(model.predict_proba(points), adata.obs_names, model.classes_)
    return _by_probability(case, adata, reference, probs)


METHODS = {
    "GMVAE": partial(gmvae, None),
    "GMVAE on counts": partial(gmvae, "counts"),
    "SCANVI and SCVI": scanvi,
    "logistic regression on PCA": logistic,
}


def main() -> None:
    """Run the seeds and write the record."""
    types = sorted(study("kang").obs["cell_type"].unique())
    cases = [
        "donors",
        *(f"donors, {share} % wrong{to}" for to in ("", ", neighbours") for share in (10, 20)),
        "pbmc3k to kang",
        "kang to pbmc3k",
        "sorted to pbmc3k",
        "pbmc3k to sorted",
        *(f"without {name}" for name in types),
    ]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cases", nargs="+", choices=cases, default=cases)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--name", default="cells/label_transfer_by_defaults", help="of the record")
    parser.add_argument("--resume", action="store_true", help="keep the record's runs")
    add_device(parser)
    given = parser.parse_args()
    use_device(given.device)
    methods = {name: METHODS[name] for name in given.methods}
    compare(given.name, methods, given.cases, SETTINGS, given.seeds, resume=given.resume)


if __name__ == "__main__":
    main()
