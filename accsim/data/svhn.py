"""SVHN: 99,289 house-number digits from street pictures, 32x32 colour, in two MATLAB files.

Source: Netzer, Wang, Coates, Bissacco, Wu and Ng, "Reading digits in natural images with
unsupervised feature learning", NIPS workshop 2011, format 2 (cropped digits).
"""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import scipy.io
from scipy.io.matlab import MatReadError

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

SIDE = 32  # pixels
FILES = ("train_32x32.mat", "test_32x32.mat")
DAMAGES = (MatReadError, OSError, EOFError, ValueError, TypeError, IndexError, zlib.error)


@final
@dataclass(frozen=True)
class MatFiles(Layout):
    """Two files with ``X`` uint8 [32, 32, 3, N] and ``y`` [N, 1], in which label 10 means 0."""

    wanted = FILES

    def find(self, folder):
        present = tuple(folder / name for name in FILES if (folder / name).is_file())
        if not present:
            return None
        if len(present) < len(FILES):
            raise DataError(
                f"{folder} must hold both {' and '.join(FILES)}, not only {present[0].name}; "
                "get the other"
            )
        return Found("MAT files", folder, present)

    def images(self, found):
        counts = 0
        for path in found.files:
            try:
                shapes = {name: shape for name, shape, _ in scipy.io.whosmat(path)}
            except DAMAGES as error:
                raise self._damaged(path, error) from error
            self._check(path, shapes)
            counts += shapes["X"][3]
        return counts

    def read(self, found, on_progress):
        arrays: list[np.ndarray] = []
        for done, path in enumerate(found.files):
            if on_progress:
                on_progress("decode svhn", done, len(found.files))
            try:
                variables = scipy.io.loadmat(path, variable_names=("X", "y"))
            except DAMAGES as error:
                raise self._damaged(path, error) from error
            self._check(path, {name: np.shape(array) for name, array in variables.items()})
            images = np.ascontiguousarray(variables["X"].transpose(3, 0, 1, 2))  # (N, H, W, C)
            arrays += [images, variables["y"].ravel().astype(np.int64) % 10]
        if on_progress:
            on_progress("decode svhn", len(found.files), len(found.files))
        return Arrays(*arrays)

    def _check(self, path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
        images, labels = shapes.get("X", ()), shapes.get("y", ())
        if len(images) != 4 or images[:3] != (SIDE, SIDE, 3) or labels != (images[3], 1):
            raise DataError(
                f"{path} must hold X [{SIDE}, {SIDE}, 3, N] and y [N, 1], "
                f"not X {list(images)} and y {list(labels)}; get the file again"
            )

    def _damaged(self, path: Path, error: Exception) -> DataError:
        return DataError(
            f"{path} must be a whole MATLAB 5 file, but reading it fails ({error}); "
            "get the file again"
        )


MIRRORS = ("http://ufldl.stanford.edu/housenumbers/",)

SVHN = DatasetSpec(
    name="svhn",
    image=Shape(SIDE, SIDE, 3),
    classes=DIGITS,
    layouts=(MatFiles(),),
    official_files=(  # checksums as torchvision (torchvision/datasets/svhn.py) lists them
        OfficialFile("train_32x32.mat", MIRRORS, "e26dedcc434d2e4c54c9b2d4a06d8373"),
        OfficialFile("test_32x32.mat", MIRRORS, "eb5a983be6a315427106f1b164d9cef3"),
    ),
)
