"""Symmetric equilibrium learning of a hierarchy of discrete latents (Hruška 2023, chapter 3).

Encoder and decoder are two players; each raises the expected log-probability of its own
conditional, of data or of what the other draws. No gradient passes through a draw, so that latents
may be discrete; there is no bound, and no KL divergence. For flat models: Flach, Schlesinger and
Shekhovtsov, *Symmetric equilibrium learning of VAEs*, AISTATS 2024.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from anndata import AnnData
from torch import Tensor

from mixvi.core import arguments
from mixvi.core.data import checks
from mixvi.core.maths.exponential_families import Bernoulli, Family, summed
from mixvi.core.training.steps import Loss, Step
from mixvi.satellite.dreams import check_dream_maps, settled_dream_maps, turned
from mixvi.satellite.ladder import Layer
from mixvi.satellite.ladder_model import LadderModel
from mixvi.satellite.ladder_module import LadderModule
from mixvi.satellite.ladder_path import Path, layer_divergences
from mixvi.satellite.map_prior import MapPrior, Maps
from mixvi.satellite.series import Series
from mixvi.satellite.setup import label_maps

UPDATES = ("alternating", "joint")
# steps before dreams teach, of series and where their maps are learnt first
_DREAM_WARMUP = 100
_MAPS_AT_A_TIME = 32


class SymmetricModule(LadderModule):
    """Four steps: each player on labelled tiles, the decoder on others, the encoder on dreams.

    Sums over latents and values are divided by T H W. Where the distribution of segmentations is
    learnt it is a third player with a step of its own, E log p(s) (Hruška 2023, section 2.6).

    Parameters
    ----------
    table, shape, n_classes, by_date, **options
        See :class:`mixvi.satellite.ladder_module.LadderModule`.
    weight_sup_q, weight_unlabelled, weight_dream, dream_warmup, update, other_gaps
        See :class:`SymmetricHVAE`.
    learned_maps
        Whether the distribution of segmentations is learnt.
    """

    map_prior: MapPrior | None

    def __init__(
        self,
        table: tuple[Layer, ...],
        shape: tuple[int, int, int, int],
        n_classes: int,
        by_date: bool,
        *,
        weight_sup_q: float | None,
        weight_unlabelled: float,
        weight_dream: float,
        dream_warmup: int,
        update: str,
        other_gaps: float,
        learned_maps: bool = False,
        **options,
    ):
        super().__init__(table, shape, n_classes, by_date, **options)
        self.map_prior = None
        if learned_maps:
            self.map_prior = MapPrior(n_classes, by_date and shape[0] > 1, shape[2:])
            self.network_names = (*self.network_names, "map_prior")
        self._other_gaps = other_gaps
        self._weight_sup_q, self._weight_dream = weight_sup_q, weight_dream
        self._weight_unlabelled = weight_unlabelled
        self._dream_warmup, self._update = dream_warmup, update
        self.register_buffer("n_dreams", torch.zeros((), dtype=torch.long))
        # maps of the training tiles are not part of the weights
        self.dream_maps = "uniform"
        self.register_buffer("bank", torch.zeros(0, dtype=torch.int16), persistent=False)

    def dream_of(self, kind: str, maps: np.ndarray) -> None:
        """Say what dreams start from, see :func:`mixvi.satellite.dreams.settled_dream_maps`."""
        self.dream_maps = kind
        self.bank = torch.as_tensor(maps.astype(np.int16), device=self.device)

    def steps(self) -> tuple[Step, ...]:
        """The decoder's and the encoder's in turn, or both at once."""
        cls = type(self)
        learnt = () if self.map_prior is None else ("map_prior",)
        if self._update == "joint":
            return (Step("joint", ("decoder", "encoder", *learnt), cls.joint),)
        labelled = (
            Step("p_labelled", ("decoder",), cls.p_labelled),
            Step("q_labelled", ("encoder",), cls.q_labelled),
        )
        return (
            *(labelled if self.n_classes else ()),
            Step("p_unlabelled", ("decoder",), cls.p_unlabelled),
            *(Step("p_segmentation", (name,), cls.p_segmentation) for name in learnt),
            Step("q_dream", ("encoder",), cls.q_dream),
        )

    def after_step(self, step: Step) -> None:
        """Count dreams, whose weight is warmed up."""
        if step.name in ("q_dream", "joint"):
            self.n_dreams += 1

    def joint(self, series: Series) -> Loss:
        """All losses at once; each is without gradients for the other's network."""
        losses, terms = [], {}
        alone = [self.p_labelled, self.q_labelled] if self.n_classes else []
        learnt = [] if self.map_prior is None else [self.p_segmentation]
        for loss_of in (*alone, self.p_unlabelled, *learnt, self.q_dream):
            loss, of_loss = loss_of(series)
            losses.append(loss)
            terms |= of_loss | {f"{loss_of.__name__}_loss": loss}
        return sum(losses), terms

    def p_labelled(self, series: Series) -> Loss:
        """Minus log p(x, z), segmentations being the annotated ones where there are any."""
        return self._p_loss(series.take(_has_labels(series)), use_labels=True)

    def p_unlabelled(self, series: Series) -> Loss:
        """Minus log p(x, z) of tiles without a label, all latents being the encoder's."""
        if self.n_classes:
            series = series.take(~_has_labels(series))
        loss, terms = self._p_loss(series, use_labels=False)
        return self._weight_unlabelled * loss, terms

    def p_segmentation(self, series: Series) -> Loss:
        """Minus log p(s) of whole maps, or where there are none of maps completed by the encoder.

        In validation the maps are those of the tiles at hand.
        """
        with torch.no_grad():
            maps = self._true_maps(series)
        if len(maps) == 0:
            return self._nothing(), {}
        log_p = summed(self.map_prior.log_prob(maps)).mean() / _n_places(series)
        return -log_p, {"log_p_segmentation": log_p}

    def q_labelled(self, series: Series) -> Loss:
        """Minus log q(s | x) of labelled pixels."""
        series = series.take(_has_labels(series))
        if self.training:
            series = self.augmented(series)
        labelled = series.labelled
        if not labelled.any():
            return self._nothing(), {}
        # zeros where a pixel has no class
        targets = series.targets(self.n_classes)
        total = -(targets * self.class_logits(series).log_softmax(-3)).sum()
        n_labelled = labelled.sum()
        mean = total / n_labelled
        if self._weight_sup_q is None:
            return mean, {"cross_entropy": mean}
        loss = self._weight_sup_q * total / (len(series) * _n_places(series))
        return loss, {"cross_entropy": mean}

    def q_dream(self, series: Series) -> Loss:
        """Minus log q(z | x) of a draw of the model, under gaps of real tiles."""
        with torch.no_grad():
            path, dream = self.dream(series)
        path = self.scored(path, self.evidence(dream))
        n = _n_places(series)
        terms = {f"dream_{name}": value.mean() / n for name, value in path.log_q().items()}
        loss = -self._dream_weight() * sum(terms.values())
        if isinstance(path.q["code"], Bernoulli):
            right = (path.q["code"].eta[0] > 0) == (path.z["code"] > 0.5)
            terms["dream_code_accuracy"] = right.float().mean()
        return loss, terms

    def dream(self, series: Series) -> tuple[Path, Series]:
        """A draw of the model, and its values with the gaps and dates of shuffled real tiles."""
        like = series.take(torch.randperm(len(series), device=series.x.device))
        path = self.ancestral(like, self._dreamt_maps(series) if self.n_classes else None)
        observed = like.under_other_gaps(self._other_gaps).observed
        return path, like.with_values(self.standard(path.image.sample()), observed)

    def _dreamt_maps(self, series: Series) -> Tensor:
        """Segmentations ``(B, L, 1 or T, H, W)`` of as many dreams as there are series."""
        if self.dream_maps in ("uniform", "learned"):
            return self._prior(series)["segmentation"].sample()
        return self._completed(series) if self.dream_maps == "completed" else self._stored(series)

    def _true_maps(self, series: Series) -> Tensor:
        """What p(s) is learnt from, ``(B, L, 1 or T, H, W)``."""
        if not len(self.bank):
            return self._completed(series)
        if self.training:
            return self._stored(series)
        return self.one_hot(series.labels[series.labelled.flatten(1).all(1)])

    def _completed(self, series: Series) -> Tensor:
        """Labels of labelled tiles, others if there are none, gaps filled by the encoder."""
        n = len(series)
        rows = _has_labels(series).nonzero()[:, 0]
        if len(rows) == 0:
            rows = torch.arange(n, device=series.x.device)
        series = series.take(rows[torch.randint(len(rows), (n,), device=rows.device)])
        drawn = self.evidence(series)["segmentation"].sample()
        return turned(self.annotated(drawn, series))

    def _stored(self, series: Series) -> Tensor:
        """As many whole maps as there are series."""
        chosen = torch.randint(len(self.bank), (len(series),), device=self.bank.device)
        return self.one_hot(turned(self.bank[chosen]).long())

    def _prior(self, series: Series) -> dict[str, Family | Maps]:
        prior = super()._prior(series)
        if self.map_prior is not None:
            n, _, *size = prior["segmentation"].eta[0].shape
            prior["segmentation"] = Maps(self.map_prior, (n, *size))
        return prior

    def _p_loss(self, series: Series, use_labels: bool) -> Loss:
        if len(series) == 0:
            return self._nothing(), {}
        # what other gaps hide is scored, too: latents have to tell it
        seen = series.under_other_gaps(self._other_gaps)
        with torch.no_grad():
            evidence = self.evidence(seen)
        path = self.posterior(seen, evidence, use_labels=use_labels)
        if self.map_prior is not None:
            # guesses of these tiles would teach it their mistakes
            del path.p["segmentation"]
        n = _n_places(series)
        terms = {f"log_p_{name}": value.mean() / n for name, value in path.log_p().items()}
        terms["log_p_x"] = path.image.log_likelihood(*self.target(series)).mean() / n
        loss = -sum(terms.values())
        with torch.no_grad():
            terms |= layer_divergences(path)
        return loss, terms

    def _nothing(self) -> Tensor:
        """A loss of no tiles, which moves no weight."""
        return torch.zeros((), device=self.device, requires_grad=True)

    def _dream_weight(self) -> Tensor | float:
        # Adam takes steps of one size whatever the weight: a small weight would not hold it back
        return self._weight_dream * (self.n_dreams >= self._dream_warmup)


