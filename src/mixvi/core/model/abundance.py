"""Where in the latent space samples have more cells than others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    Normal,
    StudentT,
)

from mixvi.core import arguments
from mixvi.core.data import checks


class AbundanceMixin:
    """``get_aggregated_posterior`` and ``differential_abundance`` of models with a posterior."""

    def get_aggregated_posterior(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        dof: float | None = 3.0,
        batch_size: int | None = None,
    ) -> Distribution:
        """The posteriors of z of some cells as one mixture, with a component a cell.

        Parameters
        ----------
        dof
            Degrees of freedom of Student's t-distributions, whose tails are wider than the
            posteriors'; ``None``: the Gaussian posteriors.

        Returns
        -------
        :class:`torch.distributions.MixtureSameFamily` over ``(n_latent,)``.
        """
        mean, variance = self.get_latent_representation(
            adata, indices, return_dist=True, batch_size=batch_size
        )
        device = self.module.device
        return _mixture(
            torch.as_tensor(mean, device=device), torch.as_tensor(variance, device=device), dof
        )

    def differential_abundance(
        self,
        adata: AnnData | None = None,
        adata_sub: AnnData | None = None,
        sample_key: str | None = None,
        *,
        batch_size: int = 128,
        num_cells_posterior: int | None = None,
        dof: float | None = None,
    ) -> None:
        """How likely each cell's z is in each sample: log densities of the aggregated posteriors.

        Differences between columns say where a sample, or the samples of a condition, have more
        cells than others (Boyeau et al. 2025, MrVI).

        Parameters
        ----------
        adata
            Cells whose posteriors are aggregated, by default those the model was built on.
        adata_sub
            Cells to give densities to; default ``adata``.
        sample_key
            Column of ``obs`` of both with the samples.
        num_cells_posterior
            At most so many cells, drawn at random, speak for a sample.
        dof
            As in :meth:`get_aggregated_posterior`.

        Returns
        -------
        Nothing; ``adata_sub.obsm["da_log_probs"]`` is a DataFrame ``(n_obs, n_samples)`` by cell
        and sample name.

        Raises
        ------
        KeyError
            If the column is missing.
        ValueError
            If a sample of ``adata_sub`` has no cells in ``adata``.
        """
        if sample_key is None:
            raise ValueError(
                "Name the samples' column of adata.obs: differential_abundance(sample_key=...)."
            )
        if num_cells_posterior is not None:
            arguments.check_positive("num_cells_posterior", num_cells_posterior)
        adata = self._validate_anndata(adata)
        adata_sub = adata if adata_sub is None else self._validate_anndata(adata_sub)
        for cells in (adata, adata_sub):
            checks.check_categories(cells, sample_key, "sample_key")
        of = adata.obs[sample_key].astype(str).to_numpy()
        samples = adata_sub.obs[sample_key].astype(str).unique()
        missing = [name for name in samples if name not in set(of)]
        if missing:
            raise ValueError(
                f"adata.obs[{sample_key!r}] has no cell of {missing[0]!r}, of which adata_sub has "
                "some. Pass the adata that all samples are in."
            )
        posterior = self.get_latent_representation(adata, return_dist=True, batch_size=batch_size)
        z = posterior[0]
        if adata_sub is not adata:
            z = self.get_latent_representation(adata_sub, batch_size=batch_size)
        device = self.module.device
        mean, variance = (torch.as_tensor(values, device=device) for values in posterior)
        points = torch.as_tensor(z, device=device).split(batch_size)
        table = pd.DataFrame(index=adata_sub.obs_names, columns=samples, dtype=np.float32)
        for name in samples:
            rows = np.flatnonzero(of == name)
            if num_cells_posterior is not None and num_cells_posterior < len(rows):
                rows = np.random.choice(rows, num_cells_posterior, replace=False)
            mixture = _mixture(mean[rows], variance[rows], dof)
            table[name] = torch.cat([mixture.log_prob(part) for part in points]).cpu().numpy()
        adata_sub.obsm["da_log_probs"] = table


def _mixture(mean: Tensor, variance: Tensor, dof: float | None) -> MixtureSameFamily:
    """An even mixture of Gaussians, or Student's t, at ``(n, D)`` means and variances."""
    scale = variance.sqrt()
    components = Normal(mean, scale) if dof is None else StudentT(dof, mean, scale)
    weights = Categorical(logits=torch.zeros(len(mean), device=mean.device))
    return MixtureSameFamily(weights, Independent(components, 1))
