import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import scvi
import torch
from conftest import CPU

import mixvi
from mixvi.core.training import threads


def set_numba(monkeypatch, number):
    config = SimpleNamespace(NUMBA_NUM_THREADS=number)
    monkeypatch.setitem(sys.modules, "numba", SimpleNamespace(config=config))


@pytest.fixture
def untouched(monkeypatch):
    """A machine of two cores on which nobody has chosen a number of threads."""
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(scvi.settings, "_num_threads", None)
    monkeypatch.setattr(threads, "_DEFAULT_THREADS", 2)
    set_numba(monkeypatch, 32)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def seen():
    with threads.few_threads():
        return torch.get_num_threads()


def test_one_thread_on_small_machines(untouched):
    assert seen() == 1
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("how", ["environment", "scvi", "torch", "large machine"])
def test_a_chosen_number_stays(untouched, monkeypatch, how):
    if how == "environment":
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
    elif how == "scvi":
        monkeypatch.setattr(scvi.settings, "_num_threads", 2)
    elif how == "torch":
        monkeypatch.setattr(threads, "_DEFAULT_THREADS", 4)
    else:
        monkeypatch.setattr(os, "cpu_count", lambda: 16)
    assert seen() == 2


@pytest.mark.parametrize(
    ("variable", "number"), [("1", 1), (" 3,2", 3), ("", 1), ("many", 1), ("0", 1), ("-2", 1)]
)
def test_what_numba_undoes_is_applied(untouched, monkeypatch, variable, number):
    """Started with the variable, torch has as many threads as cores after scanpy's first loop."""
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    monkeypatch.setattr(threads, "_DEFAULT_THREADS", 1)
    set_numba(monkeypatch, 2)
    assert seen() == number
    assert torch.get_num_threads() == 2
    monkeypatch.setattr(scvi.settings, "_num_threads", 4)
    assert seen() == 4


def test_torchs_own_number_is_nearer_than_the_variable(untouched, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.setattr(threads, "_DEFAULT_THREADS", 8)
    assert seen() == 2


def test_scanpy_does_not_undo_the_variable():
    code = (
        "import anndata, numpy, scanpy, torch, mixvi\n"
        "from mixvi.core.training.threads import few_threads\n"
        "scanpy.pp.normalize_total(anndata.AnnData(scipy.sparse.csr_matrix(numpy.ones((9, 9)))))\n"
        "with few_threads():\n"
        "    print('threads', torch.get_num_threads())\n"
    )
    code = "import scipy.sparse\n" + code
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert "threads 1" in done.stdout


def test_training_and_inference(untouched, toy, monkeypatch):
    """The user's number is back afterwards, also when training fails."""
    mixvi.VAE.setup_anndata(toy)
    model = mixvi.VAE(toy, n_hidden=8)
    numbers = set()
    encode = model.module.encode

    def watched(rows):
        numbers.add(torch.get_num_threads())
        return encode(rows)

    monkeypatch.setattr(model.module, "encode", watched)
    model.train(1, **CPU)
    model.get_latent_representation()
    assert numbers == {1}
    assert torch.get_num_threads() == 2
    monkeypatch.setattr(model.module, "encode", lambda rows: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.train(1, **CPU)
    assert torch.get_num_threads() == 2
