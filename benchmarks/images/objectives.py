"""The table of objectives by metrics, two-variable family (Astorga 2021, tables 6.4 and 6.5).

All objectives have the same networks, light ones for a CPU unless told otherwise, and see the same
images. As in the thesis, metrics of codes are of the training images, the probe is scored on images
held out, which FID takes as real. IS and FID are by one small classifier of the training images and
their labels, kept with its hash; the models see no label. Logs are natural.
"""

from __future__ import annotations

import argparse
from itertools import combinations

import numpy as np
import scvi
from anndata import AnnData
from benchmarks.compare import compare, derive_again
from benchmarks.images.feature_network import feature_network
from benchmarks.record import TRAINER, add_device, use_device
from scipy.stats import spearmanr
from sklearn.decomposition import PCA

import mixvi
from mixvi.images import GenerativeInference
from mixvi.metrics import (
    aggregate_kl,
    empirical_information,
    encoder_entropy,
    fid,
    inception_score,
    linear_probe,
    log_mse,
    mutual_information,
    posterior_kl,
)

LABEL = {"mnist": "digit", "fashion_mnist": "article"}
HELD_OUT = {"mnist": "held_out", "fashion_mnist": "test"}
SETTINGS = {
    "data": "mnist",
    "n_images": 20_000,
    "n_generated": 10_000,
    "backbone": "conv",
    "backbone_kwargs": {"n_channels": 16},
    "autoencoders": {"max_epochs": 10, "batch_size": 64, "lr": 1e-3},
    "gans": {"max_epochs": 10, "batch_size": 64},
    "gan_kwargs": {"d_steps": 1},
    # with one step each, the critic's larger rate keeps it ahead (Heusel et al. 2017)
    "gan_lr": {"critic": 2e-3, "encoder": 1e-3, "generator": 5e-4},
    "classifier": {"width": 16, "max_epochs": 3},
}
ROWS = {
    "VAE, beta 0.33": ("beta_vae", {"beta": 0.33}),
    "VAE": ("vae", {}),
    "VAE, beta 30": ("beta_vae", {"beta": 30.0}),
    "WVAE, beta 0.33": ("wvae", {"beta": 0.33}),
    "WVAE": ("wvae", {}),
    "WVAE, beta 30": ("wvae", {"beta": 30.0}),
    "MMD, beta 0.33": ("mmd", {"beta": 0.33}),
    "MMD": ("mmd", {}),
    "MMD, beta 30": ("mmd", {"beta": 30.0}),
    "JS-VAE, beta 0.33": ("js_vae", {"beta": 0.33}),
    "JS-VAE": ("js_vae", {}),
    "JS-VAE, beta 30": ("js_vae", {"beta": 30.0}),
    "AIM": ("aim", {}),
    "VEEGAN": ("veegan", {}),
    "ALI": ("ali", {}),
    "ALICE": ("alice", {}),
}
MOMENTS = ("WVAE", "MMD", "JS-VAE")
GANS = ("AIM", "VEEGAN", "ALI", "ALICE")
DATA: dict = {}


def load() -> None:
    """Images of 32 x 32 pixels, those that train and those held out, and the classifier."""
    name = SETTINGS["data"]
    images = mixvi.datasets.prepare_images(getattr(mixvi.datasets, name)())
    labels = images.obs.pop(LABEL[name]).astype(str).to_numpy()
    split = images.obs["split"].to_numpy()
    for part, own in (("train", "train"), ("held_out", HELD_OUT[name])):
        DATA[part] = images[split == own].copy(), labels[split == own]
    DATA["classifier"], SETTINGS["classifier"] = feature_network(
        name, DATA["train"], DATA["held_out"], SETTINGS["classifier"]
    )
    real = inception_score(DATA["held_out"][0], DATA["classifier"])
    SETTINGS["classifier"]["inception_score_of_held_out"] = real.mean


def training(model: GenerativeInference, name: str) -> dict:
    """Settings of ``train``; networks that are critics share a learning rate."""
    if name not in GANS or not SETTINGS["gan_lr"]:
        return SETTINGS["gans" if name in GANS else "autoencoders"]
    rates = SETTINGS["gan_lr"]
    lr = {network: rates.get(network, rates["critic"]) for network in model.module.network_names}
    return SETTINGS["gans"] | {"lr": lr}


