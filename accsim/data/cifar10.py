"""CIFAR-10: 60,000 small photographs, 32x32 colour, as pictures or as either official batch format.

Source: Krizhevsky, "Learning multiple layers of features from tiny images", 2009; the batch
formats are described on the page of the set, "The CIFAR-10 dataset".
"""

import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import final

import numpy as np
from PIL import Image

from accsim.data.archive import contents, members
from accsim.data.base import (
    Arrays,
    DataError,
    DatasetSpec,
    Found,
    Layout,
    OfficialFile,
    Progress,
)
from accsim.data.image_folder import decode, find_pictures, is_picture
from accsim.network import Shape

SIDE = 32  # pixels
CLASSES = (  # alphabetical, and in the order of the official labels
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
ROWS_PER_BATCH = 10_000
BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")  # test is last

Batch = tuple[np.ndarray, np.ndarray]  # uint8[rows, 3072] channels first, int64[rows]


def _find_batches(kind: str, folder: Path, names: tuple[str, ...]) -> Found | None:
    """The first of `names`, a folder of batches or an archive of it, that is in `folder`."""
    path = _first_present(folder, names)
    if path is None:
        return None
    return Found(kind, path, tuple(sorted(path.iterdir())) if path.is_dir() else (path,))


def _first_present(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).exists()), None)


def _read_batches(
    path: Path,
    suffix: str,
    parse: Callable[[str, bytes], Batch],
    on_progress: Progress | None,
) -> Arrays:
    """Arrays of the six batches, named with `suffix`, in the folder or archive `path`."""
    wanted = {f"{name}{suffix}": place for place, name in enumerate(BATCHES)}
    batches: dict[int, Batch] = {}
    for name, data in members(path, lambda name: Path(name).name in wanted):
        batches[wanted[Path(name).name]] = parse(f"{path}: {name}", data)
        if on_progress:
            on_progress("decode cifar10", len(batches), len(BATCHES))
    missing = [name for name, place in wanted.items() if place not in batches]
    if missing:
        raise DataError(
            f"{path} must hold {len(BATCHES)} batches, but {', '.join(missing)} is missing; "
            "get the file again"
        )
    *train, test = (batches[place] for place in range(len(BATCHES)))
    return Arrays(
        _channels_last(np.concatenate([images for images, _ in train])),
        np.concatenate([labels for _, labels in train]),
        _channels_last(test[0]),
        test[1],
    )


def _channels_last(rows: np.ndarray) -> np.ndarray:
    """uint8[N, 3072], red then green then blue, as uint8[N, 32, 32, 3]."""
    return np.ascontiguousarray(rows.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1))


class _BatchUnpickler(pickle.Unpickler):
    """Loads numpy arrays and plain objects only: a pickle from elsewhere could run any code."""

    def find_class(self, module, name):
        if name == "_reconstruct" and module.startswith("numpy."):
            return np.ndarray(0).__reduce__()[0]
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"a batch must hold arrays only, not {module}.{name}")


@final
@dataclass(frozen=True)
class PythonBatches(Layout):
    """Six pickled dictionaries with ``data`` uint8[rows, 3072] and ``labels``."""

    rows: int = ROWS_PER_BATCH

    wanted = ("cifar-10-batches-py", "cifar-10-python.tar.gz")

    def find(self, folder):
        return _find_batches("python batches", folder, self.wanted)

    def images(self, found):
        return self.rows * len(BATCHES)

    def read(self, found, on_progress):
        return _read_batches(found.path, "", self._parse, on_progress)

    def _parse(self, name: str, data: bytes) -> Batch:
        try:
            batch = _BatchUnpickler(BytesIO(data), encoding="bytes").load()
            images = np.asarray(batch[b"data"])
            labels = np.asarray(batch[b"labels"], np.int64)
        except (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{name} must be a pickled CIFAR-10 batch, but reading it fails "
                f"({error or type(error).__name__}); get the file again"
            ) from error
        shape = (self.rows, 3 * SIDE**2)
        if images.dtype != np.uint8 or images.shape != shape or labels.shape != shape[:1]:
            raise DataError(
                f"{name} must hold uint8{list(shape)} and {self.rows} labels, "
                f"not {images.dtype}{list(images.shape)} and {labels.size}; get the file again"
            )
        return images, labels


