"""Satellite image series: strips with gaps, maps with their uncertainty, the course of a pixel."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import matplotlib.pyplot as plt
import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize, to_rgb
from matplotlib.patches import Patch

from mixvi.core.arguments import check_positive, near_matches
from mixvi.core.data.checks import check_key
from mixvi.core.data.keys import UNLABELLED, VOID
from mixvi.pl.latent import category_colours, colour_bar

_STRIPES = "0.78", "0.62"
_UNLABELLED, _VOID = "0.92", "0.25"
_TRUE_COLOURS = (("B04", "B03", "B02"), ("red", "green", "blue"))


def image_series(
    adata: AnnData,
    tile: int | str = 0,
    *,
    bands: Sequence[str | int] | str | int | None = None,
    index: tuple[str | int, str | int] | None = None,
    imputed_key: str | None = None,
    series_key: str = "series",
    valid_key: str = "valid",
    time_key: str = "time",
    dates: Sequence[int] | None = None,
    n_dates: int = 8,
    value_range: tuple[float, float] | None = None,
    axes: Sequence[Axes] | None = None,
) -> list[Axes]:
    """A series of one tile as a strip of images, what is not valid striped; imputed ones beneath.

    Parameters
    ----------
    adata
        Tiles with series ``(n, T, C, H, W)`` or images ``(n, C, H, W)`` in ``obsm``.
    tile
        Number or name of the row of ``obs``.
    bands
        One band, drawn in shades, or three as red, green and blue: names of ``uns["bands"]`` or
        numbers. Default: B04, B03 and B02, or red, green and blue, if there are such, else the
        first band.
    index
        Two bands a and b whose normalised difference (a - b) / (a + b) is drawn instead, e.g.
        ``("B08", "B04")`` for NDVI; from -1 to 1 unless ``value_range`` says otherwise.
    imputed_key
        Key of ``obsm`` with the series without gaps, of the same shape.
    series_key, valid_key, time_key
        Keys of ``obsm``. Without ``valid_key`` what is finite is valid; without ``time_key`` dates
        are numbered.
    dates
        Numbers of the dates drawn.
    n_dates
        Without ``dates``: so many at most, evenly spaced.
    value_range
        Values drawn darkest and brightest; default the 2nd and 98th percentile of the valid values
        drawn, of all bands together.
    axes
        Axes to draw on, one a date, and again as many for the imputed ones.

    Returns
    -------
    One axes a date, and one more a date with ``imputed_key``.

    Raises
    ------
    IndexError
        If there is no such tile or date.
    KeyError
        If a key, a tile or a band is missing.
    ValueError
        If bands are neither one nor three, or shapes or the number of axes do not fit.
    """
    check_positive("n_dates", n_dates)
    at = _tile(adata, tile)
    series = _series(adata, series_key, at)
    chosen = _chosen(adata, series, bands, index)
    drawn = _dates(series, dates, n_dates)
    valid = _valid(adata, valid_key, series, at)[drawn][:, chosen].all(1)
    strips = {"observed": _composite(series[drawn][:, chosen], index is not None)}
    if imputed_key is not None:
        imputed = _same_shape(adata, imputed_key, series, at)
        strips["imputed"] = _composite(imputed[drawn][:, chosen], index is not None)
    low, high = value_range or _range(strips["observed"], valid, index is not None)
    cmap = plt.get_cmap("viridis" if index is None else "RdYlGn")
    axes = _axes(axes, len(strips), len(drawn), series.shape[-2:])
    names = _date_names(adata, time_key, at, len(series))
    for r, (name, images) in enumerate(strips.items()):
        shown = valid if r == 0 else np.isfinite(images).all(-1)
        for c, image in enumerate(images):
            ax = axes[r * len(drawn) + c]
            ax.imshow(_rgb(image, shown[c], low, high, cmap), interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            if r == 0:
                ax.set_title(names[drawn[c]], fontsize=8)
        axes[r * len(drawn)].set_ylabel(name)
    if strips["observed"].shape[-1] == 1:
        shades = ScalarMappable(Normalize(low, high), cmap)
        axes[0].figure.colorbar(shades, ax=axes, shrink=0.8, pad=0.01)
    return axes


def segmentation(
    adata: AnnData,
    tile: int | str = 0,
    *,
    prediction_key: str,
    labels_key: str | None = "labels",
    entropy_key: str | None = None,
    date: int | None = None,
    axes: Sequence[Axes] | None = None,
) -> list[Axes]:
    """Predicted map of one tile, beside its labels and the entropy of the prediction.

    Of a tile that reaches beyond its scene (``uns["scene"]``), what lies there is void and its
    entropy is left blank.

    Parameters
    ----------
    adata
        Tiles; ``uns["classes"]`` names the classes and ``uns["colors"]`` may give their colours.
    tile
        Number or name of the row of ``obs``.
    prediction_key
        Key of ``obsm`` with codes ``(n, H, W)`` or ``(n, T, H, W)``, integers, or probabilities
        ``(n, L, H, W)`` or ``(n, T, L, H, W)``, floats, of which the most probable class is drawn.
    labels_key
        Key of ``obsm`` with codes, -1 unlabelled and -2 void. None, or not there: no such panel.
    entropy_key
        Key of ``obsm`` with entropies ``(n, H, W)`` or ``(n, T, H, W)`` in nats. Default: that of
        the probabilities; without such there is no panel.
    date
        Number of the date, for maps of each date.
    axes
        Axes to draw on, one a panel.

    Returns
    -------
    One axes a panel: prediction, labels, entropy.

    Raises
    ------
    IndexError
        If there is no such tile or date.
    KeyError
        If a key or a tile is missing.
    ValueError
        If a map has another shape, no date is chosen where there are maps of each, or the number of
        axes does not fit.
    """
    at = _tile(adata, tile)
    predicted = _of_tile(adata, prediction_key, at, "prediction_key")
    is_soft = predicted.dtype.kind == "f"
    predicted = _plane(predicted, date, prediction_key, n_axes=3 if is_soft else 2)
    maps = {"prediction": predicted.argmax(0) if is_soft else predicted}
    if is_soft:
        # where no tile was predicted there are no probabilities
        maps["prediction"] = np.where(np.isfinite(predicted).all(0), maps["prediction"], UNLABELLED)
    if labels_key is not None and labels_key in adata.obsm:
        labels = _of_tile(adata, labels_key, at, "labels_key")
        maps["labels"] = _plane(labels, date, labels_key)
    entropy = None
    if entropy_key is not None:
        entropy = _plane(_of_tile(adata, entropy_key, at, "entropy_key"), date, entropy_key)
    elif is_soft:
        safe = np.where(predicted > 0, predicted, 1)
        entropy = -(safe * np.log(safe)).sum(0)
    padding = _padding(adata, at, maps["prediction"].shape)
    maps["prediction"] = np.where(padding, VOID, maps["prediction"])
    n_panels = len(maps) + (entropy is not None)
    own_figure = axes is None
    axes = _panels(axes, n_panels, maps["prediction"].shape)
    names, colours = _classes(adata, maps)
    for ax, (title, codes) in zip(axes, maps.items(), strict=False):
        ax.imshow(_coloured(codes, colours), interpolation="nearest")
        ax.set_title(title)
    if entropy is not None:
        entropy = np.where(padding, np.nan, entropy)
        highest = np.log(max(len(names), 2)) if is_soft else np.nanmax(entropy)
        norm = Normalize(0, float(highest))
        colour_bar(axes[-1].imshow(entropy, norm=norm, cmap="magma"), axes[-1])
        axes[-1].set_title("entropy (nats)")
    for ax in axes:
        ax.set(xticks=[], yticks=[])
    handles = _class_patches(maps, names, colours)
    if own_figure:
        axes[0].figure.legend(
            handles=handles, loc="outside right center", frameon=False, fontsize=8
        )
    else:
        # another figure's layout may leave no room beside it
        place = {"loc": "upper left", "bbox_to_anchor": (0, -0.02), "ncols": 2}
        axes[0].legend(handles=handles, frameon=False, fontsize=8, **place)
    return axes


def pixel_series(
    adata: AnnData,
    tile: int | str,
    row: int,
    column: int,
    *,
    band: str | int = 0,
    imputed_key: str | None = None,
    sd_key: str | None = None,
    interval: float = 0.9,
    series_key: str = "series",
    valid_key: str = "valid",
    time_key: str = "time",
    ax: Axes | None = None,
) -> Axes:
    """Course of one pixel in time: valid points, hidden ones, and what was imputed.

    Parameters
    ----------
    adata
        Tiles with series ``(n, T, C, H, W)`` in ``obsm``.
    tile
        Number or name of the row of ``obs``.
    row, column
        Of the pixel in its tile.
    band
        Name of ``uns["bands"]`` or number.
    imputed_key, sd_key
        Keys of ``obsm`` with means and standard deviations ``(n, T, C, H, W)`` of the imputed
        series.
    interval
        Probability of the band that is drawn around the means, of a normal distribution.
    series_key, valid_key, time_key
        As for :func:`image_series`.
    ax
        Axes to draw on.

    Raises
    ------
    IndexError
        If there is no such tile or pixel.
    KeyError
        If a key, a tile or the band is missing.
    ValueError
        If shapes do not fit, ``sd_key`` comes without ``imputed_key``, or ``interval`` is not in
        (0, 1).
    """
    if not 0 < interval < 1:
        raise ValueError(f"interval must lie in (0, 1), but is {interval}.")
    if sd_key is not None and imputed_key is None:
        raise ValueError("sd_key needs imputed_key: the band lies around the imputed values.")
    at = _tile(adata, tile)
    series = _series(adata, series_key, at)
    height, width = series.shape[-2:]
    if not (0 <= row < height and 0 <= column < width):
        raise IndexError(f"Pixel ({row}, {column}) is not in a tile of {height} x {width}.")
    (b,) = _numbers(adata, [band], series.shape[1])
    pixel = (slice(None), b, row, column)
    values, valid = series[pixel], _valid(adata, valid_key, series, at)[pixel]
    if ax is None:
        _, ax = plt.subplots(figsize=(6.5, 2.8), layout="constrained")
    when = _when(adata, time_key, at, len(series))
    if imputed_key is not None:
        mean = _same_shape(adata, imputed_key, series, at)[pixel]
        ax.plot(when, mean, color="tab:blue", linewidth=1.2, label="imputed")
        if sd_key is not None:
            half = NormalDist().inv_cdf(0.5 + interval / 2)
            half = half * _same_shape(adata, sd_key, series, at)[pixel]
            options = {"color": "tab:blue", "alpha": 0.2, "linewidth": 0}
            label = f"{100 * interval:g} % interval"
            ax.fill_between(when, mean - half, mean + half, label=label, **options)
    ax.scatter(when[~valid], values[~valid], s=14, c="0.7", marker="x", label="not valid")
    ax.scatter(when[valid], values[valid], s=16, c="black", zorder=3, label="valid")
    named = list(adata.uns.get("bands", []))
    ax.set_ylabel(named[b] if b < len(named) else f"band {b + 1}")
    ax.set_xlabel("date" if time_key in adata.obsm else "number of the date")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
    if np.issubdtype(when.dtype, np.datetime64):
        ax.tick_params(axis="x", labelrotation=30)
    return ax


def _tile(adata: AnnData, tile: int | str) -> int:
    if isinstance(tile, str):
        if tile not in adata.obs_names:
            raise KeyError(f"No tile is called {tile!r}. {near_matches(tile, adata.obs_names)}")
        return int(adata.obs_names.get_loc(tile))
    if not -adata.n_obs <= tile < adata.n_obs:
        raise IndexError(f"There is no tile {tile}: adata has {adata.n_obs}.")
    return int(tile)


def _of_tile(adata: AnnData, key: str, at: int, argument: str) -> np.ndarray:
    check_key(adata, "obsm", key, argument)
    return np.asarray(adata.obsm[key][at])


def _series(adata: AnnData, key: str, at: int) -> np.ndarray:
    """Values ``(T, C, H, W)`` of one tile; a single image is one date."""
    series = _of_tile(adata, key, at, "series_key")
    if series.ndim not in (3, 4):
        raise ValueError(
            f"obsm[{key!r}] must be (n, T, C, H, W) or (n, C, H, W), but has the shape "
            f"{adata.obsm[key].shape}."
        )
    return series if series.ndim == 4 else series[None]


def _same_shape(adata: AnnData, key: str, series: np.ndarray, at: int) -> np.ndarray:
    values = _series(adata, key, at)
    if values.shape != series.shape:
        raise ValueError(
            f"obsm[{key!r}] has the shape {values.shape} in a tile, the series {series.shape}."
        )
    return values


def _valid(adata: AnnData, key: str, series: np.ndarray, at: int) -> np.ndarray:
    """Booleans of the shape of the series."""
    finite = np.isfinite(series)
    if key not in adata.obsm:
        return finite
    return finite & np.broadcast_to(_series(adata, key, at).astype(bool), series.shape)


def _numbers(adata: AnnData, bands: Sequence[str | int], n: int) -> list[int]:
    """Numbers of bands by name or number."""
    names = [str(band) for band in adata.uns.get("bands", [])]
    found = []
    for band in bands:
        if isinstance(band, str) and band not in names:
            raise KeyError(f"Band {band!r} is not in uns['bands']. {near_matches(band, names)}")
        number = names.index(band) if isinstance(band, str) else int(band)
        if not 0 <= number < n:
            raise KeyError(f"There is no band {number}: the series has {n}.")
        found.append(number)
    return found


def _chosen(adata: AnnData, series: np.ndarray, bands, index) -> list[int]:
    n = series.shape[1]
    if index is not None:
        if bands is not None or len(index) != 2:
            raise ValueError("index takes two bands, and bands must then not be given.")
        return _numbers(adata, index, n)
    if bands is None:
        names = {str(band) for band in adata.uns.get("bands", [])}
        bands = next((three for three in _TRUE_COLOURS if names.issuperset(three)), [0])
    bands = [bands] if isinstance(bands, str | int) else list(bands)
    if len(bands) not in (1, 3):
        raise ValueError(f"bands must be one or three (red, green, blue), but are {len(bands)}.")
    return _numbers(adata, bands, n)


def _dates(series: np.ndarray, dates: Sequence[int] | None, n_dates: int) -> list[int]:
    n = len(series)
    if dates is None:
        return np.unique(np.linspace(0, n - 1, min(n, n_dates)).round().astype(int)).tolist()
    for date in dates:
        if not 0 <= date < n:
            raise IndexError(f"There is no date {date}: the series has {n}.")
    if not len(dates):
        raise ValueError("dates is empty: name at least one.")
    return [int(date) for date in dates]


def _composite(values: np.ndarray, is_index: bool) -> np.ndarray:
    """Images ``(n, H, W, 1 or 3)`` of chosen bands ``(n, bands, H, W)``."""
    values = values.astype(float)
    if is_index:
        a, b = values[:, 0], values[:, 1]
        total = a + b
        values = np.divide(a - b, total, out=np.full_like(a, np.nan), where=total != 0)[:, None]
    return np.moveaxis(values, 1, -1)


def _range(images: np.ndarray, valid: np.ndarray, is_index: bool) -> tuple[float, float]:
    if is_index:
        return -1.0, 1.0
    seen = images[valid]
    if not seen.size:
        return 0.0, 1.0
    low, high = np.percentile(seen, [2, 98])
    return float(low), float(max(high, low + 1e-6))


def _rgb(image: np.ndarray, valid: np.ndarray, low: float, high: float, cmap: Colormap):
    """Colours ``(H, W, 3)``, stripes where nothing valid is."""
    scaled = ((np.nan_to_num(image) - low) / (high - low)).clip(0, 1)
    if scaled.shape[-1] == 1:
        scaled = cmap(scaled[..., 0])[..., :3]
    valid = valid & np.isfinite(image).all(-1)
    height, width = valid.shape
    # about twelve stripes whatever the number of pixels
    period = max(2, max(height, width) // 12)
    diagonal = np.add.outer(np.arange(height), np.arange(width)) % period < period / 2
    light, dark = (np.array(to_rgb(shade)) for shade in _STRIPES)
    stripes = np.where(diagonal[..., None], light, dark)
    return np.where(valid[..., None], scaled, stripes)


def _when(adata: AnnData, key: str, at: int, n: int) -> np.ndarray:
    """Dates as datetime64, or numbers from 1."""
    if key not in adata.obsm:
        return np.arange(1, n + 1)
    days = np.asarray(adata.obsm[key][at], dtype=float)
    return np.datetime64("1970-01-01", "m") + (days * 1440).round().astype("timedelta64[m]")


def _date_names(adata: AnnData, key: str, at: int, n: int) -> list[str]:
    when = _when(adata, key, at, n)
    if when.dtype.kind == "M":
        return np.datetime_as_string(when, unit="D").tolist()
    return [str(date) for date in when]


def _axes(axes, n_rows: int, n_columns: int, shape: tuple[int, int]) -> list[Axes]:
    if axes is None:
        side = np.clip(11 / n_columns, 1.0, 2.6)
        size = (1.1 + side * n_columns, 0.3 + (0.05 + 0.94 * side * shape[0] / shape[1]) * n_rows)
        _, grid = plt.subplots(n_rows, n_columns, figsize=size, squeeze=False, layout="constrained")
        return list(grid.ravel())
    if len(axes) != n_rows * n_columns:
        raise ValueError(f"axes needs {n_rows * n_columns} entries, but has {len(axes)}.")
    return list(axes)


def _panels(axes, n: int, shape: tuple[int, int]) -> list[Axes]:
    if axes is None:
        size = (3.2 * n + 1.4, 0.4 + 3.0 * shape[0] / shape[1])
        _, grid = plt.subplots(1, n, figsize=size, squeeze=False, layout="constrained")
        return list(grid.ravel())
    if len(axes) != n:
        raise ValueError(f"axes needs one entry a panel ({n}), has {len(axes)}.")
    return list(axes)


def _plane(values: np.ndarray, date: int | None, key: str, n_axes: int = 2) -> np.ndarray:
    """The map of one date, ``n_axes`` axes."""
    if values.ndim == n_axes + 1:
        if date is None:
            raise ValueError(f"obsm[{key!r}] has a map of each date: choose one, date=0.")
        if not 0 <= date < len(values):
            raise IndexError(f"There is no date {date}: obsm[{key!r}] has {len(values)}.")
        return values[date]
    if values.ndim != n_axes:
        raise ValueError(
            f"obsm[{key!r}] has the shape {values.shape} in a tile, but needs {n_axes} axes, or "
            "one more for dates."
        )
    return values


def _padding(adata: AnnData, at: int, shape: tuple[int, int]) -> np.ndarray:
    """Which pixels of a tile lie beyond its scene, ``(H, W)``; none where nothing tells."""
    scene = adata.uns.get("scene", {})
    if not {"height", "width"} <= set(scene) or not {"row", "column"} <= set(adata.obs):
        return np.zeros(shape, bool)
    beyond = [
        int(adata.obs[start].iloc[at]) + np.arange(n) >= int(scene[side])
        for start, side, n in zip(("row", "column"), ("height", "width"), shape, strict=True)
    ]
    return beyond[0][:, None] | beyond[1]


def _classes(adata: AnnData, maps: dict[str, np.ndarray]) -> tuple[list[str], list]:
    """Names and colours of classes by their codes."""
    n = max(1 + int(codes.max()) for codes in maps.values())
    names = [str(name) for name in adata.uns.get("classes", [])]
    names += [f"class {code}" for code in range(len(names), n)]
    colours = list(adata.uns.get("colors", []))
    if len(colours) < len(names):
        colours = category_colours(len(names))
    return names, colours


def _coloured(codes: np.ndarray, colours: Sequence) -> np.ndarray:
    """Colours ``(H, W, 3)`` of codes."""
    table = np.array([to_rgb(c) for c in (*colours, _VOID, _UNLABELLED)])
    # the last two are -1 and -2 from the end
    return table[np.where(codes < 0, len(table) + codes, codes)]


def _class_patches(maps: dict[str, np.ndarray], names: list[str], colours: Sequence) -> list[Patch]:
    """Entries of the legend: what occurs in the maps."""
    found = np.unique(np.concatenate([codes.ravel() for codes in maps.values()]))
    special = {UNLABELLED: ("unlabelled", _UNLABELLED), VOID: ("void", _VOID)}
    handles = []
    for code in [*found[found >= 0], *found[found < 0]]:
        name, colour = special.get(int(code)) or (names[code], colours[code])
        handles.append(Patch(facecolor=colour, edgecolor="0.5", linewidth=0.5, label=name))
    return handles
