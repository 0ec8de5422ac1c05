"""Whether scores of strangeness tell the strange from the known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, roc_auc_score

from mixvi.core.data.alignment import in_order_of, names_of


def anomaly_scores(strange: Sequence, score: pd.Series | Sequence[float]) -> pd.Series:
    """Areas under both curves over all thresholds, in percent; the strange are the positive class.

    Chance is 50 for AUCROC, and the share of strange ones for AUCPR (Astorga 2021, section 9.2).

    Parameters
    ----------
    strange
        Bool ``(n_obs,)``: which objects are strange; a Series by the names of the scores.
    score
        Strangeness ``(n_obs,)``, higher is stranger, as ``model.get_anomaly_score()`` gives it.

    Returns
    -------
    Series of ``aucroc`` and ``aucpr``.

    Raises
    ------
    ValueError
        If lengths differ, objects are not of both kinds, or a score is missing.
    """
    strange = np.asarray(in_order_of(names_of(score), strange, "strange"))
    if len(strange) != len(score):
        raise ValueError(f"There are {len(score)} scores, but strange has {len(strange)} entries.")
    if strange.dtype != bool and not np.isin(strange, (0, 1)).all():
        raise ValueError("strange must be True or False of each object.")
    strange = strange.astype(bool)
    if strange.all() or not strange.any():
        raise ValueError(
            f"{int(strange.sum())} of {len(strange)} objects are strange: both kinds are needed."
        )
    values = np.asarray(score, dtype=np.float64)
    missing = ~np.isfinite(values)
    if missing.any():
        raise ValueError(f"{int(missing.sum())} scores are NaN or infinite.")
    areas = [roc_auc_score(strange, values), average_precision_score(strange, values)]
    return pd.Series(100.0 * np.array(areas), index=["aucroc", "aucpr"])
