"""The base of modules with segmentation, codes and layers of latent maps between them and series.

``p(x, z) = p(s) p(l) prod_t p(z_t | z_<t) p(x | z)``, given the dates; posteriors of the layers are
products of the generative distributions with the encoder's evidence (Hruška 2023, equation 2.23).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from operator import methodcaller

import torch
from torch import Tensor
from torch.nn import functional as F

from mixvi.core.maths.exponential_families import (
    FAMILIES,
    LOG_VAR_BOUNDS,
    Bernoulli,
    Categorical,
    Family,
    Gaussian,
)
from mixvi.satellite.ladder import Layer
from mixvi.satellite.ladder_encoder import N_DATE_PLANES, Encoder
from mixvi.satellite.ladder_networks import Convolutions, Decoder, Top
from mixvi.satellite.ladder_path import Path, moments
from mixvi.satellite.module import SegmentingModule
from mixvi.satellite.residuals import (
    DRAWS_A_TRIAL,
    N_TRIALS,
    OTHER_GAPS,
    Hidden,
    carried_residuals,
)
from mixvi.satellite.series import Series, between_dates
from mixvi.satellite.views import Augmentation

CODES = ("code", "date_code", "place_code")
# families whose values are standardised; others are scored in units of the registered series
STANDARDISED = ("gaussian",)
# standard deviation of the evidence of bits, and log precision of that of numbers, at the start
_FIRST_SPREAD = 3.0
_FIRST_LOG_PRECISION = -2.0


class LadderModule(SegmentingModule):
    """An encoder and a decoder of series with layers of latents.

    Parameters
    ----------
    table
        Layers, see :mod:`mixvi.satellite.ladder`.
    shape
        (T, C, H, W) of the series.
    n_classes
        Classes of the segmentation; 0 for none.
    by_date
        Whether there is a segmentation a date.
    family, code_family, image_family
        Names of families: of latent maps (None: deterministic), codes and values.
    n_code, n_date_code, n_place_code
        Sizes of the code of the series, of those of its dates and of those of its pixels; single
        images have the first alone.
    learned_prior
        Whether the prior of codes is trained.
    variance
        Of Gaussian values: ``"band"`` or ``"pixel"``.
    activation, norm
        See :class:`mixvi.satellite.ladder.Convolutions`.
    augmentation
        See :class:`mixvi.satellite.module.SegmentingModule`.
    encoder_sees
        Numbers a channel that encoder blocks see of the latents above; None: their evidence.
    """

    def __init__(
        self,
        table: tuple[Layer, ...],
        shape: tuple[int, int, int, int],
        n_classes: int,
        by_date: bool,
        *,
        family: str | None,
        code_family: str,
        image_family: str = "gaussian",
        n_code: int,
        n_date_code: int,
        n_place_code: int,
        learned_prior: bool = False,
        variance: str = "band",
        activation: str = "relu",
        norm: str = "none",
        augmentation: Augmentation,
        encoder_sees: int | None = None,
    ):
        n_dates, n_bands, *_ = shape
        if n_dates == 1:
            n_date_code = n_place_code = 0
        convolutions = Convolutions((3 if n_dates > 1 else 1, 3, 3), activation, norm)
        map_family = FAMILIES[family] if family else None
        n_parameters = map_family.n_parameters if map_family else 1
        of_code = FAMILIES[code_family]
        n_dated = N_DATE_PLANES if n_dates > 1 else 0
        decoder = Decoder(
            table,
            n_code + n_place_code + (0 if by_date and n_dates > 1 else n_classes),
            n_bands,
            map_family,
            FAMILIES[image_family],
            convolutions,
            variance,
            n_dated=n_classes if by_date and n_dates > 1 else 0,
            n_planes=n_date_code + n_dated,
        )
        n_codes = tuple(n * of_code.n_parameters for n in (n_code, n_date_code, n_place_code))
        sees = encoder_sees or n_parameters
        encoder = Encoder(
            table, 2 * n_bands + 3, n_classes, n_codes, n_parameters, sees, by_date, convolutions
        )
        for name, n in zip(CODES, n_codes, strict=True):
            decoder.add_prior(f"{name}_prior", n, learned_prior)
        networks = {"encoder": encoder, "decoder": decoder}
        super().__init__(networks, n_bands, n_classes, augmentation)
        self.table, self.by_date = table, by_date
        self.n_code, self.n_date_code, self.n_place_code = n_code, n_date_code, n_place_code
        self._map_family, self._code_family = map_family, of_code
        self._has_dates = n_dated > 0
        self.is_standardised = image_family in STANDARDISED
        # dates of the first training tile, of which series are generated unless told
        self.register_buffer("usual_dates", torch.zeros(n_dates))
        # by band: share of neighbouring dates' residuals that gaps have, and factor of deviations
        self.register_buffer("residual_share", torch.zeros(n_bands))
        self.register_buffer("sd_factor", torch.ones(n_bands))

    @property
    def top(self) -> list[str]:
        """Names of the latents that are generated first."""
        return [
            *(["segmentation"] if self.n_classes else []),
            "code",
            *(["date_code"] if self.n_date_code else []),
            *(["place_code"] if self.n_place_code else []),
        ]

    @property
    def n_latent_layers(self) -> int:
        """Layers of maps that are drawn, ``z1`` and so on; the last of all is the series."""
        return 0 if self._map_family is None else len(self.table) - 1

    def evidence(self, series: Series) -> dict[str, Family]:
        """What the encoder says of each latent; of those on top this is the posterior."""
        return {
            name: self._evidence_of(name, values)
            for name, values in self._raw_evidence(series).items()
            if self._family_of(name) is not None
        }

    @staticmethod
    def _read(series: Series) -> tuple[Tensor, ...]:
        """What the encoder takes."""
        dates = series.dates().to(series.x.dtype)
        return series.planes(), series.frame, series.observed.any(2), dates

    def _evidence_of(self, name: str, raw: Tensor) -> Family:
        """Of maps natural parameters, to be added: a precision near 0 leaves the mean a say."""
        family = self._family_of(name)
        if name in self.top or family is not Gaussian:
            return family.from_raw(raw)
        shift, log_precision = raw.chunk(2, dim=1)
        bounds = (-LOG_VAR_BOUNDS[1], -LOG_VAR_BOUNDS[0])
        return Gaussian(shift, -0.5 * (log_precision + _FIRST_LOG_PRECISION).clamp(*bounds).exp())

    def _raw_evidence(self, series: Series) -> dict[str, Tensor]:
        return self.encoder(*self._read(series))

    @torch.no_grad()
    def spread(self, series: Series) -> None:
        """Scale heads so that evidence of bits tells dates and pixels apart from the start.

        A network that has not been trained says the same of everything. The decoder then learns to
        do without, and what it does not use the encoder is not taught: latents stay empty.
        """
        maps = [f"z{t}" for t in range(len(self.table) - 1, 0, -1)]
        for name in [*maps, "date_code", "place_code"]:
            of_bits = self._family_of(name) is Bernoulli
            if not of_bits or (name not in maps and name not in self.top):
                continue
            raw = self._raw_evidence(series)[name].transpose(0, 1).flatten(1)
            factor = _FIRST_SPREAD / raw.std(1).clamp_min(1e-3)
            heads = self.encoder.heads(name)
            for head in heads:
                head.weight *= factor.view(-1, *[1] * (head.weight.ndim - 1))
                head.bias *= factor
            heads[0].bias -= factor * raw.mean(1)

    def posterior(
        self,
        series: Series,
        evidence: dict[str, Family],
        *,
        use_labels: bool = False,
        through: bool = False,
        draw: Callable[[Family], Tensor] = methodcaller("sample"),
    ) -> Path:
        """One draw of the latents given series.

        Parameters
        ----------
        series
            Of what :meth:`evidence` was made.
        evidence
            Its result.
        use_labels
            Whether the segmentation is as annotated, where it is.
        through
            Whether gradients reach the decoder through the posteriors.
        draw
            Takes a draw of a family.
        """
        path = Path({}, self._prior(series))
        for name in self.top:
            path.q[name] = evidence[name]
            path.z[name] = draw(evidence[name])
        if use_labels and self.n_classes:
            path.z["segmentation"] = self.annotated(path.z["segmentation"], series)

        def merged(name: str, p: Family) -> Tensor:
            path.q[name] = (p if through else p.detach()).merge(evidence[name])
            return draw(path.q[name])

        return self._descend(path, series, merged)

    def ancestral(
        self, series: Series, segmentation: Tensor | None = None, code: dict | None = None
    ) -> Path:
        """One draw of the latents from the model, for the dates of ``series``.

        Parameters
        ----------
        series
            Whose dates are taken, and no more.
        segmentation
            One-hot ``(B, L, 1 or T, H, W)`` to start from; needed if there are classes.
        code
            Draws of codes to start from, by name; default from their prior.
        """
        path = Path({}, self._prior(series))
        if segmentation is not None:
            path.z["segmentation"] = segmentation
        for name in self.top:
            if name != "segmentation":
                path.z[name] = code[name] if name in (code or {}) else path.p[name].sample()
        return self._descend(path, series, lambda _, p: p.sample())

    def scored(self, path: Path, evidence: dict[str, Family]) -> Path:
        """A path of :meth:`ancestral` with the posteriors that evidence gives it."""
        for name in path.z:
            is_top = name in self.top
            q = evidence[name] if is_top else path.p[name].detach().merge(evidence[name])
            path.q[name] = q
        return path

    def _descend(self, path: Path, series: Series, choose: Callable[[str, Family], Tensor]) -> Path:
        """Fill in the layers below those on top, each drawn by ``choose``."""
        top, maps = self._top(path.z, series), []
        for t in range(1, len(self.table)):
            raw, name = self.decoder.raw(t, top, maps), f"z{t}"
            if self._map_family is None:
                maps.append(raw)
                continue
            path.p[name] = self._map_family.from_raw(raw)
            path.z[name] = choose(name, path.p[name])
            maps.append(path.z[name])
        path.image = self.decoder.image(top, maps)
        return path

    def _top(self, z: dict[str, Tensor], series: Series) -> Top:
        """What the first layer is generated from."""
        shared = [z["code"][..., None, None, None]]
        of_dates = self._has_dates and self.by_date
        if self.n_classes and not of_dates:
            shared.insert(0, z["segmentation"])
        if self.n_place_code:
            shared.append(z["place_code"])
        size = (-1, -1, 1, *series.x.shape[3:])
        shared = torch.cat([part.expand(size) for part in shared], dim=1)
        planes = [z["date_code"]] if self.n_date_code else []
        if self._has_dates:
            planes.append(series.dates().to(shared.dtype))
        planes = torch.cat(planes, dim=1) if planes else z["code"][..., :0, None]
        return Top(shared, planes, z["segmentation"] if self.n_classes and of_dates else None)

    def _prior(self, series: Series) -> dict[str, Family]:
        """Priors of the latents on top, for each row."""
        n_rows, n_dates = series.time.shape
        code = self._code_family.from_raw(self.decoder.code_prior.expand(n_rows, -1))
        prior = {"code": code}
        if self.n_date_code:
            raw = self.decoder.date_code_prior[..., None].expand(n_rows, -1, n_dates)
            prior["date_code"] = self._code_family.from_raw(raw)
        if self.n_place_code:
            raw = self.decoder.place_code_prior[..., None, None, None]
            size = (n_rows, -1, 1, *series.x.shape[3:])
            prior["place_code"] = self._code_family.from_raw(raw.expand(size))
        if self.n_classes:
            dates = n_dates if self.by_date else 1
            shape = (n_rows, self.n_classes, dates, *series.x.shape[3:])
            prior["segmentation"] = Categorical(series.x.new_zeros(shape))
        return prior

    def _family_of(self, name: str) -> type[Family] | None:
        if name == "segmentation":
            return Categorical
        return self._code_family if name in CODES else self._map_family

    def annotated(self, segmentation: Tensor, series: Series, *, draw: bool = True) -> Tensor:
        """A segmentation, replaced by the labels where there are any; soft ones are drawn.

        Without ``draw`` it is a distribution, and soft labels replace it as they are.
        """
        if series.labels is None:
            return segmentation
        known, labelled = series.targets(self.n_classes), series.labelled
        known = known.transpose(1, 2) if self.by_date else known[:, :, None]
        labelled = labelled if self.by_date else labelled[:, None]
        if draw and series.soft_labels is not None:
            known = Categorical(known.log()).sample()
        return torch.where(labelled[:, None], known, segmentation)

    def one_hot(self, labels: Tensor) -> Tensor:
        """Maps of classes as ``(B, L, 1 or T, H, W)``; unlabelled pixels as class 0."""
        labels = labels if self.by_date else labels[:, None]
        return F.one_hot(labels.clamp_min(0), self.n_classes).movedim(-1, 1).float()

    def target(self, series: Series) -> tuple[Tensor, Tensor]:
        """Values as the image's family scores them ``(B, C, T, H, W)``, and which are observed."""
        x = series.x if self.is_standardised else self.to_units(series.x)
        return x.transpose(1, 2), series.observed.transpose(1, 2)

    def standard(self, x: Tensor) -> Tensor:
        """Values of the image's family ``(B, C, T, H, W)`` standardised, ``(B, T, C, H, W)``."""
        x = x.transpose(1, 2)
        if self.is_standardised:
            return x
        shape = (-1, 1, 1)
        return (x - self.band_mean.view(shape)) / self.band_sd.view(shape)

    def in_units(self, x: Tensor) -> Tensor:
        """Values of the image's family ``(B, C, T, H, W)`` in the registered units."""
        x = x.transpose(1, 2)
        return self.to_units(x) if self.is_standardised else x

    def sd_in_units(self, variance: Tensor) -> Tensor:
        """Standard deviations ``(B, T, C, H, W)`` of variances of the image's family."""
        sd = variance.sqrt().transpose(1, 2)
        return sd * self.band_sd.view(-1, 1, 1) if self.is_standardised else sd

    def class_logits(self, series: Series) -> Tensor:
        """Logits of q(s | x)."""
        logits = self.evidence(series)["segmentation"].eta[0]
        return logits.transpose(1, 2) if self.by_date else logits[:, :, 0]

    def encode(self, series: Series) -> Tensor:
        """Means of q(l | x): the series' code, and the mean of those of its dates."""
        evidence = self.evidence(series)
        codes = [evidence["code"].mean]
        if self.n_date_code:
            codes.append(evidence["date_code"].mean.mean(2))
        return torch.cat(codes, dim=1)

    def elbo_terms(self, series: Series) -> dict[str, Tensor]:
        """Terms of minus the ELBO at one draw, ``(B,)``: ``R``, and a KL divergence a latent."""
        path = self.posterior(series, self.evidence(series))
        return {"R": -path.image.log_likelihood(*self.target(series))} | path.kl()

    def log_weight(self, series: Series, evidence: dict[str, Family]) -> Tensor:
        """Log p(x, z) - log q(z | x) at a draw of the posterior, ``(B,)``."""
        path = self.posterior(series, evidence)
        total = path.image.log_likelihood(*self.target(series))
        return total + sum(path.log_p().values()) - sum(path.log_q().values())

    def fillings(
        self,
        series: Series,
        n_samples: int,
        *,
        iterated: bool = False,
        assume_filled: bool = False,
        use_labels: bool = False,
    ) -> Iterator[Path]:
        """Paths of which gaps are filled, see ``impute`` of the models."""
        evidence, seen = self.evidence(series), series
        for sweep in range(2 * n_samples if iterated else n_samples):
            path = self.posterior(seen, evidence, use_labels=use_labels)
            if not iterated or sweep >= n_samples:
                yield path
            if iterated and assume_filled:
                drawn = self.standard(path.image.sample())
                filled = torch.where(series.observed, series.x, drawn)
                seen = series.with_values(filled, torch.ones_like(series.observed))
                seen = replace(seen, frame=torch.ones_like(series.frame))
                evidence = self.evidence(seen)

    def carried(self, mean: Tensor, series: Series) -> Tensor:
        """Residuals of observed values, read between dates, as far as gaps have them.

        Parameters
        ----------
        mean
            Of the values, ``(B, C, T, H, W)``.
        """
        if not self.is_standardised:
            return torch.zeros_like(mean)
        x, observed = self.target(series)
        between = between_dates(torch.where(observed, x - mean, 0.0), observed, series.time)
        return self.residual_share.view(-1, 1, 1, 1) * between

    def carried_into_gaps(
        self, mean: Tensor, series: Series, n_samples: int, **options: bool
    ) -> tuple[Tensor, Tensor]:
        """Residuals for the gaps, and factors of deviations ``(B, C, T, 1, 1)``.

        Parameters
        ----------
        mean
            Of the values, ``(B, C, T, H, W)``.
        n_samples
            Draws of the mean. Under other gaps each series takes a share of them a trial, to find
            out for itself what residuals are worth; 0 for what training found.
        **options
            Of :meth:`fillings`.
        """
        carried = self.carried(mean, series)
        factor = self.sd_factor.view(1, -1, 1).repeat(len(series), 1, series.x.shape[1])
        if n_samples and self.is_standardised:
            n_draws = math.ceil(DRAWS_A_TRIAL * n_samples)
            for row in range(len(series)):
                one = series.take(torch.tensor([row], device=series.x.device))
                trials = []
                for _ in range(N_TRIALS):
                    seen = one.under_other_gaps(OTHER_GAPS)
                    under_gaps = moments(self.fillings(seen, n_draws, **options))
                    trials.append(Hidden(seen, *under_gaps))
                own = carried_residuals(mean[row : row + 1], one, trials, self.residual_share)
                carried[row, own.known] = own.residual[0, own.known]
                factor[row, own.known] = own.sd_factor[own.known]
        return carried, factor[..., None, None]

    @torch.no_grad()
    def calibrate_gaps(
        self, minibatches: Iterator[Series], other_gaps: float, n_samples: int
    ) -> None:
        """Find out, under gaps of other dates, what residuals and deviations are worth there.

        Parameters
        ----------
        minibatches
            Series.
        other_gaps
            Share of their dates.
        n_samples
            Draws of the latents.
        """
        self.residual_share.fill_(1.0)
        squares, products, carried_squares, variances = (
            torch.zeros_like(self.sd_factor) for _ in range(4)
        )
        for series in minibatches:
            seen = series.under_other_gaps(other_gaps)
            # pixels that are never seen are few, and wide of all the others
            hidden = series.observed & ~seen.observed & seen.observed.any(1, keepdim=True)
            hidden = hidden.transpose(1, 2)
            mean, variance = moments(self.fillings(seen, n_samples))
            carried = self.carried(mean, seen)
            residual = self.target(series)[0] - mean
            for total, values in (
                (squares, residual.square()),
                (products, residual * carried),
                (carried_squares, carried.square()),
                (variances, variance),
            ):
                total += torch.where(hidden, values, 0.0).sum((0, 2, 3, 4))
        share = (products / carried_squares.clamp_min(1e-12)).clamp(0.0, 1.0)
        left = squares - 2 * share * products + share.square() * carried_squares
        known = variances > 0
        self.residual_share.copy_(torch.where(known, share, 0.0))
        self.sd_factor.copy_(torch.where(known, left / variances.clamp_min(1e-12), 1.0).sqrt())
