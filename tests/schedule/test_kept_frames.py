"""Frames that are kept for later steps: every byte by hand, and the room they take."""

from dataclasses import replace

import pytest

from accsim.clock import StepClock
from accsim.dataflow.output_stationary import OutputStationary
from accsim.numerics import Numerics
from accsim.passes import Kept, Passes
from accsim.schedule.fused_update import FusedUpdate
from accsim.schedule.layerwise_ema import LayerwiseEma
from accsim.schedule.overlapped_ema import OverlappedEma
from accsim.schedule.separate_ema import SeparateEma

STORE = 49 * 2  # bytes of all parameters
SCHEDULES = [SeparateEma(), FusedUpdate(), LayerwiseEma(), OverlappedEma()]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_step_that_ranks_labels_and_copies_what_is_kept(schedule, lower, machine, travelled):
    """Of 6 frames 4 are kept, by 5 classes in all; a map of 16, 32, 8 and 3 bytes.

    A heap of 100 has 7 levels: a score reads 2 of each but the first, and writes 1, of 8 bytes.
    """
    step = Passes(6, 0, 0, ema=False, kept=Kept(100, False, frames=4, scores=5))
    assert travelled(lower(schedule, machine, step)) == {
        ("teacher_forward", "images"): (6 * 16, 0),
        ("teacher_forward", "teacher"): (STORE, 0),
        ("teacher_forward", "activations"): (6 * (32 + 8), 6 * (32 + 8 + 3)),
        ("loss", "activations"): (6 * 3, 0),
        ("keep", "images"): (4 * 16, 0),
        ("keep", "kept_frames"): (0, 4 * 16),
        ("keep", "kept_scores"): (5 * 12 * 8, 5 * 7 * 8),
    }
    soft = travelled(lower(schedule, machine, replace(step, kept=replace(step.kept, soft=True))))
    assert soft["keep", "activations"] == (4 * 3, 0)
    assert soft["keep", "kept_labels"] == (0, 4 * 3)


def test_what_is_rejected_costs_no_more_than_its_label(lower, machine, travelled):
    labels = Passes(6, 0, 0, ema=False)
    none_kept = replace(labels, kept=Kept(100))
    found = [travelled(lower(SeparateEma(), machine, step)) for step in (labels, none_kept)]
    assert found[0] == found[1]


@pytest.mark.parametrize(("k", "read", "written"), [(1, 0, 2), (2, 4, 4), (3, 4, 4), (4, 8, 6)])
def test_a_score_sinks_through_a_full_heap(k, read, written, lower, machine, travelled):
    """2 scores: heaps of 1, 2, 3 and 4 have 1, 2, 2 and 3 levels."""
    step = Passes(6, 0, 0, ema=False, kept=Kept(k, False, frames=2, scores=2))
    counts = travelled(lower(SeparateEma(), machine, step))
    assert counts["keep", "kept_scores"] == (8 * read, 8 * written)


def test_heaps_that_are_small_are_read_and_written_once(lower, machine, travelled):
    step = Passes(6, 0, 0, ema=False, kept=Kept(4, False, frames=6, scores=18))
    counts = travelled(lower(SeparateEma(), machine, step))
    assert counts["keep", "kept_scores"] == (3 * 4 * 8, 3 * 4 * 8)


def test_a_student_reads_frames_and_their_labels(lower, machine, travelled):
    """4 frames of 16 bytes; a byte each tells the class, soft labels are 3 bytes more."""
    for soft in (False, True):
        step = Passes(0, 4, 4, ema=False, queued=-4 * soft, kept=Kept(100, soft))
        counts = travelled(lower(SeparateEma(), machine, step))
        assert counts["student_forward", "images"] == (4 * 16, 0)
        assert counts["loss", "labels"] == (4, 0)
        assert counts["loss", "activations"] == (4 * 3 * (1 + soft), 0)
        assert not any(name == "keep" for name, _ in counts)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("step", [Passes(6, 0, 0, ema=False), Passes(0, 4, 4, ema=False)])
def test_their_room_is_taken_while_they_wait(step, soft, network, machine):
    """3 classes of 1,000 frames of 16 bytes, with scores of 8 and 3 labels, in pages of 4 KiB."""
    clock = StepClock(network, Numerics(), SeparateEma(), machine, OutputStationary())
    held = []
    for kept in (None, Kept(1000, soft)):
        table = clock.kind(replace(step, kept=kept), 1).timeline.memory()
        held.append(int(table.set_index("memory").loc["ddr", "peak_bytes"]))
    pages = [-(-3000 * size // 4096) for size in (8, 16, 3)[: 2 + soft]]
    assert held[1] - held[0] == 4096 * sum(pages)


def test_frames_that_do_not_fit_the_memory_are_refused(lower, machine):
    step = Passes(6, 0, 0, ema=False, kept=Kept(1 << 30))
    with pytest.raises(ValueError, match="tensors of a step must fit"):
        lower(SeparateEma(), machine, step)


def test_books_close_over_a_step_that_keeps(network, machine):
    clock = StepClock(network, Numerics(), LayerwiseEma(), machine, OutputStationary())
    clock.charge(Passes(6, 0, 0, ema=False, kept=Kept(100, True, frames=4, scores=5)), 1)
    totals = clock.totals()
    keep = totals.passes[totals.passes["pass"] == "keep"].iloc[0]
    assert keep["ddr_read_bytes"] == 4 * (16 + 3) + 5 * 12 * 8
    assert keep["ddr_write_bytes"] == 4 * (16 + 3) + 5 * 7 * 8
    assert keep["unit"] == "vector_unit"
    rows = totals.tensors[totals.tensors["pass"] == "keep"].set_index("tensor")
    assert rows.loc["kept/frames", "write_bytes"] == 4 * 16
