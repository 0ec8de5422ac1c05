"""Model directories: what is written comes back, and what was tampered with is refused."""

from __future__ import annotations

import hashlib
import json
import math
import pickle

import numpy as np
import pandas as pd
import pytest
import torch

import mixvi
from mixvi.core.data.files import from_json, read_model, read_record, to_json, write_model

WEIGHTS = {"layer.weight": torch.arange(6.0).view(2, 3), "n": torch.tensor(3)}


def through_json(value):
    # strict: other programs read no bare NaN
    return from_json(json.loads(json.dumps(to_json(value), allow_nan=False)))


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.int32).reshape(2, 3),
        np.array([0.1, np.nan, np.inf, -np.inf], dtype=np.float32),
        np.array([[1e-300, 1 / 3]]),
        np.array([True, False]),
        np.array(["a", "ä cell"]),
        np.array([["a", 1], [2.5, None]], dtype=object),
        np.array([], dtype=object),
        np.zeros((0, 5), dtype=np.float32),
        np.array(3.5),
    ],
    ids=lambda array: f"{array.dtype}-{array.shape}",
)
def test_arrays(array):
    again = through_json(array)
    assert again.dtype == array.dtype and again.shape == array.shape
    np.testing.assert_array_equal(again, array)


def test_tables():
    index = pd.Index(np.arange(3), name="epoch")
    table = pd.DataFrame(
        {
            "loss": np.array([1.5, np.nan, 0.1], dtype=np.float32),
            "n": [1, 2, 3],
            "label": ["a", "b", "c"],
        },
        index=index,
    )
    pd.testing.assert_frame_equal(through_json(table), table)
    named = pd.DataFrame({"x": [1.0, 2.0]}, index=["cell_0", "cell_1"])
    pd.testing.assert_frame_equal(through_json(named), named)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        "text",
        2**60,
        0.1,
        (1, (2.5, "x"), []),
        [(1e-3, 10), (1e-4, 10)],
        {"a": {"b": (None,)}},
        {0: "type 0", 1: "type 1"},
        {(1, 2): [3]},
        math.inf,
        -math.inf,
    ],
)
def test_plain_values(value):
    again = through_json(value)
    assert again == value and type(again) is type(value)


def test_nan_and_numpy_scalars():
    assert math.isnan(through_json(np.array(["a", np.nan], dtype=object))[1])
    assert math.isnan(through_json(math.nan))
    assert math.isnan(through_json(np.float32("nan")))
    for value, plain in ((np.int64(3), 3), (np.float64(0.5), 0.5), (np.bool_(True), True)):
        again = through_json(value)
        assert again == plain and type(again) is type(plain)


def test_other_objects_are_not_saved():
    with pytest.raises(TypeError, match="set"):
        to_json({"settings": {1, 2}})


@pytest.fixture
def directory(tmp_path):
    record = {"class": "GMVAE", "mixvi_version": "0", "state": {"history": (1, math.nan)}}
    return write_model(tmp_path / "model", record, WEIGHTS, overwrite=False)


def edit(directory, **changes):
    path = directory / "mixvi.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_round_trip(directory):
    assert sorted(path.name for path in directory.iterdir()) == ["mixvi.json", "weights.pt"]
    record, weights = read_model(directory, "GMVAE")
    assert record["state"]["history"][0] == 1 and math.isnan(record["state"]["history"][1])
    assert weights.keys() == WEIGHTS.keys()
    for name, tensor in WEIGHTS.items():
        assert torch.equal(weights[name], tensor) and weights[name].dtype == tensor.dtype


def test_an_existing_directory_is_kept(directory, tmp_path):
    before = (directory / "weights.pt").read_bytes()
    with pytest.raises(FileExistsError, match="overwrite=True"):
        write_model(directory, {"class": "AE"}, {}, overwrite=False)
    assert (directory / "weights.pt").read_bytes() == before
    (tmp_path / "file").write_text("notes")
    with pytest.raises(FileExistsError, match="is a file"):
        write_model(tmp_path / "file", {"class": "AE"}, {}, overwrite=True)
    assert (tmp_path / "file").read_text() == "notes"
    write_model(directory, {"class": "AE"}, {}, overwrite=True)
    assert read_model(directory, "AE")[1] == {}


def test_a_record_that_cannot_be_saved_leaves_the_old_model(directory):
    """Nothing is written before the settings are known to be writable."""
    with pytest.raises(TypeError):
        write_model(directory, {"class": "AE", "bad": object()}, {}, overwrite=True)
    assert read_model(directory, "GMVAE")[1].keys() == WEIGHTS.keys()


def test_tampered_weights_are_refused(directory):
    path = directory / "weights.pt"
    weights = bytearray(path.read_bytes())
    weights[len(weights) // 2] ^= 1
    path.write_bytes(bytes(weights))
    with pytest.raises(ValueError, match="damaged or truncated"):
        read_model(directory, "GMVAE")
    path.unlink()
    with pytest.raises(ValueError, match="missing"):
        read_model(directory, "GMVAE")


@pytest.mark.parametrize("version", [None, 0, 2, "1"])
def test_other_formats_are_refused(directory, version):
    edit(directory, format_version=version)
    with pytest.raises(ValueError, match="format version"):
        read_record(directory)


@pytest.mark.parametrize("text", ["", "[]", "3", "null", '{"class": "GMV', "\x00\x01"])
def test_damaged_records_are_refused(directory, text):
    (directory / "mixvi.json").write_text(text)
    with pytest.raises(ValueError, match="damaged|format version"):
        read_record(directory)


def test_another_class_is_refused(directory):
    with pytest.raises(ValueError, match="holds a GMVAE model, not a CGMVAE"):
        read_model(directory, "CGMVAE")


@pytest.mark.parametrize("dump", ["pickle", "torch"])
def test_a_malicious_pickle_is_not_executed(directory, tmp_path, dump):
    """In place of the weights, plain or in torch's own container, its checksum made to fit."""
    sprung = tmp_path / "sprung"

    class Trap:
        def __reduce__(self):
            return (open, (str(sprung), "w"))

    path = directory / "weights.pt"
    if dump == "pickle":
        path.write_bytes(pickle.dumps({"layer.weight": Trap()}, protocol=2))
    else:
        torch.save({"layer.weight": Trap()}, path)
    with pytest.raises(ValueError, match="SHA-256"):
        read_model(directory, "GMVAE")
    edit(directory, weights_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(ValueError, match="not a file of tensors"):
        read_model(directory, "GMVAE")
    assert not sprung.exists()
    # the trap does work: an unsafe reader springs it
    if dump == "pickle":
        opened = pickle.loads(path.read_bytes())
    else:
        opened = torch.load(path, weights_only=False)
    opened["layer.weight"].close()
    assert sprung.exists()


def test_cells_of_an_overwritten_model_are_not_its_successors(toy, tmp_path):
    """A file of cells left by the model before is not loaded with the next one."""
    path = tmp_path / "model"
    mixvi.AE.setup_anndata(toy)
    mixvi.AE(toy, n_hidden=8).save(path, save_anndata=True)
    assert mixvi.AE.load(path).adata.n_obs == toy.n_obs
    fewer = toy[:50, :3].copy()
    mixvi.AE.setup_anndata(fewer)
    mixvi.AE(fewer, n_hidden=8).save(path, overwrite=True)
    assert mixvi.AE.load(path).adata is None
