"""Codes beside the factors that made the data: checked, coded, and what scores of them return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from mixvi.core.data.alignment import in_order_of, names_of

NO_ACTIVE = "no active dimension"
# a column of numbers with more values than that is continuous
MOST_VALUES = 50
FACTOR_BINS = 20


@dataclass(frozen=True)
class FactorScore:
    """How well codes tell factors apart, by one metric; ``float(result)`` is its score.

    Attributes
    ----------
    metric
        Its name.
    score
        In [0, 1]; higher is better.
    per_factor
        The score's part of each factor, where it has one.
    table
        What the score comes of, dimensions by factors; each metric says what it holds.
    details
        Further figures by name.
    notes
        What was left out, binned or missing, in words.
    """

    metric: str
    score: float
    per_factor: pd.Series
    table: pd.DataFrame
    details: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __float__(self) -> float:
        return float(self.score)


@dataclass(frozen=True)
class Factors:
    """Codes with their factors.

    Attributes
    ----------
    codes
        ``(n, D)``.
    values
        Factors as codes 0, 1, ... of their values, ``(n, K)``.
    sizes
        How many values each has, ``(K,)``.
    names
        Of the factors, K.
    ordered
        Whether the values of each are numbers, K.
    notes
        What was changed.
    """

    codes: np.ndarray
    values: np.ndarray
    sizes: np.ndarray
    names: list[str]
    ordered: list[bool]
    notes: tuple[str, ...]

    @property
    def dimensions(self) -> list[str]:
        """Names of the dimensions, ``z0`` and so on."""
        return [f"z{d}" for d in range(self.codes.shape[1])]

    @property
    def is_active(self) -> np.ndarray:
        """Dimensions that are not the same for all rows, ``(D,)``."""
        return np.ptp(self.codes, axis=0) > 0

    def table(self, values: np.ndarray) -> pd.DataFrame:
        """A matrix ``(D, K)`` with names."""
        return pd.DataFrame(values, index=self.dimensions, columns=self.names)

    def nothing(self, metric: str, **details: float) -> FactorScore:
        """The result where no dimension is active: 0, and a note that says so."""
        zeros = np.zeros((len(self.dimensions), len(self.names)))
        return FactorScore(
            metric,
            0.0,
            pd.Series(0.0, index=self.names),
            self.table(zeros),
            dict(details),
            (*self.notes, NO_ACTIVE),
        )


def read_factors(codes, factors, *, least: int = 2, keep_constant: bool = False) -> Factors:
    """Codes and factors, checked.

    Parameters
    ----------
    codes
        Posterior means ``(n, D)``: array, tensor or DataFrame.
    factors
        DataFrame, dict of columns or array ``(n, K)``; by name where codes and factors have names
        of rows. Columns of numbers with more than 50 values are cut into 20 quantile bins; where
        they are names of groups, pass them as categories.
    least
        Fewest rows that the metric takes.
    keep_constant
        Keep factors with one value, which are left out else.

    Raises
    ------
    ValueError
        If codes are not a finite matrix, factors have another length, names that codes lack,
        missing or infinite values or none that varies, or there are too few rows.
    """
    frame = _frame(factors, names_of(codes))
    codes = code_matrix(codes)
    if len(frame) != len(codes):
        raise ValueError(
            f"factors have {len(frame)} rows, codes {len(codes)}: pass the factors of the rows "
            "that were encoded, in their order."
        )
    if len(codes) < least:
        raise ValueError(f"{len(codes)} rows are too few: this metric needs {least} at least.")
    columns, names, sizes, ordered, notes = [], [], [], [], []
    for name, column in frame.items():
        if column.isna().any():
            raise ValueError(f"The factor {name!r} has missing values. Leave these rows out.")
        is_number = is_numeric_dtype(column) and not is_bool_dtype(column)
        if is_number and np.isinf(column.to_numpy(float)).any():
            raise ValueError(f"The factor {name!r} has infinite values. Leave these rows out.")
        if is_number and column.nunique() > MOST_VALUES:
            column = pd.qcut(column, FACTOR_BINS, labels=False, duplicates="drop")
            # fewer than asked for where a value is frequent
            notes.append(f"{name}: {column.nunique()} quantile bins")
        values, found = pd.factorize(np.asarray(column), sort=True)
        if len(found) < 2 and not keep_constant:
            notes.append(f"{name}: constant, left out")
            continue
        columns.append(values)
        names.append(str(name))
        sizes.append(len(found))
        ordered.append(bool(is_number))
    if not columns or max(sizes) < 2:
        constant = ", ".join(repr(str(name)) for name in frame.columns)
        raise ValueError(f"No factor varies: {constant} have one value each in these rows.")
    return Factors(codes, np.stack(columns, 1), np.array(sizes), names, ordered, tuple(notes))


def code_matrix(codes, name: str = "codes") -> np.ndarray:
    """Codes ``(n, D)`` in double precision.

    Raises
    ------
    ValueError
        If they are no matrix, or not finite.
    """
    if isinstance(codes, torch.Tensor):
        codes = codes.detach().cpu().numpy()
    codes = np.asarray(codes, dtype=np.float64)
    if codes.ndim != 2 or not codes.size:
        raise ValueError(f"{name} must be a matrix (n, n_latent), but have shape {codes.shape}.")
    bad = ~np.isfinite(codes).all(axis=0)
    if bad.any():
        places = ", ".join(str(d) for d in np.flatnonzero(bad))
        raise ValueError(f"{name} have NaN or infinite values (dimensions {places}).")
    return codes


def _frame(factors, names: pd.Index | None) -> pd.DataFrame:
    if isinstance(factors, pd.Series):
        factors = factors.to_frame()
    if isinstance(factors, pd.DataFrame):
        return in_order_of(names, factors, "factors")
    if isinstance(factors, dict):
        return pd.DataFrame({k: in_order_of(names, v, str(k)) for k, v in factors.items()})
    values = np.asarray(factors)
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2:
        raise ValueError(f"factors must be (n, n_factors), but have shape {values.shape}.")
    return pd.DataFrame(values, columns=[f"factor_{k}" for k in range(values.shape[1])])


class Groups:
    """Rows that share a value of a factor, from which others may be drawn at once.

    Parameters
    ----------
    values
        Codes of the values, ``(n,)``.
    """

    def __init__(self, values: np.ndarray):
        self._values = values
        self._order = np.argsort(values, kind="stable")
        self.counts = np.bincount(values)
        self._starts = np.concatenate([[0], np.cumsum(self.counts)[:-1]])

    def partners(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A row that shares the value with each of ``rows`` (any shape), itself among them."""
        own = self._values[rows]
        places = self._starts[own] + (rng.random(rows.shape) * self.counts[own]).astype(np.int64)
        return self._order[places]


def dependent_pairs(factors: Factors, threshold: float = 0.05) -> list[Sequence[str]]:
    """Pairs of factors whose information, by the smaller entropy, exceeds a threshold."""
    found = []
    n, n_factors = factors.values.shape
    for a in range(n_factors):
        for b in range(a):
            sizes = factors.sizes[[a, b]]
            joint = factors.values[:, a] * sizes[1] + factors.values[:, b]
            table = np.bincount(joint, minlength=sizes.prod()).reshape(sizes) / n
            entropies = [entropy(table.sum(axis)) for axis in (1, 0)]
            # of independent factors the plug-in estimate has this on average (Miller 1955)
            bias = (sizes[0] - 1) * (sizes[1] - 1) / (2 * n)
            shared = sum(entropies) - entropy(table.ravel()) - bias
            if shared > threshold * max(min(entropies), 1e-12):
                found.append((factors.names[b], factors.names[a]))
    return found


def entropy(p: np.ndarray, axis: int = -1) -> np.ndarray:
    """Entropy of probabilities along an axis, in nats."""
    return -(p * np.log(np.where(p > 0, p, 1.0))).sum(axis)
