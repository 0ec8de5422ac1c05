"""Tables with odd names, masks, fluxes and times."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from long_tables import long_table

from mixvi.lightcurves import from_tables

GAIA = 4_318_465_066_420_528_000


def renamed(names: object) -> pd.DataFrame:
    """Four objects of twelve observations with other names."""
    return long_table().assign(object_id=names)


def number() -> np.ndarray:
    return np.repeat(np.arange(4), 12)


def test_names_of_19_digits_stay_apart_where_columns_are_masked():
    tables = pytest.importorskip("astropy.table")
    table = tables.Table.from_pandas(long_table())
    table["object_id"] = tables.MaskedColumn(GAIA + number())
    assert from_tables(table).obs_names.tolist() == [str(GAIA + i) for i in range(4)]
    table["object_id"].mask[:3] = True
    with pytest.raises(ValueError, match="3 rows have no name in 'object_id'"):
        from_tables(table)
    text = np.array([f"star {i}" for i in number()])
    table["object_id"] = tables.MaskedColumn(text, mask=number() == 1)
    with pytest.raises(ValueError, match="12 rows have no name in 'object_id'"):
        from_tables(table)
    # as FITS files give text
    table["object_id"] = text.astype("S")
    assert from_tables(table).obs_names[1] == "star 1"


def test_objects_are_told_apart_by_what_they_are_called():
    objects = pd.DataFrame({"object_id": [0.0, 1.0, 2.0, 3.0], "period": [5.0, 6.0, 7.0, 8.0]})
    expected = from_tables(renamed(number().astype(str)))
    for names in (number(), number().astype(float), number().astype(str)):
        adata = from_tables(renamed(names), objects=objects)
        assert adata.obs_names.tolist() == ["0", "1", "2", "3"]
        assert adata.obs["period"].tolist() == [5.0, 6.0, 7.0, 8.0]
    mixed = number().astype(object)
    mixed[::2] = [str(name) for name in mixed[::2]]
    adata = from_tables(renamed(mixed))
    np.testing.assert_array_equal(adata.obsm["magnitude"], expected.obsm["magnitude"])
    with pytest.raises(TypeError, match="objects is a dict"):
        from_tables(long_table(), objects={"star 0": 1.0})


def test_tables_in_a_list_do_not_share_a_number():
    class Labelled(pd.DataFrame):
        _metadata = ["meta"]

    parts = []
    for label in ("2", "2", None):
        parts.append(Labelled(long_table(1)))
        parts[-1].meta = {"LABEL": label}
    adata = from_tables(parts)
    assert adata.obs_names.tolist() == ["2", "1", "3"]
    assert adata.obsm["valid"].sum(1).tolist() == [12, 12, 12]


def test_bands_have_names():
    table = long_table(bands=("g", "r"))
    without = table.assign(band=table["band"].where(table.index % 24 > 0))
    with pytest.raises(ValueError, match="4 rows have no name in 'band'"):
        from_tables(without, band_key="band")
    with pytest.raises(ValueError, match="a name more than once"):
        from_tables(table, band_key="band", bands=["g", "g", "r"])
    numbers = table.assign(band=table["band"].map({"g": 1.0, "r": 2.0}))
    assert from_tables(numbers, band_key="band", bands=[2, 1]).uns["bands"] == ["2", "1"]


def test_a_column_of_fluxes_beside_magnitudes_is_left_alone():
    table = long_table()
    adata = from_tables(table.assign(flux=1.0, flux_err=0.1))
    np.testing.assert_array_equal(adata.obsm["magnitude"], from_tables(table).obsm["magnitude"])
    fluxes = table.rename(columns={"magnitude": "flux", "error": "flux_err"})
    with pytest.raises(KeyError, match="magnitude_key='magnitude' is not a column"):
        from_tables(fluxes)
    own = fluxes[fluxes["object_id"] == "star 1"]
    adata = from_tables({"a": own}, band_key="band")
    assert adata.uns["bands"] == ["g"] and adata.obsm["valid"].sum() == 12
    with pytest.raises(ValueError, match=r"median flux of 'a' is -"):
        from_tables({"a": own.assign(flux=own["flux"] - 20.0)})


def test_times_since_a_date_are_days():
    table = long_table()
    since = table.assign(time=pd.to_timedelta(table["time"] - 2_450_000.0, unit="D"))
    expected = from_tables(table).obsm["time"] - 2_450_000.0
    np.testing.assert_allclose(from_tables(since).obsm["time"], expected, atol=1e-8)


def test_two_columns_of_one_name_are_refused():
    table = long_table()
    with pytest.raises(ValueError, match="magnitude_key='magnitude' is the name of 2 columns"):
        from_tables(pd.concat([table, table[["magnitude"]]], axis=1))


def test_dates_of_a_time_zone_are_those_of_utc():
    table = long_table()
    dates = pd.to_datetime(table["time"] - 2_440_587.5, unit="D")
    expected = from_tables(table.assign(time=dates)).obsm["time"]
    for zone in ("UTC", "America/Santiago"):
        there = dates.dt.tz_localize("UTC").dt.tz_convert(zone)
        np.testing.assert_array_equal(from_tables(table.assign(time=there)).obsm["time"], expected)


def test_a_table_of_one_object_is_told_how_to_be_passed():
    table = long_table(1).drop(columns="object_id")
    with pytest.raises(KeyError, match="one object is passed as {name: table}"):
        from_tables(table)
    assert from_tables({"Mira": table}).obs_names.tolist() == ["Mira"]
