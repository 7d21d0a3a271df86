"""MNIST: 70,000 handwritten digits, 28x28 grey, in IDX files.

Source: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document
recognition", Proc. IEEE 1998; the IDX format is on the page of the set, "THE MNIST DATABASE".
"""

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np

from accsim.data.archive import contents
from accsim.data.base import (
    DIGITS,
    Arrays,
    DataError,
    DatasetSpec,
    Found,
    Layout,
    OfficialFile,
)
from accsim.network import Shape

IMAGES_MAGIC = 0x0803  # unsigned bytes in three dimensions
LABELS_MAGIC = 0x0801  # unsigned bytes in one dimension
FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def read_idx(path: Path, magic: int) -> np.ndarray:
    """Array of an IDX file, plain or .gz: uint8[N, H, W] or uint8[N], as `magic` says."""
    data = contents(path)
    shape = _shape(path, data, magic)
    header_bytes = 4 + 4 * len(shape)
    expected_bytes = header_bytes + math.prod(shape)
    if len(data) != expected_bytes:
        raise DataError(
            f"{path} must have {expected_bytes} bytes for the {shape[0]} items its header "
            f"counts, not {len(data)}; get the file again"
        )
    return np.frombuffer(data, np.uint8, offset=header_bytes).reshape(shape)


def _shape(path: Path, data: bytes, magic: int) -> tuple[int, ...]:
    """Dimensions in the header of an IDX file; DataError if there is no such header."""
    dimensions = magic & 0xFF
    if len(data) < 4 + 4 * dimensions:
        raise DataError(
            f"{path} must start with an IDX header of {4 + 4 * dimensions} bytes, "
            f"but has only {len(data)}; get the file again"
        )
    found, *shape = struct.unpack_from(f">{1 + dimensions}I", data)
    if found != magic:
        raise DataError(
            f"{path} must start with the IDX magic number {magic}, not {found}; get the file again"
        )
    return tuple(shape)


@final
@dataclass(frozen=True)
class IdxFiles(Layout):
    """The four IDX files, each of them plain or .gz."""

    wanted = tuple(f"{name}[.gz]" for name in FILES)

    def find(self, folder):
        present = {
            name: path
            for name in FILES
            for path in (folder / f"{name}.gz", folder / name)  # the plain file wins
            if path.is_file()
        }
        if not present:
            return None
        missing = [name for name in FILES if name not in present]
        if missing:
            raise DataError(
                f"{folder} must hold all four MNIST files, but {', '.join(missing)}[.gz] "
                "is missing; get the rest"
            )
        return Found("IDX files", folder, tuple(present[name] for name in FILES))

    def images(self, found):
        return sum(self._count(path) for path in found.files[::2])

    def _count(self, path: Path) -> int:
        try:
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                header = file.read(16)
        except (EOFError, zlib.error, OSError) as error:
            raise DataError(
                f"{path} must be a readable IDX file, but reading it fails ({error}); "
                "get the file again"
            ) from error
        return _shape(path, header, IMAGES_MAGIC)[0]

    def read(self, found, on_progress):
        arrays = []
        for done, path in enumerate(found.files):
            if on_progress:
                on_progress("decode mnist", done, len(found.files))
            if done % 2 == 0:
                arrays.append(read_idx(path, IMAGES_MAGIC)[..., None])  # (N, H, W, 1)
            else:
                arrays.append(read_idx(path, LABELS_MAGIC).astype(np.int64))
        if on_progress:
            on_progress("decode mnist", len(found.files), len(found.files))
        return Arrays(*arrays)


# Mirrors and checksums as torchvision (torchvision/datasets/mnist.py) lists them.
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "http://yann.lecun.com/exdb/mnist/",
)
MD5 = (
    "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "d53e105ee54ea40749a09fcbcd1e9432",
    "9fb629c4189551a2d022fa330f9573f3",
    "ec29112dd5afa0611ce80d1b7f02629c",
)

MNIST = DatasetSpec(
    name="mnist",
    image=Shape(28, 28, 1),
    classes=DIGITS,
    layouts=(IdxFiles(),),
    official_files=tuple(
        OfficialFile(f"{name}.gz", MIRRORS, md5) for name, md5 in zip(FILES, MD5, strict=True)
    ),
)
