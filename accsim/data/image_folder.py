"""A user's own pictures: one folder per class, cropped to squares of one size."""

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from PIL import Image, ImageOps

from accsim.data.archive import contents
from accsim.data.base import Arrays, DataError, Found, Layout

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}
SPLITS = ("train", "test")
TEST_EVERY = 5  # without a test folder, every fifth picture of a class is a test picture


def is_picture(name: str) -> bool:
    """Whether ``.../<split>/<class>/<file>`` is a picture; hidden files are not."""
    parts = name.split("/")
    return (
        len(parts) >= 3
        and parts[-3] in SPLITS
        and not parts[-1].startswith(".")
        and Path(parts[-1]).suffix.lower() in SUFFIXES
    )


def decode(
    pictures: Iterable[tuple[str, bytes]],
    classes: tuple[str, ...],
    fit: Callable[[Image.Image, str], Image.Image],
    progress: Callable[[int], None],
) -> Arrays:
    """Arrays of named pictures, in the order of split, class and file name.

    Parameters
    ----------
    pictures : ``<split>/<class>/<file>`` and bytes of each, in any order
    classes : folder names; their order gives the labels
    fit : makes an RGB picture the wanted size, given its name for errors
    progress : called with the number of pictures decoded so far

    A split without pictures has uint8[0, 0, 0, 3]. DataError for a picture that cannot be read and
    for a folder that is none of `classes`.
    """
    labels = {name: label for label, name in enumerate(classes)}
    decoded: dict[str, list[tuple[int, str, np.ndarray]]] = {split: [] for split in SPLITS}
    for count, (name, data) in enumerate(pictures, 1):
        split, folder, file = name.split("/")[-3:]
        if folder not in labels:
            raise DataError(
                f"class folder of {name} must be one of {', '.join(classes)}, not {folder!r}"
            )
        try:
            with Image.open(io.BytesIO(data)) as image:
                upright = ImageOps.exif_transpose(image).convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(
                f"{name} must be a whole picture, but reading it fails ({error}); "
                "replace it or take it out"
            ) from error
        decoded[split].append((labels[folder], file, np.asarray(fit(upright, name))))
        if count % 1000 == 0:
            progress(count)
    arrays = []
    for split in SPLITS:
        rows = sorted(decoded[split], key=lambda row: row[:2])
        images = [pixels for _, _, pixels in rows]
        arrays.append(np.stack(images) if images else np.zeros((0, 0, 0, 3), np.uint8))
        arrays.append(np.array([label for label, _, _ in rows], np.int64))
    return Arrays(*arrays)


@final
@dataclass(frozen=True)
class ImageFolder(Layout):
    """``train/<class>/*`` and perhaps ``test/<class>/*``; classes are in alphabetical order.

    Pictures become RGB squares of `size` pixels: the middle of the picture, scaled by Lanczos.
    Without a test folder every fifth picture of each class, in the order of names, is a test
    picture.
    """

    size: int  # pixels

    wanted = ("train/<class>/*.jpg",)

    def __post_init__(self):
        if not 1 <= self.size <= 4096:
            raise DataError(f"size of the images must be 1 to 4096 pixels, not {self.size}")

    def find(self, folder):
        files = tuple(
            path
            for split in SPLITS
            for path in sorted(folder.glob(f"{split}/*/*"))
            if is_picture(path.relative_to(folder).as_posix()) and path.is_file()
        )
        return Found("image folder", folder, files) if files else None

    def classes(self, found: Found) -> tuple[str, ...]:
        """Names of the class folders; DataError if train and test do not have the same."""
        names: dict[str, set[str]] = {split: set() for split in SPLITS}
        for path in found.files:
            names[path.parts[-3]].add(path.parts[-2])
        if len(names["train"]) < 2:
            raise DataError(
                f"{found.path}/train must hold pictures in at least two class folders, "
                f"not {len(names['train'])}"
            )
        if names["test"] and names["test"] != names["train"]:
            odd = ", ".join(sorted(names["test"] ^ names["train"]))
            raise DataError(
                f"train and test of {found.path} must have the same class folders, "
                f"but only one of them has pictures in {odd}"
            )
        return tuple(sorted(names["train"]))

    def images(self, found):
        return len(found.files)

    def read(self, found, on_progress):
        arrays = decode(
            ((path.relative_to(found.path).as_posix(), contents(path)) for path in found.files),
            self.classes(found),
            lambda image, name: ImageOps.fit(
                image, (self.size, self.size), Image.Resampling.LANCZOS
            ),
            lambda done: (
                on_progress("decode images", done, len(found.files)) if on_progress else None
            ),
        )
        return arrays if len(arrays.test_labels) else self._split(arrays, found.path)

    def _split(self, arrays: Arrays, path: Path) -> Arrays:
        """Every fifth picture of each class out of train, into test."""
        labels = arrays.train_labels
        first = np.searchsorted(labels, labels)  # labels are sorted: where the class begins
        test = (np.arange(len(labels)) - first) % TEST_EVERY == TEST_EVERY - 1
        if not test.any():
            raise DataError(
                f"{path} must have a test folder or at least {TEST_EVERY} pictures in one class "
                f"to take test pictures from, not {np.bincount(labels).max()}"
            )
        images = arrays.train_images
        return Arrays(images[~test], labels[~test], images[test], labels[test])
