"""What annotate writes into an AnnData that others write into, too."""

from __future__ import annotations

import warnings

import anndata
import numpy as np
import pytest

from mixvi import CGMVAE, CVAE, GMVAE, VAE

SETUP = {"condition_key": "condition"}


def keys(adata, word):
    slots = {"obs": adata.obs, "obsm": adata.obsm, "layers": adata.layers, "uns": adata.uns}
    return {(slot, str(k)) for slot, held in slots.items() for k in held if word in str(k)}


def contents(adata, word):
    return {
        (slot, k): np.asarray(getattr(adata, slot)[k]).copy()
        for slot, k in keys(adata, word)
        if slot != "uns"
    }


def test_two_models_annotate_one_anndata(toy, fit, tmp_path):
    first = fit(GMVAE, toy, epochs=1, n_components=5)
    first.annotate(reconstruction=True)
    before = contents(toy, "gmvae")
    second = fit(CGMVAE, toy, epochs=1, setup=SETUP, n_components=6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second.annotate(key_added="other", reconstruction=True, counterfactual_to="condition 1")
    for place, values in before.items():
        np.testing.assert_array_equal(contents(toy, "gmvae")[place], values)
    named_alike = {(slot, k.replace("other", "gmvae")) for slot, k in keys(toy, "other")}
    assert named_alike - keys(toy, "gmvae") == {("layers", "gmvae_counterfactual")}
    assert toy.obsm["other_component_probs"].shape == (500, 6)
    assert toy.uns["other"]["counterfactual_condition"] == "condition 1"
    toy.write_h5ad(tmp_path / "cells.h5ad")
    assert "other_component" in anndata.read_h5ad(tmp_path / "cells.h5ad").obs


def test_keys_of_another_model_are_not_replaced_without_a_word(toy, fit):
    fit(GMVAE, toy, epochs=1, n_components=5).annotate()
    other = fit(CGMVAE, toy, epochs=1, setup=SETUP, n_components=5)
    with pytest.warns(UserWarning, match=r"what a GMVAE wrote: .*obs\['gmvae_component'\]") as said:
        other.annotate()
    assert said[0].filename == __file__
    assert toy.uns["gmvae"]["model"] == "CGMVAE"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.annotate()


def test_predictions_of_an_earlier_model_are_told_of(toy, fit):
    fit(GMVAE, toy, epochs=1, setup={"labels_key": "cell_type"}).annotate()
    before = toy.obs["gmvae_prediction"].copy()
    other = fit(GMVAE, toy, epochs=1, n_components=5, train={"init": None})
    with pytest.warns(UserWarning, match=r"obs\['gmvae_prediction'\] is of an earlier") as said:
        other.annotate()
    assert [warning.filename for warning in said] == [__file__]
    assert toy.obs["gmvae_prediction"].equals(before)
    del toy.obs["gmvae_prediction"]
    other.annotate()


@pytest.mark.parametrize(
    ("slot", "name"),
    [
        ("obs", "gmvae_confidence"),
        ("obsm", "X_gmvae_z"),
        ("uns", "gmvae"),
        ("obs", "gmvae_component"),
    ],
)
def test_a_users_own_column_is_not_replaced_without_a_word(toy, fit, slot, name):
    mine = "a word" if slot == "uns" else np.ones((toy.n_obs, 2))
    getattr(toy, slot)[name] = mine[:, 0] if slot == "obs" else mine
    model = fit(GMVAE, toy, epochs=1, n_components=5)
    with pytest.warns(UserWarning, match=rf"no mixvi model wrote: {slot}\['{name}'\]\. Pass"):
        model.annotate()


def test_nothing_is_written_where_something_fails(toy, fit):
    model = fit(CGMVAE, toy, epochs=1, setup=SETUP, n_components=5)
    with pytest.raises(ValueError, match="condition 7"):
        model.annotate(counterfactual_to="condition 7")
    with pytest.raises(ValueError, match="key_added must be a word"):
        model.annotate(key_added="a/b")
    assert not keys(toy, "gmvae")


@pytest.mark.parametrize("cls", [VAE, CVAE])
def test_models_of_one_latent(toy, fit, cls):
    model = fit(cls, toy, epochs=1, setup=SETUP if cls is CVAE else {})
    model.annotate(key_added="mine", reconstruction=True)
    assert keys(toy, "mine") == {
        ("obsm", "X_mine"),
        ("layers", "mine_reconstruction"),
        ("uns", "mine"),
    }


def test_layers_of_counterfactuals(counts, fit):
    setup = SETUP | {"layer": "counts"}
    for cls in (CVAE, CGMVAE):
        model = fit(cls, counts, epochs=1, setup=setup, likelihood="nb")
        with pytest.raises(ValueError, match="the layer that the model reads"):
            model.counterfactual(to="stim", key_added="counts")
        with pytest.raises(ValueError, match="every cell in its place"):
            model.counterfactual(to="stim", key_added="there", indices=np.arange(200)[::-1])
        model.counterfactual(to="stim", key_added="there")
        assert counts.layers["there"].shape == counts.shape
