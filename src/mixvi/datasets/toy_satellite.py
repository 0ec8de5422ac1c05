"""Made-up satellite series: fields with phenology under moving clouds."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.ndimage import gaussian_filter

from mixvi.core.arguments import check_positive, check_rate
from mixvi.core.data.keys import VOID
from mixvi.datasets.annotation import partial_labels
from mixvi.datasets.tiles import days

_BANDS = ("blue", "green", "red", "nir", "swir")
# reflectance of what a pixel is mixed of, by band
_LEAVES = np.array([0.03, 0.07, 0.04, 0.45, 0.18])
_SOIL = np.array([0.08, 0.12, 0.16, 0.24, 0.30])
_WATER = np.array([0.06, 0.05, 0.03, 0.02, 0.01])
_ROOFS = np.array([0.14, 0.16, 0.18, 0.22, 0.24])
_CLOUD = np.array([0.75, 0.74, 0.73, 0.78, 0.50])


class _Class(NamedTuple):
    """A land cover: its bare ground, and its cover with leaves over the year."""

    name: str
    color: str
    ground: np.ndarray
    least: float
    most: float
    # days of the year at which leaves come and go, by half
    green_up: float
    senescence: float


_CLASSES = (
    _Class("winter crop", "#e0c040", _SOIL, 0.10, 0.95, 85, 180),
    _Class("summer crop", "#d07020", _SOIL, 0.05, 0.90, 170, 265),
    _Class("forest", "#1f6f3a", _SOIL, 0.55, 0.95, 115, 295),
    _Class("grassland", "#8fce5a", _SOIL, 0.35, 0.75, 90, 300),
    _Class("water", "#3060c0", _WATER, 0.00, 0.02, 120, 280),
    _Class("built-up", "#909090", _ROOFS, 0.05, 0.15, 110, 290),
)


def toy_satellite_series(
    n_tiles: int = 16,
    n_dates: int = 24,
    size: int = 32,
    n_classes: int = 4,
    *,
    interval: int = 15,
    cloud_fraction: float = 0.3,
    missing_dates: float = 0.1,
    labelled: float = 1.0,
    form: Literal["scribbles", "blocks"] = "scribbles",
    void_edges: bool = False,
    noise: float = 0.01,
    seed: int = 0,
) -> AnnData:
    """Synthetic seasonal series of five bands with fields, clouds and partial labels.

    Nothing of it was measured: for tests and demonstrations, not for claims. Each tile is a mosaic
    of fields; a field has a class, and a shift of its season and a brightness of its own. Leaves
    come and go by a double logistic of the day of the year, which tells the crops apart in no
    single month. Each date has a smooth illumination; clouds and their shadows drift over the tile;
    values are rounded to 0.0001 as digital numbers are.

    Parameters
    ----------
    n_tiles, n_dates, size
        Number of tiles, dates a tile, and pixels of a tile's side.
    n_classes
        Two to six, the first of: winter crop, summer crop, forest, grassland, water, built-up.
    interval
        Days between dates, from 2020-01-01.
    cloud_fraction
        Mean share of a date that is cloudy, in [0, 1); single dates have between none and all.
    missing_dates
        Share of dates without an acquisition, in [0, 1).
    labelled
        Share of the pixels that are labelled, as :func:`partial_labels` draws them.
    form
        ``"scribbles"`` or ``"blocks"``.
    void_edges
        Whether pixels at the edge of two classes are void.
    noise
        Standard deviation of the sensor's noise, in reflectance.
    seed
        Of the generator.

    Returns
    -------
    AnnData, one tile a row: ``obsm["series"]`` (n_tiles, n_dates, 5, size, size) float32, clouds
    where it is cloudy and NaN on missing dates; ``obsm["valid"]`` (n, T, 1, H, W),
    ``obsm["frame"]`` (n, T), ``obsm["time"]`` (n, T), ``obsm["labels"]`` (n, H, W);
    ``obsm["clear"]``, the series as it were without clouds and noise, and ``obsm["true_labels"]``
    (n, H, W), all labels, both for scoring alone. ``obs["row"]``, ``obs["column"]``,
    ``obs["block"]`` (the tile); ``uns["bands"]``, ``uns["classes"]``, ``uns["colors"]``.

    Raises
    ------
    ValueError
        If a number is out of range, or dates are too few for one clear view of each tile.
    """
    for name, value in (("n_tiles", n_tiles), ("n_dates", n_dates), ("size", size)):
        check_positive(name, value)
    check_positive("interval", interval)
    check_rate("cloud_fraction", cloud_fraction)
    check_rate("missing_dates", missing_dates)
    if not 2 <= n_classes <= len(_CLASSES):
        raise ValueError(f"n_classes must lie from 2 to {len(_CLASSES)}, but is {n_classes}.")
    rng = np.random.default_rng(seed)
    time = days(["2020-01-01"])[0] + interval * np.arange(n_dates)
    day_of_year = interval * np.arange(n_dates) % 365.25
    tiles = [_tile(day_of_year, size, n_classes, rng) for _ in range(n_tiles)]
    clear, true_labels, edges = (np.stack(part) for part in zip(*tiles, strict=True))
    frame = _frames(n_tiles, n_dates, missing_dates, rng)
    cloud, shadow = _clouds(n_tiles, n_dates, size, cloud_fraction, rng)
    series = clear * (1 - 0.5 * shadow) * (1 - cloud) + cloud * _CLOUD[:, None, None]
    series = series + rng.normal(0, noise, series.shape)
    series = np.round(series, 4).astype(np.float32)
    series[~frame] = np.nan
    valid = (cloud < 0.05) & (shadow < 0.2) & frame[..., None, None, None]
    if not valid.any(axis=(1, 2, 3, 4)).all():
        raise ValueError(
            "A tile is never seen. Take more dates, or a smaller cloud_fraction or missing_dates."
        )
    labels = np.where(edges, VOID, true_labels) if void_edges else true_labels
    side = int(np.ceil(np.sqrt(n_tiles)))
    rows, columns = np.divmod(np.arange(n_tiles), side)
    names = [f"tile_{i}" for i in range(n_tiles)]
    obs = pd.DataFrame(
        {"row": rows * size, "column": columns * size, "block": pd.Categorical(names)}, index=names
    )
    obsm = {
        "series": series,
        "valid": valid,
        "frame": frame,
        "time": np.tile(time, (n_tiles, 1)),
        "labels": partial_labels(labels, labelled, form, seed),
        "clear": clear.astype(np.float32),
        "true_labels": true_labels,
    }
    uns = {
        "bands": list(_BANDS),
        "classes": [of.name for of in _CLASSES[:n_classes]],
        "colors": [of.color for of in _CLASSES[:n_classes]],
    }
    return AnnData(obs=obs, obsm=obsm, uns=uns)


def _tile(
    day_of_year: np.ndarray, size: int, n_classes: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A tile's series ``(T, C, H, W)`` without clouds, its labels and which pixels are edges."""
    fields = _fields(size, rng)
    n_fields = fields.max() + 1
    classes = rng.integers(0, n_classes, n_fields)
    cover = np.stack([_cover(_CLASSES[c], day_of_year, rng) for c in classes])[fields]
    ground = np.stack([_CLASSES[c].ground for c in classes])[fields]
    # within a field, soil and growth vary over a few pixels
    texture = 0.06 * _smooth(rng, (size, size), 1.5)
    cover = (cover * (1 + texture[..., None])).clip(0, 1)[..., None]
    brightness = np.exp(rng.normal(0, 0.08, n_fields))[fields][..., None, None]
    # cover (H, W, T, 1)  leaves (C,)  ground (H, W, 1, C)
    series = brightness * (cover * _LEAVES + (1 - cover) * ground[:, :, None])
    series = series.transpose(2, 3, 0, 1) * _illumination(len(day_of_year), size, rng)
    labels = classes[fields].astype(np.int16)
    return series, labels, _edges(labels)


