"""Names of bands, by which series of one order are told from those of another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from anndata import AnnData


def band_names(adata: AnnData, n_bands: int) -> list[str] | None:
    """``uns["bands"]`` as text; None if there are none, or not one a band."""
    names = np.ravel(adata.uns.get("bands", ()))
    return [str(name) for name in names] if len(names) == n_bands else None


def check_band_order(name: str, found: Sequence[str] | None, known: Sequence[str] | None) -> None:
    """Raise ValueError if bands are others than a model's, or in another order.

    Names that have nothing in common with the model's say nothing: they may be other words for the
    same bands.

    Parameters
    ----------
    name
        How the message calls the array.
    found, known
        Names of the array's and of the model's bands; None: not known.
    """
    if not (found and known) or list(found) == list(known) or not set(found) & set(known):
        return
    raise ValueError(
        f"{name} has the bands {', '.join(found)} (adata.uns['bands']), but the model reads "
        f"{', '.join(known)}, in this order. Bring the array and adata.uns['bands'] into it; if "
        "the bands are the same by other names, give them the model's."
    )
