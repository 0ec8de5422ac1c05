"""Views of series: geometry that can be undone, and changes of light and gaps that need not be.

Hruška 2023, section 3.1. A geometric view maps each pixel of what is seen to a place in the series,
the same on all dates. Flips, quarter turns and shifts by whole pixels are exact; rotations and
scales interpolate. What comes from beyond the frame is invalid, and a mask says so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from mixvi.core.arguments import check_bool, check_options, check_positive, check_rate, check_weight
from mixvi.core.data.keys import VOID
from mixvi.satellite.series import Series

# share of the dates of series that each view lacks unless told
_DROPPED = 0.3


@dataclass(frozen=True)
class Views:
    """One geometric view for each series of a minibatch.

    Attributes
    ----------
    matrix
        ``(B, 2, 3)``: row and column of a pixel of the view, counted from the centre, to those in
        the series.
    size
        Height and width in pixels, of the series and of the view.
    is_exact
        Whether pixels fall on pixels, so that nothing is interpolated.
    """

    matrix: Tensor
    size: tuple[int, int]
    is_exact: bool = True

    @property
    def inverse(self) -> Views:
        """The view that brings what was seen back to where it lies in the series."""
        # of whole numbers the inverse is exact, but solvers round
        (a, b), (c, d) = self.matrix[:, 0, :2].unbind(1), self.matrix[:, 1, :2].unbind(1)
        turned_back = torch.stack([d, -b, -c, a], 1).view(-1, 2, 2) / (a * d - b * c).view(-1, 1, 1)
        shift = -turned_back @ self.matrix[:, :, 2:]
        return replace(self, matrix=torch.cat([turned_back, shift], dim=2))

    def places(self) -> Tensor:
        """Rows and columns, from the centre, that the view's pixels see, ``(B, 2, H, W)``."""
        height, width = self.size
        matrix = self.matrix
        rows = torch.arange(height, device=matrix.device) - (height - 1) / 2
        columns = torch.arange(width, device=matrix.device) - (width - 1) / 2
        grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij")).flatten(1)
        seen = matrix[:, :, :2] @ grid.to(matrix.dtype) + matrix[:, :, 2:]
        return seen.unflatten(2, self.size)

    def in_frame(self) -> Tensor:
        """Whether a pixel of the view lies in the series, ``(B, H, W)``."""
        return self._nearest()[1]

    def nearest(self, values: Tensor, fill: float) -> Tensor:
        """The view of values ``(B, ..., H, W)`` by the nearest pixel, ``fill`` beyond the frame."""
        index, inside = self._nearest()
        flat = values.flatten(1, -3) if values.ndim > 3 else values[:, None]
        # (B, F, H, W) by pixels (B, 1, H W)
        index = index.flatten(1)[:, None].expand(-1, flat.shape[1], -1)
        picked = flat.flatten(2).gather(2, index).unflatten(2, self.size)
        return torch.where(inside[:, None], picked, fill).reshape(values.shape)

    def maps(self, probabilities: Tensor) -> Tensor:
        """The view of distributions ``(B, ..., L, H, W)``, zeros beyond the frame.

        What is interpolated is normalised again.
        """
        if self.is_exact:
            return self.nearest(probabilities, 0.0)
        seen = self._bilinear(probabilities)
        seen = seen / seen.sum(-3, keepdim=True).clamp_min(1e-12)
        inside = self.in_frame()
        return torch.where(inside.view(len(seen), *[1] * (seen.ndim - 3), *self.size), seen, 0.0)

    def see(self, series: Series) -> Series:
        """The view of a series: values, gaps and labels together.

        Labels beyond the frame are void, never a target; values there are not observed.
        """
        observed = self.nearest(series.observed, False)
        if self.is_exact:
            x = self.nearest(series.x, 0.0)
        else:
            share = self._bilinear(series.observed.to(series.x.dtype))
            # a value of which less than half was measured is none
            observed = (share >= 0.5) & self.in_frame()[:, None, None]
            x = self._bilinear(series.x) / share.clamp_min(0.5)
        labels, soft = series.labels, series.soft_labels
        if labels is not None:
            labels = self.nearest(labels, VOID)
        if soft is not None:
            soft = self.nearest(soft, 0.0)
        return replace(series, labels=labels, soft_labels=soft).with_values(x, observed)

    def _nearest(self) -> tuple[Tensor, Tensor]:
        """Number of the pixel that is seen, and whether there is one, each ``(B, H, W)``."""
        height, width = self.size
        rows, columns = self.places().unbind(1)
        rows = (rows + (height - 1) / 2).round().long()
        columns = (columns + (width - 1) / 2).round().long()
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        return rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1), inside

    def _bilinear(self, values: Tensor) -> Tensor:
        height, width = self.size
        rows, columns = self.places().unbind(1)
        # torch counts columns first, and from edge to edge as -1 to 1
        grid = torch.stack([columns * (2 / width), rows * (2 / height)], dim=-1)
        seen = F.grid_sample(values.flatten(1, -3), grid.to(values.dtype), align_corners=False)
        return seen.reshape(values.shape)


