"""Registering series: where they lie, their gaps and labels, and whether a model can read them."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import numpy as np
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data.fields import BaseAnnDataField

from mixvi.core.data import checks
from mixvi.core.data.bands import band_names, check_band_order
from mixvi.core.data.fields import ArrayField, DerivedField
from mixvi.core.data.keys import UNLABELLED, VOID

OBSERVED_KEY = "observed"
FRAME_KEY = "frame"
TIME_KEY = "time"
SOFT_LABELS_KEY = "soft_labels"
# keys that are taken if they are there, and nothing else is said
_MODES = {"map": "a map a series", "date": "a map a date"}
_USUAL = {"valid_key": "valid", "frame_key": "frame", "time_key": "time", "labels_key": "labels"}
# what tiles of a scene do not have, and a trained model does without
_NOT_NEEDED = ("frame_key", "labels_key", "soft_labels_key")
# reflectance is below one but over snow and glint
_LARGEST_REFLECTANCE = 2.0
# also by which rasters of bytes mark what is no class
_LARGEST_BYTE = 255
# how far sums of probabilities may be from 1, as bytes of per cent are
_SUM_TOLERANCE = 0.02
# of the year 2969; what is beyond has another unit
_LAST_DAY = 365_000


def resolve_series(
    adata: AnnData, args: dict[str, Any], source_registry: dict[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of ``setup_anndata`` with keys and classes found, and what series are like.

    The latter is ``{"shape": (T, C, H, W), "label_mode": "map", "date" or None, "bands": names or
    None}``.

    Parameters
    ----------
    adata
        AnnData with series.
    args
        Keys and ``classes`` as the user gave them.
    source_registry
        That of a trained model, whose arguments they are: bands, classes and the kind of labels
        must be the same.

    Raises
    ------
    KeyError
        If a key is missing (near matches are named).
    TypeError
        If arrays are not numbers, masks not boolean, or labels not whole numbers.
    ValueError
        If shapes do not fit each other or those of training, a tile has nothing that was observed,
        dates are not in order, or labels lie outside the classes.
    """
    checks.check_anndata(adata)
    if adata.n_obs == 0:
        raise ValueError("adata has no rows: there are no series to train on.")
    args, source = dict(args), None
    if source_registry is not None:
        source = source_registry["field_registries"][REGISTRY_KEYS.X_KEY]["state_registry"]
    for name, usual in _USUAL.items():
        # a model that has learnt without dates reads none
        knows_none = source and name == "time_key"
        if args[name] is None and usual in adata.obsm and not knows_none:
            args[name] = usual
        elif args[name] is not None and not (source and name in _NOT_NEEDED):
            checks.check_key(adata, "obsm", args[name], name)
    for name in ("labels_key", "soft_labels_key"):
        if source and (source["label_mode"] is None or args[name] not in adata.obsm):
            # new tiles need no labels, and a model that knows no classes reads none
            args[name] = None
    if args["soft_labels_key"] is not None:
        checks.check_key(adata, "obsm", args["soft_labels_key"], "soft_labels_key")
    checks.check_key(adata, "obsm", args["series_key"], "series_key")
    series = read_series(adata, args)
    _check_observed(adata, args, series)
    _check_dates(adata, args, series)
    if source and series.shape[2] != source["shape"][1]:
        raise ValueError(
            f"{_name(args, 'series_key')} has {series.shape[2]} bands, but the model reads "
            f"{source['shape'][1]}."
        )
    bands = band_names(adata, series.shape[2])
    if source:
        check_band_order(_name(args, "series_key"), bands, source.get("bands"))
    args["classes"], mode = _classes(adata, args, series, source)
    found = {"shape": [int(n) for n in series.shape[1:]], "label_mode": mode, "bands": bands}
    return args, source or found


def read_series(adata: AnnData, args: dict[str, Any]) -> np.ndarray:
    """The registered series ``(n, T, C, H, W)``; images ``(n, C, H, W)`` have one date."""
    name, series = _name(args, "series_key"), adata.obsm[args["series_key"]]
    if not isinstance(series, np.ndarray) or series.dtype.kind not in "uif":
        kind = getattr(series, "dtype", type(series).__name__)
        raise TypeError(f"{name} holds {kind}; a NumPy array of numbers (n, T, C, H, W) is needed.")
    if series.ndim == 4:
        series = series[:, None]
    if series.ndim != 5 or min(series.shape) < 1:
        raise ValueError(
            f"{name} has shape {series.shape}, but series are (n, dates, bands, height, width), "
            "and single images (n, bands, height, width)."
        )
    return series


