import io
import pickle
import struct
import tarfile

import numpy as np
import pytest
from PIL import Image

from accsim.data.base import DataError
from accsim.data.cifar10 import BATCHES, CLASSES, BinaryBatches, Pictures, PythonBatches

ROWS = 2


def pack(archive, files, compression="gz"):
    """A tar archive of name -> bytes, in that order."""
    with tarfile.open(archive, f"w:{compression}") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return archive


def unpack(folder, files):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def rows(batch):
    """uint8[2, 3072]: red is the batch's number, green 100, blue 200; one odd green pixel."""
    images = np.repeat(np.array([batch, 100, 200], np.uint8), 1024)[None].repeat(ROWS, 0)
    images[1, 1024 + 32 * 3 + 7] = 55  # second row: green at row 3, column 7
    return images


def python_batches(protocol=2):
    return {
        f"cifar-10-batches-py/{name}": pickle.dumps(
            {b"data": rows(batch), b"labels": [batch, 9 - batch], b"filenames": [b"a", b"b"]},
            protocol,
        )
        for batch, name in enumerate(BATCHES)
    }


def binary_batches():
    return {
        f"cifar-10-batches-bin/{name}.bin": b"".join(
            bytes([label]) + row.tobytes()
            for label, row in zip((batch, 9 - batch), rows(batch), strict=True)
        )
        for batch, name in enumerate(BATCHES)
    }


def picture(colour, size=(32, 32), kind="PNG", mode="RGB"):
    data = io.BytesIO()
    Image.new(mode, size, colour).save(data, kind)
    return data.getvalue()


def pictures(train=2, test=1):
    """PNG bytes under .jpg names (Pillow looks at the bytes): pixel is class, split, number."""
    return {
        f"{split}/{name}/{number:04}.jpg": picture((label, split == "test", number))
        for split, count in (("train", train), ("test", test))
        for label, name in enumerate(CLASSES)
        for number in range(count)
    }


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("layout", "files", "archive"),
    [
        (PythonBatches(ROWS), python_batches(), "cifar-10-python.tar.gz"),
        (PythonBatches(ROWS), python_batches(protocol=4), "cifar-10-python.tar.gz"),
        (BinaryBatches(ROWS), binary_batches(), "cifar-10-binary.tar.gz"),
    ],
)
def test_official_batches_are_read_from_folder_and_archive(
    tmp_path, layout, files, archive, packed
):
    pack(tmp_path / archive, files) if packed else unpack(tmp_path, files)
    found = layout.find(tmp_path)
    assert layout.images(found) == 6 * ROWS
    arrays = layout.read(found, None)
    assert arrays.train_images.shape == (10, 32, 32, 3)
    assert arrays.train_labels.tolist() == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]
    assert arrays.test_labels.tolist() == [5, 4]  # test_batch comes last, as batch 5
    assert arrays.train_images[4, 0, 0].tolist() == [2, 100, 200]  # batch 2, channels last
    assert arrays.test_images[0, 31, 31].tolist() == [5, 100, 200]
    assert arrays.train_images[1, 3, 7].tolist() == [0, 55, 200]
    assert arrays.train_images[1, 7, 3].tolist() == [0, 100, 200]


def test_batch_pickled_by_python_2_is_read(tmp_path):
    """The official files are: byte strings, and numpy under its name of that time."""
    data = rows(3).tobytes()
    batch = (
        b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
        b"K\x00\x85U\x01b\x87R(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + struct.pack("<I", len(data))
        + data
        + b"tbU\x06labels](K\x03K\x06eu."
    )
    files = python_batches() | {"cifar-10-batches-py/data_batch_4": batch}
    layout = PythonBatches(ROWS)
    read = layout.read(layout.find(unpack(tmp_path, files)), None)
    usual = layout.read(layout.find(unpack(tmp_path, python_batches())), None)
    assert all(np.array_equal(a, b) for a, b in zip(read, usual, strict=True))


def test_missing_batch_is_named(tmp_path):
    files = python_batches()
    del files["cifar-10-batches-py/data_batch_3"]
    layout = PythonBatches(ROWS)
    with pytest.raises(DataError, match=r"must hold 6 batches, but data_batch_3 is missing"):
        layout.read(layout.find(unpack(tmp_path, files)), None)


@pytest.mark.parametrize("layout", [PythonBatches(), BinaryBatches()])
def test_official_batches_must_have_ten_thousand_rows(tmp_path, layout):
    unpack(tmp_path, python_batches() | binary_batches())
    with pytest.raises(DataError, match=r"data_batch_1.* must .*(10000|30730000)"):
        layout.read(layout.find(tmp_path), None)


