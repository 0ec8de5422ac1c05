"""AnnData fields that scvi-tools does not have."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi.data.fields import LabelsWithUnlabeledObsField, ObsmField

logger = logging.getLogger(__name__)


class QueryLabelsField(LabelsWithUnlabeledObsField):
    """Labels of which a query may have none, or others than the reference.

    scvi-tools' field refuses unknown labels and writes a column of its own making into a query
    without labels. Labels are not needed to run a trained model, so here such cells count as
    unlabelled and the user's columns stay as they are.
    """

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs) -> dict:
        """Encode the target's labels with the source's codes."""
        mapping = np.asarray(state_registry[self.CATEGORICAL_MAPPING_KEY])
        codes = np.full(adata_target.n_obs, len(mapping) - 1, dtype=np.int64)
        if self._original_attr_key in adata_target.obs:
            labels = adata_target.obs[self._original_attr_key].to_numpy()
            known = {label: code for code, label in enumerate(mapping)}
            unlabelled = len(mapping) - 1
            codes = np.array([known.get(label, unlabelled) for label in labels], dtype=np.int64)
            unseen = sorted({str(label) for label in labels if label not in known})
            if unseen:
                logger.info(
                    "adata.obs[%r] has labels the model does not know (%s); their cells count as "
                    "unlabelled.",
                    self._original_attr_key,
                    ", ".join(unseen[:5]),
                )
        adata_target.obs[self.attr_key] = codes
        return {
            self.CATEGORICAL_MAPPING_KEY: mapping,
            self.ORIGINAL_ATTR_KEY: self._original_attr_key,
            self.UNLABELED_CATEGORY: self._unlabeled_category,
        }

    def validate_field(self, adata: AnnData) -> None:
        """Accept any AnnData: a query may lack the column."""


class QuerySoftLabelsField(ObsmField):
    """Label probabilities of which a query may have none: its cells count as unlabelled.

    The probabilities are kept as an array under a hidden key, so that the user's table stays as it
    is.
    """

    def __init__(self, registry_key: str, obsm_key: str):
        super().__init__(registry_key, f"_scvi_{registry_key}", correct_data_format=False)
        self._source_key = obsm_key

    def register_field(self, adata: AnnData) -> dict:
        """Copy the probabilities and remember the names of the classes."""
        values = adata.obsm[self._source_key]
        if isinstance(values, pd.DataFrame):
            names = [str(column) for column in values.columns]
        else:
            names = [str(i) for i in range(values.shape[1])]
        adata.obsm[self.attr_key] = np.asarray(values, dtype=np.float32)
        return {self.COLUMN_NAMES_KEY: names}

    def transfer_field(self, state_registry: dict, adata_target: AnnData, **kwargs) -> dict:
        """Take the target's probabilities if it has as many classes, else none."""
        names = list(state_registry[self.COLUMN_NAMES_KEY])
        values = np.zeros((adata_target.n_obs, len(names)), dtype=np.float32)
        if self._source_key in adata_target.obsm:
            found = np.asarray(adata_target.obsm[self._source_key], dtype=np.float32)
            if found.shape == values.shape:
                values = found
        adata_target.obsm[self.attr_key] = values
        return {self.COLUMN_NAMES_KEY: names}
