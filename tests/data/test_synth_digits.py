import hashlib
import shutil

import numpy as np
import pytest
from matplotlib.ft2font import FT2Font, LoadFlags
from matplotlib.path import Path as Outline

from accsim.data import DataError, available, load, synth_digits
from accsim.data.synth_digits import (
    CELLS,
    DEPTH,
    DIGIT_CELLS,
    FOLDER,
    FONTS,
    SYNTH_DIGITS,
    depth_fields,
    draw,
    warped,
)
from accsim.network import Shape

GREY = Shape(28, 28, 1)


@pytest.fixture(scope="module")
def fields():
    return depth_fields(FOLDER)


@pytest.fixture(scope="module")
def drawn(fields):
    """6,000 train and 2,000 test images."""
    return *draw(6_000, GREY, 0, fields), *draw(2_000, GREY, 1, fields)


@pytest.mark.parametrize(
    ("image", "golden"), [(GREY, "9af357231a6b543b"), (Shape(32, 32, 3), "884ba6f640efff68")]
)
def test_bits_are_the_same_everywhere(image, golden, fields):
    """Golden: sha256 of draw(600, image, 0) when the set was made, from matplotlib 3.11's fonts."""
    images, labels = draw(600, image, 0, fields)
    assert images.shape == (600, image.height, image.width, image.channels)
    assert images.dtype == np.uint8
    assert hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()[:16] == golden


@pytest.mark.parametrize("name", ["DejaVuSans.ttf", "STIXGeneralItalic.ttf", "cmr10.ttf"])
def test_cells_lie_inside_where_matplotlib_says_so(name, fields):
    """matplotlib tests the curves in floating point, contour by contour: a hole takes away.

    It may differ where an outline passes; a mirrored, shifted or filled digit would everywhere.
    """
    font, contours = FT2Font(str(FOLDER / name)), []
    for digit in "0123456789":
        font.load_char(ord(digit), flags=LoadFlags.NO_SCALE)
        vertices, codes = font.get_path()
        vertices = vertices * 64  # its curves are cut more finely where they are larger
        starts = np.flatnonzero(codes == Outline.MOVETO)[1:]
        parts = zip(np.split(vertices, starts), np.split(codes, starts), strict=True)
        contours.append([Outline(*part) for part in parts])
    boxes = [Outline.make_compound_path(*parts).get_extents().extents for parts in contours]
    left, bottom, right, top = np.array(boxes).T
    cell = (top.max() - bottom.min()) / DIGIT_CELLS
    middles = (np.arange(CELLS) + 0.5 - CELLS / 2) * cell
    for digit in range(10):
        x = middles + (left[digit] + right[digit]) / 2
        y = (top.max() + bottom.min()) / 2 - middles
        places = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
        inside = [part.contains_points(places) for part in contours[digit]]
        expected = np.logical_xor.reduce(inside).reshape(CELLS, CELLS)
        depth = fields[FONTS.index(name), digit]
        assert np.abs(depth[(depth > 0) != expected]).max(initial=0) <= DEPTH  # one cell


