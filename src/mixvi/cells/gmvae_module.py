"""The Gaussian-mixture VAE: networks and one loss for supervised, semi- and unsupervised rows."""

from __future__ import annotations

import math

import torch
from scvi.module.base import LossOutput
from torch import Tensor
from torch.nn.functional import one_hot

from mixvi.cells.novelty import LabelDistance
from mixvi.core.maths import mixture
from mixvi.core.maths.networks import ConditionalPrior, DirichletHead, bounded_gaussian
from mixvi.core.model.module import MixviModule, Rows

TERMS = ("R", "Z", "W", "Y", "D")
# what a call at the start counts beside a label
_CALL = 0.1


class GMVAEModule(MixviModule):
    """p(x | z) p(z | w, y) p(y | d) p(d) p(w), conditional on c where there are conditions.

    Sources: Kolb 2022, eqs. 5.1-5.9 (unsupervised), 5.10-5.17 (supervised, with the signs of 5.16
    and 5.17 corrected), 5.19-5.20 (conditional); Dilokthanakul et al. 2016 (categorical prior).

    Nuisance covariates enter encoder and decoder; the condition enters the component network, the
    classifier and the Dirichlet head as well (``condition_in="all"``), so that components stay
    comparable across batches.

    Parameters
    ----------
    n_input
        Number of genes G.
    n_components
        Number of mixture components K.
    components_per_class
        Class t owns components ``t * components_per_class`` and the following ones.
    n_latent_z, n_latent_w
        Sizes Dz and Dw.
    y_prior, y_posterior, d_term, alpha, y_regulariser, y_floor, w_free_bits, z_kl
        See :class:`mixvi.GMVAE`.
    classification_weight
        See :class:`mixvi.GMVAE`.
    classifier_sees_x, shared_trunk, term_weights
        See :class:`mixvi.GMVAE`.
    w_prior, condition_in
        See :class:`mixvi.CGMVAE`.
    **options
        See :class:`mixvi.core.model.module.MixviModule`.
    """

    def __init__(
        self,
        n_input: int,
        *,
        n_components: int,
        components_per_class: int = 1,
        n_latent_z: int = 12,
        n_latent_w: int = 12,
        y_prior: str = "dirichlet",
        y_posterior: str = "network",
        d_term: str = "analytic",
        alpha: float = 1.0,
        y_regulariser: str = "per_cell",
        y_floor: float = 0.0,
        w_free_bits: float = 0.0,
        z_kl: str = "analytic",
        classification_weight: float = 1.0,
        classifier_sees_x: bool = False,
        shared_trunk: bool = True,
        term_weights: dict[str, float] | None = None,
        w_prior: str = "standard",
        condition_in: str = "all",
        **options,
    ):
        super().__init__(n_input, **options)
        self.n_components = n_components
        self.components_per_class = components_per_class
        self.n_latent_z = n_latent_z
        self.n_latent_w = n_latent_w
        self.y_prior = y_prior
        self.y_posterior = y_posterior
        self.d_term = d_term
        self.alpha = alpha
        self.y_regulariser = y_regulariser
        self.y_floor = y_floor
        self.w_free_bits = w_free_bits
        self.z_kl = z_kl
        self.classification_weight = classification_weight
        self.classifier_sees_x = classifier_sees_x
        self.term_weights = {**dict.fromkeys(TERMS, 1.0), **(term_weights or {})}
        self._condition_everywhere = condition_in == "all" and self.n_conditions > 0
        n_condition = self.n_condition_columns if self._condition_everywhere else 0

        n_posterior = 2 * (n_latent_w + n_latent_z)
        if shared_trunk:
            self.encoder = self.make_mlp(n_input, n_posterior, self.n_covariates)
        else:
            self.encoder_w = self.make_mlp(n_input, 2 * n_latent_w, self.n_covariates)
            self.encoder_z = self.make_mlp(n_input, 2 * n_latent_z, self.n_covariates)
        self.shared_trunk = shared_trunk
        self.components = self.make_mlp(n_latent_w, n_components * 2 * n_latent_z, n_condition)
        self.decoder = self.make_mlp(n_latent_z, self.likelihood.n_outputs, self.n_covariates)
        n_classified = n_latent_z + (n_input if classifier_sees_x else 0)
        if y_posterior == "network":
            self.classifier = self.make_mlp(n_classified, n_components, n_condition)
        if y_prior == "dirichlet" and d_term != "collapsed":
            self.dirichlet = DirichletHead(self.make_mlp(n_classified, n_components, n_condition))
        self.w_table = None
        if w_prior == "learned":
            self.w_table = ConditionalPrior(self.condition_sizes, n_latent_w)
        self.label_distance = LabelDistance(
            n_input, self.n_classes, self.n_batch, self.n_conditions, self.likelihood.is_count
        )
        owners = torch.zeros(self.n_classes, n_components)
        for t in range(self.n_classes):
            owners[t, t * components_per_class : (t + 1) * components_per_class] = 1.0
        self.register_buffer("class_components", owners, persistent=False)

    def encode(self, rows: Rows) -> dict[str, Tensor]:
        """``mu_w, lv_w`` ``(B, Dw)`` and ``mu_z, lv_z`` ``(B, Dz)`` of q(w | x, c) q(z | x, c)."""
        if self.shared_trunk:
            raw = self.encoder(rows.features, rows.covariates)
            raw_w, raw_z = raw.split([2 * self.n_latent_w, 2 * self.n_latent_z], dim=-1)
        else:
            raw_w = self.encoder_w(rows.features, rows.covariates)
            raw_z = self.encoder_z(rows.features, rows.covariates)
        mu_w, lv_w = bounded_gaussian(raw_w)
        mu_z, lv_z = bounded_gaussian(raw_z)
        return {"mu_w": mu_w, "lv_w": lv_w, "mu_z": mu_z, "lv_z": lv_z}

    def decode(self, z: Tensor, rows: Rows) -> Tensor:
        """Raw decoder output of p(x | z, c), ``(B, n_outputs)``."""
        return self.decoder(z, rows.covariates)

    def component_parameters(self, w: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Means and log-variances ``(B, K, Dz)`` of p(z | w, y, c) for ``w`` ``(B, Dw)``."""
        raw = self.components(w, self._condition_columns(condition, w.dtype))
        return bounded_gaussian(raw.view(-1, self.n_components, 2 * self.n_latent_z))

    def w_prior(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of p(w | c), broadcastable to ``(B, Dw)``."""
        if self.w_table is None:
            zero = self.typical_library.new_zeros(1, self.n_latent_w)
            return zero, zero
        return self.w_table(condition)

    def log_component_probs(self, z: Tensor, rows: Rows, means: Tensor, log_vars: Tensor) -> Tensor:
        """Log q(y = j | .), ``(B, K)``: by the classifier, or by Bayes from the components."""
        if self.y_posterior == "bayes":
            densities = mixture.component_log_prob(z, means, log_vars)
            return mixture.log_responsibilities(densities)
        columns = self._condition_columns(rows.condition, z.dtype)
        return torch.log_softmax(self.classifier(self._classified(z, rows), columns), dim=-1)

    def _condition_columns(self, condition: Tensor, dtype: torch.dtype) -> Tensor | None:
        if not self._condition_everywhere:
            return None
        return self.one_hot_condition(condition, dtype)

    def _classified(self, z: Tensor, rows: Rows) -> Tensor:
        return torch.cat([z, rows.dense_features], dim=-1) if self.classifier_sees_x else z

    def inference(self, rows: Rows) -> dict:
        """Encode and draw w and z."""
        posterior = self.encode(rows)
        w = mixture.reparameterise(posterior["mu_w"], posterior["lv_w"])
        z = mixture.reparameterise(posterior["mu_z"], posterior["lv_z"])
        return {"rows": rows, "w": w, "z": z, **posterior}

    def _get_generative_input(self, tensors: dict, inference_outputs: dict, **kwargs) -> dict:
        return {key: inference_outputs[key] for key in ("rows", "w", "z")}

    def generative(self, rows: Rows, w: Tensor, z: Tensor) -> dict:
        """Decode z; component parameters of w; component probabilities and concentration."""
        means, log_vars = self.component_parameters(w, rows.condition)
        out = {
            "raw": self.decode(z, rows),
            "means": means,
            "log_vars": log_vars,
            "log_pi": self.log_component_probs(z, rows, means, log_vars),
        }
        if self.y_prior == "dirichlet" and self.d_term != "collapsed":
            columns = self._condition_columns(rows.condition, z.dtype)
            out["a"] = self.dirichlet(self._classified(z, rows), columns)
        return out

    def loss(
        self,
        tensors: dict[str, Tensor],
        inference_outputs: dict,
        generative_outputs: dict,
        use_labels: bool = True,
        label_weighting: str = "rows",
        kl_weight: Tensor | float = 1.0,
    ) -> LossOutput:
        """Weighted mean of the five terms over the batch (Kolb 2022, eqs. 5.4-5.17).

        Parameters
        ----------
        tensors, inference_outputs, generative_outputs
            The minibatch and what :meth:`inference` and :meth:`generative` gave.
        use_labels
            If false, labels are not looked at: the unsupervised loss.
        label_weighting
            ``"rows"``: every row counts once; ``"groups"``: labelled and unlabelled rows share the
            weight evenly.
        kl_weight
            Weight of Z, W, Y and D while it rises, as in scvi-tools; what labels cost in Y keeps
            its own.
        """
        rows = inference_outputs["rows"]
        terms = self.terms(
            inference_outputs, generative_outputs, use_labels, self.z_kl, in_training=True
        )
        if not torch.compiler.is_compiling() and torch.is_anomaly_enabled():
            _assert_signs(terms, self.z_kl)
        labelled = rows.labelled if use_labels else torch.zeros_like(rows.labelled)
        log_pi = _full(generative_outputs["log_pi"])
        known = self._label_loss(rows, log_pi, labelled, self.classification_weight)
        kl = sum(self.term_weights[name] * terms[name] for name in TERMS[1:])
        total = self.term_weights["R"] * terms["R"] + kl_weight * kl
        total = total + (1.0 - kl_weight) * self.term_weights["Y"] * known
        loss = (_row_weights(labelled, label_weighting) * total).mean()
        pi = generative_outputs["log_pi"].detach().exp()
        with torch.no_grad():
            kl_w = self.w_kl(rows, inference_outputs)
        mu_z = inference_outputs["mu_z"]
        extra = {}
        if self.n_classes and use_labels:
            log_class = self._log_class_probs(generative_outputs["log_pi"])
            hits = log_class.argmax(-1) == rows.labels.argmax(-1)
            extra = {"n_labelled": labelled.sum(), "n_correct": (hits * labelled).sum()}
        return LossOutput(
            loss=loss,
            reconstruction_loss=terms["R"],
            kl_local={name.lower(): terms[name] for name in TERMS[1:]},
            extra_metrics={
                "usage": pi.sum(0),
                "max_pi": pi.amax(-1).sum(),
                "kl_per_w": kl_w.sum(0),
                "z_moments": torch.stack([mu_z.sum(0), mu_z.square().sum(0)]),
                **extra,
            },
        )

    def terms(
        self,
        inference_outputs: dict,
        generative_outputs: dict,
        use_labels: bool,
        z_kl: str,
        in_training: bool = False,
    ) -> dict[str, Tensor]:
        """R, Z, W, Y and D of minus the ELBO, each ``(B,)`` in nats; every sign is a plus.

        Z, W, Y and D are never negative, except Z with ``z_kl="mc"``. ``in_training`` puts the
        ``classification_weight`` and the ``y_regulariser`` into Y and the free bits into W, which
        then are no bound.
        """
        # x (B, G)  z (B, Dz)  w (B, Dw)  means, log_vars (B, K, Dz)  log_pi, a (B, K)
        with torch.autocast(inference_outputs["z"].device.type, enabled=False):
            out = {k: _full(v) for k, v in {**inference_outputs, **generative_outputs}.items()}
            rows, log_pi = out["rows"], out["log_pi"]
            m = rows.labelled if use_labels else torch.zeros_like(rows.labelled)
            if rows.components is not None:
                m = torch.ones_like(m)
            r = self._responsibilities(rows, log_pi, m)
            if z_kl == "mc":
                inside = mixture.component_log_prob(out["z"], out["means"], out["log_vars"])
                z_term = mixture.gaussian_log_prob(out["z"], out["mu_z"], out["lv_z"])
                z_term = z_term - (r * inside).sum(-1)
            else:
                kl = mixture.component_kl(out["mu_z"], out["lv_z"], out["means"], out["log_vars"])
                z_term = (r * kl).sum(-1)
            label_weight = self.classification_weight if in_training else 1.0
            y_term, d_term = self._y_and_d(rows, log_pi, r, m, out.get("a"), label_weight)
            w_term = self.w_kl(rows, out)
            if in_training:
                y_term = self._regularised(y_term, log_pi, m)
                w_term = self._freed(w_term)
            return {
                "R": self.reconstruction_loss(rows, out["raw"]),
                "Z": z_term,
                "W": w_term.sum(-1),
                "Y": y_term,
                "D": d_term,
            }

    def w_kl(self, rows: Rows, posterior: dict[str, Tensor]) -> Tensor:
        """KL(q(w | x, c) || p(w | c)) of each dimension in nats, ``(B, Dw)``."""
        prior = self.w_prior(rows.condition)
        return mixture.gaussian_kl_per_dim(posterior["mu_w"], posterior["lv_w"], *prior)

    def _freed(self, kl: Tensor) -> Tensor:
        """KL of w ``(B, Dw)``; dimensions that use less than the free bits cost just those."""
        spent = kl.mean(0, keepdim=True) > self.w_free_bits
        return torch.where(spent, kl, self.w_free_bits)

    def _log_class_probs(self, log_pi: Tensor) -> Tensor:
        """Log of each class's share of the components, ``(B, n_classes)``."""
        if self.components_per_class == 1:
            return log_pi[:, : self.n_classes]
        owned = self.n_classes * self.components_per_class
        parts = log_pi[:, :owned].unflatten(-1, (self.n_classes, self.components_per_class))
        return parts.logsumexp(-1)

    def _responsibilities(self, rows: Rows, log_pi: Tensor, m: Tensor) -> Tensor:
        """The label's components where the row is labelled, else the classifier's, ``(B, K)``."""
        if rows.components is not None:
            return one_hot(rows.components.view(-1), self.n_components).to(log_pi.dtype)
        pi = log_pi.exp()
        if self.n_classes == 0:
            return pi
        if self.components_per_class == 1:
            labelled = rows.labels @ self.class_components.to(log_pi.dtype)
        else:
            labelled = (rows.labels.unsqueeze(-1) * self._within_class(log_pi)[0]).sum(-2)
        return m.unsqueeze(-1) * labelled + (1 - m).unsqueeze(-1) * pi

    def labelled_responsibilities(self, rows: Rows, log_pi: Tensor) -> Tensor:
        """Component weights with the observed label where there is one, ``(B, K)``."""
        return self._responsibilities(rows, log_pi, rows.labelled)

    def _within_class(self, log_pi: Tensor) -> tuple[Tensor, Tensor]:
        """q(component | class) and its log, ``(B, n_classes, K)``; zero for others' components."""
        log_within = log_pi.unsqueeze(-2) - self._log_class_probs(log_pi).unsqueeze(-1)
        owned = self.class_components.to(log_pi.dtype)
        # others' components may be far likelier than the class: their ratio must not overflow
        log_within = log_within * owned
        return owned * log_within.exp(), log_within

    def _y_and_d(
        self,
        rows: Rows,
        log_pi: Tensor,
        r: Tensor,
        m: Tensor,
        a: Tensor | None,
        label_weight: float,
    ) -> tuple[Tensor, Tensor]:
        """The label and the Dirichlet term (Kolb 2022, eqs. 5.8, 5.9, 5.16, 5.17)."""
        known = self._label_loss(rows, log_pi, m, label_weight)
        if rows.components is None and self.n_classes and self.components_per_class > 1:
            within, log_within = self._within_class(log_pi)
            split = (within * log_within).sum(-1)
            known = known + m * (rows.labels * split).sum(-1)
        latent = (1 - m) * mixture.negative_entropy(log_pi)
        no_d = torch.zeros_like(m)
        if self.y_prior == "categorical":
            y_term, d_term = latent + math.log(self.n_components), no_d
        elif self.d_term == "collapsed":
            y_term, d_term = latent + mixture.collapsed_dirichlet(r, self.alpha), no_d
        else:
            expected = mixture.expected_log_dirichlet(a)
            log_d = mixture.sampled_log_dirichlet(a) if self.d_term == "sample" else expected
            y_term = latent - (r * log_d).sum(-1)
            d_term = mixture.dirichlet_kl(a, self.alpha, expected)
        return y_term + known, d_term

    def _label_loss(self, rows: Rows, log_pi: Tensor, m: Tensor, weight: float) -> Tensor:
        """Cross-entropy of known components, or of labels (weighted) and calls, ``(B,)``."""
        if rows.components is not None:
            return -log_pi.gather(-1, rows.components.view(-1, 1)).squeeze(-1)
        if not self.n_classes:
            return torch.zeros_like(m)
        log_class = self._log_class_probs(log_pi)
        known = m * weight * -(rows.labels * log_class).sum(-1)
        if rows.calls is None:
            return known
        calls = rows.calls.view(-1, 1)
        of_calls = -log_class.gather(-1, calls.clamp_min(0)).squeeze(-1)
        return known + (1 - m) * (calls >= 0).squeeze(-1) * _CALL * weight * of_calls

    def _regularised(self, y_term: Tensor, log_pi: Tensor, m: Tensor) -> Tensor:
        """Y of the unlabelled rows floored, or driven by the batch's usage."""
        if self.y_regulariser == "floor":
            return torch.where(m > 0, y_term, y_term.clamp_min(self.y_floor))
        if self.y_regulariser == "batch_mean":
            usage = self._usage_kl(log_pi, m)
            # the Dirichlet's own term stays: only the uniform per-cell prior is replaced
            kept = m if self.y_prior == "categorical" else 1.0
            return kept * y_term + (1 - m) * usage
        return y_term

    def _usage_kl(self, log_pi: Tensor, m: Tensor) -> Tensor:
        """KL(mean of q(y | z) over the unlabelled rows || uniform), a scalar."""
        weight = (1 - m).unsqueeze(-1)
        usage = (weight * log_pi.exp()).sum(0) / weight.sum().clamp_min(1.0)
        # floored, because a batch without unlabelled rows uses nothing
        log_usage = usage.clamp_min(1e-12).log()
        return (usage * (log_usage + math.log(self.n_components))).sum()

    def epoch_summary(self, collected: dict[str, Tensor]) -> dict[str, float]:
        """Used components, mean of the largest probability, active units, training accuracy.

        A component is used if its mean probability exceeds 0.5 / K; a unit of w is active if its KL
        exceeds 0.01 nat, one of z if the variance of its posterior means exceeds 0.01.
        """
        first, second = collected["z_moments"]
        summary = {
            "used_components": float((collected["usage"] > 0.5 / self.n_components).sum()),
            "max_pi": float(collected["max_pi"]),
            "active_z": float((second - first.square() > 0.01).sum()),
            "active_w": float((collected["kl_per_w"] > 0.01).sum()),
        }
        if float(collected.get("n_labelled", 0.0)) > 0:
            summary["accuracy"] = float(collected["n_correct"] / collected["n_labelled"])
        return summary


def _full(value):
    half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if half else value


def _row_weights(labelled: Tensor, weighting: str) -> Tensor:
    """Weights of mean one, ``(B,)``; a group absent from the batch leaves the other its share."""
    n, n_labelled = len(labelled), labelled.sum()
    if weighting == "rows":
        return torch.ones_like(labelled)
    n_unlabelled = n - n_labelled
    both = (n_labelled > 0) & (n_unlabelled > 0)
    share = torch.where(both, 0.5 * n, float(n))
    return labelled * share / n_labelled.clamp_min(1) + (
        1 - labelled
    ) * share / n_unlabelled.clamp_min(1)


def _assert_signs(terms: dict[str, Tensor], z_kl: str) -> None:
    """In lightning's ``detect_anomaly`` mode: a negative term would mean a sign slip."""
    for name in ("W", "Y", "D") + (("Z",) if z_kl == "analytic" else ()):
        lowest = float(terms[name].detach().min())
        if lowest < -1e-3:
            raise AssertionError(f"Term {name} is negative ({lowest:.3g}); it never should be.")
