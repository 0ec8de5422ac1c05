"""AE: the vanilla autoencoder, the baseline without a prior (Kolb 2022, section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from anndata import AnnData
from scvi.module.base import LossOutput
from torch import Tensor

from mixvi.core import arguments
from mixvi.core.model.expression_model import MixviModel
from mixvi.core.model.module import MixviModule, Rows


class AEModule(MixviModule):
    """Deterministic encoder and decoder; the loss is the reconstruction alone."""

    def __init__(self, n_input: int, *, n_latent: int = 12, noise: float = 0.0, **options):
        super().__init__(n_input, **options)
        self.noise = noise
        self.encoder = self.make_mlp(n_input, n_latent, self.n_covariates)
        self.decoder = self.make_mlp(n_latent, self.likelihood.n_outputs, self.n_covariates)

    def encode(self, rows: Rows) -> dict[str, Tensor]:
        """``mu_z`` ``(B, n_latent)``; there is no variance."""
        features = rows.features
        if self.training and self.noise:
            features = rows.dense_features
            features = features + self.noise * torch.randn_like(features)
        return {"mu_z": self.encoder(features, rows.covariates)}

    def decode(self, z: Tensor, rows: Rows) -> Tensor:
        """Raw decoder output, ``(B, n_outputs)``."""
        return self.decoder(z, rows.covariates)

    def inference(self, rows: Rows) -> dict:
        """Encode."""
        return {"rows": rows, "z": self.encode(rows)["mu_z"]}

    def generative(self, rows: Rows, z: Tensor) -> dict:
        """Decode."""
        return {"raw": self.decode(z, rows)}

    def loss(self, tensors: dict, inference_outputs: dict, generative_outputs: dict) -> LossOutput:
        """Mean over the batch of the reconstruction loss (Kolb 2022, section 4.1)."""
        reconstruction = self.reconstruction_loss(
            inference_outputs["rows"], generative_outputs["raw"]
        )
        return LossOutput(
            loss=reconstruction.mean(),
            reconstruction_loss=reconstruction,
            kl_local=torch.zeros_like(reconstruction),
        )


class AE(MixviModel):
    """Vanilla autoencoder, denoising on demand (Kolb 2022, section 4.1).

    Parameters
    ----------
    adata
        AnnData registered with :meth:`setup_anndata`.
    n_latent
        Size of the code.
    n_hidden, n_layers
        Width and number of hidden layers; ``n_layers=0`` gives the linear autoencoder, whose code
        spans the principal subspace (Plaut 2018).
    likelihood
        The reconstruction loss by name; ``"mse"`` is the thesis's squared error. ``"auto"``:
        ``"nb"`` for raw counts, else ``"mse"``.
    output_activation
        ``"relu"`` or ``"softplus"`` for data that are never negative.
    noise
        Standard deviation of Gaussian noise on the encoder's input in training.
    """

    _prefix = "ae"

    def __init__(
        self,
        adata: AnnData | None = None,
        n_latent: int = 12,
        n_hidden: int = 256,
        n_layers: int = 2,
        dropout_rate: float = 0.0,
        use_batch_norm: bool = True,
        likelihood: str = "auto",
        output_activation: str | None = None,
        noise: float = 0.0,
        inject_covariates: bool = False,
        registry: dict | None = None,
    ):
        super().__init__(adata, registry)
        likelihood = self._settled_likelihood(likelihood, otherwise="mse")
        arguments.check_positive("n_latent", n_latent)
        arguments.check_rate("dropout_rate", dropout_rate)
        if noise < 0:
            raise ValueError(f"noise must not be negative, but is {arguments.shown(noise)}.")
        module = AEModule(
            n_latent=n_latent,
            n_hidden=n_hidden,
            n_layers=n_layers,
            dropout_rate=dropout_rate,
            use_batch_norm=use_batch_norm,
            likelihood=likelihood,
            output_activation=output_activation,
            noise=noise,
            inject_covariates=inject_covariates,
            **self._module_sizes(),
        )
        self._finish(module, locals(), f"AE with n_latent={n_latent}, likelihood={likelihood}")

    @torch.inference_mode()
    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        which: str = "z",
        batch_size: int | None = None,
    ) -> np.ndarray:
        """The code of each cell, ``(n_obs, n_latent)``."""
        arguments.check_choice("which", which, self._latents)
        adata = self._validate_anndata(adata)
        batches = self._batches(adata, indices, batch_size)
        return torch.cat([self.module.encode(rows)["mu_z"] for rows in batches]).cpu().numpy()

    @torch.inference_mode()
    def get_reconstruction(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """The decoded code of each cell, ``(n_obs, n_vars)``, on the scale of the data."""
        return super().get_reconstruction(adata, indices, give_mean=True, batch_size=batch_size)