def training_images(seed: int) -> tuple[AnnData, np.ndarray]:
    """Those that a seed trains on, and their labels."""
    images, labels = DATA["train"]
    chosen = np.sort(np.random.default_rng(seed).permutation(len(labels))[: SETTINGS["n_images"]])
    return images[chosen].copy(), labels[chosen]


def pca(n_latent: int, seed: int) -> dict[str, float]:
    """Principal components for codes: what linear codes of the same size tell."""
    images, labels = training_images(seed)
    held_out, held_out_labels = DATA["held_out"]
    fitted = PCA(n_latent, random_state=seed).fit(images.X)
    codes, others = fitted.transform(images.X), fitted.transform(held_out.X)
    return {
        "log_mse_x": log_mse(images.X, fitted.inverse_transform(codes)),
        "probe_accuracy": linear_probe(codes, labels, others, held_out_labels),
    }


def real_images(n_latent: int, seed: int) -> dict[str, float]:
    """Training images for generated ones: how low FID can be."""
    images, _ = training_images(seed)
    images, classifier = images[: SETTINGS["n_generated"]], DATA["classifier"]
    return {
        "inception_score": inception_score(images, classifier).mean,
        "fid": fid(DATA["held_out"][0], images, classifier),
    }


def row(name: str, n_latent: int, seed: int) -> dict[str, float]:
    """One row of the table: train, then measure."""
    if name in BASELINES:
        return BASELINES[name](n_latent, seed)
    images, labels = training_images(seed)
    held_out, held_out_labels = DATA["held_out"]
    objective, options = ROWS[name]
    scvi.settings.seed = seed
    GenerativeInference.setup_anndata(images)
    model = GenerativeInference(
        images,
        objective,
        n_latent=n_latent,
        backbone=SETTINGS["backbone"],
        backbone_kwargs=SETTINGS["backbone_kwargs"],
        objective_kwargs=options | (SETTINGS["gan_kwargs"] if name in GANS else {}),
    )
    model.train(**training(model, name), **TRAINER)
    mean, variance = model.get_latent_representation(return_dist=True)
    others = model.get_latent_representation(held_out)
    generated = model.sample(SETTINGS["n_generated"])
    classifier = DATA["classifier"]
    return {
        "log_mse_x": float(np.log(model.get_reconstruction_error())),
        "log_mse_z": float(np.log(model.get_latent_mse())),
        "kl_z": aggregate_kl(mean, variance, moments="means"),
        "kl_vae": posterior_kl(mean, variance),
        "mi_means": mutual_information(mean, variance, "means"),
        "mi_total": mutual_information(mean, variance, "total"),
        "mi_of_images": empirical_information(mean, variance, seed=seed),
        "entropy": encoder_entropy(variance),
        "inception_score": inception_score(generated, classifier).mean,
        "fid": fid(held_out, generated, classifier),
        "probe_accuracy": linear_probe(mean, labels, others, held_out_labels),
    }


BASELINES = {"PCA": pca, "training images": real_images}


def median(runs: list[dict], key: str) -> float:
    """Over seeds."""
    return float(np.median([run[key] for run in runs]))


def ordered(low: list[dict], high: list[dict], key: str) -> str:
    """Whether a figure is lower in all runs of the first than in all of the second."""
    ours, theirs = ([run[key] for run in runs] for runs in (low, high))
    if max(ours) < min(theirs):
        return "yes"
    return "no" if max(theirs) < min(ours) else "ranges overlap"


def best(rows: dict[str, list[dict]], family: str, key: str) -> list[dict]:
    """Runs of the weight beta of a family whose median is highest."""
    own = [runs for name, runs in rows.items() if name.split(",")[0] == family]
    return max(own, key=lambda runs: median(runs, key))


