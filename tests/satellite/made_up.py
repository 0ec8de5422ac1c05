"""Made-up minibatches and small models of series."""

from __future__ import annotations

import torch
from conftest import CPU

import mixvi
from mixvi.core.data.keys import UNLABELLED, VOID
from mixvi.satellite.series import Series


def minibatch(n=4, n_dates=3, n_bands=2, size=(8, 8), gaps=0.3, by_date=False, seed=0) -> Series:
    """Random series with gaps; labels 0 to 2, unlabelled and void."""
    drawn = torch.Generator().manual_seed(seed)
    shape = (n, n_dates, n_bands, *size)
    observed = torch.rand(n, n_dates, 1, *size, generator=drawn) >= gaps
    labels = torch.randint(-2, 3, (n, n_dates, *size) if by_date else (n, *size), generator=drawn)
    assert labels.min() == VOID and (labels == UNLABELLED).any()
    days = 18_000 + 30.0 * torch.arange(n_dates).expand(n, -1)
    series = Series(
        torch.randn(shape, generator=drawn),
        observed.expand(shape),
        torch.ones(n, n_dates, dtype=torch.bool),
        days,
        labels,
    )
    return series.with_values(series.x, series.observed)


def toy(n_tiles=6, n_dates=4, seed=0, **options):
    """Small series of three classes in the course of a year, under clouds."""
    options = {"size": 16, "n_classes": 3, "interval": 360 // n_dates} | options
    return mixvi.datasets.toy_satellite_series(n_tiles, n_dates, seed=seed, **options)


def fitted(cls, adata, epochs=2, train=None, **options):
    """A small model after some epochs."""
    cls.setup_anndata(adata)
    model = cls(adata, **({"width": 8, "n_levels": 2} | options))
    model.train(epochs, **({"lr": 1e-2, "batch_size": 4} | CPU | (train or {})))
    return model
