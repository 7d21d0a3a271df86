"""Digits drawn from the fonts that matplotlib carries: printed sources for handwritten targets.

The digit in the middle counts; those that may stand at its sides do not. Font, height, width,
slant, turn, place, weight of the strokes, blur, colours, ground and noise are drawn for each image,
and how far the digit is bent, tapered and unbalanced, as no type is and every hand does: without
that, what is learned of a printed 9 calls most handwritten ones 7.

Outlines are read in the whole numbers of the font files, and everything after them is integer
arithmetic on the raw output of PCG64 and on exactly rounded square roots: the same font files give
the same bits everywhere, whatever the version of the library that draws text.

Source: the recipe is that of SynDigits in Ganin and Lempitsky, "Unsupervised domain adaptation by
backpropagation", ICML 2015, section 4; the digits are drawn from depth fields as in Green,
"Improved alpha-tested magnification for vector textures and special effects", SIGGRAPH courses
2007, whose threshold is the weight of a stroke and whose slope is its blur.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import final

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font, LoadFlags
from matplotlib.path import Path as Outline
from scipy.ndimage import distance_transform_edt

from accsim.data.base import DIGITS, Arrays, DataError, DatasetSpec, Found, Layout
from accsim.data.standin import SUBPIXELS, Draws
from accsim.network import Shape

FOLDER = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
FONTS = (
    *(f"DejaVuSans{style}.ttf" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}.ttf" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}.ttf" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}.ttf" for style in ("", "Bol", "Italic", "BolIta")),
    *(f"cm{style}10.ttf" for style in ("r", "b", "ss", "ti", "tt")),
)

TRAIN_IMAGES = 50_000
TEST_IMAGES = 10_000
CHUNK = 500  # images drawn at once: their planes stay in the processor's cache

CELLS = 192  # of a side of a field
DIGIT_CELLS = 128  # height of the tallest digit of a font
DEPTH = 16  # units of depth in a cell
ARC = 8  # straight pieces of a curve
FINE = 256  # to a unit of a font file


TURN_DEGREES = 15  # either way
TURNS = np.array(  # cosine and sine of every degree, in 1/1024
    [
        [round(1024 * f(math.radians(degree))) for f in (math.cos, math.sin)]
        for degree in range(-TURN_DEGREES, TURN_DEGREES + 1)
    ],
    np.int32,
)
SLANT = 416  # largest shear either way, in 1/1024
WIDTHS = 44, 76  # least and largest stretch along the line, in 1/64
BEND, SWAY = 16, 8  # cells that the top and the foot, or the sides, are moved, either way
TAPER = 24  # largest change of the width from the middle to the top or the foot, in 1/64
WAIST = 12  # cells that the middle is moved up or down
THINNER, BOLDER = -DEPTH, 6 * DEPTH  # least and largest outward move of an outline
EDGES = 4, 10  # least and largest width of an edge, in quarters of a pixel
NEIGHBOURS = 64 * 100, 64 * 136  # least and largest distance of two digits, in 1/64 of a cell
CONTRAST = 48  # least difference of digit and ground, grey levels
MARGIN = 24  # least distance of a ground from black and white, grey levels
NOISE = 24  # largest noise of an image, grey levels either way


def draw(count: int, image: Shape, seed: int, fields: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8[count, H, W, C] and int64[count]; label i % 10, so every prefix is balanced."""
    draws = Draws(seed)
    labels = np.arange(count, dtype=np.int64) % len(DIGITS)
    images = np.empty((count, image.height, image.width, image.channels), np.uint8)
    for start in range(0, count, CHUNK):
        chunk = slice(start, min(start + CHUNK, count))
        images[chunk] = _draw_chunk(draws, labels[chunk], image, fields)
    return images, labels


def depth_fields(folder: Path) -> np.ndarray:
    """How deep inside every digit of every font each cell is: int16[fonts, 10, CELLS, CELLS].

    In ``1 / DEPTH`` of a cell, negative outside. A digit stands in the middle of its square; those
    of a font have one scale. DataError for a file that is no font with digits.
    """
    return np.stack([_fields_of_font(folder / name) for name in FONTS])


def _draw_chunk(draws: Draws, labels: np.ndarray, image: Shape, fields: np.ndarray) -> np.ndarray:
    """uint8[N, H, W, C]: the digits `labels`, perhaps others at their sides, on a ground."""
    count, channels = len(labels), image.channels
    base = draws.integers(MARGIN, 256 - MARGIN, count, 1, 1, channels)
    slope = draws.integers(-48, 49, count, 2, 1, channels)  # grey levels across the image
    x = np.arange(image.width, dtype=np.int32)[:, None] - image.width // 2  # (W, 1)
    y = np.arange(image.height, dtype=np.int32)[:, None, None] - image.height // 2  # (H, 1, 1)
    picture = base + slope[:, :1] * x // image.width + slope[:, 1:] * y // image.height

    sign = 2 * draws.integers(0, 2, count, 1, 1, 1) - 1  # all channels brighter, or all darker
    colour = base + sign * draws.integers(CONTRAST, 160, count, 1, 1, channels)
    picture += ((colour - picture) * _cover(draws, labels, image, fields)) >> 8

    strength = draws.integers(0, NOISE + 1, count, 1, 1, 1)
    picture += (strength * draws.integers(-1024, 1025, *picture.shape)) >> 10
    return np.clip(picture, 0, 255).astype(np.uint8)


