"""Small files of R as its ``save`` writes them (R Internals, section 1.8)."""

from __future__ import annotations

import gzip
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

_SYMBOL, _LIST, _ENVIRONMENT, _CHARACTERS, _INTEGERS, _REALS = 1, 2, 4, 9, 13, 14
_STRINGS, _VECTOR, _S4, _EMPTY_ENVIRONMENT, _NULL, _REFERENCE = 16, 19, 25, 242, 254, 255


@dataclass(eq=False)
class S4:
    """An object of an S4 class."""

    name: str
    slots: dict[str, Any]


@dataclass(eq=False)
class Environment:
    """An environment that refers to itself as ``.self``, as one of a reference class does."""

    entries: dict[str, Any]


def write_rda(path: Path, objects: dict[str, Any]) -> None:
    """Save objects: arrays, lists of strings, dicts, categories, tables, S4, environments.

    A pair is an object and its further attributes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # of version 2, by R 3.5.1, for R 2.3.0
    head = b"RDX2\nX\n" + struct.pack(">iii", 2, 0x30501, 0x20300)
    path.write_bytes(gzip.compress(head + _Writer().pairs(objects)))


def sparse_matrix(counts: np.ndarray, genes: list[str], cells: list[str]) -> S4:
    """A ``dgCMatrix`` of genes x cells."""
    columns, rows = counts.T.nonzero()
    slots = {
        "i": rows.astype(np.int32),
        "p": np.searchsorted(columns, np.arange(counts.shape[1] + 1)).astype(np.int32),
        "Dim": np.array(counts.shape, np.int32),
        "Dimnames": [genes, cells],
        "x": counts.T[columns, rows].astype(float),
    }
    return S4("dgCMatrix", slots)


def table(columns: dict[str, Any]) -> S4:
    """A ``DFrame`` of Bioconductor."""
    return S4("DFrame", {"rownames": None, "listData": columns})


class _Writer:
    def __init__(self):
        # R writes a name or an environment once and refers to it afterwards
        self.known = []

    def item(self, value: Any, attributes: dict[str, Any] | None = None) -> bytes:
        attributes = attributes or {}
        if value is None:
            return _integers(_NULL)
        if isinstance(value, tuple):
            return self.item(*value)
        if isinstance(value, Environment):
            return self.environment(value)
        if isinstance(value, S4):
            slots = value.slots | {"class": [value.name]}
            return _integers(_flags(_S4, slots)) + self.pairs(slots)
        if isinstance(value, pd.Categorical):
            attributes = {"levels": list(value.categories), "class": ["factor"]}
            value = value.codes.astype(np.int32) + 1
        elif isinstance(value, pd.DataFrame):
            rows = np.arange(1, len(value) + 1, dtype=np.int32)
            attributes = {"names": list(value), "row.names": rows, "class": ["data.frame"]}
            value = [value[name].array for name in value]
            value = [v if isinstance(v, pd.Categorical) else list(v) for v in value]
        elif isinstance(value, dict):
            attributes = {"names": list(value)}
            value = list(value.values())
        elif isinstance(value, np.ndarray) and value.ndim == 2:
            attributes = {"dim": np.array(value.shape, np.int32)} | attributes
            value = value.ravel("F")
        if isinstance(value, np.ndarray):
            kind, dtype = (_INTEGERS, ">i4") if value.dtype.kind == "i" else (_REALS, ">f8")
            content = value.astype(dtype).tobytes()
        elif value and all(isinstance(v, str) for v in value):
            kind, content = _STRINGS, b"".join(map(_text, value))
        else:
            kind, content = _VECTOR, b"".join(map(self.item, value))
        head = _integers(_flags(kind, attributes), len(value))
        return head + content + (self.pairs(attributes) if attributes else b"")

    def environment(self, value: Environment) -> bytes:
        if value in self.known:
            return self.reference(value)
        self.known.append(value)
        # not locked, inside none; all entries in a table, of two buckets; no attributes
        head = _integers(_ENVIRONMENT, 0, _EMPTY_ENVIRONMENT, _NULL, _VECTOR, 2)
        return head + self.pairs({".self": value}) + self.pairs(value.entries) + _integers(_NULL)

    def pairs(self, entries: dict[str, Any]) -> bytes:
        written = b""
        for name, value in entries.items():
            written += _integers(_LIST | 1 << 10) + self.symbol(name) + self.item(value)
        return written + _integers(_NULL)

    def symbol(self, name: str) -> bytes:
        if name in self.known:
            return self.reference(name)
        self.known.append(name)
        return _integers(_SYMBOL) + _text(name)

    def reference(self, value: str | Environment) -> bytes:
        return _integers(_REFERENCE | (self.known.index(value) + 1) << 8)


def _flags(kind: int, attributes: dict[str, Any]) -> int:
    return kind | ("class" in attributes) << 8 | bool(attributes) << 9


def _integers(*values: int) -> bytes:
    return struct.pack(f">{len(values)}i", *values)


def _text(value: str) -> bytes:
    # marked as ASCII
    return _integers(_CHARACTERS | 64 << 12, len(value)) + value.encode("ascii")
