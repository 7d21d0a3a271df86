"""Every test of the data room searches nowhere but in its own folders."""

import gzip
import shutil
import struct

import numpy as np
import pytest

from accsim.data.mnist import FILES


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """No real sets, no user's cache, no variables; the current folder is an empty one."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.delenv("ACCSIM_DATA", raising=False)
    monkeypatch.setenv("ACCSIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("accsim.data.search.CHECKOUT", tmp_path / "checkout" / "accsim")
    yield here
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)  # decoded CIFAR-10 is 184 MB


@pytest.fixture
def write_mnist():
    """Writes the four IDX files; pixel number k of an images file is k modulo 251."""

    def write(folder, packed=True, train=(5, 0, 4), test=(7, 2)):
        folder.mkdir(parents=True, exist_ok=True)
        contents = []
        for labels in (train, test):
            pixels = (np.arange(len(labels) * 784) % 251).astype(np.uint8)
            contents.append(struct.pack(">4I", 2051, len(labels), 28, 28) + pixels.tobytes())
            contents.append(struct.pack(">2I", 2049, len(labels)) + bytes(labels))
        for name, data in zip(FILES, contents, strict=True):
            path = folder / (f"{name}.gz" if packed else name)
            path.write_bytes(gzip.compress(data) if packed else data)
        return folder

    return write
