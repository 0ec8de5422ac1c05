"""Registering light curves: where they lie, how they are folded, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data.fields import BaseAnnDataField

from mixvi.core.arguments import check_positive, near_matches
from mixvi.core.data import checks
from mixvi.core.data.bands import band_names, check_band_order
from mixvi.core.data.fields import ArrayField, DerivedField, QueryLabelsField
from mixvi.core.data.light_curves import counted_curves
from mixvi.lightcurves.features import centre_and_spread, check_features, feature_table
from mixvi.lightcurves.observations import (
    Observations,
    as_numbers,
    check_observations,
    check_periods,
    check_values,
    read_observations,
    resolve_keys,
)
from mixvi.lightcurves.periods import fold

PHASE_KEY = "phase"
ERROR_KEY = "error"
VALID_KEY = "valid"
CENTRE_KEY = "centre"
SPREAD_KEY = "spread"
FEATURES_KEY = "features"
FOLDED_FEATURES = ("mean", "log_spread", "log_period")
UNFOLDED_FEATURES = ("mean", "log_spread")
_ARRAYS = ("time_key", "magnitude_key", "error_key", "valid_key")
_CHUNK = 1024
# of a period, to which times must be known
_COARSEST = 0.02


def resolve_curves(
    adata: AnnData, args: dict[str, Any], source_registry: dict[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of ``setup_anndata`` with keys and features found, and what curves are like.

    The latter is ``{"n_bands": B, "features": names of their columns, "bands": names or None}``.

    Parameters
    ----------
    adata
        AnnData with light curves.
    args
        As the user gave them.
    source_registry
        That of a trained model, whose arguments they are: bands must be as many.

    Raises
    ------
    KeyError
        If a key or a feature is missing (near matches are named).
    TypeError
        If arrays are not numbers, or masks not boolean.
    ValueError
        If shapes do not fit, or curves or periods are unusable; these are counted, and the first is
        named.
    """
    checks.check_anndata(adata)
    if adata.n_obs == 0:
        raise ValueError("adata has no rows: there are no light curves to train on.")
    args = dict(args) | resolve_keys(adata, {name: args[name] for name in _ARRAYS})
    check_positive("max_points", args["max_points"])
    observations = read_observations(adata, args)
    _check_folding(adata, args)
    if args["features"] is None:
        args["features"] = FOLDED_FEATURES if args["fold"] else UNFOLDED_FEATURES
    check_features(adata, args["features"], args["period_key"] if args["fold"] else None)
    args["features"] = list(args["features"])
    n_bands, source = observations.valid.shape[1], None
    if source_registry is not None:
        source = source_registry["field_registries"][REGISTRY_KEYS.X_KEY]["state_registry"]
        if n_bands != source["n_bands"]:
            raise ValueError(
                f"adata.obsm[{args['magnitude_key']!r}] has {n_bands} band(s), but the model reads "
                f"{source['n_bands']}."
            )
        name = f"adata.obsm[{args['magnitude_key']!r}]"
        check_band_order(name, band_names(adata, n_bands), source.get("bands"))
    elif args["labels_key"] is not None:
        checks.check_labels(adata, args["labels_key"], args["unlabeled_category"])
    check_observations(observations, adata.obs_names)
    if args["fold"]:
        _check_precision(observations, adata, args)
    # of one curve, which is enough for the names
    table = feature_table(
        adata[:1],
        observations.take(slice(0, 1)),
        args["features"],
        args["period_key"],
        _bands(n_bands),
    )
    found = {
        "n_bands": n_bands,
        "features": table.columns.tolist(),
        "bands": band_names(adata, n_bands),
    }
    return args, source or found


def _bands(n: int) -> list[str]:
    return [str(b) for b in range(n)]


def _check_folding(adata: AnnData, args: dict[str, Any]) -> None:
    if not args["fold"]:
        return
    key = args["period_key"]
    if key is None or key not in adata.obs:
        near = near_matches(str(key), adata.obs.columns)
        raise KeyError(
            f"Curves are folded by their periods, but period_key={key!r} is not in adata.obs. "
            f"{near} Find periods by mixvi.lightcurves.find_periods(adata), or pass fold=False."
        )
    checks.check_key(adata, "obs", key, "period_key")
    check_periods(adata.obs[key], key)
    checks.check_numbers(adata, args["epoch_key"], "epoch_key")


def _check_precision(of: Observations, adata: AnnData, args: dict[str, Any]) -> None:
    """Raise ValueError of times in so few digits that they have no phase."""
    if of.time.dtype.kind != "f" or of.time.dtype.itemsize >= 8:
        return
    largest = np.abs(np.where(of.valid, of.time, 0)).max((1, 2))
    step = np.spacing(largest).astype(np.float64)
    lost = step > _COARSEST * as_numbers(adata.obs[args["period_key"]])
    if lost.any():
        first = int(lost.argmax())
        raise ValueError(
            f"{counted_curves(lost, adata.obs_names)} have times as {of.time.dtype}, which at "
            f"{largest[first]:g} are steps of {step[first]:g}, too coarse for their periods. Take "
            "times in double precision (float64) from where they come from."
        )


