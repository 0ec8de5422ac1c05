"""Where data files come from: ``MIXVI_DATA_DIR``, then the cache, then a download."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import pooch

DATA_DIR_VARIABLE = "MIXVI_DATA_DIR"
DATA_URL_VARIABLE = "MIXVI_DATA_URL"


@dataclass(frozen=True)
class DataFile:
    """One file: its folder, name, checksum and where the public original lies."""

    folder: str
    name: str
    sha256: str
    origin: str


def find(file: DataFile) -> Path | None:
    """Path of a file on this machine, checksum verified; None if it is not here.

    Raises
    ------
    ValueError
        If the file is there but its SHA-256 is another.
    """
    places = [Path(pooch.os_cache("mixvi"))]
    if os.environ.get(DATA_DIR_VARIABLE):
        places.insert(0, Path(os.environ[DATA_DIR_VARIABLE]))
    for place in places:
        path = place / file.folder / file.name
        if path.is_file():
            with open(path, "rb") as handle:
                found = hashlib.file_digest(handle, "sha256").hexdigest()
            if found != file.sha256:
                raise ValueError(
                    f"{path} is not the expected file: its SHA-256 is {found}, not {file.sha256}. "
                    "Delete or replace it."
                )
            return path
    return None


def fetch(file: DataFile) -> Path:
    """Path of a file: found on this machine, or downloaded from ``MIXVI_DATA_URL``.

    A download goes to the cache and is kept only if its checksum is right.

    Raises
    ------
    FileNotFoundError
        If it is not here and no address to download it from is set.
    ValueError
        If its SHA-256 is another.
    """
    path = find(file)
    if path is not None:
        return path
    base = os.environ.get(DATA_URL_VARIABLE)
    if not base:
        raise FileNotFoundError(
            f"{file.folder}/{file.name} is not on this machine. Put it (SHA-256 {file.sha256}) "
            f"into a directory <dir>/{file.folder}/ and set {DATA_DIR_VARIABLE}=<dir>, or set "
            f"{DATA_URL_VARIABLE} to an address that serves <address>/{file.folder}/{file.name}. "
            f"Origin: {file.origin}"
        )
    return Path(
        pooch.retrieve(
            f"{base.rstrip('/')}/{file.folder}/{file.name}",
            known_hash=f"sha256:{file.sha256}",
            fname=file.name,
            path=Path(pooch.os_cache("mixvi")) / file.folder,
        )
    )
