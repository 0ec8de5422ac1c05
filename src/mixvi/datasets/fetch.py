"""Where data files come from: ``MIXVI_DATA_DIR``, then the cache, then a download."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pooch

DATA_DIR_VARIABLE = "MIXVI_DATA_DIR"
DATA_URL_VARIABLE = "MIXVI_DATA_URL"


@dataclass(frozen=True)
class DataFile:
    """One file: its folder, name, checksum and where the public original lies.

    ``url`` is where its authors serve this very file, if they do; ``algorithm`` is that of the
    checksum, which some authors publish as MD5.
    """

    folder: str
    name: str
    checksum: str
    origin: str
    url: str | None = None
    algorithm: str = "sha256"

    @property
    def sum_name(self) -> str:
        """What messages call the checksum."""
        return {"sha256": "SHA-256", "md5": "MD5"}[self.algorithm]


def find(file: DataFile, verify: bool = True) -> Path | None:
    """Path of a file on this machine; None if it is not here.

    Raises
    ------
    ValueError
        If ``verify``, and its checksum is another.
    """
    places = [Path(pooch.os_cache("mixvi"))]
    if os.environ.get(DATA_DIR_VARIABLE):
        places.insert(0, Path(os.environ[DATA_DIR_VARIABLE]))
    for place in places:
        path = place / file.folder / file.name
        if path.is_file():
            if verify:
                check_sum(file, path)
            return path
    return None


def check_sum(file: DataFile, path: Path) -> None:
    """Raise ValueError unless the file at ``path`` has the expected checksum."""
    with open(path, "rb") as handle:
        algorithm = partial(hashlib.new, file.algorithm, usedforsecurity=False)
        found = hashlib.file_digest(handle, algorithm).hexdigest()
    if found != file.checksum:
        raise ValueError(
            f"{path} is not the expected file: its {file.sum_name} is {found}, not "
            f"{file.checksum}. Put the expected file there ({file.origin}), or pass verify=False "
            "to take this one as it is."
        )


def fetch(file: DataFile, verify: bool = True) -> Path:
    """Path of a file: found on this machine, or downloaded.

    It is downloaded from ``MIXVI_DATA_URL`` if that is set, else from its authors if they serve it.
    A download goes to the cache and is kept only if its checksum is right.

    Parameters
    ----------
    file
        The file.
    verify
        Whether a file that is here must have the expected checksum.

    Raises
    ------
    FileNotFoundError
        If it is not here, and there is no address to download it from or it gives nothing.
    ValueError
        If its checksum is another.
    """
    path = find(file, verify)
    if path is not None:
        return path
    base = os.environ.get(DATA_URL_VARIABLE)
    url = f"{base.rstrip('/')}/{file.folder}/{file.name}" if base else file.url
    place = (
        f"Put it ({file.sum_name} {file.checksum}) into a directory <dir>/{file.folder}/ and set "
        f"{DATA_DIR_VARIABLE}=<dir>, or set {DATA_URL_VARIABLE} to an address that serves "
        f"<address>/{file.folder}/{file.name}. Origin: {file.origin}"
    )
    if not url:
        raise FileNotFoundError(f"{file.folder}/{file.name} is not on this machine. {place}")
    try:
        path = pooch.retrieve(
            url,
            known_hash=f"{file.algorithm}:{file.checksum}",
            fname=file.name,
            path=Path(pooch.os_cache("mixvi")) / file.folder,
        )
    except OSError as error:
        # the network's errors are OSErrors; a wrong checksum is a ValueError and passes
        raise FileNotFoundError(
            f"{file.folder}/{file.name} is not on this machine, and {url} does not give it "
            f"({error}). {place}"
        ) from error
    return Path(path)
