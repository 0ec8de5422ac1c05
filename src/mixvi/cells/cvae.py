"""CVAE: the conditional VAE, with learned or fixed prior (Kolb 2022, section 4.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from torch import Tensor

from mixvi.cells.vae import VAE, VAEModule
from mixvi.core import arguments
from mixvi.core.data.combinations import columns_of
from mixvi.core.maths.additive import combination_levels
from mixvi.core.maths.networks import ConditionalPrior
from mixvi.core.model.counterfactual import (
    between_priors,
    converted_cells,
    write_counterfactual,
)
from mixvi.core.model.expression_model import MixviModel
from mixvi.core.model.module import Rows


class CVAEModule(VAEModule):
    """VAE whose encoder sees the condition.

    Parameters
    ----------
    n_input
        Number of genes.
    prior
        ``"learned"``: p(z | c) from a table of c (eq. 4.16); ``"fixed"``: N(0, I).
    decoder_sees_c
        Whether the decoder is given the condition.
    **options
        See :class:`VAEModule`.
    """

    def __init__(
        self, n_input: int, *, prior: str = "fixed", decoder_sees_c: bool = True, **options
    ):
        self._decoder_sees_c = decoder_sees_c
        super().__init__(n_input, **options)
        self.prior_table = None
        if prior == "learned":
            self.prior_table = ConditionalPrior(self.condition_sizes, self.n_latent)

    def make_decoder(self):
        """The decoder, blind to the condition on demand; it always sees nuisance covariates."""
        hidden = 0 if self._decoder_sees_c else self.n_condition_columns
        return self.make_mlp(self.n_latent, self.likelihood.n_outputs, self.n_covariates - hidden)

    def prior(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of p(z | c)."""
        if self.prior_table is None:
            return super().prior(rows)
        return self.prior_table(rows.condition)

    def decode(self, z: Tensor, rows: Rows) -> Tensor:
        """Raw decoder output, ``(B, n_outputs)``."""
        covariates = rows.covariates
        if not self._decoder_sees_c:
            covariates = covariates[:, self.n_condition_columns :]
        return self.decoder(z, covariates)


