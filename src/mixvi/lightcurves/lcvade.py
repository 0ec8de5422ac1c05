"""LC-VaDE: classes of variable stars and strange ones among them (Astorga 2021, chapter 9)."""

from __future__ import annotations

import numpy as np
import torch
from anndata import AnnData
from scvi import settings
from sklearn.mixture import GaussianMixture
from torch import nn

from mixvi.core.arguments import check_choice, check_count, check_positive, check_weight
from mixvi.core.maths.networks import MLP
from mixvi.lightcurves.elbo_model import ElboCurveModel
from mixvi.lightcurves.module import LCVaDEModule, mixture_prior, standard_prior
from mixvi.lightcurves.networks import CurveEncoder, InductionDecoder

CLASSIFIERS = ("bayes", "mlp")
_N_INIT = 5
_N_HIDDEN = 128


def curve_networks(
    n_bands: int, n_representation: int, n_kernel: int, width: int, n_induction: int, periodic: bool
) -> dict[str, nn.Module]:
    """Encoder and decoder of curves.

    Raises
    ------
    ValueError
        If networks cannot have these sizes.
    """
    sizes = {"n_representation": n_representation, "n_kernel": n_kernel, "width": width}
    for name, value in sizes.items():
        check_positive(name, value)
    n_latent = n_representation + n_kernel
    return {
        "encoder": CurveEncoder(n_bands, n_latent, width, periodic=periodic),
        "decoder": InductionDecoder(
            n_bands, n_representation, n_kernel, width, n_induction, periodic
        ),
    }


def classifier_network(n_latent: int, n_features: int, n_classes: int) -> nn.Module:
    """Logits of the classes of ``[z, f]``."""
    return MLP(n_latent + n_features, n_classes, n_layers=1, n_hidden=_N_HIDDEN, dropout_rate=0.0)


class LCVaDE(ElboCurveModel):
    """Variational deep embedding of light curves, by labels of all, some or none.

    z comes from one of K Gaussians, and so do features f such as the period; the curve comes from z
    by induction points and a Gaussian process, so that times may be any. With labels a component
    stands for a class, and the cross-entropy of the labels is added to the ELBO (Astorga 2021,
    eq. 9.8); curves without a label teach by the ELBO alone.

    Parameters
    ----------
    adata
        AnnData registered with :meth:`setup_anndata`.
    n_clusters
        Components K. ``None``: one a class; with more, those beyond the classes have no label.
    n_representation, n_kernel
        Entries of z that decide the induction points, and the kernel.
    width
        Channels of the residual networks; the thesis has 288, which takes several times as long.
    n_induction
        Induction points a band, a multiple of 8.
    classifier
        q(y | z, f) by the rule of Bayes on the components (``"bayes"``), or a network (``"mlp"``),
        which needs labels and one component a class.
    periodic
        Take phases as a circle in the encoder's interpolation, the convolutions and the kernel. The
        thesis does not.
    classification_ratio
        Weight of the labels' cross-entropy.
    warmup
        Updates in which the weight of all terms of the ELBO but the reconstruction rises.

    Raises
    ------
    ValueError
        If a setting is unknown or unusable, or without labels there is no ``n_clusters``.
    """

    def __init__(
        self,
        adata: AnnData | None = None,
        n_clusters: int | None = None,
        n_representation: int = 10,
        n_kernel: int = 2,
        width: int = 64,
        n_induction: int = 24,
        classifier: str = "bayes",
        periodic: bool = False,
        classification_ratio: float = 1.0,
        warmup: int = 0,
        registry: dict | None = None,
    ):
        super().__init__(adata, registry)
        n_classes = len(self.classes)
        n = n_classes if n_clusters is None else n_clusters
        check_choice("classifier", classifier, CLASSIFIERS)
        check_weight("classification_ratio", classification_ratio)
        check_count("warmup", warmup)
        self._check_components(n_clusters, n, n_classes, classifier)
        networks = curve_networks(
            self.n_bands, n_representation, n_kernel, width, n_induction, periodic
        )
        n_latent = n_representation + n_kernel
        if classifier == "mlp":
            networks["classifier"] = classifier_network(n_latent, len(self.features), n_classes)
        module = LCVaDEModule(
            networks,
            mixture_prior(n, n_latent),
            classification_ratio=classification_ratio,
            warmup=warmup,
            **self._shape,
        )
        self._finish(module, locals(), f"LCVaDE with {n} components, {self.n_bands} band(s)")
        self._standardise_by(adata)

    def _check_components(self, given: int | None, n: int, n_classes: int, classifier: str) -> None:
        if given is not None:
            check_positive("n_clusters", given)
        if n < 2 or n < n_classes:
            raise ValueError(
                f"n_clusters={given!r}, but there are {n_classes} labels. A mixture has two "
                "components or more, and one a label: pass n_clusters, or labels_key to "
                "setup_anndata. One Gaussian is what CurveVAE has."
            )
        if classifier == "mlp" and n != n_classes:
            raise ValueError(
                f"classifier='mlp' learns from labels, one component each, but there are {n} "
                f"components and {n_classes} labels. Leave classifier out."
            )

    def _default_pretraining(self) -> int:
        return 0 if self.classes else 20

    def _check_start(self, rows: np.ndarray) -> None:
        n = self.module.prior.n_clusters
        if len(rows) < n and not (self._label_codes()[rows] >= 0).any():
            raise ValueError(
                f"{n} components without labels start at as many groups of curves, but only "
                f"{len(rows)} train. Lower n_clusters, or train on more curves."
            )

    @torch.inference_mode()
    def _start(self, rows: np.ndarray) -> None:
        """Features start at those of the classes; without labels all at a mixture of the codes."""
        codes = self._label_codes()[rows]
        seen = list(self._seen(rows))
        features = torch.cat([c.features for c in seen]).cpu().double()
        n = self.module.prior.n_clusters
        if (codes >= 0).any() and not self.features:
            return
        if (codes >= 0).any():
            start = _class_moments(features, torch.as_tensor(codes), n)
        else:
            z = torch.cat([self.module.encode(c)[0] for c in seen]).cpu().double()
            n_latent = z.shape[1]
            points = torch.cat([z, features], dim=1).numpy()
            # means and variances of clusters that a scale of their own brings out
            mixture = GaussianMixture(
                n,
                covariance_type="diag",
                n_init=_N_INIT,
                reg_covar=1e-4,
                random_state=settings.seed,
            ).fit(points)
            means, variances = (
                torch.as_tensor(v, dtype=torch.float32)
                for v in (mixture.means_, mixture.covariances_)
            )
            weights = torch.full((n,), 1.0 / n)
            self.module.prior.start_at(weights, means[:, :n_latent], variances[:, :n_latent])
            start = means[:, n_latent:], variances[:, n_latent:].sqrt()
        self.module.feature_prior.start_at(*(v.to(self.module.device) for v in start))


