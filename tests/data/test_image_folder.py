import io

import numpy as np
import pytest
from PIL import Image

from accsim.data import DataError, load_folder


def paint(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **options)


def flat(colour, height=8, width=8):
    return np.full((height, width, 3), colour)


def write_set(folder, counts, split="train"):
    """Pictures whose colour is (class, number, 9)."""
    for label, (name, count) in enumerate(counts.items()):
        for number in range(count):
            paint(folder / split / name / f"{number:02}.png", flat((label, number, 9)))
    return folder


def test_train_and_test_folders_are_read_with_classes_in_alphabetical_order(tmp_path):
    write_set(tmp_path, {"apple": 2, "pear": 3})
    write_set(tmp_path, {"apple": 1, "pear": 1}, "test")
    dataset = load_folder(tmp_path, size=8)
    assert dataset.name == tmp_path.name
    assert dataset.source == f"image folder {tmp_path.name}"
    assert not dataset.stand_in
    assert dataset.classes == ("apple", "pear")
    assert dataset.train_labels.tolist() == [0, 1, 0, 1, 1]  # in turn
    assert dataset.train_images[:, 3, 3].tolist() == [
        [0, 0, 9],
        [1, 0, 9],
        [0, 1, 9],
        [1, 1, 9],
        [1, 2, 9],
    ]
    assert dataset.test_labels.tolist() == [0, 1]


def test_without_a_test_folder_every_fifth_of_each_class_is_a_test_picture(tmp_path):
    dataset = load_folder(write_set(tmp_path, {"a": 10, "b": 6}), size=4)
    assert dataset.test_images[:, 0, 0, :2].tolist() == [[0, 4], [1, 4], [0, 9]]
    assert len(dataset.train_images) == 13


def test_middle_of_an_oblong_picture_is_kept(tmp_path):
    wide = np.concatenate([flat((255, 0, 0), 8, 4), flat((0, 99, 0)), flat((0, 0, 255), 8, 4)], 1)
    for name in ("a", "b"):
        paint(tmp_path / "train" / name / "0.png", wide)  # 16x8: red, green, blue
        paint(tmp_path / "test" / name / "0.png", wide.transpose(1, 0, 2))
    dataset = load_folder(tmp_path, size=8)
    assert (dataset.train_images == [0, 99, 0]).all()
    assert (dataset.test_images == [0, 99, 0]).all()


def test_pictures_are_scaled_made_rgb_and_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise
    halves = np.concatenate([flat(200, 8, 16), flat(20, 8, 16)])  # bright above dark
    for name in ("a", "b"):
        paint(tmp_path / "train" / name / "0.png", np.full((40, 30), 120))  # grey
        paint(tmp_path / "test" / name / "0.png", halves, exif=exif)
    dataset = load_folder(tmp_path, size=2)
    assert (dataset.train_images == 120).all()
    assert dataset.train_images.shape == (2, 2, 2, 3)
    assert (dataset.test_images[0, :, 1] > 150).all()  # above has become right
    assert (dataset.test_images[0, :, 0] < 70).all()


def test_hidden_files_and_notes_are_not_pictures(tmp_path):
    write_set(tmp_path, {"a": 5, "b": 5})
    (tmp_path / "train" / "a" / "._00.png").write_bytes(b"x")
    (tmp_path / "train" / "b" / "README.txt").write_text("notes")
    (tmp_path / "train" / "empty").mkdir()
    dataset = load_folder(tmp_path, size=8)
    assert dataset.classes == ("a", "b")
    assert len(dataset.train_images) == 8


def test_damaged_picture_is_named(tmp_path):
    write_set(tmp_path, {"a": 5, "b": 5})
    (tmp_path / "train" / "b" / "bad.jpg").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"train/b/bad\.jpg in .* must be a whole picture"):
        load_folder(tmp_path, size=8)


def test_truncated_picture_is_named(tmp_path):
    write_set(tmp_path, {"a": 5, "b": 5})
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(
        data, "PNG"
    )
    (tmp_path / "train" / "a" / "cut.png").write_bytes(data.getvalue()[:5000])
    with pytest.raises(DataError, match=r"train/a/cut\.png"):
        load_folder(tmp_path, size=8)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ({}, {}, r"must hold pictures as train/<class>/\*\.jpg"),
        ({"a": 9}, {}, "at least two class folders, not 1"),
        ({"a": 4, "b": 4}, {}, "at least 5 pictures in one class .* not 4"),
        ({"a": 1, "b": 1}, {"a": 1, "c": 1}, "same class folders, .* pictures in b, c"),
    ],
)
def test_unfit_folder_is_one_clear_sentence(tmp_path, train, test, message):
    write_set(tmp_path, train)
    write_set(tmp_path, test, "test")
    with pytest.raises(DataError, match=message):
        load_folder(tmp_path, size=8)


def test_missing_folder_and_odd_size_are_errors(tmp_path):
    with pytest.raises(DataError, match=r"must be a folder, but .*/none is missing"):
        load_folder(tmp_path / "none", size=8)
    with pytest.raises(DataError, match="1 to 4096 pixels, not 0"):
        load_folder(tmp_path, size=0)


def test_sizes_are_remembered_apart(tmp_path):
    write_set(tmp_path, {"a": 5, "b": 5})
    assert [load_folder(tmp_path, size).train_images.shape[1] for size in (8, 4, 8)] == [8, 4, 8]
