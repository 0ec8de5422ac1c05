"""``train`` of the mixture models: supervised, semi-supervised or unsupervised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scvi import REGISTRY_KEYS

from mixvi.cells.initial import kmeans_components
from mixvi.core import checks
from mixvi.core.fitting import check_training
from mixvi.core.module import COMPONENTS_KEY, SOFT_LABELS_KEY

MODES = ("auto", "supervised", "semi", "unsupervised")


class RegimesMixin:
    """``train`` by the labels there are."""

    def train(
        self,
        max_epochs: int | None = None,
        *,
        mode: str = "auto",
        stages: Sequence[tuple[float, int]] | None = None,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        batch_size: int = 128,
        labelled_fraction: float | None = None,
        label_weighting: str = "rows",
        init: str | None = "kmeans",
        init_epochs: int = 10,
        early_stopping: bool = False,
        train_size: float | None = None,
        validation_size: float | None = None,
        shuffle_set_split: bool = True,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        plan_kwargs: dict | None = None,
        **trainer_kwargs,
    ) -> None:
        """Train the model; callable repeatedly, each call goes on from the last.

        Parameters
        ----------
        mode
            ``"supervised"``: the labelled cells alone; ``"semi"``: all cells, with the labels there
            are; ``"unsupervised"``: all cells, labels not looked at; ``"auto"``: as the labels are.
        labelled_fraction
            Share of labelled cells in each minibatch (semi); ``None``: as they come.
        label_weighting
            ``"rows"``: every cell counts once; ``"groups"``: labelled and unlabelled cells of a
            minibatch share the weight evenly, as in the thesis's runs.
        init
            How the components of an untrained model start without labels. ``"kmeans"``: k-means on
            principal components of the data (centred within each condition and batch) gives
            clusters, and the model is first trained for ``init_epochs`` with those as components;
            then clusters are forgotten and training goes on unsupervised. ``None``: at random, as
            in the thesis; components may then die or merge.
        init_epochs
            See ``init``.
        max_epochs, stages, lr, weight_decay, batch_size, early_stopping, train_size
            See :meth:`mixvi.VAE.train`.
        validation_size, shuffle_set_split, accelerator, devices, plan_kwargs, **trainer_kwargs
            See :meth:`mixvi.VAE.train`.

        Raises
        ------
        ValueError
            If an argument is unusable or the mode does not fit the labels.
        FloatingPointError
            If a loss term stops being finite; the term is named.
        """
        checks.check_choice("mode", mode, MODES)
        checks.check_choice("label_weighting", label_weighting, ("rows", "groups"))
        checks.check_choice("init", init, ("kmeans", None))
        indices = self._training_indices()
        labelled = self._labelled_cells()
        if mode == "auto":
            mode = "semi" if labelled.any() else "unsupervised"
            mode = "supervised" if labelled.all() else mode
        if mode in ("supervised", "semi") and not labelled.any():
            raise ValueError(
                f"mode={mode!r} needs labels, but no cell has one. Register them with "
                f"{type(self).__name__}.setup_anndata(adata, labels_key=...)."
            )
        if mode == "supervised":
            indices = indices[labelled]
        if labelled_fraction is not None:
            if mode != "semi" or labelled.all():
                raise ValueError(
                    "labelled_fraction needs labelled and unlabelled cells (mode='semi'), but mode "
                    f"is {mode!r} and {int(labelled.sum())} of {len(labelled)} cells are labelled."
                )
            if not 0.0 < labelled_fraction < 1.0:
                raise ValueError(
                    f"labelled_fraction must lie between 0 and 1, but is {labelled_fraction!r}."
                )
        common = {
            "weight_decay": weight_decay,
            "batch_size": batch_size,
            "validation_size": validation_size,
            "shuffle_set_split": shuffle_set_split,
            "accelerator": accelerator,
            "devices": devices,
            "plan_kwargs": plan_kwargs,
            **trainer_kwargs,
        }
        check_training(
            len(indices),
            max_epochs=max_epochs,
            stages=stages,
            lr=lr,
            batch_size=batch_size,
            early_stopping=early_stopping,
            train_size=train_size,
            validation_size=validation_size,
        )
        if init == "kmeans" and mode == "unsupervised" and not self.is_trained_:
            self._initialise_components(indices, init_epochs, common)
        self._fit(
            indices,
            max_epochs=max_epochs,
            stages=stages,
            lr=lr,
            early_stopping=early_stopping,
            train_size=train_size,
            loss_kwargs={"use_labels": mode != "unsupervised", "label_weighting": label_weighting},
            labelled=labelled,
            labelled_fraction=labelled_fraction,
            **common,
        )
        # an unsupervised continuation may move components: an older map no longer holds
        self.assignment_ = None
        self.trained_with_labels_ = mode != "unsupervised"
        if self.trained_with_labels_:
            self.assignment_ = {
                "mapping": self._owned_labels(
                    np.intersect1d(self.train_indices, np.flatnonzero(labelled))
                ),
                "method": "training labels",
            }

    def _initialise_components(self, indices: np.ndarray, epochs: int, common: dict) -> None:
        """Train for a few epochs with k-means clusters as components; no label is looked at."""
        checks.check_positive("init_epochs", epochs)
        if len(indices) < self.n_components:
            raise ValueError(
                f"{len(indices)} cells are too few for {self.n_components} components. "
                "Lower n_components."
            )
        codes = np.zeros(self.adata.n_obs, dtype=np.int64)
        codes[indices] = kmeans_components(
            self.adata_manager, indices, self.n_components, self.module.likelihood.is_count
        )
        self._fit(
            indices,
            max_epochs=epochs,
            stages=None,
            lr=1e-3,
            early_stopping=False,
            train_size=1.0,
            loss_kwargs={"use_labels": False},
            extra={COMPONENTS_KEY: codes.reshape(-1, 1)},
            **(common | {"validation_size": None}),
        )

    def _labelled_cells(self) -> np.ndarray:
        """Mask of the cells with a label, ``(n_obs,)``."""
        if not self.classes or self.adata is None:
            return np.zeros(0 if self.adata is None else self.adata.n_obs, dtype=bool)
        if SOFT_LABELS_KEY in self.adata_manager.data_registry:
            soft = np.asarray(self.adata_manager.get_from_registry(SOFT_LABELS_KEY))
            return soft.sum(axis=1) > 0.5
        codes = np.asarray(self.adata_manager.get_from_registry(REGISTRY_KEYS.LABELS_KEY)).ravel()
        return codes < len(self.classes)

    def _owned_labels(self, indices: np.ndarray) -> dict[int, Any]:
        """Labels of the components: classes own theirs; surplus ones go where they overlap most."""
        per_class = self.module.components_per_class
        mapping = {
            t * per_class + i: label
            for t, label in enumerate(self.classes)
            for i in range(per_class)
        }
        if len(mapping) == self.n_components:
            return mapping
        shares = torch.zeros(len(self.classes), self.n_components)
        with torch.inference_mode():
            for rows in self._batches(self.adata, indices, None):
                pi = self._component_probs(rows, use_mean=True)
                shares += (rows.labels.T @ pi).cpu()
        for j in range(len(mapping), self.n_components):
            mapping[j] = self.classes[int(shares[:, j].argmax())]
        return mapping
