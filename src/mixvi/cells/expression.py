"""Differential expression, on scvi-tools' machinery."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from pandas.api.types import is_list_like
from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.model.base import DifferentialComputation
from scvi.model.base._de_core import _de_core

from mixvi.core import arguments
from mixvi.core.data import checks
from mixvi.core.data.alignment import in_order_of
from mixvi.core.data.backed import row_sums
from mixvi.core.maths.sparse import distinct_entries

COMPONENT = "component"
# what scvi-tools' comparison takes beside the groups and what is an argument of its own here
_COMPARING = [
    name
    for name in inspect.signature(DifferentialComputation.get_bayes_factors).parameters
    if name not in ("self", "idx1", "idx2", "mode", "delta", "batchid1", "batchid2")
]


class ExpressionMixin:
    """``differential_expression`` of models of expression."""

    def differential_expression(
        self,
        adata: AnnData | None = None,
        groupby: str | None = None,
        group1: Any = None,
        group2: Any = None,
        idx1: Sequence[int] | Sequence[bool] | str | None = None,
        idx2: Sequence[int] | Sequence[bool] | str | None = None,
        *,
        mode: str = "change",
        delta: float = 0.25,
        order: str = "auto",
        min_expressed: float = 0.1,
        batch_size: int | None = None,
        all_stats: bool = True,
        batch_correction: bool = False,
        batchid1: Sequence[str] | None = None,
        batchid2: Sequence[str] | None = None,
        fdr_target: float = 0.05,
        silent: bool = True,
        filter_outlier_cells: bool = False,
        **kwargs,
    ) -> pd.DataFrame:
        """Genes that differ between groups of cells, with probabilities.

        Parameters
        ----------
        adata
            Cells; not changed.
        groupby
            Column of ``obs`` (labels, conditions, any other), or ``"component"`` for the model's
            most probable components, unless ``obs`` has a column of that name.
        group1, group2
            Groups to compare, as they stand in the column or as text: each of ``group1`` (one, or
            a list; default: all) with ``group2`` (default: the rest).
        idx1, idx2
            Instead of ``groupby``: row numbers, masks or queries of ``obs``; ``idx2=None``: the
            rest. A mask with cell names is put in the order of the cells.
        mode
            ``"change"`` (Boyeau et al. 2019: changes beyond ``delta``) or ``"vanilla"`` (Lopez et
            al. 2018).
        delta
            Smallest change that counts: of log2 proportions with count likelihoods, else of the
            decoded means, in units of the data.
        order
            ``"markers"``: within each comparison first the genes that are raised in ``group1`` and
            expressed by ``min_expressed`` of its cells, by the mean log fold change times the
            squared difference of the shares of cells that express them (of data that are never
            zero: by the change alone); then the others. ``"probability"``: by ``proba_de``
            (``bayes_factor``), as in scvi-tools. ``"auto"``: markers, in mode ``"change"`` with
            ``all_stats``.
        min_expressed
            Smallest share of the cells of ``group1`` that express a marker, in [0, 1].
        filter_outlier_cells
            Leave out cells whose latents lie far from those of their group.
        all_stats, batch_correction, batchid1, batchid2, fdr_target, silent, **kwargs
            As in :meth:`scvi.model.SCVI.differential_expression`.

        Returns
        -------
        DataFrame with a row for each gene and comparison: ``proba_de``, ``bayes_factor``,
        ``scale1``, ``scale2``, ``lfc_mean``, ``raw_mean1``, ... as in scvi-tools. ``scale*`` are
        decoded proportions with count likelihoods, else decoded means, and ``lfc_*`` are then
        their differences: natural log fold changes of data after ``log1p``. ``group1`` and
        ``group2`` are text.

        Raises
        ------
        KeyError
            If the column is missing.
        ValueError
            If a group is unknown or empty, or markers are asked for without what orders them.
        """
        arguments.check_choice("mode", mode, ("change", "vanilla"))
        order = _settled_order(order, min_expressed, mode == "change" and all_stats)
        for name in kwargs:
            if name not in _COMPARING:
                own = list(inspect.signature(ExpressionMixin.differential_expression).parameters)
                near = arguments.near_matches(name, [*own[1:-1], *_COMPARING])
                raise TypeError(f"differential_expression has no argument {name!r}. {near}")
        if (groupby is None) == (idx1 is None):
            raise ValueError(
                "Name either groupby (a column of obs, or 'component') or idx1 (cells)."
            )
        adata = self._validate_anndata(adata)
        is_count = self.module.likelihood.is_count
        if not is_count and mode == "change":
            # means of data that are logged or centred compare by their difference
            kwargs = {"change_fn": _difference, "pseudocounts": 0.0} | kwargs
        obs = adata.obs
        try:
            # scvi-tools writes helper columns into obs: into this copy, dropped again below
            adata.obs = obs.copy()
            if groupby is not None:
                group1, group2 = self._as_text(adata, groupby, group1, group2)
            found = _de_core(
                self.get_anndata_manager(adata, required=True),
                lambda *args, **options: self._sampled_scales(*args, batch_size, **options),
                self.get_latent_representation if filter_outlier_cells else None,
                groupby,
                group1,
                group2,
                in_order_of(adata.obs_names, idx1, "idx1"),
                in_order_of(adata.obs_names, idx2, "idx2"),
                all_stats,
                lambda manager, *groups: _group_means(manager, groups, is_count),
                adata.var_names,
                mode,
                batchid1,
                batchid2,
                delta,
                batch_correction,
                fdr_target,
                silent,
                **kwargs,
            )
        finally:
            adata.obs = obs
        if order == "probability":
            return found
        starts = range(0, len(found), adata.n_vars)
        parts = [found.iloc[start : start + adata.n_vars] for start in starts]
        return pd.concat([_markers_first(part, min_expressed) for part in parts])

    def _as_text(
        self, adata: AnnData, groupby: str, group1: Any, group2: Any
    ) -> tuple[list[str] | None, str | None]:
        """Write the groups as a column of text, whatever they were, and find those asked for."""
        if groupby == COMPONENT and COMPONENT not in adata.obs and hasattr(self, "n_components"):
            adata.obs[COMPONENT] = self.predict(adata)
        checks.check_key(adata, "obs", groupby, "groupby")
        column = adata.obs[groupby].astype("category").cat.remove_unused_categories()
        groups = column.cat.categories
        adata.obs[groupby] = column.cat.rename_categories([str(group) for group in groups])
        if group1 is not None:
            several = group1 if is_list_like(group1) else [group1]
            group1 = [_group_name(group, groups, groupby, "group1") for group in several]
        if group2 is not None:
            group2 = _group_name(group2, groups, groupby, "group2")
        return group1, group2

    def _sampled_scales(
        self,
        adata: AnnData,
        batch_size: int | None,
        *,
        indices: Sequence[int],
        transform_batch: str | None = None,
        n_samples_overall: int | None = None,
    ) -> np.ndarray:
        """Proportions or means ``(n, G)`` at draws of z, of cells drawn with replacement."""
        indices = self._check_indices(adata, indices)
        if n_samples_overall is not None:
            indices = np.random.choice(indices, n_samples_overall)
        return self.get_normalized_expression(
            adata,
            indices,
            transform_batch=transform_batch,
            give_mean=False,
            return_numpy=True,
            batch_size=batch_size,
        )


def _settled_order(order: str, min_expressed: float, can_order: bool) -> str:
    """The order by name, checked; ``can_order``: whether markers can be told."""
    arguments.check_choice("order", order, ("auto", "markers", "probability"))
    if not 0 <= min_expressed <= 1:
        raise ValueError(
            f"min_expressed must be a share from 0 to 1, but is {arguments.shown(min_expressed)}."
        )
    if order == "markers" and not can_order:
        raise ValueError(
            "order='markers' needs changes and shares of cells: mode='change' and all_stats=True."
        )
    return order if order != "auto" else ("markers" if can_order else "probability")


def _markers_first(found: pd.DataFrame, min_expressed: float) -> pd.DataFrame:
    """One comparison's genes, raised and expressed ones first; see ``order`` above."""
    shares, rest = found["non_zeros_proportion1"], found["non_zeros_proportion2"]
    change = found["lfc_mean"].to_numpy()
    # centred or scaled values are never zero
    weight = 1.0 if (shares == 1).all() and (rest == 1).all() else (shares - rest).to_numpy()
    is_marker = ((change > 0) & (shares >= min_expressed) & (weight > 0)).to_numpy()
    score = np.where(is_marker, change * weight**2, -np.inf)
    # stable: the others stay in the order of their probability
    return found.iloc[np.argsort(-score, kind="stable")]


