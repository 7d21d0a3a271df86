"""The official files of a data set, fetched whole and checked, or not at all."""

import hashlib
import os
import shutil
import tempfile
import urllib.request
from http.client import HTTPException
from pathlib import Path

from accsim.data.base import DataError, DatasetSpec, OfficialFile, Progress

CONNECT_TIMEOUT_SECONDS = 5
BLOCK_BYTES = 1 << 18


class UnreachableError(Exception):
    """There is no way to the official files from here; the message says why."""


def fetch(spec: DatasetSpec, folder: Path, on_progress: Progress | None = None) -> Path:
    """Download the official files of `spec`; returns ``folder/<name>`` with all of them.

    Raises UnreachableError if no mirror answers or `folder` cannot be written, and DataError if a
    file arrives incomplete or with the wrong MD5: then nothing of it is kept.
    """
    if not spec.official_files:
        raise UnreachableError(f"{spec.name} has no official download")
    target = folder / spec.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        arriving = Path(tempfile.mkdtemp(prefix=f"{spec.name}-", dir=folder))
    except OSError as error:
        raise UnreachableError(f"{folder} cannot be written ({error.strerror})") from error
    try:
        for file in spec.official_files:
            _fetch_file(file, arriving / file.name, on_progress)
        try:
            os.replace(arriving, target)
        except OSError:
            if not target.is_dir():  # otherwise somebody else's download was faster
                raise
    finally:
        shutil.rmtree(arriving, ignore_errors=True)
    return target


def _fetch_file(file: OfficialFile, path: Path, on_progress: Progress | None) -> None:
    """Download one file from the first mirror that answers."""
    reasons = []
    for mirror in file.mirrors:
        url = mirror + file.name
        try:
            response = urllib.request.urlopen(url, timeout=CONNECT_TIMEOUT_SECONDS)
        except (OSError, HTTPException) as error:  # urllib's own errors are OSErrors
            reasons.append(f"{url}: {getattr(error, 'reason', error)}")
            continue
        with response:
            _receive(response, file, url, path, on_progress)
        return
    raise UnreachableError("; ".join(reasons))


def _receive(response, file: OfficialFile, url: str, path: Path, on_progress: Progress | None):
    """Write an open response to `path`; DataError if it is not what `file` says."""
    total = int(response.headers.get("Content-Length") or 0)
    digest = hashlib.md5(usedforsecurity=False)
    done = 0
    failure: Exception | None = None
    with path.open("wb") as out:
        try:
            while block := response.read(BLOCK_BYTES):
                out.write(block)
                digest.update(block)
                done += len(block)
                if on_progress:
                    on_progress(f"download {file.name}", done, total)
        except (OSError, HTTPException) as error:
            failure = error
    if failure or done < total:
        raise DataError(
            f"download of {url} must not break off, but it did after {done} of {total} bytes "
            f"({failure or 'the connection was closed'}); try again"
        ) from failure
    if digest.hexdigest() != file.md5:
        raise DataError(
            f"download of {url} must have MD5 {file.md5}, but its {done} bytes have "
            f"{digest.hexdigest()}; try again, or put the file into ./data by hand"
        )
