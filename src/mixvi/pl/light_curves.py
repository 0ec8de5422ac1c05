"""Light curves: observations with what a model makes of them, and the strangest of many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from scipy.stats import norm

from mixvi.core.arguments import check_count, check_positive, check_share
from mixvi.core.data.alignment import in_order_of, names_of
from mixvi.metrics.anomaly import anomaly_scores
from mixvi.pl.latent import category_colours

_GRID = 300


class CurveModel(Protocol):
    """What plots ask of a model of light curves, such as :class:`mixvi.lightcurves.LCVaDE`."""

    adata: AnnData

    def get_phases(self, adata, indices): ...  # noqa: D102
    def interpolate(self, times, adata, indices, *, phases): ...  # noqa: D102
    def get_induction_points(self, adata, indices): ...  # noqa: D102


def folded_curve(
    model: CurveModel,
    curve: int | str = 0,
    adata: AnnData | None = None,
    *,
    coverage: float = 0.9,
    induction_points: bool = True,
    magnitude_key: str = "magnitude",
    error_key: str = "error",
    ax: Axes | None = None,
) -> Axes:
    """Observations of one object by phase, with the decoded mean, its band and induction points.

    Parameters
    ----------
    model
        A trained model that decodes curves.
    curve
        Number or name of the row of ``obs``.
    adata
        Light curves; ``None``: those of the model.
    coverage
        Share of the observations that the band is to hold.
    induction_points
        Whether they are drawn, with their noise.
    magnitude_key, error_key
        Keys of ``obsm``.
    ax
        Axes to draw on.

    Returns
    -------
    The axes; magnitudes grow downwards.

    Raises
    ------
    KeyError
        If there is no such row.
    """
    check_share("coverage", coverage)
    adata = model.adata if adata is None else adata
    row = _row(adata, curve)
    if ax is None:
        _, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
    n_bands = _by_band(adata.obsm[magnitude_key][row : row + 1]).shape[0]
    names = [str(band) for band in adata.uns.get("bands", range(n_bands))]
    colours = ["0.25"] if n_bands == 1 else category_colours(n_bands)
    _observations(model, adata, row, magnitude_key, error_key, ax, colours, names)
    grid = np.linspace(0.0, 1.0, _GRID, endpoint=False)
    mean, sd = (_by_band(a) for a in model.interpolate(grid, adata, [row], phases=True))
    factor = norm.ppf(0.5 + coverage / 2)
    for b in range(n_bands):
        colour = "C0" if n_bands == 1 else colours[b]
        ax.plot(grid, mean[b], color=colour, lw=1.5)
        low, high = mean[b] - factor * sd[b], mean[b] + factor * sd[b]
        ax.fill_between(grid, low, high, color=colour, alpha=0.2, lw=0)
    if induction_points:
        phase, *found = model.get_induction_points(adata, [row])
        for b, (values, noise) in enumerate(zip(*map(_by_band, found), strict=True)):
            colour = "C3" if n_bands == 1 else colours[b]
            ax.errorbar(phase, values, noise, fmt="D", ms=4, color=colour, mfc="w", lw=0.8)
    ax.set(xlabel="phase", ylabel="magnitude", title=str(adata.obs_names[row]), xlim=(0, 1))
    ax.invert_yaxis()
    if n_bands > 1:
        ax.legend(title="band", frameon=False, fontsize=8)
    return ax


def strangest_curves(
    model: CurveModel,
    score: pd.Series,
    adata: AnnData | None = None,
    *,
    n: int = 10,
    color: str | None = None,
    n_columns: int = 5,
    magnitude_key: str = "magnitude",
    error_key: str = "error",
) -> list[Axes]:
    """The objects of the highest anomaly scores as a contact sheet, the strangest first.

    Parameters
    ----------
    model
        A trained model that decodes curves.
    score
        Score by name of object, as ``model.get_anomaly_score()`` gives it.
    adata
        Light curves; ``None``: those of the model.
    n
        How many.
    color
        Column of ``obs`` that titles name beside the score, such as a class.
    n_columns
        Of the sheet.
    magnitude_key, error_key
        Keys of ``obsm``.

    Returns
    -------
    One axes an object.

    Raises
    ------
    KeyError
        If a name is no object's, or the column is missing.
    """
    check_positive("n", n)
    check_positive("n_columns", n_columns)
    adata = model.adata if adata is None else adata
    top = score.sort_values(ascending=False).head(n)
    n_rows = -(-len(top) // n_columns)
    size = (2.4 * n_columns, 2.0 * n_rows)
    _, grid = plt.subplots(n_rows, n_columns, figsize=size, squeeze=False, layout="constrained")
    axes = list(grid.ravel())
    for ax in axes[len(top) :]:
        ax.set_axis_off()
    for ax, (name, value) in zip(axes, top.items(), strict=False):
        options = {"magnitude_key": magnitude_key, "error_key": error_key}
        folded_curve(model, name, adata, induction_points=False, ax=ax, **options)
        known = "" if color is None else f"\n{adata.obs.loc[name, color]}"
        ax.set_title(f"{name}: {value:.3g}{known}", fontsize=7)
        ax.set(xlabel="", ylabel="", xticks=[0, 0.5, 1])
        ax.tick_params(labelsize=6)
        if ax.get_legend() is not None:
            ax.get_legend().remove()
    return axes[: len(top)]


def anomaly_histogram(
    score: pd.Series | Sequence[float],
    strange: Sequence,
    *,
    n_bins: int = 30,
    ax: Axes | None = None,
) -> Axes:
    """Histograms of the scores of known and of strange objects (Astorga 2021, fig. 9.5).

    Parameters
    ----------
    score
        Strangeness ``(n_obs,)``, as ``model.get_anomaly_score()`` gives it.
    strange
        Bool ``(n_obs,)``: which objects are strange; a Series by the names of the scores.
    n_bins
        Bins, the same of both.
    ax
        Axes to draw on.

    Returns
    -------
    The axes; titled by the areas under both curves of :func:`mixvi.metrics.anomaly_scores`.

    Raises
    ------
    ValueError
        If lengths differ, objects are not of both kinds, or a score is missing.
    """
    check_positive("n_bins", n_bins)
    areas = anomaly_scores(strange, score)
    strange = np.asarray(in_order_of(names_of(score), strange, "strange")).astype(bool)
    values = np.asarray(score, dtype=np.float64)
    if ax is None:
        _, ax = plt.subplots(figsize=(5, 3.4), layout="constrained")
    bins = np.histogram_bin_edges(values, n_bins)
    for name, rows, colour in (("known", ~strange, "C0"), ("strange", strange, "C3")):
        label = f"{name} ({int(rows.sum())})"
        ax.hist(values[rows], bins, density=True, color=colour, alpha=0.5, label=label)
    title = f"AUCROC {areas['aucroc']:.1f}, AUCPR {areas['aucpr']:.1f}"
    ax.set(xlabel=getattr(score, "name", None) or "score", ylabel="density", title=title)
    ax.legend(frameon=False)
    return ax


def _row(adata: AnnData, curve: int | str) -> int:
    if isinstance(curve, str):
        rows = np.flatnonzero(adata.obs_names == curve)
        if len(rows) != 1:
            raise KeyError(f"curve={curve!r} is the name of {len(rows)} rows of adata.obs.")
        return int(rows[0])
    check_count("curve", curve)
    if curve >= adata.n_obs:
        raise KeyError(f"curve={curve}, but there are {adata.n_obs} curves, from 0.")
    return int(curve)


def _by_band(values: np.ndarray) -> np.ndarray:
    """Values of one object ``(1, T)`` or ``(1, T, bands)``: ``(bands, T)``."""
    return values if values.ndim == 2 else values[0].T


def _observations(
    model: CurveModel,
    adata: AnnData,
    row: int,
    magnitude_key: str,
    error_key: str,
    ax: Axes,
    colours: Sequence,
    names: Sequence[str],
) -> None:
    phase = _by_band(model.get_phases(adata, [row]))
    magnitude, error = (
        _by_band(np.asarray(adata.obsm[key])[row : row + 1]) for key in (magnitude_key, error_key)
    )
    for b, name in enumerate(names):
        seen = np.isfinite(phase[b])
        values = [array[b][seen] for array in (phase, magnitude, error)]
        ax.errorbar(*values, fmt=".", ms=3, lw=0.5, color=colours[b], alpha=0.6, label=name)
