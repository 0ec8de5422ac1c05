"""A scene larger than memory through tiles, a trivial model and back, under a limit of memory.

The scene is made by dask where it is read, so that nothing of it is stored; the map is written as a
GeoTIFF by rows. The model sees each pixel for itself, so the map of the scene is known and compared
pixel by pixel. The limit is one of the operating system (RLIMIT_DATA), under which an allocation
fails. A second case writes probabilities of all classes, and a third only reads tiles.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import xarray as xr
from anndata import AnnData
from benchmarks.compare import in_child
from benchmarks.record import RESULTS, quiet, write

from mixvi.satellite import iter_tiles, predict_scene, read_scene

N_CLASSES = 4


def _block(block_info: dict | None = None) -> np.ndarray:
    """Digital numbers of a chunk: a function of where it lies, the same at every reading."""
    _, _, (row, _), (column, _) = block_info[None]["array-location"]
    shape = block_info[None]["chunk-shape"]
    rng = np.random.default_rng([row, column])
    return rng.integers(1, 10_000, shape, dtype="uint16")


def made_up_scene(side: int, n_bands: int, chunk: int) -> xr.DataArray:
    """One date of a scene ``(1, n_bands, side, side)`` at 10 m, of dask."""
    pieces = tuple(min(chunk, side - start) for start in range(0, side, chunk))
    series = da.map_blocks(
        _block,
        chunks=((1,), (n_bands,), pieces, pieces),
        dtype="uint16",
        meta=np.empty(0, "uint16"),
    )
    reference = {"crs_wkt": "", "GeoTransform": f"500000.0 10.0 0.0 {5e6} 0.0 -10.0"}
    return xr.DataArray(
        series,
        {"time": np.array(["2017-07-05"], "M8[ns]"), "spatial_ref": ((), 0, reference)},
        ("time", "band", "y", "x"),
        name="series",
    )


def _probabilities(series: np.ndarray) -> np.ndarray:
    """Shares of the first bands ``(n, N_CLASSES, H, W)`` of ``(n, 1, C, H, W)``."""
    first = series[:, 0, :N_CLASSES].astype(np.float32)
    return first / first.sum(1, keepdims=True)


def _predict(tiles: AnnData) -> np.ndarray:
    return _probabilities(tiles.obsm["series"])


def _limited(limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    # threads of dask hold chunks of their own
    dask.config.set(scheduler="threads", num_workers=2)


def _rates(side: int, n_bands: int, seconds: float) -> dict:
    pixels = side**2
    return {
        "seconds": seconds,
        "megapixels_per_second": pixels / seconds / 1e6,
        "mb_per_second": pixels * n_bands * 2 / seconds / 1e6,
    }


def predict(out: Path, args: argparse.Namespace, soft: bool, limit: int) -> dict:
    """Scene to GeoTIFF."""
    _limited(limit)
    scene = made_up_scene(args.side, args.bands, args.chunk)
    start = time.perf_counter()
    predict_scene(
        _predict,
        scene,
        out,
        size=args.size,
        overlap=args.overlap,
        batch_size=args.batch_size,
        soft=soft,
    )
    seconds = time.perf_counter() - start
    return _rates(args.side, args.bands, seconds) | {"map_mb": out.stat().st_size / 2**20}


def read(args: argparse.Namespace, limit: int) -> dict:
    """Tiles alone."""
    _limited(limit)
    scene = made_up_scene(args.side, args.bands, args.chunk)
    start = time.perf_counter()
    sizes = [tiles.n_obs for tiles in iter_tiles(scene, args.size, args.overlap)]
    seconds = time.perf_counter() - start
    return _rates(args.side, args.bands, seconds) | {"tiles": sum(sizes)}


def compare(out: Path, args: argparse.Namespace, soft: bool) -> dict:
    """Pixels of the map that are not those of the scene predicted in whole, by chunks."""
    scene = made_up_scene(args.side, args.bands, args.chunk)
    found = read_scene(out)["series"]
    differing = 0
    for row in range(0, args.side, args.chunk):
        rows = slice(row, row + args.chunk)
        whole = _probabilities(scene.isel(y=rows).to_numpy()[None])[0]
        expected = whole if soft else whole.argmax(0)[None]
        differing += int((found.isel(y=rows).to_numpy() != expected).any(0).sum())
    return {"differing_pixels": differing}


def main() -> None:
    """Run all cases and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=10_000)
    parser.add_argument("--bands", type=int, default=10)
    parser.add_argument("--chunk", type=int, default=1000)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--overlap", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--limit-gib", type=float, default=4.0)
    args = parser.parse_args()
    quiet()
    limit = int(args.limit_gib * 2**30)
    runs: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, soft in (("map", False), ("probabilities", True)):
            out = Path(folder) / f"{name}.tif"
            figures = in_child(predict, out, args, soft, limit)
            differing = in_child(compare, out, args, soft)["differing_pixels"]
            runs.append({"case": name, **figures, "differing_pixels": differing})
            print(runs[-1], flush=True)
            out.unlink()
    runs.append({"case": "tiles alone", **in_child(read, args, limit)})
    summary = {
        run["case"]: {k: v for k, v in run.items() if k not in ("case", "map_mb")} for run in runs
    }
    summary["scene_mb"] = args.side**2 * args.bands * 2 / 2**20
    write("scenes", vars(args), runs, summary, folder=RESULTS / "satellite")


if __name__ == "__main__":
    main()
