from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scenes import made_up_scene

from mixvi.satellite import SCL_CLASSES, read_scene, valid_from_scl, write_raster

PAGE = (Path(__file__).parents[2] / "docs" / "satellite.md").read_text()


def test_scenes_in_and_out(tmp_path, monkeypatch):
    """The code of the page runs, on a small stack."""
    pytest.importorskip("rioxarray", reason="the extra satellite is not installed")
    monkeypatch.chdir(tmp_path)
    scene = made_up_scene(150, 130).rio.write_crs("EPSG:32633")
    write_raster(scene["series"], "stack")
    section = PAGE[PAGE.index("## Scenes in and out") : PAGE.index("### STAC")]
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    names = {"scl": xr.DataArray(np.full((150, 130), 4), dims=("y", "x"))}
    for block in blocks:
        exec(block, names)
    assert len(blocks) == 3 and names["scene"]["valid"].all()
    expected = names["scene"]["series"].mean(("time", "band"))
    for file in ("brightness.tif", "map.tif"):
        np.testing.assert_allclose(read_scene(file)["series"][0], expected, rtol=1e-6)


def test_table_of_scene_classes():
    rows = re.findall(r"\| (\d+) \| (.+?) \| (yes|no)(;.*)? \|", PAGE)
    assert {int(code): (name, valid == "yes") for code, name, valid, _ in rows} == SCL_CLASSES
    assert valid_from_scl(np.array([11]), snow="valid").all()
