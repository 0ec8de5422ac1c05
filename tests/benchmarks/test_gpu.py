"""The GPU benchmark at small sizes on a CPU: what it records, and what a cut-off run leaves."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
if not (ROOT / "benchmarks").exists():
    pytest.skip("benchmarks do not come with the source distribution", allow_module_level=True)


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from benchmarks import gpu

    return gpu


def test_every_part_leaves_its_rows(gpu, tmp_path):
    gpu.run("cpu", 300.0, tmp_path, toy=True)
    record = json.loads((tmp_path / "gpu.json").read_text())
    assert record["settings"]["toy"]
    assert record["machine"]["accelerator"] is None
    rows = {name: [r for r in record["runs"] if r["part"] == name] for name in gpu.PARTS}
    assert not [row for row in record["runs"] if "failed" in row]
    assert all(row["equal"] for row in rows["equality"])
    peer, *ours = (r for r in rows["speed"] if "inference" in r)
    for row in ours:
        assert row["training_over_scvi"] == pytest.approx(row["training"] / peer["training"])
        assert 0 < row["loader_share"] < 1
    assert {row["method"] for row in rows["precision"]} >= {"single", "bf16-mixed"}
    assert rows["compile"] and rows["waits"]
    *points, last = rows["mpcc"]
    assert points and points[-1]["updates"] == last["updates"]
    assert all(f"# {name}\n" in (tmp_path / "gpu.md").read_text() for name in gpu.PARTS)


def test_a_part_that_overruns_is_ended_and_keeps_its_rows(gpu, monkeypatch):
    def endless(part):
        part.send({"part": "endless", "found": 1})
        time.sleep(600)

    monkeypatch.setitem(gpu.PARTS, "endless", (endless, 1.0))
    monkeypatch.setattr(gpu, "GRACE", 1.0)
    options = {"device": "cpu", "toy": True, "deadline": time.monotonic() + 2.0}
    first, end = gpu.rows_of("endless", options, "fork")
    assert first["found"] == 1
    assert end["failed"] == "It ran out of time."


def test_a_part_that_fails_says_why(gpu, monkeypatch):
    monkeypatch.setitem(gpu.PARTS, "broken", (lambda part: 1 / 0, 1.0))
    options = {"device": "cpu", "toy": True, "deadline": time.monotonic() + 60.0}
    (end,) = gpu.rows_of("broken", options, "fork")
    assert "ZeroDivisionError" in end["failed"]


def test_same_noise_is_that_of_the_cpu(gpu):
    from benchmarks.device.equality import SameNoise

    like = torch.zeros(3, 2)
    torch.manual_seed(0)
    plain = torch.randn(4), torch.randn_like(like), torch.multinomial(torch.ones(5), 3)
    torch.manual_seed(0)
    with SameNoise():
        # a device without numbers: they are drawn all the same
        elsewhere = torch.randn(4, device="meta")
        ours = plain[0], torch.randn_like(like), torch.multinomial(torch.ones(5), 3)
    assert elsewhere.device.type == "meta"
    for a, b in zip(plain, ours, strict=True):
        torch.testing.assert_close(a, b)
