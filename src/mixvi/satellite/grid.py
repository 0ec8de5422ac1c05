"""Where tiles lie in a scene, and how much each counts where they overlap."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from mixvi.core.arguments import check_positive


@dataclass(frozen=True)
class TileGrid:
    """Square tiles in rows and columns that cover a scene; the last ones may reach beyond it.

    Parameters
    ----------
    height, width
        Pixels of the scene.
    size
        Pixels of a tile's side.
    overlap
        Pixels that neighbours share, at most half of ``size``.

    Raises
    ------
    ValueError
        If the overlap is negative or more than half of a tile.
    """

    height: int
    width: int
    size: int
    overlap: int

    def __post_init__(self):
        for name in ("height", "width", "size"):
            check_positive(name, getattr(self, name))
        if not 0 <= self.overlap <= self.size // 2:
            raise ValueError(
                f"overlap must lie in [0, size / 2], here [0, {self.size // 2}] pixels for tiles "
                f"of {self.size}, but is {self.overlap}."
            )

    @property
    def step(self) -> int:
        """Pixels from one tile to the next."""
        return self.size - self.overlap

    @property
    def rows(self) -> np.ndarray:
        """First row of the scene in each row of tiles."""
        return self._starts(self.height)

    @property
    def columns(self) -> np.ndarray:
        """First column of the scene in each column of tiles."""
        return self._starts(self.width)

    def _starts(self, length: int) -> np.ndarray:
        n = max(1, -(-(length - self.overlap) // self.step))
        return np.arange(n) * self.step

    def place(self, row: int, column: int) -> tuple[int, int]:
        """Row and column of tiles of the tile that begins at a pixel.

        Raises
        ------
        ValueError
            If no tile of this grid begins there.
        """
        i, j = int(row) // self.step, int(column) // self.step
        inside = 0 <= i < len(self.rows) and 0 <= j < len(self.columns)
        if not inside or (i * self.step, j * self.step) != (row, column):
            raise ValueError(
                f"No tile begins at row {row}, column {column}: tiles of {self.size} pixels with "
                f"an overlap of {self.overlap} begin at multiples of {self.step}, in a scene of "
                f"{self.height} x {self.width}. obs['row'] and obs['column'] must be as tile left "
                "them."
            )
        return i, j

    def smooth_ramp(self, margin: int = 0) -> np.ndarray:
        """Raised cosine from 0 to 1 over the overlap, without ``margin`` pixels on either side.

        Raises
        ------
        ValueError
            If the margins do not fit into the overlap.
        """
        if not 0 <= 2 * margin <= self.overlap:
            raise ValueError(
                f"margin must lie in [0, overlap / 2], here [0, {self.overlap // 2}], but is "
                f"{margin}: each pixel needs a tile that it is no margin of."
            )
        if 2 * margin == self.overlap:
            return self.crop_ramp()
        at = (np.arange(self.overlap) - margin + 0.5) / (self.overlap - 2 * margin)
        return 0.5 - 0.5 * np.cos(np.pi * at.clip(0, 1))

    def crop_ramp(self) -> np.ndarray:
        """0 on the first half of the overlap and 1 on the second: each pixel is of one tile."""
        return (np.arange(self.overlap) >= self.overlap // 2).astype(float)

    def weights(self, place: int, n_places: int, ramp: np.ndarray) -> np.ndarray:
        """Weights ``(size,)`` along one axis; neighbours' sum to one, scene edges have none.

        Parameters
        ----------
        place, n_places
            Which tile of how many along the axis.
        ramp
            Weights ``(overlap,)`` of a tile where it shares pixels with the one before.
        """
        weights = np.ones(self.size)
        if place > 0:
            weights[: self.overlap] = ramp
        if place < n_places - 1:
            weights[self.size - self.overlap :] = 1 - ramp
        return weights


def blended_rows(
    grid: TileGrid, tiles: Iterable[tuple[int, int, np.ndarray]], ramp: np.ndarray
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Weighted means of tiles, given out as soon as no further tile reaches them.

    No more than one row of tiles is held.

    Parameters
    ----------
    grid
        Where tiles lie.
    tiles
        Row and column of tiles, and values ``(..., size, size)``, row after row of tiles; some may
        be missing.
    ramp
        Weights ``(overlap,)`` of a tile where it shares pixels with the one before.

    Yields
    ------
    The first row of the scene, values ``(..., h, width)`` and whether a tile covers each pixel
    ``(h, width)``; values are 0 where none does. Nothing if there are no tiles.
    """
    size, overlap, step = grid.size, grid.overlap, grid.step
    rows, columns = grid.rows, grid.columns
    held = weight = None
    top = 0

    def finished() -> tuple[int, np.ndarray, np.ndarray]:
        last = top == len(rows) - 1
        h = grid.height - rows[top] if last else step
        found = (
            int(rows[top]),
            held[..., :h, : grid.width].copy(),
            weight[:h, : grid.width] > 0,
        )
        for array in (held, weight):
            array[..., :overlap, :] = array[..., step:, :]
            array[..., overlap:, :] = 0
        return found

    for i, j, values in tiles:
        if held is None:
            width = columns[-1] + size
            held = np.zeros((*values.shape[:-2], size, width), values.dtype)
            weight = np.zeros((size, width), np.float32)
        while top < i:
            yield finished()
            top += 1
        _add(
            held,
            weight,
            values,
            int(columns[j]),
            grid.weights(i, len(rows), ramp),
            grid.weights(j, len(columns), ramp),
        )
    while held is not None and top < len(rows):
        yield finished()
        top += 1


def _add(
    held: np.ndarray,
    weight: np.ndarray,
    values: np.ndarray,
    column: int,
    of_rows: np.ndarray,
    of_columns: np.ndarray,
) -> None:
    """Move weighted means towards a tile's values; equal values leave them as they are, exactly."""
    # weightless edges are left out: 0 * NaN would reach the mean
    r, c = (slice(*(np.flatnonzero(w)[[0, -1]] + [0, 1])) for w in (of_rows, of_columns))
    new = np.outer(of_rows[r], of_columns[c]).astype(np.float32)
    there = slice(column + c.start, column + c.stop)
    seen, total = held[..., r, there], weight[r, there]
    total += new
    if held.dtype.kind == "f":
        seen += (new / total).astype(held.dtype) * (values[..., r, c] - seen)
    else:
        seen[...] = values[..., r, c]
