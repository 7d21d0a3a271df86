"""Decoded arrays kept between runs: a set is decoded once, then loaded in a fraction of a second.

An entry is a folder of .npy files and an index with their checksums, written last. A file appears
whole or not at all, an entry that does not match its index is decoded again, and a folder that
cannot be written only means that nothing is kept.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import platformdirs

from accsim.data.base import Arrays, Found, Layout

DECODERS = 2  # raised when a reader changes what it returns: old entries are then decoded again


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
            array = np.load(entry / f"{name}.npy", allow_pickle=False)
            if _checksum(array) != index["crc32"][name]:
                return None
            arrays.append(array)
        return Arrays(*arrays)
    except (OSError, EOFError, ValueError, KeyError, TypeError, MemoryError):
        return None


def _store(entry: Path, stamp: str, arrays: Arrays) -> None:
    """Write an entry, its index last."""
    entry.mkdir(parents=True, exist_ok=True)
    checksums = {}
    for name, array in arrays._asdict().items():
        array = np.ascontiguousarray(array)
        checksums[name] = _checksum(array)
        with _whole(entry / f"{name}.npy") as file:
            np.save(file, array, allow_pickle=False)
    with _whole(entry / "index.json") as file:
        file.write(json.dumps({"stamp": stamp, "crc32": checksums}, indent=1).encode())


def _checksum(array: np.ndarray) -> int:
    """CRC-32 of type, shape and words; ValueError if the array is not C contiguous."""
    return zlib.crc32(array.data, zlib.crc32(f"{array.dtype} {array.shape}".encode()))


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """An open file that appears as `path` when it is closed, whole, or not at all."""
    handle, temporary = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
