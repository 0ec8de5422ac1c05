"""Hierarchical VAEs with Gaussian latents and the ELBO, to compare symmetric learning with.

Networks are those of :class:`mixvi.satellite.SymmetricHVAE`. Hruška 2023, section 2.4; Kingma and
Welling 2014; Sønderby et al. 2016 (ladder, warm-up); Kingma et al. 2016 (free bits).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from anndata import AnnData
from torch import Tensor
from torch.nn import functional as F

from mixvi.core import arguments
from mixvi.core.maths.exponential_families import Categorical, Family, Gaussian, summed
from mixvi.core.training.steps import Loss, Step
from mixvi.satellite.ladder import Layer
from mixvi.satellite.ladder_model import LadderModel
from mixvi.satellite.ladder_module import LadderModule
from mixvi.satellite.ladder_path import Path
from mixvi.satellite.series import Series

INFERENCE = ("ladder", "general", "markov", "flat")
LIKELIHOODS = ("gaussian", "bernoulli")
# what encoder blocks see of the layers above, in numbers a channel: draws, or draws and evidence
_SEEN = {"general": Gaussian.n_parameters + 1, "markov": 1}


class HierarchicalVAEModule(LadderModule):
    """One loss for both networks, with draws that gradients pass through.

    Parameters
    ----------
    *args, **options
        See :class:`mixvi.satellite.ladder_module.LadderModule`.
    inference, kl_warmup, free_bits, weight_labels, temperature, other_gaps
        See :class:`HierarchicalVAE`.
    """

    def __init__(
        self,
        *args,
        inference: str,
        kl_warmup: int,
        free_bits: float,
        weight_labels: float,
        temperature: float,
        other_gaps: float,
        **options,
    ):
        super().__init__(*args, **options, encoder_sees=_SEEN.get(inference))
        self._inference, self._other_gaps = inference, other_gaps
        self._kl_warmup, self._free_bits = kl_warmup, free_bits
        self._weight_labels, self._temperature = weight_labels, temperature
        self.register_buffer("n_updates", torch.zeros((), dtype=torch.long))

    def steps(self) -> tuple[Step, ...]:
        """The ELBO."""
        return (Step("elbo", ("encoder", "decoder"), type(self).minus_elbo),)

    def after_step(self, step: Step) -> None:
        """Count updates, by which the weight of the KL divergences is warmed up."""
        self.n_updates += 1

    def minus_elbo(self, series: Series) -> Loss:
        """Minus the ELBO over T H W, segmentations being as annotated where there are labels.

        Latents are drawn given what is left under other gaps: a bound of the same likelihood.
        """
        n = series.x.shape[1] * series.x.shape[3] * series.x.shape[4]
        has_labels = self.n_classes > 0
        if has_labels and self.training:
            labelled = series.labelled.flatten(1).any(1)
            series = series.replaced(labelled, self.augmented(series))
        seen = series.under_other_gaps(self._other_gaps)
        evidence = {} if self._is_bottom_up else self.evidence(seen)
        path = self.posterior(seen, evidence, use_labels=has_labels, through=True, draw=self._drawn)
        beta = (self.n_updates / self._kl_warmup).clamp_max(1.0) if self._kl_warmup else 1.0
        terms = {"R": -path.image.log_likelihood(*self.target(series)).mean() / n}
        loss = terms["R"]
        for name, divergence in self.divergences(path).items():
            if name == "segmentation":
                # where it is known there is no distribution to be regular
                labelled = series.labelled if self.by_date else series.labelled[:, None]
                total = summed(divergence, ~labelled).mean()
                terms["cross_entropy"] = self._cross_entropy(path, labelled)
                loss = loss + self._weight_labels * terms["cross_entropy"]
                weighted = total
            else:
                groups = divergence.flatten(2).sum(2) if divergence.ndim > 2 else divergence
                groups = groups.mean(0)
                total, weighted = groups.sum(), groups.clamp_min(self._free_bits).sum()
            terms[f"kl_{name}"] = total / n
            loss = loss + beta * weighted / n
        return loss, terms

    def _cross_entropy(self, path: Path, labelled: Tensor) -> Tensor:
        """Mean of -log q(s | x) over labelled pixels."""
        log_q = path.q["segmentation"].log_prob(path.z["segmentation"])
        return -torch.where(labelled, log_q, 0.0).sum() / labelled.sum().clamp_min(1)

    @property
    def _is_bottom_up(self) -> bool:
        """Whether layers are drawn from the image's upwards, each given those drawn before."""
        return self._inference in _SEEN

    def evidence(self, series: Series) -> dict[str, Family]:
        """What the encoder says of each latent, those between being at their means."""
        if not self._is_bottom_up:
            return super().evidence(series)
        return self._ascend(series, lambda family: family.mean)[0]

    def _raw_evidence(self, series: Series) -> dict[str, Tensor]:
        if not self._is_bottom_up:
            return super()._raw_evidence(series)
        return self._ascended(series, lambda family: family.mean)[0]

    def posterior(
        self,
        series: Series,
        evidence: dict[str, Family],
        *,
        use_labels: bool = False,
        through: bool = False,
        draw: Callable[[Family], Tensor] | None = None,
    ) -> Path:
        """One draw of the latents given series; of bottom-up inference evidence is made anew."""
        draw = draw or (lambda family: family.sample())
        if not self._is_bottom_up:
            options = {"use_labels": use_labels, "through": through, "draw": draw}
            return super().posterior(series, evidence, **options)
        q, z = self._ascend(series, draw)
        path = Path({}, self._prior(series), q)
        for name in self.top:
            path.z[name] = draw(q[name])
        if use_labels and self.n_classes:
            path.z["segmentation"] = self.annotated(path.z["segmentation"], series)
        return self._descend(path, series, lambda name, _: z[name])

    def _ascend(
        self, series: Series, draw: Callable[[Family], Tensor]
    ) -> tuple[dict[str, Family], dict[str, Tensor]]:
        """Posteriors of all latents, and draws of the maps."""
        raw, z = self._ascended(series, draw)
        return {name: self._family_of(name).from_raw(of) for name, of in raw.items()}, z

    def _ascended(
        self, series: Series, draw: Callable[[Family], Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Unconstrained parameters of all posteriors, and draws of the maps."""
        z = {}

        def seen(t: int, raw: Tensor) -> Tensor:
            z[f"z{t}"] = draw(self._map_family.from_raw(raw))
            if self._inference == "markov":
                return z[f"z{t}"]
            return torch.cat([raw, z[f"z{t}"]], dim=1)

        return self.encoder(*self._read(series), seen), z

    def divergences(self, path: Path) -> dict[str, Tensor]:
        """Of posterior and prior, of each variable: in closed form, or log q / p at the draw.

        The latter where layers are drawn upwards, so that a prior depends on what is drawn later.
        """
        found = {}
        for name, z in path.z.items():
            q, p = path.q[name], path.p[name]
            closed = name in self.top or not self._is_bottom_up
            found[name] = q.kl(p) if closed else q.log_prob(z) - p.log_prob(z)
        return found

    def elbo_terms(self, series: Series) -> dict[str, Tensor]:
        """Terms of minus the ELBO at one draw, ``(B,)``."""
        path = self.posterior(series, {} if self._is_bottom_up else self.evidence(series))
        terms = {"R": -path.image.log_likelihood(*self.target(series))}
        return terms | {name: summed(of) for name, of in self.divergences(path).items()}

    def _drawn(self, family: Family) -> Tensor:
        """A draw that gradients pass through; of classes by the straight-through estimator."""
        if isinstance(family, Categorical):
            return F.gumbel_softmax(family.eta[0], self._temperature, hard=True, dim=1)
        return family.rsample()


class HierarchicalVAE(LadderModel):
    """Segmentation, gap filling and generation of series by hierarchical VAEs.

    ``z_0`` is the segmentation s and a Gaussian code of the tile and of each date; Gaussian maps
    follow, then the series. Classes of unlabelled pixels are drawn by straight-through
    Gumbel-softmax, which the ELBO cannot do without.

    Parameters
    ----------
    adata
        AnnData registered with :meth:`setup_anndata`. Without labels there is no segmentation.
    inference
        ``"ladder"``: products of the decoder's distributions and the encoder's evidence, from the
        code downwards; ``"general"``: from the image upwards, each layer given all that came
        before; ``"markov"``: each given the one before, without skips; ``"flat"``: a VAE, in which
        maps between code and image are deterministic.
    likelihood
        Family of the values: ``"gaussian"``, of standardised bands, or ``"bernoulli"``, of values
        in [0, 1].
    layers, width, n_code, n_date_code, n_place_code, other_gaps, variance
        As for :class:`mixvi.satellite.SymmetricHVAE`.
    activation, norm, labelled_fraction
        As there.
    augmentation
        Of labelled tiles: see :class:`mixvi.satellite.UNetSegmenter`, whose defaults these are.
    kl_warmup
        Updates in which the weight of the KL divergences grows from 0 to 1; Sønderby et al. 2016
        took 200 epochs.
    free_bits
        Nats below which the KL divergence of a channel, mean over the minibatch, is not lowered
        further.
    weight_labels
        Weight of labelled pixels' mean cross-entropy.
    temperature
        Of Gumbel-softmax.

    Raises
    ------
    ValueError
        If a setting is unknown, height and width do not suit the layers, or values are outside the
        domain of their family.
    """

    def __init__(
        self,
        adata: AnnData | None = None,
        inference: str = "ladder",
        likelihood: str = "gaussian",
        layers: str | Sequence[dict] = "auto",
        width: float = 1.0,
        n_code: int = 8,
        n_date_code: int = 16,
        n_place_code: int = 16,
        kl_warmup: int = 300,
        free_bits: float = 0.0,
        weight_labels: float = 1.0,
        temperature: float = 0.5,
        other_gaps: float | None = None,
        labelled_fraction: float = 0.5,
        variance: str = "band",
        activation: str = "relu",
        norm: str | None = None,
        augmentation: dict | None = None,
        registry: dict | None = None,
    ):
        super().__init__(adata, registry)
        arguments.check_choice("inference", inference, INFERENCE)
        arguments.check_choice("likelihood", likelihood, LIKELIHOODS)
        self._likelihood = likelihood
        for name, weight in (
            ("kl_warmup", kl_warmup),
            ("free_bits", free_bits),
            ("weight_labels", weight_labels),
        ):
            arguments.check_weight(name, weight)
        arguments.check_positive("temperature", temperature, integer=False)
        table = self._table(layers, width)
        if inference == "markov":
            table = _chain(table)
        options = self._checked_ladder(
            (n_code, n_date_code, n_place_code),
            other_gaps,
            variance,
            activation,
            self._settled_norm(layers, norm),
            labelled_fraction,
            augmentation,
        )
        module = HierarchicalVAEModule(
            table,
            self.shape,
            len(self.classes),
            self._by_date,
            family=None if inference == "flat" else "gaussian",
            code_family="gaussian",
            image_family=likelihood,
            inference=inference,
            kl_warmup=kl_warmup,
            free_bits=free_bits,
            weight_labels=weight_labels,
            temperature=temperature,
            **options,
        )
        summary = f"HierarchicalVAE with inference={inference}, likelihood={likelihood}"
        self._begin(module, locals(), summary)


def _chain(table: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """The same layers, each with the one before for its only parent."""
    return tuple(replace(layer, parents=(t,)) for t, layer in enumerate(table))
