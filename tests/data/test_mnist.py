import pytest

from accsim.data.base import DataError
from accsim.data.mnist import FILES, IMAGES_MAGIC, LABELS_MAGIC, IdxFiles, read_idx


@pytest.mark.parametrize("packed", [True, False])
def test_idx_files_are_read_plain_and_packed(tmp_path, write_mnist, packed):
    layout = IdxFiles()
    found = layout.find(write_mnist(tmp_path, packed))
    assert layout.images(found) == 5
    arrays = layout.read(found, None)
    assert arrays.train_images.shape == (3, 28, 28, 1)
    assert arrays.train_images[1, 0, 0, 0] == 784 % 251  # the first pixel of the second image
    assert arrays.test_images[0, 1, 2, 0] == 28 + 2
    assert arrays.train_labels.tolist() == [5, 0, 4]
    assert arrays.test_labels.tolist() == [7, 2]


def test_header_is_big_endian_magic_then_sizes(tmp_path):
    path = tmp_path / "images"
    path.write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2, 10, 20]))
    assert read_idx(path, IMAGES_MAGIC).tolist() == [[[10, 20]]]


def test_wrong_magic_is_named(tmp_path, write_mnist):
    path = write_mnist(tmp_path, packed=False) / FILES[0]
    with pytest.raises(DataError, match=rf"{FILES[0]} must start with .* 2049, not 2051"):
        read_idx(path, LABELS_MAGIC)


@pytest.mark.parametrize("change", [-1, 1])
def test_wrong_size_is_named(tmp_path, write_mnist, change):
    path = write_mnist(tmp_path, packed=False) / FILES[2]
    data = path.read_bytes()
    path.write_bytes(data[:-1] if change < 0 else data + b"\0")
    with pytest.raises(DataError, match=f"must have 1584 bytes .* not {1584 + change}"):
        read_idx(path, IMAGES_MAGIC)  # 1584 = 16 + 2 * 28 * 28


def test_short_header_is_named(tmp_path, write_mnist):
    path = write_mnist(tmp_path, packed=False) / FILES[0]
    path.write_bytes(path.read_bytes()[:9])
    with pytest.raises(DataError, match="header of 16 bytes, but has only 9"):
        read_idx(path, IMAGES_MAGIC)


@pytest.mark.parametrize("keep", [5, 40])
def test_truncated_gzip_is_an_error(tmp_path, write_mnist, keep):
    write_mnist(tmp_path)
    path = tmp_path / f"{FILES[0]}.gz"
    path.write_bytes(path.read_bytes()[:keep])
    layout = IdxFiles()
    with pytest.raises(DataError, match=r"idx3-ubyte\.gz must be"):
        layout.read(layout.find(tmp_path), None)


def test_missing_file_is_named(tmp_path, write_mnist):
    write_mnist(tmp_path)
    (tmp_path / f"{FILES[3]}.gz").unlink()
    with pytest.raises(DataError, match=r"all four MNIST files, but t10k-labels-idx1-ubyte\[.gz\]"):
        IdxFiles().find(tmp_path)


def test_progress_ends_at_its_total(tmp_path, write_mnist):
    layout, calls = IdxFiles(), []
    layout.read(layout.find(write_mnist(tmp_path)), lambda *call: calls.append(call))
    assert calls[0] == ("decode mnist", 0, 4)
    assert calls[-1] == ("decode mnist", 4, 4)
