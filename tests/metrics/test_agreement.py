from __future__ import annotations

import numpy as np
import pytest
from codes_and_results import RESULTS

from mixvi import metrics


def test_agreement_and_variance_shares():
    table = metrics.rank_agreement(RESULTS, ["score", "reconstruction"])
    assert table.to_numpy() == pytest.approx(np.array([[1, -1], [-1, 1]]))
    shares = metrics.variance_shares(RESULTS, "score", ["method", "strength"])
    assert list(shares.index) == ["method", "strength", "rest"]
    assert shares.sum() == pytest.approx(1.0)
    # (0.25)^2 and (0.1)^2 and (0.05)^2 of each model
    assert list(shares) == pytest.approx(np.array([25, 4, 1]) / 30)
    with pytest.raises(ValueError, match="3 or more"):
        metrics.rank_agreement(RESULTS[:2], ["score", "reconstruction"])
    with pytest.raises(ValueError, match="the same for all models"):
        metrics.variance_shares(RESULTS, "constant", ["method"])


def test_models_without_a_score_or_a_strength():
    no_strength = RESULTS.astype({"strength": float})
    no_strength.loc[no_strength["method"] == "b", "strength"] = np.nan
    shares = metrics.variance_shares(no_strength, "score", ["method", "strength"])
    # half of what strengths explain is of the method that has some
    assert list(shares) == pytest.approx(np.array([25, 2, 3]) / 30)
    failed = RESULTS.astype({"method": "category"})
    failed["score"] = failed["score"].where(np.arange(len(failed)) > 0)
    expected = metrics.variance_shares(failed[1:], "score", ["method", "strength"])
    assert metrics.variance_shares(failed, "score", ["method", "strength"]).equals(expected)
