from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from mixvi.satellite import SCL_CLASSES, valid_from_scl


def test_scene_classes():
    codes = np.arange(13).reshape(1, 13)
    trusted = np.flatnonzero(valid_from_scl(codes)[0])
    assert trusted.tolist() == [2, 4, 5, 6, 7]
    assert np.flatnonzero(valid_from_scl(codes, snow="valid")[0]).tolist() == [*trusted, 11]
    array = xr.DataArray([[4.0, np.nan]], dims=("y", "x"))
    assert valid_from_scl(array).to_numpy().tolist() == [[True, False]]
    assert [code for code, (_, valid) in SCL_CLASSES.items() if valid] == trusted.tolist()
    with pytest.raises(ValueError, match="snow='maybe' is not known"):
        valid_from_scl(codes, snow="maybe")
