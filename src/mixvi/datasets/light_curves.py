"""Light curves of variable stars, one object a row, with classes and periods."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from mixvi.core.arguments import check_positive
from mixvi.core.data.light_curves import padded_curves
from mixvi.datasets.fetch import DataFile, fetch

_LONG = "Prepared from the repository longjp/lightcurves."
ASAS_VARIABLES = DataFile(
    "asas_variables",
    "asas_variables.npz",
    "7ad1de69d5df40ec8b75746c3a1171cbbf43cdebdde3d80e375b8eaeb6d1deb0",
    f"ASAS, Pojmanski (1997, 2002). {_LONG}",
)
DEBOSSCHER_VARIABLES = DataFile(
    "debosscher_variables",
    "debosscher_variables.npz",
    "75d32219575b12a7c76dd685bde5097ba1f3e7c1b1357f42d68fb8d42d89d1d4",
    f"OGLE and Hipparcos (ESA 1997), after Debosscher et al. (2007). {_LONG}",
)
SDSS82_RRLYRAE = DataFile(
    "sdss82_rrlyrae",
    "sdss82_rrlyrae.npz",
    "c738e362c86d24653b4145736f5d68d0f741fc46c7aa0c1e74dff8950d731c3a",
    "SDSS Stripe 82, Sesar et al. (2010). Prepared from the repository light-curve/test-data.",
)
# LCtype of the attributes of LINEAR III
_LINEAR_TYPES = {
    1: "RR Lyrae FM",
    2: "RR Lyrae FO",
    4: "Single Minimum",
    5: "Beta Persei",
    6: "W Ursae Majoris",
    7: "Delta Scuti",
    8: "Long Period",
    9: "Heartbeat",
    10: "BL Herculis",
    11: "Anomalous Cepheid",
}
_LINEAR_COLUMNS = "LINEARobjectID ra dec ug gi iK JK logP Ampl skew kurt magMed nObs LCtype".split()


def asas_variables(*, max_points: int | None = None, verify: bool = True) -> AnnData:
    """10,948 V-band light curves of ASAS, 9 classes of variable stars (Pojmanski 2002).

    Five of the classes are those of the LINEAR set of Naul et al. 2018. Periods were found in
    ranges that depend on the class: folding by them is as with those of a catalogue, but they are
    no feature for a claim about classification.

    Parameters
    ----------
    max_points
        At most so many observations a curve, evenly among those in order of time; the longest has
        1,985. All of them take 370 MB.
    verify
        Whether the file must have the expected checksum.

    Returns
    -------
    AnnData, one star a row: ``obsm["time"]`` (n, L), heliocentric Julian dates,
    ``obsm["magnitude"]``, ``obsm["error"]`` and ``obsm["valid"]``; ``obs["label"]``,
    ``obs["period"]`` in days, ``obs["asas_id"]``, ``obs["ra"]``, ``obs["dec"]`` and
    ``obs["folded_scatter"]``: below 0.5 periods are well determined.

    Raises
    ------
    FileNotFoundError
        If the file is not here.
    ValueError
        If its checksum is another.
    """
    with np.load(fetch(ASAS_VARIABLES, verify)) as file:
        file = dict(file)
    return _curves(
        file["offsets"],
        2_450_000.0 + file["time_1e5"] / 1e5,
        file["mag_milli"] / 1000.0,
        file["err_milli"] / 1000.0,
        max_points,
        names=file["asas_id"],
        label=pd.Categorical.from_codes(file["label"], file["class_names"].astype(str)),
        period=file["period"],
        asas_id=file["asas_id"].astype(str),
        ra=file["ra"],
        dec=file["dec"],
        folded_scatter=file["folded_scatter"],
    )


def debosscher_variables(*, max_points: int | None = None, verify: bool = True) -> AnnData:
    """1,392 light curves of OGLE and Hipparcos in 26 classes (Debosscher et al. 2007).

    Survey and class go together: nearly all eclipsing stars are OGLE's, most others Hipparcos'. Of
    eclipsing stars the period may be half the orbital one.

    Returns
    -------
    AnnData as of :func:`asas_variables`, with ``obs["survey"]``; times are heliocentric Julian
    dates of OGLE and barycentric ones less 2,440,000 of Hipparcos.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`asas_variables`.
    """
    with np.load(fetch(DEBOSSCHER_VARIABLES, verify)) as file:
        file = dict(file)
    return _curves(
        file["offsets"],
        file["time"],
        file["mag"],
        file["err"],
        max_points,
        names=file["source_id"],
        label=pd.Categorical.from_codes(file["label"], file["class_names"].astype(str)),
        period=file["period_tcp"],
        survey=pd.Categorical(file["survey"].astype(str)),
        ra=file["ra"],
        dec=file["dec"],
        folded_scatter=file["folded_scatter"],
    )


def sdss82_rrlyrae(*, verify: bool = True) -> AnnData:
    """483 RR Lyrae of SDSS Stripe 82 in five bands, u, g, r, i, z (Sesar et al. 2010).

    Returns
    -------
    AnnData as of :func:`asas_variables` with arrays ``(n, L, 5)``, modified Julian dates,
    ``uns["bands"]`` and ``obs["label"]``, ``"ab"`` or ``"c"``.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`asas_variables`.
    """
    with np.load(fetch(SDSS82_RRLYRAE, verify)) as file:
        file = dict(file)
    return _curves(
        file["offsets"],
        file["time"],
        file["mag"],
        file["err"],
        None,
        bands=file["band"],
        band_names=list("ugriz"),
        names=file["object_id"],
        label=pd.Categorical(file["type"].astype(str)),
        period=file["period"],
    )


def linear_variables(directory: str | Path, *, max_points: int | None = None) -> AnnData:
    """Light curves of LINEAR III (Palaversa et al. 2013) from a copy of your own.

    Parameters
    ----------
    directory
        With ``PLV_LINEAR.dat`` (the table of attributes, with ``LCtype`` and ``logP``) and
        ``<LINEARobjectID>.dat`` of three columns, modified Julian date, magnitude and error, a
        star, there or in folders below.
    max_points
        As of :func:`asas_variables`.

    Returns
    -------
    AnnData as of :func:`asas_variables`, of the stars that have a file.

    Raises
    ------
    FileNotFoundError
        If the table, or every light curve, is missing.
    """
    directory = Path(directory)
    tables = sorted(directory.rglob("PLV_LINEAR.dat*"))
    if not tables:
        raise FileNotFoundError(f"{directory} has no PLV_LINEAR.dat, LINEAR's table of attributes.")
    known = pd.read_csv(tables[0], sep=r"\s+", comment="#", header=None, names=_LINEAR_COLUMNS)
    files = {path.stem: path for path in directory.rglob("*.dat") if path.stem.isdigit()}
    known = known[known["LINEARobjectID"].astype(str).isin(files)]
    if not len(known):
        raise FileNotFoundError(f"{directory} has no light curves <LINEARobjectID>.dat.")
    ids = known["LINEARobjectID"].astype(str).to_numpy()
    curves = [np.loadtxt(files[name], ndmin=2)[:, :3] for name in ids]
    offsets = np.cumsum([0, *map(len, curves)])
    time, magnitude, error = np.concatenate(curves).T
    codes = known["LCtype"].astype(int)
    return _curves(
        offsets,
        time,
        magnitude,
        error,
        max_points,
        names=ids,
        label=pd.Categorical([_LINEAR_TYPES.get(code, f"Type {code}") for code in codes]),
        period=10.0 ** known["logP"].to_numpy(np.float64),
        ra=known["ra"].to_numpy(),
        dec=known["dec"].to_numpy(),
    )


def _curves(
    offsets: np.ndarray,
    time: np.ndarray,
    magnitude: np.ndarray,
    error: np.ndarray,
    max_points: int | None,
    *,
    names: np.ndarray,
    bands: np.ndarray | None = None,
    band_names: list[str] | None = None,
    **obs: object,
) -> AnnData:
    """AnnData of curves that follow each other; curve i is ``offsets[i]:offsets[i + 1]``."""
    sizes = np.diff(offsets)
    codes = np.repeat(np.arange(len(sizes)), sizes)
    arrays = {"codes": codes, "time": time, "magnitude": magnitude, "error": error}
    if max_points is not None:
        check_positive("max_points", max_points)
        order = np.lexsort((time, codes))
        place = np.arange(len(codes)) - np.repeat(offsets[:-1], sizes)
        share = max_points / np.repeat(np.maximum(sizes, max_points), sizes)
        kept = order[np.floor((place + 1) * share + 1e-9) > np.floor(place * share + 1e-9)]
        arrays = {name: values[kept] for name, values in arrays.items()}
    options = {"n_objects": len(sizes), "n_bands": len(band_names or ("",))}
    obsm = padded_curves(**arrays, bands=bands, **options)
    index = pd.Index(np.asarray(names).astype(str))
    if not index.is_unique:
        again = pd.Series(index).groupby(index.to_numpy()).cumcount().to_numpy()
        index = index.where(again == 0, index + "_" + again.astype(str))
    adata = AnnData(obs=pd.DataFrame(obs, index=index), obsm=obsm)
    if band_names is not None:
        adata.uns["bands"] = band_names
    return adata
