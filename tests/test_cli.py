"""The command line as a user calls it."""

from __future__ import annotations

import sys

import anndata
import h5py
import pytest
import torch

from mixvi import cli


@pytest.fixture
def run(monkeypatch, capsys):
    """Run ``mixvi`` with arguments; exit code and what stood on stderr."""

    def _run(*arguments):
        monkeypatch.setattr(sys, "argv", ["mixvi", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
            raise SystemExit(0)
        captured = capsys.readouterr()
        return stopped.value.code or 0, captured.out, captured.err

    return _run


@pytest.fixture
def cells(toy, tmp_path):
    path = tmp_path / "cells.h5ad"
    toy.write_h5ad(path)
    return path


FAST = ("--max-epochs", 2, "--n-hidden", 16, "--n-layers", 1, "--accelerator", "cpu")


def test_help(run):
    for arguments in ((), ("train",), ("annotate",), ("counterfactual",), ("demo",)):
        code, out, _ = run(*arguments, "--help")
        assert code == 0
        assert "Usage" in out
    _, out, _ = run("train", "--help")
    assert "--labels-key" in out and "Training" in out
    code, out, _ = run("--version")
    assert out.startswith("mixvi 0.1")


def test_train_annotate_counterfactual(run, cells, tmp_path):
    before = cells.read_bytes()
    model = tmp_path / "model"
    code, _, err = run(
        "train", cells, "--model-dir", model, "--model", "cgmvae", "--n-components", 5,
        "--condition-key", "condition", "--labels-key", "cell_type", *FAST,
    )  # fmt: skip
    assert code == 0, err
    annotated = anndata.read_h5ad(model / "annotated.h5ad")
    assert "gmvae_prediction" in annotated.obs
    code, _, err = run("annotate", model, cells, "--output", tmp_path / "again.h5ad")
    assert code == 0, err
    again = anndata.read_h5ad(tmp_path / "again.h5ad")
    assert list(again.obs["gmvae_prediction"]) == list(annotated.obs["gmvae_prediction"])
    code, _, err = run(
        "counterfactual", model, cells, "--to", "condition 1", "--from", "condition 0",
        "--output", tmp_path / "flipped.h5ad",
    )  # fmt: skip
    assert code == 0, err
    flipped = anndata.read_h5ad(tmp_path / "flipped.h5ad")
    assert flipped.n_obs == 250
    assert set(flipped.obs["target_condition"]) == {"condition 1"}
    assert cells.read_bytes() == before


@pytest.mark.parametrize("model", ["ae", "vae", "cvae"])
def test_other_models(run, cells, tmp_path, model):
    condition = ("--condition-key", "condition") if model == "cvae" else ()
    code, _, err = run(
        "train", cells, "--model-dir", tmp_path / "m", "--model", model, *condition,
        "--stages", "1e-3:1,1e-4:1", "--n-hidden", 16, "--output", tmp_path / "out.h5ad",
    )  # fmt: skip
    assert code == 0, err
    assert f"X_{model}" in anndata.read_h5ad(tmp_path / "out.h5ad").obsm


def one_line(result, *words):
    code, _, err = result
    assert code == 2
    lines = [line for line in err.strip().splitlines() if line.startswith("mixvi:")]
    assert len(lines) == 1 and "Traceback" not in err, err
    for word in words:
        assert word in lines[0], lines[0]


def test_errors_are_one_line(run, cells, tmp_path):
    model = tmp_path / "model"
    train = ("train", cells, "--model-dir", model, *FAST)
    one_line(run("train", tmp_path / "no.h5ad", "--model-dir", model), "does not exist")
    one_line(run(*train, "--labels-key", "cell_typ"), "'cell_type'")
    one_line(run(*train, "--model", "gmva"), "'gmvae'")
    one_line(run(*train, "--likelihood", "nb"), "negative")
    one_line(run(*train[:4], "--stages", "fast"), "LR:EPOCHS")
    one_line(run("annotate", tmp_path, cells, "--output", tmp_path / "o.h5ad"), "no mixvi model")
    assert not model.exists()
    (tmp_path / "broken.h5ad").write_text("no")
    one_line(run("train", tmp_path / "broken.h5ad", "--model-dir", model))
    model.mkdir()
    one_line(run(*train), "exists already", "--overwrite")


def test_input_is_never_overwritten(run, cells, tmp_path):
    before = cells.read_bytes()
    link = tmp_path / "link.h5ad"
    link.symlink_to(cells)
    model = tmp_path / "model"
    for output in (cells, link):
        result = run("train", cells, "--model-dir", model, "--output", output, "--overwrite", *FAST)
        one_line(result, "is the input")
        one_line(run("annotate", model, cells, "--output", output, "--overwrite"), "is the input")
        result = run("counterfactual", model, cells, "--to", "x", "--output", output, "--overwrite")
        one_line(result, "is the input")
    assert not model.exists()
    assert cells.read_bytes() == before


def test_options_without_use_are_refused(run, cells, tmp_path):
    model = tmp_path / "model"
    train = ("train", cells, "--model-dir", model, *FAST)
    one_line(run(*train, "--model", "vae", "--n-components", 5), "--n-components", "vae")
    one_line(run(*train, "--w-prior", "learned"), "--w-prior", "gmvae")
    code, _, err = run(*train, "--model", "cvae", "--condition-key", "condition")
    assert code == 0, err
    flip = ("counterfactual", model, cells, "--to", "condition 1", "--output", tmp_path / "o.h5ad")
    one_line(run(*flip, "--route", "z"), "--route", "cvae")
    assert not (tmp_path / "o.h5ad").exists()


def test_what_the_machine_or_file_lacks(run, cells, tmp_path):
    other = tmp_path / "other.h5ad"
    with h5py.File(other, "w") as file:
        file["numbers"] = [1, 2]
    one_line(run("train", other, "--model-dir", tmp_path / "m"), "cannot be read as h5ad")
    if not torch.cuda.is_available():
        result = run("train", cells, "--model-dir", tmp_path / "m", *FAST[:-1], "cuda")
        one_line(result, "--accelerator cuda")
