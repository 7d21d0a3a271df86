"""Where data sets are looked for, in which order, and what is loaded when there is none."""

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

from accsim.data import cache, standin
from accsim.data.base import DataError, Dataset, DatasetSpec, Found, Layout, Progress
from accsim.data.cifar10 import CIFAR10
from accsim.data.download import UnreachableError, fetch
from accsim.data.image_folder import ImageFolder
from accsim.data.mnist import MNIST
from accsim.data.svhn import SVHN
from accsim.data.synth_digits import SYNTH_DIGITS, SYNTH_DIGITS_COLOUR
from accsim.data.usps import USPS
from accsim.network import Shape

SETS = {spec.name: spec for spec in (CIFAR10, MNIST, USPS, SVHN, SYNTH_DIGITS, SYNTH_DIGITS_COLOUR)}
CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Row:
    """What is known of a data set before it is read."""

    name: str
    found: bool
    where: str  # path; or what is wrong with the files; or what was looked for
    kind: str  # "image archive", "damaged", "download" or "stand-in"
    images: int  # train and test together


def load(
    name: str,
    folder: Path | None = None,
    allow_download: bool = True,
    on_progress: Progress | None = None,
) -> Dataset:
    """A data set by name: found on disk, downloaded, or generated as a stand-in.

    Parameters
    ----------
    name : "cifar10", "mnist", "usps", "svhn", "synth_digits" or "synth_digits_colour"
    folder : where to look, and nowhere else; by default every folder of `places`
    allow_download : fetch the official files if the set is nowhere
    on_progress : called with what is being done, units done and units in all (0: unknown)

    Each folder is searched for ``<folder>/<name>/...`` first, then for ``<folder>/...``. A set that
    cannot be had is replaced by the stand-in, with a warning; files that are there but damaged
    never are. Raises DataError.
    """
    spec = _spec(name)
    found = _find(spec, places(folder))
    reason = "download is not allowed"
    if found is None and folder is not None:
        raise DataError(
            f"{folder} must hold {name}, but none of {spec.wanted} is in it or in its "
            f"subfolder {name}"
        )
    if found is None and allow_download:
        try:
            found = _find(spec, (fetch(spec, downloads(), on_progress),))
        except UnreachableError as error:
            reason = str(error)
    if found is None:
        warnings.warn(
            f"{name} was not found and cannot be downloaded ({reason}): "
            "generated images stand in for it, and accuracies are not those of the real set",
            stacklevel=2,
        )
        return standin.dataset(name, spec.image)
    layout, files = found
    dataset = _read(spec.name, spec.classes, layout, files, on_progress)
    shape = Shape(*dataset.train_images.shape[1:])
    if shape != spec.image:
        raise DataError(
            f"images of {name} in {files.path} must be {spec.image}, not {shape}; "
            "get the files again"
        )
    return dataset


def load_folder(folder: Path, size: int, on_progress: Progress | None = None) -> Dataset:
    """A user's own pictures, ``train/<class>/*`` and perhaps ``test/<class>/*``, as squares.

    Parameters
    ----------
    folder : holds ``train``
    size : pixels of a side of the squares, RGB
    on_progress : as for `load`

    Without ``test``, every fifth picture of each class is a test picture. Raises DataError.
    """
    _check_folder(folder, "the image folder")
    layout = ImageFolder(size)
    found = layout.find(folder)
    if found is None:
        raise DataError(f"{folder} must hold pictures as train/<class>/*.jpg, but there are none")
    name = folder.resolve().name
    return _read(name, layout.classes(found), layout, found, on_progress)


def available(folder: Path | None = None) -> list[Row]:
    """What `load` would load for every known set, by names and headers alone."""
    rows = []
    for spec in SETS.values():
        try:
            found = _find(spec, places(folder))
            if found is not None:
                layout, files = found
                count = layout.images(files)
                rows.append(Row(spec.name, True, str(files.path), files.kind, count))
                continue
        except DataError as error:
            rows.append(Row(spec.name, False, str(error), "damaged", 0))
            continue
        kind = "download" if spec.official_files else "stand-in"
        rows.append(Row(spec.name, False, f"looked for {spec.wanted}", kind, 0))
    return rows


def places(folder: Path | None = None) -> tuple[Path, ...]:
    """Folders that are searched, in order; only `folder` if it is given.

    Raises DataError if `folder` or ``$ACCSIM_DATA`` is given and is not a folder.
    """
    if folder is not None:
        _check_folder(folder, "the data folder")
        return (folder,)
    chosen = os.environ.get("ACCSIM_DATA")
    if chosen:
        _check_folder(Path(chosen), "$ACCSIM_DATA")
    candidates = (
        *((Path(chosen),) if chosen else ()),
        Path("data"),
        CHECKOUT.parent / "shared" / "data",
        Path("..") / "shared" / "data",
        downloads(),
    )
    return tuple(path for path in candidates if path.is_dir())


def downloads() -> Path:
    """Where downloaded files are kept: a part of the user's cache."""
    return cache.folder() / "downloads"


def _spec(name: str) -> DatasetSpec:
    if name not in SETS:
        raise DataError(f"data set must be one of {', '.join(SETS)}, not {name!r}")
    return SETS[name]


def _check_folder(folder: Path, what: str) -> None:
    if not folder.is_dir():
        state = "a file" if folder.exists() else "missing"
        raise DataError(f"{what} must be a folder, but {folder} is {state}")


def _find(spec: DatasetSpec, folders: tuple[Path, ...]) -> tuple[Layout, Found] | None:
    """The first layout of a set that lies at its home, or in one of `folders`, and its files."""
    below = (place for folder in folders for place in (folder / spec.name, folder))
    for place in (spec.home,) if spec.home else below:
        for layout in spec.layouts:
            found = layout.find(place)
            if found is not None:
                return layout, found
    return None


def _read(
    name: str,
    classes: tuple[str, ...],
    layout: Layout,
    found: Found,
    on_progress: Progress | None,
) -> Dataset:
    """Decode files, or take what they decode to out of the cache."""
    arrays = cache.remembered(name, layout, found, lambda: layout.read(found, on_progress))
    return Dataset(name, f"{found.kind} {found.path.name}", False, classes, *arrays)