def _has_labels(series: Series) -> Tensor:
    """Which tiles have a labelled pixel ``(B,)``."""
    return series.labelled.flatten(1).any(1)


def _n_places(series: Series) -> int:
    """T H W."""
    return series.x.shape[1] * series.x.shape[3] * series.x.shape[4]


class SymmetricModel(LadderModel):
    """Base of the models that are trained by symmetric equilibrium learning."""

    module: SymmetricModule

    def _prepare(self, rows: np.ndarray) -> None:
        if not self.classes:
            return
        settings = self.init_params_
        maps = label_maps(self.adata, self._setup_args, self.label_mode)
        if settings["maps_key"] is not None:
            checks.check_key(self.adata, "obsm", settings["maps_key"], "maps_key")
            own = np.asarray(self.adata.obsm[settings["maps_key"]])
            if (
                own.shape != maps.shape
                or own.dtype.kind not in "iu"
                or own.max() >= len(self.classes)
            ):
                raise ValueError(
                    f"adata.obsm[{settings['maps_key']!r}] (maps_key) must be whole numbers "
                    f"{maps.shape} below {len(self.classes)}, the number of classes, but is "
                    f"{own.dtype} of shape {own.shape}."
                )
            maps = own
        self.module.dream_of(*settled_dream_maps(settings["dream_maps"], maps[rows]))

    def _default_lr(self) -> float | dict[str, float]:
        if self.shape[0] == 1:
            return 3e-3
        # a slower encoder has the decoder of series keep up with it
        return dict.fromkeys(self.module.network_names, 3e-3) | {"encoder": 3e-4}

    def _drawn_maps(self, n: int) -> Tensor:
        prior = self.module.map_prior
        if prior is None:
            return super()._drawn_maps(n)
        n_dates, size = self.shape[0] if self._by_date else 1, self.shape[2:]
        parts = [len(rows) for rows in torch.arange(n).split(_MAPS_AT_A_TIME)]
        maps = torch.cat([prior.sample(some, n_dates, size).argmax(1).cpu() for some in parts])
        return maps if self._by_date else maps[:, 0]

    def _checked_symmetric(
        self,
        weights: tuple[float | None, float, float],
        dream_warmup: int | None,
        update: str,
        dream_maps: str,
        maps_key: str | None,
    ) -> dict:
        """Options of the module's steps; raise ValueError if one is unusable.

        ``weights`` are those of the labels' cross-entropy, of guessed maps and of dreams.
        """
        weight_sup_q, weight_unlabelled, weight_dream = weights
        if weight_sup_q is not None:
            arguments.check_weight("weight_sup_q", weight_sup_q)
        arguments.check_weight("weight_unlabelled", weight_unlabelled)
        arguments.check_weight("weight_dream", weight_dream)
        is_learned = dream_maps == "learned"
        if dream_warmup is None:
            dream_warmup = _DREAM_WARMUP if self.shape[0] > 1 or is_learned else 0
        arguments.check_count("dream_warmup", dream_warmup)
        arguments.check_choice("update", update, UPDATES)
        check_dream_maps(dream_maps, maps_key, len(self.classes))
        return {
            "weight_sup_q": weight_sup_q,
            "weight_unlabelled": weight_unlabelled,
            "weight_dream": weight_dream,
            "dream_warmup": dream_warmup,
            "update": update,
            "learned_maps": is_learned,
        }