def _class_moments(
    features: torch.Tensor, codes: torch.Tensor, n: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Means and standard deviations ``(n, n_features)``; those of all where a class has none."""
    means = features.mean(0).repeat(n, 1)
    deviations = features.std(0, correction=0).repeat(n, 1)
    for k in codes[codes >= 0].unique().tolist():
        own = features[codes == k]
        means[k] = own.mean(0)
        if len(own) > 1:
            deviations[k] = own.std(0, correction=0)
    return means.float(), deviations.float()


class CurveVAE(ElboCurveModel):
    """LC-VaDE's networks with one standard Gaussian as prior, and labels by a classifier.

    The baseline that shows what the mixture does: the anomaly score is the density of the code
    (Astorga 2021, section 9.6).

    Parameters
    ----------
    adata
        AnnData registered with :meth:`setup_anndata`; without labels there is no classifier.
    n_representation, n_kernel, width, n_induction, periodic, classification_ratio, warmup
        See :class:`LCVaDE`.

    Raises
    ------
    ValueError
        If a setting is unusable.
    """

    def __init__(
        self,
        adata: AnnData | None = None,
        n_representation: int = 10,
        n_kernel: int = 2,
        width: int = 64,
        n_induction: int = 24,
        periodic: bool = False,
        classification_ratio: float = 1.0,
        warmup: int = 0,
        registry: dict | None = None,
    ):
        super().__init__(adata, registry)
        check_weight("classification_ratio", classification_ratio)
        check_count("warmup", warmup)
        networks = curve_networks(
            self.n_bands, n_representation, n_kernel, width, n_induction, periodic
        )
        n_latent = n_representation + n_kernel
        if self.classes:
            sizes = n_latent, len(self.features), len(self.classes)
            networks["classifier"] = classifier_network(*sizes)
        module = LCVaDEModule(
            networks,
            standard_prior(n_latent),
            classification_ratio=classification_ratio,
            warmup=warmup,
            learn_prior=False,
            **self._shape,
        )
        self._finish(module, locals(), f"CurveVAE, {self.n_bands} band(s)")
        self._standardise_by(adata)
