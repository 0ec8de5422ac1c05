"""Registering cells: what a model of expression reads of an AnnData, and whether it can."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Hashable
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data.fields import BaseAnnDataField

from mixvi.core import arguments
from mixvi.core.data import checks
from mixvi.core.data.genes import with_genes
from mixvi.core.data.keys import PREDICTION_KEY, SOFT_LABELS_KEY
from mixvi.core.data.setup import (
    LOADING,
    anndata_fields,
    check_setup,
    plain_arguments,
    register,
)
from mixvi.core.data.support import holds_counts, support_of
from mixvi.core.model.conditions import ConditionsMixin
from mixvi.core.model.saved_model import SavedModelMixin

# that of scvi.settings.verbosity
_LOGGER = logging.getLogger("scvi")
# warnings name the user's line, however deep they come from: torch wraps verbs, too
_INSIDE = str(Path(__file__).parents[2]), str(Path(torch.__file__).parent)


class RegisteringMixin(ConditionsMixin):
    """``setup_anndata`` and ``prepare_query_anndata``, and what was registered."""

    _needs_condition: ClassVar[bool] = False
    _told_of_fractions = False
    _told_of_counts = False
    _told_of_negatives = False

    @classmethod
    @arguments.told_by_class
    def setup_anndata(
        cls,
        adata: AnnData,
        *,
        layer: str | None = None,
        labels_key: str | None = None,
        unlabeled_category: Hashable = "Unknown",
        soft_labels_key: str | None = None,
        condition_key: str | list[str] | None = None,
        batch_key: str | None = None,
        categorical_covariate_keys: list[str] | None = None,
        continuous_covariate_keys: list[str] | None = None,
        size_factor_key: str | None = None,
        source_registry: dict | None = None,
        extend_categories: bool = False,
    ) -> None:
        """Register the fields of an AnnData that the model reads.

        Categories without cells are left out.

        Parameters
        ----------
        adata
            Cells by genes. Only ``_scvi_*`` columns and keys are added to it.
        layer
            Layer with the expression matrix ``(n_obs, n_vars)``; ``None`` for ``X``. Raw counts for
            count likelihoods, otherwise the scale you want the model to see.
        labels_key
            Column of ``obs`` with known labels: text, whole numbers or booleans.
        unlabeled_category
            The value in ``labels_key`` of cells without a label; missing values mean the same.
        soft_labels_key
            Key of ``obsm`` with label probabilities ``(n_obs, n_classes)``; rows of zeros are
            unlabelled. Given instead of ``labels_key``. A query's columns are found by their names.
        condition_key
            Column of ``obs`` with the condition that counterfactuals flip (e.g. treatment), or a
            list of columns (e.g. treatment and time): networks then see each one's categories side
            by side, and cells are grouped by their combinations, at most 1,000.
        batch_key
            Column of ``obs`` with the nuisance batch.
        categorical_covariate_keys, continuous_covariate_keys
            Further nuisance columns of ``obs``.
        size_factor_key
            Column of ``obs`` with a positive factor that replaces the library size in count
            likelihoods. Rates are the factor times a softplus, as in scvi-tools, so that its unit
            does not matter: decoded expression is then at a factor of one and sums to any total.
        source_registry, extend_categories
            The registry of a trained model, and whether batches may be new to it; given when a
            model is loaded.

        Raises
        ------
        KeyError
            If a key is missing (near matches are named).
        TypeError
            If ``adata`` is no AnnData, or a key or the matrix is of a kind that cannot be read.
        ValueError
            If the data are empty or not finite, a column is not usable, or a category is unseen.

        Warns
        -----
        UserWarning
            If a batch, covariate category or condition has fewer than 3 cells, no batch links some
            conditions with the others (they are confounded), or, of several condition columns, a
            combination has fewer than 5 cells or they are confounded.
        """
        given = {name: value for name, value in locals().items() if name not in LOADING}
        method_args = cls._get_setup_method_args(**given)
        args = method_args["setup_args"] = plain_arguments(method_args["setup_args"])
        check_setup(
            cls.__name__, cls._needs_condition, adata, args, source_registry, extend_categories
        )
        fields = cls._fields(args)
        manager = register(adata, fields, method_args, source_registry, extend_categories)
        cls.register_manager(manager)

    @staticmethod
    def prepare_query_anndata(
        adata: AnnData,
        reference_model: str | Path | RegisteringMixin,
        return_reference_var_names: bool = False,
        inplace: bool = True,
        *,
        min_overlap: float = 0.8,
    ) -> AnnData | pd.Index | None:
        """Bring cells onto the genes of a model: in its order, zeros where a gene is missing.

        Genes are found by ``adata.var_names``, or by the column of ``adata.var``, or of the
        reference's, under which more of them are found, such as Ensembl identifiers beside symbols
        (versions do not count). They are named as the model's then.

        Parameters
        ----------
        adata
            Cells, before they go to :meth:`load_query_data` or into a verb of the model.
        reference_model
            A model, or the directory it was saved in (which knows no columns of ``var``).
        return_reference_var_names
            Only return the names of the model's genes.
        inplace
            Whether ``adata`` is changed, or a new AnnData returned.
        min_overlap
            Smallest share of the model's genes that ``adata`` must have.

        Returns
        -------
        None; the new AnnData with ``inplace=False``; or the names, ``(G,)``.

        Raises
        ------
        ValueError
            If fewer genes overlap, names repeat, or the data are on disk.

        Warns
        -----
        UserWarning
            If genes were missing: how many, and which share.
        """
        arguments.check_positive("min_overlap", min_overlap, integer=False)
        var = None
        if isinstance(reference_model, RegisteringMixin):
            names = reference_model.var_names
            if reference_model.adata is not None:
                var = reference_model.adata.var
        else:
            registry = SavedModelMixin.load_registry(reference_model)
            state = registry["field_registries"][REGISTRY_KEYS.X_KEY]["state_registry"]
            names = pd.Index(state["column_names"])
        if return_reference_var_names:
            return names
        prepared = with_genes(adata, names, min_overlap, var)
        if not inplace:
            return prepared
        adata._init_as_actual(prepared)
        return None

    @staticmethod
    def _fields(args: dict) -> list[BaseAnnDataField]:
        return anndata_fields(args)

    def _module_sizes(self) -> dict[str, Any]:
        """Sizes that every module takes from the registry."""
        stats = self.summary_stats
        cat_covs = self._state(REGISTRY_KEYS.CAT_COVS_KEY)
        return {
            "n_input": stats["n_vars"],
            "n_classes": len(self.classes),
            "n_conditions": self._condition_sizes,
            "n_batch": stats["n_batch"],
            "n_cats_per_cov": tuple(cat_covs["n_cats_per_key"]) if cat_covs else (),
            "n_continuous_cov": stats.get("n_extra_continuous_covs", 0),
            "has_size_factor": self._setup_args["size_factor_key"] is not None,
        }

    @property
    def _x_name(self) -> str:
        layer = self._setup_args["layer"]
        return "adata.X" if layer is None else f"adata.layers[{layer!r}]"

    @property
    def var_names(self) -> pd.Index:
        """Genes the model reads, in order."""
        return pd.Index(self._state(REGISTRY_KEYS.X_KEY)["column_names"])

    @property
    def classes(self) -> list:
        """Known labels, in the order of their codes; empty without labels."""
        if self._setup_args["soft_labels_key"] is not None:
            return list(self._state(SOFT_LABELS_KEY)["column_names"])
        if self._setup_args["labels_key"] is None:
            return []
        return self._categories(REGISTRY_KEYS.LABELS_KEY)[:-1]

    @property
    def batches(self) -> list:
        """Known batches, in the order of their codes."""
        return self._categories(REGISTRY_KEYS.BATCH_KEY)

    def _matrix(self, adata: AnnData) -> Any:
        layer = self._setup_args["layer"]
        return adata.X if layer is None else adata.layers[layer]

    def _settled_likelihood(self, likelihood: str, otherwise: str = "gaussian") -> str:
        """Name of the likelihood; ``"auto"`` is ``"nb"`` for raw counts, else ``otherwise``."""
        if likelihood != "auto":
            return likelihood
        if self.adata is None:
            raise ValueError(
                "likelihood='auto' follows the data, but there are none. Name it, such as "
                "likelihood='nb' for raw counts."
            )
        if not holds_counts(self._matrix(self.adata)):
            return otherwise
        _LOGGER.info(
            f"{self._x_name} holds whole numbers alone, as raw counts are: likelihood='nb'."
        )
        return "nb"

    def _check_data(self, adata: AnnData) -> None:
        """Raise if the matrix is not in the support of the likelihood; warn once of fractions."""
        x, likelihood = self._matrix(adata), self.module.likelihood
        whole = checks.check_support(x, self._x_name, likelihood.name, likelihood.is_count)
        # the mean of predicted counts is no whole number
        expected = PREDICTION_KEY not in adata.uns and not self._told_of_fractions
        if expected and not whole:
            warnings.warn(self._advice_on_fractions(), UserWarning, skip_file_prefixes=_INSIDE)
            self._told_of_fractions = True
        if likelihood.is_count and self._setup_args["size_factor_key"] is None:
            checks.check_library(x, self._x_name, likelihood.name)
        told = self._told_of_counts or PREDICTION_KEY in adata.uns
        if not (told or likelihood.is_count) and holds_counts(x):
            self._told_of_counts = True
            warnings.warn(self._advice_on_counts(), UserWarning, skip_file_prefixes=_INSIDE)
        if not told and self.is_trained_ and self.support_ == "non-negative":
            self._warn_of_negatives(x)

    def _warn_of_negatives(self, x: Any) -> None:
        """Warn once of negative values where the training cells had none."""
        if self._told_of_negatives or support_of(x) != "real":
            return
        self._told_of_negatives = True
        warnings.warn(
            f"{self._x_name} has negative values, as scaled genes have, but those that the model "
            "was trained on had none. Give it cells on the scale of its training cells.",
            UserWarning,
            skip_file_prefixes=_INSIDE,
        )

    def _advice_on_fractions(self) -> str:
        """What to write where a likelihood of counts meets other values."""
        found = f"{self._x_name} has values that are not whole numbers, but "
        if self.is_trained_ and self.support_ == "count":
            return (
                f"{found}the model was trained on raw counts. Put the counts of these cells there: "
                "of other values its answers mean little."
            )
        return (
            f"{found}likelihood={self.module.likelihood.name!r} expects raw counts. They are taken "
            "as they are; pass layer=... if the counts are in a layer."
        )

    def _advice_on_counts(self) -> str:
        """What to write where whole numbers meet a likelihood that is not of counts."""
        likelihood = self.module.likelihood.name
        found = f"{self._x_name} holds whole numbers alone, as raw counts are, but "
        if self.is_trained_ and self.support_ not in (None, "count"):
            return (
                f"{found}the model was trained on other values. Give it cells on the scale of its "
                "training cells, such as after the same sc.pp.normalize_total and sc.pp.log1p."
            )
        return (
            f"{found}likelihood={likelihood!r} is for values such as logarithms. For counts write "
            f"{type(self).__name__}(adata, likelihood='nb', ...); or first normalise them: "
            "sc.pp.normalize_total(adata); sc.pp.log1p(adata)."
        )

    def _check_registered(self, adata: AnnData, is_known: bool) -> None:
        """Raise if genes or categories of an AnnData are not the model's."""
        check_setup(
            type(self).__name__,
            self._needs_condition,
            adata,
            self._setup_args,
            self.registry,
            is_known=is_known,
        )