def findings(rows: dict[str, list[dict]]) -> dict[str, str | float]:
    """What the thesis finds, on the runs of one J, as far as the rows are there.

    Orderings hold if the ranges of the seeds are apart. Rank correlations are of medians, of
    autoencoders and of objectives with a critic apart: across both, the family decides.
    """
    found: dict[str, str | float] = {}
    rows = {name: runs for name, runs in rows.items() if name not in BASELINES}
    families = {name.split(",")[0] for name in rows}
    for worse, better in (("WVAE", "MMD"), ("VAE", "WVAE"), ("VAE", "AIM")):
        if {better, worse} <= families:
            pair = [best(rows, name, "probe_accuracy") for name in (worse, better)]
            found[f"accuracy {worse} < {better}"] = ordered(*pair, "probe_accuracy")
    order = [name for name in ("AIM", "VEEGAN", "ALICE", "VAE", "WVAE", "MMD") if name in rows]
    for better, worse in combinations(order, 2):
        found[f"FID {better} < {worse}"] = ordered(rows[better], rows[worse], "fid")
    for beta in ("", ", beta 0.33", ", beta 30"):
        pair = [rows.get(f"{name}{beta}") for name in ("WVAE", "MMD")]
        if all(pair):
            wvae, mmd = pair
            found[f"FID MMD / WVAE{beta}"] = median(mmd, "fid") / median(wvae, "fid")
            found[f"accuracy MMD - WVAE{beta}"] = median(mmd, "probe_accuracy") - median(
                wvae, "probe_accuracy"
            )
    gans = {name: runs for name, runs in rows.items() if name in GANS}
    others = {name: runs for name, runs in rows.items() if name not in GANS}
    if {"AIM", "VAE"} <= set(rows):
        moments = [
            run
            for name, runs in others.items()
            for run in runs
            if name.split(",")[0] in MOMENTS and "30" not in name
        ]
        if moments:
            found["entropy moment matching < VAE"] = ordered(moments, rows["VAE"], "entropy")
        found["entropy VAE < AIM"] = ordered(rows["VAE"], rows["AIM"], "entropy")
    for family, own in (("autoencoders", others), ("objectives with critics", gans)):
        if len(own) < 3:
            continue
        accuracy = [median(runs, "probe_accuracy") for runs in own.values()]
        for key in ("mi_means", "mi_total", "log_mse_x"):
            values = [median(runs, key) for runs in own.values()]
            found[f"rank correlation of {key} and accuracy, {len(own)} {family}"] = float(
                spearmanr(values, accuracy).statistic
            )
    if SETTINGS["n_images"] is not None:
        limit = float(np.log(SETTINGS["n_images"]))
        above = [name for name, runs in rows.items() if median(runs, "mi_total") > limit]
        found["rows whose information bound exceeds the log of the number of images"] = (
            f"{len(above)} of {len(rows)}"
        )
    return found


def main() -> None:
    """Run all seeds and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on one thread")
    parser.add_argument("--data", choices=LABEL, default="mnist")
    parser.add_argument("--latent", type=int, nargs="+", default=[10, 20])
    parser.add_argument(
        "--rows", nargs="+", choices=[*ROWS, *BASELINES], default=[*ROWS, *BASELINES]
    )
    parser.add_argument("--images", type=int, default=SETTINGS["n_images"])
    parser.add_argument("--thesis", action="store_true", help="networks and lengths of the thesis")
    parser.add_argument("--epochs", type=int, help="of each row, to try the script")
    parser.add_argument("--name", help="of the record")
    parser.add_argument("--resume", action="store_true", help="run what the record lacks")
    parser.add_argument("--derive", action="store_true", help="findings anew, from the record")
    add_device(parser)
    given = parser.parse_args()
    use_device(given.device)
    SETTINGS.update(data=given.data, n_images=given.images)
    if given.thesis:
        SETTINGS.update(
            n_images=None,
            backbone="resnet",
            backbone_kwargs={"n_channels": 32},
            autoencoders={"batch_size": 64},
            gans={"batch_size": 64},
            gan_kwargs={},
            gan_lr={},
        )
    if given.epochs is not None:
        for part in ("autoencoders", "gans"):
            SETTINGS[part]["max_epochs"] = given.epochs
    name = given.name or f"images/objectives_{given.data}"
    if given.derive:
        derive_again(name, findings)
        return
    load()
    methods = {
        row_name: lambda case, seed, row_name=row_name: row(row_name, int(case.split()[-1]), seed)
        for row_name in given.rows
    }
    cases = [f"J = {n}" for n in given.latent]
    compare(name, methods, cases, SETTINGS, given.seeds, given.jobs, findings, resume=given.resume)


if __name__ == "__main__":
    main()
