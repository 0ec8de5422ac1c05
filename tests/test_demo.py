"""What the demo leaves behind, at a small setting."""

from __future__ import annotations

import re

import anndata
import pytest

from mixvi import datasets
from mixvi.demo import run_demo


@pytest.mark.parametrize("with_kang", [True, False])
def test_demo(tmp_path, monkeypatch, with_kang):
    if with_kang and datasets.find(datasets.KANG["both_1556"]) is None:
        pytest.skip("the Kang cells are not on this machine")
    if not with_kang:
        monkeypatch.setenv("MIXVI_DATA_DIR", str(tmp_path / "nothing"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    report = run_demo(tmp_path / "out", epochs=2, progress=False)
    text = report.read_text()
    assert not re.search(r'(src|href)="http', text)
    figures = sorted(p.name for p in (tmp_path / "out").glob("*.png"))
    assert figures == [
        "counterfactual.png",
        "counterfactual_loss_terms.png",
        "counterfactual_umap.png",
        "heatmap.png",
        "loss_terms.png",
        "umap.png",
    ]
    assert text.count("data:image/png;base64,") == len(figures)
    for merit in ("accuracy by overlap", "Hungarian accuracy", "ARI", "NMI", "used components"):
        assert merit in text
    assert "active units of w" in text and "recall" in text
    assert "predicted / real" in text and "shift of means" in text and "energy distance" in text
    # what sets components apart is said by genes
    assert "MS4A1" in text or "CD79A" in text or "FCER1A" in text
    assert ("Kang et al. 2018" in text) == with_kang
    cells = anndata.read_h5ad(tmp_path / "out" / "pbmc68k.h5ad")
    assert "gmvae_component" in cells.obs
    flipped = anndata.read_h5ad(tmp_path / "out" / "counterfactual.h5ad")
    assert "gmvae_counterfactual" in flipped.layers
