"""Scene classes of Sentinel-2 as validity."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mixvi.core.arguments import check_choice

SCL_CLASSES = {
    0: ("no data", False),
    1: ("saturated or defective", False),
    2: ("dark area, topographic shadow", True),
    3: ("cloud shadow", False),
    4: ("vegetation", True),
    5: ("not vegetated", True),
    6: ("water", True),
    7: ("unclassified", True),
    8: ("cloud, medium probability", False),
    9: ("cloud, high probability", False),
    10: ("thin cirrus", False),
    11: ("snow or ice", False),
}
"""Names of the codes of Sentinel-2's scene classification, and which are trusted."""

_SNOW = 11


def valid_from_scl(
    scl: xr.DataArray | np.ndarray, *, snow: str = "invalid"
) -> xr.DataArray | np.ndarray:
    """Where a Sentinel-2 scene classification (SCL) lets a measurement be trusted.

    Parameters
    ----------
    scl
        Codes 0 to 11, any shape; on the grid of the bands, which at 10 m means that the 20 m of SCL
        were resampled by nearest neighbour.
    snow
        ``"invalid"``: snow hides the ground, as clouds do; ``"valid"``: it is something to be
        mapped.

    Returns
    -------
    Booleans of the same shape, of dask where ``scl`` is. NaN and other codes are not valid.

    Raises
    ------
    ValueError
        If ``snow`` is neither.

    Notes
    -----
    Codes are those of Sen2Cor (ESA, Sentinel-2 Level-2A Algorithm Theoretical Basis Document);
    which are trusted stands in ``SCL_CLASSES``.
    """
    check_choice("snow", snow, ("invalid", "valid"))
    trusted = [code for code, (_, valid) in SCL_CLASSES.items() if valid]
    if snow == "valid":
        trusted.append(_SNOW)
    return scl.isin(trusted) if isinstance(scl, xr.DataArray) else np.isin(scl, trusted)
