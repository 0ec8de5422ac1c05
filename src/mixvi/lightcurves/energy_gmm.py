"""Energy models with a Gaussian mixture over codes: baselines of LC-VaDE.

Zong et al. 2018 (DAGMM), as adapted to light curves by Tsang & Schultz 2019.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor, nn
from torch.nn import functional as F

from mixvi.core.arguments import check_choice, check_positive, check_rate, check_weight
from mixvi.core.data.splitting import Split
from mixvi.core.maths.mixture import LOG_2PI
from mixvi.core.training.fitting import Fit
from mixvi.core.training.resuming import TrainingRun
from mixvi.core.training.steps import Loss, Step
from mixvi.lightcurves.curves import Curves
from mixvi.lightcurves.gaussian_process import GaussianProcessDecoder, expected_log_likelihood
from mixvi.lightcurves.model import LightCurveModel, component_names
from mixvi.lightcurves.module import CurveModule
from mixvi.lightcurves.networks import CurveEncoder, InductionDecoder
from mixvi.lightcurves.recurrent import RecurrentAutoencoder

BACKBONES = ("gp", "rnn")
# of the diagonal of covariances, which may become singular
_RIDGE = 1e-4


class GPAutoencoder(nn.Module):
    """LC-VaDE's encoder, without its variance, and its decoder."""

    def __init__(self, encoder: CurveEncoder, decoder: InductionDecoder):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def encode(self, curves: Curves) -> Tensor:
        """Codes ``(B, n_latent)``."""
        return self.encoder(curves)[0]

    def decode(self, z: Tensor) -> GaussianProcessDecoder:
        """The process of each code."""
        return self.decoder(z)

    def reconstruct(self, curves: Curves, z: Tensor) -> tuple[Tensor, Tensor]:
        """Loss ``(B,)``, minus the expected log-likelihood, and decoded means."""
        mean, variance = self.decode(z)(curves.phase)
        loss = -expected_log_likelihood(curves.x, curves.error, mean, variance, curves.valid)
        return loss, mean


def reconstruction_features(curves: Curves, mean: Tensor) -> Tensor:
    """Relative Euclidean distance and cosine of curves and their means, ``(B, 2)``."""
    x = torch.where(curves.valid, curves.x, 0.0).flatten(1)
    y = torch.where(curves.valid, mean, 0.0).flatten(1)
    size = x.norm(dim=1).clamp_min(1e-6)
    distance = (x - y).norm(dim=1) / size
    return torch.stack([distance, F.cosine_similarity(x, y, dim=1)], dim=1)


