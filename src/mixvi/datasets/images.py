"""Image data sets as AnnData, one image a row, and the form in which image models take them."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch.nn import functional

from mixvi.core.arguments import check_choice, check_positive
from mixvi.core.data.images import IMAGE_KEY, SHAPE_KEY, image_array
from mixvi.datasets.cells import check_data
from mixvi.datasets.fetch import DataFile, fetch

CIFAR10 = DataFile(
    "cifar10",
    "cifar10.npz",
    "e64f281fa183f5133c01510e3425156ae0bb4414537ba23358624abfe5cfdc82",
    "Krizhevsky (2009), from the repository taneishi/convnetjs (MIT).",
)
# https://www.cs.toronto.edu/~kriz/cifar.html; this form has no pickles
CIFAR10_COMPLETE = DataFile(
    "cifar10",
    "cifar-10-binary.tar.gz",
    "c32a1d4ab5d03f1284b67883e8d87530",
    "Krizhevsky (2009), https://www.cs.toronto.edu/~kriz/cifar.html.",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    algorithm="md5",
)
_OBJECTS = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
_PART_OBJECTS = (2092, 2070, 2142, 2114, 2099, 2011, 2150, 2129, 2118, 2075)
_BATCHES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")


def cifar10(complete: bool = False, *, verify: bool = True) -> AnnData:
    """Colour photographs of ten kinds of object x 3,072 pixels (Krizhevsky 2009).

    Image models take what :func:`prepare_images` makes of it.

    Parameters
    ----------
    complete
        ``True``: all 60,000, from the author's binary archive (162 MB), which is downloaded from
        his address if it is not here. ``False``: the first 20,000 training and the first 1,000
        test images; quote results as "on this part".
    verify
        Whether the file must have the expected checksum and contents.

    Returns
    -------
    AnnData with levels in [0, 1] in ``X`` (float32, (21000, 3072), channel by channel: red, green,
    blue), the same as ``obsm["image"]`` ((21000, 3, 32, 32), a view), ``uns["image_shape"]``
    (3, 32, 32), ``obs["object"]`` (10 names) and ``obs["split"]`` (``"train"``, ``"test"``).

    Raises
    ------
    FileNotFoundError
        If the file is neither here nor to be downloaded.
    ValueError
        If its checksum, shape or class counts are not as expected.
    """
    if complete:
        images, codes = _read_archive(fetch(CIFAR10_COMPLETE, verify))
        name, n_train, counts = CIFAR10_COMPLETE.name, 50_000, (6000,) * 10
    else:
        with np.load(fetch(CIFAR10, verify)) as file:
            images = np.concatenate([file["x_train"], file["x_test"]]).transpose(0, 3, 1, 2)
            codes = np.concatenate([file["y_train"], file["y_test"]])
        name, n_train, counts = CIFAR10.name, 20_000, _PART_OBJECTS
    split = np.repeat(["train", "test"], [n_train, len(codes) - n_train])
    adata = image_adata(
        images,
        {
            "object": pd.Categorical.from_codes(codes, list(_OBJECTS)),
            "split": pd.Categorical(split),
        },
    )
    if verify:
        expected = {"object": dict(zip(_OBJECTS, counts, strict=True))}
        check_data(adata, name, (sum(counts), 3072), expected)
    return adata


def prepare_images(
    adata: AnnData, size: int = 32, method: Literal["resize", "pad"] = "resize"
) -> AnnData:
    """Images as the thesis's networks take them: square, in [-1, 1] (Astorga 2021, section 8.1.1).

    Parameters
    ----------
    adata
        Images with levels in [0, 1], or bytes, in ``obsm["image"]`` (n, C, H, W), or in ``X`` with
        ``uns["image_shape"]``; not changed.
    size
        Height and width of the result, in pixels.
    method
        ``"resize"``: bilinear interpolation, as in the thesis (antialiased where images shrink).
        ``"pad"``: the pixels as they are, in the middle of a frame of zeros (black).

    Returns
    -------
    AnnData with the same ``obs``, images in ``obsm["image"]`` (float32, (n, C, size, size)), the
    same in ``X`` ((n, C * size * size), one memory) and ``uns["image_shape"]``.

    Raises
    ------
    KeyError
        If there are no images.
    ValueError
        If levels lie outside [0, 1], the method is unknown, or images to be padded are larger than
        the frame.
    """
    check_positive("size", size)
    check_choice("method", method, ("resize", "pad"))
    images = image_array(adata, "adata")
    levels = images.astype(np.float32) / 255 if images.dtype == np.uint8 else images
    if not (levels.min() >= 0 and levels.max() <= 1):
        raise ValueError(
            f"adata has levels from {levels.min():.4g} to {levels.max():.4g}, but bytes or levels "
            "in [0, 1] are expected. Images in [-1, 1] are prepared already."
        )
    height, width = levels.shape[2:]
    if method == "pad":
        if max(height, width) > size:
            raise ValueError(
                f"Images of {height} x {width} pixels do not fit into a frame of size={size}; "
                "use a larger one or method='resize'."
            )
        top, left = (size - height) // 2, (size - width) // 2
        frame = ((0, 0), (0, 0), (top, size - height - top), (left, size - width - left))
        levels = np.pad(levels, frame)
    elif (height, width) != (size, size):
        levels = functional.interpolate(
            torch.from_numpy(np.ascontiguousarray(levels, dtype=np.float32)),
            size=(size, size),
            mode="bilinear",
            antialias=True,
        ).numpy()
    return _as_adata(np.asarray(levels * 2 - 1, dtype=np.float32), adata.obs.copy())


def image_adata(images: np.ndarray, columns: dict) -> AnnData:
    """AnnData with levels in [0, 1] from bytes ``(n, C, H, W)`` and columns of ``obs``."""
    obs = pd.DataFrame(columns, index=[f"image_{i}" for i in range(len(images))])
    levels = np.array(images, dtype=np.float32, order="C")
    levels /= 255.0
    return _as_adata(levels, obs)


def _as_adata(images: np.ndarray, obs: pd.DataFrame) -> AnnData:
    n, *shape = images.shape
    channels, height, width = shape
    names = [f"pixel_{i}_{j}" for i in range(height) for j in range(width)]
    if channels > 1:
        names = [f"channel_{c}_{name}" for c in range(channels) for name in names]
    x = images.reshape(n, -1)
    return AnnData(
        x,
        obs=obs,
        var=pd.DataFrame(index=names),
        obsm={IMAGE_KEY: x.reshape(images.shape)},
        uns={SHAPE_KEY: np.array(shape)},
    )


def _read_archive(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images ``(n, 3, 32, 32)`` and labels ``(n,)``, the test batch last."""
    with tarfile.open(path, "r:gz") as archive:
        rows = [
            np.frombuffer(archive.extractfile(f"cifar-10-batches-bin/{name}").read(), np.uint8)
            for name in _BATCHES
        ]
    # a label and then the red, green and blue pixels
    rows = np.concatenate(rows).reshape(-1, 1 + 3 * 32 * 32)
    return rows[:, 1:].reshape(-1, 3, 32, 32), rows[:, 0]
