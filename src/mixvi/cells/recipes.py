"""The thesis's runs by name: model, optimiser stages and the figure they gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mixvi.core import arguments


@dataclass(frozen=True)
class Recipe:
    """Settings of one run of the thesis.

    Attributes
    ----------
    model
        Name of the model class.
    data
        What it was run on.
    model_kwargs
        Of the model class.
    train_kwargs
        Of :meth:`mixvi.GMVAE.train`; ``stages`` are those of the last part.
    first_stages
        Stages of the part before it, where there is one: training on clusters
        (:func:`mixvi.cells.train_guided`), on balanced draws
        (:func:`mixvi.cells.train_alternating`).
    unknown
        Settings that neither the thesis nor its author's code states; those here are ours.
    source
        Lines of the thesis's text, and the figure it gives.
    """

    model: str
    data: str
    model_kwargs: dict[str, Any]
    train_kwargs: dict[str, Any]
    first_stages: Sequence[tuple[float, int]] | None = None
    unknown: tuple[str, ...] = field(default_factory=tuple)
    source: str = ""


def _stages(rates: Sequence[float], epochs: int) -> tuple[tuple[float, int], ...]:
    return tuple((rate, epochs) for rate in rates)


_HILL = (1e-5, 1e-4, 1e-3, 1e-3, 1e-3, 1e-4, 1e-5)
_LONG_HILL = (1e-5, 1e-4, 1e-3, 1e-3, 1e-3, 1e-3, 1e-4, 1e-5)


def _sizes(k: int, z: int, w: int, layers: int, width: int, dropout: float) -> dict[str, Any]:
    return {
        "n_components": k,
        "n_latent_z": z,
        "n_latent_w": w,
        "n_layers": layers,
        "n_hidden": width,
        "dropout_rate": dropout,
    }


_LABELS = {"classification_weight": 1.0}
_RELU = {"likelihood": "mse", "output_activation": "relu"}
_PIXELS = {"likelihood": "bernoulli"}

_OVER = {"mode": "unsupervised", "init": None, "batch_size": 128, "stages": _stages(_HILL, 10)}
_UNKNOWN = (
    "n_latent_z",
    "n_latent_w",
    "n_layers",
    "n_hidden",
    "dropout_rate",
    "batch_size",
    "stages",
)

RECIPES: dict[str, Recipe] = {
    "mnist_semi": Recipe(
        "GMVAE",
        "MNIST, 5 % of the labels",
        _sizes(10, 16, 16, 2, 1024, 0.15) | _PIXELS | _LABELS,
        {"mode": "semi", "calibrate": False, "batch_size": 128, "stages": _stages(_HILL, 10)},
        unknown=("n_latent_w", "n_layers", "n_hidden", "dropout_rate", "batch_size", "stages"),
        source="l. 1014-1036: 0.955 on test",
    ),
    "mnist_exact": Recipe(
        "GMVAE",
        "MNIST",
        _sizes(10, 8, 8, 2, 1024, 0.0) | _PIXELS | {"classifier_sees_x": True},
        {
            "mode": "unsupervised",
            "init": None,
            "batch_size": 128,
            "stages": (
                *_stages((1e-3, 1e-3, 1e-3, 1e-3, 5e-4, 1e-4, 1e-5, 1e-5), 10),
                (5e-2, 10),
                (1e-2, 10),
                (1e-4, 40),
            ),
        },
        source="l. 1044-1055: 0.93 on test, chosen by hand among 0.90-0.95",
    ),
    "mnist_over": Recipe(
        "GMVAE",
        "MNIST",
        _sizes(20, 16, 16, 2, 1024, 0.15) | _PIXELS,
        _OVER,
        unknown=_UNKNOWN,
        source="l. 1057-1068: 0.946 on test",
    ),
    "mnist_guided": Recipe(
        "GMVAE",
        "MNIST, guided by Louvain",
        _sizes(12, 18, 18, 3, 1024, 0.15) | _PIXELS,
        {
            "batch_size": 2048,
            "weight_decay": 1e-7,
            "stages": _stages((1e-3, 1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6), 20),
        },
        first_stages=_stages(_HILL, 10),
        source="l. 1070-1076: 0.966 after the first part, 0.968 after the second, on test",
    ),
    "fashion_mnist_unsupervised": Recipe(
        "GMVAE",
        "Fashion-MNIST",
        _sizes(20, 16, 16, 2, 1024, 0.15) | _PIXELS,
        _OVER,
        unknown=_UNKNOWN,
        source="l. 1104: 0.67 after about 10 epochs, 0.75 after many",
    ),
    "fashion_mnist_semi": Recipe(
        "GMVAE",
        "Fashion-MNIST, 10 % of the labels",
        _sizes(10, 16, 16, 2, 1024, 0.15) | _PIXELS | _LABELS,
        {"mode": "semi", "calibrate": False, "batch_size": 128, "stages": _stages(_HILL, 10)},
        unknown=("n_latent_z", "n_latent_w", "n_hidden", "dropout_rate", "batch_size", "stages"),
        source="l. 1120: 0.85 on test",
    ),
    "fashion_mnist_guided": Recipe(
        "GMVAE",
        "Fashion-MNIST, guided by Louvain",
        _sizes(17, 18, 18, 3, 1024, 0.15) | _PIXELS,
        {
            "batch_size": 2048,
            "stages": _stages((5e-3, 1e-3, 1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6), 10),
        },
        first_stages=_stages(_HILL, 10),
        source="l. 1138: 0.714 after the first part, 0.725 after the second, on test",
    ),
    "zheng_unsupervised": Recipe(
        "GMVAE",
        "PBMC 3k without megakaryocytes",
        _sizes(9, 12, 12, 3, 1024, 0.15) | {"likelihood": "gaussian_sigma", "sigma": "feature"},
        {
            "mode": "unsupervised",
            "init": None,
            "batch_size": 2048,
            "stages": _stages(_HILL, 50),
        },
        source="l. 1146: about 0.92; dendritic cells without a component of their own",
    ),
    "zheng_rebalanced": Recipe(
        "GMVAE",
        "PBMC 3k without megakaryocytes, scaled; balanced by type, then as it is",
        _sizes(10, 12, 12, 2, 1024, 0.15) | {"likelihood": "mse"},
        {"batch_size": 2048, "stages": _stages((*_LONG_HILL, 1e-6), 50)},
        first_stages=_stages(_LONG_HILL, 50),
        source="l. 1148-1152: 0.93, all types with a component",
    ),
    "zheng_guided": Recipe(
        "GMVAE",
        "PBMC 3k without megakaryocytes, guided by Louvain",
        _sizes(9, 12, 12, 3, 1024, 0.15) | _RELU,
        {"batch_size": 512, "stages": _stages(_HILL, 30)},
        first_stages=_stages(_HILL, 10),
        source="its author's code: 0.998 agreement, 0.937 against types",
    ),
    "kang_control": Recipe(
        "GMVAE",
        "Kang, control cells, scaled",
        _sizes(21, 12, 12, 3, 1024, 0.15) | {"likelihood": "gaussian_sigma", "sigma": "feature"},
        {
            "mode": "unsupervised",
            "init": None,
            "batch_size": 128,
            "stages": _stages((1e-3, 1e-3, 1e-4, 1e-5), 40),
        },
        source="l. 1182: 0.78, all seven types with a component",
    ),
    "zheng_to_kang": Recipe(
        "GMVAE",
        "PBMC 3k (its Louvain clusters as labels, 2,000 draws a label) and Kang control cells",
        _sizes(8, 18, 18, 4, 2048, 0.25) | _RELU | _LABELS,
        {
            "mode": "semi",
            "calibrate": False,
            "batch_size": 2048,
            "stages": _stages((1e-5, 1e-4, 1e-4, 1e-4, *(1e-3,) * 4, 1e-4, 1e-5), 50),
        },
        first_stages=_stages((1e-5, 1e-4, 1e-4, 1e-4, *(1e-3,) * 4, 1e-4, 1e-5), 10),
        source="l. 1195-1210: 0.81 on held-out cells",
    ),
    "toy": Recipe(
        "CGMVAE",
        "toy blobs of five types under two conditions",
        _sizes(5, 2, 2, 1, 1024, 0.15) | _RELU,
        {
            "mode": "unsupervised",
            "init": None,
            "batch_size": 2048,
            "weight_decay": 1e-4,
            "stages": _stages(_LONG_HILL, 20),
        },
        source="l. 1223-1263: 1.0 with either prior",
    ),
    "kang_unsupervised": Recipe(
        "CGMVAE",
        "Kang, both conditions",
        _sizes(28, 2, 2, 3, 1024, 0.1) | _RELU | {"w_prior": "standard"},
        {"mode": "unsupervised", "init": None, "batch_size": 2048, "stages": _stages(_HILL, 25)},
        unknown=("n_layers", "n_hidden", "dropout_rate", "likelihood", "batch_size", "stages"),
        source="l. 1301-1318: 0.78 on held-out cells",
    ),
    "kang_supervised": Recipe(
        "CGMVAE",
        "Kang, both conditions, labelled",
        _sizes(7, 24, 24, 4, 1024, 0.15) | _RELU | _LABELS | {"w_prior": "standard"},
        {
            "mode": "supervised",
            "calibrate": False,
            "batch_size": 2048,
            "stages": _stages(_LONG_HILL, 20),
        },
        unknown=("stages",),
        source="l. 1338-1342: 0.99 on training, 0.90 on held-out cells",
    ),
}


def recipe(name: str) -> Recipe:
    """A run of the thesis by name.

    Parameters
    ----------
    name
        One of ``mixvi.cells.RECIPES``.

    Returns
    -------
    :class:`Recipe`, whose settings are passed on as they are:
    ``mixvi.GMVAE(adata, **r.model_kwargs)`` and ``model.train(**r.train_kwargs)``.

    Raises
    ------
    ValueError
        If there is none of this name.
    """
    arguments.check_choice("name", name, RECIPES)
    return RECIPES[name]
