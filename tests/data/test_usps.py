import h5py
import numpy as np
import pytest

from accsim.data.base import DataError
from accsim.data.usps import Hdf5File


def write_usps(folder, train=3, test=2, pixel=0.5, side=16, targets=None):
    with h5py.File(folder / "usps.h5", "w") as file:
        for split, count in (("train", train), ("test", test)):
            data = np.zeros((count, side * side), np.float32)
            data[0, 17] = pixel
            data[-1, -1] = 1
            file[f"{split}/data"] = data
            file[f"{split}/target"] = np.arange(count if targets is None else targets, dtype="i4")
    return folder


def test_unit_floats_become_bytes_rounded_half_up(tmp_path):
    layout = Hdf5File()
    found = layout.find(write_usps(tmp_path))
    assert layout.images(found) == 5
    arrays = layout.read(found, None)
    assert arrays.train_images.shape == (3, 16, 16, 1)
    assert arrays.train_images.dtype == np.uint8
    assert arrays.train_images[0, 1, 1, 0] == 128  # 0.5 * 255 = 127.5
    assert arrays.test_images[-1, 15, 15, 0] == 255
    assert arrays.train_images.sum(dtype=int) == 128 + 255
    assert arrays.train_labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize("pixel", [-0.1, 1.5, float("nan")])
def test_pixels_outside_the_unit_range_are_an_error(tmp_path, pixel):
    layout = Hdf5File()
    with pytest.raises(DataError, match=r"train/data of .*usps\.h5 must be 0 to 1"):
        layout.read(layout.find(write_usps(tmp_path, pixel=pixel)), None)


def test_mismatched_counts_are_an_error(tmp_path):
    layout = Hdf5File()
    with pytest.raises(DataError, match=r"not \[3, 256\] and \[9\]"):
        layout.images(layout.find(write_usps(tmp_path, targets=9)))


def test_wrong_image_size_is_an_error(tmp_path):
    layout = Hdf5File()
    with pytest.raises(DataError, match=r"must be data \[N, 256\]"):
        layout.read(layout.find(write_usps(tmp_path, side=8)), None)


def test_missing_array_is_an_error(tmp_path):
    write_usps(tmp_path)
    with h5py.File(tmp_path / "usps.h5", "a") as file:
        del file["test/target"]
    layout = Hdf5File()
    with pytest.raises(DataError, match="must hold test/data and test/target"):
        layout.images(layout.find(tmp_path))


@pytest.mark.parametrize("keep", [0, 100, -1])
def test_truncated_file_is_an_error(tmp_path, keep):
    path = write_usps(tmp_path) / "usps.h5"
    path.write_bytes(path.read_bytes()[:keep])
    layout = Hdf5File()
    with pytest.raises(DataError, match=r"usps\.h5 must be a whole HDF5 file"):
        layout.read(layout.find(tmp_path), None)
