"""Label maps of which an annotator drew a part: scribbles and blocks."""

from __future__ import annotations

from typing import Literal

import numpy as np

from mixvi.core.arguments import check_choice
from mixvi.core.data.keys import UNLABELLED

_MAX_STROKE = 12
_BLOCK = 5


def partial_labels(
    labels: np.ndarray,
    share: float,
    form: Literal["scribbles", "blocks"] = "scribbles",
    seed: int = 0,
) -> np.ndarray:
    """Label maps of which a share of the labelled pixels is kept, the rest unlabelled.

    An annotator draws lines or rectangles and no scattered pixels; neighbours tell less. Strokes
    begin anywhere among the labelled pixels, so that classes come by their share: a small share may
    leave a rare class without a stroke, and a model that never sees a class never predicts it.

    Parameters
    ----------
    labels
        Codes ``(n, H, W)``: classes from 0, -1 unlabelled, -2 void. Void stays.
    share
        Of the labelled pixels of all maps, above 0 and up to 1. Each map with labels keeps its
        share, rounded, and one pixel at least.
    form
        ``"scribbles"``: winding lines of up to 12 pixels inside one class. ``"blocks"``: squares of
        5 x 5, with all classes that lie in them.
    seed
        Of the strokes.

    Returns
    -------
    Codes ``(n, H, W)``, a copy.

    Raises
    ------
    ValueError
        If labels have another number of axes, or the share is out of range.
    """
    check_choice("form", form, ("scribbles", "blocks"))
    labels = np.asarray(labels)
    if labels.ndim != 3:
        raise ValueError(f"labels must be (n, H, W), but has the shape {labels.shape}.")
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], but is {share!r}.")
    rng = np.random.default_rng(seed)
    stroke = _scribble if form == "scribbles" else _block
    kept = np.stack([_drawn(one, share, stroke, rng) for one in labels])
    return np.where(kept | (labels < 0), labels, labels.dtype.type(UNLABELLED))


def _drawn(labels: np.ndarray, share: float, stroke, rng: np.random.Generator) -> np.ndarray:
    """Which pixels of one map ``(H, W)`` are kept."""
    kept = np.zeros(labels.shape, bool)
    places = np.argwhere(labels >= 0)
    if not len(places):
        return kept
    missing = max(1, round(share * len(places)))
    # starts in random order: the last ones fill what strokes left over
    for place in rng.permutation(places):
        if not kept[tuple(place)]:
            new = [at for at in stroke(labels, tuple(place), rng) if not kept[at]][:missing]
            kept[tuple(np.transpose(new))] = True
            missing -= len(new)
            if not missing:
                break
    return kept


def _scribble(labels: np.ndarray, start: tuple[int, int], rng: np.random.Generator) -> list:
    """Pixels of a line from ``start`` that turns a little at each step and stays in its class."""
    angle, at, line = rng.uniform(0, 2 * np.pi), np.array(start, float), [start]
    for _ in range(_MAX_STROKE):
        angle += rng.normal(0, 0.4)
        at += np.sin(angle), np.cos(angle)
        pixel = tuple(int(x) for x in at.round())
        if not all(0 <= i < n for i, n in zip(pixel, labels.shape, strict=True)):
            break
        if labels[pixel] != labels[start]:
            break
        if pixel not in line:
            line.append(pixel)
    return line


def _block(labels: np.ndarray, start: tuple[int, int], rng: np.random.Generator) -> list:
    """Labelled pixels of a square around ``start``, row by row from it."""
    square = [
        (start[0] + i, start[1] + j)
        for i in range(-(_BLOCK // 2), _BLOCK - _BLOCK // 2)
        for j in range(-(_BLOCK // 2), _BLOCK - _BLOCK // 2)
    ]
    inside = [at for at in square if all(0 <= i < n for i, n in zip(at, labels.shape, strict=True))]
    inside = [at for at in inside if labels[at] >= 0]
    # the nearest first, so that a cut square is still a compact piece
    return sorted(inside, key=lambda at: abs(at[0] - start[0]) + abs(at[1] - start[1]))
