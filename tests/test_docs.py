"""What the README, the docstrings and the tutorial show, runs."""

from __future__ import annotations

import doctest
import inspect
import os
import re
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from anndata import AnnData, read_h5ad
from nbclient import NotebookClient

from mixvi import datasets
from mixvi.cells import GMVAE, gmvae
from mixvi.core.training.plan import StagedTrainingPlan
from mixvi.metrics import mean_expression_r2

ROOT = Path(__file__).parents[1]


def _skip_without(*files: datasets.fetch.DataFile) -> None:
    """Nothing is downloaded in tests."""
    for file in files:
        if datasets.find(file) is None:
            pytest.skip(f"{file.name} is not on this machine")


def test_readme():
    """Its code runs, on few epochs."""
    _skip_without(datasets.PBMC3K, datasets.KANG["both_1556"])
    text = (ROOT / "README.md").read_text()
    counts, conditions = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    few = {"model.train()": "model.train(1, init_epochs=2)"}
    few |= {"[(1e-3, 60), (1e-4, 20)]": "[(1e-3, 15)]"}
    names = {}
    for block in (counts, conditions):
        for of_page, of_test in few.items():
            block = block.replace(of_page, of_test)
        exec(block, names)
    assert sum(text.count(of_page) for of_page in few) == 2
    assert {"gmvae_component", "gmvae_confidence"} <= set(names["adata"].obs)
    assert {"group1", "lfc_mean", "proba_de"} <= set(names["markers"].columns)
    assert names["stimulated"].n_obs == names["control"].n_obs == 200
    r2 = [mean_expression_r2(names[name], names["real"]) for name in ("stimulated", "control")]
    assert r2[0] > r2[1]
    plt.close("all")


def test_docstring_examples():
    result = doctest.testmod(gmvae)
    assert result.attempted > 0
    assert result.failed == 0


def _fewer(epochs: int, few: int) -> dict[str, str]:
    return {f"EPOCHS = {epochs}\n": f"EPOCHS = {few}\n"}


@pytest.mark.parametrize(
    ("name", "short", "images"),
    [
        (
            "first_steps",
            {f"{of}.train(": f"{of}.train(1, init_epochs=1, " for of in ("model", "more")},
            8,
        ),
        (
            "procedures",
            _fewer(60, 6) | {'layer="counts", **quiet)': 'layer="counts", max_epochs=2, **quiet)'},
            4,
        ),
        ("images", _fewer(60, 6), 4),
        ("disentangling", _fewer(40, 1), 7),
        ("satellite", _fewer(150, 2), 5),
        ("lightcurves", _fewer(60, 1), 4),
    ],
)
def test_tutorial(name, short, images):
    """Executed again with few epochs; the stored one has outputs."""
    if name in ("first_steps", "procedures"):
        _skip_without(datasets.PBMC3K, datasets.KANG["both_1556"])
    if name == "satellite":
        _skip_without(datasets.SENTINEL2_PATCH)
        pytest.importorskip("rioxarray", reason="the extra satellite is not installed")
    if name == "lightcurves":
        _skip_without(datasets.ASAS_VARIABLES)
        pytest.importorskip("astropy", reason="the extra lightcurves is not installed")
    notebook = nbformat.read(ROOT / "tutorials" / f"{name}.ipynb", 4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code)
    assert sum("image/png" in o.get("data", {}) for c in code for o in c.outputs) >= images
    for of_page, of_test in short.items():
        assert sum(f"{cell.source}\n".count(of_page) for cell in code) == 1, of_page
        for cell in code:
            cell.source = f"{cell.source}\n".replace(of_page, of_test)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    NotebookClient(notebook, timeout=200, kernel_name="python3").execute()
    assert "True" in str(code[-1].outputs)


