"""What an evaluation takes from training cells."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from mixvi.cells import training_reference


@pytest.mark.parametrize("kind", [int, "category", str])
def test_conditions_may_be_numbers(kind):
    rng = np.random.default_rng(0)
    hours = np.repeat([0, 2, 6], 20)
    x = rng.normal(0, 0.1, (60, 5)) - 1
    x[hours == 6, 3] += 2
    obs = pd.DataFrame({"type": ["a", "b"] * 30, "hours": pd.Series(hours).astype(kind)})
    train = AnnData(x, obs=obs.set_axis([f"c{i}" for i in range(60)]))
    found = training_reference(train, groupby="type", condition_key="hours", control=0, to=6)
    assert found.mean_change.round().tolist() == [0, 0, 0, 2, 0]
    assert found.top_genes("a", 1) == [train.var_names[3]]
    by_condition = training_reference(train, groupby="hours", condition_key="hours", control=0)
    assert list(by_condition.de_scores.index) == ["2", "6"]
    with pytest.raises(ValueError, match="to='7' is no condition"):
        training_reference(train, groupby="type", condition_key="hours", control=0, to=7)
