"""MixMatch: classes of images from few labels and many images (Berthelot et al. 2019)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data.fields import BaseAnnDataField
from torch import Tensor
from torch.nn import functional as F

from mixvi.core.arguments import check_rate, check_weight, told_by_class
from mixvi.core.data import checks
from mixvi.core.data.annotations import Annotations, check_key_added
from mixvi.core.data.fields import QueryLabelsField
from mixvi.core.data.setup import LOADING
from mixvi.core.maths.averaging import move_average, still_statistics, warmed_decay
from mixvi.core.maths.mixmatch import (
    MixMatchSettings,
    draw_mixing,
    forward_interleaved,
    mix_up,
    sharpen,
    squared_error,
)
from mixvi.core.training.label_shares import check_labelled_fraction, with_labels
from mixvi.core.training.running import NO_SETTINGS
from mixvi.core.training.steps import Loss, Step, StepwiseModule
from mixvi.core.training.stepwise_fitting import StepwiseFittingMixin
from mixvi.images.classifier_networks import ImageNetwork, make_network, shifted
from mixvi.images.module import signed_rows
from mixvi.images.registered import RegisteredImages
from mixvi.images.setup import image_field


class MixMatchClassifierModule(StepwiseModule):
    """A network, its moving average, and MixMatch's losses.

    Parameters
    ----------
    network
        From images in [-1, 1] to logits.
    image_shape, pixel_range
        See :class:`mixvi.images.module.ImageModule`.
    n_classes
        Classes L; the code L is that of images without a label.
    mixing
        MixMatch's numbers.
    ema_decay
        Decay of the moving average of the weights, warmed up.
    shift, flip
        How images are moved at random while training.
    """

    def __init__(
        self,
        network: ImageNetwork,
        image_shape: tuple[int, int, int],
        pixel_range: tuple[float, float],
        n_classes: int,
        mixing: MixMatchSettings,
        ema_decay: float = 0.999,
        shift: int = 4,
        flip: bool = True,
    ):
        super().__init__({"network": network})
        check_rate("ema_decay", ema_decay)
        self.image_shape = tuple(image_shape)
        self.pixel_range = tuple(pixel_range)
        self.n_classes = n_classes
        self.mixing = mixing
        self.ema_decay = ema_decay
        self.shift, self.flip = shift, flip
        self.averaged_network = deepcopy(network).requires_grad_(False)
        self.register_buffer("n_updates", torch.zeros((), dtype=torch.long))

    @property
    def shown_network(self) -> ImageNetwork:
        """The averaged network, which users see; the present one while training."""
        return self.network if self.training else self.averaged_network

    def rows(self, tensors: dict[str, Tensor]) -> Tensor:
        """Images ``(B, C, H, W)`` in [-1, 1] of one minibatch (registry key to tensor)."""
        return signed_rows(tensors, self.image_shape, self.pixel_range)

    def training_rows(self, tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Images, and codes of their classes ``(B,)``, L without a label."""
        return self.rows(tensors), tensors[REGISTRY_KEYS.LABELS_KEY].long().squeeze(-1)

    def steps(self) -> tuple[Step, ...]:
        """One step a minibatch."""
        return (Step("mixmatch", ("network",), MixMatchClassifierModule.mixmatch),)

    def after_step(self, step: Step) -> None:
        """Move the average."""
        self.n_updates += 1
        decay = warmed_decay(self.n_updates, self.ema_decay)
        move_average(self.averaged_network, self.network, decay)

    def augmented(self, x: Tensor) -> Tensor:
        """Images moved and flipped at random."""
        return shifted(x, self.shift, self.flip)

    def mixmatch(self, x: Tensor, labels: Tensor) -> Loss:
        """Cross-entropy of labelled images and squared error of guesses, both of mixed images.

        Where labels are validated, their cross-entropy alone.
        """
        has_label = labels < self.n_classes
        labelled, labels = x[has_label], labels[has_label]
        if not self.training:
            return self.supervised(labelled, labels)
        n_updates = int(self.n_updates)
        if n_updates < self.mixing.warmup_steps:
            return self.supervised(self.augmented(labelled), labels)
        # where all have labels, these are forgotten
        unlabelled = x if has_label.all() else x[~has_label]
        views = [self.augmented(unlabelled) for _ in range(self.mixing.n_views)]
        guess = self.guess(views)
        images = torch.cat([self.augmented(labelled), *views])
        targets = F.one_hot(labels, self.n_classes).to(guess.dtype)
        targets = torch.cat([targets, *[guess] * len(views)])
        mixed, targets, n = *self.mixed(images, targets), len(labelled)
        logits = forward_interleaved(
            lambda rows, part: self.forward_part(mixed[rows], part), len(mixed), n
        )
        supervised = F.cross_entropy(logits[:n], targets[:n])
        unsupervised = squared_error(targets[n:], logits[n:].softmax(1)).mean()
        weight = self.mixing.weight(n_updates)
        terms = {"supervised": supervised, "unsupervised": unsupervised}
        terms["accuracy"] = (logits[:n].detach().argmax(1) == labels).float().mean()
        terms |= self.of_guesses(guess)
        terms["lambda_u"] = torch.tensor(weight)
        return supervised + weight * unsupervised, terms

    def supervised(self, x: Tensor, labels: Tensor) -> Loss:
        """Cross-entropy in nats, and the share of images that are right."""
        logits = self.shown_network(x)
        right = (logits.detach().argmax(1) == labels).float().mean()
        return F.cross_entropy(logits, labels), {"accuracy": right}

    @torch.no_grad()
    def guess(self, views: Sequence[Tensor]) -> Tensor:
        """Sharpened mean of what the present network says of views, ``(B, n_classes)``."""
        with still_statistics(self.network):
            mean = torch.stack([self.network(x).softmax(1) for x in views]).mean(0)
        return sharpen(mean, self.mixing.temperature)

    def mixed(self, x: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Each image with another, and their targets with each other."""
        second = torch.randperm(len(x), device=x.device)
        share = draw_mixing(len(x), self.mixing.alpha, x.device)
        return mix_up(x, x[second], share), mix_up(targets, targets[second], share)

    def forward_part(self, x: Tensor, part: int) -> Tensor:
        """Logits of one of several minibatches, of which the first moves batch norm's averages."""
        if part == 0:
            return self.network(x)
        with still_statistics(self.network):
            return self.network(x)

    def of_guesses(self, guess: Tensor) -> dict[str, Tensor]:
        """Mean probability of the guessed class, and the share of each class among guesses."""
        confidence, guessed = guess.max(1)
        shares = F.one_hot(guessed, self.n_classes).float().mean(0)
        named = {f"guessed_{i}": share for i, share in enumerate(shares)}
        return {"confidence": confidence.mean()} | named

    def inference(self, x: Tensor) -> dict[str, Tensor]:
        """``z``, the features of images."""
        return {"z": self.shown_network.features(x)}

    def generative(self, z: Tensor) -> dict[str, Tensor]:
        """``logits`` of the classes."""
        return {"logits": self.shown_network.classes(z)}

    def _get_inference_input(self, tensors: dict[str, Tensor], **kwargs) -> dict:
        return {"x": self.rows(tensors)}

    def _get_generative_input(self, tensors: dict, inference_outputs: dict, **kwargs) -> dict:
        return inference_outputs


class MixMatchClassifier(StepwiseFittingMixin, RegisteredImages):
    """Classes of images, learnt from few labels and from guesses of the other images.

    Berthelot et al. 2019: guesses of several views of an image are averaged, sharpened and learnt
    from; all images are mixed with each other. What users see is of a moving average of the
    weights.

    Parameters
    ----------
    adata
        AnnData registered with :meth:`setup_anndata`.
    backbone
        ``"wide_resnet"``, the paper's Wide ResNet 28-2, for a GPU; ``"conv"``, a light one for a
        CPU.
    backbone_kwargs
        Settings of :func:`mixvi.images.classifier_networks.wide_resnet` (``depth``, ``widen``,
        ``momentum``) or of :func:`mixvi.images.classifier_networks.conv` (``width``,
        ``n_levels``).
    lambda_u
        Weight of the squared error of guesses once it has risen; the paper has 75 for CIFAR-10 and
        250 for SVHN.
    alpha
        Of the Beta distribution that mixing shares are drawn from; 0: nothing is mixed.
    temperature
        Of sharpening, above 0 and up to 1, which does not sharpen.
    n_views
        Views K of an image whose mean is the guess.
    rampup_steps
        Updates over which ``lambda_u`` rises from zero; take fewer for short runs.
    warmup_steps
        Updates before that, in which labels alone teach.
    ema_decay
        Decay of the moving average of the weights, ``min(ema_decay, (1 + n) / (10 + n))`` at the
        n-th update.
    shift, flip
        Images are moved by up to so many pixels, their edges mirrored, and flipped. Digits and
        letters want ``flip=False``.

    Raises
    ------
    ValueError
        If a name or setting is unknown or unusable.
    """

    module: MixMatchClassifierModule
    # a shrinkage of 4e-5 an update at the learning rate 2e-3
    _plan: ClassVar[dict[str, Any]] = {"decoupled": True, "weight_decay": 0.02}

    def __init__(
        self,
        adata: AnnData | None = None,
        backbone: str = "wide_resnet",
        backbone_kwargs: dict | None = None,
        lambda_u: float = 75.0,
        alpha: float = 0.75,
        temperature: float = 0.5,
        n_views: int = 2,
        rampup_steps: int = 16_000,
        warmup_steps: int = 0,
        ema_decay: float = 0.999,
        shift: int = 4,
        flip: bool = True,
        registry: dict | None = None,
    ):
        super().__init__(adata, registry)
        n_channels, *sides = self.image_shape
        check_weight("shift", shift)
        if shift >= min(sides):
            raise ValueError(
                f"shift={shift}, but images have {sides[0]} x {sides[1]} pixels. Lower it."
            )
        n = len(self.classes)
        module = MixMatchClassifierModule(
            make_network(backbone, n_channels, n, backbone_kwargs),
            self.image_shape,
            self.pixel_range,
            n,
            MixMatchSettings(lambda_u, alpha, temperature, n_views, rampup_steps, warmup_steps),
            ema_decay,
            int(shift),
            flip,
        )
        self._finish(module, locals(), f"MixMatchClassifier of {n} classes, backbone={backbone}")

    @property
    def classes(self) -> list:
        """The labels, in the order of their codes."""
        return self._categories(REGISTRY_KEYS.LABELS_KEY)[:-1]

    @classmethod
    @told_by_class
    def setup_anndata(
        cls,
        adata: AnnData,
        *,
        labels_key: str,
        unlabeled_category: Hashable = "Unknown",
        image_key: str | None = None,
        layer: str | None = None,
        image_shape: tuple[int, ...] | None = None,
        pixel_range: tuple[float, float] | None = None,
        source_registry: dict | None = None,
        extend_categories: bool = False,
    ) -> None:
        """Register images and the labels of some.

        Parameters
        ----------
        labels_key
            Column of ``obs`` with labels.
        unlabeled_category
            Its value for images without a label; missing values mean the same.
        adata, image_key, layer, image_shape, pixel_range, source_registry, extend_categories
            See :meth:`mixvi.images.GenerativeInference.setup_anndata`.

        Raises
        ------
        KeyError
            If a key is missing (near matches are named).
        TypeError
            If images are not numbers of a kind that is known.
        ValueError
            If there are fewer than two labels, or images are not what is said.
        """
        given = {name: value for name, value in locals().items() if name not in LOADING}
        if source_registry is None:
            checks.check_anndata(adata, cls.__name__)
            checks.check_categories(
                adata, labels_key, "labels_key", missing=True, whole_floats=True
            )
            found = adata.obs[labels_key].dropna().astype(str).unique()
            n = len(set(found) - {str(unlabeled_category)})
            if n < 2:
                raise ValueError(
                    f"adata.obs[{labels_key!r}] (labels_key) has {n} label(s), but two or more are "
                    "needed to tell images apart."
                )
        cls._register(adata, cls._get_setup_method_args(**given), source_registry)

    @staticmethod
    def _fields(args: dict, light_share: float | None = None) -> list[BaseAnnDataField]:
        labels = QueryLabelsField(
            REGISTRY_KEYS.LABELS_KEY, args["labels_key"], args["unlabeled_category"]
        )
        return [image_field(args, light_share), labels]

    def train(
        self,
        max_epochs: int | None = None,
        *,
        lr: float | dict[str, float] = 2e-3,
        batch_size: int = 128,
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
        each class among guesses) and ``accuracy_train``, of mixed images; of validated images the
        cross-entropy of their labels.

        Parameters
        ----------
        max_epochs
            Passes over the images without labels, 100 by default.
        lr
            Adam's learning rate.
        batch_size
            Images a minibatch, with and without labels; the paper has 64 of each.
        labelled_fraction
            Share of images with labels in each minibatch, where some have none.
        early_stopping
            Stop when the loss of validated labels no longer falls.
        train_size, validation_size, shuffle_set_split, datasplitter_kwargs
            See :meth:`mixvi.images.GenerativeInference.train`; of the images to validate, those
            with a label are.
        accelerator, devices, data_on, checkpoint_dir, resume, **trainer_kwargs
            See :meth:`mixvi.images.GenerativeInference.train`.
        plan_kwargs
            Options of :class:`mixvi.core.training.stepwise.StepwiseTrainingPlan`. By default
            weights shrink by ``0.02 * lr`` an update, beside the gradient.

        Raises
        ------
        ValueError
            If an argument is unusable, or no image that trains has a label; nothing has been
            trained then.
        TypeError
            If an argument is unknown.
        FloatingPointError, KeyboardInterrupt
            See :meth:`mixvi.images.GenerativeInference.train`.
        """
        settings = {k: v for k, v in locals().items() if k not in NO_SETTINGS}
        check_labelled_fraction(labelled_fraction)
        fit = self._settled(**{k: v for k, v in settings.items() if k != "labelled_fraction"})
        codes = np.asarray(self.adata_manager.get_from_registry(REGISTRY_KEYS.LABELS_KEY)).ravel()
        labelled = codes < len(self.classes)
        fit = with_labels(fit, labelled, labelled_fraction, early_stopping, "images")
        self._fit(fit, self._training_run(checkpoint_dir, resume, settings))

    @torch.inference_mode()
    def predict(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        soft: bool = False,
        batch_size: int | None = None,
    ) -> pd.Series | pd.DataFrame:
        """The class of each image, or the probabilities of all.

        Parameters
        ----------
        soft
            Return probabilities.

        Returns
        -------
        Series ``(n_obs,)`` or DataFrame ``(n_obs, L)``, by the images' names.
        """
        adata = self._validate_anndata(adata)
        chosen = self._check_indices(adata, indices)
        parts = [
            self.module.shown_network(x).softmax(1).cpu()
            for x in self._batches(adata, chosen, batch_size)
        ]
        names = adata.obs_names[chosen]
        classes = np.array(self.classes)
        probabilities = torch.cat(parts).numpy()
        if soft:
            return pd.DataFrame(probabilities, index=names, columns=classes)
        return pd.Series(classes[probabilities.argmax(1)], index=names, name="label")

    @torch.inference_mode()
    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Features of each image that its class is told by, ``(n_obs, n_latent)``."""
        adata = self._validate_anndata(adata)
        batches = self._batches(adata, indices, batch_size)
        return torch.cat([self.module.shown_network.features(x).cpu() for x in batches]).numpy()

    def annotate(
        self,
        adata: AnnData | None = None,
        *,
        key_added: str | None = None,
        batch_size: int | None = None,
    ) -> None:
        """Write classes and their probabilities into the AnnData.

        Keys, with ``key_added`` or ``mixmatch`` for ``<key>``: ``obs["<key>_label"]``,
        ``obs["<key>_confidence"]`` (its probability), ``obsm["<key>_probabilities"]``
        ``(n_obs, L)``, and ``uns["<key>"]`` with the settings and the names of the classes.

        Parameters
        ----------
        key_added
            What keys are named for.

        Warns
        -----
        UserWarning
            If keys are replaced that another class of model or the user wrote.
        """
        check_key_added(key_added)
        adata = self._validate_anndata(adata)
        key = key_added or "mixmatch"
        p = self.predict(adata, soft=True, batch_size=batch_size)
        found = Annotations(key, self._description() | {"classes": self.classes})
        best = p.to_numpy().argmax(1)
        found.obs[f"{key}_label"] = pd.Categorical.from_codes(best, self.classes)
        found.obs[f"{key}_confidence"] = p.to_numpy().max(1)
        found.obsm[f"{key}_probabilities"] = p.to_numpy()
        found.write(adata)
