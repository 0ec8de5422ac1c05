"""Rooms do not know each other (docs/architecture.md, rule 4)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "mixvi"
ROOMS = {"cells", "images", "satellite", "lightcurves"}
# what a part of mixvi may import from mixvi; parts not named here may import anything
ALLOWED = {
    "core": {"core"},
    "datasets": {"core", "datasets"},
    "metrics": {"core", "metrics"},
} | {room: {"core", "metrics", room} for room in ROOMS}
# the floors of core from the ground up: a floor imports itself and those below
FLOORS = ("arguments", "settings", "maths", "data", "training", "model")
CATCH_ALL = {"utils", "helpers", "misc", "base_components", "common"}


def imported(node: ast.AST) -> list[str]:
    """Full names that a statement or a call of ``import_module`` imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if called in {"import_module", "__import__"}:
            return [str(node.args[0].value)]
    return []


def broken_lines(text: str, place: str) -> list[int]:
    """Line numbers of imports that ``place`` must not have."""
    lines = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.level:
            # a relative import hides which part it reaches
            lines.add(node.lineno)
            continue
        # a bare "import mixvi" reaches every room: its part is "", which no room may have
        parts = {f"{n}.".split(".")[1] for n in imported(node) if f"{n}.".startswith("mixvi.")}
        if place in ALLOWED and parts - ALLOWED[place]:
            lines.add(node.lineno)
    return sorted(lines)


def upward_imports(text: str, floor: str) -> list[int]:
    """Line numbers of imports of a higher floor of core than ``floor``."""
    lines = set()
    for node in ast.walk(ast.parse(text)):
        found = {f"{n}.".split(".")[2] for n in imported(node) if n.startswith("mixvi.core.")}
        if any(FLOORS.index(other) > FLOORS.index(floor) for other in found):
            lines.add(node.lineno)
    return sorted(lines)


def broken_imports(source: Path) -> list[str]:
    """``file:line`` of every import against the rule below ``source``."""
    return [
        f"{path.relative_to(source)}:{line}"
        for path in sorted(source.rglob("*.py"))
        for line in broken_lines(
            path.read_text(encoding="utf-8"), path.relative_to(source).parts[0].removesuffix(".py")
        )
    ]


def catch_all_names(source: Path) -> list[str]:
    """Files and folders below ``source`` that are named for nothing."""
    paths = [path.relative_to(source) for path in sorted(source.rglob("*.py"))]
    return [str(p) for p in paths if CATCH_ALL & {*p.parts[:-1], p.stem}]


def test_rooms_do_not_know_each_other():
    assert {"cells", "core", "datasets", "metrics"} <= {p.name for p in SOURCE.iterdir()}
    broken = broken_imports(SOURCE)
    assert not broken, f"imports against the rule: {', '.join(broken)}"


def test_no_floor_of_core_imports_a_higher_one():
    core = SOURCE / "core"
    floors = {p.name.removesuffix(".py") for p in core.iterdir() if p.suffix in ("", ".py")}
    assert floors - {"__init__", "__pycache__"} == set(FLOORS)
    broken = []
    for path in sorted(core.rglob("*.py")):
        floor = path.relative_to(core).parts[0].removesuffix(".py")
        if floor != "__init__":
            lines = upward_imports(path.read_text(encoding="utf-8"), floor)
            broken += [f"{path.relative_to(core)}:{line}" for line in lines]
    assert not broken, f"imports upwards: {', '.join(broken)}"


@pytest.mark.parametrize(
    ("text", "floor", "lines"),
    [
        ("from mixvi.core.model.module import Rows", "maths", [1]),
        ("def f():\n    from mixvi.core.data import checks", "maths", [2]),
        ("import mixvi.core.training.plan", "data", [1]),
        ("from mixvi.core import model", "training", [1]),
        ("from mixvi.core import arguments\nfrom mixvi.core.maths import mixture", "data", []),
        ("from mixvi.core.model.query import freeze_reference", "model", []),
    ],
)
def test_an_import_upwards_is_found(text, floor, lines):
    assert upward_imports(text, floor) == lines


@pytest.mark.parametrize(
    ("text", "place", "lines"),
    [
        ("from mixvi.cells import GMVAE", "core", [1]),
        ("from mixvi import GMVAE", "core", [1]),
        ("import os\nimport mixvi", "core", [2]),
        ("from mixvi import *", "core", [1]),
        ("from mixvi.metrics import knn", "core", [1]),
        ("from importlib import import_module\nimport_module('mixvi.cells')", "core", [2]),
        ("import os\nfrom mixvi import pl", "cells", [2]),
        ("def f():\n    import mixvi.images.mpcc", "cells", [2]),
        ("from .gmvae import GMVAE", "cells", [1]),
        ("from mixvi.datasets import kang", "metrics", [1]),
        ("from mixvi.cells import GMVAE", "datasets", [1]),
        ("from mixvi.core import checks\nfrom mixvi import metrics\nimport torch", "cells", []),
        ("from mixvi.cells.vae import VAE\nimport mixvi_data, mixviz.cells", "cells", []),
        ("import mixvi\nfrom mixvi import cells, datasets", "pl", []),
    ],
)
def test_the_rule_finds_what_it_should(text, place, lines):
    assert broken_lines(text, place) == lines


def test_the_walk_names_file_and_line(tmp_path):
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "bad.py").write_text("import torch\n\nfrom mixvi.cells import GMVAE\n")
    assert broken_imports(tmp_path) == [str(Path("core", "bad.py")) + ":3"]


def test_no_catch_all_files(tmp_path):
    assert catch_all_names(SOURCE) == []
    (tmp_path / "utils").mkdir()
    for name in ("utils/__init__.py", "helpers.py", "mixture.py"):
        (tmp_path / name).touch()
    assert catch_all_names(tmp_path) == ["helpers.py", str(Path("utils", "__init__.py"))]


def test_test_files_have_names_of_their_own():
    """Pytest knows a file by its name alone: of two that share one it collects the first."""
    names = [path.name for path in Path(__file__).parent.rglob("*.py")]
    assert [name for name in set(names) if names.count(name) > 1] == []