def observed_values(adata: AnnData, args: dict[str, Any]) -> np.ndarray:
    """Whether a value is a measurement to be trusted, ``(n, T, C or 1, H, W)`` bool.

    It is marked valid, its date was acquired, and it is a finite number.
    """
    series = read_series(adata, args)
    valid = _marked_valid(adata, args, series)
    if series.dtype.kind == "f":
        finite = np.isfinite(series)
        if not finite.all():
            valid = valid & finite
    return valid


def _marked_valid(adata: AnnData, args: dict[str, Any], series: np.ndarray) -> np.ndarray:
    """What masks and acquisitions say, ``(n, T, C or 1, H, W)`` bool."""
    key = _usual_key(adata, args, "valid_key")
    if key is None:
        valid = np.ones((*series.shape[:2], 1, *series.shape[3:]), dtype=bool)
    else:
        name, valid = f"adata.obsm[{key!r}] (valid_key)", np.asarray(adata.obsm[key])
        if valid.ndim == 4 and adata.obsm[args["series_key"]].ndim == 4:
            valid = valid[:, None]
        elif valid.ndim == 4:
            valid = valid[:, :, None]
        fits = valid.ndim == 5 and valid.shape[2] in (1, series.shape[2])
        if not fits or valid.shape[:2] + valid.shape[3:] != series.shape[:2] + series.shape[3:]:
            raise ValueError(
                f"{name} has shape {adata.obsm[key].shape}, but for series of shape "
                f"{series.shape} it is (n, dates, bands or 1, height, width)."
            )
        valid = as_mask(valid, name)
    frame = _given_frame(adata, args, series)
    return valid if frame is None else valid & frame[:, :, None, None, None]


def _given_frame(adata: AnnData, args: dict[str, Any], series: np.ndarray) -> np.ndarray | None:
    key = _usual_key(adata, args, "frame_key")
    if key not in adata.obsm:
        return None
    name, frame = f"adata.obsm[{key!r}] (frame_key)", np.asarray(adata.obsm[key])
    if frame.shape != series.shape[:2]:
        raise ValueError(
            f"{name} has shape {frame.shape}, but says of each tile and date whether there was an "
            f"acquisition: {series.shape[:2]}."
        )
    return as_mask(frame, name)


def _usual_key(adata: AnnData, args: dict[str, Any], name: str) -> str | None:
    """The registered key; where training tiles had none, the usual one if new tiles have it."""
    key, usual = args[name], _USUAL[name]
    return usual if key is None and usual in adata.obsm else key


def as_days(time: np.ndarray, name: str) -> np.ndarray:
    """Dates as days since 1970-01-01, NaN where they are not known; TypeError of what is none."""
    time = np.asarray(time)
    if time.dtype.kind == "M":
        # NaT would become a number
        days = time.astype("datetime64[s]").astype(np.float64) / 86_400
        return np.where(np.isnat(time), np.nan, days)
    if time.dtype.kind not in "iuf":
        raise TypeError(
            f"{name} holds {time.dtype}, but dates are datetime64 or days since 1970-01-01."
        )
    return time.astype(np.float64)


def as_mask(values: np.ndarray, name: str) -> np.ndarray:
    """Zeros and ones as bool; TypeError of anything else, NaN among it."""
    if values.dtype != bool and not np.isin(np.unique(values), (0, 1)).all():
        raise TypeError(f"{name} holds {values.dtype}, but must be True or False.")
    return values.astype(bool)


def acquired(adata: AnnData, args: dict[str, Any]) -> np.ndarray:
    """Whether there was an acquisition, ``(n, T)`` bool."""
    given = _given_frame(adata, args, read_series(adata, args))
    return observed_values(adata, args).any((2, 3, 4)) if given is None else given


