"""Views of images and vectors: changes that leave what they show as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mixvi.core import arguments
from mixvi.images.classifier_networks import shifted


@dataclass(frozen=True)
class Views:
    """How a view differs from the image or vector that it is of.

    Attributes
    ----------
    shift
        Pixels that images move by at most, along each axis, edges mirrored.
    flip
        Whether left and right may change places.
    noise
        Standard deviation of Gaussian noise on pixels in [-1, 1] or on standardised features.
    """

    shift: int = 2
    flip: bool = False
    noise: float = 0.0

    def __post_init__(self):
        arguments.check_count("shift", self.shift)
        arguments.check_bool("flip", self.flip)
        arguments.check_weight("noise", self.noise)

    def __call__(self, x: Tensor) -> Tensor:
        """A view of each row, ``(B, C, H, W)``."""
        if self.shift or self.flip:
            x = shifted(x, self.shift, self.flip)
        return x + self.noise * torch.randn_like(x) if self.noise else x


def made_views(
    options: Mapping | None, image_shape: tuple[int, int, int], of_vectors: bool
) -> Views:
    """Views by a model's ``view_kwargs``.

    Parameters
    ----------
    options
        Settings of :class:`Views`; default a shift of two pixels for images, noise of 0.3 for
        vectors.
    image_shape
        (C, H, W) of what views are made of.
    of_vectors
        Whether these are vectors, which have no sides.

    Raises
    ------
    ValueError
        If a setting is unknown or unusable, or the rows cannot be moved that far.
    """
    arguments.check_options("view_kwargs", options, ("shift", "flip", "noise"), "a view")
    defaults = {"shift": 0, "noise": 0.3} if of_vectors else {}
    views = Views(**defaults | dict(options or {}))
    if of_vectors and (views.shift or views.flip):
        raise ValueError(
            "view_kwargs: vectors cannot be shifted or flipped. Leave 'noise' alone in them."
        )
    _, *sides = image_shape
    if views.shift >= min(sides) and views.shift:
        raise ValueError(
            f"view_kwargs: shift={views.shift}, but images have {sides[0]} x {sides[1]} pixels. "
            "Lower it."
        )
    if not (views.shift or views.flip or views.noise):
        raise ValueError("view_kwargs: views are the images as they are. Ask for some change.")
    return views
