"""Gaps of real series filled: values hidden behind real clouds, errors by length of the gap.

Clouds of other places and dates hide a share of the valid entries, in two ways. A tile at a time:
masks are of single tiles, so that other tiles of a hidden date stay visible, and who reads the
whole scene sees the date elsewhere, as under small clouds. A scene at a time: one mask covers all
tiles of a date, as the clouds of this kilometre did, which mostly hid all of it or nothing; then
no method sees the date, and all have to carry over from others. Neither is the fair one alone: what
a method gains by looking beyond a tile is the difference between the two.

Blocks of the scene are split: each method's settings are those of the least RMSE on validation
blocks, figures are of test blocks. Every method may read all that is left visible, of test blocks
too, as who fills a scene can: DINEOF reads a scene as one tile if that is better on validation
blocks, and models are trained on tiles and, being convolutions, fill the whole scene at once. A
reference's 90 % interval is its error's quantile on validation blocks, by length of the gap, and
its standard deviation the root mean square of these errors; a model's are its own. To try:
``--seeds 1 --updates 8 --cases "MODIS Mato Grosso, 10 % hidden" --name satellite/trial``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
import scvi
from anndata import AnnData
from benchmarks.compare import compare, derive_again
from benchmarks.record import TRAINER, add_device, use_device
from scipy.special import ndtri

from mixvi.datasets import (
    cloud_masks,
    hide_with_real_clouds,
    mato_grosso_raster,
    s2_patches,
    sentinel2_patch,
    split_blocks,
)
from mixvi.metrics import gap_lengths, imputation_scores
from mixvi.satellite import (
    HierarchicalVAE,
    SymmetricHVAE,
    band_mean,
    dineof,
    hants,
    linear_interpolation,
    nearest_date,
    savitzky_golay,
    seasonal_climatology,
    whittaker,
)
from mixvi.satellite.model import SeriesModel

SETTINGS: dict = {
    "level": 0.9,
    "gap_starts": [1, 2, 3, 6, 11],
    "climatology": {"window": [8, 16, 32, 64]},
    "savitzky_golay": {"window": [5, 7, 11, 15, 21], "degree": [1, 2, 3]},
    "whittaker": {"smoothing": [1e4, 1e5, 1e6, 1e7, 1e8, 1e9]},
    "hants": {"n_harmonics": [1, 2, 3], "damping": [0.01, 0.1, 1.0]},
    "dineof": {"scope": ["tile", "scene"]},
    "train": {"batch_size": 5},
    # a model is looked at after as many updates at each rate; the best look on validation blocks
    # counts
    "rates": [3e-3, 1e-3, 3e-4],
    "n_samples": 8,
    # name: data set, side of tiles, share of valid entries hidden, and what a mask covers
    "cases": {
        "Sentinel-2 NDVI, 30 % hidden, whole scenes": ["sentinel2", 20, 0.3, "scene"],
        "Sentinel-2 NDVI, 10 % hidden": ["sentinel2", 20, 0.1, "tile"],
        "Sentinel-2 NDVI, 30 % hidden": ["sentinel2", 20, 0.3, "tile"],
        "MODIS Mato Grosso, 10 % hidden": ["mato_grosso", 12, 0.1, "tile"],
        "Sentinel-2 monthly, 9 bands, 20 % hidden": ["belgium", 20, 0.2, "tile"],
    },
}


class Case(NamedTuple):
    """Tiles with hidden entries, and which tiles choose settings and which are scored.

    Attributes
    ----------
    tiles
        What models read: ``obsm["valid"]`` without the hidden entries.
    hidden
        Entries to be scored, in the shape of the series.
    val, test
        Of each tile, whether it chooses settings, and whether it is scored.
    n_seasons
        How many rows are one place, one after the other in time.
    """

    tiles: AnnData
    hidden: np.ndarray
    val: np.ndarray
    test: np.ndarray
    n_seasons: int


def _scene(name: str, side: int) -> tuple[AnnData, np.ndarray | None]:
    """Tiles of a data set, and masks of clouds unless its own serve."""
    masks = None
    if name == "sentinel2":
        tiles = sentinel2_patch(tile=side)
    elif name == "mato_grosso":
        tiles = mato_grosso_raster(tile=side)
        # composites lack a few scattered pixels: clouds have shapes
        masks = cloud_masks(sentinel2_patch())
    else:
        tiles = s2_patches("belgium2_monthly", side)
        # its own gaps are two whole months
        masks = cloud_masks(s2_patches("gfmap_2022winter_quintads"))
    scene = tiles.uns["scene"]
    whole = (tiles.obs["row"] + side <= scene["height"]) & (
        tiles.obs["column"] + side <= scene["width"]
    )
    return tiles[whole.to_numpy()].copy(), masks


def prepared(case: str, seed: int) -> Case:
    """The data of a case; tiles, hidden entries and blocks are the same for every method."""
    name, side, share, masked = SETTINGS["cases"][case]
    tiles, masks = _scene(name, side)
    if masked == "scene":
        tiles = _hidden_by_scene(tiles, share, seed)
    else:
        tiles = hide_with_real_clouds(tiles, share, masks=masks, seed=seed)
    hidden = np.broadcast_to(tiles.obsm["hidden"], tiles.obsm["series"].shape)
    split = split_blocks(tiles, seed=seed)
    n_seasons = tiles.obs["season"].nunique() if "season" in tiles.obs else 1
    return Case(tiles, hidden, *(split.eq(x).to_numpy() for x in ("val", "test")), n_seasons)


def _hidden_by_scene(tiles: AnnData, share: float, seed: int) -> AnnData:
    """Tiles of which one mask of the whole scene hides a date, made of other dates' clouds."""
    scene = _as_scene(tiles)
    scene = hide_with_real_clouds(scene, share, seed=seed)
    hidden = tiles.copy()
    for key in ("valid", "hidden"):
        hidden.obsm[key] = _as_tiles(scene.obsm[key], tiles)
    return hidden


