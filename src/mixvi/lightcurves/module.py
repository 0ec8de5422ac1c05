"""The base of modules of light curves, and those with an ELBO: LC-VaDE and its one-Gaussian kin."""

from __future__ import annotations

import torch
from scvi import REGISTRY_KEYS
from torch import Tensor, nn
from torch.nn import functional as F

from mixvi.core.maths.mixture import (
    LOG_2PI,
    negative_entropy,
    reparameterise,
)
from mixvi.core.maths.mixture_prior import GaussianMixturePrior
from mixvi.core.training.steps import Loss, Step, StepwiseModule
from mixvi.lightcurves.class_distance import ClassDistance
from mixvi.lightcurves.curves import Curves
from mixvi.lightcurves.gaussian_process import GaussianProcessDecoder, expected_log_likelihood
from mixvi.lightcurves.setup import (
    CENTRE_KEY,
    ERROR_KEY,
    FEATURES_KEY,
    PHASE_KEY,
    SPREAD_KEY,
    VALID_KEY,
)

# of features, which are standardised: a class of one brightness would have a density without end
_LEAST_SD = 0.05


class CurveModule(StepwiseModule):
    """Networks that read :class:`mixvi.lightcurves.curves.Curves`.

    Parameters
    ----------
    networks
        Name to network; each is an attribute of the module and has an optimiser of its own.
    n_bands, n_features, n_classes
        Bands, features and classes; 0 classes without labels.
    max_points
        Most observations a band that networks see at once.
    """

    def __init__(
        self,
        networks: dict[str, nn.Module],
        n_bands: int,
        n_features: int,
        n_classes: int,
        max_points: int,
    ):
        super().__init__(networks)
        self.n_classes, self.max_points = n_classes, max_points
        # set from the training curves; part of the saved weights
        for name, size in (("feature", n_features), ("centre", n_bands), ("spread", n_bands)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
        self.register_buffer("feature_sd", torch.ones(n_features))

    def rows(self, tensors: dict[str, Tensor]) -> Curves:
        """The curves of one minibatch (registry key to tensor), with all their observations."""
        magnitude = tensors[REGISTRY_KEYS.X_KEY]
        magnitude = magnitude[:, None] if magnitude.ndim == 2 else magnitude.transpose(1, 2)
        valid = tensors[VALID_KEY] > 0.5
        centre = self._filled(tensors[CENTRE_KEY], self.centre_mean)
        spread = self._filled(tensors[SPREAD_KEY], self.spread_mean)
        features = tensors[FEATURES_KEY]
        known = features.isfinite()
        # padding may hold anything, which no product would remove
        x = torch.where(valid, (magnitude - centre[..., None]) / spread[..., None], 0.0)
        error = torch.where(valid, tensors[ERROR_KEY] / spread[..., None], 0.0)
        return Curves(
            phase=tensors[PHASE_KEY],
            x=x,
            error=error,
            valid=valid,
            centre=centre,
            spread=spread,
            features=torch.where(known, (features - self.feature_mean) / self.feature_sd, 0.0),
            known=known,
            labels=self._labels(tensors, len(x)),
        )

    @staticmethod
    def _filled(values: Tensor, otherwise: Tensor) -> Tensor:
        return torch.where(values.isfinite(), values, otherwise)

    def _labels(self, tensors: dict[str, Tensor], n: int) -> Tensor:
        labels = tensors.get(REGISTRY_KEYS.LABELS_KEY)
        if labels is None:
            return torch.full((n,), -1, device=self.centre_mean.device)
        labels = labels.long().ravel()
        # the last code is that of the unlabelled
        return torch.where(labels < self.n_classes, labels, -1)

    def training_rows(self, tensors: dict[str, Tensor]) -> tuple[Curves]:
        """The curves, of long ones some observations, drawn anew each time."""
        return (self.rows(tensors).at_most(self.max_points, draw=self.training),)

    def seen(self, curves: Curves) -> Curves:
        """What networks see of curves that are only read: of long ones some observations."""
        return curves.at_most(self.max_points)


class FeaturePrior(nn.Module):
    """p(f | y = k) of each component: Gaussians of standardised features."""

    def __init__(self, n_components: int, n_features: int):
        super().__init__()
        self.mu = nn.Parameter(torch.zeros(n_components, n_features))
        self.raw = nn.Parameter(torch.zeros(n_components, n_features))

    @property
    def sd(self) -> Tensor:
        """Standard deviations ``(K, n_features)``."""
        return _LEAST_SD + self.raw.exp()

    def log_prob(self, features: Tensor, known: Tensor) -> Tensor:
        """Log density of the known features ``(B, n_features)`` under each, ``(B, K)``."""
        off = (features[:, None] - self.mu) / self.sd
        each = -0.5 * (off.square() + LOG_2PI) - self.sd.log()
        return torch.where(known[:, None], each, 0.0).sum(-1)

    @torch.no_grad()
    def start_at(self, means: Tensor, deviations: Tensor) -> None:
        """Take means and standard deviations ``(K, n_features)`` of components found elsewhere."""
        self.mu.copy_(means)
        self.raw.copy_((deviations - _LEAST_SD).clamp_min(_LEAST_SD).log())


class LCVaDEModule(CurveModule):
    """Encoder, induction-point decoder and mixture prior (Astorga 2021, section 9.5).

    Parameters
    ----------
    networks
        ``encoder`` and ``decoder``, and ``classifier`` of ``[z, f]`` if q(y | z, f) is not by the
        rule of Bayes.
    prior
        p(z | y) and p(y).
    n_features, n_bands, n_classes, max_points
        See :class:`CurveModule`.
    classification_ratio
        Weight of the labels' cross-entropy beside minus the ELBO.
    warmup
        Updates in which the weight of all terms but the reconstruction rises from zero to one.
    learn_prior
        Whether the prior of z is learned.
    """

    def __init__(
        self,
        networks: dict[str, nn.Module],
        prior: GaussianMixturePrior,
        *,
        n_bands: int,
        n_features: int,
        n_classes: int,
        max_points: int,
        classification_ratio: float = 1.0,
        warmup: int = 0,
        learn_prior: bool = True,
    ):
        feature_prior = FeaturePrior(prior.n_clusters, n_features)
        if n_features:
            networks = networks | {"feature_prior": feature_prior}
        if learn_prior:
            networks = networks | {"prior": prior}
        super().__init__(networks, n_bands, n_features, n_classes, max_points)
        if not n_features:
            self.feature_prior = feature_prior
        if not learn_prior:
            self.prior = prior.requires_grad_(False)
        self.classification_ratio, self.warmup = classification_ratio, warmup
        self.register_buffer("n_updates", torch.zeros((), dtype=torch.long))
        # log of the score and of the misfit of training curves, by which they are weighed
        self.register_buffer("score_moments", torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
        n_apart = n_classes if self.has_classifier else prior.n_clusters
        self.class_distance = ClassDistance(n_apart, prior.mu.shape[1] + 1 + n_features)

    @property
    def has_mixture(self) -> bool:
        """Whether there are components to tell apart."""
        return self.prior.n_clusters > 1

    @property
    def has_classifier(self) -> bool:
        """Whether q(y | z, f) is a network."""
        return "classifier" in self.network_names

    def steps(self) -> tuple[Step, ...]:
        """One step a minibatch: of the autoencoder in pre-training, of all networks later."""
        if self._part == "pretraining":
            pretrained = ("encoder", "decoder")
            return (Step("pretraining", pretrained, LCVaDEModule.pretraining_loss),)
        return (Step("lcvade", self.network_names, LCVaDEModule.elbo_loss),)

    def after_step(self, step: Step) -> None:
        """Count the updates, by which the warm-up goes."""
        if step.name == "lcvade":
            self.n_updates += 1

    def encode(self, curves: Curves) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z | x, t), each ``(B, n_latent)``."""
        return self.encoder(curves)

    def decode(self, z: Tensor) -> GaussianProcessDecoder:
        """The process of each code, which gives normalised magnitudes at phases."""
        return self.decoder(z)

    def log_responsibilities(self, z: Tensor, curves: Curves) -> Tensor:
        """Log q(y | z, f) of the components, ``(B, K)``."""
        if not self.has_mixture:
            return z.new_zeros(len(z), 1)
        if self.has_classifier:
            return self._classified(z, curves)
        joint = self.prior.log_joint(z)
        joint = joint + self.feature_prior.log_prob(curves.features, curves.known)
        return joint.log_softmax(-1)

    def class_log_probabilities(self, z: Tensor, curves: Curves) -> Tensor:
        """Log q(y | z, f) of the classes: of the components, or of the classifier beside one."""
        if self.has_classifier:
            return self._classified(z, curves)
        return self.log_responsibilities(z, curves)

    def _classified(self, z: Tensor, curves: Curves) -> Tensor:
        return self.classifier(torch.cat([z, curves.features], dim=1)).log_softmax(-1)

    def log_likelihood(self, z: Tensor, curves: Curves) -> Tensor:
        """E log p(x | z, t) of normalised magnitudes, ``(B,)``."""
        mean, variance = self.decode(z)(curves.phase)
        return expected_log_likelihood(curves.x, curves.error, mean, variance, curves.valid)

    def pretraining_loss(self, curves: Curves) -> Loss:
        """Reconstruction of the codes' means."""
        loss = -self.log_likelihood(self.encode(curves)[0], curves).mean()
        return loss, {"pretraining_reconstruction": loss}

    def elbo_loss(self, curves: Curves) -> Loss:
        """Minus the ELBO and, of labelled curves, the cross-entropy (Astorga 2021, eq. 9.8)."""
        mu, log_var = self.encode(curves)
        z = reparameterise(mu, log_var)
        terms = {name: values.mean() for name, values in self.terms(curves, mu, log_var, z).items()}
        rest = sum(value for name, value in terms.items() if name != "reconstruction")
        loss = terms["reconstruction"] + self._weight() * rest
        labelled = curves.labels >= 0
        if self.n_classes and labelled.any():
            log_probs = self.class_log_probabilities(z, curves)[labelled]
            cross_entropy = F.nll_loss(log_probs, curves.labels[labelled])
            right = log_probs.detach().argmax(1) == curves.labels[labelled]
            loss = loss + self.classification_ratio * cross_entropy
            terms |= {"classification": cross_entropy, "accuracy": right.float().mean()}
        return loss, terms

    def _weight(self) -> Tensor | float:
        if not self.warmup:
            return 1.0
        return ((self.n_updates + 1) / self.warmup).clamp(max=1.0)

    def terms(self, curves: Curves, mu: Tensor, log_var: Tensor, z: Tensor) -> dict[str, Tensor]:
        """The six terms of minus the ELBO at a draw of z, each ``(B,)`` in nats.

        All but the reconstruction are in closed form given q(y | z, f); the entropy of q(f), which
        is a constant without end, is left out (Astorga 2021, eqs. 9.9 to 9.11).
        """
        log_gamma = self.log_responsibilities(z, curves)
        gamma = log_gamma.exp()
        entropy = 0.5 * (1.0 + LOG_2PI + log_var).sum(-1)
        kl = (gamma * self.prior.component_kls(mu, log_var)).sum(-1)
        features = self.feature_prior.log_prob(curves.features, curves.known)
        return {
            "reconstruction": -self.log_likelihood(z, curves),
            "z_cross_entropy": kl + entropy,
            "feature_cross_entropy": -(gamma * features).sum(-1),
            "y_cross_entropy": -(gamma * self.prior.log_phi).sum(-1),
            "negative_y_entropy": negative_entropy(log_gamma),
            "negative_z_entropy": -entropy,
        }

    def information_score(
        self, curves: Curves, include_features: bool = False, n_samples: int = 0
    ) -> Tensor:
        """Minus the information anomaly score, ``(B,)`` in nats, never negative.

        ``sum_k gamma_k KL(q(z | x) || p(z | y = k))`` (Astorga 2021, eq. 9.12): high of curves that
        no component has a place for. Gamma is at the mean of q(z | x), or the mean over draws.
        """
        mu, log_var = self.encode(curves)
        places = [reparameterise(mu, log_var) for _ in range(n_samples)] or [mu]
        gamma = sum(self.log_responsibilities(z, curves).exp() for z in places) / len(places)
        score = (gamma * self.prior.component_kls(mu, log_var)).sum(-1)
        if include_features:
            features = self.feature_prior.log_prob(curves.features, curves.known)
            score = score - (gamma * features).sum(-1)
        return score

    def density_score(self, curves: Curves) -> Tensor:
        """Minus the log density of the code's mean under the prior, ``(B,)``."""
        return -self.prior.log_joint(self.encode(curves)[0]).logsumexp(-1)

    def whole_code(self, curves: Curves) -> Tensor:
        """Mean of z, expected log-likelihood of an observation there, and features, ``(B, D)``."""
        mu, _ = self.encode(curves)
        fit = self.log_likelihood(mu, curves) / curves.valid.flatten(1).sum(1)
        return torch.cat([mu, fit[:, None], curves.features], dim=1)

    def distance_score(self, curves: Curves) -> Tensor:
        """How far the whole code lies from the nearest class, ``(B,)``."""
        return self.class_distance(self.whole_code(curves))

    def misfit(self, curves: Curves) -> Tensor:
        """Mean squared residual of the decoded mean in units of the errors, ``(B,)``."""
        mean, _ = self.decode(self.encode(curves)[0])(curves.phase)
        squared = ((curves.x - mean) / torch.where(curves.valid, curves.error, 1.0)).square()
        total = torch.where(curves.valid, squared, 0.0).flatten(1).sum(1)
        return total / curves.valid.flatten(1).sum(1)

    def combined_score(self, curves: Curves) -> Tensor:
        """Logs of :meth:`information_score` and :meth:`misfit` in spreads of training curves."""
        logs = torch.stack([self.information_score(curves), self.misfit(curves)], dim=1)
        logs = logs.clamp_min(1e-6).log()
        return ((logs - self.score_moments[:, 0]) / self.score_moments[:, 1]).sum(1)

    def draw_features(self, components: Tensor) -> Tensor:
        """Features ``(n, n_features)`` of p(f | y), in their own units."""
        prior = self.feature_prior
        mu, sd = prior.mu[components], prior.sd[components]
        drawn = mu + sd * torch.randn_like(mu)
        return drawn * self.feature_sd + self.feature_mean

    def inference(self, curves: Curves) -> dict[str, Tensor]:
        """``mu_z``, ``log_var_z`` and a draw ``z``."""
        mu, log_var = self.encode(curves)
        return {"mu_z": mu, "log_var_z": log_var, "z": reparameterise(mu, log_var)}

    def generative(self, z: Tensor, curves: Curves) -> dict[str, Tensor]:
        """``mean`` and ``variance`` of normalised magnitudes at the curves' phases."""
        return dict(zip(("mean", "variance"), self.decode(z)(curves.phase), strict=True))

    def _get_inference_input(self, tensors: dict[str, Tensor], **kwargs) -> dict:
        return {"curves": self.seen(self.rows(tensors))}

    def _get_generative_input(self, tensors: dict, inference_outputs: dict, **kwargs) -> dict:
        return {"z": inference_outputs["z"], "curves": self.seen(self.rows(tensors))}


def standard_prior(n_latent: int) -> GaussianMixturePrior:
    """N(0, I) as a mixture of one."""
    prior = GaussianMixturePrior(1, n_latent)
    prior.start_at(torch.ones(1), torch.zeros(1, n_latent), torch.ones(1, n_latent))
    return prior


def mixture_prior(n_components: int, n_latent: int) -> GaussianMixturePrior:
    """Components of unit variance at random places."""
    prior = GaussianMixturePrior(n_components, n_latent)
    means = torch.randn(n_components, n_latent)
    weights = torch.full((n_components,), 1.0 / n_components)
    prior.start_at(weights, means, torch.ones_like(means))
    return prior
