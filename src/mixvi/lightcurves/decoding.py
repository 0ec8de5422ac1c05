"""Verbs of models that decode light curves by a Gaussian process from induction points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from mixvi.lightcurves.curves import Curves
from mixvi.lightcurves.observations import as_stored
from mixvi.lightcurves.setup import requested_phases, time_scale


class DecodingMixin:
    """Curves at any time, of a model whose module has ``encode``, ``decode`` and ``decoder``."""

    def _as_stored(self, array: np.ndarray) -> np.ndarray:
        return as_stored(array, self.n_bands)

    @torch.inference_mode()
    def interpolate(
        self,
        times: Sequence[float],
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        phases: bool = False,
        return_sd: bool = True,
        batch_size: int | None = None,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Magnitudes at times of your own, with their standard deviations.

        The standard deviation is that of an observation: photometric error and what the model does
        not know together.

        Parameters
        ----------
        times
            In the unit of the registered ones, ``(T,)`` of all curves alike, or ``(n_obs, T)``.
        phases
            ``times`` are phases instead.
        return_sd
            Whether standard deviations are returned, too.

        Returns
        -------
        Means, and standard deviations, each ``(n_obs, T)``, or ``(n_obs, T, n_bands)`` of several
        bands, in magnitudes.

        Raises
        ------
        ValueError
            If times have another shape or are not finite.
        """
        adata = self._validate_anndata(adata)
        chosen = self._check_indices(adata, indices)
        start, length = (part[chosen] for part in time_scale(adata, self._setup_args))
        if phases:
            start, length = np.zeros(len(chosen)), np.ones(len(chosen))
        folded = self._setup_args["fold"]
        phase = requested_phases(times, len(chosen), start, length, folded)
        parts, done = [], 0
        for curves in self._batches(adata, chosen, batch_size):
            own = torch.as_tensor(phase[done : done + len(curves)], dtype=curves.x.dtype)
            own = own.to(curves.x.device)[:, None].expand(-1, self.n_bands, -1)
            done += len(curves)
            parts.append(self._decoded(curves, own))
        return self._magnitudes(parts, return_sd)

    @torch.inference_mode()
    def get_reconstruction(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        return_sd: bool = False,
        batch_size: int | None = None,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Decoded magnitudes at the registered times, in their shape; NaN where there are none.

        Parameters
        ----------
        return_sd
            Return standard deviations, too.
        """
        adata = self._validate_anndata(adata)
        parts = []
        for curves in self._batches(adata, indices, batch_size):
            found = self._decoded(curves, curves.phase)
            parts.append(tuple(torch.where(curves.valid.cpu(), v, torch.nan) for v in found))
        found = self._magnitudes(parts, return_sd)
        has_axis = self._matrix(adata).ndim == 3
        if self.n_bands > 1 or not has_axis:
            return found
        return tuple(of[..., None] for of in found) if return_sd else found[..., None]

    def _decoded(self, curves: Curves, phase: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation in magnitudes at phases ``(B, n_bands, T)``."""
        z = self.module.encode(self.module.seen(curves))[0]
        found = curves.in_magnitudes(*self.module.decode(z)(phase))
        return tuple(values.cpu() for values in found)

    def _magnitudes(self, parts: list[tuple[Tensor, Tensor]], return_sd: bool):
        mean, sd = (self._as_stored(torch.cat(part).numpy()) for part in zip(*parts, strict=True))
        return (mean, sd) if return_sd else mean

    @torch.inference_mode()
    def get_induction_points(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        batch_size: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The points that each curve is decoded from.

        Returns
        -------
        Their phases ``(I,)``, the same of all curves; their magnitudes and the standard deviations
        of their noise, each ``(n_obs, I)``, or ``(n_obs, I, n_bands)``.
        """
        adata = self._validate_anndata(adata)
        parts = []
        for curves in self._batches(adata, indices, batch_size):
            z = self.module.encode(self.module.seen(curves))[0]
            values, noise = self.module.decoder.points(z)
            found = curves.in_magnitudes(values, noise.square())
            parts.append(tuple(v.cpu() for v in found))
        return self.module.decoder.times.cpu().numpy(), *self._magnitudes(parts, True)

    def get_kernel_parameters(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        """Scale (in spreads of the curve) and length (in phase) of each curve's kernel.

        Returns
        -------
        DataFrame ``(n_obs, 2)`` by the objects' names.
        """

        def parameters(curves: Curves) -> Tensor:
            z = self.module.encode(curves)[0]
            return torch.stack(self.module.decoder.kernel_parameters(z), dim=1)

        values, names = self._of_each(parameters, adata, indices, batch_size)
        return pd.DataFrame(values, index=names, columns=["scale", "length"])
