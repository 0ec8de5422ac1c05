"""A notebook's ``train`` shows one bar, named by its part, and no line that nobody asked for."""

from __future__ import annotations

import io
import logging
import warnings

import pytest
import scvi
from conftest import CPU

import mixvi

TRAIN = {"accelerator": "cpu", "batch_size": 100, "init_epochs": 2}


@pytest.fixture
def shown(capsys):
    """What has been printed and logged since it was last asked for; warnings are errors."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.NOTSET)
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    loggers = [logging.getLogger(f"lightning.{name}") for name in ("pytorch", "fabric")]
    for logger in loggers:
        logger.addHandler(handler)

    def read():
        text = "".join(capsys.readouterr()) + log.getvalue()
        log.seek(0)
        log.truncate()
        return text

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # of AnnData, on new versions of pandas
        warnings.filterwarnings("ignore", "The 'future.infer_string' option")
        yield read
    for logger in loggers:
        logger.removeHandler(handler)


def build(toy, cls=mixvi.GMVAE):
    cls.setup_anndata(toy)
    return cls(toy, n_hidden=16, n_layers=1, **({"n_components": 5} if cls is mixvi.GMVAE else {}))


def bars(text):
    """Names of the bars, in order, and the lines that are none."""
    lines = [line for line in text.replace("\r", "\n").split("\n") if line.strip()]
    names = [line.split()[0].rstrip(":") for line in lines if "it/s" in line or "s/it" in line]
    others = [line for line in lines if "it/s" not in line and "s/it" not in line]
    return list(dict.fromkeys(names)), others


def test_one_bar_named_by_its_part(toy, shown):
    model = build(toy)
    shown()
    model.train(3, train_size=0.8, **TRAIN)
    text = shown()
    names, others = bars(text)
    assert names == ["start", "training"]
    assert others == []
    assert "training 3/3: 100%" in text and "train_loss=" in text and "v_num" not in text
    # the bar of the start is wiped away, that of training stays
    assert " \r" in text.split("training")[0] and text.endswith("\n")
    last = text.strip().replace("\r", "\n").split("\n")[-1]
    loss = float(model.history["train_loss"].iloc[-1, 0])
    assert float(last.split("train_loss=")[1].strip(" ]")) == pytest.approx(loss, rel=1e-2)


def test_one_line_where_training_stops_early(toy, shown):
    model = build(toy, mixvi.VAE)
    shown()
    options = {"early_stopping_patience": 1, "early_stopping_min_delta": 1e6}
    model.train(9, early_stopping=True, accelerator="cpu", **options)
    names, others = bars(shown())
    assert names == ["training"]
    assert len(others) == 1 and "elbo_validation did not improve" in others[0]


@pytest.mark.parametrize("off", [{"enable_progress_bar": False}, {"progress_bar_refresh_rate": 0}])
def test_nothing_at_all(toy, shown, off):
    model = build(toy)
    shown()
    model.train(2, **(TRAIN | off))
    assert shown() == ""


def test_lightnings_own_bar(toy, shown):
    build(toy, mixvi.VAE).train(1, simple_progress_bar=False, accelerator="cpu")
    assert "Epoch 0" in shown()


def test_lightnings_lines_on_demand(toy, shown):
    model = build(toy, mixvi.VAE)
    before = scvi.settings.verbosity
    try:
        scvi.settings.verbosity = logging.DEBUG
        with pytest.warns(FutureWarning, match="LeafSpec"):
            model.train(1, **CPU)
    finally:
        scvi.settings.verbosity = before
    text = shown()
    assert "GPU available" in text and "`Trainer.fit` stopped" in text
    # what lightning says elsewhere is as before
    assert logging.getLogger("lightning.pytorch").isEnabledFor(logging.INFO)
