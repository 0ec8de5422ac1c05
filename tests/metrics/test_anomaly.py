from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mixvi.metrics import anomaly_scores


def test_areas_are_those_counted_by_hand():
    score, strange = [0.1, 0.4, 0.35, 0.8], [False, False, True, True]
    found = anomaly_scores(strange, score)
    # three of four pairs are in order; precision is 1 and then 2 / 3
    np.testing.assert_allclose(found, [75.0, 50 * (1 + 2 / 3)])
    assert found.index.tolist() == ["aucroc", "aucpr"]


def test_names_decide_which_score_is_whose():
    score = pd.Series([3.0, 1.0, 2.0], index=["a", "b", "c"])
    strange = pd.Series([False, False, True], index=["b", "c", "a"])
    assert anomaly_scores(strange, score)["aucroc"] == 100.0


@pytest.mark.parametrize(
    ("strange", "score", "message"),
    [
        ([True, False], [1.0], "1 scores, but strange has 2"),
        ([False, False], [1.0, 2.0], "0 of 2 objects are strange"),
        ([True, False], [np.nan, 2.0], "1 scores are NaN"),
        (["yes", "no"], [1.0, 2.0], "True or False"),
    ],
)
def test_what_has_no_area_is_refused(strange, score, message):
    with pytest.raises(ValueError, match=message):
        anomaly_scores(strange, score)
