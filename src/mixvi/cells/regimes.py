"""``train`` of the mixture models: supervised, semi-supervised or unsupervised."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from scvi import REGISTRY_KEYS

from mixvi.cells.clusters import guiding_components
from mixvi.cells.component_number import condition_and_batch
from mixvi.cells.discriminant import discriminant_codes
from mixvi.cells.held_out import FEWEST, NONE, HeldOut, held_out_labels, without_labels
from mixvi.cells.initial import PrincipalAxes, initial_clusters
from mixvi.cells.novelty import MOST_CELLS
from mixvi.cells.schedule import cluster_start, default_schedule
from mixvi.core import arguments
from mixvi.core.data.keys import CALLS_KEY, COMPONENTS_KEY, SOFT_LABELS_KEY
from mixvi.core.maths.clustering import kmeans_clusters, leiden_clusters
from mixvi.core.training.fitting import Fit
from mixvi.core.training.resuming import TrainingRun
from mixvi.core.training.running import NO_SETTINGS

logger = logging.getLogger(__name__)

# a mean wants some cells; more would not be the share that there is
_LEAST_OF_EACH = 20
# the component of each cell at the start, left with a run
_START_NOTE = "start"
MODES = ("auto", "supervised", "semi", "unsupervised", "guided")
# the arguments of train that other models have not
_OWN_SETTINGS = (
    "mode",
    "clusters",
    "indices",
    "labelled_fraction",
    "label_weighting",
    "calibrate",
    "init",
    "init_epochs",
)


class RegimesMixin:
    """``train`` by the labels there are."""

    calibration_indices_: np.ndarray | None = None
    # their names; a loaded model may have other cells
    _calibration_names: list[str] | None = None

    @property
    def calibration_indices(self) -> np.ndarray | None:
        """Labelled cells whose label was held out of the last training, or None."""
        return self.calibration_indices_

    def train(
        self,
        max_epochs: int | None = None,
        *,
        mode: str = "auto",
        clusters: str | Sequence | None = None,
        indices: Sequence[int] | None = None,
        stages: Sequence[tuple[float, int]] | None = None,
        lr: float | None = None,
        weight_decay: float = 0.0,
        batch_size: int = 128,
        labelled_fraction: float | None = None,
        label_weighting: str = "rows",
        calibrate: bool | None = None,
        init: str | None = "auto",
        init_epochs: int | None = None,
        early_stopping: bool = False,
        train_size: float | None = None,
        validation_size: float | None = None,
        shuffle_set_split: bool = True,
        datasplitter_kwargs: dict | None = None,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        data_on: str = "auto",
        plan_kwargs: dict | None = None,
        datamodule: LightningDataModule | None = None,
        checkpoint_dir: str | Path | None = None,
        resume: bool = False,
        **trainer_kwargs,
    ) -> None:
        """Train the model; callable repeatedly, each call goes on from the last.

        Parameters
        ----------
        max_epochs
            Passes over the data. ``None``: with labels 60 up to about 2,000 cells and fewer for
            more, at least 20, after which they are learnt by heart; without labels some 800
            updates (5 to 100 epochs), unless components start at random; else scvi-tools' heuristic
            (at most 400).
        mode
            ``"supervised"``: the labelled cells alone; ``"semi"``: all cells, with the labels there
            are; ``"unsupervised"``: all cells, labels not looked at; ``"guided"``: all cells, with
            ``clusters`` as their components and labels not looked at (Kolb 2022, l. 966-974);
            ``"auto"``: as the labels are.
        lr
            Adam's learning rate. ``None``: 1e-3; without labels 3e-4, at which components stay
            where clusters have put them, unless they start at random.
        clusters
            For ``"guided"``: a column of ``obs``, or the cluster of each cell ``(n_obs,)``; a
            Series by cell name. They take components in the order of their categories, or sorted
            where they have none; clusters named as the registered labels take theirs.
        indices
            Cells to train on, by number; a repeated one counts repeatedly. ``None``: all.
        labelled_fraction
            Share of labelled cells in each minibatch (semi); ``None``: as they come.
        label_weighting
            ``"rows"``: every cell counts once; ``"groups"``: labelled and unlabelled cells of a
            minibatch share the weight evenly, as in the thesis's runs.
        calibrate
            Whether the labels of some cells are held out, so that probabilities can be calibrated
            on them after training (:meth:`calibrate`). They are the labelled cells of the
            validation set, where 20 or so are to be expected there, else a tenth of the cells of
            each label (at most 1,000; none of a label of fewer than 10 cells), the same ones at
            every call, which train without it: that tenth of the labels is what calibration costs.
            Labels too few to give 10 cells all teach, and a line says that probabilities are as the
            network has them. ``None``: True, except of :class:`mixvi.CGMVAE` where all cells that
            train have a label, all of which its counterfactuals want.
        init
            How the components of an untrained model start. ``"auto"``: ``"leiden"`` without labels
            (``"kmeans"`` where igraph is not installed), ``"discriminant"`` with some. Without any,
            ``"kmeans"``: k-means on
            principal components of the data (centred within each condition and batch) gives
            clusters, and the model is first trained for ``init_epochs`` with those as components;
            then clusters are forgotten and training goes on unsupervised. Those epochs come before
            the ones that are asked for, train the same cells, and have records of their own,
            ``model.start_history``; callbacks and loggers do not see them. ``"leiden"``: the same
            with clusters of their neighbour graph, as many as there are components (needs igraph).
            With ``n_components="auto"`` there are more clusters at first, of which those are merged
            that halves of the genes do not tell apart (:func:`mixvi.cells.component_tree`).
            With some labels, ``"discriminant"``: linear discriminants of the principal components,
            each condition and batch centred on its types, give the other cells labels for
            ``init_epochs``, which helps where labels are few, or of another study. Each counts a
            tenth of a label from then on.
            ``None``: at random, as in the thesis; components may then die or merge. Of data on
            disk, at most 50,000 cells are clustered, and others join the nearest cluster. A model
            that is trained already, or whose components are those of a frozen reference, goes on
            from what it has.
        init_epochs
            Epochs of that start; ``None``: of clusters, some 500 updates (5 to 100 epochs), of
            discriminants 10.
        datamodule
            Source of minibatches instead of the AnnData, as for :meth:`mixvi.VAE.train`. Cells have
            no numbers then: ``init=None`` is needed, and ``clusters``, ``indices`` and
            ``labelled_fraction`` are not possible. The mode is by the labels of the AnnData that
            the model was built on.
        checkpoint_dir
            Directory for a checkpoint an epoch, those of ``init`` included; ``None``: none are
            written.

        Raises
        ------
        ValueError
            If an argument is unusable, the mode does not fit the labels, or ``checkpoint_dir``
            holds another run or one that is not to be resumed.
        TypeError
            If an argument is unknown.
        FloatingPointError, KeyboardInterrupt
            See :meth:`mixvi.VAE.train`.
        """
        settings = {k: v for k, v in locals().items() if k not in NO_SETTINGS}
        arguments.check_choice("mode", mode, MODES)
        arguments.check_choice("label_weighting", label_weighting, ("rows", "groups"))
        arguments.check_choice("init", init, ("auto", "kmeans", "leiden", "discriminant", None))
        if init_epochs is not None:
            arguments.check_positive("init_epochs", init_epochs)
        if calibrate is not None:
            arguments.check_bool("calibrate", calibrate)
        if datamodule is not None:
            _check_rowless(init, clusters, indices, labelled_fraction)

        rows, labelled = self._training_indices(), self._labelled_cells()
        if indices is not None:
            rows = self._check_indices(self.adata, indices)
        mode = self._regime(mode, labelled[rows], clusters, init)
        if mode == "supervised":
            rows = rows[labelled[rows]]
        if init == "auto":
            init = "discriminant" if mode == "semi" else cluster_start()
        clustered = mode == "unsupervised" and init is not None and self._movable
        self._check_number_is_found(clustered)
        use_labels = mode in ("supervised", "semi")
        settings |= default_schedule(settings, len(rows), clustered=clustered, labelled=use_labels)
        fit = self._settled(rows, **{k: v for k, v in settings.items() if k not in _OWN_SETTINGS})
        _check_labelled_fraction(labelled_fraction, mode, labelled[fit.split.train])
        known = _as_components(self.guiding_components(clusters)) if mode == "guided" else None
        held_out = NONE
        calibrate = self._calibrates(mode) if calibrate is None else calibrate
        if use_labels and calibrate and datamodule is None and self._movable:
            held_out = self._held_out(rows, fit.split.validation)
        extra = known
        if len(held_out.rows):
            labelled = labelled & ~np.isin(np.arange(len(labelled)), held_out.rows)
            extra = without_labels(self.adata_manager, held_out.rows)
        reading = {"labelled": labelled, "labelled_fraction": labelled_fraction, "extra": extra}
        weighing = {"use_labels": use_labels, "label_weighting": label_weighting}
        fit = replace(
            fit,
            minibatches=fit.minibatches | reading,
            plan=fit.plan | {"loss_kwargs": weighing},
        )

        asked = {"n_components": self._asked_components}
        run = self._training_run(checkpoint_dir, resume, settings | asked)
        if self._components_start(mode, init):
            fit = self._started(fit, init, settings["init_epochs"], run, held_out.rows)
        before = self.history_
        self._taught_by = use_labels, np.flatnonzero(labelled), held_out
        try:
            self._fit(fit, run)
        finally:
            # an interrupted model is used, too
            if self.history_ is not before:
                self._learn_of_labels(*self._taught_by)

    def _regime(
        self, mode: str, labelled: np.ndarray, clusters: str | Sequence | None, init: str | None
    ) -> str:
        """What ``mode`` means for cells of which ``labelled`` have a label."""
        if (clusters is not None) != (mode == "guided"):
            raise ValueError(
                f"mode={mode!r} and clusters do not fit: pass clusters with mode='guided', and "
                "only then."
            )
        if mode in ("supervised", "semi") and not labelled.any():
            raise ValueError(
                f"mode={mode!r} needs labels, but no cell has one. Register them with "
                f"{type(self).__name__}.setup_anndata(adata, labels_key=...)."
            )
        if mode == "auto":
            some = "supervised" if labelled.all() else "semi"
            mode = some if labelled.any() else "unsupervised"
        if init == "discriminant" and mode != "semi":
            raise ValueError(
                f"init='discriminant' learns from the labels there are (mode='semi'), but mode is "
                f"{mode!r}."
            )
        return mode

    def _components_start(self, mode: str, init: str | None) -> bool:
        """Whether components have yet to find their places, and ``init`` can say where."""
        served = "semi" if init == "discriminant" else "unsupervised"
        return init is not None and mode == served and self._movable and not self.is_trained_

    @property
    def _movable(self) -> bool:
        """Whether training moves components; those of a frozen reference stay."""
        return any(weight.requires_grad for weight in self.module.components.parameters())

    def _calibrates(self, mode: str) -> bool:
        """Whether labels are held out where ``train`` is not told."""
        return True

    def _held_out(self, rows: np.ndarray, validation: np.ndarray) -> HeldOut:
        """Labelled cells that are not to teach their label, of those that are used."""
        codes = self._label_codes()
        # by numbers alone: a resumed run may draw another validation set before it has its own
        expected = len(validation) * (codes[rows] >= 0).mean()
        if expected >= 2 * FEWEST:
            return HeldOut(NONE.rows, True)
        found = HeldOut(held_out_labels(codes, rows), False)
        if not len(found.rows):
            logger.warning(
                "Labels are too few to hold any out: probabilities are not calibrated. "
                "model.calibrate(...) does so on other labelled cells."
            )
        return found

    def _measure(self, use_labels: bool, held_out: HeldOut) -> None:
        """Learn of the labelled cells what novelty is, and calibrate on those held out."""
        if not (use_labels and self._movable):
            return
        codes, trained = self._label_codes(), self.train_indices
        # a resumed run has the validation set that it began with
        held = self.validation_indices if held_out.are_validated else held_out.rows
        held = held[codes[held] >= 0]
        taught = codes.copy()
        taught[held] = -1
        seen = np.arange(len(codes)) if trained is None else np.unique(trained)
        seen = _some_of_each(seen, taught)
        parts = [
            (rows.dense_x, torch.stack([rows.batch, rows.condition], dim=1))
            for rows in self._inputs(self.adata, seen, None)
        ]
        x, groups = (torch.cat(part) for part in zip(*parts, strict=True))
        self.module.label_distance.fit(x, torch.as_tensor(taught[seen], device=x.device), groups)
        if len(held) >= FEWEST:
            labels = [self.classes[code] for code in codes[held]]
            self.calibration_ = self._calibration(self.adata, held, labels)
            self.calibration_indices_ = held
            self._calibration_names = self.adata.obs_names[held].tolist()

    def _started(
        self, fit: Fit, init: str, init_epochs: int, run: TrainingRun | None, hidden: np.ndarray
    ) -> Fit:
        """Teach the components where they start; what is to be trained then, on the same rows."""
        codes = np.full(self.adata.n_obs, -1)
        if run is not None and run.phase("start").exists:
            self._recall_components(run)
            codes[:] = run.noted(_START_NOTE)
        else:
            # a row drawn many times would make clusters of its copies
            once = np.unique(fit.split.train)
            codes[once] = self._initial_codes(once, init, hidden)
            self._note_components(run)
            if run is not None:
                run.note(_START_NOTE, codes.tolist())
        reading = {"labelled_fraction": None, "extra": _as_components(codes.clip(0))}
        start = fit.before("start", init_epochs, reading, {"loss_kwargs": {"use_labels": False}})
        fit = replace(fit, split=self._fit(start, run))
        if init != "discriminant":
            return fit
        # without them the network forgets what it was taught: labels of others outweigh it
        calls = {CALLS_KEY: codes.reshape(-1, 1) // self.module.components_per_class}
        extra = (fit.minibatches["extra"] or {}) | calls
        return replace(fit, minibatches=fit.minibatches | {"extra": extra})

    def _prepare_checkpoint(self, *args) -> None:
        super()._prepare_checkpoint(*args)
        self._learn_of_labels(*self._taught_by)

    def _learn_of_labels(self, use_labels: bool, labelled: np.ndarray, held_out: HeldOut) -> None:
        """Names of components, novelty and calibration, which follow from weights and labels."""
        self._name_components(use_labels, labelled)
        self._measure(use_labels, held_out)

    def _name_components(self, use_labels: bool, labelled: np.ndarray) -> None:
        """Labels of the components after training, which cells ``labelled`` have taught."""
        if not self._movable:
            return
        # an unsupervised continuation may move components: an older map no longer holds
        self.assignment_ = self.calibration_ = None
        self.calibration_indices_ = self._calibration_names = None
        self.module.label_distance.forget()
        self.trained_with_labels_ = use_labels
        if use_labels:
            trained = self.train_indices
            rows = labelled if trained is None else np.intersect1d(trained, labelled)
            self.assignment_ = {"mapping": self._owned_labels(rows), "method": "training labels"}

    def _initial_codes(self, indices: np.ndarray, init: str, hidden: np.ndarray) -> np.ndarray:
        """Component codes that the rows ``indices`` start with, whatever labels ``hidden`` have."""
        is_open = init != "discriminant" and self._number_is_open(len(indices))
        n_clusters = self._n_start_clusters(len(indices)) if is_open else self.n_components
        if len(indices) < n_clusters:
            raise ValueError(
                f"{len(indices)} cells are too few for {n_clusters} components. Lower n_components."
            )
        # drawn from numpy's global state, which scvi.settings.seed sets
        seed = int(np.random.randint(2**31 - 1))
        manager = self.adata_manager
        axes = PrincipalAxes(
            manager.get_from_registry(REGISTRY_KEYS.X_KEY),
            is_count=self.module.likelihood.is_count,
            seed=seed,
            groups=condition_and_batch(manager),
            indices=indices,
        )
        if init == "discriminant":
            known = self._label_codes()
            known[hidden] = -1
            codes = discriminant_codes(axes, known[indices], seed)
            return codes * self.module.components_per_class
        clusters = kmeans_clusters if init == "kmeans" else leiden_clusters
        codes = initial_clusters(axes, lambda p: clusters(p, n_clusters, seed), seed)
        return self._found_components(codes, indices, seed) if is_open else codes

    def guiding_components(self, clusters: str | Sequence) -> np.ndarray:
        """Component that each cell is taught in ``train(mode="guided", clusters=clusters)``.

        Parameters
        ----------
        clusters
            A column of ``obs``, or the cluster of each cell ``(n_obs,)``; a Series by cell name.

        Returns
        -------
        Array ``(n_obs,)``: of clusters that are all named as labels with a component each, that
        component; of others, the place of the cluster among its categories, or sorted.

        Raises
        ------
        KeyError
            If the column is missing.
        ValueError
            If a cell has no cluster, or there is one alone, or more than components.
        """
        owners = self.classes if self.module.components_per_class == 1 else ()
        return guiding_components(self.adata, clusters, self.n_components, owners)

    def _labelled_cells(self) -> np.ndarray:
        """Mask of the cells with a label, ``(n_obs,)``."""
        return self._label_codes() >= 0

    def _label_codes(self) -> np.ndarray:
        """Class of each cell, the most probable where labels are soft; -1 without a label."""
        if not self.classes or self.adata is None:
            return np.full(0 if self.adata is None else self.adata.n_obs, -1)
        if SOFT_LABELS_KEY in self.adata_manager.data_registry:
            soft = np.asarray(self.adata_manager.get_from_registry(SOFT_LABELS_KEY))
            return np.where(soft.sum(axis=1) > 0.5, soft.argmax(axis=1), -1)
        codes = np.asarray(self.adata_manager.get_from_registry(REGISTRY_KEYS.LABELS_KEY)).ravel()
        return np.where(codes < len(self.classes), codes, -1)

    def _saved_state(self) -> dict:
        return super()._saved_state() | {
            "calibration_indices": self.calibration_indices_,
            "calibration_names": self._calibration_names,
        }

    def _restore_state(self, state: dict) -> None:
        super()._restore_state(state)
        # directories of version 0.1.0 have none
        self.calibration_indices_ = state.get("calibration_indices")
        self._calibration_names = state.get("calibration_names")

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
            # labelled cells may all have been set aside
            for rows in self._batches(self.adata, indices, None) if len(indices) else ():
                pi = self._component_probs(rows, use_mean=True)
                shares += (rows.labels.T @ pi).cpu()
        for j in range(len(mapping), self.n_components):
            mapping[j] = self.classes[int(shares[:, j].argmax())]
        return mapping


def _some_of_each(rows: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """At most 5,000 of the rows as they come, with some of each code; the same at every call."""
    rows = rows[np.random.RandomState(0).permutation(len(rows))]
    found = np.unique(codes[rows])
    least = min(_LEAST_OF_EACH, max(MOST_CELLS // len(found), 1))
    first = np.zeros(len(rows), dtype=bool)
    for code in found:
        first[np.flatnonzero(codes[rows] == code)[:least]] = True
    return np.sort(np.concatenate([rows[first], rows[~first]])[:MOST_CELLS])


def _as_components(codes: np.ndarray) -> dict[str, np.ndarray]:
    """What minibatches bring beside the fields where components are known."""
    return {COMPONENTS_KEY: codes.reshape(-1, 1)}


def _check_rowless(init, clusters, indices, labelled_fraction) -> None:
    """Raise ValueError for settings that name cells, which a data module does not."""
    if init is not None:
        raise ValueError(
            f"init={init!r} clusters the cells first, but a datamodule only gives minibatches. "
            "Pass init=None, or train the model on its AnnData before."
        )
    named = {"clusters": clusters, "indices": indices, "labelled_fraction": labelled_fraction}
    for argument, value in named.items():
        if value is not None:
            raise ValueError(
                f"{argument} chooses cells by number, but a datamodule only gives minibatches. "
                f"Leave {argument} out, and choose the cells in the datamodule."
            )


def _check_labelled_fraction(fraction: float | None, mode: str, labelled: np.ndarray) -> None:
    if fraction is None:
        return
    if mode != "semi" or labelled.all():
        raise ValueError(
            "labelled_fraction needs labelled and unlabelled cells (mode='semi'), but mode "
            f"is {mode!r} and {int(labelled.sum())} of {len(labelled)} cells are labelled."
        )
    arguments.check_share("labelled_fraction", fraction)
