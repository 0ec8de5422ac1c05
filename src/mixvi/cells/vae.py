"""VAE and, through its likelihood, sigma-VAE (Kolb 2022, sections 4.2 and 4.3)."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from anndata import AnnData
from scvi.module.base import LossOutput
from torch import Tensor

from mixvi.cells.expression import ExpressionMixin
from mixvi.cells.objectives import OBJECTIVES, VAEObjective
from mixvi.core import arguments
from mixvi.core.data.splitting import Split
from mixvi.core.maths.mixture import gaussian_kl_per_dim, gaussian_log_prob, reparameterise
from mixvi.core.maths.networks import bounded_gaussian
from mixvi.core.model.abundance import AbundanceMixin
from mixvi.core.model.counterfactual import predicted_adata
from mixvi.core.model.evidence import EvidenceMixin
from mixvi.core.model.expression_model import MixviModel
from mixvi.core.model.module import MixviModule, Rows
from mixvi.core.training.fitting import Fit
from mixvi.core.training.resuming import TrainingRun


class VAEModule(MixviModule):
    """Gaussian encoder, standard normal prior, decoder of any likelihood.

    Parameters
    ----------
    n_input
        Number of genes.
    n_latent
        Size of z.
    objective
        What is minimised; ``None``: minus the ELBO.
    **options
        See :class:`mixvi.core.model.module.MixviModule`.
    """

    def __init__(
        self,
        n_input: int,
        *,
        n_latent: int = 12,
        objective: VAEObjective | None = None,
        **options,
    ):
        super().__init__(n_input, **options)
        self.n_latent = n_latent
        self.objective = objective or VAEObjective()
        # set when a model is trained
        self.n_training_cells = 0
        self.encoder = self.make_mlp(n_input, 2 * n_latent, self.n_covariates)
        self.decoder = self.make_decoder()
        for name, network in self.objective.make_networks(n_latent).items():
            self.add_module(name, network)

    def make_decoder(self):
        """The decoder network."""
        return self.make_mlp(self.n_latent, self.likelihood.n_outputs, self.n_covariates)

    def encode(self, rows: Rows) -> dict[str, Tensor]:
        """``mu_z`` and ``lv_z``, each ``(B, n_latent)``."""
        mu, log_var = bounded_gaussian(self.encoder(rows.features, rows.covariates))
        return {"mu_z": mu, "lv_z": log_var}

    def prior(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of p(z), broadcastable to ``(B, n_latent)``."""
        zero = self.typical_library.new_zeros(1, self.n_latent)
        return zero, zero

    def decode(self, z: Tensor, rows: Rows) -> Tensor:
        """Raw decoder output, ``(B, n_outputs)``."""
        return self.decoder(z, rows.covariates)

    def inference(self, rows: Rows) -> dict:
        """Encode and draw z."""
        posterior = self.encode(rows)
        z = reparameterise(posterior["mu_z"], posterior["lv_z"])
        return {"rows": rows, "z": z, **posterior}

    def generative(self, rows: Rows, z: Tensor) -> dict:
        """Decode."""
        return {"raw": self.decode(z, rows)}

    def terms(self, inference_outputs: dict, raw: Tensor, z_kl: str) -> dict[str, Tensor]:
        """R and Z of minus the ELBO, each ``(B,)`` (Kolb 2022, eqs. 4.8, 4.10 and 4.11)."""
        out = inference_outputs
        rows, z = out["rows"], out["z"]
        mu_p, lv_p = self.prior(rows)
        if z_kl == "mc":
            kl = gaussian_log_prob(z, out["mu_z"], out["lv_z"]) - gaussian_log_prob(z, mu_p, lv_p)
        else:
            kl = gaussian_kl_per_dim(out["mu_z"], out["lv_z"], mu_p, lv_p).sum(-1)
        return {"R": self.reconstruction_loss(rows, raw), "Z": kl}

    def loss(
        self,
        tensors: dict,
        inference_outputs: dict,
        generative_outputs: dict,
        kl_weight: Tensor | float = 1.0,
    ) -> LossOutput:
        """What the objective minimises, averaged over the batch.

        That is minus the ELBO for ``"vae"``. Its KL has the weight ``kl_weight``, which training
        may anneal, times the objective's.
        """
        out = inference_outputs
        penalty, penalties = self.objective.penalty(self, out["z"], out["mu_z"], out["lv_z"])
        # recorded once an epoch as means over rows
        penalties = {name: value.detach() * len(out["z"]) for name, value in penalties.items()}
        kl_weight = kl_weight * self.objective.beta
        terms = self.terms(out, generative_outputs["raw"], z_kl="analytic")
        kl_per_dim = gaussian_kl_per_dim(out["mu_z"], out["lv_z"], *self.prior(out["rows"]))
        return LossOutput(
            loss=(terms["R"] + kl_weight * terms["Z"]).mean() + penalty,
            reconstruction_loss=terms["R"],
            kl_local={"z": terms["Z"]},
            extra_metrics={"kl_per_z": kl_per_dim.sum(0)} | penalties,
        )

    def epoch_summary(self, collected: dict[str, Tensor]) -> dict[str, float]:
        """``active_z``, dimensions with a KL above 0.01 nat, and the objective's terms."""
        penalties = {name: float(value) for name, value in collected.items() if value.ndim == 0}
        return {"active_z": float((collected["kl_per_z"] > 0.01).sum())} | penalties