@pytest.mark.parametrize("keep", [0, 10, 500, -1])
def test_truncated_batch_is_named(tmp_path, keep):
    files = python_batches() | binary_batches()
    for name in ("cifar-10-batches-py/test_batch", "cifar-10-batches-bin/test_batch.bin"):
        files[name] = files[name][:keep]
    unpack(tmp_path, files)
    for layout in (PythonBatches(ROWS), BinaryBatches(ROWS)):
        with pytest.raises(DataError, match=r"cifar-10-batches-.*: test_batch.* must"):
            layout.read(layout.find(tmp_path), None)


def test_pickle_that_runs_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("ran",))

    files = python_batches()
    files["cifar-10-batches-py/test_batch"] = pickle.dumps({b"data": Evil(), b"labels": []})
    layout = PythonBatches(ROWS)
    with pytest.raises(DataError, match=r"arrays only, not builtins\.print"):
        layout.read(layout.find(unpack(tmp_path, files)), None)


@pytest.mark.parametrize("prefix", ["", "./", "cifar10/"])
def test_picture_archive_is_read_in_any_order_of_members(tmp_path, prefix):
    files = {prefix + name: data for name, data in reversed(pictures().items())}
    files[prefix + "train/cat/._0000.jpg"] = b"a file manager's note"
    pack(tmp_path / "cifar10-images.tar.gz", files)
    layout = Pictures(2, 1)
    arrays = layout.read(layout.find(tmp_path), None)
    assert arrays.train_labels.tolist() == [*range(10), *range(10)]  # classes come in turn
    assert arrays.test_labels.tolist() == [*range(10)]
    assert arrays.train_images.shape == (20, 32, 32, 3)
    assert arrays.train_images[13, 4, 4].tolist() == [3, 0, 1]  # cat, train, 0001.jpg
    assert arrays.test_images[9, 0, 0].tolist() == [9, 1, 0]


def test_picture_folder_reads_as_its_archive_and_nothing_beside_it(tmp_path):
    files = pictures()
    packed, unpacked = tmp_path / "packed", tmp_path / "unpacked"
    packed.mkdir()
    pack(packed / "cifar10.tar.gz", files)
    unpack(unpacked, files | {"other/train/sheep/0000.jpg": picture((1, 2, 3))})
    layout = Pictures(2, 1)
    one, other = (layout.read(layout.find(folder), None) for folder in (packed, unpacked))
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_pictures_of_other_classes_are_not_cifar10(tmp_path):
    unpack(tmp_path, {"train/sheep/0.jpg": picture((1, 2, 3))})
    assert Pictures().find(tmp_path) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train/sheep/0.jpg": picture((0, 0, 0))}, "must be airplane, .*, not 'sheep'"),
        ({"train/cat/9.jpg": picture((0, 0, 0))}, "2 pictures in train/cat, not 3"),
        ({"train/cat/0001.jpg": picture((0, 0, 0), (31, 32))}, "32x32 pixels .* not 31x32"),
        ({"train/cat/0001.jpg": b"\xff\xd8\xff"}, r"train/cat/0001\.jpg in .* whole picture"),
        ({"test/dog/0000.jpg": None}, "1 pictures in test/dog, not 0"),
    ],
)
def test_odd_picture_is_named(tmp_path, change, message):
    files = {name: data for name, data in (pictures() | change).items() if data is not None}
    layout = Pictures(2, 1)
    with pytest.raises(DataError, match=message):
        layout.read(layout.find(pack(tmp_path / "cifar10.tar.gz", files).parent), None)


def test_truncated_jpeg_is_an_error(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(noise).save(data, "JPEG")
    files = pictures() | {"train/cat/0001.jpg": data.getvalue()[:-200]}
    layout = Pictures(2, 1)
    with pytest.raises(DataError, match=r"train/cat/0001\.jpg in .* must be a whole picture"):
        layout.read(layout.find(unpack(tmp_path, files)), None)


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("name", ["cifar10-images.tar.gz", "cifar-10-python.tar.gz"])
def test_truncated_archive_is_an_error(tmp_path, name, part):
    is_pictures = name.startswith("cifar10")
    layout = Pictures(2, 1) if is_pictures else PythonBatches(ROWS)
    path = pack(tmp_path / name, pictures() if is_pictures else python_batches())
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(DataError, match=rf"{name} must be a whole \.tar\.gz archive"):
        layout.read(layout.find(tmp_path), None)


def test_archive_with_a_flipped_bit_is_an_error(tmp_path):
    path = pack(tmp_path / "cifar-10-binary.tar.gz", binary_batches())
    data = bytearray(path.read_bytes())
    data[-6] ^= 1  # in gzip's checksum
    path.write_bytes(data)
    layout = BinaryBatches(ROWS)
    with pytest.raises(DataError, match="CRC check failed"):
        layout.read(layout.find(tmp_path), None)
