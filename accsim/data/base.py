"""What a data set is: its arrays once read, the ways it may lie on disk, its official files."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from accsim.network import Shape

Progress = Callable[[str, int, int], None]  # what is being done, units done, units in all


class DataError(Exception):
    """A data set cannot be had as asked; the message is one sentence for the user."""


class Arrays(NamedTuple):
    """Pixels and labels of one data set.

    Images are uint8[N, H, W, C], labels are int64[N].
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory; DataError if its arrays do not fit each other.

    Parameters
    ----------
    name : "cifar10", or the folder's name for a user's own images
    source : kind and file name of what was read, never an absolute path
    stand_in : True for generated images that take the place of a set that was not found
    classes : one name per label
    train_images, test_images : uint8[N, H, W, C]
    train_labels, test_labels : int64[N], 0 to len(classes) - 1
    others : sets that frames of the stream are taken from too, by the name or folder asked for
    """

    name: str
    source: str
    stand_in: bool
    classes: tuple[str, ...]
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    others: Mapping[str | Path, "Dataset"] = field(default_factory=dict)

    def __post_init__(self):
        for split in ("train", "test"):
            images = getattr(self, f"{split}_images")
            labels = getattr(self, f"{split}_labels")
            what = f"of {self.name} ({self.source})"
            if images.dtype != np.uint8 or images.ndim != 4 or labels.ndim != 1:
                raise DataError(
                    f"{split} images {what} must be uint8[N, H, W, C] with labels [N], "
                    f"not {images.dtype}{list(images.shape)} with {list(labels.shape)}"
                )
            if len(images) != len(labels) or len(images) == 0:
                raise DataError(
                    f"{split} images and labels {what} must be equally many and at least one, "
                    f"not {len(images)} and {len(labels)}; get the files again"
                )
            if labels.min() < 0 or labels.max() >= len(self.classes):
                raise DataError(
                    f"{split} labels {what} must be 0 to {len(self.classes) - 1}, "
                    f"not {labels.min()} to {labels.max()}; get the files again"
                )
        if self.train_images.shape[1:] != self.test_images.shape[1:]:
            raise DataError(
                f"train and test images of {self.name} ({self.source}) must have one shape, "
                f"not {self.train_images.shape[1:]} and {self.test_images.shape[1:]}"
            )


@dataclass(frozen=True)
class Found:
    """Files of one data set that a search came upon; nothing but names is read yet."""

    kind: str  # "image archive"
    path: Path  # the file or the folder that stands for them in messages
    files: tuple[Path, ...]


class Layout(ABC):
    """One way in which a data set lies on disk."""

    wanted: ClassVar[tuple[str, ...]]  # file and folder names that a search looks for

    @abstractmethod
    def find(self, folder: Path) -> Found | None:
        """The set's files directly in `folder`; DataError if only some of them are there."""

    @abstractmethod
    def images(self, found: Found) -> int:
        """Train and test images together, from headers alone; DataError if one is damaged."""

    @abstractmethod
    def read(self, found: Found, on_progress: Progress | None) -> Arrays:
        """Decode the files; DataError names the one that is damaged and what it should be."""


@dataclass(frozen=True)
class OfficialFile:
    """A file that the authors of a set publish, and where: the first mirror that answers wins."""

    name: str
    mirrors: tuple[str, ...]  # URLs of folders, with the last slash
    md5: str


@dataclass(frozen=True)
class DatasetSpec:
    """A data set that accsim knows by name; layouts are tried in their order."""

    name: str
    image: Shape
    classes: tuple[str, ...]
    layouts: tuple[Layout, ...]
    official_files: tuple[OfficialFile, ...] = ()
    home: Path | None = None  # folder where it always lies; it is looked for nowhere else

    @property
    def wanted(self) -> str:
        """Every file and folder name that a search looks for, for messages."""
        return ", ".join(name for layout in self.layouts for name in layout.wanted)


DIGITS = tuple("0123456789")