class VAE(EvidenceMixin, AbundanceMixin, ExpressionMixin, MixviModel):
    """Variational autoencoder; sigma-VAE with ``likelihood="gaussian_sigma"``.

    Parameters
    ----------
    adata
        AnnData registered with :meth:`setup_anndata`.
    n_latent
        Size of z.
    objective
        ``"vae"``: minus the ELBO. Others make latent dimensions independent of each other, so that
        each may mean something: ``"beta_vae"``, ``"factor_vae"``, ``"beta_tcvae"``, ``"dip_vae"``
        (see :mod:`mixvi.cells.objectives`). Register batches and count data's library size, or they
        become what the first dimensions mean.
    objective_kwargs
        Settings of the objective, such as ``{"tc_weight": 5}``.
    """

    _prefix = "vae"

    def __init__(
        self,
        adata: AnnData | None = None,
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
        objective: str = "vae",
        objective_kwargs: dict | None = None,
        registry: dict | None = None,
    ):
        super().__init__(adata, registry)
        likelihood = self._settled_likelihood(likelihood)
        arguments.check_positive("n_latent", n_latent)
        arguments.check_rate("dropout_rate", dropout_rate)
        module = VAEModule(
            n_latent=n_latent,
            objective=arguments.made("objective", objective, OBJECTIVES, objective_kwargs),
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
        self._finish(module, locals(), f"VAE with n_latent={n_latent}, likelihood={likelihood}")

    def _fit(self, fit: Fit, run: TrainingRun | None) -> Split:
        self.module.n_training_cells = len(fit.split.train)
        return super()._fit(fit, run)

    def get_elbo(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        return_mean: bool = True,
        return_terms: bool = False,
        z_kl: str = "analytic",
        batch_size: int | None = None,
    ) -> float | Tensor | pd.Series | pd.DataFrame:
        """The evidence lower bound in nats, constants included; higher is better.

        Parameters
        ----------
        return_mean
            The mean over cells, or the value of each.
        return_terms
            Instead, the terms ``R`` and ``Z`` of minus the ELBO and their sum ``total`` (lower is
            better), by name.
        z_kl
            ``"analytic"`` or ``"mc"`` (one sample; Kolb 2022, eq. 4.10).

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
            lambda rows: self._drawn_terms(rows, self.module.encode(rows), z_kl),
            adata,
            indices,
            return_mean=return_mean,
            return_terms=return_terms,
            batch_size=batch_size,
        )

    def _drawn_terms(
        self, rows: Rows, posterior: dict[str, Tensor], z_kl: str
    ) -> dict[str, Tensor]:
        z = reparameterise(posterior["mu_z"], posterior["lv_z"])
        out = {"rows": rows, "z": z, **posterior}
        return self.module.terms(out, self.module.decode(z, rows), z_kl)

    def _log_weight(self, rows: Rows, posterior: dict[str, Tensor]) -> Tensor:
        terms = self._drawn_terms(rows, posterior, z_kl="mc")
        return -terms["R"] - terms["Z"]

    @torch.inference_mode()
    def sample(
        self,
        n: int,
        *,
        batch: str | None = None,
        library_size: float | None = None,
        use_mean: bool = True,
    ) -> AnnData:
        """New cells: z from the prior, then the decoder (Kolb 2022, section 4.2).

        Parameters
        ----------
        n
            Number of cells.
        batch
            Batch of the cells; ``None``: the most frequent one of training.
        library_size
            Count likelihoods: library size (or size factor) of every cell. ``None``: as in the
            training cells of the batch, their median with ``use_mean``, else drawn anew for each.
        use_mean
            Decoder means, or draws from the likelihood.

        Returns
        -------
        AnnData with ``n`` rows, on the scale of the registered matrix (in ``X`` and its layer),
        with the registered batch and covariates in ``obs`` and their z in ``obsm["X_<model>"]``.
        The model's verbs take it.

        Raises
        ------
        ValueError
            For an unknown batch, or an unusable library size.
        """
        arguments.check_positive("n", n)
        condition = torch.zeros(n, dtype=torch.long, device=self.module.device)
        rows = self._synthetic_rows(condition, batch, library_size, use_mean)
        z = torch.randn(n, self.module.n_latent, device=self.module.device)
        return self._generated(z, rows, use_mean)

    def _generated(self, z: Tensor, rows: Rows, use_mean: bool) -> AnnData:
        likelihood = self.module.likelihood
        raw = self.module.decode(z, rows)
        x = (
            likelihood.mean(raw, rows.library)
            if use_mean
            else likelihood.sample(raw, rows.library, rows.batch)
        )
        obs = self._registered_obs(rows)
        obs.index = pd.Index([f"generated_{i}" for i in range(len(obs))])
        return predicted_adata(
            x.cpu().numpy(),
            obs,
            pd.DataFrame(index=self.var_names),
            obsm={f"X_{self._prefix}": z.cpu().numpy()},
            **self._note,
        )
