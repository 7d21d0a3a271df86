from pathlib import Path

import numpy as np
import pytest

from accsim.data import DataError, available, load
from accsim.data.base import Dataset
from accsim.data.search import CHECKOUT, SETS, places


def test_places_are_searched_in_their_order(tmp_path, own_folders, write_mnist, monkeypatch):
    """Each place gets its own first label; the earliest place that is left must win."""
    folders = [
        tmp_path / "variable",
        own_folders / "data",
        tmp_path / "checkout" / "shared" / "data",
        tmp_path / "shared" / "data",
        tmp_path / "cache" / "downloads",
    ]
    monkeypatch.setenv("ACCSIM_DATA", str(folders[0]))
    for label, folder in enumerate(folders):
        write_mnist(folder / "mnist", train=(label, 9))
    for label, folder in enumerate(folders):
        assert load("mnist", allow_download=False).train_labels[0] == label
        (folder / "mnist").rename(tmp_path / f"hidden{label}")


def test_folder_option_is_searched_alone(tmp_path, own_folders, write_mnist):
    write_mnist(own_folders / "data" / "mnist", train=(1,))
    write_mnist(tmp_path / "mine", train=(2,))  # directly, without a folder of the set's name
    assert load("mnist", tmp_path / "mine").train_labels.tolist() == [2]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty must hold mnist, but none of train-images-idx3"):
        load("mnist", tmp_path / "empty")


def test_folder_of_the_sets_name_comes_before_the_folder_itself(tmp_path, write_mnist):
    write_mnist(tmp_path / "mine", train=(1,))
    write_mnist(tmp_path / "mine" / "mnist", train=(2,))
    assert load("mnist", tmp_path / "mine").train_labels.tolist() == [2]


def test_folders_that_are_not_are_errors(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"data folder must be a folder, but .*/none is missing"):
        load("mnist", tmp_path / "none")
    with pytest.raises(DataError, match=r"must be a folder, but .*/file is a file"):
        load("mnist", tmp_path / "file")
    monkeypatch.setenv("ACCSIM_DATA", str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"\$ACCSIM_DATA must be a folder"):
        load("mnist")


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(
        DataError,
        match="one of cifar10, mnist, usps, svhn, synth_digits, synth_digits_colour, not 'cifar'",
    ):
        load("cifar")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("cifar10", "cifar-10-python.tar.gz"),
        ("cifar10", "cifar-10-binary.tar.gz"),
        ("cifar10", "cifar10-images.tar.gz"),
        ("mnist", "train-images-idx3-ubyte"),
        ("usps", "usps.h5"),
        ("svhn", "train_32x32.mat"),
    ],
)
def test_damaged_file_is_never_replaced_by_the_stand_in(own_folders, name, file):
    path = own_folders / "data" / name / file
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    with pytest.raises(DataError, match=f"data/{name}.* must "):
        load(name, allow_download=False)


def test_images_of_another_shape_are_an_error(own_folders, write_mnist):
    write_mnist(own_folders / "data")
    for split in ("train", "t10k"):
        path = own_folders / "data" / f"{split}-images-idx3-ubyte"
        path.write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 2, *range(6)]))
        labels = own_folders / "data" / f"{split}-labels-idx1-ubyte"
        labels.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 1, 2, 3]))
    with pytest.raises(DataError, match="images of mnist in data must be 28x28x1, not 1x2x1"):
        load("mnist")


def test_labels_outside_the_classes_are_an_error(own_folders, write_mnist):
    write_mnist(own_folders / "data", train=(3, 10))
    with pytest.raises(DataError, match=r"train labels of mnist .* must be 0 to 9, not 3 to 10"):
        load("mnist")


def test_source_names_kind_and_file_without_a_path(own_folders, write_mnist):
    write_mnist(own_folders / "data" / "mnist")
    dataset = load("mnist")
    assert (dataset.name, dataset.source, dataset.stand_in) == ("mnist", "IDX files mnist", False)
    assert dataset.classes == tuple("0123456789")


def test_available_reads_headers_only_and_reports_damage(own_folders, write_mnist):
    data = own_folders / "data"
    write_mnist(data / "mnist", packed=False)
    (data / "mnist" / "train-labels-idx1-ubyte").write_bytes(b"")  # labels are not opened
    (data / "usps.h5").write_bytes(b"")
    (data / "cifar-10-binary.tar.gz").write_bytes(b"")
    rows = {row.name: row for row in available()}
    assert list(rows) == list(SETS)
    mnist = rows["mnist"]
    assert (mnist.found, mnist.where, mnist.kind, mnist.images) == (
        True,
        str(Path("data") / "mnist"),
        "IDX files",
        5,
    )
    assert (rows["cifar10"].kind, rows["cifar10"].images) == ("binary batches", 60_000)
    assert (rows["usps"].found, rows["usps"].kind) == (False, "damaged")
    assert "usps.h5 must be a whole HDF5 file" in rows["usps"].where
    assert (rows["svhn"].found, rows["svhn"].kind) == (False, "download")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_labels": np.zeros(3, int)}, "equally many and at least one, not 2 and 3"),
        ({"test_images": np.zeros((0, 4, 4, 1), np.uint8), "test_labels": np.zeros(0, int)}, "0"),
        ({"train_images": np.zeros((2, 4, 4, 1))}, "must be uint8.*not float64"),
        ({"test_labels": np.array([-1])}, "must be 0 to 1, not -1"),
        ({"test_images": np.zeros((1, 5, 4, 1), np.uint8)}, "must have one shape"),
    ],
)
def test_dataset_is_valid_from_birth(change, message):
    fields = {
        "train_images": np.zeros((2, 4, 4, 1), np.uint8),
        "train_labels": np.array([0, 1]),
        "test_images": np.zeros((1, 4, 4, 1), np.uint8),
        "test_labels": np.array([1]),
    }
    Dataset("own", "by hand", False, ("a", "b"), **fields)
    with pytest.raises(DataError, match=message):
        Dataset("own", "by hand", False, ("a", "b"), **(fields | change))


REAL = [path for path in (CHECKOUT.parent / "shared" / "data", CHECKOUT / "data") if path.is_dir()]


@pytest.mark.parametrize(
    ("name", "shape", "test_images"),
    [("mnist", (60_000, 28, 28, 1), 10_000), ("usps", (7_291, 16, 16, 1), 2_007)],
)
def test_real_set_has_its_published_size(name, shape, test_images):
    real = [folder for folder in REAL if any((folder / name).glob("*"))]
    if not real:
        pytest.skip(f"{name} is not beside the checkout")
    dataset = load(name, real[0])
    assert dataset.train_images.shape == shape
    assert len(dataset.test_images) == test_images
    assert set(dataset.train_labels) == set(range(10))


def test_real_cifar10_pictures_load_and_are_remembered(monkeypatch):
    real = [folder for folder in REAL if any((folder / "cifar10").glob("*"))]
    if not real:
        pytest.skip("cifar10 is not beside the checkout")
    dataset = load("cifar10", real[0])
    assert dataset.train_images.shape == (50_000, 32, 32, 3)
    assert np.bincount(dataset.train_labels).tolist() == [5_000] * 10
    assert np.bincount(dataset.test_labels).tolist() == [1_000] * 10
    again = load("cifar10", real[0], on_progress=lambda *_: pytest.fail("decoded again"))
    assert np.array_equal(again.test_images, dataset.test_images)


def test_places_without_any_folder_are_none():
    assert places() == ()