def mixture_of(gamma: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights ``(K,)``, means ``(K, D)`` and covariances ``(K, D, D)`` by memberships ``(N, K)``.

    Source: Zong et al. 2018, eq. 5.
    """
    total = gamma.sum(0).clamp_min(1e-6)
    means = (gamma.T @ z) / total[:, None]
    off = z[:, None] - means
    covariances = torch.einsum("nk,nkd,nke->kde", gamma, off, off) / total[:, None, None]
    ridge = _RIDGE * torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    return total / len(z), means, covariances + ridge


def energy(z: Tensor, weights: Tensor, means: Tensor, covariances: Tensor) -> Tensor:
    """Minus the log density of ``(N, D)`` under a mixture, ``(N,)``."""
    factor = torch.linalg.cholesky(covariances)
    off = (z[:, None] - means)[..., None]
    white = torch.linalg.solve_triangular(factor, off, upper=False)[..., 0]
    log_det = 2.0 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    each = -0.5 * (white.square().sum(-1) + log_det + z.shape[1] * LOG_2PI)
    return -(weights.clamp_min(1e-12).log() + each).logsumexp(-1)


class EnergyGMMModule(CurveModule):
    """Autoencoder and estimation network.

    Parameters
    ----------
    autoencoder
        Gives codes and reconstructions.
    n_latent, n_components
        Size of the codes, and components K.
    energy_weight, covariance_weight, classification_ratio
        See :class:`EnergyGMM`.
    n_bands, n_features, n_classes, max_points
        See :class:`mixvi.lightcurves.module.CurveModule`.
    """

    def __init__(
        self,
        autoencoder: nn.Module,
        n_latent: int,
        n_components: int,
        *,
        n_hidden: int,
        dropout_rate: float,
        energy_weight: float,
        covariance_weight: float,
        classification_ratio: float,
        n_bands: int,
        n_features: int,
        n_classes: int,
        max_points: int,
    ):
        n_whole = n_latent + 2 + n_features
        estimation = nn.Sequential(
            nn.Linear(n_whole, n_hidden),
            nn.Tanh(),
            nn.Dropout(dropout_rate),
            nn.Linear(n_hidden, n_components),
        )
        networks = {"autoencoder": autoencoder, "estimation": estimation}
        super().__init__(networks, n_bands, n_features, n_classes, max_points)
        self.energy_weight, self.covariance_weight = energy_weight, covariance_weight
        self.classification_ratio = classification_ratio
        # the mixture of the training curves
        self.register_buffer("weights", torch.full((n_components,), 1.0 / n_components))
        self.register_buffer("means", torch.zeros(n_components, n_whole))
        self.register_buffer("covariances", torch.eye(n_whole).repeat(n_components, 1, 1))

    def steps(self) -> tuple[Step, ...]:
        """One step a minibatch: of the autoencoder in pre-training, of both networks later."""
        if self._part == "pretraining":
            return (Step("pretraining", ("autoencoder",), EnergyGMMModule.pretraining_loss),)
        return (Step("energy", self.network_names, EnergyGMMModule.energy_loss),)

    def pretraining_loss(self, curves: Curves) -> Loss:
        """Reconstruction alone."""
        loss = self.autoencoder.reconstruct(curves, self.autoencoder.encode(curves))[0].mean()
        return loss, {"pretraining_reconstruction": loss}

    def whole_code(self, curves: Curves) -> tuple[Tensor, Tensor]:
        """Code with features of its reconstruction and f, ``(B, D)``; that loss, ``(B,)``."""
        z = self.autoencoder.encode(curves)
        loss, mean = self.autoencoder.reconstruct(curves, z)
        parts = [z, reconstruction_features(curves, mean), curves.features]
        return torch.cat(parts, dim=1), loss

    def memberships(self, code: Tensor) -> Tensor:
        """Log probabilities of the components, ``(B, K)``."""
        return self.estimation(code).log_softmax(-1)

    def energy_loss(self, curves: Curves) -> Loss:
        """Reconstruction, energy, cross-entropy of labels, and what keeps covariances regular."""
        code, reconstruction = self.whole_code(curves)
        log_gamma = self.memberships(code)
        weights, means, covariances = mixture_of(log_gamma.exp(), code)
        terms = {
            "reconstruction": reconstruction.mean(),
            "energy": energy(code, weights, means, covariances).mean(),
            "covariance": (1.0 / covariances.diagonal(dim1=-2, dim2=-1)).sum(),
        }
        loss = (
            terms["reconstruction"]
            + self.energy_weight * terms["energy"]
            + self.covariance_weight * terms["covariance"]
        )
        labelled = curves.labels >= 0
        if self.n_classes and labelled.any():
            own, labels = log_gamma[labelled], curves.labels[labelled]
            terms["classification"] = F.nll_loss(own, labels)
            terms["accuracy"] = (own.detach().argmax(1) == labels).float().mean()
            loss = loss + self.classification_ratio * terms["classification"]
        return loss, terms

    def score(self, curves: Curves) -> Tensor:
        """Energy under the mixture of the training curves, ``(B,)``."""
        code, _ = self.whole_code(curves)
        return energy(code, self.weights, self.means, self.covariances)

    def inference(self, curves: Curves) -> dict[str, Tensor]:
        """``z``, the codes."""
        return {"z": self.autoencoder.encode(curves)}

    def generative(self, z: Tensor) -> dict[str, Tensor]:
        """Nothing: reconstructions are the autoencoder's own."""
        return {}

    def _get_inference_input(self, tensors: dict[str, Tensor], **kwargs) -> dict:
        return {"curves": self.seen(self.rows(tensors))}

    def _get_generative_input(self, tensors: dict, inference_outputs: dict, **kwargs) -> dict:
        return inference_outputs


class EnergyGMM(LightCurveModel):
    """An autoencoder and an energy, minus the log density of a mixture that a network estimates.

    The code, two features of its reconstruction and the features f have memberships by an
    estimation network, these a Gaussian mixture, and that the energy (Zong et al. 2018; Tsang &
    Schultz 2019; Astorga 2021, section 9.6). Training may break off where covariances become
    singular.

    Parameters
    ----------
    adata
        AnnData registered with :meth:`setup_anndata`.
    backbone
        ``"gp"``, LC-VaDE's networks, or ``"rnn"``, the recurrent autoencoder of Naul et al. 2018,
        which reads one band.
    n_components
        K; ``None``: one a class.
    n_latent
        Size of the code. ``None``: 12, or 64 of ``"rnn"``.
    width
        Channels of LC-VaDE's networks, or units of recurrent layers; ``None``: 64, or 96.
    n_hidden, dropout_rate
        Units and dropout of the estimation network.
    energy_weight, covariance_weight
        Weights of the mean energy and of the inverse variances.
    classification_ratio
        Weight of the labels' cross-entropy.

    Raises
    ------
    ValueError
        If a setting is unknown or unusable, or without labels there is no ``n_components``.
    """

    module: EnergyGMMModule

    def __init__(
        self,
        adata: AnnData | None = None,
        backbone: str = "gp",
        n_components: int | None = None,
        n_latent: int | None = None,
        width: int | None = None,
        n_hidden: int = 32,
        dropout_rate: float = 0.25,
        energy_weight: float = 0.1,
        covariance_weight: float = 0.005,
        classification_ratio: float = 1.0,
        registry: dict | None = None,
    ):
        super().__init__(adata, registry)
        check_choice("backbone", backbone, BACKBONES)
        if n_components is not None:
            check_positive("n_components", n_components)
        n = len(self.classes) if n_components is None else n_components
        if n < max(1, len(self.classes)):
            raise ValueError(
                f"n_components={n_components!r}, but there are {len(self.classes)} labels, each "
                "with a component of its own. Raise it, or pass labels_key to setup_anndata."
            )
        check_positive("n_hidden", n_hidden)
        check_rate("dropout_rate", dropout_rate)
        for name, value in (
            ("energy_weight", energy_weight),
            ("covariance_weight", covariance_weight),
            ("classification_ratio", classification_ratio),
        ):
            check_weight(name, value)
        if n_latent is None:
            n_latent = 12 if backbone == "gp" else 64
        if width is None:
            width = 64 if backbone == "gp" else 96
        module = EnergyGMMModule(
            self._autoencoder(backbone, n_latent, width),
            n_latent,
            n,
            n_hidden=n_hidden,
            dropout_rate=dropout_rate,
            energy_weight=energy_weight,
            covariance_weight=covariance_weight,
            classification_ratio=classification_ratio,
            **self._shape,
        )
        self._finish(module, locals(), f"EnergyGMM with {n} components, backbone={backbone}")
        self._standardise_by(adata)

    def _autoencoder(self, backbone: str, n_latent: int, width: int) -> nn.Module:
        check_positive("n_latent", n_latent)
        check_positive("width", width)
        if backbone == "rnn":
            if self.n_bands > 1:
                raise ValueError(
                    f"backbone='rnn' reads one band, but there are {self.n_bands}. Take 'gp'."
                )
            return RecurrentAutoencoder(n_latent, width)
        if n_latent < 3:
            raise ValueError(f"n_latent={n_latent}: two entries decide the kernel. Raise it.")
        return GPAutoencoder(
            CurveEncoder(self.n_bands, n_latent, width),
            InductionDecoder(self.n_bands, n_latent - 2, 2, width),
        )

    @property
    def categories(self) -> list:
        """What :meth:`predict` tells apart: the labels, or components if there are more."""
        n = len(self.module.weights)
        return component_names(self.classes, n) if n > len(self.classes) else self.classes

    def _class_probabilities(self, curves: Curves) -> Tensor:
        return self.module.memberships(self.module.whole_code(curves)[0]).exp()

    def _fit(self, fit: Fit, run: TrainingRun | None) -> Split:
        split = super()._fit(fit, run)
        if fit.part == "training":
            self._fit_mixture(split.train)
        return split

    @torch.inference_mode()
    def _fit_mixture(self, rows: np.ndarray) -> None:
        """The mixture of all training curves, by which scores are taken."""
        parts = [
            self.module.whole_code(self.module.seen(curves))[0]
            for curves in self._inputs(self.adata, rows, None)
        ]
        code = torch.cat(parts)
        found = mixture_of(self.module.memberships(code).exp(), code)
        for name, value in zip(("weights", "means", "covariances"), found, strict=True):
            getattr(self.module, name).copy_(value)

    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Codes of the curves, ``(n_obs, n_latent)``."""
        return self._of_each(self.module.autoencoder.encode, adata, indices, batch_size)[0]

    def get_anomaly_score(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        kind: str = "energy",
        batch_size: int | None = None,
    ) -> pd.Series:
        """Energy of each curve under the mixture of the training curves; higher is stranger.

        Parameters
        ----------
        kind
            ``"energy"``, the only one.

        Returns
        -------
        Series ``(n_obs,)``, by the objects' names.

        Raises
        ------
        ValueError
            If ``kind`` is unknown.
        """
        check_choice("kind", kind, ("energy",))
        values, names = self._of_each(self.module.score, adata, indices, batch_size)
        return pd.Series(values, index=names, name=kind)
