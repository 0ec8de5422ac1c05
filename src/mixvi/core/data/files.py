"""Model directories that are safe to load: weights as tensors, everything else as JSON.

A directory holds ``weights.pt`` (read with ``torch.load(weights_only=True)``, so that nothing in it
is executed) and ``mixvi.json`` with the format version, class, settings, registry and the weights'
SHA-256; ``adata.h5ad`` beside them on demand. With a prefix to these names it holds several models.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

FORMAT_VERSION = 1
JSON_NAME = "mixvi.json"
WEIGHTS_NAME = "weights.pt"
ADATA_NAME = "adata.h5ad"


def to_json(value: Any) -> Any:
    """Turn registries, settings and results into plain JSON values, arrays and tables tagged."""
    if isinstance(value, np.ndarray):
        return {
            "__array__": [to_json(v) for v in value.ravel().tolist()],
            "dtype": value.dtype.str,
            "shape": list(value.shape),
        }
    if isinstance(value, pd.DataFrame):
        columns = {str(c): to_json(value[c].to_numpy()) for c in value.columns}
        index = to_json(value.index.to_numpy())
        return {"__table__": columns, "index": index, "index_name": to_json(value.index.name)}
    if isinstance(value, np.generic):
        return to_json(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return {"__float__": repr(value)}
    if isinstance(value, dict):
        if all(isinstance(k, str) for k in value):
            return {k: to_json(v) for k, v in value.items()}
        return {"__items__": [[to_json(k), to_json(v)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {"__tuple__": [to_json(v) for v in value]}
    if isinstance(value, list):
        return [to_json(v) for v in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"Cannot save a value of type {type(value).__name__}: {value!r}.")


def from_json(value: Any) -> Any:
    """Inverse of :func:`to_json`."""
    if isinstance(value, list):
        return [from_json(v) for v in value]
    if not isinstance(value, dict):
        return value
    if "__array__" in value:
        flat = np.array([from_json(v) for v in value["__array__"]], dtype=np.dtype(value["dtype"]))
        return flat.reshape(value["shape"])
    if "__table__" in value:
        columns = {k: from_json(v) for k, v in value["__table__"].items()}
        index = pd.Index(from_json(value["index"]), name=from_json(value["index_name"]))
        return pd.DataFrame(columns, index=index)
    if "__float__" in value:
        return float(value["__float__"])
    if "__items__" in value:
        return {from_json(k): from_json(v) for k, v in value["__items__"]}
    if "__tuple__" in value:
        return tuple(from_json(v) for v in value["__tuple__"])
    return {k: from_json(v) for k, v in value.items()}


def write_model(
    directory: str | Path,
    record: dict,
    weights: dict[str, torch.Tensor],
    overwrite: bool,
    prefix: str | None = None,
    write_cells: Callable[[Path], None] | None = None,
) -> Path:
    """Write a model directory; each file appears whole, and none if one cannot be written.

    Parameters
    ----------
    directory, record, weights
        Where, what becomes JSON, and the tensors.
    overwrite
        Whether a model that is there is replaced.
    prefix
        Of the files' names, so that a directory may hold several models.
    write_cells
        Writes the AnnData to the path that it is given; ``None``: none is written.

    Raises
    ------
    FileExistsError
        If the directory (with a prefix: a model of that prefix in it) exists and ``overwrite`` is
        false.
    """
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise FileExistsError(f"{directory} is a file; a directory is needed.")
    names = (ADATA_NAME, WEIGHTS_NAME, JSON_NAME)
    places = {name: _named(directory, name, prefix) for name in names}
    taken = directory if prefix is None else places[JSON_NAME]
    if taken.exists() and not overwrite:
        raise FileExistsError(
            f"{taken} exists already. Choose another directory or prefix, or pass overwrite=True."
        )
    text = to_json(record)
    is_new = not directory.exists()
    directory.mkdir(parents=True, exist_ok=True)
    partial = {name: path.with_name(f"{path.name}.partial") for name, path in places.items()}
    try:
        if write_cells is not None:
            write_cells(partial[ADATA_NAME])
        tensors = {name: tensor.detach().cpu() for name, tensor in weights.items()}
        torch.save(tensors, partial[WEIGHTS_NAME])
        digest = _sha256(partial[WEIGHTS_NAME])
        text |= {"format_version": FORMAT_VERSION, "weights_sha256": digest}
        partial[JSON_NAME].write_text(json.dumps(text, indent=1))
        for name, path in places.items():
            if name != ADATA_NAME or write_cells is not None:
                os.replace(partial[name], path)
    except BaseException:
        for path in partial.values():
            path.unlink(missing_ok=True)
        if is_new:
            directory.rmdir()
        raise
    return directory


def _named(directory: str | Path, name: str, prefix: str | None) -> Path:
    if prefix is not None and (not isinstance(prefix, str) or Path(prefix).name != prefix):
        raise ValueError(
            f"prefix must be the beginning of a file's name, but is {prefix!r}. Other arguments "
            "are named, e.g. overwrite=True."
        )
    return Path(directory) / f"{prefix or ''}{name}"


def cells_path(directory: str | Path, prefix: str | None = None) -> Path:
    """Where the AnnData of a model is, if it was saved."""
    return _named(directory, ADATA_NAME, prefix)


def read_record(directory: str | Path, prefix: str | None = None) -> dict:
    """Read the JSON of a model directory.

    Raises
    ------
    FileNotFoundError
        If there is no model in the directory.
    ValueError
        If the file is damaged or of a format this version does not read.
    """
    path = _named(directory, JSON_NAME, prefix)
    if not path.is_file():
        there = _what_is_there(path.parent)
        raise FileNotFoundError(
            f"{directory} holds no mixvi model: {path.name} is missing. {there}"
        )
    try:
        record = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is damaged or truncated ({error}). Save the model anew."
        ) from None
    version = record.get("format_version") if isinstance(record, dict) else None
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{directory} has format version {version!r}; this mixvi reads version "
            f"{FORMAT_VERSION}. Use the mixvi version that wrote it ({_written_by(record)})."
        )
    return record


def _what_is_there(directory: Path) -> str:
    prefixes = sorted(path.name.removesuffix(JSON_NAME) for path in directory.glob(f"*{JSON_NAME}"))
    if prefixes:
        return "Those there have a prefix: pass prefix=" + " or ".join(map(repr, prefixes)) + "."
    if list(directory.glob("*model.pt")):
        return "It holds a model of scvi-tools, which scvi-tools alone can load."
    return "Pass the directory that model.save() wrote."


def read_model(
    directory: str | Path, class_name: str, prefix: str | None = None
) -> tuple[dict, dict[str, torch.Tensor]]:
    """Read a model directory; nothing in it is executed.

    Raises
    ------
    FileNotFoundError
        If there is no model in the directory.
    ValueError
        If it holds another class, a format this version does not read, or damaged files.
    """
    record = read_record(directory, prefix)
    if record["class"] != class_name:
        raise ValueError(
            f"{directory} holds a {record['class']} model, not a {class_name}. "
            f"Load it with {record['class']}.load(...)."
        )
    weights_path = _named(directory, WEIGHTS_NAME, prefix)
    if not weights_path.is_file() or _sha256(weights_path) != record.get("weights_sha256"):
        raise ValueError(
            f"{weights_path} is missing, damaged or truncated: its SHA-256 is not the one that "
            f"{JSON_NAME} names. Copy the directory again or save the model anew."
        )
    try:
        weights = torch.load(weights_path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{weights_path} is not a file of tensors; it was not read further. "
            "Do not use this directory unless you know where it comes from."
        ) from error
    return from_json(record), weights


def _written_by(record: Any) -> str:
    version = record.get("mixvi_version") if isinstance(record, dict) else None
    return str(version or "unknown")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
