"""What a table of trained models says: whether metrics agree, and what decides scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from mixvi.core.arguments import near_matches

_FEWEST = 3


def rank_agreement(
    results: pd.DataFrame, rows: Sequence[str], columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """Spearman rank correlations between figures of trained models (Mushom 2020, section 5.5).

    Parameters
    ----------
    results
        One row a model.
    rows, columns
        Figures that are compared; ``columns=None``: the same. Supervised metrics against losses
        tell whether models can be chosen without factors.

    Returns
    -------
    DataFrame of rows by columns; NaN where a figure is constant.

    Raises
    ------
    KeyError
        If a figure is missing.
    ValueError
        If there are fewer than three models.
    """
    columns = list(rows) if columns is None else list(columns)
    check_columns(results, [*rows, *columns])
    found = pd.DataFrame(np.nan, index=list(rows), columns=columns)
    for a in rows:
        for b in columns:
            pair = results[[a, b]] if a != b else results[[a]]
            pair = pair.dropna()
            if len(pair) < _FEWEST:
                raise ValueError(
                    f"{len(pair)} models with {a!r} and {b!r} have no rank correlation: pass "
                    f"{_FEWEST} or more."
                )
            if pair.nunique().min() > 1:
                found.loc[a, b] = spearmanr(pair[a], pair[b]).statistic
    return found


def variance_shares(results: pd.DataFrame, score: str, by: Sequence[str]) -> pd.Series:
    """Shares of the variance of a score that each choice explains, one within the other.

    Sequential sums of squares: what the means of groups by the first choice explain, what groups by
    the second explain beyond, and so on; ``"rest"`` is what differs between seeds.

    Parameters
    ----------
    results
        One row a model; those without the score are left out.
    score
        Its figure.
    by
        Choices, outer first, such as ``["method", "strength"]``. NaN, of methods that have no
        strength, is a choice like others.

    Returns
    -------
    Shares by choice and ``"rest"``; they add up to 1.

    Raises
    ------
    KeyError
        If a column is missing.
    ValueError
        If the score does not vary.
    """
    check_columns(results, [score, *by])
    results = results.dropna(subset=score)
    values = results[score].astype(float)
    total = float(((values - values.mean()) ** 2).sum())
    if not total > 0:
        raise ValueError(f"{score!r} is the same for all models: there is no variance to share.")
    shares, explained = {}, 0.0
    for i, choice in enumerate(by, start=1):
        groups = values.groupby([results[name] for name in by[:i]], observed=True, dropna=False)
        means = groups.transform("mean")
        now = float(((means - values.mean()) ** 2).sum()) / total
        shares[choice] = now - explained
        explained = now
    return pd.Series(shares | {"rest": 1.0 - explained})


def check_columns(results: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raise KeyError unless all columns are there."""
    for name in columns:
        if name not in results:
            raise KeyError(
                f"results have no column {name!r}. {near_matches(name, results.columns)}"
            )
