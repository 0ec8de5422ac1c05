"""A minibatch of series: values, where there are any, dates and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn import functional as F

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
    soft_labels
        Distributions over the classes ``(B, L, H, W)`` or ``(B, T, L, H, W)``, zeros where the
        label says all; None without any. Where they are known, labels are the most probable.
    """

    x: Tensor
    observed: Tensor
    frame: Tensor
    time: Tensor
    labels: Tensor | None = None
    soft_labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: Tensor) -> Series:
        """The series that a mask or row numbers choose."""
        return replace(self, **{name: values[rows] for name, values in self._arrays().items()})

    @staticmethod
    def joined(parts: Sequence[Series]) -> Series:
        """All series of the parts, in order; parts have arrays alike."""
        names = parts[0]._arrays()
        return Series(**{name: torch.cat([getattr(s, name) for s in parts]) for name in names})

    def _arrays(self) -> dict[str, Tensor]:
        """Those that are there, by name."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: values for name, values in found.items() if values is not None}

    def replaced(self, rows: Tensor, other: Series) -> Series:
        """The series, those that a mask chooses being the other's."""
        parts = {}
        for name, own in self._arrays().items():
            chosen = rows.view(-1, *[1] * (own.ndim - 1))
            parts[name] = torch.where(chosen, getattr(other, name), own)
        return replace(self, **parts)

    def with_values(self, x: Tensor, observed: Tensor) -> Series:
        """Other values and gaps of the same dates; values that are not observed become zero."""
        return replace(self, x=torch.where(observed, x, 0.0), observed=observed)

    def under_other_gaps(self, share: float) -> Series:
        """The series with more gaps: a share of the dates has those of another date and row, too.

        These are mirrored at random. A row that nothing would be left of keeps what it has.
        """
        n, n_dates = self.time.shape
        if not share:
            return self
        device = self.x.device
        rows = torch.randint(n, (n, n_dates), device=device)
        dates = torch.randint(n_dates, (n, n_dates), device=device)
        other = self.observed[rows, dates]
        for axis in (-1, -2):
            mirrored = torch.rand(n, n_dates, 1, 1, 1, device=device) < 0.5
            other = torch.where(mirrored, other.flip(axis), other)
        chosen = torch.rand(n, n_dates, 1, 1, 1, device=device) < share
        left = self.observed & (other | ~chosen)
        some = left.flatten(1).any(1)[:, None, None, None, None]
        return self.with_values(self.x, torch.where(some, left, self.observed))

    @property
    def support(self) -> Tensor:
        """Whether a pixel was ever observed ``(B, H, W)``; for labels by date ``(B, T, H, W)``."""
        seen = self.observed.any(2)
        return seen if self.labels is not None and self.labels.ndim == 4 else seen.any(1)

    @property
    def labelled(self) -> Tensor:
        """Whether a pixel has a class, in the shape of the labels."""
        return self.labels >= 0

    def targets(self, n_classes: int) -> Tensor:
        """Labels as distributions ``(B, ..., L, H, W)``; zeros without a class."""
        one_hot = F.one_hot(self.labels.clamp_min(0), n_classes).movedim(-1, -3).float()
        hard = one_hot * self.labelled.unsqueeze(-3)
        if self.soft_labels is None:
            return hard
        return torch.where(self.soft_labels.sum(-3, keepdim=True) > 0, self.soft_labels, hard)

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


def between_dates(x: Tensor, known: Tensor, time: Tensor) -> Tensor:
    """Numbers of dates, where they are not known read linearly between those that are.

    Parameters
    ----------
    x
        Numbers ``(B, n, T, ...)``.
    known
        Whether they are known, as many or one for all n.
    time
        ``(B, T)``; of rows whose dates are all alike their order counts.

    Returns
    -------
    Numbers in the shape of ``x``; constant beyond the first and last, 0 where none is known.
    """
    n_dates = x.shape[2]
    shape = (len(x), 1, n_dates, *[1] * (x.ndim - 3))
    known = known.expand_as(x)
    order = torch.arange(n_dates, device=x.device).view(1, *shape[1:]).expand_as(x)
    alike = time.amax(1, keepdim=True) == time.amin(1, keepdim=True)
    time = torch.where(alike, torch.arange(n_dates, device=x.device), time).to(x.dtype)
    time = time.view(shape).expand_as(x)
    before = torch.where(known, order, -1).cummax(2).values
    after = torch.where(known, order, n_dates).flip(2).cummin(2).values.flip(2)
    first = torch.where(before < 0, after, before).clamp_max(n_dates - 1)
    last = torch.where(after == n_dates, before, after).clamp_min(0)
    since, until = time - time.gather(2, first), time.gather(2, last) - time
    share = (since / (since + until).clamp_min(1e-6)).clamp(0, 1)
    between = (1 - share) * x.gather(2, first) + share * x.gather(2, last)
    return torch.where(known.any(2, keepdim=True), between, 0.0)
