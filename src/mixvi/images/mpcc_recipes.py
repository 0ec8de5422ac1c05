"""The thesis's settings of MPCC, by data set (Astorga 2021, section 8.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mixvi.core import arguments


@dataclass(frozen=True)
class MPCCRecipe:
    """Settings of one run of the thesis (Astorga 2021, section 8.1).

    Attributes
    ----------
    data
        What it was run on: images of 32 x 32 pixels.
    model_kwargs, train_kwargs
        Of :class:`mixvi.images.MPCC` and its ``train``; epochs are the thesis's updates on as many
        images.
    """

    data: str
    model_kwargs: dict[str, Any]
    train_kwargs: dict[str, Any]


def _recipe(
    data: str,
    *,
    n_images: int,
    n_clusters: int,
    n_latent: int,
    n_channels: int,
    conditioning: str,
    prior_lr: float,
    updates: int = 75_000,
) -> MPCCRecipe:
    batch_size, d_steps = 50, 4
    model = {
        "n_clusters": n_clusters,
        "n_latent": n_latent,
        "backbone": "resnet",
        "backbone_kwargs": {"n_channels": n_channels},
        "conditioning": conditioning,
        "d_steps": d_steps,
    }
    epochs = -(-updates * d_steps // (n_images // batch_size))
    train = {"max_epochs": epochs, "lr": 2e-4, "prior_lr": prior_lr, "batch_size": batch_size}
    return MPCCRecipe(data, model, train)


RECIPES: dict[str, MPCCRecipe] = {
    "mnist": _recipe(
        "MNIST, 70,000 images",
        n_images=70_000,
        n_clusters=10,
        n_latent=24,
        n_channels=12,
        conditioning="class_norm",
        prior_lr=1.6e-3,
        updates=125_000,
    ),
    "omniglot": _recipe(
        "Omniglot, 40,000 images of 100 characters",
        n_images=40_000,
        n_clusters=100,
        n_latent=24,
        n_channels=16,
        conditioning="class_norm",
        prior_lr=1.6e-3,
        updates=125_000,
    ),
    "fashion_mnist": _recipe(
        "Fashion-MNIST, 70,000 images",
        n_images=70_000,
        n_clusters=10,
        n_latent=16,
        n_channels=24,
        conditioning="copy",
        prior_lr=1.6e-3,
    ),
    "cifar10": _recipe(
        "CIFAR-10, 60,000 images",
        n_images=60_000,
        n_clusters=10,
        n_latent=128,
        n_channels=96,
        conditioning="split",
        prior_lr=6e-4,
    ),
    "cifar20": _recipe(
        "CIFAR-100, 60,000 images of 20 superclasses",
        n_images=60_000,
        n_clusters=20,
        n_latent=128,
        n_channels=96,
        conditioning="split",
        prior_lr=6e-4,
    ),
}


def mpcc_recipe(name: str) -> MPCCRecipe:
    """The thesis's settings for a data set.

    Parameters
    ----------
    name
        ``"mnist"``, ``"omniglot"``, ``"fashion_mnist"``, ``"cifar10"`` or ``"cifar20"``.

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    arguments.check_choice("name", name, RECIPES)
    return RECIPES[name]
