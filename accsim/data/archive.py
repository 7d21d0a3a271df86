"""Files by name out of a folder or of a .tar.gz archive, read alike."""

import gzip
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from accsim.data.base import DataError


def members(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Relative posix name and bytes of every wanted file in `path`, a folder or a .tar.gz archive.

    A folder is read in the order of its names, an archive in its own order. DataError if a file
    cannot be read or if the archive is not a whole one.
    """
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            name = file.relative_to(path).as_posix()
            if file.is_file() and wanted(name):
                yield name, contents(file)
        return
    try:
        with gzip.open(path) as unpacked, tarfile.open(fileobj=unpacked, mode="r|") as archive:
            for member in archive:
                if member.isfile() and wanted(member.name):
                    packed = archive.extractfile(member)
                    assert packed is not None  # it is a regular file
                    yield member.name, packed.read()
            while unpacked.read(1 << 20):  # to the end, where gzip checks its sum
                pass
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise DataError(
            f"{path} must be a whole .tar.gz archive, but reading its {path.stat().st_size} bytes "
            f"fails ({error}); get the file again"
        ) from error


def contents(path: Path) -> bytes:
    """Bytes of a file, unpacked if its name ends in .gz; DataError if it is damaged."""
    try:
        if path.suffix != ".gz":
            return path.read_bytes()
        with gzip.open(path) as file:
            return file.read()
    except (EOFError, zlib.error, OSError) as error:
        raise DataError(
            f"{path} must be a readable, whole file, but reading it fails ({error}); "
            "get the file again"
        ) from error
