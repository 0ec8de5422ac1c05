"""Registering an AnnData: which fields a model reads, and whether the data can serve them."""

from __future__ import annotations

from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data.fields import (
    CategoricalJointObsField,
    CategoricalObsField,
    LayerField,
    NumericalJointObsField,
    NumericalObsField,
)

from mixvi.core.data import checks
from mixvi.core.data.fields import QueryLabelsField, QuerySoftLabelsField
from mixvi.core.data.keys import CONDITION_KEY, SOFT_LABELS_KEY


def anndata_fields(args: dict) -> list:
    """The fields to register for the arguments of ``setup_anndata``."""
    if args["labels_key"] is None:
        labels_field = CategoricalObsField(REGISTRY_KEYS.LABELS_KEY, None)
    else:
        labels_field = QueryLabelsField(
            REGISTRY_KEYS.LABELS_KEY, args["labels_key"], args["unlabeled_category"]
        )
    fields = [
        LayerField(
            REGISTRY_KEYS.X_KEY, args["layer"], is_count_data=False, correct_data_format=False
        ),
        CategoricalObsField(REGISTRY_KEYS.BATCH_KEY, args["batch_key"]),
        labels_field,
        CategoricalObsField(CONDITION_KEY, args["condition_key"]),
        CategoricalJointObsField(REGISTRY_KEYS.CAT_COVS_KEY, args["categorical_covariate_keys"]),
        NumericalJointObsField(REGISTRY_KEYS.CONT_COVS_KEY, args["continuous_covariate_keys"]),
        NumericalObsField(REGISTRY_KEYS.SIZE_FACTOR_KEY, args["size_factor_key"], required=False),
    ]
    if args["soft_labels_key"] is not None:
        fields.append(QuerySoftLabelsField(SOFT_LABELS_KEY, args["soft_labels_key"]))
    return fields


def check_setup(
    class_name: str,
    needs_condition: bool,
    adata: AnnData,
    args: dict,
    source_registry: dict | None,
    new_batches: bool = False,
) -> None:
    """Raise before anything is registered if the AnnData cannot serve the model."""
    checks.check_not_empty(adata)
    layer = args["layer"]
    checks.check_key(adata, "layers", layer, "layer")
    is_query = source_registry is not None
    if needs_condition and args["condition_key"] is None:
        raise ValueError(
            f"{class_name} needs condition_key: the column of adata.obs with the condition, e.g. "
            f"{class_name}.setup_anndata(adata, condition_key='condition')."
        )
    if args["labels_key"] is not None and args["soft_labels_key"] is not None:
        raise ValueError("Pass labels_key or soft_labels_key, not both.")
    if not is_query:
        checks.check_categories(adata, args["labels_key"], "labels_key")
        checks.check_soft_labels(adata, args["soft_labels_key"])
        _check_not_all_unlabelled(adata, args["labels_key"], args["unlabeled_category"])
    for argument in ("condition_key", "batch_key"):
        checks.check_categories(adata, args[argument], argument)
    for key in args["categorical_covariate_keys"] or ():
        checks.check_categories(adata, key, "categorical_covariate_keys")
    for key in args["continuous_covariate_keys"] or ():
        checks.check_numbers(adata, key, "continuous_covariate_keys")
    checks.check_numbers(adata, args["size_factor_key"], "size_factor_key", positive=True)
    if is_query:
        _check_query(adata, args, source_registry, new_batches)
    checks.check_not_backed_view(adata)
    x = adata.X if layer is None else adata.layers[layer]
    checks.check_matrix(x, "adata.X" if layer is None else f"adata.layers[{layer!r}]")


def _check_not_all_unlabelled(adata: AnnData, key: str | None, unlabeled: str) -> None:
    if key is not None and not (adata.obs[key] != unlabeled).any():
        raise ValueError(
            f"Every cell of adata.obs[{key!r}] (labels_key) is {unlabeled!r}, the unlabelled "
            "category. Leave labels_key out to train without labels."
        )


def _check_query(adata: AnnData, args: dict, registry: dict, new_batches: bool) -> None:
    """Genes and categories of a query against a trained model's registry."""
    fields = registry["field_registries"]
    checks.check_genes(
        adata.var_names, fields[REGISTRY_KEYS.X_KEY]["state_registry"]["column_names"]
    )
    if args["condition_key"] is not None:
        known = fields[CONDITION_KEY]["state_registry"]["categorical_mapping"]
        checks.check_known_categories(
            adata, args["condition_key"], known, "condition_key", "Drop those cells or retrain."
        )
    if args["batch_key"] is not None and not new_batches:
        known = fields[REGISTRY_KEYS.BATCH_KEY]["state_registry"]["categorical_mapping"]
        checks.check_known_categories(
            adata, args["batch_key"], known, "batch_key", "New batches need load_query_data."
        )
    if args["categorical_covariate_keys"]:
        mappings = fields[REGISTRY_KEYS.CAT_COVS_KEY]["state_registry"]["mappings"]
        for key in args["categorical_covariate_keys"]:
            checks.check_known_categories(
                adata,
                key,
                mappings[key],
                "categorical_covariate_keys",
                "Drop those cells or retrain.",
            )
