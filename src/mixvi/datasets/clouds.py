"""Hiding valid measurements behind real clouds, so that imputations can be scored."""

from __future__ import annotations

import numpy as np
from anndata import AnnData

from mixvi.core.arguments import near_matches

_LEAST_CLOUD = 0.02


def cloud_masks(adata: AnnData, least: float = _LEAST_CLOUD) -> np.ndarray:
    """Masks of the gaps that real clouds made, one a tile and date with an acquisition.

    Parameters
    ----------
    adata
        Tiles with ``obsm["valid"]`` (n, T, 1 or C, H, W) and, if dates are absent,
        ``obsm["frame"]`` (n, T). Padding is taken for a gap: take tiles that are not padded.
    least
        Share of pixels that a mask must cover to count.

    Returns
    -------
    Masks ``(m, H, W)`` bool, True where no band is valid; some cover all of the tile.

    Raises
    ------
    KeyError
        If there is no ``obsm["valid"]``.
    """
    masks, _ = _masks(adata, least)
    return masks


def hide_with_real_clouds(
    adata: AnnData, share: float, *, masks: np.ndarray | None = None, seed: int = 0
) -> AnnData:
    """A copy in which clouds of other tiles and dates hide valid entries (for scoring, not input).

    Tiles and dates are taken in random order; each gets the gaps of another tile and date, turned
    and mirrored at random, until the share of the valid entries is hidden. Whole dates go where
    the mask covers all of the tile. No tile loses all that is valid. Spots of clouds, not random
    pixels, are what models and interpolators face.

    Parameters
    ----------
    adata
        Tiles with ``obsm["valid"]`` (n, T, 1 or C, H, W); see :func:`cloud_masks`. Not changed.
    share
        Of the valid entries to be hidden, in (0, 1). The last mask may exceed it.
    masks
        ``(m, H', W')`` bool, True where cloudy, at least as large as the tiles: a piece is cut at
        random. ``None``: those of ``adata`` itself.
    seed
        Of the generator.

    Returns
    -------
    AnnData with ``obsm["valid"]`` reduced and ``obsm["hidden"]``, of the same shape, True where an
    entry was valid and is hidden. ``obsm["series"]`` still has the values: models and interpolators
    that heed ``valid`` do not see them.

    Raises
    ------
    KeyError
        If there is no ``obsm["valid"]``.
    ValueError
        If there are no masks, they are too small, or they cannot hide so much.
    """
    if not 0 < share < 1:
        raise ValueError(f"share must lie in (0, 1), but is {share!r}.")
    rng = np.random.default_rng(seed)
    if masks is None:
        masks, origin = _masks(adata, _LEAST_CLOUD)
    else:
        masks = np.asarray(masks, bool)
        origin = np.full((len(masks), 2), -1)
    visible = _validity(adata).copy()
    n, n_dates, _, *size = visible.shape
    if masks.ndim != 3 or (np.array(masks.shape[1:]) < size).any():
        raise ValueError(f"masks must be (m, H, W) with H, W from {size}, but is {masks.shape}.")
    if not len(masks):
        raise ValueError("No date of adata has clouds. Pass masks=cloud_masks(another).")
    hidden = np.zeros_like(visible)
    missing = share * visible.sum()
    left = visible.reshape(n, -1).sum(axis=1)
    while missing > 0:
        before = missing
        for place in rng.permutation(n * n_dates):
            i, t = divmod(int(place), n_dates)
            mask = int(rng.integers(len(masks)))
            if tuple(origin[mask]) == (i, t):
                continue
            new = visible[i, t] & _piece(masks[mask], size, rng)
            if 0 < new.sum() < left[i]:
                hidden[i, t] |= new
                visible[i, t] &= ~new
                left[i] -= new.sum()
                missing -= new.sum()
                if missing <= 0:
                    break
        if missing == before:
            raise ValueError(
                f"These masks hide no more than {hidden.sum() / (hidden | visible).sum():.1%} of "
                f"the valid entries, less than share={share}."
            )
    result = adata.copy()
    result.obsm["valid"], result.obsm["hidden"] = visible, hidden
    return result


def _validity(adata: AnnData) -> np.ndarray:
    if "valid" not in adata.obsm:
        raise KeyError(f"adata.obsm has no 'valid'. {near_matches('valid', adata.obsm)}")
    valid = np.asarray(adata.obsm["valid"], bool)
    if "frame" in adata.obsm:
        valid = valid & np.asarray(adata.obsm["frame"], bool)[..., None, None, None]
    return valid


def _masks(adata: AnnData, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Masks ``(m, H, W)``, and of which tile and date each is ``(m, 2)``."""
    gaps = ~_validity(adata).any(axis=2)
    cloudy = gaps.mean(axis=(2, 3)) >= least
    if "frame" in adata.obsm:
        cloudy &= np.asarray(adata.obsm["frame"], bool)
    origin = np.argwhere(cloudy)
    return gaps[tuple(origin.T)], origin


def _piece(mask: np.ndarray, size: list[int], rng: np.random.Generator) -> np.ndarray:
    """A piece of the mask of the size of a tile, mirrored, and turned where that fits."""
    top, left = (rng.integers(0, n - m + 1) for n, m in zip(mask.shape, size, strict=True))
    piece = mask[top : top + size[0], left : left + size[1]]
    turns = int(rng.integers(4)) if size[0] == size[1] else 2 * int(rng.integers(2))
    piece = np.rot90(piece, turns)
    return piece[:, ::-1] if rng.integers(2) else piece
