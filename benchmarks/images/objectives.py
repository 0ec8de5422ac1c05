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
from benchmarks.compare import compare
from benchmarks.images.feature_network import feature_network
from benchmarks.record import TRAINER, add_device, use_device
from scipy.stats import spearmanr

import mixvi
from mixvi.images import GenerativeInference
from mixvi.metrics import (
    aggregate_kl,
    encoder_entropy,
    fid,
    inception_score,
    linear_probe,
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


def row(name: str, n_latent: int, seed: int) -> dict[str, float]:
    """One row of the table: train, then measure."""
    images, labels = DATA["train"]
    held_out, held_out_labels = DATA["held_out"]
    chosen = np.sort(np.random.default_rng(seed).permutation(len(labels))[: SETTINGS["n_images"]])
    images, labels = images[chosen].copy(), labels[chosen]
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
        "entropy": encoder_entropy(variance),
        "inception_score": inception_score(generated, classifier).mean,
        "fid": fid(held_out, generated, classifier),
        "probe_accuracy": linear_probe(mean, labels, others, held_out_labels),
    }


def best(rows: dict[str, dict], family: str, key: str, lowest: bool) -> float:
    """Best figure of a family over its weights beta."""
    values = [of[key] for name, of in rows.items() if name.split(",")[0] == family]
    return min(values) if lowest else max(values)


def orderings(rows: dict[str, dict]) -> dict[str, bool | float]:
    """Findings of spec section 12, points 1 to 4 and 6, on the medians of one J.

    Orderings are true or false; of point 2 there is the ratio of FIDs and the difference of
    accuracies, of point 6 a correlation. Only those whose rows are there.
    """
    found: dict[str, bool | float] = {}
    families = {name.split(",")[0] for name in rows}

    def accuracy(family: str) -> float:
        return best(rows, family, "probe_accuracy", lowest=False)

    for better, worse in (("MMD", "WVAE"), ("WVAE", "VAE")):
        if {better, worse} <= families:
            found[f"accuracy {better} >= {worse}"] = accuracy(better) >= accuracy(worse)
    order = [name for name in ("AIM", "VEEGAN", "ALICE", "VAE", "WVAE", "MMD") if name in rows]
    for better, worse in combinations(order, 2):
        if {better, worse} != {"VEEGAN", "ALICE"}:
            found[f"FID {better} < {worse}"] = rows[better]["fid"] < rows[worse]["fid"]
    for beta in ("", ", beta 0.33", ", beta 30"):
        pair = [rows.get(f"{name}{beta}") for name in ("WVAE", "MMD")]
        if all(pair):
            wvae, mmd = pair
            found[f"FID MMD / WVAE{beta}"] = mmd["fid"] / wvae["fid"]
            found[f"accuracy MMD - WVAE{beta}"] = mmd["probe_accuracy"] - wvae["probe_accuracy"]
    if {"AIM", "VAE"} <= set(rows):
        low = [n for n in rows if n.split(",")[0] in MOMENTS and "30" not in n]
        entropies = [rows[n]["entropy"] for n in low]
        found["entropy of moment matching < VAE < AIM"] = (
            max(entropies, default=-np.inf) < rows["VAE"]["entropy"] < rows["AIM"]["entropy"]
        )
        autoencoders = [n for n in rows if n not in GANS and "30" not in n]
        gans = [n for n in rows if n in GANS]
        found["log MSE in X autoencoders < GANs"] = max(
            rows[n]["log_mse_x"] for n in autoencoders
        ) < min(rows[n]["log_mse_x"] for n in gans)
    for moments in ("mi_means", "mi_total"):
        pairs = np.array([[of[moments], of["probe_accuracy"]] for of in rows.values()])
        found[f"rank correlation of {moments} and accuracy"] = float(
            spearmanr(pairs[:, 0], pairs[:, 1]).statistic
        )
    return found


def main() -> None:
    """Run all seeds and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, each on one thread")
    parser.add_argument("--data", choices=LABEL, default="mnist")
    parser.add_argument("--latent", type=int, nargs="+", default=[10, 20])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--images", type=int, default=SETTINGS["n_images"])
    parser.add_argument("--thesis", action="store_true", help="networks and lengths of the thesis")
    parser.add_argument("--epochs", type=int, help="of each row, to try the script")
    parser.add_argument("--name", help="of the record")
    parser.add_argument("--resume", action="store_true", help="run what the record lacks")
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
    load()
    methods = {
        name: lambda case, seed, name=name: row(name, int(case.split()[-1]), seed)
        for name in given.rows
    }
    cases = [f"J = {n}" for n in given.latent]
    name = given.name or f"images/objectives_{given.data}"
    compare(name, methods, cases, SETTINGS, given.seeds, given.jobs, orderings, resume=given.resume)


if __name__ == "__main__":
    main()
