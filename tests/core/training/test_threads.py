import os

import pytest
import scvi
import torch
from conftest import CPU

import mixvi
from mixvi.core.training import threads


@pytest.fixture
def untouched(monkeypatch):
    """A machine of two cores on which nobody has chosen a number of threads."""
    before = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(scvi.settings, "_num_threads", None)
    monkeypatch.setattr(threads, "_DEFAULT_THREADS", 2)
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
