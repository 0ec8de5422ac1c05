"""Drawings of characters of many alphabets, twenty of each (Lake et al. 2015)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData

from mixvi.core.arguments import shown
from mixvi.datasets.cells import check_data
from mixvi.datasets.fetch import DataFile, fetch
from mixvi.datasets.images import image_adata

_ORIGIN = "Lake et al. (2015), from the repository brendenlake/omniglot (MIT)."
OMNIGLOT = DataFile(
    "omniglot_small",
    "omniglot_small.npz",
    "26d15c1c0eaec3c9d528f7c73dea0257a01a9c9136eed0da382d208b32240cb5",
    _ORIGIN,
)
OMNIGLOT_ONE_SHOT = DataFile(
    "omniglot_small",
    "omniglot_oneshot_runs.npz",
    "aacef1f87807241a024edb39304fa3d2d2990a8e27f0ee98da341c8a85989000",
    _ORIGIN,
)
_SIDE = 105
_SIZES = (28, _SIDE)
_ALPHABETS = {
    "Balinese": 24,
    "Early_Aramaic": 22,
    "Greek": 24,
    "Japanese_(katakana)": 47,
    "Korean": 40,
    "Latin": 26,
    "Sanskrit": 42,
    "Tagalog": 17,
}
_N_DRAWERS = 20


def omniglot(size: int = 28, *, verify: bool = True) -> AnnData:
    """4,840 drawings of 242 characters of eight alphabets, ink being light (Lake et al. 2015).

    The two small background sets, not all of Omniglot (964 characters of 30 alphabets): quote
    results as "on this part". Image models take what :func:`prepare_images` makes of it.

    Parameters
    ----------
    size
        28: shrunk by a box filter, with grey levels; 105: black and white as they were drawn.
    verify
        Whether the file must have the expected checksum and contents.

    Returns
    -------
    AnnData with levels in [0, 1] in ``X`` (float32, (4840, size * size)), the same as
    ``obsm["image"]`` ((4840, 1, size, size), a view), ``uns["image_shape"]``,
    ``obs["alphabet"]`` (8), ``obs["character"]`` (242, such as ``"Greek/character01"``),
    ``obs["drawer"]`` (20 to a character) and ``obs["small_set"]`` (``"1"``, ``"2"`` or
    ``"both"``: the original's sets).

    Raises
    ------
    FileNotFoundError
        If the file is neither here nor to be downloaded.
    ValueError
        If there is no such size, or the checksum or the counts are not as expected.
    """
    if size not in _SIZES:
        raise ValueError(f"size must be 28 or 105, but is {shown(size)}.")
    with np.load(fetch(OMNIGLOT, verify)) as file:
        images = file["images_28"] if size == 28 else _unpacked(file["images_packed"])
        columns = {
            "alphabet": pd.Categorical.from_codes(file["alphabet"], file["alphabet_names"]),
            "character": pd.Categorical.from_codes(file["character"], file["character_names"]),
            "drawer": pd.Categorical(file["drawer"]),
            "small_set": pd.Categorical.from_codes(file["small_set"] - 1, ["1", "2", "both"]),
        }
    adata = image_adata(images[:, None], columns)
    if verify:
        counts = {name: n * _N_DRAWERS for name, n in _ALPHABETS.items()}
        check_data(adata, OMNIGLOT.name, (sum(counts.values()), size**2), {"alphabet": counts})
    return adata


def omniglot_one_shot(*, verify: bool = True) -> AnnData:
    """The twenty tasks of telling twenty new characters apart from one drawing of each.

    In a run, each test drawing is of the character of one training drawing (Lake et al. 2015; the
    original scores the mean over its 20 runs). No character is among those of :func:`omniglot`.

    Parameters
    ----------
    verify
        Whether the file must have the expected checksum.

    Returns
    -------
    AnnData ``(800, 105 * 105)`` in the form of :func:`omniglot`, with ``obs["run"]`` (0 to 19),
    ``obs["split"]`` (``"train"``, ``"test"``) and ``obs["item"]``, the number of the character in
    its run (0 to 19), which is what is to be predicted of test drawings.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`omniglot`.
    """
    with np.load(fetch(OMNIGLOT_ONE_SHOT, verify)) as file:
        sides = [_unpacked(file[name]) for name in ("train_packed", "test_packed")]
        of_test = file["test_class"]
    n_runs, n_items = of_test.shape
    items = np.stack([np.broadcast_to(np.arange(n_items), of_test.shape), of_test])
    columns = {
        "run": pd.Categorical(np.tile(np.repeat(np.arange(n_runs), n_items), 2)),
        "split": pd.Categorical(np.repeat(["train", "test"], of_test.size)),
        "item": pd.Categorical(items.ravel()),
    }
    return image_adata(np.stack(sides).reshape(-1, 1, _SIDE, _SIDE), columns)


def _unpacked(packed: np.ndarray) -> np.ndarray:
    """Bytes ``(..., 105, 105)``, 255 where there is ink, from bits."""
    bits = np.unpackbits(packed, axis=-1)[..., : _SIDE**2]
    return bits.reshape(*packed.shape[:-1], _SIDE, _SIDE) * np.uint8(255)