def _fields(size: int, rng: np.random.Generator) -> np.ndarray:
    """Numbers of the fields ``(H, W)``: the nearest of scattered points, borders a little bent."""
    n_fields = max(4, round(size * size / 90))
    points = rng.uniform(0, size, (n_fields, 2))
    grid = np.stack(np.mgrid[:size, :size], axis=-1) + 1.5 * _smooth(rng, (2, size, size), 3).T
    distances = ((grid[:, :, None] - points) ** 2).sum(axis=-1)
    return distances.argmin(axis=-1)


def _cover(of: _Class, day_of_year: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Share of the ground under leaves ``(T,)``, of one field with a season of its own."""
    shift, stretch = rng.normal(0, 7), rng.normal(0, 5)
    up = 1 / (1 + np.exp(-(day_of_year - of.green_up - shift + stretch) / 8))
    down = 1 / (1 + np.exp((day_of_year - of.senescence - shift - stretch) / 9))
    return of.least + (of.most - of.least) * up * down


def _illumination(n_dates: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """A factor ``(T, 1, H, W)`` near one: haze and view, a plane over the tile for each date."""
    level, slopes = rng.normal(0, 0.04, n_dates), rng.normal(0, 0.02, (n_dates, 2))
    plane = np.tensordot(slopes, np.mgrid[:size, :size] / size - 0.5, axes=1)
    return np.exp(level[:, None, None] + plane)[:, None]


def _frames(n: int, n_dates: int, missing: float, rng: np.random.Generator) -> np.ndarray:
    """Whether there was an acquisition ``(n, T)``; one a tile at least."""
    frame = rng.random((n, n_dates)) >= missing
    frame[np.arange(n), rng.integers(0, n_dates, n)] = True
    return frame


def _clouds(
    n: int, n_dates: int, size: int, fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Opacity of clouds and depth of their shadows ``(n, T, 1, H, W)``, both in [0, 1]."""
    opacity, shadow = np.zeros((2, n, n_dates, size, size))
    if fraction > 0:
        # many dates are nearly clear, some overcast
        shares = rng.beta(0.6, 0.6 * (1 - fraction) / fraction, (n, n_dates))
        drift = rng.normal(0, size / 3, (n, 2))
        for i in range(n):
            field = _smooth(rng, (2 * size, 2 * size), size / 8)
            field += 0.3 * _smooth(rng, field.shape, size / 30)
            for t, share in enumerate(shares[i]):
                moved = np.roll(field, tuple(np.int64(t * drift[i])), axis=(0, 1))
                thickness = (moved - np.quantile(moved, 1 - share)) / 0.4
                cloud = thickness.clip(0, 1)
                opacity[i, t] = cloud[:size, :size]
                # the sun stands in the south-east: shadows fall to the north-west
                shadow[i, t] = np.roll(cloud, (-size // 10, -size // 10), axis=(0, 1))[:size, :size]
    return opacity[:, :, None], shadow[:, :, None]


def _smooth(rng: np.random.Generator, shape: tuple[int, ...], width: float) -> np.ndarray:
    """Smooth noise of unit variance, periodic in the last two axes."""
    widths = [0] * (len(shape) - 2) + [width, width]
    noise = gaussian_filter(rng.standard_normal(shape), widths, mode="wrap")
    return noise / noise.std()


def _edges(labels: np.ndarray) -> np.ndarray:
    """Pixels that touch another class."""
    edges = np.zeros(labels.shape, bool)
    across, along = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    edges[1:] |= across
    edges[:-1] |= across
    edges[:, 1:] |= along
    edges[:, :-1] |= along
    return edges
