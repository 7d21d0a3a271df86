"""USPS: 9,298 handwritten digits off envelopes, 16x16 grey, in one HDF5 file.

Source: Hull, "A database for handwritten text recognition research", IEEE TPAMI 1994. The set has
no official download.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import final

import h5py
import numpy as np

from accsim.data.base import DIGITS, Arrays, DataError, DatasetSpec, Found, Layout
from accsim.network import Shape

SIDE = 16  # pixels


def _split(path: Path, file: h5py.File, split: str) -> tuple[h5py.Dataset, h5py.Dataset]:
    """The two arrays of a split, float [N, 256] and integer [N]; DataError if they are not."""
    try:
        data, target = file[split]["data"], file[split]["target"]
    except KeyError as error:
        raise DataError(
            f"{path} must hold {split}/data and {split}/target, but one is missing; "
            "get the file again"
        ) from error
    if data.ndim != 2 or data.shape[1] != SIDE**2 or target.shape != data.shape[:1]:
        raise DataError(
            f"{split} of {path} must be data [N, {SIDE**2}] and target [N], "
            f"not {list(data.shape)} and {list(target.shape)}; get the file again"
        )
    return data, target


@final
@dataclass(frozen=True)
class Hdf5File(Layout):
    """One file with ``train/data`` float [N, 256] in 0 to 1, ``train/target``, and ``test/...``."""

    wanted = ("usps.h5",)

    def find(self, folder):
        path = folder / "usps.h5"
        return Found("HDF5 file", path, (path,)) if path.is_file() else None

    def images(self, found):
        with self._open(found.path) as file:
            return sum(len(_split(found.path, file, split)[0]) for split in ("train", "test"))

    def read(self, found, on_progress):
        arrays: list[np.ndarray] = []
        with self._open(found.path) as file:
            for split in ("train", "test"):
                try:
                    data, target = (array[:] for array in _split(found.path, file, split))
                except OSError as error:
                    raise self._damaged(found.path, error) from error
                if not np.all((data >= 0) & (data <= 1)):  # false for NaN as well
                    raise DataError(
                        f"{split}/data of {found.path} must be 0 to 1, "
                        f"not {data.min()} to {data.max()}; get the file again"
                    )
                pixels = np.floor(data * 255 + 0.5).astype(np.uint8)
                arrays += [pixels.reshape(-1, SIDE, SIDE, 1), target.astype(np.int64)]
        if on_progress:
            on_progress("decode usps", 1, 1)
        return Arrays(*arrays)

    def _open(self, path: Path) -> h5py.File:
        try:
            return h5py.File(path, "r")
        except OSError as error:
            raise self._damaged(path, error) from error

    def _damaged(self, path: Path, error: Exception) -> DataError:
        return DataError(
            f"{path} must be a whole HDF5 file, but reading it fails ({error}); get the file again"
        )


USPS = DatasetSpec(name="usps", image=Shape(SIDE, SIDE, 1), classes=DIGITS, layouts=(Hdf5File(),))
