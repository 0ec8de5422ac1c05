"""How well a mixture model explains cells: terms of the ELBO, and weights for the likelihood."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from mixvi.cells.gmvae_module import TERMS
from mixvi.core import arguments
from mixvi.core.maths.mixture import component_log_prob, gaussian_log_prob, reparameterise
from mixvi.core.model.evidence import EvidenceMixin
from mixvi.core.model.module import Rows


class MixtureEvidenceMixin(EvidenceMixin):
    """``get_elbo`` and ``get_marginal_ll`` of the mixture models."""

    def get_elbo(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        return_mean: bool = True,
        return_terms: bool = False,
        z_kl: str = "mc",
        use_labels: bool = False,
        batch_size: int | None = None,
    ) -> float | Tensor | pd.Series | pd.DataFrame:
        """The evidence lower bound in nats, constants included; higher is better.

        Parameters
        ----------
        return_mean
            The mean over cells, or the value of each.
        return_terms
            Instead, the terms ``R``, ``Z``, ``W``, ``Y``, ``D`` of minus the ELBO and their sum
            ``total`` (lower is better), by name.
        z_kl
            ``"mc"``: the unbiased estimate; ``"analytic"``: the training signal, not a strict
            bound.
        use_labels
            The supervised bound for labelled cells instead of the unsupervised one; their
            cross-entropy counts once, whatever the ``classification_weight``.

        Returns
        -------
        A float, or a tensor ``(n_obs,)``; of terms a Series, or a DataFrame by cell name.

        Raises
        ------
        ValueError
            For ``likelihood="mse"``, which has no ELBO.
        """
        arguments.check_choice("z_kl", z_kl, ("analytic", "mc"))
        return self._elbo(
            lambda rows: self._elbo_terms(rows, use_labels, z_kl),
            adata,
            indices,
            return_mean=return_mean,
            return_terms=return_terms,
            batch_size=batch_size,
        )

    def _elbo_terms(self, rows: Rows, use_labels: bool, z_kl: str) -> dict[str, Tensor]:
        out = self.module.inference(rows)
        generated = self.module.generative(rows, out["w"], out["z"])
        terms = self.module.terms(out, generated, use_labels, z_kl)
        return {name: terms[name] for name in TERMS}

    @torch.inference_mode()
    def _kl_per_w(self, adata: AnnData, batch_size: int | None) -> np.ndarray:
        """Mean KL of q(w | x) from the prior of w for each dimension, in nats, ``(Dw,)``."""
        module = self.module
        batches = self._batches(adata, None, batch_size)
        kl = [module.w_kl(rows, module.encode(rows)).cpu() for rows in batches]
        return torch.cat(kl).mean(0).numpy()

    def _log_weight(self, rows: Rows, posterior: dict[str, Tensor]) -> Tensor:
        module = self.module
        mu_z, lv_z, mu_w, lv_w = (posterior[name] for name in ("mu_z", "lv_z", "mu_w", "lv_w"))
        z, w = reparameterise(mu_z, lv_z), reparameterise(mu_w, lv_w)
        components = component_log_prob(z, *module.component_parameters(w, rows.condition))
        prior = torch.logsumexp(components, dim=-1) - math.log(self.n_components)
        prior = prior + gaussian_log_prob(w, *module.w_prior(rows.condition))
        log_q = gaussian_log_prob(z, mu_z, lv_z) + gaussian_log_prob(w, mu_w, lv_w)
        return prior - log_q - module.reconstruction_loss(rows, module.decode(z, rows))
