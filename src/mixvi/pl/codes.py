"""What latent dimensions of a trained model hold: their KL, their spread, what they decode to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from scipy.stats import norm

from mixvi.core.arguments import check_positive, check_weight
from mixvi.metrics.information import kl_per_dimension
from mixvi.pl.images import images as draw_images

_DRAWN_AT_MOST = 12


def latent_kl(
    model: Any,
    adata: AnnData | None = None,
    indices: Sequence[int] | None = None,
    *,
    active_kl: float = 0.1,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Mean KL of each latent dimension to the prior, largest first; active ones are dark.

    A dimension with a KL near 0 tells nothing of the data: its posterior is the prior.

    Parameters
    ----------
    model
        A trained model with ``get_latent_representation``, of images or of cells.
    adata, indices
        Rows to encode; ``None``: all that the model was built on.
    active_kl
        KL in nats above which a dimension counts as active.
    title, ax
        Title, default the number of active dimensions, and the axes to draw on.
    """
    check_weight("active_kl", active_kl)
    kls = kl_per_dimension(*_posterior(model, adata, indices))
    order = np.argsort(-kls, kind="stable")
    n_active = int((kls > active_kl).sum())
    if ax is None:
        _, ax = plt.subplots(figsize=(1.5 + 0.35 * len(kls), 2.8), layout="constrained")
    colours = ["tab:blue" if kls[d] > active_kl else "0.75" for d in order]
    ax.bar(range(len(kls)), kls[order], color=colours)
    ax.axhline(active_kl, color="0.4", lw=0.8, ls="--")
    ax.set_xticks(range(len(kls)), [str(d) for d in order])
    ax.set(
        xlabel="latent dimension",
        ylabel="mean KL (nats)",
        title=title or f"{n_active} of {len(kls)} dimensions active",
    )
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def aggregate_posterior(
    model: Any,
    adata: AnnData | None = None,
    indices: Sequence[int] | None = None,
    *,
    n_bins: int = 50,
    seed: int = 0,
    axes: Sequence[Axes] | None = None,
) -> list[Axes]:
    """Draws of q(z), dimension by dimension, beside the prior N(0, 1); largest KL first.

    One draw of the posterior of each row (Mushom 2020, section 5.4).

    Parameters
    ----------
    model, adata, indices
        See :func:`latent_kl`.
    n_bins
        Bins a histogram.
    seed
        Of the draws.
    axes
        Axes to draw on, one a dimension; default new ones.

    Returns
    -------
    One axes a dimension.

    Raises
    ------
    ValueError
        If axes are not one a dimension.
    """
    check_positive("n_bins", n_bins)
    mean, variance = _posterior(model, adata, indices)
    kls = kl_per_dimension(mean, variance)
    noise = np.random.default_rng(seed).normal(size=mean.shape)
    z = mean + np.sqrt(variance) * noise
    n_dims = len(kls)
    if axes is None:
        n_columns = min(5, n_dims)
        n_rows = -(-n_dims // n_columns)
        size = (2.2 * n_columns, 1.9 * n_rows)
        _, grid = plt.subplots(
            n_rows, n_columns, figsize=size, squeeze=False, layout="constrained", sharex=True
        )
        axes = list(grid.ravel()[:n_dims])
        for spare in grid.ravel()[n_dims:]:
            spare.remove()
    if len(axes) != n_dims:
        raise ValueError(f"axes needs one entry a dimension ({n_dims}), has {len(axes)}.")
    limit = max(4.0, float(np.abs(z).max()))
    line = np.linspace(-limit, limit, 200)
    for ax, d in zip(axes, np.argsort(-kls, kind="stable"), strict=True):
        ax.hist(z[:, d], bins=n_bins, range=(-limit, limit), density=True, color="tab:blue")
        ax.plot(line, norm.pdf(line), color="0.2", lw=1)
        ax.set_title(f"z{d}: {kls[d]:.2f} nats", fontsize=9)
        ax.set_yticks([])
        ax.spines[["top", "right", "left"]].set_visible(False)
    return list(axes)


def traversals(
    model: Any,
    obs: int = 0,
    adata: AnnData | None = None,
    *,
    n_steps: int = 10,
    span: float = 3.0,
    n_dims: int | None = None,
    n_genes: int = 20,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """What is decoded as one latent dimension moves and the others stay; largest KL first.

    Starts at the posterior mean of one row; each dimension is set to equally spaced values
    (Mushom 2020, section 5.2). Of images a row a dimension; of cells a heat map of the genes that
    change most, from one end to the other.

    Parameters
    ----------
    model
        A trained model with ``get_latent_representation`` and ``decode_latent``.
    obs
        Number of the row to start at.
    adata
        Data; ``None``: those that the model was built on.
    n_steps, span
        How many values, from ``-span`` to ``span``.
    n_dims
        So many dimensions are drawn; ``None``: all, 12 at most.
    n_genes
        Genes of the heat map.
    title, ax
        Title, and the axes to draw on.

    Raises
    ------
    ValueError
        If there is no such row.
    """
    check_positive("n_steps", n_steps)
    check_positive("span", span, integer=False)
    adata = model.adata if adata is None else adata
    start = _row(model, adata, obs)
    kls = kl_per_dimension(*_posterior(model, adata, None))
    shown = np.argsort(-kls, kind="stable")[: n_dims or _DRAWN_AT_MOST]
    values = np.linspace(-span, span, n_steps)
    codes = np.repeat(start[None], len(shown) * n_steps, axis=0)
    for i, d in enumerate(shown):
        codes[i * n_steps : (i + 1) * n_steps, d] = values
    decoded = _decoded(model, codes, adata, obs)
    names = [f"z{d} ({kls[d]:.1f})" for d in shown]
    if decoded.ndim == 4:
        ends = ["" for _ in values]
        ends[0], ends[-1] = f"{-span:g}", f"{span:g}"
        return draw_images(
            decoded,
            n_images=len(decoded),
            n_columns=n_steps,
            row_labels=names,
            column_labels=ends,
            value_range=model.pixel_range,
            title=title,
            ax=ax,
        )
    change = decoded.reshape(len(shown), n_steps, -1)
    return _gene_changes(change[:, -1] - change[:, 0], names, adata, n_genes, title, ax)


def interpolations(
    model: Any,
    pairs: Sequence[tuple[int, int]] | None = None,
    adata: AnnData | None = None,
    *,
    clusters: str | None = None,
    n_pairs: int = 5,
    n_steps: int = 10,
    seed: int = 0,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Images of codes on straight lines from one image to another, a line a row.

    The first and the last of each row are the reconstructions of two images.

    Parameters
    ----------
    model
        A trained model of images.
    pairs
        Numbers of the two images of each line. ``None``: pairs at random.
    adata
        Images; ``None``: those that the model was built on.
    clusters
        Column of ``obs``: lines stay within a cluster, one for each, both ends at random in it.
    n_pairs
        Pairs at random, without ``clusters``.
    n_steps
        Images a row, both ends among them.
    seed
        Of the choice.
    title, ax
        Title, and the axes to draw on.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If pairs and clusters are both given, or an image is not there.
    """
    check_positive("n_steps", n_steps)
    adata = model.adata if adata is None else adata
    names = None
    if pairs is None:
        pairs, names = _random_pairs(adata, clusters, n_pairs, seed)
    elif clusters is not None:
        raise ValueError("pairs says which images; leave clusters out, or pairs.")
    shares = np.linspace(0.0, 1.0, n_steps)[:, None]
    lines = []
    for first, last in pairs:
        ends = [_row(model, adata, place) for place in (first, last)]
        lines.append((1.0 - shares) * ends[0] + shares * ends[1])
    decoded = _decoded(model, np.concatenate(lines), adata, pairs[0][0])
    return draw_images(
        decoded,
        n_images=len(decoded),
        n_columns=n_steps,
        row_labels=names,
        value_range=model.pixel_range,
        title=title,
        ax=ax,
    )


def _posterior(
    model: Any, adata: AnnData | None, indices: Sequence[int] | None
) -> tuple[np.ndarray, np.ndarray]:
    return model.get_latent_representation(adata, indices, return_dist=True)


def _row(model: Any, adata: AnnData, place: int) -> np.ndarray:
    """Posterior mean ``(D,)`` of one row."""
    if not 0 <= place < adata.n_obs:
        raise ValueError(f"There is no row {place}: rows are 0 to {adata.n_obs - 1}.")
    return model.get_latent_representation(adata, [int(place)])[0]


def _decoded(model: Any, codes: np.ndarray, adata: AnnData, obs: int) -> np.ndarray:
    if hasattr(model, "image_shape"):
        return model.decode_latent(codes)
    # cells are decoded with covariates, those of the row at which the codes start
    return model.decode_latent(codes, adata, np.full(len(codes), obs))


def _random_pairs(
    adata: AnnData, clusters: str | None, n_pairs: int, seed: int
) -> tuple[list[tuple[int, int]], list[str] | None]:
    rng = np.random.default_rng(seed)
    if clusters is None:
        check_positive("n_pairs", n_pairs)
        return [tuple(rng.choice(adata.n_obs, 2, replace=False)) for _ in range(n_pairs)], None
    if clusters not in adata.obs:
        raise KeyError(f"adata.obs has no column {clusters!r}.")
    pairs, names = [], []
    for name, rows in adata.obs.groupby(clusters, observed=True).indices.items():
        if len(rows) > 1:
            pairs.append(tuple(rng.choice(rows, 2, replace=False)))
            names.append(str(name))
    if not pairs:
        raise ValueError(f"No cluster of {clusters!r} has two images.")
    return pairs, names


def _gene_changes(
    change: np.ndarray,
    names: list[str],
    adata: AnnData,
    n_genes: int,
    title: str | None,
    ax: Axes | None,
) -> Axes:
    """Heat map of ``(n_dims, n_genes)`` differences between both ends of each dimension."""
    check_positive("n_genes", n_genes)
    genes = np.argsort(-np.abs(change).max(axis=0))[:n_genes]
    # those of one dimension side by side
    genes = genes[np.argsort(np.abs(change[:, genes]).argmax(axis=0), kind="stable")]
    if ax is None:
        size = (2.5 + 0.28 * len(genes), 1.2 + 0.28 * len(names))
        _, ax = plt.subplots(figsize=size, layout="constrained")
    limit = float(np.abs(change).max()) or 1.0
    drawn = ax.imshow(change[:, genes], cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.set_xticks(range(len(genes)), adata.var_names[genes], rotation=90, fontsize=8)
    ax.figure.colorbar(drawn, ax=ax, shrink=0.8, label="change from end to end")
    if title:
        ax.set_title(title)
    return ax
