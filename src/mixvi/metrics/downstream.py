"""What few labels tell of factors: accuracy of a classifier on codes by the number of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mixvi.core.arguments import check_choice, check_positive
from mixvi.metrics.factors import Factors, read_factors

PROBES = ("gbt", "hist_gbt", "logistic")


@dataclass(frozen=True)
class DownstreamScore:
    """Test accuracy of classifiers of each factor.

    Attributes
    ----------
    accuracy
        By number of training rows (index) and factor (columns), and their mean in ``"mean"``.
    sample_efficiency
        Mean accuracy at 100 rows by that at the largest number; NaN without 100 rows. Of perfect
        codes of dSprites it is about 0.71 with gradient boosting, not 1.
    probe
        The classifier's name.
    """

    accuracy: pd.DataFrame
    sample_efficiency: float
    probe: str

    def __float__(self) -> float:
        return float(self.accuracy["mean"].iloc[-1])


def downstream_probe(
    codes,
    factors,
    *,
    sizes: Sequence[int] = (10, 100, 1_000, 10_000),
    n_test: int = 5_000,
    probe: str = "gbt",
    seed: int = 0,
) -> DownstreamScore:
    """Accuracy of a classifier of each factor by the number of labelled rows.

    Source: Mushom 2020, section 5.6. Factors may be anything that is known of rows: cell type,
    donor, treatment.

    Parameters
    ----------
    codes
        Posterior means, ``(n, D)``.
    factors
        See :func:`mixvi.metrics.factors.read_factors`.
    sizes
        Numbers of rows that train.
    n_test
        Rows that test, none of which trains.
    probe
        ``"gbt"``: gradient boosting with scikit-learn's defaults, as in the thesis, which takes
        minutes for 10,000 rows; ``"hist_gbt"``: the same by histograms; ``"logistic"``.
    seed
        Of the choice of rows and of the probe.

    Returns
    -------
    :class:`mixvi.metrics.DownstreamScore`.

    Raises
    ------
    ValueError
        If there are fewer rows than the largest size and the test need, or as
        :func:`mixvi.metrics.factors.read_factors`.
    """
    check_choice("probe", probe, PROBES)
    check_positive("n_test", n_test)
    sizes = sorted(set(sizes))
    for size in sizes:
        check_positive("sizes", size)
    if not sizes:
        raise ValueError("sizes is empty: pass one number of rows that train or more.")
    of = read_factors(codes, factors)
    if len(of.codes) < sizes[-1] + n_test:
        raise ValueError(
            f"{len(of.codes)} rows are too few for {sizes[-1]} that train and {n_test} that test. "
            "Pass smaller sizes or n_test."
        )
    order = np.random.default_rng(seed).permutation(len(of.codes))
    test, pool = order[:n_test], order[n_test:]
    rows = [
        [_accuracy(of, k, pool[:size], test, probe, seed) for k in range(len(of.names))]
        for size in sizes
    ]
    table = pd.DataFrame(rows, index=pd.Index(sizes, name="n_train"), columns=of.names)
    table["mean"] = table.mean(axis=1)
    efficiency = table["mean"].get(100, np.nan) / table["mean"].iloc[-1]
    return DownstreamScore(table, float(efficiency), probe)


def _accuracy(
    of: Factors, factor: int, train: np.ndarray, test: np.ndarray, probe: str, seed: int
) -> float:
    y = of.values[:, factor]
    if len(np.unique(y[train])) < 2:
        # ten rows may have one class alone
        return float((y[test] == y[train][0]).mean())
    made = {
        "gbt": lambda: GradientBoostingClassifier(random_state=seed),
        "hist_gbt": lambda: HistGradientBoostingClassifier(random_state=seed, early_stopping=False),
        "logistic": lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
    }[probe]()
    return float(made.fit(of.codes[train], y[train]).score(of.codes[test], y[test]))