def test_depth_is_the_distance_to_the_outline(fields):
    """Twin: the nearest of all cells on the other side, by brute force, less half a cell."""
    depth = fields[0, 4][::6, ::6]
    inside = fields[0, 4] > 0
    every = np.stack(np.nonzero(np.ones_like(inside)), -1).reshape(CELLS, CELLS, 2)
    for row in range(0, CELLS, 6):
        for column in range(0, CELLS, 6):
            others = every[inside != inside[row, column]]
            near = np.sqrt(((others - (row, column)) ** 2).sum(1).min()) - 0.5
            expected = near if inside[row, column] else -near
            assert abs(depth[row // 6, column // 6] - DEPTH * expected) <= 0.5


@pytest.mark.parametrize(
    ("moves", "expected"),
    [  # of a place 8 cells right of the middle, and of that place at the top, the foot
        ((0, 0, 0, 0), [(8, 0), (8, -64), (8, 64)]),
        ((16, 0, 0, 0), [(8, 0), (24, -64), (24, 64)]),  # both ends aside: a bow
        ((0, 0, 24, 0), [(8, 0), (5, -64), (11, 64)]),  # a wide top looks at inner columns
        ((0, 0, 0, 12), [(8, 12), (8, -64), (8, 64)]),  # the ends stay
        ((0, 64, 0, 0), [(8, 1), (8, -63), (8, 65)]),  # (8 / 64) ** 2 of the sides' way
    ],
)
def test_warping_moves_what_its_names_say(moves, expected):
    along, down = np.array([8, 8, 8]) * 64, np.array([0, -64, 64]) * 64
    seen = np.stack(warped(along, down, *moves), axis=1)
    assert (seen == 64 * np.array(expected)).all()


def test_every_font_has_ten_different_digits_in_the_middle(fields):
    assert fields.shape == (len(FONTS), 10, CELLS, CELLS)
    masks = fields > 0
    assert masks.any((2, 3)).all()
    for of_font in masks:
        rows, columns = np.nonzero(of_font.any(0).any(1))[0], np.nonzero(of_font.any(0).any(0))[0]
        assert rows[-1] - rows[0] + 1 in (DIGIT_CELLS - 1, DIGIT_CELLS)  # the tallest fill it
        assert abs(columns[0] + columns[-1] - (CELLS - 1)) <= 2
        for digit in range(10):
            for other in range(digit):
                assert np.sum(of_font[digit] ^ of_font[other]) > 0.1 * of_font[digit].sum()


def test_classes_are_equally_frequent_in_every_prefix(drawn):
    labels = drawn[1]
    assert labels.dtype == np.int64
    for prefix in (10, 1_000, 6_000):
        assert np.bincount(labels[:prefix]).tolist() == [prefix // 10] * 10


def test_no_image_comes_twice(drawn):
    train, test = ({image.tobytes() for image in images} for images in (drawn[0], drawn[2]))
    assert (len(train), len(test)) == (6_000, 2_000)
    assert not train & test


def test_digits_are_as_often_darker_as_brighter_than_their_ground(drawn):
    """Border pixels are mostly ground, middle ones often ink."""
    images = drawn[0][..., 0].astype(int)
    border = np.concatenate([images[:, 0], images[:, -1]], 1).mean(1)
    brighter = np.mean(images[:, 10:18, 10:18].mean((1, 2)) > border)
    assert 0.45 < brighter < 0.55


def test_nearest_centroid_is_poor_on_pixels_and_better_on_contrast(drawn):
    """The class is in the shape, which either colour may have: centroids are grey.

    Of the squared distance to the ground, equal for both, they see it.
    """
    train_images, train_labels, test_images, test_labels = drawn

    def accuracy(of):
        train, test = of(train_images), of(test_images)
        centroids = np.stack([train[train_labels == c].mean(0) for c in range(10)])
        distances = ((test[:, None] - centroids) ** 2).sum(2)
        return np.mean(distances.argmin(1) == test_labels)

    def pixels(images):
        return images.reshape(len(images), -1) / 255

    def contrast(images):
        flat = pixels(images)
        flat = (flat - np.median(flat, 1, keepdims=True)) ** 2
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    plain, squared = accuracy(pixels), accuracy(contrast)
    assert plain < 0.3
    assert squared > 0.4


def test_the_set_needs_no_folder_and_is_drawn_once(monkeypatch, tmp_path):
    monkeypatch.setattr(synth_digits, "TRAIN_IMAGES", 30)
    monkeypatch.setattr(synth_digits, "TEST_IMAGES", 20)
    (tmp_path / "empty").mkdir()
    dataset = load("synth_digits", tmp_path / "empty", allow_download=False)
    assert (dataset.source, dataset.stand_in) == ("drawn from fonts ttf", False)
    assert dataset.train_images.shape == (30, 28, 28, 1)
    assert dataset.test_images.shape == (20, 28, 28, 1)
    again = load("synth_digits", on_progress=lambda *_: pytest.fail("drawn again"))
    assert np.array_equal(again.train_images, dataset.train_images)
    assert load("synth_digits_colour").train_images.shape == (30, 32, 32, 3)


def test_available_lists_it_without_drawing(monkeypatch):
    monkeypatch.setattr(synth_digits, "depth_fields", lambda folder: pytest.fail("drawn"))
    row = next(row for row in available() if row.name == "synth_digits")
    assert (row.found, row.kind, row.images) == (True, "drawn from fonts", 60_000)


def test_missing_and_damaged_fonts_are_errors(tmp_path):
    (layout,) = SYNTH_DIGITS.layouts
    with pytest.raises(DataError, match=r"must hold 21 fonts .* but 21, the first DejaVuSans\.ttf"):
        layout.find(tmp_path)
    for name in FONTS:
        shutil.copy(FOLDER / name, tmp_path / name)
    (tmp_path / FONTS[3]).write_bytes(b"no font")
    with pytest.raises(DataError, match=f"{FONTS[3]} must be a font, but reading it fails"):
        layout.read(layout.find(tmp_path), None)
    shutil.copy(FOLDER / "STIXSizOneSymReg.ttf", tmp_path / FONTS[3])
    with pytest.raises(DataError, match=f"{FONTS[3]} must have all digits, but 0, 1, 2"):
        layout.read(layout.find(tmp_path), None)
