"""Choosing models without factors: the unsupervised disentanglement ranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.linear_model import Lasso

from mixvi.core.arguments import check_choice, check_weight
from mixvi.core.data.alignment import in_order_of, names_of
from mixvi.metrics.factors import NO_ACTIVE, code_matrix

_LEAST_ROWS = 10


@dataclass(frozen=True)
class UDRScore:
    """How alike the dimensions of several models of one setting are, up to order and sign.

    Attributes
    ----------
    scores
        Of each model, the median over its pairs; in [0, 1], NaN without an active dimension.
    pairs
        Of each pair of models, ``(n_models, n_models)``; NaN on the diagonal.
    n_active
        Active dimensions of each model.
    notes
        Models without one.
    """

    scores: pd.Series
    pairs: pd.DataFrame
    n_active: pd.Series
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> str:
        """The model with the highest score."""
        return str(self.scores.idxmax())


def udr(
    codes: Mapping[str, np.ndarray] | Sequence[np.ndarray],
    kls: Mapping[str, np.ndarray] | Sequence[np.ndarray] | None = None,
    *,
    similarity: str = "spearman",
    active_kl: float = 0.01,
) -> UDRScore:
    """Unsupervised disentanglement ranking of models that differ in their seed (Duan et al. 2020).

    Models that disentangle find the same dimensions, those that do not find a rotation of their
    own each. A pair scores high where each active dimension of one is like a single one of the
    other. It ranks models, and rewards what is found again, meaningful or not.

    Parameters
    ----------
    codes
        Posterior means of the same rows by each model, ``(n, D)``, by name or in order; rows of
        DataFrames go by their names.
    kls
        Mean KL of each dimension, ``(D,)`` for each model. ``None``: dimensions are active that are
        not constant.
    similarity
        ``"spearman"``: absolute rank correlations; ``"lasso"``: weights of a regression with an L1
        penalty of 0.1 on standardised codes.
    active_kl
        Dimensions with a KL of this many nats or less are not counted.

    Raises
    ------
    ValueError
        If there are fewer than two models, rows or KLs do not fit, or codes are not finite.
    """
    check_choice("similarity", similarity, ("spearman", "lasso"))
    check_weight("active_kl", active_kl)
    named = _named(codes)
    if len(named) < 2:
        raise ValueError(f"UDR compares models: pass the codes of two or more, not {len(named)}.")
    rows = names_of(next(iter(named.values())))
    z = {
        name: code_matrix(in_order_of(rows, values, f"codes of {name}"), f"codes of {name}")
        for name, values in named.items()
    }
    lengths = {len(values) for values in z.values()}
    if len(lengths) > 1:
        raise ValueError(
            f"Models have codes of {', '.join(map(str, sorted(lengths)))} rows: encode the same "
            "rows with each."
        )
    if min(lengths) < _LEAST_ROWS:
        raise ValueError(f"{min(lengths)} rows are too few: UDR needs {_LEAST_ROWS} at least.")
    active = _active(z, kls, active_kl)
    ready = {name: _standardised(z[name][:, active[name]], similarity) for name in z}
    pairs = pd.DataFrame(np.nan, index=list(z), columns=list(z))
    names = list(z)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            score = _pair_score(ready[a], ready[b], similarity)
            pairs.loc[a, b] = pairs.loc[b, a] = score
    notes = tuple(f"{name}: {NO_ACTIVE}" for name in names if not active[name].any())
    n_active = pd.Series({name: int(mask.sum()) for name, mask in active.items()})
    return UDRScore(pairs.median(axis=1), pairs, n_active, notes)


def _named(values) -> dict[str, np.ndarray]:
    if isinstance(values, Mapping):
        return {str(name): value for name, value in values.items()}
    return {f"model_{i}": value for i, value in enumerate(values)}


def _active(z: dict[str, np.ndarray], kls, active_kl: float) -> dict[str, np.ndarray]:
    found = {name: np.ptp(values, axis=0) > 0 for name, values in z.items()}
    if kls is None:
        return found
    named = _named(kls)
    for name, mask in found.items():
        if name not in named or np.shape(named[name]) != mask.shape:
            raise ValueError(
                f"kls must have one number for each dimension of {name} ({len(mask)})."
            )
    return {name: mask & (np.asarray(named[name]) > active_kl) for name, mask in found.items()}


def _standardised(values: np.ndarray, similarity: str) -> np.ndarray:
    if similarity == "spearman":
        values = rankdata(values, axis=0)
    return (values - values.mean(axis=0)) / values.std(axis=0)


def _pair_score(a: np.ndarray, b: np.ndarray, similarity: str) -> float:
    """Mean over active dimensions of both of how much one partner stands out (Duan et al. 2020)."""
    if not a.shape[1] or not b.shape[1]:
        return np.nan
    if similarity == "spearman":
        like = np.abs(a.T @ b) / len(a)
        return _standing_out(like)
    # weights of b's dimensions from a's, and the other way round
    scores = [
        _standing_out(np.abs(np.atleast_2d(Lasso(alpha=0.1).fit(x, y).coef_)))
        for x, y in ((a, b), (b, a))
    ]
    return float(np.mean(scores))


def _standing_out(like: np.ndarray) -> float:
    """``(D_a, D_b)`` similarities to the mean of ``max^2 / sum`` over rows and columns."""
    shares = []
    for axis in (0, 1):
        most, total = like.max(axis=axis), like.sum(axis=axis)
        shares.append(np.divide(most**2, total, out=np.zeros_like(most), where=total > 0))
    return float(np.concatenate(shares).mean())
