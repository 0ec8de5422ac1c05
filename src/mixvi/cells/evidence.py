"""How well a mixture model explains cells: terms of the ELBO, and the marginal likelihood."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
import torch
from anndata import AnnData

from mixvi.cells.gmvae_module import TERMS
from mixvi.core import arguments
from mixvi.core.data import checks
from mixvi.core.maths.mixture import component_log_prob, gaussian_log_prob


class EvidenceMixin:
    """``get_elbo`` and ``get_marginal_ll`` of the mixture models."""

    @torch.inference_mode()
    def get_elbo(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        return_terms: bool = True,
        z_kl: str = "mc",
        use_labels: bool = False,
        batch_size: int | None = None,
    ) -> pd.Series | float:
        """Terms of minus the ELBO, constants included, as means over cells.

        Parameters
        ----------
        return_terms
            A Series with ``R``, ``Z``, ``W``, ``Y``, ``D`` and their sum ``total`` (lower is
            better), or the ELBO itself as a float (higher is better).
        z_kl
            ``"mc"``: the unbiased estimate; ``"analytic"``: the training signal, not a strict
            bound (spec 5.1).
        use_labels
            The supervised bound for labelled cells instead of the unsupervised one.

        Raises
        ------
        ValueError
            For ``likelihood="mse"``, which has no ELBO.
        """
        arguments.check_choice("z_kl", z_kl, ("analytic", "mc"))
        module = self.module
        checks.check_has_elbo(module.likelihood.name, module.likelihood.has_elbo)
        adata = self._validate_anndata(adata)
        parts = []
        for rows in self._batches(adata, indices, batch_size):
            out = module.inference(rows)
            generated = module.generative(rows, out["w"], out["z"])
            terms = module.terms(out, generated, use_labels, z_kl)
            parts.append(torch.stack([terms[name] for name in TERMS], dim=-1).cpu())
        means = pd.Series(torch.cat(parts).mean(0).tolist(), index=list(TERMS))
        if not return_terms:
            return -float(means.sum())
        means["total"] = means.sum()
        return means

    @torch.inference_mode()
    def get_marginal_ll(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        n_samples: int = 100,
        batch_size: int | None = None,
    ) -> float:
        """Log p(x | c) in nats, mean over cells, by importance sampling; higher is better.

        z and w are drawn from their posteriors; components are summed out with their prior 1 / K,
        which is what the per-cell Dirichlet leaves once it is integrated (spec 5.2). Count
        likelihoods take the observed library size as given, as scvi-tools does.

        Parameters
        ----------
        adata, indices
            Cells to score, by default those the model was built on.
        n_samples
            Draws a cell; more make the estimate less of an underestimate (Burda et al. 2016).

        Raises
        ------
        ValueError
            For ``likelihood="mse"``, which has no density of its own.
        """
        arguments.check_positive("n_samples", n_samples)
        module = self.module
        checks.check_has_elbo(module.likelihood.name, module.likelihood.has_elbo)
        adata = self._validate_anndata(adata)
        per_cell = []
        for rows in self._batches(adata, indices, batch_size):
            draws = []
            for _ in range(n_samples):
                out = module.inference(rows)
                z, w = out["z"], out["w"]
                components = component_log_prob(z, *module.component_parameters(w, rows.condition))
                prior = torch.logsumexp(components, dim=-1) - math.log(self.n_components)
                prior = prior + gaussian_log_prob(w, *module.w_prior(rows.condition))
                posterior = gaussian_log_prob(z, out["mu_z"], out["lv_z"])
                posterior = posterior + gaussian_log_prob(w, out["mu_w"], out["lv_w"])
                raw = module.decode(z, rows)
                draws.append(prior - posterior - module.reconstruction_loss(rows, raw))
            total = torch.logsumexp(torch.stack(draws), dim=0) - math.log(n_samples)
            per_cell.append(total.cpu())
        return float(torch.cat(per_cell).mean())
