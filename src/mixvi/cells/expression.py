"""Differential expression of the count models, on scvi-tools' machinery."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi.model._utils import scrna_raw_counts_properties
from scvi.model.base._de_core import _de_core

from mixvi.core import arguments
from mixvi.core.data import checks

COMPONENT = "component"


class ExpressionMixin:
    """``differential_expression`` of models with count likelihoods."""

    def differential_expression(
        self,
        adata: AnnData | None = None,
        groupby: str | None = None,
        group1: str | Sequence[str] | None = None,
        group2: str | None = None,
        idx1: Sequence[int] | Sequence[bool] | str | None = None,
        idx2: Sequence[int] | Sequence[bool] | str | None = None,
        *,
        mode: str = "change",
        delta: float = 0.25,
        batch_size: int | None = None,
        all_stats: bool = True,
        batch_correction: bool = False,
        batchid1: Sequence[str] | None = None,
        batchid2: Sequence[str] | None = None,
        fdr_target: float = 0.05,
        silent: bool = True,
        **kwargs,
    ) -> pd.DataFrame:
        """Genes that differ between groups of cells, with probabilities.

        Parameters
        ----------
        adata
            Cells; not changed.
        groupby
            Column of ``obs`` (labels, conditions, any other), or ``"component"`` for the model's
            most probable components, numbered as text.
        group1, group2
            Groups to compare: each of ``group1`` (default: all) with ``group2`` (default: the
            rest).
        idx1, idx2
            Instead of ``groupby``: row numbers, masks or queries of ``obs``; ``idx2=None``: the
            rest.
        mode
            ``"change"`` (Boyeau et al. 2019: log fold changes beyond ``delta``) or ``"vanilla"``
            (Lopez et al. 2018).
        delta, all_stats, batch_correction, batchid1, batchid2, fdr_target, silent, **kwargs
            As in :meth:`scvi.model.SCVI.differential_expression`.

        Returns
        -------
        DataFrame with a row for each gene and comparison: ``proba_de``, ``bayes_factor``,
        ``scale1``, ``scale2``, ``lfc_mean``, ``raw_mean1``, ... as in scvi-tools.

        Raises
        ------
        KeyError
            If the column is missing.
        ValueError
            If the likelihood has no normalised scale, or a group is unknown or empty.
        """
        if not self.module.likelihood.is_count:
            raise ValueError(
                f"differential_expression needs likelihood='nb', 'zinb' or 'poisson', whose "
                f"proportions compare, but the model has {self.module.likelihood.name!r}."
            )
        arguments.check_choice("mode", mode, ("change", "vanilla"))
        if (groupby is None) == (idx1 is None):
            raise ValueError(
                "Name either groupby (a column of obs, or 'component') or idx1 (cells)."
            )
        adata = self._validate_anndata(adata)
        obs = adata.obs
        try:
            # scvi-tools writes helper columns into obs: into this copy, dropped again below
            adata.obs = obs.copy()
            if groupby is not None:
                groupby = self._grouped(adata, groupby, group1, group2)
            return _de_core(
                self.get_anndata_manager(adata, required=True),
                lambda *args, **options: self._sampled_scales(*args, batch_size, **options),
                None,
                groupby,
                [group1] if isinstance(group1, str) else group1,
                group2,
                idx1,
                idx2,
                all_stats,
                scrna_raw_counts_properties,
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

    def _grouped(
        self, adata: AnnData, groupby: str, group1: str | Sequence[str] | None, group2: str | None
    ) -> str:
        """Write components as a column where they are asked for, and check the groups' names."""
        if groupby == COMPONENT and COMPONENT not in adata.obs and hasattr(self, "n_components"):
            found = self.predict(adata).astype(str).astype("category")
            adata.obs[COMPONENT] = found
        checks.check_key(adata, "obs", groupby, "groupby")
        known = list(
            adata.obs[groupby].astype("category").cat.remove_unused_categories().cat.categories
        )
        asked = [group1] if isinstance(group1, str) else list(group1 or [])
        for argument, names in (("group1", asked), ("group2", [group2] if group2 else [])):
            for name in names:
                if str(name) not in known:
                    raise ValueError(
                        f"{argument}={name!r} is no group of {groupby!r} with cells. "
                        + arguments.near_matches(name, known)
                    )
        return groupby

    def _sampled_scales(
        self,
        adata: AnnData,
        batch_size: int | None,
        *,
        indices: Sequence[int],
        transform_batch: str | None = None,
        n_samples_overall: int | None = None,
    ) -> np.ndarray:
        """Proportions ``(n, G)`` at draws of z, of cells drawn with replacement."""
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
