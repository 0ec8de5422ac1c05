from __future__ import annotations

import numpy as np
import pytest

from mixvi import datasets
from mixvi.lightcurves import curve_features


def test_synthetic_curves_are_named_so_and_repeat():
    one, other = (datasets.synthetic_light_curves(3, seed=1) for _ in range(2))
    assert one.uns["synthetic"] is True
    assert one.obs["label"].value_counts().eq(3).all() and one.n_obs == 24
    np.testing.assert_array_equal(one.obsm["magnitude"], other.obsm["magnitude"])
    assert not np.array_equal(
        one.obsm["magnitude"][0], datasets.synthetic_light_curves(3, seed=2).obsm["magnitude"][0]
    )


def test_synthetic_magnitudes_scatter_by_their_errors():
    adata = datasets.synthetic_light_curves(20, n_points=(50, 60))
    off = (adata.obsm["magnitude"] - adata.obsm["true_magnitude"]) / adata.obsm["error"]
    off = off[adata.obsm["valid"]]
    assert abs(off.mean()) < 0.05 and abs(off.std() - 1) < 0.05


def test_synthetic_bands_have_one_shape():
    adata = datasets.synthetic_light_curves(5, ["RRAB"], n_bands=2, n_points=(150, 150))
    amplitude = curve_features(adata, ["amplitude"])
    np.testing.assert_allclose(amplitude["amplitude_1"] / amplitude["amplitude_0"], 0.75, atol=0.12)


def test_numbers_of_classes_that_cannot_be_made_are_refused():
    some = datasets.synthetic_light_curves({"EA": 2, "RRAB": 1}, n_points=(5, 6))
    assert some.obs["label"].tolist() == ["RRAB", "EA", "EA"]
    assert some.obs["label"].cat.categories.tolist() == ["RRAB", "EA"]
    for n, classes, message in (
        (0, ["EA"], "n_per_class must be a positive whole number"),
        (1, ["EA", "EA"], "more than once"),
        (1, [], "no class"),
        ({"XX": 1}, ["EA"], "'XX' is not known"),
        ({"EA": -1}, ["EA"], "n_per_class must be"),
    ):
        with pytest.raises(ValueError, match=message):
            datasets.synthetic_light_curves(n, classes)


def _here(file):
    if datasets.find(file) is None:
        pytest.skip(f"{file.name} is not on this machine")


def test_debosscher():
    _here(datasets.DEBOSSCHER_VARIABLES)
    adata = datasets.debosscher_variables()
    assert adata.n_obs == 1392 and adata.obsm["valid"].sum() == 263_608
    assert (adata.obs["label"] == "Classical Cepheid").sum() == 161
    found = curve_features(adata[:200].copy(), ["folded_scatter"])["folded_scatter"]
    np.testing.assert_allclose(found, adata.obs["folded_scatter"][:200], atol=0.02)


def test_sdss82():
    _here(datasets.SDSS82_RRLYRAE)
    adata = datasets.sdss82_rrlyrae()
    assert adata.n_obs == 483 and adata.obsm["valid"].sum() == 136_142
    assert adata.obs["label"].value_counts().to_dict() == {"ab": 379, "c": 104}
    assert adata.uns["bands"] == list("ugriz")


@pytest.mark.slow
def test_asas():
    _here(datasets.ASAS_VARIABLES)
    adata = datasets.asas_variables(max_points=50)
    assert adata.n_obs == 10_948 and adata.obsm["magnitude"].shape == (10_948, 50)
    assert adata.obsm["valid"].all()
    assert (adata.obs["label"] == "MIRA").sum() == 2772


def test_linear_of_a_copy_of_your_own(tmp_path):
    with pytest.raises(FileNotFoundError, match="PLV_LINEAR"):
        datasets.linear_variables(tmp_path)
    row = "42 10.5 -1.0 1 0.3 0.1 0.2 -0.25 0.8 0.1 2.0 15.0 6 1\n"
    (tmp_path / "PLV_LINEAR.dat").write_text(row + row.replace("42", "43", 1))
    times = np.arange(52_000.0, 52_006.0)
    np.savetxt(tmp_path / "42.dat", np.stack([times, np.full(6, 15.0), np.full(6, 0.1)], 1))
    adata = datasets.linear_variables(tmp_path, max_points=5)
    assert adata.obs_names.tolist() == ["42"]
    assert adata.obs["label"].tolist() == ["RR Lyrae FM"]
    np.testing.assert_allclose(adata.obs["period"], 10**-0.25)
    assert adata.obsm["valid"].sum() == 5