def _corners(tiles: AnnData) -> tuple[np.ndarray, np.ndarray]:
    """Season and upper left pixel of each tile; scenes begin where their first tile does."""
    seasons = tiles.obs["season"] if "season" in tiles.obs else np.zeros(tiles.n_obs)
    corners = tiles.obs[["row", "column"]].to_numpy()
    return np.unique(seasons, return_inverse=True)[1], corners - corners.min(axis=0)


def _as_scene(tiles: AnnData) -> AnnData:
    """Tiles that lie edge to edge as one, a season a row."""
    seasons, corners = _corners(tiles)
    scene = AnnData(obs=pd.DataFrame(index=[str(i) for i in np.unique(seasons)]))
    side = tiles.obsm["series"].shape[-1]
    height, width = corners.max(axis=0) + side
    for key in ("series", "valid"):
        x = tiles.obsm[key]
        whole = np.zeros((scene.n_obs, *x.shape[1:-2], height, width), x.dtype)
        for part, season, (row, column) in zip(x, seasons, corners, strict=True):
            whole[season, ..., row : row + side, column : column + side] = part
        scene.obsm[key] = whole
    first = np.unique(seasons, return_index=True)[1]
    for key in {"time", "frame"} & set(tiles.obsm):
        scene.obsm[key] = tiles.obsm[key][first]
    return scene


def _as_tiles(x: np.ndarray, tiles: AnnData) -> np.ndarray:
    """An array of the scene ``(seasons, ..., H, W)`` by tile again."""
    side = tiles.obsm["series"].shape[-1]
    places = zip(*_corners(tiles), strict=True)
    return np.stack([x[s, ..., i : i + side, j : j + side] for s, (i, j) in places])


def _cut(scene: AnnData, side: int) -> AnnData:
    """Tiles of a scene to train on, of those in which anything is seen."""
    parts = {key: [] for key in scene.obsm}
    height, width = scene.obsm["series"].shape[-2:]
    for row, column in product(range(0, height - side + 1, side), range(0, width - side + 1, side)):
        at = ..., slice(row, row + side), slice(column, column + side)
        seen = scene.obsm["valid"][at].reshape(scene.n_obs, -1).any(axis=1)
        for key, x in scene.obsm.items():
            parts[key].append((x[at] if x.ndim > 2 else x)[seen])
    joined = {key: np.concatenate(x) for key, x in parts.items()}
    obs = pd.DataFrame(index=[str(i) for i in range(len(joined["series"]))])
    return AnnData(obs=obs, obsm=joined)


def _joined(x: np.ndarray, n_seasons: int) -> np.ndarray:
    """Seasons of a place ``(n_seasons * n, T, ...)`` as one series ``(n, n_seasons * T, ...)``."""
    x = x.reshape(n_seasons, -1, *x.shape[1:]).swapaxes(0, 1)
    return x.reshape(len(x), -1, *x.shape[3:])


def _parted(x: np.ndarray, n_seasons: int) -> np.ndarray:
    """The inverse of :func:`_joined`."""
    x = x.reshape(len(x), n_seasons, -1, *x.shape[2:]).swapaxes(0, 1)
    return x.reshape(-1, *x.shape[2:])