class CVAE(VAE):
    """Conditional VAE (Kolb 2022, section 4.4).

    ``prior="learned"`` separates the conditions in z; ``prior="fixed"`` mixes them, and the decoder
    then needs the condition. With the fixed prior and a condition made of type and treatment it is
    the plain baseline for counterfactuals.

    Parameters
    ----------
    adata
        AnnData registered with :meth:`setup_anndata` and a ``condition_key``.
    prior
        ``"fixed"`` or ``"learned"``.
    decoder_sees_c
        Whether the decoder is given the condition.
    """

    _prefix = "cvae"
    _needs_condition = True

    def __init__(
        self,
        adata: AnnData | None = None,
        prior: str = "fixed",
        decoder_sees_c: bool = True,
        n_latent: int = 12,
        n_hidden: int = 256,
        n_layers: int = 2,
        dropout_rate: float = 0.15,
        use_batch_norm: bool = True,
        likelihood: str = "auto",
        output_activation: str | None = None,
        sigma: str = "feature",
        dispersion: str = "gene",
        inject_covariates: bool = False,
        registry: dict | None = None,
    ):
        MixviModel.__init__(self, adata, registry)
        likelihood = self._settled_likelihood(likelihood)
        arguments.check_choice("prior", prior, ("learned", "fixed"))
        arguments.check_positive("n_latent", n_latent)
        arguments.check_rate("dropout_rate", dropout_rate)
        module = CVAEModule(
            prior=prior,
            decoder_sees_c=decoder_sees_c,
            n_latent=n_latent,
            n_hidden=n_hidden,
            n_layers=n_layers,
            dropout_rate=dropout_rate,
            use_batch_norm=use_batch_norm,
            likelihood=likelihood,
            output_activation=output_activation,
            sigma=sigma,
            dispersion=dispersion,
            inject_covariates=inject_covariates,
            **self._module_sizes(),
        )
        self._finish(module, locals(), f"CVAE with prior={prior}, decoder_sees_c={decoder_sees_c}")

    @torch.inference_mode()
    def counterfactual(
        self,
        adata: AnnData | None = None,
        to: Any = None,
        *,
        indices: Sequence[int] | None = None,
        use_mean: bool = True,
        key_added: str | None = None,
        batch_size: int | None = None,
    ) -> AnnData | None:
        """The same cells as they would be under another condition.

        With the fixed prior z is kept; with the learned prior it is moved from its place under
        p(z | c) to the same place under p(z | c').

        Parameters
        ----------
        adata, indices
            Cells to convert.
        to
            The target condition; of several columns a dict, as in
            :meth:`mixvi.CGMVAE.counterfactual`.
        use_mean
            Means throughout, or draws of z and x.
        key_added
            Write ``adata.layers[key_added]`` instead of returning an AnnData (all cells only).

        Returns
        -------
        AnnData of the cells converted, on the scale of the registered matrix (in ``X`` and its
        layer; means are not below zero if no training value is), with ``original_condition`` and
        ``target_condition`` in ``obs``; or None. The model's verbs take it.

        Raises
        ------
        ValueError
            If the condition is unknown.
        """
        adata = self._validate_anndata(adata)
        targets = torch.as_tensor(self._target_codes(to), device=self.module.device)
        module, parts, codes = self.module, [], []
        for rows in self._batches(adata, indices, batch_size):
            there = module.with_condition(rows, targets[rows.condition])
            codes.append(there.condition.cpu())
            z = self._z(rows, use_mean)
            z = between_priors(z, module.prior(rows), module.prior(there))
            parts.append(self._drawn(module.decode(z, there), there, use_mean).cpu())
        chosen = self._check_indices(adata, indices)
        x = torch.cat(parts).numpy()
        if key_added is not None:
            return write_counterfactual(adata, x, chosen, key_added, self._note["layer"])
        conditions = self.conditions
        names = [conditions[code] for code in torch.cat(codes).tolist()]
        return converted_cells(x, adata, chosen, self.condition_key, names, **self._note)

    def _target_codes(self, to: Any) -> np.ndarray:
        """Code of the target by that of the condition that cells have, ``(C,)``."""
        if to is None:
            raise ValueError(
                f"Name the target condition: counterfactual(to=...), one of {self.conditions}."
            )
        if not isinstance(to, Mapping):
            return np.full(len(self.conditions), self._condition_code(to, "to"))
        levels, known = combination_levels(self._condition_sizes), self._condition_categories
        for key, value in self._named_columns(to, "to").items():
            column = columns_of(self.condition_key).index(key)
            levels[:, column] = self._code(value, known[column], f"to[{key!r}]")
        return np.ravel_multi_index(levels.T, self._condition_sizes)

    @torch.inference_mode()
    def sample(
        self,
        n: int,
        *,
        conditions: str | Sequence[str] = "all",
        batch: str | None = None,
        library_size: float | None = None,
        use_mean: bool = True,
    ) -> AnnData:
        """``n`` new cells for each condition: z from p(z | c), then the decoder.

        Parameters
        ----------
        n
            Cells a condition.
        conditions
            ``"all"`` or a list of conditions.
        batch
            Batch of the cells; ``None``: the most frequent one of training.
        library_size
            Count likelihoods: library size (or size factor) of every cell. ``None``: as in the
            training cells of the batch, their median with ``use_mean``, else drawn anew for each.
        use_mean
            Decoder means, or draws from the likelihood.

        Returns
        -------
        AnnData with ``n`` x number of conditions rows, as of :meth:`mixvi.VAE.sample`, and the
        condition in ``obs``.

        Raises
        ------
        ValueError
            For an unknown condition or batch, or an unusable library size.
        """
        arguments.check_positive("n", n)
        codes = self._condition_codes(conditions, "conditions")
        condition = torch.tensor(codes, device=self.module.device).repeat_interleave(n)
        rows = self._synthetic_rows(condition, batch, library_size, use_mean)
        mu, log_var = self.module.prior(rows)
        noise = torch.randn(len(condition), self.module.n_latent, device=self.module.device)
        return self._generated(mu + (0.5 * log_var).exp() * noise, rows, use_mean)
