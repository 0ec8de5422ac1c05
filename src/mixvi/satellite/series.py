"""A minibatch of series: values, where there are any, dates and labels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

DAYS_A_YEAR = 365.25


@dataclass(frozen=True)
class Series:
    """Series of images with gaps; arrays of a minibatch ``B`` on the model's device.

    Attributes
    ----------
    x
        ``(B, T, C, H, W)``, standardised by band; zero, the mean of the band, where nothing is
        observed.
    observed
        ``(B, T, C, H, W)`` bool: whether a value is a measurement to be trusted.
    frame
        ``(B, T)`` bool: whether there was an acquisition at all.
    time
        ``(B, T)``, days since 1970-01-01; zeros where the model knows no dates.
    labels
        ``(B, H, W)``, or ``(B, T, H, W)`` for a map a date: class, -1 unlabelled, -2 void; None
        without labels.
    """

    x: Tensor
    observed: Tensor
    frame: Tensor
    time: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: Tensor) -> Series:
        """The series that a mask or row numbers choose."""
        labels = None if self.labels is None else self.labels[rows]
        return Series(self.x[rows], self.observed[rows], self.frame[rows], self.time[rows], labels)

    def with_values(self, x: Tensor, observed: Tensor) -> Series:
        """Other values and gaps of the same dates; values that are not observed become zero."""
        return replace(self, x=torch.where(observed, x, 0.0), observed=observed)

    @property
    def support(self) -> Tensor:
        """Whether a pixel was ever observed ``(B, H, W)``; for labels by date ``(B, T, H, W)``."""
        seen = self.observed.any(2)
        return seen if self.labels is not None and self.labels.ndim == 4 else seen.any(1)

    @property
    def labelled(self) -> Tensor:
        """Whether a pixel has a class, in the shape of the labels."""
        return self.labels >= 0

    def dates(self) -> Tensor:
        """Sine and cosine of the day of the year, and years since 2015, ``(B, 3, T)``."""
        # a date without an acquisition may be unknown
        time = torch.where(self.time.isfinite(), self.time, 0.0)
        angle = time * (2 * torch.pi / DAYS_A_YEAR)
        years = (time / DAYS_A_YEAR - 45.0) * (time != 0)
        return torch.stack([angle.sin(), angle.cos(), years], dim=1)

    def planes(self) -> Tensor:
        """What networks see, ``(B, 2C + 3, T, H, W)``: values, observed or not, and the date."""
        dates = (self.dates() * self.frame[:, None]).transpose(1, 2)
        dates = dates[..., None, None].expand(-1, -1, -1, *self.x.shape[3:])
        return torch.cat([self.x, self.observed.to(self.x.dtype), dates], dim=2).transpose(1, 2)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over what a mask ``True`` chooses, of the whole batch; zero if it chooses nothing."""
    mask = mask.to(values.dtype)
    return (values * mask).sum() / mask.sum().clamp_min(1.0)
