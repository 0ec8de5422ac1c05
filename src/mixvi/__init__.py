"""mixvi: mixture-prior variational inference for AnnData, on scvi-tools."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version

from mixvi import cells
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
    "metrics",
    "pl",
    "read_backed",
    "settings",
]

# plots and data sets bring scanpy and matplotlib: imported when first used, as rooms of few users
_LAZY = ("datasets", "images", "metrics", "pl")


def __getattr__(name: str):
    if name in _LAZY:
        return import_module(f"mixvi.{name}")
    raise AttributeError(f"module 'mixvi' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
