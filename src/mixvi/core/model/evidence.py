"""How well a model explains cells: what ``get_elbo`` returns, and the marginal likelihood."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from mixvi.core import arguments
from mixvi.core.data import checks
from mixvi.core.model.module import Rows


class ElboMixin:
    """The form of ``get_elbo`` in every room."""

    @abstractmethod
    def _check_has_elbo(self) -> None:
        """Raise ValueError if the model was not trained as one with an ELBO."""

    @torch.inference_mode()
    def _elbo(
        self,
        terms_of: Callable[[Any], dict[str, Tensor]],
        adata: AnnData | None,
        indices: Sequence[int] | None,
        *,
        return_mean: bool,
        return_terms: bool,
        batch_size: int | None,
    ) -> float | Tensor | pd.Series | pd.DataFrame:
        """The ELBO, or minus its terms, from a function that gives the terms ``(B,)`` of rows."""
        self._check_has_elbo()
        adata = self._validate_anndata(adata)
        parts = []
        for rows in self._batches(adata, indices, batch_size):
            terms = terms_of(rows)
            parts.append(torch.stack(list(terms.values()), dim=-1).cpu())
        values = torch.cat(parts)
        if not return_terms:
            per_cell = -values.sum(-1)
            return float(per_cell.double().mean()) if return_mean else per_cell
        names = adata.obs_names[self._check_indices(adata, indices)]
        table = pd.DataFrame(values.double().numpy(), index=names, columns=list(terms))
        table["total"] = table.sum(axis=1)
        return table.mean() if return_mean else table

    @torch.inference_mode()
    def _marginal_ll(
        self,
        weights_of: Callable[[Any], Callable[[], Tensor]],
        adata: AnnData | None,
        indices: Sequence[int] | None,
        *,
        n_mc_samples: int,
        return_mean: bool,
        batch_size: int | None,
    ) -> float | Tensor:
        """Log p(x) by importance sampling (Burda et al. 2016).

        ``weights_of`` encodes rows, and what it returns draws latents of them and gives
        log p(x, latents) - log q(latents | x), ``(B,)``.
        """
        arguments.check_positive("n_mc_samples", n_mc_samples)
        self._check_has_elbo()
        adata = self._validate_anndata(adata)
        parts = []
        for rows in self._batches(adata, indices, batch_size):
            log_weight = weights_of(rows)
            total = log_weight().double()
            for _ in range(n_mc_samples - 1):
                total = torch.logaddexp(total, log_weight().double())
            parts.append((total - math.log(n_mc_samples)).cpu())
        values = torch.cat(parts)
        return float(values.mean()) if return_mean else values


class EvidenceMixin(ElboMixin):
    """``get_marginal_ll``, and the form of ``get_elbo``, of models of expression."""

    @abstractmethod
    def _log_weight(self, rows: Rows, posterior: dict[str, Tensor]) -> Tensor:
        """Log p(x, latents) - log q(latents | x) at a draw of the encoded posterior, ``(B,)``."""

    def _check_has_elbo(self) -> None:
        likelihood = self.module.likelihood
        checks.check_has_elbo(likelihood.name, likelihood.has_elbo)

    @torch.inference_mode()
    def get_marginal_ll(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        n_mc_samples: int = 1_000,
        return_mean: bool = True,
        batch_size: int | None = None,
    ) -> float | Tensor:
        """Log p(x), given condition and covariates, in nats, by importance sampling.

        Latents are drawn from their posteriors; components are summed out with their prior 1 / K,
        which is what a Dirichlet of each cell leaves once it is integrated. Count likelihoods take
        the observed library size as given, as scvi-tools does.

        Parameters
        ----------
        n_mc_samples
            Draws a cell; more make the estimate less of an underestimate (Burda et al. 2016).
        return_mean
            The mean over cells, or the value of each.

        Returns
        -------
        A float, or a tensor ``(n_obs,)``; higher is better.

        Raises
        ------
        ValueError
            For ``likelihood="mse"``, which has no density of its own.
        """
        return self._marginal_ll(
            lambda rows: partial(self._log_weight, rows, self.module.encode(rows)),
            adata,
            indices,
            n_mc_samples=n_mc_samples,
            return_mean=return_mean,
            batch_size=batch_size,
        )
