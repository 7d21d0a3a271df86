"""A file that is either the old one or the complete new one, never half of either."""

import errno
import gzip
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, cast


@contextmanager
def replaced_file(out: Path) -> Iterator[IO[bytes]]:
    """Yield a file to write; when the block ends well it becomes `out`, else nothing changes.

    What is written is gzipped if `out` is named ``.gz``; the same text makes the same file.
    Raises OSError, which names `out`, for a place that cannot be written, before the block begins
    where that can be known.
    """
    out = Path(os.path.abspath(out))
    if out.exists() and not out.is_file():
        raise OSError(errno.EINVAL, "not an ordinary file", str(out))
    try:
        scratch = NamedTemporaryFile(  # noqa: SIM115 (closed below, in either case)
            prefix=f".{out.name}.", dir=out.parent, delete=False
        )
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(out)) from error
    try:
        with scratch:
            if out.suffix == ".gz":
                with gzip.GzipFile("", "wb", 6, scratch, mtime=0) as compressed:
                    yield cast(IO[bytes], compressed)
            else:
                yield scratch
        os.chmod(scratch.name, 0o666 & ~_umask())
        os.replace(scratch.name, out)
    except BaseException:
        os.unlink(scratch.name)
        raise


def _umask() -> int:
    """The process's own; it can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
