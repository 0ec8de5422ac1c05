"""Scores by what predicts factors from codes: SAP and DCI."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.svm import LinearSVC

from mixvi.core.arguments import check_choice, check_share, near_matches
from mixvi.metrics.factors import NO_ACTIVE, Factors, FactorScore, entropy, read_factors

_LEAST_ROWS = 10


def sap(
    codes,
    factors,
    *,
    categorical: Sequence[str] | None = None,
    test_size: float = 0.5,
    seed: int = 0,
) -> FactorScore:
    """Separated attribute predictability: how far the best dimension predicts beyond the next.

    A dimension predicts an ordered factor by its squared correlation, a categorical one by the
    accuracy of a linear classifier on it, classes weighted alike; the score is the mean gap between
    the two best dimensions (Kumar et al. 2018).

    Parameters
    ----------
    codes
        Posterior means, ``(n, D)``.
    factors
        See :func:`mixvi.metrics.factors.read_factors`.
    categorical
        Factors without an order; ``None``: those that are no numbers.
    test_size
        Share of the rows that test the classifiers.
    seed
        Of the split into training and test.

    Returns
    -------
    :class:`mixvi.metrics.FactorScore`: gaps by factor; ``table``, squared correlations or
    accuracies.

    Raises
    ------
    ValueError
        If codes have one dimension, or ``categorical`` names no factor; else see
        :func:`mixvi.metrics.factors.read_factors`.
    """
    check_share("test_size", test_size)
    of = read_factors(codes, factors, least=_LEAST_ROWS)
    if of.codes.shape[1] < 2:
        raise ValueError("Codes of one dimension have no second one: SAP needs two or more.")
    without_order = _without_order(of, categorical)
    if not of.is_active.any():
        return of.nothing("sap")
    table = _squared_correlations(of)
    train, test = _split(of, test_size, seed)
    for k in without_order:
        for d in np.flatnonzero(of.is_active):
            table[d, k] = _class_accuracy(of.codes[:, [d]], of.values[:, k], train, test)
    ranked = np.sort(table, axis=0)
    gaps = pd.Series(ranked[-1] - ranked[-2], index=of.names)
    return FactorScore("sap", float(gaps.mean()), gaps, of.table(table), notes=of.notes)


def _without_order(of: Factors, categorical: Sequence[str] | None) -> list[int]:
    if categorical is None:
        return [k for k, ordered in enumerate(of.ordered) if not ordered]
    for name in categorical:
        if name not in of.names:
            raise ValueError(
                f"categorical: {name!r} is no factor that varies. {near_matches(name, of.names)}"
            )
    return [of.names.index(name) for name in categorical]


def _squared_correlations(of: Factors) -> np.ndarray:
    """``(D, K)``; 0 for constant dimensions."""
    z = of.codes - of.codes.mean(axis=0)
    v = of.values - of.values.mean(axis=0)
    norms = np.outer((z**2).sum(axis=0), (v**2).sum(axis=0))
    return np.divide((z.T @ v) ** 2, norms, out=np.zeros(norms.shape), where=norms > 0)


def _class_accuracy(x: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray) -> float:
    """Accuracy with classes weighted alike while learning; of one class alone, its share."""
    if len(np.unique(y[train])) < 2:
        return float((y[test] == y[train][0]).mean())
    svm = LinearSVC(C=0.01, class_weight="balanced", max_iter=10_000)
    return float(svm.fit(x[train], y[train]).score(x[test], y[test]))


def _split(of: Factors, test_size: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    order = np.random.default_rng(seed).permutation(len(of.codes))
    n_test = min(max(round(test_size * len(order)), 1), len(order) - 1)
    return order[n_test:], order[:n_test]


@dataclass(frozen=True)
class DCIScore(FactorScore):
    """Disentanglement (``score``), completeness and informativeness of codes.

    Attributes
    ----------
    completeness
        Whether each factor is in one dimension; in [0, 1].
    informativeness
        Test accuracy of the factors' classifiers, mean over factors.
    per_dimension
        Disentanglement of each dimension; NaN where no classifier uses it.
    """

    completeness: float = 0.0
    informativeness: float = 0.0
    per_dimension: pd.Series | None = None


def dci(
    codes,
    factors,
    *,
    estimator: str = "forest",
    test_size: float = 0.5,
    seed: int = 0,
) -> DCIScore:
    """Disentanglement, completeness and informativeness (Eastwood & Williams 2018).

    A classifier of each factor says how important each dimension is to it. Disentanglement is 1
    where a dimension is important to one factor alone, completeness where a factor needs one
    dimension alone; both are 1 minus an entropy, the first weighted by the dimensions' importance.

    Parameters
    ----------
    codes
        Posterior means, ``(n, D)``.
    factors
        See :func:`mixvi.metrics.factors.read_factors`.
    estimator
        ``"forest"``: 20 trees that see every dimension at each split; ``"gbt"``: gradient boosting
        with scikit-learn's defaults, as in Locatello et al. 2019, many times slower.
    test_size
        Share of the rows that informativeness is measured on.
    seed
        Of split and trees.

    Returns
    -------
    :class:`mixvi.metrics.DCIScore`: ``table``, importance of dimensions, which adds up to 1 for
    each factor; ``per_factor``, completeness.

    Raises
    ------
    ValueError
        If codes have one dimension or one factor varies; else see
        :func:`mixvi.metrics.factors.read_factors`.
    """
    check_choice("estimator", estimator, ("forest", "gbt"))
    check_share("test_size", test_size)
    of = read_factors(codes, factors, least=_LEAST_ROWS)
    if of.codes.shape[1] < 2 or len(of.names) < 2:
        raise ValueError(
            f"DCI needs two dimensions and two factors that vary, but has {of.codes.shape[1]} and "
            f"{len(of.names)}."
        )
    train, test = _split(of, test_size, seed)
    importance, accuracies = [], []
    for values in of.values.T:
        if len(np.unique(values[train])) < 2:
            importance.append(np.zeros(of.codes.shape[1]))
            accuracies.append(float((values[test] == values[train][0]).mean()))
            continue
        made = _classifier(estimator, seed).fit(of.codes[train], values[train])
        importance.append(made.feature_importances_)
        accuracies.append(float(made.score(of.codes[test], values[test])))
    return _dci_of(of, np.stack(importance, axis=1), accuracies)


def _classifier(estimator: str, seed: int):
    if estimator == "gbt":
        return GradientBoostingClassifier(random_state=seed)
    return RandomForestClassifier(20, max_features=None, min_samples_leaf=5, random_state=seed)


def _dci_of(of: Factors, importance: np.ndarray, accuracies: Sequence[float]) -> DCIScore:
    total = importance.sum()
    per_dimension = _purity(importance)
    completeness = _purity(importance.T)
    notes = of.notes if total else (*of.notes, NO_ACTIVE)
    weights = importance.sum(axis=1) / (total or 1.0)
    return DCIScore(
        "dci",
        float((weights * np.nan_to_num(per_dimension)).sum()),
        pd.Series(completeness, index=of.names),
        of.table(importance),
        {"informativeness": float(np.mean(accuracies))},
        notes,
        completeness=float(np.nan_to_num(completeness).mean()),
        informativeness=float(np.mean(accuracies)),
        per_dimension=pd.Series(per_dimension, index=of.dimensions),
    )


def _purity(weights: np.ndarray) -> np.ndarray:
    """1 minus the entropy of each row to the base of its length; NaN of rows without weight."""
    totals = weights.sum(axis=1, keepdims=True)
    shares = np.divide(weights, totals, out=np.zeros_like(weights), where=totals > 0)
    purity = 1.0 - entropy(shares) / np.log(weights.shape[1])
    return np.where(totals[:, 0] > 0, purity, np.nan)
