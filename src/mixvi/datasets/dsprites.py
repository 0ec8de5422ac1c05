"""Images of one white shape by its factors: the dSprites family, rendered or as published."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from mixvi.core.arguments import check_choice, check_count, check_options, check_positive
from mixvi.core.data.images import IMAGE_KEY
from mixvi.datasets.fetch import DataFile, find

SHAPES = ("square", "ellipse", "heart")
SIZES = {"shape": 3, "scale": 6, "orientation": 40, "x": 32, "y": 32}
N_SPRITES = 737_280
SIDE = 64
DSPRITES = DataFile(
    "dsprites",
    "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz",
    # of the file's git blob, the checksum that its repository publishes
    "d98996d3f8ee1550e06b9d4ed78d0beb478910d5",
    "Matthey et al. (2017), repository google-deepmind/dsprites-dataset (Apache-2.0).",
    algorithm="sha1",
)
# pixels that hold the largest shape, and half of them
_PATCH, _HALF = 32, 16
_SAMPLES = 4
_ROWS_AT_A_TIME = 4096


def sprites(
    factors: Mapping[str, Sequence[int]] | None = None,
    *,
    n_obs: int | None = None,
    source: str = "auto",
    path: str | Path | None = None,
    seed: int = 0,
    verify: bool = True,
) -> AnnData:
    """White squares, ellipses and hearts, turned and moved (dSprites, Matthey et al. 2017).

    Every combination of 3 shapes, 6 scales (linear from 0.5 to 1), 40 orientations (linear from 0
    to 2 pi, both ends included), 32 places along x and 32 along y, of 64 x 64 pixels, in the order
    of the published file. Rendered images have the factors of dSprites, but are not its pixels:
    shapes move by one pixel a step, their outlines are drawn anew.

    Parameters
    ----------
    factors
        A part of the grid: names to the values that are kept, as numbers from 0, such as
        ``{"orientation": range(0, 40, 4), "shape": [0, 2]}``. Factors that are not named are whole.
    n_obs
        So many rows of it at random, none twice, in their order; ``None``: all (3 GB for all).
    source
        ``"rendered"``; ``"published"``: from the authors' file; ``"auto"``: from the file where it
        is on this machine (``<MIXVI_DATA_DIR>/dsprites``, the cache, or ``path``), else rendered.
    path
        The published file; ``None``: where :func:`mixvi.datasets.find` looks.
    seed
        Of the choice of rows.
    verify
        Whether the published file must have its checksum.

    Returns
    -------
    AnnData with ``obsm["image"]`` (uint8, 0 and 255, ``(n, 1, 64, 64)``), integer columns of
    ``obs`` for ``scale``, ``orientation``, ``x``, ``y`` and a categorical ``shape``,
    ``uns["factor_values"]`` with the values that the numbers stand for, and ``uns["source"]``.

    Raises
    ------
    FileNotFoundError
        If the published file is asked for and is not here.
    ValueError
        If a factor or value is unknown, there are fewer rows than ``n_obs``, or the file is
        another.
    """
    check_choice("source", source, ("auto", "rendered", "published"))
    check_count("seed", seed)
    rows = _rows(factors, n_obs, seed)
    file = None if source == "rendered" else _published(path, verify)
    if file is None and (source == "published" or path is not None):
        place = DSPRITES.name if path is None else path
        raise FileNotFoundError(
            f"{place} is not on this machine. Put it into <dir>/{DSPRITES.folder}/, set "
            f"MIXVI_DATA_DIR=<dir>, or pass path. Origin: {DSPRITES.origin}"
        )
    images = _rendered(rows) if file is None else _read(file, rows)
    codes = dict(zip(SIZES, np.unravel_index(rows, tuple(SIZES.values())), strict=True))
    obs = pd.DataFrame(codes, index=[f"sprite_{i}" for i in rows])
    obs["shape"] = pd.Categorical.from_codes(codes["shape"], list(SHAPES))
    return AnnData(
        obs=obs,
        obsm={IMAGE_KEY: images[:, None]},
        uns={
            "factor_values": _values(),
            "source": "rendered" if file is None else "published",
        },
    )


def _rows(factors: Mapping[str, Sequence[int]] | None, n_obs: int | None, seed: int) -> np.ndarray:
    """Numbers of the chosen rows among all, ascending."""
    check_options("factors", factors, SIZES, "the grid")
    kept = []
    for name, size in SIZES.items():
        values = np.unique(np.asarray((factors or {}).get(name, range(size))))
        if not len(values) or values.dtype.kind not in "iu" or values[0] < 0 or values[-1] >= size:
            raise ValueError(
                f"factors[{name!r}] must be whole numbers from 0 to {size - 1}, but is "
                f"{factors[name]!r}."
            )
        kept.append(values)
    grid = np.meshgrid(*kept, indexing="ij")
    rows = np.ravel_multi_index([axis.ravel() for axis in grid], tuple(SIZES.values()))
    if n_obs is None:
        return rows
    check_positive("n_obs", n_obs)
    if n_obs > len(rows):
        raise ValueError(f"n_obs={n_obs} exceeds the {len(rows)} images of the grid.")
    chosen = np.random.default_rng(seed).choice(len(rows), n_obs, replace=False)
    return rows[np.sort(chosen)]


def _values() -> dict[str, np.ndarray]:
    return {
        "scale": np.linspace(0.5, 1.0, SIZES["scale"]),
        "orientation": np.linspace(0.0, 2.0 * np.pi, SIZES["orientation"]),
        "x": np.linspace(0.0, 1.0, SIZES["x"]),
        "y": np.linspace(0.0, 1.0, SIZES["y"]),
    }


def _rendered(rows: np.ndarray) -> np.ndarray:
    """Images ``(n, 64, 64)`` of rows of the grid."""
    frames = _frames()
    n_places = SIZES["x"] * SIZES["y"]
    sprite, place = np.divmod(rows, n_places)
    x, y = np.divmod(place, SIZES["y"])
    # a window of a frame, moved against the shape: reading is all that is left to do
    windows = np.lib.stride_tricks.sliding_window_view(frames, (SIDE, SIDE), axis=(1, 2))
    return windows[sprite, SIZES["y"] - 1 - y, SIZES["x"] - 1 - x]


@cache
def _frames() -> np.ndarray:
    """Each shape, scale and orientation in the middle of a frame, ``(720, 95, 95)`` bytes."""
    n = SIZES["shape"] * SIZES["scale"] * SIZES["orientation"]
    # centres of the outermost places are half a patch from the border
    margin = SIDE - 1 - _HALF
    frames = np.zeros((n, SIDE + SIZES["x"] - 1, SIDE + SIZES["y"] - 1), dtype=np.uint8)
    inner = slice(margin - _HALF + 1, margin + _HALF + 1)
    frames[:, inner, inner] = _patches().reshape(n, _PATCH, _PATCH)
    return frames


def _patches() -> np.ndarray:
    """Shapes ``(3, 6, 40, 32, 32)`` as bytes: white where half of a pixel's samples are inside."""
    values = _values()
    # samples (32 * 4,) from the middle pixel's middle, in pixels
    line = (np.arange(_PATCH * _SAMPLES) + 0.5) / _SAMPLES - _HALF + 0.5
    down, right = np.meshgrid(line, line, indexing="ij")
    patches = np.empty((*list(SIZES.values())[:3], _PATCH, _PATCH), dtype=np.uint8)
    for s, name in enumerate(SHAPES):
        for o, angle in enumerate(values["orientation"]):
            cos, sin = np.cos(angle), np.sin(angle)
            across, up = cos * right + sin * down, sin * right - cos * down
            # the smallest scale at which a sample is inside decides for all scales
            needed = _SCALE_OF[name](across, up)
            for k, scale in enumerate(values["scale"]):
                inside = needed <= scale
                share = inside.reshape(_PATCH, _SAMPLES, _PATCH, _SAMPLES).mean(axis=(1, 3))
                patches[s, k, o] = (share >= 0.5) * 255
    return patches


