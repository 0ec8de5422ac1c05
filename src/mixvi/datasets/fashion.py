"""Fashion-MNIST from the four files its authors publish."""

from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from mixvi.datasets.fetch import DataFile, fetch
from mixvi.datasets.images import image_adata

_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
_ORIGIN = "Xiao, Rasul and Vollgraf (2017), https://github.com/zalandoresearch/fashion-mnist (MIT)."
# the authors publish MD5 sums, https://github.com/zalandoresearch/fashion-mnist
_FILES = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
_CLASSES = (
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


def fashion_mnist(directory: str | os.PathLike | None = None) -> AnnData:
    """70,000 pictures of clothes x 784 pixels (Xiao, Rasul and Vollgraf 2017; MIT licence).

    Image models take what :func:`mixvi.datasets.prepare_images` makes of it.

    Parameters
    ----------
    directory
        Where the four ``*-ubyte.gz`` files of the authors lie. ``None``: they are looked for in
        ``fashion_mnist`` below ``MIXVI_DATA_DIR`` and in the cache, and else downloaded from the
        authors' address (31 MB).

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
        If a file's MD5 sum is not the published one.
    """
    parts = {}
    for name, md5 in _FILES.items():
        if directory is None:
            path = fetch(
                DataFile("fashion_mnist", name, md5, _ORIGIN, f"{_URL}/{name}", algorithm="md5")
            )
        else:
            path = Path(directory) / name
        parts[name] = _read(path, md5)
    images = np.concatenate([v[16:] for k, v in parts.items() if "images" in k])
    codes = np.concatenate([v[8:] for k, v in parts.items() if "labels" in k])
    n_test = len(parts["t10k-labels-idx1-ubyte.gz"]) - 8
    split = np.repeat(["train", "test"], [len(codes) - n_test, n_test])
    return image_adata(
        images.reshape(-1, 1, 28, 28),
        {
            "article": pd.Categorical.from_codes(codes, list(_CLASSES)),
            "split": pd.Categorical(split),
        },
    )


def _read(path: Path, md5: str) -> np.ndarray:
    """Bytes of one unpacked file, its checksum verified; the header is the caller's to skip."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing. Fashion-MNIST is four files: {', '.join(_FILES)}."
        )
    packed = path.read_bytes()
    found = hashlib.md5(packed, usedforsecurity=False).hexdigest()
    if found != md5:
        raise ValueError(f"{path} is not the expected file: its MD5 is {found}, not {md5}.")
    return np.frombuffer(gzip.decompress(packed), dtype=np.uint8)
