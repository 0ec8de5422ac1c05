"""Registering an AnnData: which fields a model reads, and whether the data can serve them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.data._constants import _FIELD_REGISTRIES_KEY, _MANAGER_UUID_KEY
from scvi.data.fields import BaseAnnDataField, LayerField, NumericalJointObsField, NumericalObsField

from mixvi.core.data import checks
from mixvi.core.data.backed import is_backed
from mixvi.core.data.combinations import (
    Columns,
    check_combinations,
    columns_of,
    plain_columns,
    warn_combinations,
)
from mixvi.core.data.fields import (
    CategoriesField,
    CombinationsField,
    CovariatesField,
    QueryLabelsField,
    QuerySoftLabelsField,
)
from mixvi.core.data.keys import CONDITION_KEY, SOFT_LABELS_KEY

# arguments of setup_anndata that say how to register, not what
LOADING = ("source_registry", "extend_categories")


class Registration(AnnDataManager):
    """scvi-tools' manager that encodes by its own categories for good.

    scvi-tools' encodes once; if the columns change, or another model is set up on the same AnnData,
    codes are no longer those the model was built on.
    """

    def encode(self) -> None:
        """Encode the fields as they are now, by the categories of the first registration."""
        self._assert_anndata_registered()
        adata, self.adata = self.adata, None
        # fields replace their entries while they read those of the source
        ours = {_FIELD_REGISTRIES_KEY: dict(self._registry[_FIELD_REGISTRIES_KEY])}
        self.register_fields(adata, ours)

    def validate(self) -> None:
        """Encode anew if another model was set up or used on the AnnData since."""
        self._assert_anndata_registered()
        if self.adata.uns.get(_MANAGER_UUID_KEY) != self.id:
            self.encode()


def register(
    adata: AnnData,
    fields: Sequence[BaseAnnDataField],
    method_args: dict,
    source_registry: dict | None,
    extend_categories: bool = False,
) -> Registration:
    """Register fields; those of a trained model by its registry, with new batches on demand."""
    if adata.is_view:
        # assigning makes the view an AnnData of its own; its parent stays as it is
        adata.uns = dict(adata.uns)
    manager = Registration(fields=list(fields), setup_method_args=method_args)
    options = {} if source_registry is None else {"extend_categories": extend_categories}
    manager.register_fields(adata, source_registry, **options)
    return manager


def plain_arguments(args: dict[str, Any]) -> dict[str, Any]:
    """Arguments of ``setup_anndata`` as files can hold them: lists, and None for NaN."""
    args = dict(args)
    for name in ("categorical_covariate_keys", "continuous_covariate_keys"):
        if args[name] is not None and not isinstance(args[name], str):
            args[name] = list(args[name])
    args["condition_key"] = plain_columns(args["condition_key"])
    unlabelled = args["unlabeled_category"]
    if not pd.api.types.is_scalar(unlabelled):
        raise TypeError(f"unlabeled_category must be one value, but is {unlabelled!r}.")
    if pd.isna(unlabelled):
        args["unlabeled_category"] = None
    elif isinstance(unlabelled, np.generic):
        args["unlabeled_category"] = unlabelled.item()
    return args


def anndata_fields(args: dict) -> list[BaseAnnDataField]:
    """The fields to register for the arguments of ``setup_anndata``."""
    if args["labels_key"] is None:
        labels_field = CategoriesField(REGISTRY_KEYS.LABELS_KEY, None)
    else:
        labels_field = QueryLabelsField(
            REGISTRY_KEYS.LABELS_KEY, args["labels_key"], args["unlabeled_category"]
        )
    fields = [
        LayerField(
            REGISTRY_KEYS.X_KEY, args["layer"], is_count_data=False, correct_data_format=False
        ),
        CategoriesField(REGISTRY_KEYS.BATCH_KEY, args["batch_key"]),
        labels_field,
        _condition_field(args["condition_key"]),
        CovariatesField(REGISTRY_KEYS.CAT_COVS_KEY, args["categorical_covariate_keys"]),
        NumericalJointObsField(REGISTRY_KEYS.CONT_COVS_KEY, args["continuous_covariate_keys"]),
        NumericalObsField(REGISTRY_KEYS.SIZE_FACTOR_KEY, args["size_factor_key"], required=False),
    ]
    if args["soft_labels_key"] is not None:
        fields.append(QuerySoftLabelsField(SOFT_LABELS_KEY, args["soft_labels_key"]))
    return fields


def _condition_field(condition_key: Columns | None) -> BaseAnnDataField:
    if isinstance(condition_key, list):
        return CombinationsField(CONDITION_KEY, condition_key)
    return CategoriesField(CONDITION_KEY, condition_key)


def check_setup(
    class_name: str,
    needs_condition: bool,
    adata: AnnData,
    args: dict,
    source_registry: dict | None,
    new_batches: bool = False,
    is_known: bool = False,
) -> None:
    """Raise before anything is registered if the AnnData cannot serve the model.

    Parameters
    ----------
    class_name, needs_condition
        The model, and whether it is conditional.
    adata, args
        What ``setup_anndata`` was given.
    source_registry
        That of a trained model, of which the AnnData is a query.
    new_batches
        Whether batches may be unknown to it.
    is_known
        Whether the AnnData was checked before: a matrix on disk is then not read again.
    """
    checks.check_anndata(adata, class_name)
    checks.check_not_empty(adata)
    layer = args["layer"]
    checks.check_key(adata, "layers", layer, "layer")
    if needs_condition and args["condition_key"] is None:
        raise ValueError(
            f"{class_name} needs condition_key: the column of adata.obs with the condition, e.g. "
            f"{class_name}.setup_anndata(adata, condition_key='condition')."
        )
    if args["labels_key"] is not None and args["soft_labels_key"] is not None:
        raise ValueError("Pass labels_key or soft_labels_key, not both.")
    for name in ("categorical_covariate_keys", "continuous_covariate_keys"):
        checks.check_keys(adata, args[name], name)
    for key in args["continuous_covariate_keys"] or ():
        checks.check_numbers(adata, key, "continuous_covariate_keys")
    checks.check_numbers(adata, args["size_factor_key"], "size_factor_key", positive=True)
    if source_registry is None:
        _check_categories(adata, args)
    else:
        _check_query(adata, args, source_registry, new_batches)
    checks.check_not_backed_view(adata)
    x = adata.X if layer is None else adata.layers[layer]
    if not (is_known and is_backed(x)):
        checks.check_matrix(x, "adata.X" if layer is None else f"adata.layers[{layer!r}]")


def _nuisances(args: dict) -> list[tuple[str, str]]:
    """Arguments and columns of nuisance categories."""
    keys = [("batch_key", args["batch_key"])] if args["batch_key"] is not None else []
    named = args["categorical_covariate_keys"] or ()
    return keys + [("categorical_covariate_keys", key) for key in named]


def _checked_columns(adata: AnnData, condition_key: Columns | None) -> list[str]:
    """Columns of the condition; an error where several are none, or one is there twice."""
    if isinstance(condition_key, list):
        if not condition_key:
            raise ValueError(
                "condition_key is an empty list. Name columns of adata.obs, or leave it out."
            )
        checks.check_keys(adata, condition_key, "condition_key")
    return columns_of(condition_key)


def _check_categories(adata: AnnData, args: dict) -> None:
    """Labels, condition and nuisance categories of cells to train on."""
    checks.check_labels(adata, args["labels_key"], args["unlabeled_category"])
    checks.warn_single_labels(adata, args["labels_key"], args["unlabeled_category"])
    checks.warn_no_labels(adata, args["labels_key"], args["unlabeled_category"])
    checks.check_soft_labels(adata, args["soft_labels_key"])
    conditions = _checked_columns(adata, args["condition_key"])
    for key in conditions:
        checks.check_categories(adata, key, "condition_key")
    if len(conditions) > 1:
        check_combinations(adata, conditions)
    for argument, key in _nuisances(args):
        checks.check_categories(adata, key, argument)
        checks.warn_few_cells(adata, key, argument)
    for condition in conditions:
        checks.warn_few_cells(adata, condition, "condition_key")
        for argument, key in _nuisances(args):
            checks.warn_confounded(adata, condition, key, argument)
    if len(conditions) > 1:
        warn_combinations(adata, conditions)


def _check_query(adata: AnnData, args: dict, registry: dict, new_batches: bool) -> None:
    """Genes and categories of a query against a trained model's registry."""

    def state(key: str) -> dict:
        return registry["field_registries"][key]["state_registry"]

    checks.check_genes(adata.var_names, state(REGISTRY_KEYS.X_KEY)["column_names"])
    if args["labels_key"] in adata.obs:
        checks.check_key(adata, "obs", args["labels_key"], "labels_key")
        if new_batches:
            known = state(REGISTRY_KEYS.LABELS_KEY)["categorical_mapping"]
            checks.warn_unknown_labels(adata, args["labels_key"], args["unlabeled_category"], known)
    if args["soft_labels_key"] in adata.obsm:
        soft = state(SOFT_LABELS_KEY)
        columns = soft.get(QuerySoftLabelsField.SOURCE_COLUMNS_KEY, soft["column_names"])
        checks.check_soft_labels(adata, args["soft_labels_key"], columns)
    of_condition = state(CONDITION_KEY)
    for key in _checked_columns(adata, args["condition_key"]):
        # each column has its own where there are several
        known = of_condition.get("mappings", {}).get(key, of_condition["categorical_mapping"])
        checks.check_known_categories(
            adata, key, known, "condition_key", "Drop those cells or retrain."
        )
    if args["batch_key"] is not None:
        if new_batches:
            checks.check_categories(adata, args["batch_key"], "batch_key", whole_floats=True)
        else:
            known = state(REGISTRY_KEYS.BATCH_KEY)["categorical_mapping"]
            checks.check_known_categories(
                adata, args["batch_key"], known, "batch_key", "New batches need load_query_data."
            )
    for key in args["categorical_covariate_keys"] or ():
        checks.check_known_categories(
            adata,
            key,
            state(REGISTRY_KEYS.CAT_COVS_KEY)["mappings"][key],
            "categorical_covariate_keys",
            "Drop those cells or retrain.",
        )