def check_again(adata: AnnData, args: dict[str, Any]) -> None:
    """Raise as :func:`resolve_curves` does if registered curves were changed and are unusable."""
    resolve_keys(adata, {name: args[name] for name in _ARRAYS})
    check_values(read_observations(adata, args), adata.obs_names)
    _check_folding(adata, args)
    check_features(adata, args["features"], args["period_key"] if args["fold"] else None)


def time_scale(adata: AnnData, args: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Start and length in time of phases from 0 to 1, each ``(n,)``.

    Epoch and period of folded curves, else the first time and the span.
    """
    if args["fold"]:
        period = as_numbers(adata.obs[args["period_key"]])
        if args["epoch_key"] is None:
            return np.zeros(len(period)), period
        return as_numbers(adata.obs[args["epoch_key"]]), period
    of = read_observations(adata, args)
    start = np.where(of.valid, of.time, np.inf).min((1, 2))
    end = np.where(of.valid, of.time, -np.inf).max((1, 2))
    # of a single time anything serves
    return start, np.where(end > start, end - start, 1.0)


def phases(time: np.ndarray, start: np.ndarray, length: np.ndarray, folded: bool) -> np.ndarray:
    """Times ``(n, ...)`` as phases; of curves that are not folded these may leave [0, 1]."""
    if folded:
        return fold(time, length, start)
    shape = (-1, *[1] * (time.ndim - 1))
    return (time - start.reshape(shape)) / length.reshape(shape)


def _phase(adata: AnnData, args: dict[str, Any]) -> np.ndarray:
    of, (start, length) = read_observations(adata, args), time_scale(adata, args)
    found = np.zeros(of.valid.shape, np.float32)
    for first in range(0, len(of), _CHUNK):
        rows = slice(first, first + _CHUNK)
        part = phases(of.time[rows], start[rows], length[rows], args["fold"])
        found[rows] = np.where(of.valid[rows], part, 0.0)
    return found


def _observed(name: str, adata: AnnData, args: dict[str, Any]) -> np.ndarray:
    return getattr(read_observations(adata, args), name)


def _moments(which: int, adata: AnnData, args: dict[str, Any]) -> np.ndarray:
    """Mean (0) or spread (1) of each band, ``(n, B)``."""
    of = read_observations(adata, args)
    parts = [_moment(of.take(slice(i, i + _CHUNK)), which) for i in range(0, len(of), _CHUNK)]
    return np.concatenate(parts)


def _moment(of: Observations, which: int) -> np.ndarray:
    return centre_and_spread(of)[which].astype(np.float32)


def _features(adata: AnnData, args: dict[str, Any]) -> np.ndarray:
    of = read_observations(adata, args)
    if not args["features"]:
        return np.zeros((len(of), 0), np.float32)
    bands = _bands(of.valid.shape[1])
    table = feature_table(adata, of, args["features"], args["period_key"], bands)
    return table.to_numpy(np.float32)


def curve_fields(args: dict[str, Any], known: dict[str, Any]) -> list[BaseAnnDataField]:
    """The fields of what :func:`resolve_curves` found."""
    derived = {
        ERROR_KEY: partial(_observed, "error", args=args),
        VALID_KEY: partial(_observed, "valid", args=args),
        PHASE_KEY: partial(_phase, args=args),
        CENTRE_KEY: partial(_moments, 0, args=args),
        SPREAD_KEY: partial(_moments, 1, args=args),
        FEATURES_KEY: partial(_features, args=args),
    }
    fields: list[BaseAnnDataField] = [
        ArrayField(REGISTRY_KEYS.X_KEY, args["magnitude_key"], known),
        *(DerivedField(key, made) for key, made in derived.items()),
    ]
    if args["labels_key"] is not None:
        fields.append(
            QueryLabelsField(
                REGISTRY_KEYS.LABELS_KEY, args["labels_key"], args["unlabeled_category"]
            )
        )
    return fields


def requested_phases(
    times: Sequence, n: int, start: np.ndarray, length: np.ndarray, folded: bool
) -> np.ndarray:
    """Times ``(T,)`` of all curves, or ``(n, T)``, as phases ``(n, T)``."""
    return phases(requested_times(times, n), start, length, folded)


def requested_times(times: Sequence, n: int) -> np.ndarray:
    """Times ``(T,)`` of all curves, or ``(n, T)``, as ``(n, T)``.

    Raises
    ------
    TypeError
        If they are no numbers, but dates or text.
    ValueError
        If the shape is another, or a time is NaN or infinite.
    """
    times = np.asarray(times)
    if times.dtype.kind not in "iuf":
        raise TypeError(
            f"times holds {times.dtype}, but must be numbers in the unit of the registered times."
        )
    times = times.astype(np.float64)
    if times.ndim == 1:
        times = np.broadcast_to(times, (n, len(times)))
    if times.ndim != 2 or len(times) != n:
        raise ValueError(
            f"times has shape {times.shape}, but is (T,), the same for all curves, or ({n}, T)."
        )
    if not np.isfinite(times).all():
        raise ValueError("times has values that are NaN or infinite.")
    return times
