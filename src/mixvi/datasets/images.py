"""Image data sets as AnnData, one image a row."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData

from mixvi.datasets.cells import check_data
from mixvi.datasets.fetch import DataFile, fetch

MNIST = DataFile(
    "mnist",
    "mnist.npz",
    "229a1ff493d3c9db88d50c05b1f870b46a6cb8c40f84f37aed4cd6490a8b2fe9",
    "LeCun, Cortes and Burges (CC BY-SA 3.0), from the repository taneishi/convnetjs (MIT).",
)
_N_TRAIN, _N_TEST, _N_HELD_OUT = 60_000, 3_000, 10_000
_TRAIN_DIGITS = (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)


def mnist() -> AnnData:
    """63,000 handwritten digits x 784 pixels: all training images and the first 3,000 of test.

    Returns
    -------
    AnnData with grey levels in [0, 1] in ``X`` (float32, (63000, 784)), the same as
    ``obsm["image"]`` ((63000, 1, 28, 28), a view), ``obs["digit"]`` (``"0"`` to ``"9"``) and
    ``obs["split"]``: ``"train"`` (the first 50,000 training images), ``"held_out"`` (the last
    10,000 of them) and ``"test"`` (3,000 official test images, which are of the cleaner half and
    flatter).

    Raises
    ------
    FileNotFoundError
        If the file is neither here nor to be downloaded.
    ValueError
        If its checksum, shape or class counts are not as expected.
    """
    with np.load(fetch(MNIST)) as file:
        images = np.concatenate([file["x_train"], file["x_test"]])
        digits = np.concatenate([file["y_train"], file["y_test"]]).astype(str)
    n = len(images)
    x = images.reshape(n, -1).astype(np.float32) / 255.0
    split = np.repeat(
        ["train", "held_out", "test"], [_N_TRAIN - _N_HELD_OUT, _N_HELD_OUT, n - _N_TRAIN]
    )
    obs = pd.DataFrame(
        {"digit": pd.Categorical(digits), "split": pd.Categorical(split)},
        index=[f"image_{i}" for i in range(n)],
    )
    var = pd.DataFrame(index=[f"pixel_{i}_{j}" for i in range(28) for j in range(28)])
    adata = AnnData(x, obs=obs, var=var, obsm={"image": x.reshape(n, 1, 28, 28)})
    check_data(adata, MNIST.name, (_N_TRAIN + _N_TEST, 784), {})
    found = np.bincount(digits[:_N_TRAIN].astype(int))
    if tuple(found) != _TRAIN_DIGITS:
        raise ValueError(f"{MNIST.name}: {found} images of each digit, not {_TRAIN_DIGITS}.")
    return adata
