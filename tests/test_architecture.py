"""Rooms do not know each other (docs/architecture.md, rule 4)."""

from __future__ import annotations

import ast
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "mixvi"
ROOMS = {"cells", "images", "satellite", "lightcurves"}
OUTSIDE_CORE = ROOMS | {"datasets", "metrics", "pl", "cli", "demo"}


def forbidden(place: str) -> set[str]:
    """Parts of mixvi that a part must not import."""
    if place == "core":
        return OUTSIDE_CORE
    if place in ROOMS:
        return (ROOMS - {place}) | {"pl", "cli", "demo"}
    if place in {"datasets", "metrics"}:
        return OUTSIDE_CORE - {place}
    return set()


def broken_lines(text: str, place: str) -> list[int]:
    """Line numbers of imports that ``place`` must not have."""
    lines = []
    for node in ast.walk(ast.parse(text)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                lines.append(node.lineno)
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names.append(node.module or "")
        parts = {n.split(".")[1] for n in names if n.startswith("mixvi.")}
        if parts & forbidden(place):
            lines.append(node.lineno)
    return lines


def test_rooms_do_not_know_each_other():
    broken = []
    for path in SOURCE.rglob("*.py"):
        place = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        broken += [f"{path.relative_to(SOURCE)}:{n}" for n in broken_lines(path.read_text(), place)]
    assert not broken, f"imports against the rule: {', '.join(broken)}"


def test_the_rule_finds_what_it_should():
    assert broken_lines("from mixvi.cells import GMVAE", "core") == [1]
    assert broken_lines("import os\nfrom mixvi import pl", "cells") == [2]
    assert broken_lines("def f():\n    import mixvi.images.mpcc", "cells") == [2]
    assert broken_lines("from .gmvae import GMVAE", "cells") == [1]
    assert broken_lines("from mixvi.core import checks\nimport torch", "cells") == []


def test_no_catch_all_files():
    names = {p.stem for p in SOURCE.rglob("*.py")}
    assert not names & {"utils", "helpers", "misc", "base_components", "common"}
