"""Segmentations that dreams start from: what plays pi(s) (Hruška 2023, section 3.3)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

DREAM_MAPS = ("auto", "bank", "completed", "external", "learned", "uniform")


def check_dream_maps(dream_maps: str, maps_key: str | None, n_classes: int) -> None:
    """Raise ValueError unless there can be dreams of this kind."""
    if dream_maps not in DREAM_MAPS:
        names = ", ".join(map(repr, DREAM_MAPS))
        raise ValueError(f"dream_maps={dream_maps!r} is not known. Known: {names}.")
    if (dream_maps == "external") != (maps_key is not None):
        raise ValueError(
            "dream_maps='external' needs maps_key, the key of obsm with maps of your own, and "
            "nothing else does."
        )
    if dream_maps == "learned" and not n_classes:
        raise ValueError(
            "dream_maps='learned' is a distribution of segmentations, but the model knows no "
            "classes. Pass labels_key to setup_anndata, or leave dream_maps out."
        )


def settled_dream_maps(dream_maps: str, maps: np.ndarray) -> tuple[str, np.ndarray]:
    """The kind of dreams, and the maps that they start from; none if they are made in training.

    Where their distribution is learnt, the maps that it is learnt from.

    Parameters
    ----------
    dream_maps
        One of those known.
    maps
        Labels of the training tiles, or maps of one's own, ``(n, [T], H, W)``.

    Raises
    ------
    ValueError
        If dreams need fully labelled maps and there are none.
    """
    complete = maps[(maps >= 0).reshape(len(maps), -1).all(1)]
    if dream_maps == "auto":
        dream_maps = "bank" if len(complete) else "completed"
    if dream_maps == "bank" and not len(complete):
        raise ValueError(
            "dream_maps='bank': no training tile has a label at every pixel. Pass "
            "dream_maps='completed', which fills the gaps of labels by the encoder, or 'external' "
            "with an older map."
        )
    if dream_maps == "external" and len(complete) < len(maps):
        raise ValueError(
            f"maps_key: {len(maps) - len(complete)} of {len(maps)} maps have pixels without a "
            "class. Dreams start from whole maps."
        )
    return dream_maps, complete if dream_maps in ("bank", "external", "learned") else maps[:0]


def turned(maps: Tensor) -> Tensor:
    """Maps ``(n, ..., H, W)``, each mirrored and, if square, turned at random."""
    shape = (len(maps),) + (1,) * (maps.ndim - 1)
    for axis in (-1, -2):
        chosen = torch.rand(shape, device=maps.device) < 0.5
        maps = torch.where(chosen, maps.flip(axis), maps)
    if maps.shape[-1] == maps.shape[-2]:
        chosen = torch.rand(shape, device=maps.device) < 0.5
        maps = torch.where(chosen, maps.transpose(-1, -2), maps)
    return maps
