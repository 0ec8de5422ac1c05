"""MixMatch for maps: a U-Net that learns from labels, and from its own guesses elsewhere.

Berthelot et al. 2019, brought to segmentation by Hruška 2023, section 3.1; here also of series with
gaps, and of tiles that are labelled in part.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from anndata import AnnData
from torch import Tensor

from mixvi.core.arguments import check_choice, check_rate
from mixvi.core.data.keys import UNLABELLED, VOID
from mixvi.core.maths.averaging import move_average, still_statistics, warmed_decay
from mixvi.core.maths.mixmatch import (
    MixMatchSettings,
    draw_mixing,
    forward_interleaved,
    masked_mix_up,
    sharpen,
    squared_error,
    valid_mean,
)
from mixvi.core.training.label_shares import check_labelled_fraction, with_labels
from mixvi.core.training.running import NO_SETTINGS
from mixvi.core.training.steps import Loss, Step
from mixvi.satellite.labelled import LabelledModule, LabelledSegmenter
from mixvi.satellite.series import Series, masked_mean
from mixvi.satellite.supervision import cross_entropy
from mixvi.satellite.unet import UNet
from mixvi.satellite.views import Augmentation, make_augmentation

GUESS_WITH = ("raw", "ema")


class Taught(NamedTuple):
    """Views of series and what each pixel is to be.

    Attributes
    ----------
    series
        What the network sees.
    targets
        Distributions over the classes, ``(B, ..., L, H, W)``.
    weight
        Whether a pixel has one, ``(B, ..., H, W)`` bool.
    """

    series: Series
    targets: Tensor
    weight: Tensor


class PseudoLabels(NamedTuple):
    """What a model guesses of each pixel, and where a guess would be learnt from.

    Attributes
    ----------
    labels
        The most probable class, ``(n_obs, ..., H, W)``; annotated pixels have their annotation.
    weight
        Whether the pixel was observed and is not void, so that its guess has weight.
    probabilities
        The sharpened guess, ``(n_obs, ..., L, H, W)``.
    """

    labels: np.ndarray
    weight: np.ndarray
    probabilities: np.ndarray

    def counts(self) -> np.ndarray:
        """Number of pixels with weight by class, ``(L,)``."""
        n_classes = self.probabilities.shape[-3]
        return np.bincount(self.labels[self.weight], minlength=n_classes)


class MixMatchSegmenterModule(LabelledModule):
    """A U-Net, its moving average, and MixMatch's losses.

    Parameters
    ----------
    unet, n_bands, n_classes, augmentation, require_support
        See :class:`mixvi.satellite.labelled.LabelledModule`.
    mixing
        MixMatch's numbers.
    ema_decay
        Decay of the moving average of the weights, warmed up.
    guess_with
        ``"raw"``, the present weights, or ``"ema"``, their average.
    """

    def __init__(
        self,
        unet: UNet,
        n_bands: int,
        n_classes: int,
        augmentation: Augmentation,
        mixing: MixMatchSettings,
        ema_decay: float = 0.999,
        guess_with: str = "raw",
        require_support: bool = False,
    ):
        super().__init__(unet, n_bands, n_classes, augmentation, require_support)
        check_rate("ema_decay", ema_decay)
        check_choice("guess_with", guess_with, GUESS_WITH)
        self.mixing = mixing
        self.ema_decay = ema_decay
        self.averaged_unet = deepcopy(unet).requires_grad_(False)
        self.guess_with = guess_with
        self.register_buffer("n_updates", torch.zeros((), dtype=torch.long))

    @property
    def shown_unet(self) -> UNet:
        """The averaged network, of which users see maps; the present one while training."""
        return self.unet if self.training else self.averaged_unet

    @property
    def guessing_unet(self) -> UNet:
        """The network that guesses what teaches."""
        return self.averaged_unet if self.guess_with == "ema" else self.unet

    def guessed_logits(self, series: Series) -> Tensor:
        """Logits of the network that guesses, ``(B, ..., L, H, W)``."""
        return self.guessing_unet(series.planes(), series.frame)

    def steps(self) -> tuple[Step, ...]:
        """One step a minibatch."""
        return (Step("mixmatch", ("unet",), MixMatchSegmenterModule.mixmatch),)

    def after_step(self, step: Step) -> None:
        """Move the average."""
        self.n_updates += 1
        move_average(self.averaged_unet, self.unet, warmed_decay(self.n_updates, self.ema_decay))

    def mixmatch(self, series: Series) -> Loss:
        """Cross-entropy of labelled pixels and squared error of guesses, both of mixed series.

        Where labels are validated, their cross-entropy alone.
        """
        if not self.training:
            return self.supervised(series, self.class_logits(series))
        labelled = series.take(series.labelled.flatten(1).any(1))
        n_updates = int(self.n_updates)
        if n_updates < self.mixing.warmup_steps:
            seen = self.augmented(labelled)
            return self.supervised(seen, self.class_logits(seen))
        taught = [self.taught_by_labels(labelled), *self.taught_by_guesses(unlabelled_of(series))]
        n, weight = len(labelled), self.mixing.weight(n_updates)
        mixed, logits = self.mixed_forward(joined(taught), n)
        mask = mixed.weight[:n]
        supervised = cross_entropy(logits[:n], mixed.targets[:n], mask, self.class_weights)
        errors = squared_error(mixed.targets[n:], logits[n:].softmax(-3), -3)
        unsupervised = masked_mean(errors, mixed.weight[n:])
        terms = {"supervised": supervised, "unsupervised": unsupervised}
        terms |= self.shares(logits[:n], taught[0].series.labels, mask)
        terms |= self.of_guesses(joined(taught[1:]))
        terms["lambda_u"] = torch.tensor(weight)
        return supervised + weight * unsupervised, terms

    def taught_by_labels(self, series: Series) -> Taught:
        """One view of each labelled series, with its labels as targets."""
        seen = self.augmented(series)
        return Taught(seen, seen.targets(self.n_classes), self.target_mask(seen))

    @torch.no_grad()
    def taught_by_guesses(self, series: Series) -> list[Taught]:
        """Views of each series with the sharpened mean of what the network says of them all."""
        views, seen = [], []
        for _ in range(self.mixing.n_views):
            view = self.augmentation.views(series)
            views.append(view)
            seen.append(self.augmentation.relight(view.see(series), self.dark))
        with still_statistics(self.guessing_unet):
            maps = [self.guessed_logits(s).softmax(-3) for s in seen]
        # what lies beyond the frame is not observed, so that support says both
        support = [s.support for s in seen]
        backs = [view.inverse for view in views]
        guess, known = self.guess(
            series,
            torch.stack([back.maps(p) for back, p in zip(backs, maps, strict=True)]),
            torch.stack([back.nearest(v, False) for back, v in zip(backs, support, strict=True)]),
        )
        return [
            Taught(s, view.maps(guess), view.nearest(known, False) & v)
            for view, s, v in zip(views, seen, support, strict=True)
        ]

    def guess(self, series: Series, maps: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """What each pixel of the series is taken for, and whether it is to be learnt.

        Parameters
        ----------
        series
            Whose annotations go before guesses; void pixels are not learnt.
        maps
            Probabilities of views, laid upon the series, ``(K, B, ..., L, H, W)``.
        valid
            Whether a view has observed the pixel, ``(K, B, ..., H, W)``.

        Returns
        -------
        Distributions ``(B, ..., L, H, W)`` and a mask ``(B, ..., H, W)``.
        """
        mean, known = valid_mean(maps, valid)
        sharp = sharpen(mean, self.mixing.temperature, -3)
        annotated = series.labelled
        targets = series.targets(self.n_classes)
        guess = torch.where(annotated.unsqueeze(-3), targets, sharp)
        return guess, (known | annotated) & (series.labels != VOID)

    def mixed_forward(self, taught: Taught, n: int) -> tuple[Taught, Tensor]:
        """Mix all examples with each other, and the network's logits of the mixtures.

        Parameters
        ----------
        taught
            The labelled examples, then the others.
        n
            Number of those labelled; about so many go through the network at a time, of both kinds.
        """
        first, device = taught.series, taught.weight.device
        second = torch.randperm(len(first), device=device)
        x, targets = masked_mix_up(
            (first.x, first.x[second]),
            (first.observed, first.observed[second]),
            (taught.targets, taught.targets[second]),
            taught.weight[second],
            draw_mixing(len(first), self.mixing.alpha, device),
        )
        mixed = first.with_values(x, first.observed)

        def forward(rows: slice, part: int) -> Tensor:
            some = mixed.take(rows)
            if part == 0:
                return self.unet(some.planes(), some.frame)
            # statistics are those of one minibatch a step
            with still_statistics(self.unet):
                return self.unet(some.planes(), some.frame)

        return Taught(mixed, targets, taught.weight), forward_interleaved(forward, len(first), n)

    def of_guesses(self, taught: Taught) -> dict[str, Tensor]:
        """Mean probability of the guessed class, and the share of each class among guesses."""
        confidence, guessed = taught.targets.max(-3)
        terms = {"confidence": masked_mean(confidence, taught.weight)}
        for label in range(self.n_classes):
            terms[f"guessed_{label}"] = masked_mean(guessed == label, taught.weight)
        return terms


def unlabelled_of(series: Series) -> Series:
    """The series with unlabelled pixels; all, where there are none."""
    open_ = (series.labels == UNLABELLED).flatten(1).any(1)
    return series.take(open_) if open_.any() else series


def joined(parts: Sequence[Taught]) -> Taught:
    """All examples of the parts, in order."""
    return Taught(
        Series.joined([part.series for part in parts]),
        torch.cat([part.targets for part in parts]),
        torch.cat([part.weight for part in parts]),
    )


class MixMatchSegmenter(LabelledSegmenter):
    """Land cover by a U-Net that also learns from pixels without labels (Hruška 2023, section 3.1).

    Guesses of several views of a tile are laid upon each other, averaged where the pixel was
    observed, sharpened, and learnt from; all examples are mixed with each other. Tiles that are
    labelled in part teach by their labels and by guesses of the rest. Maps are those of a moving
    average of the weights.

    Few labels gain most: on the thesis's street scenes accuracy was above that of the U-Net alone
    with 10 and 100 labelled images, and below with 500 and more.

    Parameters
    ----------
    adata, width, n_levels, norm, dates, class_weights, require_support, architecture
        See :class:`mixvi.satellite.UNetSegmenter`.
    lambda_u
        Weight of the squared error of guesses once it has risen. The thesis's runs aimed at 25 to
        116 and were best early, with up to 1,000 labelled images at weights below 1.
    alpha
        Of the Beta distribution that mixing shares are drawn from; 0: nothing is mixed. Unless told
        0.3, the thesis's, for images and 0 for series: where each pixel has gaps of its own, mixed
        ones have dates of both beside dates of one.
    temperature
        Of sharpening, above 0 and up to 1, which does not sharpen.
    n_views
        Views K of a tile whose mean is the guess.
    warmup_steps
        Updates at first in which labels alone teach, until guesses are worth something.
    rampup_steps
        Updates after that over which ``lambda_u`` rises from zero; 16,000 in the paper.
    ema_decay
        Decay of the moving average of the weights, ``min(ema_decay, (1 + n) / (10 + n))`` at the
        n-th update.
    guess_with
        Which weights guess: ``"raw"``, the present ones, as in the paper, or ``"ema"``, their
        moving average.
    augmentation
        Settings of :class:`mixvi.satellite.Augmentation`, which views are drawn by, as in
        :class:`mixvi.satellite.UNetSegmenter`.

    Raises
    ------
    ValueError
        If no labels are registered, a setting is unusable, or the network cannot halve the tiles.
    """

    module: MixMatchSegmenterModule
    # a shrinkage of 4e-5 an update at the learning rate 2e-3
    _plan: ClassVar[dict[str, Any]] = {"decoupled": True, "weight_decay": 0.02}

    def __init__(
        self,
        adata: AnnData | None = None,
        width: int | None = None,
        n_levels: int | None = None,
        norm: str | None = None,
        dates: str | None = None,
        lambda_u: float = 10.0,
        alpha: float | None = None,
        temperature: float = 0.5,
        n_views: int = 2,
        rampup_steps: int = 200,
        warmup_steps: int = 200,
        ema_decay: float = 0.999,
        guess_with: str = "raw",
        class_weights: str = "none",
        require_support: bool = False,
        augmentation: dict | None = None,
        architecture: str = "hruska2023",
        registry: dict | None = None,
    ):
        super().__init__(adata, registry)
        if alpha is None:
            alpha = 0.3 if self.shape[0] == 1 else 0.0
        module = MixMatchSegmenterModule(
            self._unet(architecture, width, n_levels, norm, class_weights, dates),
            self.shape[1],
            len(self.classes),
            make_augmentation(augmentation, self.shape[0]),
            MixMatchSettings(lambda_u, alpha, temperature, n_views, rampup_steps, warmup_steps),
            ema_decay,
            guess_with,
            require_support,
        )
        self._finish(module, locals(), f"MixMatchSegmenter of {len(self.classes)} classes")
        self._standardise_by(adata)

    def train(
        self,
        max_epochs: int | None = None,
        *,
        lr: float | dict[str, float] | None = None,
        batch_size: int | None = None,
        labelled_fraction: float = 0.5,
        early_stopping: bool = False,
        train_size: float | None = None,
        validation_size: float | None = None,
        shuffle_set_split: bool = True,
        datasplitter_kwargs: dict | None = None,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        data_on: str = "auto",
        plan_kwargs: dict | None = None,
        checkpoint_dir: str | Path | None = None,
        resume: bool = False,
        **trainer_kwargs,
    ) -> None:
        """Train the model; callable repeatedly, each call goes on from the last.

        The history has, by epoch, ``supervised_train``, ``unsupervised_train``, ``lambda_u_train``,
        ``confidence_train`` (mean probability of guesses), ``guessed_0_train`` and so on (share of
        each class among guesses) and ``accuracy_train``, of mixed series; of validated tiles the
        cross-entropy of their labels.

        Parameters
        ----------
        max_epochs
            Passes over the tiles, by default so many that there are about 2,000 updates; where
            tiles without any label are among them, passes over those, and up to 4,000 updates.
        batch_size
            Tiles a minibatch. ``None``: 8 with labels, and where some tiles have none so many of
            those that ``labelled_fraction`` is kept.
        labelled_fraction
            Share of tiles with labels in each minibatch, where some tiles have none.
        plan_kwargs
            Options of :class:`mixvi.core.training.stepwise.StepwiseTrainingPlan`. By default
            weights shrink by ``0.02 * lr`` an update, beside the gradient.

        Raises
        ------
        ValueError
            If an argument is unusable, or no tile that trains has a label; nothing has been trained
            then.
        TypeError
            If an argument is unknown.
        FloatingPointError, KeyboardInterrupt
            See :meth:`mixvi.satellite.UNetSegmenter.train`.
        """
        check_labelled_fraction(labelled_fraction)
        if batch_size is None:
            batch_size = 8 if self._labelled_tiles().all() else round(8 / labelled_fraction)
        settings = {k: v for k, v in locals().items() if k not in NO_SETTINGS}
        fit = self._settled(**{k: v for k, v in settings.items() if k != "labelled_fraction"})
        labelled = self._labelled_tiles()
        fit = with_labels(fit, labelled, labelled_fraction, early_stopping, "tiles")
        self._fit(fit, self._training_run(checkpoint_dir, resume, settings))

    def _check_batch(self, batch_size: int) -> None:
        if batch_size == 1 and not self._labelled_tiles().all():
            raise ValueError(
                "batch_size=1, but some tiles have no label: a minibatch has tiles of both kinds. "
                "Pass 2 or more."
            )

    @torch.inference_mode()
    def get_pseudo_labels(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        n_views: int | None = None,
        batch_size: int | None = None,
    ) -> PseudoLabels:
        """What each pixel would be taken for in training, by flips and turns.

        Parameters
        ----------
        n_views
            Views of each tile; by default those of training.

        Returns
        -------
        Classes, whether they have weight, and sharpened probabilities, see
        :class:`mixvi.satellite.mixmatch_segmenter.PseudoLabels`.

        Raises
        ------
        ValueError
            If there are not so many views.
        """
        adata = self._validate_anndata(adata)
        module, parts = self.module, []
        for series in self._batches(adata, indices, batch_size):
            maps = module.view_probabilities(
                series, n_views or module.mixing.n_views, module.guessed_logits
            )
            support = series.support
            guess, known = module.guess(series, maps, support.expand(len(maps), *support.shape))
            parts.append((guess.argmax(-3).cpu(), (known & support).cpu(), guess.cpu()))
        return PseudoLabels(*(torch.cat(part).numpy() for part in zip(*parts, strict=True)))
