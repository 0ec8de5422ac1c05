"""AnnData fields that scvi-tools does not have."""

from __future__ import annotations

import logging

import numpy as np
from anndata import AnnData
from scvi.data.fields import LabelsWithUnlabeledObsField

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
