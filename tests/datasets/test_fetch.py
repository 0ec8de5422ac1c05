from __future__ import annotations

import hashlib
import os
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mixvi.datasets.fetch import DataFile, fetch, find

CONTENT = b"cells"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
FILE = DataFile("made_up", "cells.h5ad", SHA256, "a made-up origin")


def put(directory, content=CONTENT):
    path = directory / FILE.folder / FILE.name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A data directory and a cache of their own, both empty; no address."""
    data, cache = tmp_path / "data", tmp_path / "cache"
    monkeypatch.setenv("MIXVI_DATA_DIR", str(data))
    monkeypatch.delenv("MIXVI_DATA_URL", raising=False)
    monkeypatch.setattr("pooch.os_cache", lambda project: cache)
    return data, cache


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A directory that ``MIXVI_DATA_URL`` serves from this machine."""
    directory = tmp_path / "served"
    directory.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=directory)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MIXVI_DATA_URL", f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield directory
        server.shutdown()


def test_the_data_directory_comes_before_the_cache(places):
    data, cache = places
    in_cache = put(cache)
    assert find(FILE) == fetch(FILE) == in_cache
    in_data = put(data)
    assert find(FILE) == fetch(FILE) == in_data


def test_without_a_data_directory_the_cache_serves(places, monkeypatch):
    monkeypatch.delenv("MIXVI_DATA_DIR")
    assert find(FILE) is None
    in_cache = put(places[1])
    assert fetch(FILE) == in_cache


def test_a_missing_file_says_what_to_do(places):
    assert find(FILE) is None
    with pytest.raises(FileNotFoundError) as caught:
        fetch(FILE)
    for part in ("made_up/cells.h5ad", SHA256, FILE.origin, "MIXVI_DATA_DIR", "MIXVI_DATA_URL"):
        assert part in str(caught.value)


@pytest.mark.parametrize("place", [0, 1], ids=["data directory", "cache"])
def test_a_wrong_checksum_is_refused(places, place):
    path = put(places[place], b"other")
    with pytest.raises(ValueError, match="SHA-256") as caught:
        fetch(FILE)
    message = str(caught.value)
    for part in (str(path), SHA256, hashlib.sha256(b"other").hexdigest(), "verify=False"):
        assert part in message
    assert "elete" not in message
    assert fetch(FILE, verify=False) == path
    assert path.read_bytes() == b"other"


def test_a_download_lands_in_the_cache(places, served):
    put(served)
    path = fetch(FILE)
    assert path == places[1] / "made_up" / "cells.h5ad"
    assert path.read_bytes() == CONTENT
    (served / "made_up" / "cells.h5ad").unlink()
    assert fetch(FILE) == path


def test_a_download_with_a_wrong_checksum_is_not_kept(places, served):
    put(served, b"other")
    with pytest.raises(ValueError, match="hash"):
        fetch(FILE)
    assert find(FILE) is None


def test_an_md5_serves_where_authors_publish_one(places):
    file = replace(FILE, checksum=hashlib.md5(CONTENT).hexdigest(), algorithm="md5")
    put(places[0])
    assert fetch(file) == places[0] / "made_up" / "cells.h5ad"
    with pytest.raises(ValueError, match="its MD5 is"):
        fetch(replace(file, checksum=SHA256))


def test_the_authors_address_is_the_last_resort(places, served, monkeypatch):
    put(served)
    base = os.environ["MIXVI_DATA_URL"]
    monkeypatch.delenv("MIXVI_DATA_URL")
    assert fetch(replace(FILE, url=f"{base}made_up/cells.h5ad")).read_bytes() == CONTENT
    lost = replace(FILE, name="lost.h5ad", url=f"{base}made_up/lost.h5ad")
    with pytest.raises(FileNotFoundError, match="does not give it") as caught:
        fetch(lost)
    assert "MIXVI_DATA_DIR" in str(caught.value)
