"""The encoder of hierarchical models, which mirrors the decoder's blocks and skips."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mixvi.satellite.ladder import Layer, children
from mixvi.satellite.ladder_networks import ACTIVATIONS, Block, Convolutions, Pointwise, rescaled
from mixvi.satellite.series import between_dates

N_DATE_PLANES = 3
# features of a date as a whole
_WIDTH = 64


class DateHead(nn.Module):
    """Numbers of each date from its features, mean over what is seen of it.

    Of a date of which nothing is seen, features are read linearly between its neighbours'.

    Parameters
    ----------
    n_in, n_out
        Numbers a date.
    activation
        Name of the activation.
    """

    def __init__(self, n_in: int, n_out: int, activation: str):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(n_in + N_DATE_PLANES, _WIDTH, 3, padding=1),
            ACTIVATIONS[activation](),
            nn.Conv1d(_WIDTH, n_out, 1),
        )

    def forward(self, features: Tensor, seen: Tensor, dates: Tensor) -> Tensor:
        """``(B, n_out, T)``.

        Parameters
        ----------
        features
            ``(B, n_in, T, H, W)``.
        seen
            ``(B, 1, T, H, W)``.
        dates
            ``(B, 3, T)``, see :meth:`mixvi.satellite.series.Series.dates`.
        """
        seen = seen.to(features.dtype)
        total = seen.sum((3, 4))
        mean = (features * seen).sum((3, 4)) / total.clamp_min(1.0)
        mean = between_dates(mean, total > 0, dates[:, 2])
        return self.body(torch.cat([mean, seen.mean((3, 4)), dates[:, :2]], dim=1))


class Encoder(nn.Module):
    """Evidence of each layer, from the image down to segmentation and codes.

    Block ``i`` mirrors the decoder's and gives ``d_{i-1}``; it sees ``d_{j-1}`` of all children
    ``j`` of layer ``i``. Block 1 ends in heads. Of series, what is of all dates is read from the
    mean of dates weighted by attention where they are seen, and what is of a date from it and that.

    Parameters
    ----------
    table
        Layers of the decoder.
    n_planes
        Channels of the input; the last three are the date.
    n_classes
        Channels of the segmentation's head; 0 for none.
    n_codes
        Channels of the heads of the codes of the tile, of dates and of pixels.
    n_parameters
        Numbers that a latent map has a channel, as evidence.
    n_seen
        Numbers that it has a channel for the next block.
    by_date
        Whether there is a segmentation a date, or one a series.
    convolutions
        What blocks are made of.
    """

    def __init__(
        self,
        table: tuple[Layer, ...],
        n_planes: int,
        n_classes: int,
        n_codes: tuple[int, int, int],
        n_parameters: int,
        n_seen: int,
        by_date: bool,
        convolutions: Convolutions,
    ):
        super().__init__()
        self.table = table
        n_layers = len(table)
        self._children = [children(table, t) for t in range(n_layers)]
        scales = [1, *(layer.scale for layer in table)]

        def seen(i: int) -> int:
            if i == n_layers:
                return n_planes
            return sum(n_seen * table[j - 2].n_channels for j in self._children[i])

        # block i at index i - 2; block 1 ends in heads
        self.blocks = nn.ModuleList(
            Block(
                convolutions.of_layer(table[i - 1]),
                seen(i),
                table[i - 1].encoder_hidden,
                n_parameters * table[i - 2].n_channels,
                (scales[i], scales[i - 1]),
                first=False,
            )
            for i in range(2, n_layers + 1)
        )
        hidden = table[0].encoder_hidden or (seen(1),)
        n_core = hidden[-1]
        of_core, of_places = convolutions.of_layer(table[0]), convolutions.of_places
        core = of_core.chain(seen(1), hidden[:-1], n_core)
        self.core = nn.Sequential(core, *convolutions.between(n_core))
        self._scales = (scales[1], 1)
        self._by_date = by_date
        self.attention = None
        if convolutions.kernel[0] > 1:
            self.attention = Pointwise(n_core, n_core, 1)
            self.shared = nn.Sequential(
                of_places.conv(n_core, n_core), *convolutions.between(n_core)
            )
            self.of_date, self.of_place = Pointwise(n_core, n_core, 1), Pointwise(n_core, n_core, 1)
            self.activation = ACTIVATIONS[convolutions.activation]()
        self.segmentation = self.date_code = self.place_code = None
        if n_classes:
            self.segmentation = (convolutions if by_date else of_places).conv(n_core, n_classes)
        n_code, n_date_code, n_place_code = n_codes
        self.code = of_places.conv(n_core, n_code)
        if n_date_code:
            self.date_code = DateHead(n_core, n_date_code, convolutions.activation)
        if n_place_code:
            self.place_code = of_places.conv(n_core, n_place_code)

    def forward(
        self,
        planes: Tensor,
        frame: Tensor,
        observed: Tensor | None = None,
        dates: Tensor | None = None,
        draw: Callable[[int, Tensor], Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Unconstrained parameters by the names of latents.

        ``"segmentation"`` (B, L, 1 or T, H, W), ``"code"`` (B, n), ``"date_code"`` (B, n, T),
        ``"place_code"`` (B, n, 1, H, W) and ``"z1"``, ``"z2"``, ... (B, n, T, H', W').

        Parameters
        ----------
        planes
            What is seen, ``(B, n_planes, T, H, W)``.
        frame
            Whether there was an acquisition, ``(B, T)``; one a row at least.
        observed
            Which pixels are seen on which date, ``(B, T, H, W)``; default all of a date.
        dates
            What is known of dates ``(B, 3, T)``; default the last of the planes.
        draw
            Gives what the next blocks see of layer ``t`` from its parameters; default these.
        """
        raw, passed = {}, {len(self.table): planes}
        for i in range(len(self.table), 1, -1):
            evidence = self.blocks[i - 2](self._seen(i, passed))
            raw[f"z{i - 1}"] = evidence
            passed[i - 1] = evidence if draw is None else draw(i - 1, evidence)
        core = rescaled(self.core(self._seen(1, passed)), *self._scales)
        shared, seen = core, frame[:, None, :, None, None].expand(-1, 1, -1, *planes.shape[3:])
        if self.attention is not None:
            acquired, seen = seen, seen if observed is None else seen & observed[:, None]
            # a pixel that is never seen: what its neighbours say of each date
            counted = torch.where(seen.any(2, keepdim=True), seen, acquired)
            shared = self.shared(self.pooled(core, counted))
            core = self.activation(self.of_date(core) + self.of_place(shared))
        if self.segmentation is not None:
            raw["segmentation"] = self.segmentation(core if self._by_date else shared)
        raw["code"] = self.code(shared).mean((2, 3, 4))
        if self.date_code is not None:
            dates = planes[:, -N_DATE_PLANES:, :, 0, 0] if dates is None else dates
            raw["date_code"] = self.date_code(core, seen, dates)
        if self.place_code is not None:
            raw["place_code"] = self.place_code(shared)
        return raw

    def heads(self, name: str) -> list[nn.Module]:
        """Convolutions that the evidence of a latent is the sum of, up to changes of scale."""
        if name.startswith("z"):
            block = self.blocks[int(name[1:]) - 1]
            return [block.body[-1], block.skip]
        head = getattr(self, name)
        return [head.body[-1] if isinstance(head, DateHead) else head]

    def pooled(self, core: Tensor, counted: Tensor) -> Tensor:
        """Features ``(B, n, 1, H, W)``, dates weighted by attention among those that count.

        Parameters
        ----------
        core
            Features of dates ``(B, n, T, H, W)``.
        counted
            Which dates count ``(B, 1, T, H, W)``, one at each pixel at least.
        """
        scores = self.attention(core).masked_fill(~counted, -torch.inf)
        return (scores.softmax(2) * core).sum(2, keepdim=True)

    def _seen(self, i: int, passed: dict[int, Tensor]) -> Tensor:
        if i == len(self.table):
            return passed[i]
        return torch.cat([passed[j - 1] for j in self._children[i]], dim=1)