def dates(adata: AnnData, args: dict[str, Any]) -> np.ndarray:
    """Days since 1970-01-01, ``(n, T)``; zeros where there are none.

    Unknown dates of absent acquisitions are read linearly between those that are known.
    """
    shape = read_series(adata, args).shape[:2]
    if args["time_key"] is None:
        return np.zeros(shape)
    time = as_days(adata.obsm[args["time_key"]], _name(args, "time_key"))
    if time.shape != shape:
        raise ValueError(
            f"{_name(args, 'time_key')} has shape {time.shape}, but there is a date for each tile "
            f"and acquisition: {shape}."
        )
    order, known = np.arange(shape[1]), np.isfinite(time)
    if known.all():
        return time
    unknown = ~known & ~acquired(adata, args)
    for row in np.flatnonzero(unknown.any(1) & known.any(1)):
        places = order[known[row]]
        time[row, unknown[row]] = np.interp(order[unknown[row]], places, time[row, places])
    return time


def label_maps(adata: AnnData, args: dict[str, Any], mode: str) -> np.ndarray:
    """Classes ``(n, H, W)`` or ``(n, T, H, W)``, the most probable ones of soft labels; else -1."""
    if args["labels_key"] in adata.obsm:
        maps = np.asarray(adata.obsm[args["labels_key"]])
        # labels may be others than at set-up
        _check_whole(maps, _name(args, "labels_key"))
        if maps.min() < VOID or maps.max() >= len(args["classes"]):
            raise ValueError(
                f"{_name(args, 'labels_key')} has values from {maps.min()} to {maps.max()}, but "
                f"classes are numbered from 0 to {len(args['classes']) - 1}, unlabelled pixels are "
                f"{UNLABELLED}, void ones {VOID}."
            )
        maps = maps.astype(np.int16)
    else:
        shape = read_series(adata, args).shape
        lead = shape[:1] if mode == "map" else shape[:2]
        maps = np.full((*lead, *shape[3:]), UNLABELLED, dtype=np.int16)
    soft = soft_label_maps(adata, args)
    if soft is None:
        return maps
    return np.where(soft.any(-3), soft.argmax(-3), maps).astype(np.int16)


def soft_label_maps(adata: AnnData, args: dict[str, Any]) -> np.ndarray | None:
    """Distributions ``(n, [T], L, H, W)`` that sum to 1, or 0 where there are none; None without.

    Raises
    ------
    TypeError
        If they are not floating point numbers.
    ValueError
        If there are not as many as classes, or they are no distributions.
    """
    if args["soft_labels_key"] not in adata.obsm:
        return None
    name, soft = _name(args, "soft_labels_key"), np.asarray(adata.obsm[args["soft_labels_key"]])
    if soft.dtype.kind != "f":
        raise TypeError(
            f"{name} holds {soft.dtype}, but soft labels are probabilities of the classes as "
            "floating point numbers, (n, classes, height, width)."
        )
    n_classes = len(args["classes"])
    if soft.shape[-3] != n_classes:
        raise ValueError(f"{name} has {soft.shape[-3]} classes, but there are {n_classes}.")
    # a NaN is neither above 0 nor below
    if not (soft >= 0).all():
        raise ValueError(
            f"{name} has {int((~(soft >= 0)).sum())} values that are negative or NaN. Pixels "
            "without soft labels have zeros for all classes."
        )
    total = soft.sum(-3, keepdims=True)
    wrong = (total > 0) & (np.abs(total - 1) > _SUM_TOLERANCE)
    if wrong.any():
        raise ValueError(
            f"{name} has {int(wrong.sum())} pixels whose probabilities sum to neither 1 nor 0, the "
            f"first to {total[wrong][0]:.4g}. Divide them by their sum, or set them to 0."
        )
    return (soft / np.where(total > 0, total, 1)).astype(np.float32)


