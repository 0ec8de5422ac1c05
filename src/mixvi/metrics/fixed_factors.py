"""Scores by factors that are held fixed: the beta-VAE and the FactorVAE metric."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

from mixvi.core.arguments import check_positive, check_weight
from mixvi.metrics.factors import Factors, FactorScore, Groups, dependent_pairs, read_factors

_POINTS_AT_A_TIME = 500


def beta_vae_score(
    codes,
    factors,
    *,
    n_train: int = 10_000,
    n_test: int = 5_000,
    batch_size: int = 64,
    keep_constant: bool = False,
    seed: int = 0,
) -> FactorScore:
    """The beta-VAE metric: whether a linear classifier sees which factor pairs of rows share.

    A point is the mean of ``|z - z'|`` over ``batch_size`` pairs of rows that share the value of
    one factor; logistic regression, with scikit-learn's defaults, tells which (Higgins et al. 2017;
    Mushom 2020, section 4.5.1). Codes that are rotated score nearly as high as perfect ones: it
    says little by itself.

    Rows of all combinations of factors make this the metric of the paper. For other data "fixed"
    means drawn from the rows that share the value: other factors then follow the data.

    Parameters
    ----------
    codes
        Posterior means, ``(n, D)``.
    factors
        See :func:`mixvi.metrics.factors.read_factors`.
    n_train, n_test
        Points that train and test the classifier.
    batch_size
        Pairs a point.
    keep_constant
        Count factors that are constant, as in the thesis, where nothing is shared then.
    seed
        Of the draws.

    Returns
    -------
    :class:`mixvi.metrics.FactorScore`: test accuracy, by factor; ``table``, the classifier's
    weights; ``details["train_score"]``, its accuracy on what it learned from.

    Raises
    ------
    ValueError
        See :func:`mixvi.metrics.factors.read_factors`.

    Warns
    -----
    UserWarning
        If factors depend on each other, or a value has fewer rows than ``batch_size``.
    """
    of = _read(codes, factors, n_train, n_test, batch_size, keep_constant)
    if not of.is_active.any():
        return of.nothing("beta_vae", train_score=0.0)
    rng = np.random.default_rng(seed)

    def differences(groups: Groups, n: int) -> np.ndarray:
        rows = rng.integers(0, len(of.codes), (n, batch_size))
        shift = of.codes[rows] - of.codes[groups.partners(rows, rng)]
        return np.abs(shift, out=shift).mean(axis=1)

    x, y = _points(of, n_train, rng, differences)
    test_x, test_y = _points(of, n_test, rng, differences)
    classifier = LogisticRegression(max_iter=1000).fit(x, y)
    right = classifier.predict(test_x) == test_y
    weights = np.zeros((len(of.names), of.codes.shape[1]))
    # two classes have one row of weights, for the second
    binary = len(classifier.classes_) == 2
    weights[classifier.classes_] = (
        np.vstack([-classifier.coef_, classifier.coef_]) if binary else classifier.coef_
    )
    return FactorScore(
        "beta_vae",
        float(right.mean()),
        _by_factor(right, test_y, of.names),
        of.table(weights.T),
        {"train_score": float(classifier.score(x, y))},
        of.notes,
    )


def factor_vae_score(
    codes,
    factors,
    *,
    n_train: int = 10_000,
    n_test: int = 5_000,
    batch_size: int = 64,
    prune_threshold: float = 0.05,
    keep_constant: bool = False,
    seed: int = 0,
) -> FactorScore:
    """The FactorVAE metric: whether the dimension that varies least tells which factor is fixed.

    Of ``batch_size`` rows that share the value of one factor, the dimension whose variance is the
    smallest share of its variance over all rows votes for that factor; the score is the share of
    votes that agree with the majority of the dimension's (Kim & Mnih 2018; Mushom 2020, section
    4.5.2).

    Parameters
    ----------
    codes, factors, keep_constant, seed
        See :func:`beta_vae_score`.
    n_train, n_test
        Votes from which majorities come, and that are scored.
    batch_size
        Rows a vote.
    prune_threshold
        Dimensions whose standard deviation over all rows is below it have no vote; 0 as in the
        thesis, where dead dimensions vote.

    Returns
    -------
    :class:`mixvi.metrics.FactorScore`: ``table`` has the votes of training; a note names the case
    that no dimension is active, which scores 0.

    Raises
    ------
    ValueError
        See :func:`mixvi.metrics.factors.read_factors`.

    Warns
    -----
    UserWarning
        See :func:`beta_vae_score`; and if no dimension is active.
    """
    check_weight("prune_threshold", prune_threshold)
    if batch_size < 2:
        raise ValueError(f"batch_size={batch_size!r}: one row has no variance. Pass 2 or more.")
    of = _read(codes, factors, n_train, n_test, batch_size, keep_constant)
    variance = of.codes.var(axis=0, ddof=1)
    kept = np.flatnonzero((np.sqrt(variance) >= prune_threshold) & of.is_active)
    if not len(kept):
        warnings.warn(
            f"No dimension has a standard deviation of {prune_threshold:g} or more: the FactorVAE "
            "metric is 0.",
            UserWarning,
            stacklevel=2,
        )
        return of.nothing("factor_vae", n_active=0)
    rng = np.random.default_rng(seed)
    seen = of.codes[:, kept] / np.sqrt(variance[kept])

    def least_varying(groups: Groups, n: int) -> np.ndarray:
        anchors = rng.integers(0, len(seen), n)
        rows = groups.partners(np.repeat(anchors[:, None], batch_size, 1), rng)
        return seen[rows].var(axis=1, ddof=1).argmin(axis=1)

    votes, y = _points(of, n_train, rng, least_varying)
    test_votes, test_y = _points(of, n_test, rng, least_varying)
    counts = np.zeros((of.codes.shape[1], len(of.names)))
    # by the number of the dimension among all, not among those kept
    np.add.at(counts, (kept[votes], y), 1)
    right = counts.argmax(axis=1)[kept[test_votes]] == test_y
    return FactorScore(
        "factor_vae",
        float(right.mean()),
        _by_factor(right, test_y, of.names),
        of.table(counts),
        {"n_active": len(kept)},
        of.notes,
    )


def _read(
    codes, factors, n_train: int, n_test: int, batch_size: int, keep_constant: bool
) -> Factors:
    for name, value in (("n_train", n_train), ("n_test", n_test), ("batch_size", batch_size)):
        check_positive(name, value)
    of = read_factors(codes, factors, keep_constant=keep_constant)
    if len(of.names) < 2:
        raise ValueError(
            f"One factor ({of.names[0]}) cannot be told from others: two or more must vary."
        )
    pairs = dependent_pairs(of)
    if pairs:
        named = ", ".join(" and ".join(pair) for pair in pairs)
        warnings.warn(
            f"Factors depend on each other ({named}): what is fixed by one is partly fixed by the "
            "other, and the score is conditional on the data's combinations.",
            UserWarning,
            stacklevel=3,
        )
    few = [
        name
        for name, values in zip(of.names, of.values.T, strict=True)
        if np.bincount(values).min() < batch_size
    ]
    if few:
        warnings.warn(
            f"Some values of {', '.join(few)} have fewer than batch_size={batch_size} rows, which "
            "are drawn several times.",
            UserWarning,
            stacklevel=3,
        )
    return of


def _points(of: Factors, n: int, rng: np.random.Generator, made_of) -> tuple:
    """Points of ``n`` draws of a factor, and the factors; ``made_of(groups, n)`` makes some."""
    counts = np.bincount(rng.integers(0, len(of.names), n), minlength=len(of.names))
    points = []
    for values, count in zip(of.values.T, counts, strict=True):
        groups = Groups(values)
        for start in range(0, count, _POINTS_AT_A_TIME):
            points.append(made_of(groups, min(_POINTS_AT_A_TIME, count - start)))
    return np.concatenate(points), np.repeat(np.arange(len(of.names)), counts)


def _by_factor(right: np.ndarray, y: np.ndarray, names: list[str]) -> pd.Series:
    return pd.Series(right).groupby(y).mean().reindex(range(len(names))).set_axis(names)