class SymmetricHVAE(SymmetricModel):
    """Segmentation, gap filling and generation of series by symmetric equilibrium learning.

    ``z_0`` is the segmentation s and a code l of bits, of the tile and of each date; maps of bits
    follow, then the series. Labelled tiles teach both networks, others the decoder, and the encoder
    learns from dreams: series drawn from the model under gaps of real ones.

    Parameters
    ----------
    adata
        AnnData registered with :meth:`setup_anndata`. Without labels there is no segmentation.
    layers
        ``"auto"``: ``"codes"`` for series, in which codes of tile, dates and pixels say all, and
        ``"light"`` for single images. ``"series"`` is a wider hierarchy, ``"thesis"`` that of
        Hruška 2023 for images. Or rows of :class:`mixvi.satellite.ladder.Layer` as dicts.
    width
        Factor of all channels.
    n_code, n_date_code, n_place_code
        Bits of the code of a tile and, of series, of the codes of each date and of each pixel.
    dream_maps
        What segmentations dreams start from: ``"bank"``, labels of fully labelled training tiles,
        turned and mirrored; ``"completed"``, those of labelled tiles of the minibatch, gaps filled
        by draws of the encoder; ``"external"``, maps of ``maps_key``; ``"learned"``, draws of
        :class:`mixvi.satellite.map_prior.MapPrior`, which is trained along with the others on what
        ``"auto"`` would start from; ``"uniform"``, noise, to find errors; ``"auto"``, the first
        that there are labels for.
    maps_key
        Key of obsm with maps of your own for dreams, such as an older land-cover product.
    weight_sup_q
        Weight of the labelled pixels' cross-entropy, summed and divided by T H W as all losses are;
        1 is the thesis's. ``None``: T H W over the number of labelled pixels, which is the same for
        images that are labelled all over, and more for scribbles and series.
    weight_unlabelled
        Weight of the decoder's loss on tiles without labels, whose segmentations are the encoder's
        guesses.
    weight_dream, dream_warmup
        Weight of dreams, and after how many steps they begin to teach, ``None``: 100 of series and
        of learnt maps, else 0. Before, the decoder learns to use what an untaught encoder says.
    other_gaps
        Share of the dates that have, in training, the gaps of another date and tile of the
        minibatch besides their own. What these hide is scored all the same, so that the decoder
        learns how well it knows what the encoder does not see. ``None``: 0.3 of series, 0 of
        single images.
    update
        ``"alternating"``, four updates a minibatch, or ``"joint"``, one of both networks.
    labelled_fraction
        Share of tiles with labels in a minibatch, where others have none.
    variance
        One variance a ``"band"``, or a ``"pixel"``, of the values given the latents.
    activation, norm
        See :class:`mixvi.satellite.ladder.Convolutions`. ``norm=None``: ``"group"`` for single
        images, of which a colour cast is told by means over the image, and ``"none"`` for series
        and the thesis's layers.
    augmentation
        Of labelled tiles, as the encoder learns their labels: see
        :class:`mixvi.satellite.UNetSegmenter`, whose defaults these are.

    Raises
    ------
    ValueError
        If a setting is unknown, or height and width do not suit the layers.
    """

    def __init__(
        self,
        adata: AnnData | None = None,
        layers: str | Sequence[dict] = "auto",
        width: float = 1.0,
        n_code: int = 64,
        n_date_code: int = 16,
        n_place_code: int = 32,
        dream_maps: str = "auto",
        maps_key: str | None = None,
        weight_sup_q: float | None = None,
        weight_unlabelled: float = 1.0,
        weight_dream: float = 1.0,
        dream_warmup: int | None = None,
        update: str = "alternating",
        other_gaps: float | None = None,
        labelled_fraction: float = 0.5,
        variance: str = "band",
        activation: str = "relu",
        norm: str | None = None,
        augmentation: dict | None = None,
        registry: dict | None = None,
    ):
        super().__init__(adata, registry)
        weights = (weight_sup_q, weight_unlabelled, weight_dream)
        of_steps = self._checked_symmetric(weights, dream_warmup, update, dream_maps, maps_key)
        options = self._checked_ladder(
            (n_code, n_date_code, n_place_code),
            other_gaps,
            variance,
            activation,
            self._settled_norm(layers, norm),
            labelled_fraction,
            augmentation,
        )
        module = SymmetricModule(
            self._table(layers, width),
            self.shape,
            len(self.classes),
            self._by_date,
            family="bernoulli",
            code_family="bernoulli",
            **of_steps,
            **options,
        )
        self._begin(module, locals(), f"SymmetricHVAE of {len(module.table) - 1} layers of bits")
