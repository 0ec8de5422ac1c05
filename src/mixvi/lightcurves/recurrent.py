"""A recurrent autoencoder of irregular series (Naul et al. 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from mixvi.lightcurves.curves import Curves

_N_LAYERS = 2
_DROPOUT = 0.25


class RecurrentAutoencoder(nn.Module):
    """Bidirectional GRUs that read steps of phase and magnitudes, and GRUs that read steps alone.

    Magnitudes are reconstructed from the code, repeated, and the steps; their squared errors are
    weighed by those of the photometry.

    Parameters
    ----------
    n_latent
        Size of the code.
    width
        Units of a recurrent layer.
    """

    def __init__(self, n_latent: int = 64, width: int = 96):
        super().__init__()
        options = {"num_layers": _N_LAYERS, "dropout": _DROPOUT, "batch_first": True}
        self.reader = nn.GRU(2, width, bidirectional=True, **options)
        self.code = nn.Linear(2 * width, n_latent)
        self.writer = nn.GRU(n_latent + 1, width, **options)
        self.value = nn.Linear(width, 1)

    def encode(self, curves: Curves) -> Tensor:
        """Codes ``(B, n_latent)`` of curves of one band."""
        _, steps, x, length = _in_order(curves)
        packed = pack_padded_sequence(
            torch.stack([steps, x], dim=-1), length, batch_first=True, enforce_sorted=False
        )
        _, last = self.reader(packed)
        # of the last layer, both directions
        return self.code(torch.cat([last[-2], last[-1]], dim=1))

    def reconstruct(self, curves: Curves, z: Tensor) -> tuple[Tensor, Tensor]:
        """Half the squared error in units of the photometric ones, ``(B,)``, and means."""
        order, steps, _, length = _in_order(curves)
        repeated = z[:, None].expand(-1, steps.shape[1], -1)
        packed = pack_padded_sequence(
            torch.cat([repeated, steps[..., None]], dim=-1),
            length,
            batch_first=True,
            enforce_sorted=False,
        )
        hidden, _ = pad_packed_sequence(
            self.writer(packed)[0], batch_first=True, total_length=steps.shape[1]
        )
        mean = torch.zeros_like(steps).scatter(1, order, self.value(hidden)[..., 0])[:, None]
        off = (curves.x - mean) / torch.where(curves.valid, curves.error, 1.0)
        return 0.5 * torch.where(curves.valid, off.square(), 0.0).sum((1, 2)), mean


def _in_order(curves: Curves) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Order by phase ``(B, L)``, steps and magnitudes in it, and how many, on the host."""
    valid = curves.valid[:, 0]
    order = torch.where(valid, curves.phase[:, 0], torch.inf).argsort(1)
    phase = curves.phase[:, 0].gather(1, order)
    seen = valid.gather(1, order)
    steps = torch.diff(phase, dim=1, prepend=torch.zeros_like(phase[:, :1]))
    return order, steps * seen, curves.x[:, 0].gather(1, order), valid.sum(1).cpu()