def _filled(case: Case, fill: Callable, **settings) -> np.ndarray:
    """Series filled by a reference that reads all seasons of a place at once."""
    arrays = [case.tiles.obsm[key] for key in ("series", "valid", "time")]
    series, valid, time = (_joined(x, case.n_seasons) for x in arrays)
    if fill is band_mean:
        return _parted(fill(series, valid), case.n_seasons)
    if settings.pop("scope", "tile") == "tile":
        return _parted(fill(series, valid, time, **settings), case.n_seasons)
    # a method to which a tile is a set of pixels reads the scene as one long tile
    n, height = series.shape[0], series.shape[3]
    long = (np.concatenate(list(x), axis=-2)[None] for x in (series, valid))
    whole = fill(*long, time[:1], **settings)[0]
    parts = [whole[..., i * height : (i + 1) * height, :] for i in range(n)]
    return _parted(np.stack(parts), case.n_seasons)


def rmse(case: Case, estimate: np.ndarray, rows: np.ndarray) -> float:
    """Over the hidden entries of some tiles; bands count by their variance."""
    sd = _deviations(case)
    scaled = estimate / sd, case.tiles.obsm["series"] / sd
    return float(np.sqrt(np.mean((scaled[0][rows] - scaled[1][rows])[case.hidden[rows]] ** 2)))


def _deviations(case: Case) -> np.ndarray:
    """Standard deviation of each band's visible entries ``(C, 1, 1)``."""
    series = case.tiles.obsm["series"]
    valid = np.broadcast_to(case.tiles.obsm["valid"], series.shape)
    bands = range(series.shape[2])
    return np.array([series[:, :, b][valid[:, :, b]].std() for b in bands])[:, None, None]


def _gap_classes(case: Case) -> np.ndarray:
    """Class of the length of each entry's gap, by all seasons of a place, as the scores have it."""
    valid = _joined(case.tiles.obsm["valid"], case.n_seasons)
    classes = np.searchsorted(SETTINGS["gap_starts"], gap_lengths(valid), side="right")
    return np.broadcast_to(_parted(classes, case.n_seasons), case.hidden.shape)


