import numpy as np
import pytest
import scipy.io

from accsim.data.base import DataError
from accsim.data.svhn import FILES, MatFiles


def write_svhn(folder, labels=(10, 1, 9), shape=(32, 32, 3), compress=True):
    for name in FILES:
        images = np.zeros((*shape, 3), np.uint8)
        images[2, 5, 1, 0] = 77  # row 2, column 5, green, first image
        scipy.io.savemat(
            folder / name,
            {"X": images, "y": np.array(labels, np.uint8)[:, None]},
            do_compression=compress,
        )
    return folder


@pytest.mark.parametrize("compress", [True, False])
def test_images_go_first_and_label_ten_is_zero(tmp_path, compress):
    layout = MatFiles()
    found = layout.find(write_svhn(tmp_path, compress=compress))
    assert layout.images(found) == 6
    arrays = layout.read(found, None)
    assert arrays.train_images.shape == (3, 32, 32, 3)
    assert np.argwhere(arrays.train_images).tolist() == [[0, 2, 5, 1]]
    assert arrays.train_images.flags.c_contiguous
    assert arrays.train_labels.tolist() == arrays.test_labels.tolist() == [0, 1, 9]


def test_mismatched_counts_are_an_error(tmp_path):
    layout = MatFiles()
    found = layout.find(write_svhn(tmp_path, labels=(1, 2)))
    for use in (layout.images, lambda found: layout.read(found, None)):
        with pytest.raises(DataError, match=r"not X \[32, 32, 3, 3\] and y \[2, 1\]"):
            use(found)


def test_wrong_image_size_is_an_error(tmp_path):
    layout = MatFiles()
    with pytest.raises(DataError, match=r"not X \[8, 8, 3, 3\]"):
        layout.read(layout.find(write_svhn(tmp_path, shape=(8, 8, 3))), None)


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("keep", [0, 60, 140, -30, -9])
def test_truncated_file_is_an_error(tmp_path, keep, compress):
    path = write_svhn(tmp_path, compress=compress) / FILES[1]
    path.write_bytes(path.read_bytes()[:keep])
    layout = MatFiles()
    with pytest.raises(DataError, match=r"test_32x32\.mat must"):
        layout.read(layout.find(tmp_path), None)


def test_text_is_not_a_matlab_file(tmp_path):
    path = write_svhn(tmp_path) / FILES[0]
    path.write_bytes(b"<html>not found</html>" * 100)
    layout = MatFiles()
    with pytest.raises(DataError, match=r"train_32x32\.mat must be a whole MATLAB 5 file"):
        layout.read(layout.find(tmp_path), None)


def test_missing_file_is_named(tmp_path):
    (write_svhn(tmp_path) / FILES[0]).unlink()
    with pytest.raises(DataError, match=r"not only test_32x32\.mat"):
        MatFiles().find(tmp_path)
