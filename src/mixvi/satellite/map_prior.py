"""A learnt distribution of segmentations, from coarse to fine, that maps are drawn from whole.

Every second pixel of a map makes a map of half the size, down to one pixel. That of a coarser size
given, the pixels between are drawn in three turns, as by Reed et al. 2017 (*Parallel multiscale
autoregressive density estimation*, here diagonal neighbours first): none of a turn is beside
another of it, so that each sees on all sides what was drawn before, and regions keep together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixvi.core.maths.exponential_families import Categorical

# first row and column of the pixels of each turn
_TURNS = ((0, 0), (1, 1), (0, 1), (1, 0))


class MapPrior(nn.Module):
    """p(s) of one-hot maps ``(B, L, T, H, W)``, exact and of any size; T is 1 for one map a series.

    Dates follow each other: a pixel sees the pixels of its own turn at the date before, itself
    among them, and those of earlier turns at both neighbouring dates. Days play no part: a change
    is as probable at one date as at another.

    Parameters
    ----------
    n_classes
        Classes L.
    by_date
        Whether maps are sequences.
    size
        Height and width of the maps that it learns from.
    width
        Channels of the networks, one a turn, which all sizes share.
    """

    def __init__(self, n_classes: int, by_date: bool, size: tuple[int, int], width: int = 32):
        super().__init__()
        n_levels = max(1, (max(size) - 1).bit_length())
        # of the single pixel that is drawn first, from its class at the date before
        self.first = nn.Linear(n_classes, n_classes)
        nn.init.zeros_(self.first.weight)
        nn.init.zeros_(self.first.bias)
        self.turns = nn.ModuleList(
            _Turn(n_known * n_classes, n_classes, by_date, n_levels, width) for n_known in (1, 2, 3)
        )

    def log_prob(self, maps: Tensor, level: int = 0) -> Tensor:
        """Log p of each pixel given those drawn before it, ``(B, T, H, W)``; their sum is log p(s).

        Parameters
        ----------
        maps
            One-hot ``(B, L, T, H, W)``.
        level
            How often they were halved.
        """
        if maps.shape[-2:] == (1, 1):
            return _log_prob(self._first_logits(_shifted(maps, 1)), maps)
        parts = _split(maps)
        found = [self.log_prob(parts[0], level + 1)]
        for n_known, turn in enumerate(self.turns, start=1):
            logits = turn(torch.cat(parts[:n_known], dim=1), parts[n_known], level)
            found.append(_log_prob(logits, parts[n_known]))
        return _joined(found, maps.shape[-2:])

    @torch.no_grad()
    def sample(self, n: int, n_dates: int, size: tuple[int, int], level: int = 0) -> Tensor:
        """Draws, one-hot ``(n, L, T, H, W)``."""
        if tuple(size) == (1, 1):
            drawn = self.first.bias.new_zeros(n, self.first.out_features, 1, 1, 1)
            dates = []
            for _ in range(n_dates):
                drawn = Categorical(self._first_logits(drawn)).sample()
                dates.append(drawn)
            return torch.cat(dates, dim=2)
        height, width = size
        parts = [self.sample(n, n_dates, ((height + 1) // 2, (width + 1) // 2), level + 1)]
        for (row, column), turn in zip(_TURNS[1:], self.turns, strict=True):
            part = turn.sample(torch.cat(parts, dim=1), level)
            # what lies beyond the edge has no class, as in log_prob
            part[..., (height + 1 - row) // 2 :, :] = 0
            part[..., (width + 1 - column) // 2 :] = 0
            parts.append(part)
        return _joined(parts, size)

    def _first_logits(self, before: Tensor) -> Tensor:
        return self.first(before.movedim(1, -1)).movedim(-1, 1)


@dataclass(frozen=True)
class Maps:
    """The learnt distribution of maps of one size, as one of the priors of a model.

    Attributes
    ----------
    prior
        Its network.
    shape
        ``(B, T, H, W)``.
    """

    prior: MapPrior
    shape: tuple[int, int, int, int]

    def log_prob(self, maps: Tensor) -> Tensor:
        """Log p of each pixel given those before it, ``(B, T, H, W)``."""
        return self.prior.log_prob(maps)

    def sample(self) -> Tensor:
        """One-hot maps ``(B, L, T, H, W)``."""
        n, n_dates, *size = self.shape
        return self.prior.sample(n, n_dates, tuple(size))


class _Turn(nn.Module):
    """Logits of the pixels of a turn from those of the turns before; convolutions have no dates.

    Parameters
    ----------
    n_known, n_classes
        Channels of what it sees and gives.
    by_date
        Whether it sees neighbouring dates, and what it gave for the date before.
    n_levels
        Sizes, each of which has a shift of its own.
    width
        Channels between.
    """

    def __init__(self, n_known: int, n_classes: int, by_date: bool, n_levels: int, width: int):
        super().__init__()
        self._n_classes, self._by_date = n_classes, by_date
        n_planes = 3 * n_known + n_classes if by_date else n_known
        self.first = nn.Conv2d(n_planes, width, 3, padding=1)
        self.shift = nn.Parameter(torch.zeros(n_levels, width, 1, 1))
        last = nn.Conv2d(width, n_classes, 1)
        # maps are noise before anything is learnt
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.rest = nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), last)

    def forward(self, known: Tensor, maps: Tensor, level: int) -> Tensor:
        """Logits ``(B, L, T, H, W)`` of one-hot ``maps``, of which a date sees the one before."""
        return self._logits(self._around(known), _shifted(maps, 1), level)

    def sample(self, known: Tensor, level: int) -> Tensor:
        """Draws, one-hot ``(B, L, T, H, W)``, one date after another."""
        drawn = known.new_zeros(len(known), self._n_classes, 1, *known.shape[3:])
        dates = []
        for of_date in self._around(known).split(1, dim=2):
            drawn = Categorical(self._logits(of_date, drawn, level)).sample()
            dates.append(drawn)
        return torch.cat(dates, dim=2)

    def _around(self, known: Tensor) -> Tensor:
        """What is known of each date and of its neighbours, ``(B, n, T, H, W)``."""
        if not self._by_date:
            return known
        return torch.cat([_shifted(known, 1), known, _shifted(known, -1)], dim=1)

    def _logits(self, around: Tensor, before: Tensor, level: int) -> Tensor:
        planes = torch.cat([around, before], dim=1) if self._by_date else around
        # maps larger than those that were learnt: as the coarsest
        shift = self.shift[min(level, len(self.shift) - 1)]
        logits = self.rest(self.first(planes.transpose(1, 2).flatten(0, 1)) + shift)
        return logits.unflatten(0, (len(planes), -1)).transpose(1, 2)


def _log_prob(logits: Tensor, maps: Tensor) -> Tensor:
    """``(B, T, H, W)``; 0 where a map has no class."""
    return (logits.log_softmax(1) * maps).sum(1)


def _shifted(maps: Tensor, n_dates: int) -> Tensor:
    """Maps ``(B, n, T, H, W)`` later by a date, or earlier by -1; zeros where there are none."""
    n_total = maps.shape[2]
    maps = F.pad(maps, (0, 0, 0, 0, max(n_dates, 0), max(-n_dates, 0)))
    return maps[:, :, :n_total] if n_dates > 0 else maps[:, :, -n_total:]


def _split(maps: Tensor) -> list[Tensor]:
    """The pixels of each turn ``(..., ceil(H / 2), ceil(W / 2))``; zeros beyond the edge."""
    height, width = maps.shape[-2:]
    maps = F.pad(maps, (0, width % 2, 0, height % 2))
    return [maps[..., row::2, column::2] for row, column in _TURNS]


def _joined(parts: list[Tensor], size: tuple[int, int]) -> Tensor:
    """The opposite of :func:`_split`."""
    height, width = parts[0].shape[-2:]
    maps = parts[0].new_empty(*parts[0].shape[:-2], 2 * height, 2 * width)
    for (row, column), part in zip(_TURNS, parts, strict=True):
        maps[..., row::2, column::2] = part
    return maps[..., : size[0], : size[1]]
