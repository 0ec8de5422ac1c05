"""Many trained models in one figure: scores, errors, information, agreement, spread, shifts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from mixvi.metrics.agreement import check_columns, rank_agreement
from mixvi.metrics.downstream import DownstreamScore
from mixvi.pl.latent import category_colours

_MARKERS = "osD^vP*X<>"


def tradeoff(
    results: pd.DataFrame,
    score: str,
    *,
    error: str = "reconstruction",
    by: str = "method",
    strength: str | None = "strength",
    ax: Axes | None = None,
) -> Axes:
    """A score of trained models against their error; stronger models are larger (Mushom 2020).

    Parameters
    ----------
    results
        One row a model.
    score, error
        Its figures.
    by
        Column that colours stand for.
    strength
        Column that sizes stand for, ranked within ``by``; ``None``: all alike.
    ax
        Axes to draw on.

    Raises
    ------
    KeyError
        If a column is missing.
    """
    check_columns(results, [score, error, by, *([strength] if strength else [])])
    ax = _axes(ax, (4.6, 3.4))
    groups = list(results.groupby(by, observed=True, sort=False))
    for (name, rows), colour, marker in zip(
        groups, category_colours(len(groups)), _cycled(len(groups)), strict=True
    ):
        sizes = 30.0
        if strength is not None:
            sizes = 20.0 + 20.0 * rows[strength].rank(method="dense")
        ax.scatter(
            rows[error], rows[score], s=sizes, color=colour, marker=marker, alpha=0.7, label=name
        )
    ax.set(xlabel=error.replace("_", " "), ylabel=score.replace("_", " "))
    _legend_beside(ax)
    return ax


def information(
    results: pd.DataFrame,
    colour: str,
    *,
    information: str = "mi_total",
    error: str = "log_mse_x",
    by: str = "method",
    ax: Axes | None = None,
) -> Axes:
    """Information of codes against the error of reconstruction, coloured by a figure.

    A point a method, the mean of its models, with its name beside it (Astorga 2021, figures 6.3 to
    6.8, coloured by the accuracy of a linear probe or by FID).

    Parameters
    ----------
    results
        One row a model.
    colour
        Figure that colours stand for, such as accuracy or FID.
    information
        Figure of the information between images and codes, in nats, such as
        :func:`mixvi.metrics.mutual_information`.
    error
        Figure of the error, such as :func:`mixvi.metrics.log_mse`.
    by
        Column of methods.
    ax
        Axes to draw on.

    Raises
    ------
    KeyError
        If a column is missing.
    ValueError
        If there are no results.
    """
    check_columns(results, [colour, information, error, by])
    if not len(results):
        raise ValueError("results has no rows: pass one a model.")
    means = results.groupby(by, observed=True, sort=False)[[error, information, colour]].mean()
    ax = _axes(ax, (5.0, 3.6))
    points = ax.scatter(means[error], means[information], c=means[colour], cmap="viridis", s=45)
    ax.set(xlabel=_words(error), ylabel=_words(information))
    ax.spines[["top", "right"]].set_visible(False)
    ax.margins(x=0.15)
    _name_points(ax, means.index.astype(str), means[[error, information]].to_numpy())
    ax.figure.colorbar(points, ax=ax, shrink=0.8, label=_words(colour))
    return ax


def rank_correlations(
    results: pd.DataFrame,
    rows: Sequence[str],
    columns: Sequence[str] | None = None,
    *,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Heat map of Spearman correlations over trained models.

    Parameters
    ----------
    results, rows, columns
        See :func:`mixvi.metrics.rank_agreement`.
    title, ax
        Title, and the axes to draw on.
    """
    table = rank_agreement(results, rows, columns)
    ax = _axes(ax, (1.8 + 0.7 * table.shape[1], 1.2 + 0.5 * table.shape[0]))
    values = table.to_numpy()
    drawn = ax.imshow(values, cmap="RdBu_r", vmin=-1, vmax=1)
    for (i, j), value in np.ndenumerate(values):
        colour = "white" if abs(value) > 0.6 else "black"
        text = "–" if np.isnan(value) else f"{value:.2f}"
        ax.text(j, i, text, ha="center", va="center", color=colour, fontsize=8)
    ax.set_xticks(
        range(table.shape[1]), [_words(c) for c in table.columns], rotation=45, ha="right"
    )
    ax.set_yticks(range(table.shape[0]), [_words(r) for r in table.index])
    ax.figure.colorbar(drawn, ax=ax, shrink=0.8, label="Spearman")
    if title:
        ax.set_title(title)
    return ax


