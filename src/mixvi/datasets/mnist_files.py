"""MNIST and Fashion-MNIST: one array file, or the four files that their authors publish."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from mixvi.datasets.fetch import DataFile, check_sum, fetch, find
from mixvi.datasets.images import image_adata

_N_TRAIN, _N_TEST, _N_HELD_OUT = 60_000, 10_000, 10_000


MNIST = DataFile(
    "mnist",
    "mnist.npz",
    "ad70f5c4e829f530a0aeb87b623270ec96907941aa90f5e86581039200319c2f",
    "LeCun, Cortes and Burges (CC BY-SA 3.0), http://yann.lecun.com/exdb/mnist.",
)
FASHION_MNIST = DataFile(
    "fashion_mnist",
    "fashion_mnist.npz",
    "2fcb82cff283dee411fac32866598cb67d9b3939ef6d2bf10b2e574697177445",
    "Xiao, Rasul and Vollgraf (2017), https://github.com/zalandoresearch/fashion-mnist (MIT).",
)


def _authors_files(arrays: DataFile, address: str, md5: tuple[str, ...]) -> tuple[DataFile, ...]:
    """Images and labels of training, then of test."""
    names = (
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
        "t10k-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte.gz",
    )
    return tuple(
        DataFile(arrays.folder, name, value, arrays.origin, f"{address}/{name}", algorithm="md5")
        for name, value in zip(names, md5, strict=True)
    )


# the MD5 sums that torchvision knows
_MNIST = _authors_files(
    MNIST,
    "https://ossci-datasets.s3.amazonaws.com/mnist",
    (
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "d53e105ee54ea40749a09fcbcd1e9432",
        "9fb629c4189551a2d022fa330f9573f3",
        "ec29112dd5afa0611ce80d1b7f02629c",
    ),
)
# the MD5 sums that the authors publish
_FASHION_MNIST = _authors_files(
    FASHION_MNIST,
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    (
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "25c81989df183df01b3e8a0aad5dffbe",
        "bef4ecab320f06d8554ea6380940ec79",
        "bb300cfdad3c16e7a12a480ee83cd310",
    ),
)
_DIGITS_TRAIN = (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
_DIGITS_TEST = (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)
_ARTICLES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def mnist(directory: str | os.PathLike | None = None, *, verify: bool = True) -> AnnData:
    """70,000 handwritten digits x 784 pixels (LeCun, Cortes and Burges; CC BY-SA 3.0).

    Image models take what :func:`mixvi.datasets.prepare_images` makes of it.

    Parameters
    ----------
    directory
        Where the four ``*-ubyte.gz`` files of the authors lie. ``None``: ``mnist.npz`` or these are
        looked for in ``mnist`` below ``MIXVI_DATA_DIR`` and in the cache; what is found nowhere is
        downloaded from a public copy (12 MB).
    verify
        Whether files must have the published checksums and contents.

    Returns
    -------
    AnnData with grey levels in [0, 1] in ``X`` (float32, (70000, 784)), the same as
    ``obsm["image"]`` ((70000, 1, 28, 28), a view), ``uns["image_shape"]`` (1, 28, 28),
    ``obs["digit"]`` (``"0"`` to ``"9"``) and ``obs["split"]``: ``"train"`` (the first 50,000
    training images), ``"held_out"`` (the last 10,000 of them) and ``"test"`` (the 10,000 official
    test images; the first 5,000 of them are cleaner than the rest).

    Raises
    ------
    FileNotFoundError
        If a file is missing and cannot be downloaded.
    ValueError
        If its checksum, shape or class counts are not as expected.
    """
    images, codes = _read(MNIST, _MNIST, directory, verify)
    split = np.repeat(
        ["train", "held_out", "test"], [_N_TRAIN - _N_HELD_OUT, _N_HELD_OUT, len(codes) - _N_TRAIN]
    )
    if verify:
        for part, expected in ((codes[:_N_TRAIN], _DIGITS_TRAIN), (codes[_N_TRAIN:], _DIGITS_TEST)):
            found = np.bincount(part, minlength=10)
            if tuple(found) != expected:
                raise ValueError(f"mnist has {found} images of each digit, not {expected}.")
    return image_adata(
        images, {"digit": pd.Categorical(codes.astype(str)), "split": pd.Categorical(split)}
    )


def fashion_mnist(directory: str | os.PathLike | None = None, *, verify: bool = True) -> AnnData:
    """70,000 pictures of clothes x 784 pixels (Xiao, Rasul and Vollgraf 2017; MIT licence).

    Image models take what :func:`mixvi.datasets.prepare_images` makes of it.

    Parameters
    ----------
    directory
        Where the four ``*-ubyte.gz`` files of the authors lie. ``None``: ``fashion_mnist.npz`` or
        these are looked for in ``fashion_mnist`` below ``MIXVI_DATA_DIR`` and in the cache; what is
        found nowhere is downloaded from the authors' address (31 MB).
    verify
        Whether files must have the published checksums.

    Returns
    -------
    AnnData with grey levels in [0, 1] in ``X`` (float32, (70000, 784)), the same as
    ``obsm["image"]`` ((70000, 1, 28, 28), a view), ``uns["image_shape"]`` (1, 28, 28),
    ``obs["article"]`` (10 categories) and ``obs["split"]`` (``"train"``, 60,000; ``"test"``,
    10,000).

    Raises
    ------
    FileNotFoundError
        If a file is missing and cannot be downloaded.
    ValueError
        If its checksum is not the published one.
    """
    images, codes = _read(FASHION_MNIST, _FASHION_MNIST, directory, verify)
    split = np.repeat(["train", "test"], [_N_TRAIN, len(codes) - _N_TRAIN])
    return image_adata(
        images,
        {
            "article": pd.Categorical.from_codes(codes, list(_ARTICLES)),
            "split": pd.Categorical(split),
        },
    )


def _read(
    arrays: DataFile,
    parts: tuple[DataFile, ...],
    directory: str | os.PathLike | None,
    verify: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Images ``(n, 1, 28, 28)`` and labels ``(n,)`` as bytes, those of test last."""
    if directory is None and (path := find(arrays, verify)) is not None:
        with np.load(path) as file:
            images = np.concatenate([file["x_train"], file["x_test"]])
            codes = np.concatenate([file["y_train"], file["y_test"]])
    else:
        contents = [_unpacked(part, directory, verify) for part in parts]
        # headers: four numbers before images, two before labels, of four bytes each
        images = np.concatenate([content[16:] for content in contents[::2]])
        codes = np.concatenate([content[8:] for content in contents[1::2]])
    images = images.reshape(-1, 1, 28, 28)
    if verify and len(codes) != _N_TRAIN + _N_TEST:
        raise ValueError(f"{arrays.folder} has {len(codes)} images, not {_N_TRAIN + _N_TEST}.")
    return images, codes


def _unpacked(file: DataFile, directory: str | os.PathLike | None, verify: bool) -> np.ndarray:
    """Bytes of one file, unpacked."""
    if directory is None:
        path = fetch(file, verify)
    else:
        path = Path(directory) / file.name
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing. {file.folder} is four files: train- and t10k-, "
                "images-idx3-ubyte.gz and labels-idx1-ubyte.gz."
            )
        if verify:
            check_sum(file, path)
    return np.frombuffer(gzip.decompress(path.read_bytes()), dtype=np.uint8)
