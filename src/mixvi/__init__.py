"""mixvi: mixture-prior variational inference for AnnData, on scvi-tools.

Names are imported when first used, so that the help of the command line waits for no model.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mixvi import cells, datasets, images, lightcurves, metrics, pl, satellite
    from mixvi.cells import AE, CGMVAE, CVAE, GMVAE, VAE
    from mixvi.core.data.backed import read_backed
    from mixvi.core.settings import settings

__version__ = version("mixvi")
__all__ = [
    "AE",
    "CGMVAE",
    "CVAE",
    "GMVAE",
    "VAE",
    "cells",
    "datasets",
    "images",
    "lightcurves",
    "metrics",
    "pl",
    "read_backed",
    "satellite",
    "settings",
]

_HOMES = {
    **dict.fromkeys(("AE", "CGMVAE", "CVAE", "GMVAE", "VAE"), "mixvi.cells"),
    "read_backed": "mixvi.core.data.backed",
    "settings": "mixvi.core.settings",
}


def __getattr__(name: str):
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    elif name in __all__:
        value = import_module(f"mixvi.{name}")
    else:
        raise AttributeError(f"module 'mixvi' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__"})
