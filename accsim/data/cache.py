"""Decoded arrays kept between runs: a set is decoded once, then loaded in a fraction of a second.

An entry is a folder of .npy files and an index with their checksums, written last. A file appears
whole or not at all, an entry that does not match its index is decoded again, and a folder that
cannot be written only means that nothing is kept.
"""

import contextlib
import hashlib
import io
import json
import os
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import platformdirs

from accsim.data.base import Arrays, Found, Layout

DECODERS = 1  # raised when a reader changes what it returns: old entries are then decoded again


def folder() -> Path:
    """``$ACCSIM_CACHE``, or the user's cache folder of this system."""
    return Path(os.environ.get("ACCSIM_CACHE") or platformdirs.user_cache_dir("accsim"))


def remembered(name: str, layout: Layout, found: Found, decode: Callable[[], Arrays]) -> Arrays:
    """Arrays of `found`, out of the cache if names, sizes and times of its files are unchanged."""
    path = found.path.resolve()
    key = hashlib.sha256(f"{layout!r} {path}".encode()).hexdigest()[:16]
    entry = folder() / "decoded" / f"{name}-{key}"
    stamp = _stamp(found)
    arrays = _load(entry, stamp)
    if arrays is None:
        arrays = decode()
        with contextlib.suppress(OSError):
            _store(entry, stamp, arrays)
    return arrays


def _stamp(found: Found) -> str:
    digest = hashlib.sha256(f"{DECODERS}".encode())
    for file in found.files:
        status = file.stat()
        name = str(file).removeprefix(str(found.path))
        digest.update(f"\n{name} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()


def _load(entry: Path, stamp: str) -> Arrays | None:
    """Arrays of an entry; None if there is none, if it is out of date or if it is damaged."""
    try:
        index = json.loads((entry / "index.json").read_text())
        if index["stamp"] != stamp:
            return None
        arrays = []
        for name in Arrays._fields:
            data = (entry / f"{name}.npy").read_bytes()
            if zlib.crc32(data) != index["crc32"][name]:
                return None
            arrays.append(np.load(io.BytesIO(data), allow_pickle=False))
        return Arrays(*arrays)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _store(entry: Path, stamp: str, arrays: Arrays) -> None:
    """Write an entry, its index last."""
    entry.mkdir(parents=True, exist_ok=True)
    checksums = {}
    for name, array in arrays._asdict().items():
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        checksums[name] = zlib.crc32(buffer.getbuffer())
        _write(entry / f"{name}.npy", buffer.getbuffer())
    index = {"stamp": stamp, "crc32": checksums}
    _write(entry / "index.json", json.dumps(index, indent=1).encode())


def _write(path: Path, data: bytes | memoryview) -> None:
    """Write a file so that it appears whole or not at all."""
    handle, temporary = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