@final
@dataclass(frozen=True)
class BinaryBatches(Layout):
    """Six files of rows of 3,073 bytes: the label, then red, green and blue."""

    rows: int = ROWS_PER_BATCH

    wanted = ("cifar-10-batches-bin", "cifar-10-binary.tar.gz")

    def find(self, folder):
        return _find_batches("binary batches", folder, self.wanted)

    def images(self, found):
        return self.rows * len(BATCHES)

    def read(self, found, on_progress):
        return _read_batches(found.path, ".bin", self._parse, on_progress)

    def _parse(self, name: str, data: bytes) -> Batch:
        row_bytes = 1 + 3 * SIDE**2
        if len(data) != self.rows * row_bytes:
            raise DataError(
                f"{name} must have {self.rows * row_bytes} bytes, {self.rows} rows of "
                f"{row_bytes}, not {len(data)}; get the file again"
            )
        rows = np.frombuffer(data, np.uint8).reshape(self.rows, row_bytes)
        return rows[:, 1:], rows[:, 0].astype(np.int64)


@final
@dataclass(frozen=True)
class Pictures(Layout):
    """``train/<class>/*.jpg`` and ``test/<class>/*.jpg``, unpacked or in an archive.

    Classes come in turn, each in the order of its file names. JPEG is lossy: accuracies stay a few
    points below those of the official batches.
    """

    train_per_class: int = 5_000
    test_per_class: int = 1_000

    wanted = ("cifar10-images.tar.gz", "cifar10.tar.gz", "train/airplane/*.jpg")

    def find(self, folder):
        archive = _first_present(folder, self.wanted[:2])
        if archive:
            return Found("image archive", archive, (archive,))
        if not any((folder / "train" / name).is_dir() for name in CLASSES):
            return None
        return Found("image folder", folder, find_pictures(folder))

    def images(self, found):
        return len(CLASSES) * (self.train_per_class + self.test_per_class)

    def read(self, found, on_progress):
        pictures: Iterator[tuple[str, bytes]]
        if found.path.is_dir():  # which may hold much more than this set
            pictures = (("/".join(path.parts[-3:]), contents(path)) for path in found.files)
        else:
            pictures = members(found.path, is_picture)
        arrays = decode(
            found.path,
            pictures,
            CLASSES,
            self._check_size,
            lambda done: (
                on_progress("decode cifar10", done, self.images(found)) if on_progress else None
            ),
        )
        for split, labels, expected in (
            ("train", arrays.train_labels, self.train_per_class),
            ("test", arrays.test_labels, self.test_per_class),
        ):
            for name, count in zip(CLASSES, np.bincount(labels, minlength=10), strict=True):
                if count != expected:
                    raise DataError(
                        f"{found.path} must hold {expected} pictures in {split}/{name}, "
                        f"not {count}; get the set again"
                    )
        return arrays

    def _check_size(self, image: Image.Image, name: str) -> Image.Image:
        if image.size != (SIDE, SIDE):
            raise DataError(
                f"{name} must be {SIDE}x{SIDE} pixels as in CIFAR-10, "
                f"not {image.width}x{image.height}"
            )
        return image


CIFAR10 = DatasetSpec(
    name="cifar10",
    image=Shape(SIDE, SIDE, 3),
    classes=CLASSES,
    layouts=(PythonBatches(), BinaryBatches(), Pictures()),  # the lossless ones first
    official_files=(
        OfficialFile(  # checksum as the page of the set gives it
            "cifar-10-python.tar.gz",
            ("https://www.cs.toronto.edu/~kriz/",),
            "c58f30108f718f92721af3b95e74349a",
        ),
    ),
)
