"""What draws of the latent say of a cell's expression: new counts, parameters, errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy.stats import rankdata
from torch import Tensor

from mixvi.core import arguments
from mixvi.core.data import checks

if TYPE_CHECKING:
    from sparse import GCXS


class PosteriorPredictiveMixin:
    """Verbs of SCVI about p(x | z) at draws of z, for every likelihood that has them."""

    @torch.inference_mode()
    def posterior_predictive_sample(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        transform_batch: str | None = None,
        n_samples: int = 1,
        gene_list: Sequence[str] | None = None,
        batch_size: int | None = None,
    ) -> GCXS:
        """Expression drawn anew for each cell: z from its posterior, then x from p(x | z).

        What :class:`scvi.criticism.PosteriorPredictiveCheck` compares with the data.

        Parameters
        ----------
        transform_batch
            Draw as if every cell were of this batch.
        n_samples
            Draws a cell.
        gene_list
            Names of the genes to return; default all.

        Returns
        -------
        :class:`sparse.GCXS` ``(n_obs, n_genes)``, or ``(n_obs, n_genes, n_samples)`` of several
        draws, on the scale of the registered matrix.

        Raises
        ------
        KeyError
            If a gene is unknown.
        ValueError
            If the batch is unknown, or for ``likelihood="mse"``, which has no density.
        """
        # numba, which it brings, is slow to import
        import sparse

        arguments.check_positive("n_samples", n_samples)
        likelihood = self.module.likelihood
        checks.check_has_elbo(likelihood.name, likelihood.has_elbo)
        batches = self._batch_codes(transform_batch)
        if len(batches) > 1:
            raise ValueError(
                f"transform_batch names {len(batches)} batches, but a draw is of one. Name one."
            )
        genes = slice(None) if gene_list is None else self._positions_of_genes(gene_list)
        adata = self._validate_anndata(adata)
        parts = []
        for rows in self._batches(adata, indices, batch_size):
            target = self._decoded_as(rows, batches[0])
            draws = []
            for _ in range(n_samples):
                raw = self.module.decode(self._z(rows, use_mean=False), target)
                x = likelihood.sample(raw, target.library, target.batch)
                draws.append(x[:, genes].cpu())
            part = draws[0] if n_samples == 1 else torch.stack(draws, dim=-1)
            parts.append(sparse.GCXS.from_numpy(part.numpy()))
        return sparse.concatenate(parts, axis=0)

    @torch.inference_mode()
    def get_likelihood_parameters(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        n_samples: int = 1,
        give_mean: bool = False,
        batch_size: int | None = None,
    ) -> dict[str, np.ndarray]:
        """Parameters of p(x | z) at draws of z from each cell's posterior.

        Parameters
        ----------
        n_samples
            Draws of z a cell.
        give_mean
            The mean over several draws; of one draw, the parameters at the mean of z.

        Returns
        -------
        Arrays ``(n_obs, n_vars)``, or ``(n_samples, n_obs, n_vars)`` of several draws that are not
        averaged, by scvi-tools' names: ``"mean"`` (count likelihoods: the rate at the cell's own
        library size, before dropout), ``"dispersions"`` (nb and zinb: the inverse dispersion),
        ``"dropout"`` (zinb: the probability), ``"scale"`` (Gaussian: the standard deviation).
        """
        arguments.check_positive("n_samples", n_samples)
        adata = self._validate_anndata(adata)
        module, parts = self.module, []
        use_mean = give_mean and n_samples == 1
        for rows in self._batches(adata, indices, batch_size):
            draws = []
            for _ in range(n_samples):
                raw = module.decode(self._z(rows, use_mean), rows)
                draws.append(
                    module.likelihood.distribution_parameters(raw, rows.library, rows.batch)
                )
            parts.append({name: _joined(draws, name, give_mean) for name in draws[0]})
        return {name: torch.cat([p[name] for p in parts], dim=-2).numpy() for name in parts[0]}

    @torch.inference_mode()
    def get_latent_library_size(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        give_mean: bool = True,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Library size that the decoder scales a cell's proportions by, ``(n_obs, 1)``.

        It is the observed one (the size factor, if one was registered), not a latent variable, so
        that ``give_mean`` changes nothing; scvi-tools' default is the same, and there refuses
        ``give_mean=True``.

        Parameters
        ----------
        give_mean
            As in scvi-tools.

        Raises
        ------
        ValueError
            If the likelihood knows no library size.
        """
        likelihood = self.module.likelihood
        if not likelihood.is_count:
            raise ValueError(
                f"likelihood={likelihood.name!r} knows no library size: it models "
                f"{self._x_name} on its own scale. Count likelihoods (nb, zinb, poisson) have one."
            )
        adata = self._validate_anndata(adata)
        sizes = [rows.library.cpu() for rows in self._batches(adata, indices, batch_size)]
        return torch.cat(sizes).numpy()

    @torch.inference_mode()
    def get_feature_correlation_matrix(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        n_samples: int = 10,
        batch_size: int | None = 64,
        rna_size_factor: float = 1000,
        transform_batch: str | Sequence[str] | None = None,
        correlation_type: Literal["spearman", "pearson"] = "spearman",
    ) -> pd.DataFrame:
        """How genes vary together, once the noise of counting is gone (Lopez et al. 2018).

        Cells are decoded at draws of z. With ``"nb"`` and ``"zinb"``, rates are then drawn from
        the Gamma distribution that overdispersion stands for; counts and dropout are not.

        Parameters
        ----------
        n_samples
            Draws a cell.
        rna_size_factor
            Count likelihoods: the library size that every cell is given.
        transform_batch
            Decode as if every cell were of this batch; of several, matrices are averaged.
        correlation_type
            ``"spearman"`` or ``"pearson"``.

        Returns
        -------
        DataFrame ``(n_vars, n_vars)`` by gene name. A gene that does not vary has NaN.

        Raises
        ------
        ValueError
            If the type or a batch is unknown.
        """
        arguments.check_choice("correlation_type", correlation_type, ("spearman", "pearson"))
        arguments.check_positive("n_samples", n_samples)
        arguments.check_positive("rna_size_factor", rna_size_factor, integer=False)
        batches = self._batch_codes(transform_batch)
        adata = self._validate_anndata(adata)
        total = 0.0
        for batch in batches:
            draws = []
            for rows in self._batches(adata, indices, batch_size):
                target = self._decoded_as(rows, batch)
                target = target._replace(library=torch.full_like(rows.library, rna_size_factor))
                for _ in range(n_samples):
                    raw = self.module.decode(self._z(rows, use_mean=False), target)
                    found = self.module.likelihood.distribution_parameters(
                        raw, target.library, target.batch
                    )
                    draws.append(_rates(found).cpu())
            x = torch.cat(draws).numpy()
            if correlation_type == "spearman":
                x = rankdata(x, axis=0)
            with np.errstate(invalid="ignore", divide="ignore"):
                total = total + np.atleast_2d(np.corrcoef(x, rowvar=False))
        return pd.DataFrame(total / len(batches), index=self.var_names, columns=self.var_names)

    @torch.inference_mode()
    def get_reconstruction_error(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        return_mean: bool = True,
        batch_size: int | None = None,
    ) -> dict[str, float | Tensor]:
        """Minus log p(x | z) at one draw of z from each cell's posterior; lower is better.

        With ``likelihood="mse"`` it is the squared error summed over genes.

        Parameters
        ----------
        return_mean
            The mean over cells, or the value of each.

        Returns
        -------
        ``{"reconstruction_loss": ...}`` as in scvi-tools: a float, or a tensor ``(n_obs,)``.
        """
        adata = self._validate_anndata(adata)
        module, parts = self.module, []
        for rows in self._batches(adata, indices, batch_size):
            raw = module.decode(self._z(rows, use_mean=False), rows)
            parts.append(module.reconstruction_loss(rows, raw).cpu())
        errors = torch.cat(parts)
        return {"reconstruction_loss": float(errors.double().mean()) if return_mean else errors}


def _joined(draws: list[dict[str, Tensor]], name: str, give_mean: bool) -> Tensor:
    """One parameter of several draws: the only one, their mean, or all of them."""
    values = torch.stack([draw[name] for draw in draws]).cpu()
    return values.mean(0) if give_mean or len(draws) == 1 else values


def _rates(parameters: dict[str, Tensor]) -> Tensor:
    """Rates of a negative binomial as a Poisson-Gamma mixture; means of other likelihoods."""
    mean, theta = parameters["mean"], parameters.get("dispersions")
    if theta is None:
        return mean
    # rates of hopeless genes underflow to zero, which no Gamma distribution takes
    return torch.distributions.Gamma(theta, theta / mean.clamp_min(1e-20)).sample()