def _cover(draws: Draws, labels: np.ndarray, image: Shape, fields: np.ndarray) -> np.ndarray:
    """Cover of each pixel, 0 to 256, by the digits of an image: int32[N, H, W, 1].

    Digits of an image have one font, size, turn, weight and blur, as those of a number have.
    """
    count = len(labels)
    side = min(image.height, image.width) * SUBPIXELS
    font = draws.integers(0, len(FONTS), count)
    height = draws.integers(side * 9 // 16, side * 7 // 8, count, 1, 1)  # subpixels
    turn = TURNS[draws.integers(0, len(TURNS), count)][..., None, None]  # (N, 2, 1, 1)
    slant = draws.integers(-SLANT, SLANT + 1, count, 1, 1)
    width = draws.integers(*WIDTHS, count, 1, 1)
    weight = draws.integers(THINNER, BOLDER + 1, count, 1, 1)
    edge = draws.integers(*EDGES, count, 1, 1)
    middle = draws.integers(-side // 12, side // 12 + 1, count, 2, 1, 1)  # off the image's
    x = _from_middle(image.width) - middle[:, 0]  # (N, 1, W)
    y = _from_middle(image.height)[:, None] - middle[:, 1]  # (N, H, 1)
    cosine, sine = (turn[:, axis] * (64 * DIGIT_CELLS) // height for axis in (0, 1))
    along = (x * cosine + y * sine) >> 10  # on the line of digits: 1/64 cells, (N, H, W)
    down = (y * cosine - x * sine) >> 10
    along = (along + (down * slant >> 10)) * 64 // width
    moves = [draws.integers(-most, most + 1, count, 1, 1) for most in (BEND, SWAY, TAPER, WAIST)]
    along, down = warped(along, down, *moves)

    depth = _depth(fields, font, labels, along, down)
    for sign in (-1, 1):
        digit = draws.integers(0, len(DIGITS), count)
        away = sign * draws.integers(*NEIGHBOURS, count, 1, 1)
        near = np.flatnonzero(draws.integers(0, 3, count) == 0)  # a third has one on this side
        other = _depth(fields, font[near], digit[near], along[near] - away[near], down[near])
        depth[near] = np.maximum(depth[near], other)
    # A pixel of depth is DEPTH * DIGIT_CELLS * SUBPIXELS / height units.
    slope = (depth + weight) * height // (DEPTH * DIGIT_CELLS * SUBPIXELS // 256 // 4 * edge)
    return np.clip(128 + slope, 0, 256)[..., None]


def warped(along, down, bend, sway, taper, waist) -> tuple[np.ndarray, np.ndarray]:
    """Where places of a digit, in 1/64 of a cell from its middle, lie in one that no hand moved.

    `bend` moves the top and the foot along the line, `sway` the sides up or down, `taper` widens
    the top and narrows the foot, `waist` moves the middle up or down: see the constants.
    """
    half = DIGIT_CELLS // 2
    column, row = (np.clip(place >> 6, -half, half) for place in (along, down))  # cells
    return (
        along * (64 + taper * row // half) // 64 + bend * row**2 * 64 // half**2,
        down + sway * column**2 * 64 // half**2 + waist * (half**2 - row**2) * 64 // half**2,
    )


def _depth(fields, font, digit, along, down) -> np.ndarray:
    """What the fields of the digits hold at places in 1/64 of a cell: int32[N, H, W]."""
    column = np.clip((along >> 6) + CELLS // 2, 0, CELLS - 1)
    row = np.clip((down >> 6) + CELLS // 2, 0, CELLS - 1)
    return fields[font[:, None, None], digit[:, None, None], row, column].astype(np.int32)


def _from_middle(side: int) -> np.ndarray:
    """Middles of the pixels of a side from that of the side, in subpixels."""
    return np.arange(side, dtype=np.int32) * SUBPIXELS + SUBPIXELS // 2 - side * SUBPIXELS // 2


def _fields_of_font(path: Path) -> np.ndarray:
    """int16[10, CELLS, CELLS]; see `depth_fields`."""
    try:
        font = FT2Font(str(path))
        missing = [digit for digit in DIGITS if not font.get_char_index(ord(digit))]
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"{path} must be a font, but reading it fails ({error}); install matplotlib again"
        ) from error
    if missing:
        raise DataError(
            f"{path} must have all digits, but {', '.join(missing)} is missing; "
            "install matplotlib again"
        )
    outlines = [_outline(font, digit) for digit in DIGITS]
    tops, bottoms = ([f(edges[:, [1, 3]]) for edges in outlines] for f in (np.max, np.min))
    height = int(max(tops) - min(bottoms)) // FINE
    middle = int(max(tops) + min(bottoms)) // FINE  # twice
    return np.stack([_field(_inside(edges, height, middle)) for edges in outlines])


def _outline(font: FT2Font, digit: str) -> np.ndarray:
    """Straight edges around a digit, x0 y0 x1 y1 in ``1 / FINE`` of the font's units: int64[E, 4].

    A curve, of the second order, becomes `ARC` edges whose ends lie on it.
    """
    font.load_char(ord(digit), flags=LoadFlags.NO_SCALE)  # the file's own numbers, in 1/64
    vertices, codes = font.get_path()
    points = iter((vertices * (64 * FINE)).astype(np.int64))
    contours: list[list[np.ndarray]] = []
    steps = iter(codes)
    for code, point in zip(steps, points, strict=True):
        if code == Outline.MOVETO:
            contours.append([point])
        elif code == Outline.LINETO:
            contours[-1].append(point)
        elif code == Outline.CURVE3:  # of its start, this bend and the end that comes next
            start, end, _ = contours[-1][-1], next(points), next(steps)
            contours[-1] += [
                ((ARC - i) ** 2 * start + 2 * i * (ARC - i) * point + i**2 * end) // ARC**2
                for i in range(1, ARC + 1)
            ]
    ends = [np.array(contour) for contour in contours]
    return np.concatenate([np.hstack([e, np.roll(e, -1, axis=0)]) for e in ends])


def _inside(edges: np.ndarray, height: int, middle: int) -> np.ndarray:
    """Whether the middle of each cell lies inside the outline: bool[CELLS, CELLS], top row first.

    A cell is inside where the edges to its left go up and down unequally often (the non-zero
    winding rule). `height`, of the font's digits, and twice their `middle` are in its units.
    """
    cells = (2 * np.arange(CELLS) + 1 - CELLS) * height * (FINE // 2 // DIGIT_CELLS)
    columns = cells + (edges[:, [0, 2]].min() + edges[:, [0, 2]].max()) // 2
    rows = (middle * (FINE // 2) - cells)[:, None]
    x0, y0, x1, y1 = edges[edges[:, 1] != edges[:, 3]].T
    up, down = (y0 <= rows) & (rows < y1), (y1 <= rows) & (rows < y0)  # (rows, edges)
    crossing = x0 + (rows - y0) * (x1 - x0) // (y1 - y0)  # rounded down
    first = np.searchsorted(columns, crossing, side="right")  # column to its right
    winding = np.zeros((CELLS, CELLS + 1), np.int64)
    row = np.broadcast_to(np.arange(CELLS)[:, None], up.shape)
    for crossed, turn in ((up, 1), (down, -1)):
        np.add.at(winding, (row[crossed], first[crossed]), turn)
    return winding.cumsum(axis=1)[:, :CELLS] != 0


def _field(inside: np.ndarray) -> np.ndarray:
    """Distance of each cell to the outline, positive inside: int16, ``1 / DEPTH`` of a cell."""
    depth = distance_transform_edt(inside) - distance_transform_edt(~inside)  # to other cells
    half = np.where(inside, DEPTH // 2, -(DEPTH // 2))  # the outline is half a cell nearer
    return (np.floor(depth * DEPTH + 0.5) - half).astype(np.int16)


@final
@dataclass(frozen=True)
class Fonts(Layout):
    """The font files; to read them is to draw the set."""

    image: Shape
    wanted = FONTS

    def find(self, folder):
        files = tuple(folder / name for name in FONTS)
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise DataError(
                f"{folder} must hold {len(FONTS)} fonts of matplotlib, but {len(missing)}, the "
                f"first {missing[0]}, are missing; install matplotlib again"
            )
        return Found("drawn from fonts", folder, files)

    def images(self, found):
        return TRAIN_IMAGES + TEST_IMAGES

    def read(self, found, on_progress):
        if on_progress:
            on_progress("draw digits", 0, 1)
        fields = depth_fields(found.path)
        splits = [
            draw(count, self.image, seed, fields)
            for seed, count in enumerate((TRAIN_IMAGES, TEST_IMAGES))
        ]
        if on_progress:
            on_progress("draw digits", 1, 1)
        return Arrays(*splits[0], *splits[1])


def _spec(name: str, image: Shape) -> DatasetSpec:
    return DatasetSpec(name, image, DIGITS, (Fonts(image),), home=FOLDER)


SYNTH_DIGITS = _spec("synth_digits", Shape(28, 28, 1))
SYNTH_DIGITS_COLOUR = _spec("synth_digits_colour", Shape(32, 32, 3))
