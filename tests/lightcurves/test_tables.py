"""Tables of several kinds as the same AnnData, and what is said of bad ones."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from long_tables import long_table

from mixvi.lightcurves import from_tables


def same(one, other):
    for key in ("time", "magnitude", "error", "valid"):
        np.testing.assert_array_equal(one.obsm[key], other.obsm[key], err_msg=key)


def test_curves_lie_in_padded_arrays_in_the_order_of_time():
    table = long_table().drop(index=[2, 3])
    adata = from_tables(table)
    assert adata.obs_names.tolist() == [f"star {i}" for i in range(4)]
    assert adata.obsm["valid"].sum(1).tolist() == [10, 12, 12, 12]
    assert adata.obsm["time"].dtype == np.float64
    for i, (_, own) in enumerate(table.groupby("object_id")):
        valid = adata.obsm["valid"][i]
        np.testing.assert_array_equal(adata.obsm["time"][i, valid], own["time"])
        np.testing.assert_allclose(adata.obsm["magnitude"][i, valid], own["magnitude"], rtol=1e-6)
        assert np.isnan(adata.obsm["error"][i, ~valid]).all()


def test_bands_are_the_last_axis():
    table = long_table(bands=("r", "g"))
    adata = from_tables(table, band_key="band")
    assert adata.uns["bands"] == ["g", "r"]
    assert adata.obsm["magnitude"].shape == (4, 12, 2)
    own = table[(table["object_id"] == "star 1") & (table["band"] == "r")]
    np.testing.assert_array_equal(adata.obsm["time"][1, :, 1], own["time"])
    other = from_tables(table, band_key="band", bands=["r", "g"])
    np.testing.assert_array_equal(other.obsm["time"][..., 0], adata.obsm["time"][..., 1])


def test_one_table_an_object_is_one_table_of_all():
    table = long_table()
    parts = dict(iter(table.groupby("object_id")))
    same(from_tables(parts), from_tables(table))


def test_what_is_known_of_objects_goes_by_name():
    objects = pd.DataFrame({"object_id": [f"star {i}" for i in (3, 2, 1, 0, 9)]})
    objects["period"] = [3.0, 2.0, 1.0, 0.5, 9.0]
    adata = from_tables(long_table(), objects=objects)
    assert adata.obs["period"].tolist() == [0.5, 1.0, 2.0, 3.0]
    with pytest.raises(KeyError, match=r"1 of 4 curves \(the first is 'star 0'\) have no row"):
        from_tables(long_table(), objects=objects[:3])


def test_tables_of_astropy():
    tables = pytest.importorskip("astropy.table", reason="the extra lightcurves is not installed")
    from astropy import units
    from astropy.time import Time
    from astropy.timeseries import TimeSeries

    table = long_table()
    expected = from_tables(table)
    same(from_tables(tables.Table.from_pandas(table)), expected)
    own = table[table["object_id"] == "star 2"]
    columns = {"magnitude": own["magnitude"].to_numpy() * units.mag, "error": own["error"]}
    series = TimeSeries(columns, time=Time(own["time"], format="jd"))
    adata = from_tables({"star 2": series})
    np.testing.assert_allclose(adata.obsm["time"][0], expected.obsm["time"][2], atol=1e-8)
    masked = tables.Table.from_pandas(own, index=False)
    masked = tables.Table(masked, masked=True)
    masked["magnitude"].mask[3] = True
    with pytest.raises(ValueError, match="magnitudes that are NaN"):
        from_tables(masked)
    assert from_tables(masked, drop_missing=True).obsm["valid"].sum() == 11


def test_objects_of_which_nothing_is_left_are_counted_and_named():
    table = long_table()
    table.loc[table["object_id"].isin(["star 1", "star 3"]), "error"] = np.nan
    with pytest.warns(UserWarning, match="nothing of 2 objects, the first is 'star 1'"):
        adata = from_tables(table, drop_missing=True)
    assert list(adata.obs_names) == ["star 0", "star 2"]
    # one object by two types of its name
    table = long_table(n_objects=1)
    table["object_id"] = np.array([1, "1"] * 6, dtype=object)
    table.loc[table.index[1::2], "error"] = np.nan
    assert from_tables(table, drop_missing=True).obsm["valid"].sum() == 6


def test_tables_of_objects_without_observations_are_counted_and_named():
    table = long_table(n_objects=1).drop(columns="object_id")
    with pytest.warns(UserWarning, match="no observation of 1 objects, the first is 'b'"):
        adata = from_tables({"a": table, "b": table[:0]})
    assert list(adata.obs_names) == ["a"]


def test_light_curves_of_lightkurve_become_magnitudes():
    class Curve(dict):
        """What lightkurve's objects have of a table."""

        colnames = ["time", "flux", "flux_err"]
        meta = {"LABEL": "KIC 1"}
        flux = flux_err = None

    flux = np.array([1.0, 2.0, 4.0, 2.0, 2.0])
    curve = Curve(time=np.arange(5.0), flux=100 * flux, flux_err=np.full(5, 2.0))
    adata = from_tables([curve])
    assert adata.obs_names.tolist() == ["KIC 1"]
    np.testing.assert_allclose(adata.obsm["magnitude"][0], -2.5 * np.log10(flux / 2), atol=1e-6)
    np.testing.assert_allclose(adata.obsm["error"][0, 1], 1.0857 * 2 / 200, rtol=1e-4)

    class Collection:
        """lightkurve's collections have no ``__iter__``."""

        def __getitem__(self, i):
            return [curve, curve][i]

    assert from_tables(Collection()).obs_names.tolist() == ["KIC 1", "1"]
    dark = Curve(time=np.arange(5.0), flux=np.full(5, np.nan), flux_err=np.full(5, 2.0))
    with pytest.raises(ValueError, match="NaN"):
        from_tables({"lit": curve, "dark": dark})
    with pytest.warns(UserWarning, match="the first is 'dark'"):
        adata = from_tables({"lit": curve, "dark": dark}, drop_missing=True)
    assert adata.obs_names.tolist() == ["lit"]


