import pytest

from accsim.dataflow.sweep import cut
from accsim.dataflow.tile import Piece
from accsim.dataflow.tiling import Window


def naive_rows(window, first, count, source_rows):
    """Source rows that any of the target rows touches, by trying every pair."""
    touched = set()
    for source in range(source_rows):
        for target in range(first, first + count):
            out, into = (source, target) if window.transposed else (target, source)
            if 0 <= into - out * window.stride + window.padding < window.kernel:
                touched.add(source)
    return touched


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("kernel", "padding"), [(1, 0), (3, 0), (3, 1), (5, 2)])
def test_a_band_reads_all_rows_that_it_touches_and_no_more(kernel, stride, padding, transposed):
    window = Window(kernel, stride, padding, transposed)
    height = 12
    down = (height + 2 * padding - kernel) // stride + 1
    target_rows, source_rows = (height, down) if transposed else (down, height)
    for first in range(target_rows):
        for count in range(1, target_rows - first + 1):
            low, high = window.rows(first, count, source_rows)
            needed = naive_rows(window, first, count, source_rows)
            if needed:
                assert (low, high) == (min(needed), max(needed) + 1)
            else:  # a transposed stride of 2 leaves rows that nothing reaches
                assert high - low <= 1


def pieces_cover(pieces, samples, rows):
    seen = [
        (sample, row)
        for piece in pieces
        for sample in range(piece.sample, piece.sample + piece.samples)
        for row in range(piece.row, piece.row + piece.rows)
    ]
    return seen == [(sample, row) for sample in range(samples) for row in range(rows)]


@pytest.mark.parametrize("most", [1, 2, 3, 7, 8, 20, 1000])
def test_pieces_cover_every_row_of_every_sample_once_in_order(most):
    pieces = cut(5, 8, lambda samples, rows: samples * rows <= most)
    assert pieces_cover(pieces, 5, 8)
    assert all(piece.samples * piece.rows <= most for piece in pieces)


def test_an_operation_is_cut_in_four_even_where_all_of_it_fits():
    assert [piece.samples for piece in cut(8, 4, lambda *_: True)] == [2, 2, 2, 2]


def test_nothing_fits_where_not_even_a_row_does():
    assert cut(2, 4, lambda *_: False) == ()


def test_the_bands_of_a_sample_span_it_without_gap():
    # 10 bytes over 3 rows: bands end at 3, 6, 10
    spans = [Piece(1, 1, row, 1, 3).span(10) for row in range(3)]
    assert spans == [(10, 13), (13, 16), (16, 20)]


def test_a_band_is_as_high_as_fits():
    assert [piece.rows for piece in cut(1, 8, lambda samples, rows: rows <= 3)] == [3, 3, 2]
