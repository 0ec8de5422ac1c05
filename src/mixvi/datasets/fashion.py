"""Fashion-MNIST from the four files its authors publish, wherever they lie."""

from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

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


def fashion_mnist(directory: str | os.PathLike) -> AnnData:
    """70,000 pictures of clothes x 784 pixels (Xiao, Rasul and Vollgraf 2017; MIT licence).

    Parameters
    ----------
    directory
        Where the four ``*-ubyte.gz`` files of the authors lie; mixvi does not download them.

    Returns
    -------
    AnnData with grey levels in [0, 1] in ``X`` (float32, (70000, 784)), ``obs["article"]`` (10
    categories) and ``obs["split"]`` (``"train"``, 60,000; ``"test"``, 10,000).

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a file's MD5 sum is not the published one.
    """
    parts = {name: _read(Path(directory) / name, md5) for name, md5 in _FILES.items()}
    images = np.concatenate([v[16:] for k, v in parts.items() if "images" in k])
    codes = np.concatenate([v[8:] for k, v in parts.items() if "labels" in k])
    x = images.reshape(len(codes), -1).astype(np.float32) / 255.0
    n_test = len(parts["t10k-labels-idx1-ubyte.gz"]) - 8
    split = np.repeat(["train", "test"], [len(codes) - n_test, n_test])
    obs = pd.DataFrame(
        {
            "article": pd.Categorical.from_codes(codes, list(_CLASSES)),
            "split": pd.Categorical(split),
        },
        index=[f"image_{i}" for i in range(len(codes))],
    )
    return AnnData(x, obs=obs)


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