def _difference(scales1: np.ndarray, scales2: np.ndarray, pseudocounts: float) -> np.ndarray:
    """Change of decoded means; its third argument is there because scvi-tools passes it."""
    return scales1 - scales2


def _group_name(group: Any, groups: pd.Index, groupby: str, argument: str) -> str:
    """Name of a group that is given by its value or its name."""
    if group in groups:
        return str(groups[groups.get_loc(group)])
    names = [str(known) for known in groups]
    if str(group) not in names:
        raise ValueError(
            f"{argument}={arguments.shown(group)} is no group of {groupby!r} with cells. "
            + arguments.near_matches(group, names)
        )
    return str(group)


def _group_means(
    manager: AnnDataManager, groups: tuple[np.ndarray, np.ndarray], is_count: bool
) -> dict[str, np.ndarray]:
    """Means ``(G,)`` of two groups of cells as scvi-tools names them, of any data type.

    Parameters
    ----------
    manager
        Of the cells.
    groups
        Masks ``(n_obs,)``.
    is_count
        Whether means of counts per 10,000 are given as well.
    """
    x = manager.get_from_registry(REGISTRY_KEYS.X_KEY)
    names = ["raw_mean", "non_zeros_proportion", *(["raw_normalized_mean"] if is_count else [])]
    means: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for group in groups:
        block = x[group]
        if sparse.issparse(block):
            block = distinct_entries(block)
        values = [block, block != 0]
        if is_count:
            share = sparse.diags_array(1e4 / row_sums(block).clip(1e-9))
            values.append(share @ block)
        for name, of_cells in zip(names, values, strict=True):
            mean = of_cells.mean(axis=0, dtype=np.float64)
            means[name].append(np.asarray(mean).ravel())
    return {f"{name}{i + 1}": means[name][i] for name in names for i in range(2)}
