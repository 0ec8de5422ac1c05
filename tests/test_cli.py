"""The command line as a user calls it."""

from __future__ import annotations

import inspect
import json
import re
import signal
import subprocess
import sys
import time
import warnings

import anndata
import h5py
import pytest
import torch
import typer
from numpy.testing import assert_allclose

from mixvi import CGMVAE, GMVAE, VAE, cli


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


HELP = """
import sys
from mixvi.cli import main
sys.argv = ["mixvi", *sys.argv[1:]]
try:
    main()
finally:
    import json
    import time
    print(json.dumps([time.process_time(), [n for n in sys.modules if "." not in n]]))
"""


@pytest.mark.parametrize("command", ["", "demo", "train", "annotate", "counterfactual"])
def test_help_imports_no_model(command):
    """What costs seconds waits for a command that needs it; by the processor's clock."""
    done = subprocess.run(
        [sys.executable, "-c", HELP, *command.split(), "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    seconds, loaded = json.loads(done.stdout.splitlines()[-1])
    heavy = {"torch", "scvi", "anndata", "scanpy", "numpy", "pandas", "lightning", "matplotlib"}
    assert not heavy & set(loaded)
    assert seconds < 1


def options(command):
    return {
        option.name: option for option in typer.main.get_command(cli.app).commands[command].params
    }


def test_defaults_in_help_are_those_of_the_models():
    """An option left out is not passed on, so its help alone could be wrong."""
    said_in_words = {"layer", "n_components", "max_epochs", "train_size", "labelled_fraction"}
    said_in_words |= {"init_epochs", "lr", "classification_weight"}
    takers = (CGMVAE.setup_anndata, CGMVAE, CGMVAE.train)
    parameters = {k: p for f in takers for k, p in inspect.signature(f).parameters.items()}
    for name, option in options("train").items():
        shown = option.show_default
        if isinstance(shown, str) and name not in said_in_words:
            assert shown == str(parameters[name].default), name
    parameters = inspect.signature(CGMVAE.counterfactual).parameters
    for name in ("route", "labels"):
        assert options("counterfactual")[name].show_default == parameters[name].default
    name = "classification_weight"
    own, conditional = (inspect.signature(cls).parameters[name].default for cls in (GMVAE, CGMVAE))
    assert options("train")[name].show_default == f"{own:g}, cgmvae {conditional:g}"
    residual = options("counterfactual")["keep_residual"].show_default
    assert cli.cells.RESIDUALS[residual] == parameters["keep_residual"].default


def test_every_option_is_an_argument_of_a_model():
    own = {"cells", "model_dir", "output", "overwrite", "model", "seed", "help"}
    takers = (CGMVAE.setup_anndata, CGMVAE, CGMVAE.train)
    known = {name for f in takers for name in inspect.signature(f).parameters}
    assert set(options("train")) - own <= known


@pytest.fixture
def calls(monkeypatch):
    """What the command line asks of the models, which are not trained."""
    asked = {}

    def recorder(verb):
        def record(self, *_, **given):
            asked[verb] = given

        return record

    for cls in (CGMVAE, GMVAE, VAE):
        for verb in ("train", "annotate", "save"):
            # the signature says which options the verb takes
            fake = recorder(verb)
            fake.__signature__ = inspect.signature(getattr(cls, verb))
            monkeypatch.setattr(cls, verb, fake)
    return asked


def test_settings_reach_the_model(run, cells, tmp_path, calls, monkeypatch):
    """As typed, and none that was not."""
    built = {}
    original = CGMVAE.__init__

    def build(self, adata=None, **given):
        built.update(given)
        original(self, adata, **given)

    build.__signature__ = inspect.signature(original)
    monkeypatch.setattr(CGMVAE, "__init__", build)
    code, _, err = run(
        "train", cells, "--model-dir", tmp_path / "m", "--output", tmp_path / "out.h5ad",
        "--model", "cgmvae", "--condition-key", "condition", "--condition-in", "x_only",
        "--classification-weight", 50, "--n-latent-z", 7, "--init", "none", "--stages", "1e-4:10",
        "--checkpoint-dir", tmp_path / "run", "--resume",
    )  # fmt: skip
    assert code == 0, err
    assert built == {"condition_in": "x_only", "classification_weight": 50.0, "n_latent_z": 7}
    assert calls["train"] == {
        "init": None,
        "stages": [(1e-4, 10)],
        "checkpoint_dir": tmp_path / "run",
        "resume": True,
    }


def test_condition_columns_may_be_repeated(run, cells, tmp_path, monkeypatch):
    found = {}

    def register(adata, **given):
        found.update(given)

    register.__signature__ = inspect.signature(CGMVAE.setup_anndata)
    monkeypatch.setattr(CGMVAE, "setup_anndata", register)
    run(
        "train", cells, "--model-dir", tmp_path / "m", "--model", "cgmvae",
        "--condition-key", "condition", "--condition-key", "cell_type",
    )  # fmt: skip
    assert found["condition_key"] == ["condition", "cell_type"]


def test_one_name_for_the_size_of_z(run, cells, tmp_path, calls):
    for model in ("gmvae", "vae"):
        for option in ("--n-latent-z", "--n-latent"):
            code, _, err = run(
                "train", cells, "--model-dir", tmp_path / "m", "--output",
                tmp_path / f"{model}{option}.h5ad", "--model", model, option, 7,
            )  # fmt: skip
            assert code == 0, err


def test_interrupted(run, cells, tmp_path, calls, monkeypatch):
    """Ctrl-C is one line and exit code 130; what was learned is kept."""
    arguments = ("train", cells, "--model-dir", tmp_path / "m", "--output", tmp_path / "out.h5ad")

    def stop(self, **_):
        self.is_trained_ = self.learned
        raise KeyboardInterrupt("Stopped after epoch 3 of 10.")

    stop.__signature__ = inspect.signature(GMVAE.train)
    monkeypatch.setattr(GMVAE, "train", stop)
    for learned, words, left in ((False, "Nothing was written", False), (True, "epoch 3", True)):
        monkeypatch.setattr(GMVAE, "learned", learned, raising=False)
        code, _, err = run(*arguments)
        assert code == 130
        assert err.count("mixvi:") == 1 and words in err and "Traceback" not in err
        assert (tmp_path / "out.h5ad").exists() == left == ("save" in calls)


def test_ctrl_c(cells, tmp_path):
    """A process that is interrupted leaves the model of its last complete epoch."""
    checkpoints = tmp_path / "run"
    command = [
        sys.executable, "-c", "from mixvi.cli import main; main()", "train", cells,
        "--model-dir", tmp_path / "m", "--checkpoint-dir", checkpoints, "--init", "none",
        "--max-epochs", 100_000, "--n-hidden", 8, "--n-layers", 1, "--accelerator", "cpu",
    ]  # fmt: skip
    with subprocess.Popen(
        [str(part) for part in command], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        written = set()
        while process.poll() is None and len(written) < 3:
            # a checkpoint an epoch, each in the place of the last
            written |= {path.stat().st_mtime_ns for path in checkpoints.glob("*.ckpt")}
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        err = process.communicate(timeout=60)[1]
    assert process.returncode == 130, err
    lines = [line for line in err.splitlines() if line.startswith("mixvi:")]
    assert len(lines) == 1 and "Traceback" not in err, err
    epoch = int(re.search(r"after epoch (\d+) of 100000", lines[0])[1])
    model = GMVAE.load(tmp_path / "m", anndata.read_h5ad(cells))
    assert model.is_trained and len(model.history["elbo_train"]) == epoch >= 1
    assert "gmvae_component" in anndata.read_h5ad(tmp_path / "m" / "annotated.h5ad").obs


@pytest.mark.filterwarnings("default")
def test_warnings_are_one_line(run, cells, tmp_path, calls, monkeypatch):
    def warn(self, **_):
        warnings.warn("genes are constant", UserWarning, stacklevel=2)

    monkeypatch.setattr(GMVAE, "annotate", warn)
    code, _, err = run("train", cells, "--model-dir", tmp_path / "m", "--output", tmp_path / "o")
    assert code == 0, err
    assert "mixvi: warning: genes are constant\n" in err


def test_train_annotate_counterfactual(run, cells, tmp_path, toy):
    before = cells.read_bytes()
    model = tmp_path / "model"
    code, _, err = run(
        "train", cells, "--model-dir", model, "--model", "cgmvae", "--n-components", 5,
        "--condition-key", "condition", "--labels-key", "cell_type", *FAST,
    )  # fmt: skip
    assert code == 0, err
    annotated = anndata.read_h5ad(model / "annotated.h5ad")
    assert "gmvae_prediction" in annotated.obs
    code, _, err = run(
        "annotate", model, cells, "--key-added", "own", "--output", tmp_path / "again.h5ad"
    )
    assert code == 0, err
    again = anndata.read_h5ad(tmp_path / "again.h5ad")
    assert list(again.obs["own_prediction"]) == list(annotated.obs["gmvae_prediction"])
    code, _, err = run(
        "counterfactual", model, cells, "--to", "condition 1", "--from", "condition 0",
        "--output", tmp_path / "flipped.h5ad",
    )  # fmt: skip
    assert code == 0, err
    flipped = anndata.read_h5ad(tmp_path / "flipped.h5ad")
    assert flipped.n_obs == 250
    assert set(flipped.obs["target_condition"]) == {"condition 1"}
    code, _, err = run(
        "counterfactual", model, cells, "--to", "condition 1", "--from", "condition 0",
        "--route", "shift", "--keep-residual", "no", "--output", tmp_path / "moved.h5ad",
    )  # fmt: skip
    assert code == 0, err
    code, _, err = run(
        "counterfactual", model, cells, "--to", "condition 1", "--from", "condition 0",
        "--no-correct-means", "--output", tmp_path / "plain.h5ad",
    )  # fmt: skip
    assert code == 0, err
    loaded = CGMVAE.load(model, toy)
    control = (toy.obs["condition"] == "condition 0").to_numpy()
    for name, options in {
        "flipped": {},
        "moved": {"keep_residual": False},
        "plain": {"correct_means": False},
    }.items():
        made = anndata.read_h5ad(tmp_path / f"{name}.h5ad")
        expected = loaded.counterfactual(to="condition 1", indices=control, **options)
        assert_allclose(made.X, expected.X, rtol=1e-4, atol=1e-4)
    assert cells.read_bytes() == before


def test_cells_with_other_genes(run, cells, tmp_path, toy):
    model, other, output = tmp_path / "model", tmp_path / "other.h5ad", tmp_path / "o.h5ad"
    code, _, err = run(
        "train", cells, "--model-dir", model, "--n-components", 5, "--init", "none", *FAST
    )
    assert code == 0, err
    more = anndata.concat([toy, toy[:, :3].copy()], axis="var", index_unique="-", merge="first")
    more.var_names = [*toy.var_names, "a", "b", "c"]
    more[:, ::-1].copy().write_h5ad(other)
    code, _, err = run("annotate", model, other, "--output", output)
    assert code == 0, err
    assert f"cells have {more.n_vars} genes; the model's {toy.n_vars} are read and written" in err
    found, expected = (anndata.read_h5ad(path) for path in (output, model / "annotated.h5ad"))
    assert list(found.var_names) == list(toy.var_names)
    assert_allclose(found.obsm["X_gmvae_z"], expected.obsm["X_gmvae_z"], atol=1e-5)
    more[:, :3].copy().write_h5ad(other)
    one_line(run("annotate", model, other, "--output", tmp_path / "n.h5ad"), "min_overlap")


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
    one_line(run(*flip, "--keep-residual", "maybe"), "--keep-residual", "centred")
    one_line(run(*flip, "--from", "condition"), "--from", "Did you mean 'condition")
    assert not (tmp_path / "o.h5ad").exists()


def test_what_the_machine_or_file_lacks(run, cells, tmp_path):
    other = tmp_path / "other.h5ad"
    with h5py.File(other, "w") as file:
        file["numbers"] = [1, 2]
    one_line(run("train", other, "--model-dir", tmp_path / "m"), "cannot be read as h5ad")
    if not torch.cuda.is_available():
        result = run("train", cells, "--model-dir", tmp_path / "m", *FAST[:-1], "cuda")
        one_line(result, "accelerator='cuda'")
