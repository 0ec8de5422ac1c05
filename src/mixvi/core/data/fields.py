"""AnnData fields: columns of obs as codes, and what scvi-tools' own fields cannot do.

Categories are told apart by what they are called, not by their type: a query whose column holds
text, as a file gives it, fits a model that was trained on integers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi.data.fields import (
    CategoricalJointObsField,
    CategoricalObsField,
    LabelsWithUnlabeledObsField,
    ObsmField,
)


def name_of(value: Any) -> str:
    """What a category is called: 1, 1.0, np.int64(1) and "1" are one, and so is a day's midnight.

    Numbers with a fraction keep it; a combination of categories has their names, joined.
    """
    if isinstance(value, tuple):
        return " + ".join(map(name_of, value))
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    if isinstance(value, pd.Timestamp):
        return str(value).removesuffix(" 00:00:00")
    return str(value)


def plain(value: Any) -> str | int | bool:
    """A category as a value that files can hold: text, a whole number or a boolean."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, str | int):
        return value
    name = name_of(value)
    return int(name) if isinstance(value, float) and name.lstrip("-").isdigit() else name


def found_categories(column: pd.Series) -> tuple[np.ndarray, list]:
    """Codes ``(n_obs,)`` of a column, -1 where a value is missing, and its categories in order.

    Categories without cells are left out; others than text, whole numbers and booleans are given by
    their names.
    """
    if not isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype("category")
    codes, categories = column.cat.codes.to_numpy(np.int64), column.cat.categories
    # every verb encodes: pandas' remove_unused_categories sorts all codes to find these
    used = np.bincount(codes + 1, minlength=len(categories) + 1)[1:] > 0
    # the last entry is for missing values, whose code is -1
    codes = np.append(used.cumsum() - 1, -1)[codes]
    return codes, [plain(value) for value in categories[used]]


def encode(column: pd.Series, categories: Sequence) -> np.ndarray:
    """Codes ``(n_obs,)`` of a column by the names of given categories; -1 for others."""
    codes, found = found_categories(column)
    positions = {name_of(category): i for i, category in enumerate(categories)}
    # the last entry is for missing values, whose code is -1
    known = np.array([*(positions.get(name_of(category), -1) for category in found), -1])
    return known[codes]


def labelled_cells(column: pd.Series, unlabeled_category: Any) -> np.ndarray:
    """Mask ``(n_obs,)`` of the cells with a label; missing values are none."""
    codes, found = found_categories(column)
    known = [name_of(category) != name_of(unlabeled_category) for category in found]
    return np.array([*known, False])[codes]


def unknown_labels(column: pd.Series, unlabeled_category: Any, known: Sequence) -> list[str]:
    """Names of the labels in a column that are none of the known ones."""
    names = {name_of(label) for label in (*known, unlabeled_category)}
    return [name for name in map(name_of, found_categories(column)[1]) if name not in names]


def plain_labels(column: pd.Series) -> pd.Series:
    """A column without missing values, its categories as :func:`plain` values."""
    codes, found = found_categories(column)
    return pd.Series(np.array([*found, None], dtype=object)[codes], column.index).infer_objects()


def _as_mapping(categories: Sequence) -> np.ndarray:
    mapping = np.empty(len(categories), dtype=object)
    mapping[:] = categories
    return mapping


class CategoriesField(CategoricalObsField):
    """A column of obs as codes of the categories that have cells."""

    def register_field(self, adata: AnnData) -> dict:
        """Encode the column by its own categories."""
        if self.is_default:
            self._setup_default_attr(adata)
        self.validate_field(adata)
        codes, found = found_categories(adata.obs[self._original_attr_key])
        return self._written(adata, codes, found)

    def transfer_field(
        self,
        state_registry: dict,
        adata_target: AnnData,
        extend_categories: bool = False,
        **kwargs,
    ) -> dict:
        """Encode the target's column by the source's categories, and others behind them."""
        categories = list(state_registry[self.CATEGORICAL_MAPPING_KEY])
        if self.is_default:
            self._setup_default_attr(adata_target)
            codes = np.zeros(adata_target.n_obs, dtype=np.int64)
            return self._written(adata_target, codes, categories)
        self.validate_field(adata_target)
        column = adata_target.obs[self._original_attr_key]
        if extend_categories:
            known = {name_of(category) for category in categories}
            categories += [c for c in found_categories(column)[1] if name_of(c) not in known]
        return self._written(adata_target, encode(column, categories), categories)

    def get_summary_stats(self, state_registry: dict) -> dict:
        """Number of categories."""
        return {self.count_stat_key: len(state_registry[self.CATEGORICAL_MAPPING_KEY])}

    def _written(self, adata: AnnData, codes: np.ndarray, categories: Sequence) -> dict:
        adata.obs[self.attr_key] = codes
        return {
            self.CATEGORICAL_MAPPING_KEY: _as_mapping(categories),
            self.ORIGINAL_ATTR_KEY: self._original_attr_key,
        }


