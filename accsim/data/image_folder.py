"""A user's own pictures: one folder per class, cropped to squares of one size."""

import io
from collections import Counter
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


def find_pictures(folder: Path) -> tuple[Path, ...]:
    """``train/<class>/*`` and ``test/<class>/*`` in `folder`, in the order of their names."""
    return tuple(
        path
        for split in SPLITS
        for path in sorted(folder.glob(f"{split}/*/*"))
        if is_picture(path.relative_to(folder).as_posix()) and path.is_file()
    )


def decode(
    origin: Path,
    pictures: Iterable[tuple[str, bytes]],
    classes: tuple[str, ...],
    fit: Callable[[Image.Image, str], Image.Image],
    progress: Callable[[int], None],
) -> Arrays:
    """Arrays of named pictures, classes in turn: the first file of each, then the second.

    Parameters
    ----------
    origin : archive or folder that holds them, for errors
    pictures : ``<split>/<class>/<file>`` and bytes of each, in any order
    classes : folder names; their order gives the labels
    fit : makes an RGB picture the wanted size, given its name for errors
    progress : called with the number of pictures decoded so far

    A split without pictures has uint8[0, 0, 0, 3]. DataError for a picture that cannot be read and
    for a folder that is none of `classes`.
    """
    labels = {name: label for label, name in enumerate(classes)}
    decoded: dict[str, list[tuple[int, str, np.ndarray]]] = {split: [] for split in SPLITS}
    count = 0
    for count, (name, data) in enumerate(pictures, 1):
        split, folder, file = name.split("/")[-3:]
        if folder not in labels:
            raise DataError(
                f"class folders of {origin} must be {', '.join(classes)}, not {folder!r}"
            )
        try:
            with Image.open(io.BytesIO(data)) as image:
                upright = ImageOps.exif_transpose(image).convert("RGB")
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(
                f"{name} in {origin} must be a whole picture, but reading it fails ({error}); "
                "replace it or take it out"
            ) from error
        decoded[split].append((labels[folder], file, np.asarray(fit(upright, name))))
        if count % 1000 == 0:
            progress(count)
    progress(count)
    return Arrays(*_in_turn(decoded["train"]), *_in_turn(decoded["test"]))


def _in_turn(rows: list[tuple[int, str, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of (label, file, pixels): the first of each class, then the second."""
    if not rows:
        return np.zeros((0, 0, 0, 3), np.uint8), np.zeros(0, np.int64)
    rows = sorted(rows, key=lambda row: row[:2])
    labels = np.array([label for label, _, _ in rows], np.int64)
    rank = np.arange(len(rows)) - np.searchsorted(labels, labels)  # within its class
    order = np.lexsort((labels, rank))
    return np.stack([rows[place][2] for place in order]), labels[order]


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
        files = find_pictures(folder)
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
        return decode(
            found.path,
            ((name, contents(path)) for name, path in self._named(found)),
            self.classes(found),
            self._fit,
            lambda done: (
                on_progress("decode images", done, len(found.files)) if on_progress else None
            ),
        )

    def _named(self, found: Found) -> list[tuple[str, Path]]:
        """``<split>/<class>/<file>`` and path of each picture; some become test if none is."""
        named = [("/".join(path.parts[-3:]), path) for path in found.files]
        if any(name.startswith("test/") for name, _ in named):
            return named
        seen: Counter[str] = Counter()
        split = []
        for name, path in named:  # in the order of class and file name
            _, folder, file = name.split("/")
            seen[folder] += 1
            part = "test" if seen[folder] % TEST_EVERY == 0 else "train"
            split.append((f"{part}/{folder}/{file}", path))
        if max(seen.values()) < TEST_EVERY:
            raise DataError(
                f"{found.path} must have a test folder or at least {TEST_EVERY} pictures in one "
                f"class to take test pictures from, not {max(seen.values())}"
            )
        return split

    def _fit(self, image: Image.Image, name: str) -> Image.Image:
        return ImageOps.fit(image, (self.size, self.size), Image.Resampling.LANCZOS)