def _spread(case: Case, estimate: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Half the 90 % interval and the standard deviation of an estimate.

    They are of its errors on validation blocks, by band and gap.
    """
    gaps, half, sd = _gap_classes(case), np.zeros(case.hidden.shape), np.ones(case.hidden.shape)
    errors = np.abs(estimate - case.tiles.obsm["series"])
    known = case.hidden & case.val[:, None, None, None, None]
    for band, gap in product(range(half.shape[2]), np.unique(gaps)):
        of_gap, chosen = gaps[:, :, band] == gap, known[:, :, band]
        ours = chosen & of_gap
        # a length that no validation block has: all lengths
        ours = ours if ours.sum() >= 20 else chosen
        if ours.any():
            found = errors[:, :, band][ours]
            half[:, :, band][of_gap] = np.quantile(found, SETTINGS["level"])
            sd[:, :, band][of_gap] = np.sqrt(np.mean(found**2))
    return half, sd


def scores(case: Case, estimate: np.ndarray, sd: np.ndarray | None = None) -> dict[str, float]:
    """Figures on the hidden entries of the test blocks; a model has deviations of its own."""
    if sd is None:
        half, sd = _spread(case, estimate)
    else:
        half = ndtri(0.5 + SETTINGS["level"] / 2) * sd
    series, at = case.tiles.obsm["series"], case.test
    # by all seasons, so that a gap at the turn of the year is as long as it is
    n = case.n_seasons
    ours = at.reshape(n, -1)[0]
    arrays = [series, estimate, case.hidden, case.tiles.obsm["valid"], half, sd]
    series, estimated, hidden, valid, halves, sd = (_joined(np.asarray(x), n)[ours] for x in arrays)
    table = imputation_scores(
        series,
        estimated,
        hidden,
        valid=valid,
        sd=sd,
        interval=(estimated - halves, estimated + halves),
        gap_starts=SETTINGS["gap_starts"],
    )
    value = table[table["band"] == "all"].set_index(["metric", "gap"])["value"]
    found = {
        "rmse": value["rmse", "all"],
        "mae": value["mae", "all"],
        "psnr": value["psnr", "all"],
        "nll": value["nll", "all"],
        "rmse_in_sd": rmse(case, estimate, at),
    }
    if ("spectral_angle", "all") in value:
        found["spectral_angle"] = value["spectral_angle", "all"]
    for metric in ("rmse", "nll", "coverage_90"):
        found |= {f"{metric}, gap {gap}": x for gap, x in value[metric].items() if gap != "all"}
    width = 2 * half[at][case.hidden[at]].mean()
    return found | {"coverage_90": value["coverage_90", "all"], "width_90": float(width)}


def reference(fill: Callable, grid: Mapping[str, list], case_name: str, seed: int) -> dict:
    """A reference with the settings that are best on validation blocks."""
    case = prepared(case_name, seed)
    best, least, chosen = None, np.inf, {}
    for values in product(*grid.values()):
        settings = dict(zip(grid, values, strict=True))
        if settings.get("degree", 0) >= settings.get("window", 99):
            continue
        estimate = _filled(case, fill, **settings)
        error = rmse(case, estimate, case.val)
        if error < least:
            best, least, chosen = estimate, error, settings
    return scores(case, best) | {"chosen": str(chosen)}


def model(kind: type[SeriesModel], slower: float, case_name: str, seed: int) -> dict:
    """A model that knows no labels, at its best look on validation blocks.

    The encoder's learning rate is ``slower`` times the decoder's.
    """
    case = prepared(case_name, seed)
    scene = _as_scene(case.tiles)
    # small tiles: more updates for the same work
    tiles = _cut(scene, case.tiles.obsm["series"].shape[-1] // 2)
    scvi.settings.seed = seed
    kind.setup_anndata(tiles)
    fitted = kind(tiles)
    batch = SETTINGS["train"]["batch_size"]
    part = max(1, SETTINGS["updates"] // len(SETTINGS["rates"]) // (tiles.n_obs // batch))
    best, least, epochs = None, np.inf, 0
    for look, rate in enumerate(SETTINGS["rates"], start=1):
        rates = {"encoder": slower * rate, "decoder": rate}
        fitted.train(part, lr=rates, **SETTINGS["train"], **TRAINER)
        found = fitted.impute(scene, n_samples=SETTINGS["n_samples"], return_sd=True, batch_size=1)
        estimate, sd = (_as_tiles(x, case.tiles) for x in found)
        error = rmse(case, estimate, case.val)
        if error < least:
            best, least, epochs = (estimate, sd), error, look * part
    return scores(case, *best) | {"epochs": epochs}


METHODS = {
    "band mean": partial(reference, band_mean, {}),
    "nearest date": partial(reference, nearest_date, {}),
    "linear interpolation": partial(reference, linear_interpolation, {}),
    "seasonal climatology": partial(reference, seasonal_climatology, SETTINGS["climatology"]),
    "Savitzky-Golay": partial(reference, savitzky_golay, SETTINGS["savitzky_golay"]),
    "Whittaker": partial(reference, whittaker, SETTINGS["whittaker"]),
    "HANTS": partial(reference, hants, SETTINGS["hants"]),
    "DINEOF": partial(reference, dineof, SETTINGS["dineof"]),
    "SymmetricHVAE": partial(model, SymmetricHVAE, 0.1),
    "ladder VAE": partial(model, HierarchicalVAE, 1.0),
}


def over_all_sets(rows: dict[str, list[dict]]) -> dict[str, dict[str, float]]:
    """Of all seeds together: root mean squares by length of the gap, mean coverage and NLL.

    A set hides a few dates of each length, so that medians of few sets tell little.
    """
    found = {}
    for method, runs in rows.items():
        lengths = sorted({key for run in runs for key in run if key.startswith("rmse, gap")})
        errors = {key: [run[key] for run in runs if key in run] for key in lengths}
        found[method] = {key: float(np.sqrt(np.mean(np.square(x)))) for key, x in errors.items()}
        # runs of references that the record keeps may be older than a figure
        for key in [key for key in ("coverage_90", "nll") if all(key in run for run in runs)]:
            found[method][key] = float(np.mean([run[key] for run in runs]))
    return found


def main() -> None:
    """Run all seeds and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    parser.add_argument("--sets", type=int, nargs="+", help="which seeds instead")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--updates", type=int, default=300, help="of models")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--cases", nargs="+", default=list(SETTINGS["cases"]))
    parser.add_argument("--resume", action="store_true", help="keep the runs of the record")
    parser.add_argument("--derive", action="store_true", help="findings anew, from the record")
    parser.add_argument("--name", default="satellite/imputation", help="of the record")
    add_device(parser)
    given = parser.parse_args()
    if given.derive:
        derive_again(given.name, over_all_sets)
        return
    use_device(given.device)
    SETTINGS["updates"] = given.updates
    methods = {name: METHODS[name] for name in given.methods}
    seeds, jobs, resume = given.sets or given.seeds, given.jobs, given.resume
    compare(given.name, methods, given.cases, SETTINGS, seeds, jobs, over_all_sets, resume)


if __name__ == "__main__":
    main()