def series_fields(args: dict[str, Any], known: dict[str, Any]) -> list[BaseAnnDataField]:
    """The fields of what :func:`resolve_series` found."""
    fields = [
        ArrayField(REGISTRY_KEYS.X_KEY, args["series_key"], known),
        DerivedField(OBSERVED_KEY, partial(observed_values, args=args)),
        DerivedField(FRAME_KEY, partial(acquired, args=args)),
        DerivedField(TIME_KEY, partial(dates, args=args)),
    ]
    if known["label_mode"] is not None:
        maps = partial(label_maps, args=args, mode=known["label_mode"])
        fields.append(DerivedField(REGISTRY_KEYS.LABELS_KEY, maps))
    if args["soft_labels_key"] is not None:
        maps = partial(_soft_or_zeros, args=args, mode=known["label_mode"])
        fields.append(DerivedField(SOFT_LABELS_KEY, maps))
    return fields


def _soft_or_zeros(adata: AnnData, args: dict[str, Any], mode: str) -> np.ndarray:
    """Soft labels; of new tiles without any zeros, which take no memory."""
    soft = soft_label_maps(adata, args)
    if soft is not None:
        return soft
    shape = read_series(adata, args).shape
    lead = shape[:1] if mode == "map" else shape[:2]
    return np.broadcast_to(np.float32(0), (*lead, len(args["classes"]), *shape[3:]))


def _name(args: dict[str, Any], key: str) -> str:
    return f"adata.obsm[{args[key]!r}] ({key})"


def _check_observed(adata: AnnData, args: dict[str, Any], series: np.ndarray) -> None:
    """Raise if a tile was never observed; warn of values that are no numbers, or no reflectance."""
    observed = observed_values(adata, args)
    empty = ~observed.any((1, 2, 3, 4))
    if empty.any():
        raise ValueError(
            f"{int(empty.sum())} of {len(series)} tiles have no valid pixel on any date, the first "
            f"{adata.obs_names[int(empty.argmax())]!r}. Leave them out: nothing is known of them."
        )
    is_float = series.dtype.kind == "f"
    unmarked = is_float and int((~np.isfinite(series) & _marked_valid(adata, args, series)).sum())
    if unmarked:
        warnings.warn(
            f"{_name(args, 'series_key')} has {unmarked} values that are NaN or infinite but "
            "not marked invalid; they are taken as invalid.",
            UserWarning,
            stacklevel=2,
        )
    largest = np.max(series, where=np.broadcast_to(observed, series.shape), initial=0)
    # bytes are photographs, and whole numbers as small as they may be counts
    if largest > (_LARGEST_REFLECTANCE if is_float else _LARGEST_BYTE):
        warnings.warn(
            f"{_name(args, 'series_key')} has values up to {largest:.4g}: reflectance is mostly "
            "below 1. If these are digital numbers, divide them (Sentinel-2: by 10,000), so that "
            "results are in units of reflectance. Training itself standardises each band.",
            UserWarning,
            stacklevel=2,
        )


def _check_dates(adata: AnnData, args: dict[str, Any], series: np.ndarray) -> None:
    if args["time_key"] is None:
        return
    time, frame = dates(adata, args), acquired(adata, args)
    largest = np.abs(time[frame]).max(initial=0.0)
    if _LAST_DAY < largest < np.inf:
        raise ValueError(
            f"{_name(args, 'time_key')} has {largest:.12g}, but dates are days since 1970-01-01 "
            "(2020-01-01 is 18262). Dates as 20200101, Julian dates or seconds become days by "
            "their datetime64: give these."
        )
    for row in range(len(time)):
        days = time[row][frame[row]]
        if not np.isfinite(days).all():
            raise ValueError(
                f"{_name(args, 'time_key')} lacks the date of an acquisition of tile "
                f"{adata.obs_names[row]!r}. Give it, or mark the date absent (frame_key, or no "
                "valid pixel): of absent ones dates may be unknown."
            )
        if (np.diff(days) <= 0).any():
            raise ValueError(
                f"{_name(args, 'time_key')} has dates of tile {adata.obs_names[row]!r} that repeat "
                "or are not in order. Sort the dates of each series, and join acquisitions of one "
                "day (the clearest pixel, or their mean)."
            )