def orientations(size: tuple[int, int]) -> list[Tensor]:
    """The turns and flips that leave a frame where it is, matrices ``(2, 2)``, identity first.

    Eight of a square; four of another rectangle.
    """
    one = torch.eye(2)
    quarter = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    mirrored = torch.diag(torch.tensor([1.0, -1.0]))
    if size[0] != size[1]:
        return [one, mirrored, -one, -mirrored]
    turns = [one, quarter, -one, -quarter]
    return turns + [mirrored @ turn for turn in turns]


def fixed_views(n: int, n_views: int, size: tuple[int, int], device: torch.device) -> list[Views]:
    """So many different exact views of each of ``n`` series, the series itself first.

    Raises
    ------
    ValueError
        If there are not so many.
    """
    known = orientations(size)
    check_positive("n_views", n_views)
    if n_views > len(known):
        raise ValueError(
            f"n_views: there are {len(known)} exact views of tiles of {size[0]} x {size[1]} "
            f"pixels, but {n_views} were asked for."
        )
    matrices = [F.pad(turn, (0, 1)).to(device).expand(n, 2, 3) for turn in known[:n_views]]
    return [Views(matrix, size) for matrix in matrices]


@dataclass(frozen=True)
class Augmentation:
    """How series are changed at random while a model is trained.

    Attributes
    ----------
    flips
        Whether tiles are mirrored along both axes; ``"horizontal"``: left and right alone, for
        photographs, whose sky stays above.
    turns
        Whether tiles are turned by quarters (squares alone).
    shift
        Tiles are shifted by up to so many pixels along each axis, which crops them.
    rotation
        Largest angle in degrees of further rotations, which interpolate; the thesis offers 45.
    scale
        Smallest and largest factor of enlargement, which interpolates; the thesis offers 0.5 to
        1.5.
    gain
        Standard deviation of the logarithm of a factor for each date.
    drop_dates
        Share of the dates that are taken away; one stays.
    paste_clouds
        Share of the series that get the gaps of another of the minibatch besides their own.

    Raises
    ------
    ValueError
        If a setting is out of range.
    """

    flips: bool | str = True
    turns: bool = True
    shift: int = 4
    rotation: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    gain: float = 0.0
    drop_dates: float = 0.0
    paste_clouds: float = 0.0

    def __post_init__(self):
        # lists are what files have of tuples
        factors = tuple(self.scale) if isinstance(self.scale, tuple | list) else ()
        for factor in factors:
            check_positive("scale", factor, integer=False)
        if len(factors) != 2 or not factors[0] <= factors[1] < float("inf"):
            raise ValueError(
                f"scale must be the smallest and the largest factor, but is {self.scale!r}."
            )
        object.__setattr__(self, "scale", factors)
        check_bool("turns", self.turns)
        if self.flips not in (True, False, "horizontal"):
            raise ValueError(f"flips must be True, False or 'horizontal', but is {self.flips!r}.")
        if self.flips == "horizontal" and self.turns:
            raise ValueError(
                "flips='horizontal' keeps what is above there, but turns do not: pass turns=False."
            )
        for name in ("shift", "rotation", "gain", "paste_clouds"):
            check_weight(name, getattr(self, name))
        if self.shift != int(self.shift):
            raise ValueError(f"shift must be a whole number of pixels, but is {self.shift!r}.")
        object.__setattr__(self, "shift", int(self.shift))
        check_rate("drop_dates", self.drop_dates)
        if self.paste_clouds > 1:
            raise ValueError(f"paste_clouds must lie in [0, 1], but is {self.paste_clouds!r}.")

    def views(self, series: Series) -> Views:
        """A geometric view of each series, drawn anew."""
        n, size, device = len(series), tuple(series.x.shape[-2:]), series.x.device
        known = torch.stack(self._orientations(size)).to(device)
        turned = known[torch.randint(len(known), (n,), device=device)]
        shift = torch.randint(-self.shift, self.shift + 1, (n, 2, 1), device=device).float()
        is_exact = self.rotation == 0 and self.scale == (1.0, 1.0)
        if not is_exact:
            angle = _uniform(n, -self.rotation, self.rotation, device).deg2rad()
            # an enlarged tile sees a smaller part of the series
            part = 1 / _uniform(n, *self.scale, device)
            sine, cosine = angle.sin(), angle.cos()
            rotated = torch.stack([cosine, -sine, sine, cosine], 1).view(n, 2, 2)
            turned = part.view(n, 1, 1) * rotated @ turned
        return Views(torch.cat([turned, shift], dim=2), size, is_exact)

    def change(self, series: Series, dark: Tensor) -> Series:
        """Series in a view and light drawn anew; ``dark`` as for :meth:`relight`."""
        return self.relight(self.views(series).see(series), dark)

    def relight(self, series: Series, dark: Tensor) -> Series:
        """Light and gaps changed at random, date by date; needs no inverse.

        Parameters
        ----------
        series
            A minibatch.
        dark
            Standardised value of zero reflectance of each band, ``(C,)``.
        """
        x, observed, frame = series.x, series.observed, series.frame
        n, n_dates = frame.shape
        if self.gain:
            factor = (self.gain * torch.randn(n, n_dates, 1, 1, 1, device=x.device)).exp()
            dark = dark.view(-1, 1, 1)
            x = dark + factor * (x - dark)
        if self.paste_clouds:
            donor = torch.randperm(n, device=x.device)
            pasted = torch.rand(n, device=x.device) < self.paste_clouds
            # a date that the other has not is no cloud
            clear = observed[donor] | ~frame[donor][..., None, None, None]
            observed = observed & (clear | ~pasted.view(-1, 1, 1, 1, 1))
        if self.drop_dates:
            kept = frame & (torch.rand(n, n_dates, device=x.device) >= self.drop_dates)
            none_left = ~kept.any(1, keepdim=True)
            frame = torch.where(none_left, frame, kept)
            observed = observed & frame[..., None, None, None]
        return replace(series, frame=frame).with_values(x, observed)

    def _orientations(self, size: tuple[int, int]) -> list[Tensor]:
        known = orientations(size)
        if self.turns and self.flips:
            return known
        if self.turns:
            return [turn for turn in known if torch.det(turn) > 0]
        across = torch.diag(torch.tensor([1.0, -1.0]))
        if self.flips == "horizontal":
            return [torch.eye(2), across]
        return [torch.eye(2), across, -torch.eye(2), -across] if self.flips else known[:1]


def make_augmentation(settings: dict | None, n_dates: int) -> Augmentation:
    """The augmentation of given settings; of series, dates are taken away unless they say not to.

    Raises
    ------
    ValueError
        If a setting is unknown or out of range.
    """
    if settings is False:
        raise ValueError(
            "augmentation must be a dict of options, but is False. To change nothing pass "
            "{'flips': False, 'turns': False, 'shift': 0}, and of series 'drop_dates': 0.0."
        )
    settings = {} if settings is None else settings
    known = list(Augmentation.__dataclass_fields__)
    check_options("augmentation", settings, known, "Augmentation")
    unless_told = {"drop_dates": _DROPPED} if n_dates > 1 else {}
    return Augmentation(**unless_told | settings)


def _uniform(n: int, low: float, high: float, device: torch.device) -> Tensor:
    return low + (high - low) * torch.rand(n, device=device)