def test_images_page():
    """Its code runs, on few small images."""
    rng = np.random.default_rng(0)
    adata = AnnData(obsm={"image": rng.uniform(-1, 1, (32, 1, 16, 16)).astype(np.float32)})
    first, vade, mpcc, random_start, calibrated, vectors, mixmatch, own = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "images.md").read_text(), re.DOTALL
    )
    small = "n_latent=10, backbone_kwargs={'n_channels': 2}"
    first = first.replace("n_latent=10", small).replace("train()", "train(1, accelerator='cpu')")
    names = {"adata": adata}
    exec(first, names)
    assert names["images"].shape == (100, 1, 16, 16) and "X_wvae" in adata.obsm
    assert vade.count("max_epochs=10") == mpcc.count("max_epochs=1,") == 1
    exec(vade.replace("max_epochs=10", "max_epochs=1, accelerator='cpu'"), names)
    assert names["images"].shape == (16, 1, 16, 16) and "vade_cluster" in adata.obs
    names["second"] = names["model"]
    exec(calibrated, names)
    assert names["model"].calibration.accuracy == 1.0
    few = "max_epochs=1, batch_size=16, accelerator='cpu',"
    exec(mpcc.replace("max_epochs=1,", few), names)
    assert len(names["model"].history["critic_loss_train"]) == 1
    assert len(names["model"].start_history["critic_loss_train"]) == 5
    assert random_start.count("model.train(40,") == 1
    exec(random_start.replace("train(40,", f"train({few}"), names)
    assert len(names["model"].history["generator_loss_train"]) == 1
    adata.obsm["X_dino"] = rng.normal(size=(32, 6))
    exec(vectors, names)
    assert names["model"].module.image_shape == (6, 1, 1)
    adata.obs["object"] = np.repeat(["cat", "dog", "Unknown"], [4, 4, 24])
    assert mixmatch.count("max_epochs=50") == 1
    exec(mixmatch.replace("max_epochs=50", "max_epochs=1, accelerator='cpu'"), names)
    assert set(adata.obs["mixmatch_label"]) <= {"cat", "dog"}
    exec(own, names)
    assert names["model"].objective.beta == 0.1


def test_land_cover_on_the_satellite_page():
    """Its code runs, on few small tiles."""
    text = (ROOT / "docs" / "satellite.md").read_text()
    section = text.split("## Land cover from partial labels")[1]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    assert code.count("(16, 12, 32, 3") == code.count("train(150)") == 1
    names = {}
    small = code.replace("(16, 12, 32, 3", "(4, 4, 16, 3")
    exec(small.replace("train(150)", "train(1, accelerator='cpu')"), names)
    assert names["maps"].shape == names["entropy"].shape == (4, 16, 16)


def test_light_curves_page():
    """Its code runs; tables of its own are not there."""
    text = (ROOT / "docs" / "lightcurves.md").read_text()
    _, model, parts = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert model.count("max_epochs=2") == model.count("LCVaDE(adata)") == 1
    small = model.replace("LCVaDE(adata)", "LCVaDE(adata, width=8)")
    names = {}
    exec(small.replace("max_epochs=2", "max_epochs=1, accelerator='cpu'"), names)
    assert names["mean"].shape == names["sd"].shape == (60, 3)
    assert names["new"].n_obs == 5 and "lcvade_anomaly" in names["adata"].obs
    exec(parts, names)
    assert names["variance"].shape == (5, 200)


def test_page_on_data_larger_than_memory(counts, tmp_path, monkeypatch):
    """Its code runs on a small file, and leaves what was found beside it."""
    monkeypatch.chdir(tmp_path)
    counts.layers["counts"] = counts.X.copy()
    counts.write_h5ad("cells.h5ad")
    text = (ROOT / "docs" / "large_data.md").read_text()
    first = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    assert first.count("train()") == first.count("n_components=30") == 1
    few = first.replace("train()", "train(1, init_epochs=1, accelerator='cpu')")
    exec(few.replace("n_components=30", "n_components=3"), {})
    found = read_h5ad("components.h5ad")
    assert found.X is None and found.obs_names.equals(counts.obs_names)
    assert "gmvae_component" in found.obs and "X_gmvae_z" in found.obsm


def test_page_for_users_of_scvi_tools():
    """Its code runs, on one epoch, and its table of defaults is true."""
    text = (ROOT / "docs" / "from_scvi_tools.md").read_text()
    first, check, abundance = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert first.count("max_epochs=20") == 1
    names = {}
    exec(first.replace("max_epochs=20", "max_epochs=1, init_epochs=1, accelerator='cpu'"), names)
    adata = names["adata"]
    assert names["expression"].shape == adata.shape
    assert set(adata.obs["prediction"]) <= set(adata.obs["labels"])
    assert {"proba_de", "lfc_mean"} <= set(names["genes"].columns)
    exec(check, names)
    assert "model1" in names["check"].metrics["zero_fraction"]
    exec(abundance, names)
    assert names["enriched"].index.equals(adata.obs_names)
    plan = inspect.signature(StagedTrainingPlan).parameters
    model = inspect.signature(GMVAE).parameters
    defaults = {
        plan["n_epochs_kl_warmup"]: None,
        plan["eps"]: 1e-8,
        plan["weight_decay"]: 0.0,
        inspect.signature(GMVAE.train).parameters["init"]: "auto",
        model["likelihood"]: "auto",
        model["n_layers"]: 2,
        model["n_hidden"]: 256,
        model["dropout_rate"]: 0.15,
    }
    assert {of.name: of.default for of in defaults} == {
        of.name: value for of, value in defaults.items()
    }