def _classes(
    adata: AnnData, args: dict[str, Any], series: np.ndarray, source: dict[str, Any] | None
) -> tuple[list[str] | None, str | None]:
    """Names of the classes, and whether there is a map a series or a date."""
    classes = args["classes"]
    if classes is None and "classes" in adata.uns:
        classes = adata.uns["classes"]
    keys = [key for key in ("labels_key", "soft_labels_key") if args[key] is not None]
    if not keys:
        # a model that knows classes reads new tiles without labels
        return (args["classes"], source["label_mode"]) if source else (None, None)
    found_mode = source["label_mode"] if source else None
    n_found = 0
    for key in keys:
        name, values = _name(args, key), np.asarray(adata.obsm[args[key]])
        n_classes = values.shape[-3:-2] if key == "soft_labels_key" else ()
        mode = _label_mode(name, values.shape, series.shape, n_classes)
        if found_mode is not None and mode != found_mode:
            of = "the model was trained with" if source else "labels_key has"
            raise ValueError(f"{name} is {_MODES[mode]}, but {of} {_MODES[found_mode]}.")
        found_mode = mode
        if key == "labels_key":
            n_found = _n_classes(name, values, has_names=classes is not None)
        else:
            n_found = max(n_found, *n_classes)
    if not source and not _has_label(adata, args):
        raise ValueError(
            f"{name} has no labelled pixel at all. Leave {key} out, or check that classes are "
            f"numbered from 0 and only unlabelled pixels are {UNLABELLED} (of probabilities 0)."
        )
    classes = [str(i) for i in range(n_found)] if classes is None else [str(c) for c in classes]
    if n_found > len(classes):
        raise ValueError(
            f"{name} has class {n_found - 1}, but there are {len(classes)} classes, from 0."
        )
    # what is wrong with them is said before a model is built
    soft_label_maps(adata, args | {"classes": classes})
    return classes, found_mode


def _label_mode(
    name: str, shape: tuple[int, ...], series: tuple[int, ...], n_classes: tuple[int, ...]
) -> str:
    """Whether labels of a shape are a map a ``"map"`` or a ``"date"``; soft ones have classes."""
    by_mode = {
        "map": (series[0], *n_classes, *series[3:]),
        "date": (*series[:2], *n_classes, *series[3:]),
    }
    for mode, fits in by_mode.items():
        if shape == fits:
            return mode
    kind = "soft labels" if n_classes else "labels"
    raise ValueError(
        f"{name} has shape {shape}, but for series of shape {series} {kind} are {by_mode['map']}, "
        f"a map a tile, or {by_mode['date']}, a map a date."
    )


def _n_classes(name: str, labels: np.ndarray, has_names: bool) -> int:
    """One more than the largest class, 0 if no pixel has one."""
    _check_whole(labels, name)
    if labels.min() < VOID:
        raise ValueError(
            f"{name} has values below {VOID}: unlabelled pixels are {UNLABELLED}, void ones {VOID}."
        )
    n_found = max(int(labels.max()) + 1, 0)
    if not has_names and n_found == _LARGEST_BYTE + 1 and len(np.unique(labels)) <= _LARGEST_BYTE:
        raise ValueError(
            f"{name} has the value 255, by which rasters mark what is no class, and there are no "
            f"names of classes. Set it to {UNLABELLED} (unlabelled) or {VOID} (void) in whole "
            "numbers with a sign (int16), or name the classes: classes=[...]."
        )
    return n_found


def _has_label(adata: AnnData, args: dict[str, Any]) -> bool:
    """Whether any pixel has a class, hard or soft."""
    labels, soft = (adata.obsm.get(args[key]) for key in ("labels_key", "soft_labels_key"))
    return (labels is not None and np.max(labels) >= 0) or (soft is not None and np.any(soft))


def _check_whole(labels: np.ndarray, name: str) -> None:
    """Raise TypeError unless labels are whole numbers, whatever their type."""
    if labels.dtype.kind in "biu":
        return
    if labels.dtype.kind == "f" and (missing := np.isnan(labels)).any():
        raise TypeError(
            f"{name} has {int(missing.sum())} values that are NaN, but labels are numbers of "
            f"classes from 0: set them to {UNLABELLED} where pixels are unlabelled, or {VOID} "
            "where they are void."
        )
    if labels.dtype.kind != "f" or not (labels == np.round(labels)).all():
        raise TypeError(f"{name} holds {labels.dtype}, but labels are numbers of classes from 0.")