class CombinationsField(CategoriesField):
    """Several columns of obs as one code, of every combination of their categories, seen or not.

    Codes count through the last column's categories first.
    """

    MAPPINGS_KEY = "mappings"

    def __init__(self, registry_key: str, keys: Sequence[str]):
        super().__init__(registry_key, name_of(tuple(keys)))
        self._keys = list(keys)

    def validate_field(self, adata: AnnData) -> None:
        """Accept columns that were checked before."""

    def register_field(self, adata: AnnData) -> dict:
        """Encode the combinations of the columns' own categories."""
        return self._of_columns(
            adata, {key: found_categories(adata.obs[key])[1] for key in self._keys}
        )

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs) -> dict:
        """Encode the target's columns by the source's categories."""
        return self._of_columns(adata_target, state_registry[self.MAPPINGS_KEY])

    def _of_columns(self, adata: AnnData, mappings: dict[str, Sequence]) -> dict:
        found = [list(mappings[key]) for key in self._keys]
        columns = [encode(adata.obs[key], own) for key, own in zip(self._keys, found, strict=True)]
        codes = np.ravel_multi_index(columns, [len(own) for own in found])
        names = [name_of(own) for own in product(*found)]
        kept = {key: _as_mapping(own) for key, own in zip(self._keys, found, strict=True)}
        return self._written(adata, codes, names) | {self.MAPPINGS_KEY: kept}


class CovariatesField(CategoricalJointObsField):
    """Several columns of obs as codes of the categories that have cells."""

    def register_field(self, adata: AnnData) -> dict:
        """Encode each column by its own categories."""
        self.validate_field(adata)
        mappings = {key: found_categories(adata.obs[key])[1] for key in self.attr_keys}
        return self._written(adata, mappings)

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs) -> dict:
        """Encode the target's columns by the source's categories."""
        self.validate_field(adata_target)
        return self._written(adata_target, state_registry[self.MAPPINGS_KEY])

    def _written(self, adata: AnnData, mappings: dict[str, Sequence]) -> dict:
        codes = {key: encode(adata.obs[key], mappings[key]) for key in self.attr_keys}
        adata.obsm[self.attr_key] = pd.DataFrame(codes, index=adata.obs_names)
        return {
            self.MAPPINGS_KEY: {key: _as_mapping(mappings[key]) for key in self.attr_keys},
            self.FIELD_KEYS_KEY: self.attr_keys,
            self.N_CATS_PER_KEY: [len(mappings[key]) for key in self.attr_keys],
        }


class QueryLabelsField(LabelsWithUnlabeledObsField):
    """Labels of which cells may have none, and a query none or others than the reference.

    scvi-tools' field knows unlabelled cells by text alone, refuses unknown labels and writes a
    column of its own making into a query without labels. Here cells with a missing value, the
    unlabelled category or an unknown label count as unlabelled, and the user's columns stay as they
    are. Codes are those of the labels in order; the unlabelled category comes last.
    """

    def register_field(self, adata: AnnData) -> dict:
        """Encode the labels that have cells."""
        found = found_categories(adata.obs[self._original_attr_key])[1]
        unlabelled = name_of(self._unlabeled_category)
        return self._written(adata, [label for label in found if name_of(label) != unlabelled])

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs) -> dict:
        """Encode the target's labels with the source's codes."""
        return self._written(adata_target, list(state_registry[self.CATEGORICAL_MAPPING_KEY][:-1]))

    def validate_field(self, adata: AnnData) -> None:
        """Accept any AnnData: a query may lack the column."""

    def get_summary_stats(self, state_registry: dict) -> dict:
        """Number of labels and the unlabelled category."""
        return {self.count_stat_key: len(state_registry[self.CATEGORICAL_MAPPING_KEY])}

    def _written(self, adata: AnnData, labels: list) -> dict:
        codes = np.full(adata.n_obs, -1)
        if self._original_attr_key in adata.obs:
            codes = encode(adata.obs[self._original_attr_key], labels)
        adata.obs[self.attr_key] = np.where(codes < 0, len(labels), codes)
        return {
            self.CATEGORICAL_MAPPING_KEY: _as_mapping([*labels, self._unlabeled_category]),
            self.ORIGINAL_ATTR_KEY: self._original_attr_key,
            self.UNLABELED_CATEGORY: self._unlabeled_category,
        }


