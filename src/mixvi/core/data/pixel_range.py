"""The range that pixel values are on: inferred, checked, and compared with that of a model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

# rounding of a float image that was bytes before
_TOLERANCE = 1e-3
# chance of so many light images among images that are usually not
_IMPLAUSIBLE = 0.01


@dataclass(frozen=True)
class PixelValues:
    """What the values of images say of the range that they are on.

    Attributes
    ----------
    name
        What messages call the images.
    dtype
        Of their array.
    smallest, largest
        Of all values.
    n_images
        How many there are.
    n_light
        How many of them lie in [0, 1] as a whole, those of zeros left out: on a wider range they
        would be all light, or all dark.
    """

    name: str
    dtype: np.dtype
    smallest: float
    largest: float
    n_images: int
    n_light: int

    @property
    def is_bytes(self) -> bool:
        """Whether they are uint8."""
        return self.dtype == np.uint8

    @property
    def light_share(self) -> float:
        """Share of the images that are light."""
        return self.n_light / self.n_images

    @property
    def span(self) -> str:
        """Words for smallest and largest value."""
        return f"{self.name} has values from {self.smallest:.4g} to {self.largest:.4g}"

    def joined(self, other: PixelValues) -> PixelValues:
        """Of the images of both."""
        return replace(
            self,
            name=f"{self.name} with {other.name}",
            smallest=min(self.smallest, other.smallest),
            largest=max(self.largest, other.largest),
            n_images=self.n_images + other.n_images,
            n_light=self.n_light + other.n_light,
        )


def pixel_values(blocks: Iterable[np.ndarray], dtype: np.dtype, name: str) -> PixelValues:
    """Look at images ``(n, ...)`` block by block.

    Raises
    ------
    ValueError
        If a value is not finite.
    """
    smallest, largest, n_images, n_light = np.inf, -np.inf, 0, 0
    for block in blocks:
        flat = block.reshape(len(block), -1)
        low, high = flat.min(axis=1), flat.max(axis=1)
        # NaN and infinities reach both
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise ValueError(f"{name} has NaN or infinite values. Remove those images first.")
        smallest, largest = min(smallest, float(low.min())), max(largest, float(high.max()))
        n_images += len(flat)
        n_light += int(((low >= 0) & (high <= 1) & (high > 0)).sum())
    return PixelValues(name, np.dtype(dtype), smallest, largest, n_images, n_light)


def inferred_range(values: PixelValues) -> tuple[float, float]:
    """(0, 255) of bytes; (-1, 1) or (0, 1) of floats, by their values.

    Raises
    ------
    ValueError
        If the values leave several ranges open, or none.
    """
    low, high = values.smallest, values.largest
    if values.is_bytes:
        if values.n_light and high <= 1:
            raise ValueError(
                f"{values.span} as uint8, which would be black nearly alike. Pass "
                "pixel_range=(0, 1) if 1 is white, or (0, 255) if they are that dark."
            )
        return 0.0, 255.0
    if low < -1.0 - _TOLERANCE or high > 1.0 + _TOLERANCE:
        raise ValueError(
            f"{values.span}, but floats are expected in [-1, 1] or [0, 1]. Scale them, or pass "
            "pixel_range=(smallest, largest), e.g. (0, 255)."
        )
    if -0.5 < low < -_TOLERANCE or 0.0 < high - low < 0.1:
        raise ValueError(
            f"{values.span}: whether their range is [-1, 1] or [0, 1] cannot be told. Say it by "
            "pixel_range=(smallest, largest)."
        )
    return (-1.0, 1.0) if low < -_TOLERANCE else (0.0, 1.0)


def checked_range(pixel_range: object) -> tuple[float, float]:
    """A range as two numbers.

    Raises
    ------
    ValueError
        Unless it is a pair of numbers, the smaller one first.
    """
    try:
        smallest, largest = (float(value) for value in pixel_range)
    except (TypeError, ValueError):
        smallest = largest = 0.0
    if not -np.inf < smallest < largest < np.inf:
        raise ValueError(
            f"pixel_range must be (smallest, largest), e.g. (0, 255), but is {pixel_range!r}."
        )
    return smallest, largest


def check_within(values: PixelValues, pixel_range: tuple[float, float], advice: str) -> None:
    """Raise ValueError, with advice, if values lie outside of a range."""
    low, high = pixel_range
    slack = _TOLERANCE * (high - low)
    if values.smallest < low - slack or values.largest > high + slack:
        raise ValueError(
            f"{values.span}, outside of the range ({low:g}, {high:g}) of pixel values. {advice}"
        )


def check_scale(values: PixelValues, pixel_range: tuple[float, float], usual: float) -> None:
    """Raise ValueError if images seem to be in [0, 1], but are to be read on a wider range.

    Parameters
    ----------
    values
        Of the images.
    pixel_range
        What they are to be read as.
    usual
        Share of light images among those that the reader knows.
    """
    low, high = pixel_range
    within = values.smallest >= 0 and values.largest <= 1
    if high - low <= 1 or not within or usual**values.n_light > _IMPLAUSIBLE:
        return
    shift = f" {'+' if low > 0 else '-'} {abs(low):g}" if low else ""
    scaled = f"images * {high - low:g}{shift}"
    raise ValueError(
        f"{values.span}, but the model reads ({low:g}, {high:g}), and of its own images "
        f"{usual:.0%} lie in [0, 1]. Scale them as those were: {scaled}."
    )
