"""How models show themselves."""

from __future__ import annotations

import io
import sys
from xml.etree import ElementTree

import pandas as pd
import pytest
from conftest import CPU

from mixvi import AE, CGMVAE, GMVAE

HOSTILE = ["[/x]", "[bold]<script>&"]


@pytest.fixture
def model(counts):
    """An untrained model of columns whose categories are markup."""
    names = pd.Categorical(counts.obs["batch"].cat.codes.map(dict(enumerate(HOSTILE))))
    counts.obs["batch"] = names
    CGMVAE.setup_anndata(
        counts,
        layer="counts",
        labels_key="kind",
        condition_key="condition",
        batch_key="batch",
        continuous_covariate_keys=["age"],
    )
    return CGMVAE(counts, n_components=4, n_hidden=16, n_layers=1, likelihood="nb")


def test_text_and_card_say_the_same(model, capsys):
    for trained in (False, True):
        if trained:
            model.train(2, **CPU)
            capsys.readouterr()
        text, card = repr(model), model._repr_html_()
        assert capsys.readouterr() == ("", "")
        # it parses only if everything is escaped
        shown = " ".join(ElementTree.fromstring(card).itertext())
        for said in (
            "CGMVAE with 4 components",
            "200 cells x 30 genes of adata.layers['counts']",
            "labels 'kind' (2: a, b)",
            "condition 'condition' (2: ctrl, stim)",
            "batch 'batch' (2: [/x], [bold]<script>&)",
            "covariates 'age'",
            "n_components=4",
            "model.counterfactual(to=...)" if trained else "model.train()",
            "epochs; in the last: train_loss" if trained else "not trained",
            *(["of 4 in use", "0: a, 1: b"] if trained else []),
        ):
            assert said in text, said
            assert said in shown, said
        assert "dropout_rate=0.15" in shown


def test_models_without_data_or_components_show_what_they_know(model, counts, tmp_path):
    model.train(1, **CPU)
    model.save(tmp_path / "model")
    loaded = CGMVAE.load(tmp_path / "model", adata=False)
    assert "not loaded; trained on 200 cells" in repr(loaded)
    assert "of 4 in use" in repr(loaded)
    AE.setup_anndata(counts)
    assert "Components" not in repr(AE(counts, likelihood="nb"))
    assert "predict" not in repr(AE(counts, likelihood="nb"))


def test_models_of_images_show_a_card(fit_images, capsys):
    model = fit_images(epochs=1)
    text = repr(model)
    assert "192 rows; image_key='image'" in text
    assert "1 epoch; in the last: train_loss" in text
    assert "differential_expression" not in text
    ElementTree.fromstring(model._repr_html_())
    model.view_anndata_setup()
    assert "adata.obsm['image']" in capsys.readouterr().out


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_setup_is_shown_wherever_text_goes(model, toy, monkeypatch, tmp_path, encoding):
    def shown(of, *args, **options):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
        of.view_anndata_setup(*args, **options)
        sys.stdout.flush()
        return raw.getvalue().decode(encoding)

    GMVAE.setup_anndata(toy)
    text = shown(model)
    assert all(name in text for name in HOSTILE)
    assert "'batch_key': 'batch'" in text
    assert "State Registry" not in shown(model, hide_state_registries=True)
    with pytest.raises(ValueError, match="not registered with the CGMVAE"):
        shown(model, toy)
    model.train(1, **CPU)
    model.save(tmp_path / "model")
    loaded = CGMVAE.load(tmp_path / "model", adata=False)
    assert shown(loaded) == shown(model)