# scale at which a point (in pixels, up being positive) is on the outline of each shape, whose
# areas are about the same


def _square(across: np.ndarray, up: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(across), np.abs(up)) / 9.0


def _ellipse(across: np.ndarray, up: np.ndarray) -> np.ndarray:
    return np.hypot(across / 7.2, up / 14.4)


def _heart(across: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Of ``(a^2 + b^2 - 1)^3 = a^2 b^3``, found along each ray by bisection."""
    size = 10.2
    a, b = across / size, up / size
    low, high = np.full(a.shape, 1e-3), np.full(a.shape, 3.0)
    for _ in range(20):
        scale = 0.5 * (low + high)
        u, v = a / scale, b / scale
        inside = (u**2 + v**2 - 1.0) ** 3 <= u**2 * v**3
        low, high = np.where(inside, low, scale), np.where(inside, scale, high)
    return high


_SCALE_OF = {"square": _square, "ellipse": _ellipse, "heart": _heart}


def _published(path: str | Path | None, verify: bool) -> Path | None:
    """The published file, if it is here."""
    file = find(DSPRITES, verify=False) if path is None else Path(path)
    if file is None or not file.is_file():
        return None
    if verify:
        with open(file, "rb") as handle:
            size = file.stat().st_size

            def of_blob():
                return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)

            found = hashlib.file_digest(handle, of_blob).hexdigest()
        if found != DSPRITES.checksum:
            raise ValueError(
                f"{file} is not the published file: its git blob is {found}, not "
                f"{DSPRITES.checksum}. Pass verify=False to take it as it is."
            )
    return file


def _read(file: Path, rows: np.ndarray) -> np.ndarray:
    """Images ``(n, 64, 64)`` of ascending rows; the file's 3 GB pass by in parts."""
    images = np.empty((len(rows), SIDE, SIDE), dtype=np.uint8)
    with zipfile.ZipFile(file) as archive, archive.open("imgs.npy") as stream:
        version = np.lib.format.read_magic(stream)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, fortran, dtype = read_header(stream)
        if shape != (N_SPRITES, SIDE, SIDE) or fortran or dtype != np.uint8:
            raise ValueError(
                f"{file} has images of shape {shape} ({dtype}), not {(N_SPRITES, SIDE, SIDE)} "
                "(uint8)."
            )
        done = 0
        for start in range(0, int(rows[-1]) + 1, _ROWS_AT_A_TIME):
            n = min(_ROWS_AT_A_TIME, N_SPRITES - start)
            part = np.frombuffer(stream.read(n * SIDE * SIDE), np.uint8).reshape(n, SIDE, SIDE)
            until = np.searchsorted(rows, start + n)
            images[done:until] = part[rows[done:until] - start]
            done = until
    return images * np.uint8(255)
