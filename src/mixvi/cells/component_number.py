"""How many components: as many as the data carry, and components merged into groups afterwards."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi import REGISTRY_KEYS, settings

from mixvi.cells.separation import MIN_AGREEMENT, ComponentTree, Merge, component_tree
from mixvi.core.data.annotations import check_key_added
from mixvi.core.data.keys import CONDITION_KEY
from mixvi.core.training.resuming import TrainingRun

# that of scvi.settings.verbosity
_LOGGER = logging.getLogger("scvi")
AUTO = "auto"
FEWEST_CELLS = 50
_MOST_CLUSTERS = 30
_CELLS_A_CLUSTER = 10
_DEFAULT_NUMBER = 20
_NOTE = "components"


class ComponentNumberMixin:
    """``n_components="auto"`` and ``merge_components`` of the mixture models."""

    _asked_components: int | str | None = None
    _start_tree: ComponentTree | None = None

    def _first_number(self, asked: int | str | None, n_owned: int) -> int:
        """Components that the model is built with, of which labels own ``n_owned``."""
        self._asked_components = asked
        if asked == AUTO:
            if n_owned:
                raise ValueError(
                    "n_components='auto' finds how many clusters there are, but labels own their "
                    "components. Leave n_components or labels_key out, or give a number."
                )
            if self.adata is not None:
                _check_enough_cells(self.adata.n_obs)
            return _DEFAULT_NUMBER
        return 2 * n_owned or _DEFAULT_NUMBER if asked is None else asked

    @property
    def component_path(self) -> pd.DataFrame | None:
        """How ``n_components="auto"`` came to its number, or None where it was given.

        ``n_components``; ``agreement``, at most 1, by which the two halves of the genes tell the
        least distinct pair apart (the level of :class:`mixvi.cells.ComponentTree`); ``chosen``.
        """
        if self._start_tree is None:
            return None
        levels = self._start_tree.levels
        numbers = np.arange(len(levels) + 1, 0, -1)
        return pd.DataFrame(
            {
                "n_components": numbers,
                "agreement": [*levels, np.nan],
                "chosen": numbers == self.n_components,
            }
        )

    def _number_is_open(self, n_rows: int) -> bool:
        """Whether the start of training on ``n_rows`` cells finds the number of components."""
        if self.is_trained_ or self.classes:
            return False
        if self._asked_components == AUTO:
            _check_enough_cells(n_rows)
            return True
        has_halves = self.summary_stats["n_vars"] > 1
        return self._asked_components is None and n_rows >= FEWEST_CELLS and has_halves

    def _check_number_is_found(self, clustered: bool) -> None:
        """Raise ValueError if ``"auto"`` was asked for and no clusters are to find it."""
        if self._asked_components == AUTO and not (clustered or self.is_trained_):
            raise ValueError(
                "n_components='auto' is found where components start from clusters: train first "
                "with mode='unsupervised' and init='leiden' or 'kmeans', or give a number."
            )

    @staticmethod
    def _n_start_clusters(n_rows: int) -> int:
        return max(2, min(_MOST_CLUSTERS, n_rows // _CELLS_A_CLUSTER))

    def _found_components(self, codes: np.ndarray, indices: np.ndarray, seed: int) -> np.ndarray:
        """Components of the rows ``indices`` of clusters, and a module with as many."""
        tree = self._tree_of(self.adata, codes, indices, seed)
        self._take_tree(tree)
        _LOGGER.info(
            f"n_components={self.n_components}: of {len(tree.components)} clusters, those that "
            "halves of the genes do not tell apart are one. See model.component_path."
        )
        if self.n_components == 1:
            warnings.warn(
                f"Halves of the {self.summary_stats['n_vars']} genes tell no two clusters apart, "
                "so that there is one component, and no clusters to predict. Take more genes, or "
                "give n_components.",
                UserWarning,
                stacklevel=settings.warnings_stacklevel,
            )
        groups = tree.cut()
        return np.array([groups[code] for code in codes])

    def _take_tree(self, tree: ComponentTree) -> None:
        self._start_tree = tree
        self._rebuild(len(set(tree.cut().values())))

    def _tree_of(
        self, adata: AnnData, codes: np.ndarray, indices: np.ndarray, seed: int
    ) -> ComponentTree:
        manager = self.get_anndata_manager(adata, required=True)
        return component_tree(
            manager.get_from_registry(REGISTRY_KEYS.X_KEY),
            codes,
            is_count=self.module.likelihood.is_count,
            seed=seed,
            batches=condition_and_batch(manager),
            indices=indices,
        )

    def _note_components(self, run: TrainingRun | None) -> None:
        """Leave with a run what a resumed one needs to build the module."""
        if run is not None and self._start_tree is not None:
            run.note(_NOTE, plain_tree(self._start_tree))

    def _recall_components(self, run: TrainingRun) -> None:
        noted = run.noted(_NOTE)
        if noted is not None:
            self._take_tree(tree_of_plain(noted))

    def merge_components(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        n_groups: int | None = None,
        min_agreement: float = MIN_AGREEMENT,
        key_added: str | None = None,
        batch_size: int | None = None,
    ) -> ComponentTree:
        """Merge components that the data do not tell apart, and write the groups of the cells.

        ``obs``: ``gmvae_group``, and ``gmvae_group_confidence``, the probability of the group,
        which is the sum over its components; NaN for cells that ``indices`` leaves out.
        ``differential_expression(groupby="gmvae_group")`` gives the genes of each.

        Two components are told apart by how far two halves of the genes agree on whose cells are
        whose (see :func:`mixvi.cells.component_tree`). The tree goes on until one is left;
        :func:`mixvi.pl.component_tree` draws it.

        Parameters
        ----------
        n_groups
            Cut the tree where as many groups are left.
        min_agreement
            Where ``n_groups`` is None: merge what is told apart less than this, at most 1.
        key_added
            Stands for ``gmvae`` in the keys.

        Returns
        -------
        :class:`mixvi.cells.ComponentTree`, which can be cut at any other level.

        Raises
        ------
        ValueError
            If there are fewer components with cells than ``n_groups``, or ``min_agreement`` is
            above 1.
        """
        check_key_added(key_added)
        adata = self._validate_anndata(adata)
        rows = self._check_indices(adata, indices)
        probs = self.predict(adata, rows, soft=True, batch_size=batch_size).to_numpy()
        # drawn from numpy's global state, which scvi.settings.seed sets
        seed = int(np.random.randint(2**31 - 1))
        tree = self._tree_of(adata, probs.argmax(axis=1), rows, seed)
        groups = tree.cut(n_groups, min_agreement)
        # a component without cells goes where its probability lies
        shared = probs.T @ probs
        owners = [
            j if j in groups else max(groups, key=shared[j].__getitem__)
            for j in range(self.n_components)
        ]
        summed = probs @ np.eye(max(groups.values()) + 1)[[groups[j] for j in owners]]
        key = key_added or self._prefix
        group = np.full(adata.n_obs, -1)
        group[rows] = summed.argmax(axis=1)
        names = [str(i) for i in range(summed.shape[1])]
        adata.obs[f"{key}_group"] = pd.Categorical.from_codes(group, names)
        confidence = np.full(adata.n_obs, np.nan)
        confidence[rows] = summed.max(axis=1)
        adata.obs[f"{key}_group_confidence"] = confidence
        return tree


def condition_and_batch(manager: Any) -> np.ndarray:
    """One code for condition and batch of each cell, ``(n_obs,)``."""
    condition = np.asarray(manager.get_from_registry(CONDITION_KEY)).ravel().astype(np.int64)
    batch = np.asarray(manager.get_from_registry(REGISTRY_KEYS.BATCH_KEY)).ravel()
    return condition * (int(batch.max()) + 1) + batch


def plain_tree(tree: ComponentTree | None) -> dict | None:
    """A tree as numbers and lists, for files."""
    if tree is None:
        return None
    merges = [[merge.first, merge.second, merge.agreement] for merge in tree.merges]
    return {"components": list(tree.components), "merges": merges}


def tree_of_plain(plain: dict | None) -> ComponentTree | None:
    """Inverse of :func:`plain_tree`."""
    if plain is None:
        return None
    merges = tuple(Merge(int(i), int(j), float(a)) for i, j, a in plain["merges"])
    return ComponentTree(tuple(plain["components"]), merges)


def _check_enough_cells(n: int) -> None:
    if n < FEWEST_CELLS:
        raise ValueError(
            f"n_components='auto' needs {FEWEST_CELLS} cells to tell clusters apart, but there are "
            f"{n}. Give a number."
        )
