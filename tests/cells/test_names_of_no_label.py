"""Labels whose name says that there is none are told of, before they are learned."""

import numpy as np
import pytest

from mixvi import GMVAE
from mixvi.cells import join_studies


@pytest.mark.parametrize("name", ["unknown", "Unassigned", "nan", "None"])
def test_a_label_that_is_none(toy, name):
    toy.obs["shown"] = np.where(np.arange(toy.n_obs) % 2, toy.obs["cell_type"].astype(str), name)
    with pytest.warns(UserWarning, match=f"has '{name}' among its labels.*'Unknown'") as told:
        GMVAE.setup_anndata(toy, labels_key="shown")
    assert [warning.filename for warning in told] == [__file__]
    with pytest.warns(UserWarning, match=f"has '{name}' among its labels"):
        join_studies(toy, toy, "shown")


def test_named_as_such_it_is_none(toy, recwarn):
    toy.obs["shown"] = np.where(np.arange(toy.n_obs) % 2, toy.obs["cell_type"].astype(str), "nan")
    GMVAE.setup_anndata(toy, labels_key="shown", unlabeled_category="nan")
    toy.obs["shown"] = toy.obs["shown"].replace("nan", np.nan)
    GMVAE.setup_anndata(toy, labels_key="shown")
    assert not recwarn
