"""Half precision and compiled modules reach what single precision does."""

import anndata
import numpy as np
import pytest
import scanpy as sc
import scvi
from conftest import CPU
from scipy import sparse
from torch._dynamo.testing import CompileCounter

import mixvi

# torch warns while it compiles; made an error, that would end the compilation and not the test
torch_may_warn = pytest.mark.filterwarnings("default")
CASES = {
    "gmvae nb": (mixvi.GMVAE, {}, {"n_components": 5, "likelihood": "nb"}),
    "gmvae zinb": (
        mixvi.GMVAE,
        {},
        {"n_components": 5, "likelihood": "zinb", "d_term": "sample", "dispersion": "gene-batch"},
    ),
    "gmvae labels": (mixvi.GMVAE, {"labels_key": "kind"}, {"likelihood": "gaussian_sigma"}),
    "cgmvae": (mixvi.CGMVAE, {"condition_key": "batch"}, {"n_components": 5, "z_kl": "mc"}),
    "vae": (mixvi.VAE, {}, {"likelihood": "poisson"}),
    "cvae": (mixvi.CVAE, {"condition_key": "batch"}, {}),
    "ae": (mixvi.AE, {}, {}),
}


def _loss(cells, case, **options):
    cls, setup, model_options = CASES[case]
    scvi.settings.seed = 0
    if model_options.get("likelihood") not in ("nb", "zinb", "poisson"):
        cells = sc.pp.log1p(cells, copy=True)
    cls.setup_anndata(cells, **setup)
    model = cls(cells, n_hidden=32, n_layers=1, **model_options)
    options = {"max_epochs": 4, "batch_size": 50} | options
    model.train(lr=5e-3, **options, **CPU)
    assert np.isfinite(model.get_latent_representation()).all()
    history = model.history["reconstruction_loss_train"]
    return float(history.iloc[-1].iloc[0])


@pytest.mark.parametrize("case", CASES)
def test_half_precision(counts, case):
    """Sums, gamma functions and divergences stay in single precision: losses agree to 2 %."""
    assert _loss(counts, case, precision="bf16-mixed") == pytest.approx(
        _loss(counts, case), rel=0.02
    )


def test_half_precision_finds_the_types(toy):
    scvi.settings.seed = 0
    # without it there are ten groups, and which of them are one component is chance
    mixvi.GMVAE.setup_anndata(toy, batch_key="condition")
    model = mixvi.GMVAE(toy, n_components=5, n_hidden=32, n_layers=1)
    model.train(15, lr=5e-3, batch_size=50, precision="bf16-mixed", **CPU)
    assert model.assign_components("cell_type").accuracy >= 0.99


@pytest.mark.slow
@torch_may_warn
@pytest.mark.parametrize("case", CASES)
def test_compiled(counts, case):
    """Noise is drawn in another order: losses agree to 2 %."""
    compiled = _loss(counts, case, plan_kwargs={"compile": True})
    assert compiled == pytest.approx(_loss(counts, case), rel=0.02)


def _cells_with_few_entries():
    x = sparse.random(300, 400, 0.05, "csr", dtype=np.float32, random_state=0)
    x.data = np.ceil(4 * x.data)
    return anndata.AnnData(x)


@torch_may_warn
def test_compiled_once():
    """Neither the number of a minibatch's entries nor the weight of the KL has it compiled anew."""
    counter = CompileCounter()
    plan = {"compile": True, "compile_kwargs": {"backend": counter}, "n_epochs_kl_warmup": 4}
    _loss(_cells_with_few_entries(), "gmvae nb", init=None, plan_kwargs=plan)
    assert counter.frame_count == 1


@pytest.mark.slow
@torch_may_warn
def test_compiled_with_entries():
    cells = _cells_with_few_entries()
    case, options = "gmvae nb", {"init": None}
    compiled = _loss(cells, case, plan_kwargs={"compile": True}, **options)
    assert compiled == pytest.approx(_loss(cells, case, **options), rel=0.02)