def robustness(
    results: pd.DataFrame,
    score: str,
    *,
    by: str = "method",
    strength: str = "strength",
    ax: Axes | None = None,
) -> Axes:
    """A score of each method at each strength: every seed a point, medians as bars.

    Parameters
    ----------
    results
        One row a model.
    score
        Its figure.
    by, strength
        Columns of methods and strengths.
    ax
        Axes to draw on.

    Raises
    ------
    KeyError
        If a column is missing.
    """
    check_columns(results, [score, by, strength])
    methods = list(results.groupby(by, observed=True, sort=False))
    settings = [
        (name, value, rows[score].to_numpy(float))
        for name, of in methods
        for value, rows in of.groupby(strength, observed=True)
    ]
    ax = _axes(ax, (1.5 + 0.45 * len(settings), 3.2))
    colours = dict(zip((n for n, _ in methods), category_colours(len(methods)), strict=True))
    for place, (name, _, values) in enumerate(settings):
        # side by side rather than on top of each other
        shift = np.linspace(-0.2, 0.2, len(values)) if len(values) > 1 else np.zeros(1)
        ax.scatter(place + shift, values, s=14, color=colours[name], alpha=0.7, linewidths=0)
        ax.hlines(np.median(values), place - 0.3, place + 0.3, color="0.2", lw=1.5)
    ax.set_xticks(range(len(settings)), [f"{value:g}" for _, value, _ in settings])
    ax.set(xlabel=_words(strength), ylabel=_words(score))
    for name, colour in colours.items():
        ax.scatter([], [], s=30, color=colour, label=name)
    _legend_beside(ax)
    return ax


def sample_efficiency(scores: Mapping[str, DownstreamScore], *, ax: Axes | None = None) -> Axes:
    """Mean accuracy of a downstream task by the number of labels, a line a model.

    Parameters
    ----------
    scores
        Name to what :func:`mixvi.metrics.downstream_probe` found; perfect codes among them show
        what is to be reached.
    ax
        Axes to draw on.

    Raises
    ------
    ValueError
        If there are none.
    """
    if not scores:
        raise ValueError("scores is empty: pass one result of downstream_probe or more.")
    ax = _axes(ax, (4.6, 3.2))
    for (name, score), colour, marker in zip(
        scores.items(), category_colours(len(scores)), _cycled(len(scores)), strict=True
    ):
        means = score.accuracy["mean"]
        text = name
        if np.isfinite(score.sample_efficiency):
            text = f"{name} ({score.sample_efficiency:.2f})"
        ax.plot(means.index, means, color=colour, marker=marker, ms=5, label=text)
    ax.set(xscale="log", xlabel="labelled rows", ylabel="mean test accuracy", ylim=(0, 1.02))
    _legend_beside(ax)
    return ax


def domain_shift(report: pd.DataFrame, *, axes: Sequence[Axes] | None = None) -> list[Axes]:
    """How a model takes changed images, a panel a figure.

    Parameters
    ----------
    report
        What :func:`mixvi.metrics.domain_shift` found.
    axes
        Axes to draw on, one a column; default new ones.

    Returns
    -------
    One axes a column of the report.

    Raises
    ------
    ValueError
        If axes are not one a column.
    """
    names = {
        "displacement": "shift of code / spread",
        "kl": "mean KL (nats)",
        "iou": "IoU with clean image",
        "invariance": "IoU between outputs",
    }
    if axes is None:
        size = (2.6 * report.shape[1], 0.9 + 0.3 * len(report))
        _, grid = plt.subplots(
            1, report.shape[1], figsize=size, squeeze=False, layout="constrained", sharey=True
        )
        axes = list(grid.ravel())
    if len(axes) != report.shape[1]:
        raise ValueError(f"axes needs one entry a column ({report.shape[1]}), has {len(axes)}.")
    for ax, column in zip(axes, report.columns, strict=True):
        ax.barh(range(len(report)), report[column], color="tab:blue")
        ax.set_yticks(range(len(report)), report.index)
        ax.set_xlabel(names.get(column, column), fontsize=9)
        if column in ("iou", "invariance"):
            ax.set_xlim(0, 1)
        ax.spines[["top", "right"]].set_visible(False)
    if not axes[0].yaxis_inverted():
        axes[0].invert_yaxis()
    return list(axes)


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    return plt.subplots(figsize=size, layout="constrained")[1] if ax is None else ax


def _name_points(ax: Axes, names: Sequence[str], points: np.ndarray, size: float = 7) -> None:
    """Write a name beside each point ``(n, 2)``, higher where another name is in the way."""
    # limits are due only now, and places in points of print, as sizes of letters are
    ax.autoscale_view()
    places = ax.transData.transform(points) * 72 / ax.figure.dpi
    taken: list[tuple[float, float, float]] = []
    for i in np.argsort(places[:, 1], kind="stable"):
        (left, y), width, lift = places[i], 0.6 * size * len(names[i]), 3.0
        while any(
            left < right and start < left + width and abs(y + lift - other) < size + 1
            for start, right, other in taken
        ):
            lift += 1.0
        taken.append((left, left + width, y + lift))
        ax.annotate(names[i], points[i], (5, lift), textcoords="offset points", fontsize=size)


def _cycled(n: int) -> str:
    return (_MARKERS * (n // len(_MARKERS) + 1))[:n]


def _words(name: str) -> str:
    return str(name).replace("_", " ")


def _legend_beside(ax: Axes) -> None:
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
    ax.spines[["top", "right"]].set_visible(False)