def test_unsorted_and_repeated_times_are_put_in_order_with_one_warning():
    table = long_table()
    again = table.iloc[[0, 14]].assign(magnitude=[14.0, 15.0], error=[0.02, 0.02])
    shuffled = pd.concat([table, again]).sample(frac=1.0, random_state=0)
    before = shuffled.copy()
    with pytest.warns(UserWarning) as caught:
        adata = from_tables(shuffled)
    (message,) = [str(w.message) for w in caught if w.category is UserWarning]
    assert "4 of 4 curves" in message and "2 of 4 curves" in message
    assert "2 observations joined" in message
    pd.testing.assert_frame_equal(shuffled, before)
    assert adata.obsm["valid"].sum(1).tolist() == [12] * 4
    row = adata.obs_names.get_loc("star 0")
    weights = 1 / np.array([table["error"][0], 0.02]) ** 2
    expected = (weights * [table["magnitude"][0], 14.0]).sum() / weights.sum()
    np.testing.assert_allclose(adata.obsm["magnitude"][row, 0], expected, rtol=1e-6)
    np.testing.assert_allclose(adata.obsm["error"][row, 0], weights.sum() ** -0.5, rtol=1e-6)


def changed(column, rows, value):
    table = long_table()
    table.loc[rows, column] = value
    return table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (changed("magnitude", [13, 25], np.nan), r"2 of 4 .* 'star 1'\) have magnitudes .* 2 in"),
        (changed("error", [0], 0.0), r"1 of 4 .* 'star 0'\) have errors that are not positive"),
        (changed("error", [40], -1.0), r"1 of 4 .* 'star 3'\) have errors that are not positive"),
        (long_table().drop(index=range(12, 20)), r"1 of 4 .* 'star 1'\) have fewer than 5 points"),
        (long_table()[:0], "no observation"),
    ],
)
def test_bad_curves_are_counted_and_the_first_is_named(table, message):
    with pytest.raises(ValueError, match=message):
        from_tables(table)


def test_missing_bands_are_told():
    table = long_table(bands=("g", "r"))
    table = table[(table["object_id"] != "star 2") | (table["band"] == "g")]
    with pytest.warns(UserWarning, match=r"1 of 4 curves .*'star 2'\) lack at least one of 2"):
        adata = from_tables(table, band_key="band")
    assert not adata.obsm["valid"][2, :, 1].any()


def test_a_misspelt_column_is_named():
    with pytest.raises(KeyError, match="Did you mean 'magnitude'"):
        from_tables(long_table(), magnitude_key="magnitud")
    with pytest.raises(TypeError, match="is a int"):
        from_tables(3)
