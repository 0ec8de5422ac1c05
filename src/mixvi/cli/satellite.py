"""The commands of satellite scenes: ``mixvi segment`` and ``mixvi impute``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from mixvi.cli.app import app, check_outputs, wrote

Scene = Annotated[
    Path,
    typer.Argument(
        help="GeoTIFF, folder of GeoTIFFs with a date in each name, NetCDF or zarr. Never changed.",
        metavar="SCENE",
    ),
]
Model = Annotated[Path, typer.Option("--model", help="A saved model.")]
Scale = Annotated[
    float,
    typer.Option(
        help="What values are multiplied with, as for the training tiles; 0.0001 for "
        "Sentinel-2's digital numbers."
    ),
]
Offset = Annotated[
    float,
    typer.Option(
        help="What is added to values before; -1000 for Sentinel-2's digital numbers of baseline "
        "04.00 and later."
    ),
]
Overlap = Annotated[
    int | None, typer.Option(help="Pixels that tiles share.", show_default="an eighth of a tile")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Tiles at a time.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]


@app.command()
def segment(
    scene: Scene,
    model: Model,
    out: Annotated[Path, typer.Option("--out", help="GeoTIFF of the map, NetCDF or zarr.")],
    soft: Annotated[bool, typer.Option("--soft", help="Probabilities of the classes.")] = False,
    scale: Scale = 1.0,
    offset: Offset = 0.0,
    overlap: Overlap = None,
    batch_size: BatchSize = 16,
    overwrite: Overwrite = False,
) -> None:
    """Write the land cover of a scene as a model predicts it."""

    def predict(loaded: Any) -> Callable:
        return lambda tiles: loaded.predict(tiles, soft=True)

    reading = _Reading(scene, scale, offset, overlap, batch_size)
    _predict(predict, "predict", reading, model, out, overwrite, soft)


@app.command()
def impute(
    scene: Scene,
    model: Model,
    out: Annotated[
        Path, typer.Option("--out", help="Folder for a GeoTIFF a date, or NetCDF or zarr.")
    ],
    n_samples: Annotated[int, typer.Option(min=1, help="Draws whose mean fills a gap.")] = 16,
    scale: Scale = 1.0,
    offset: Offset = 0.0,
    overlap: Overlap = None,
    batch_size: BatchSize = 16,
    overwrite: Overwrite = False,
) -> None:
    """Write a scene with its gaps filled by a model; what was observed stays as it is."""

    def predict(loaded: Any) -> Callable:
        return lambda tiles: loaded.impute(tiles, n_samples=n_samples)

    reading = _Reading(scene, scale, offset, overlap, batch_size)
    _predict(predict, "impute", reading, model, out, overwrite, True)


class _Reading(NamedTuple):
    """A scene, and how its tiles are read."""

    path: Path
    scale: float
    offset: float
    overlap: int | None
    batch_size: int


def _predict(
    predict: Callable[[Any], Callable],
    verb: str,
    reading: _Reading,
    model_dir: Path,
    out: Path,
    overwrite: bool,
    soft: bool,
) -> None:
    """Read a scene, have a model predict its tiles, and write what it found."""
    path, scale, offset, overlap, batch_size = reading
    check_outputs(path, overwrite, out)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist.")
    model = _load(model_dir, verb)
    from mixvi.satellite import predict_scene, read_scene, write_raster

    scene = read_scene(path)
    if scale != 1.0 or offset:
        series = (scene["series"].astype("float32") + offset) * scale
        # what marks missing values in the file may now be a value; "valid" knows where they are
        scene["series"] = series.drop_attrs()
    size = model.shape[-1]
    options = {
        "size": size,
        "overlap": size // 8 if overlap is None else overlap,
        "batch_size": batch_size,
        "soft": soft,
        "classes": model.classes or None,
    }
    if out.suffix in (".nc", ".nc4", ".cdf", ".zarr"):
        write_raster(predict_scene(predict(model), scene, **options), out)
    else:
        predict_scene(predict(model), scene, out, **options)
    wrote(out)


def _load(model_dir: Path, verb: str) -> Any:
    from mixvi import satellite
    from mixvi.core.data.files import read_record

    name = read_record(model_dir)["class"]
    cls = getattr(satellite, name, None) if name in satellite.__all__ else None
    if not hasattr(cls, verb):
        raise ValueError(f"{model_dir} holds a {name!r} model, which has no verb {verb!r}.")
    return cls.load(model_dir, adata=False)