class QuerySoftLabelsField(ObsmField):
    """Label probabilities of which a query may have none: its cells count as unlabelled.

    Columns are found by the names of the classes. The probabilities are kept as an array under a
    hidden key, so that the user's table stays as it is.
    """

    SOURCE_COLUMNS_KEY = "source_columns"

    def __init__(self, registry_key: str, obsm_key: str):
        super().__init__(registry_key, f"_scvi_{registry_key}", correct_data_format=False)
        self._source_key = obsm_key

    def register_field(self, adata: AnnData) -> dict:
        """Copy the probabilities of the classes that have any, and remember their names."""
        table = soft_table(adata.obsm[self._source_key])
        kept = table.loc[:, (table > 0).any()]
        adata.obsm[self.attr_key] = kept.to_numpy()
        return {
            self.COLUMN_NAMES_KEY: list(kept.columns),
            self.SOURCE_COLUMNS_KEY: list(table.columns),
        }

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs) -> dict:
        """Take the target's probabilities of the source's classes.

        Cells with at least half of their probability on other classes count as unlabelled.
        """
        names = list(state_registry[self.COLUMN_NAMES_KEY])
        source = list(state_registry.get(self.SOURCE_COLUMNS_KEY, names))
        values = np.zeros((adata_target.n_obs, len(names)), dtype=np.float32)
        if self._source_key in adata_target.obsm:
            table = soft_table(adata_target.obsm[self._source_key], source)
            values = table.reindex(columns=names, fill_value=0.0).to_numpy()
            known = values.sum(axis=1, keepdims=True)
            values = np.where(known > 0.5, values / known.clip(0.5), 0.0).astype(np.float32)
        adata_target.obsm[self.attr_key] = values
        return {self.COLUMN_NAMES_KEY: names, self.SOURCE_COLUMNS_KEY: source}


class ArrayField(ObsmField):
    """An array ``(n, ...)`` of obsm as it is, and what is known of it."""

    def __init__(self, registry_key: str, attr_key: str, known: dict[str, Any] | None = None):
        super().__init__(registry_key, attr_key, correct_data_format=False)
        self._known = known or {}

    def register_field(self, adata: AnnData) -> dict:
        """Number the second axis, as scvi-tools does columns."""
        self.validate_field(adata)
        return {self.COLUMN_NAMES_KEY: np.arange(adata.obsm[self.attr_key].shape[1]), **self._known}

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs) -> dict:
        """Keep what is known of the first."""
        found = self.register_field(adata_target)
        return state_registry | {self.COLUMN_NAMES_KEY: found[self.COLUMN_NAMES_KEY]}


class DerivedField(ArrayField):
    """An array that is made of the registered ones, anew at every use."""

    def __init__(self, registry_key: str, made: Callable[[AnnData], np.ndarray]):
        super().__init__(registry_key, f"_scvi_{registry_key}")
        self._made = made

    def register_field(self, adata: AnnData) -> dict:
        """Write it beside the others."""
        adata.obsm[self.attr_key] = self._made(adata)
        return super().register_field(adata)


def soft_table(values: pd.DataFrame | np.ndarray, names: Sequence[str] | None = None):
    """Probabilities ``(n_obs, n_classes)`` with the classes' names as columns.

    An array has the names given, or numbers for names.
    """
    if isinstance(values, pd.DataFrame):
        columns = [name_of(column) for column in values.columns]
    else:
        columns = list(names) if names is not None else [str(i) for i in range(values.shape[1])]
    return pd.DataFrame(np.asarray(values, dtype=np.float32), columns=columns)
