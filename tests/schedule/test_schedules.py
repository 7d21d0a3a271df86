"""Words of weights that each schedule moves for one parameter: the hand counts 5, 4, 3 + 1/n."""

from fractions import Fraction

import pytest

from accsim.passes import Passes
from accsim.schedule.base import Blend
from accsim.schedule.deferred_writeback import DeferredWriteback
from accsim.schedule.layerwise_ema import LayerwiseEma
from accsim.schedule.separate_ema import SeparateEma

STEP = Passes(teacher_forward=2, student_forward=3, backward=2, ema=True)
WORDS = 18 + 4 + 27
WORD_BYTES = 2


def words_beside_the_forward(operations):
    """16-bit words of weights and teacher moved by update and average, for each parameter.

    The teacher forward pass reads the teacher once in every schedule: that read is not counted.
    """
    total = 0
    for operation in operations:
        if operation.pass_name in ("update", "ema", "teacher_forward"):
            for tensor, size in (*operation.reads, *operation.writes):
                if tensor.kind in ("weights", "teacher"):
                    total += size
    own_reads = WORDS * WORD_BYTES
    return Fraction(total - own_reads, WORDS * WORD_BYTES)


def average_words(lower, machine, schedule, steps):
    counts = [
        words_beside_the_forward(lower(schedule, machine, STEP, schedule.blend(step).store))
        for step in range(1, steps + 1)
    ]
    return sum(counts) / steps


def test_a_separate_pass_moves_five_words(lower, machine):
    assert average_words(lower, machine, SeparateEma(), 3) == 5


def test_layer_by_layer_moves_four_words(lower, machine):
    assert average_words(lower, machine, LayerwiseEma(), 3) == 4


@pytest.mark.parametrize("every", [1, 2, 5])
def test_deferred_write_back_moves_three_words_and_one_in_every_n_steps(lower, machine, every):
    words = average_words(lower, machine, DeferredWriteback(every), 2 * every)
    assert words == 3 + Fraction(1, every)


def test_a_blend_that_is_not_stored_is_formed_anew_with_every_load(lower, small_machine):
    # the cheapest order of this layer loads its weights once: both stores are read exactly once
    operations = lower(LayerwiseEma(), small_machine, STEP, False)
    (conv, *_) = operations
    assert sorted(size for tensor, size in conv.reads if tensor.kind != "images") == [36, 36]


def test_blends_repeat_with_the_write_back():
    assert [DeferredWriteback(3).blend(step) for step in (1, 2, 3, 4)] == [
        Blend(1, False),
        Blend(2, False),
        Blend(3, True),
        Blend(1, False),
    ]
    assert SeparateEma().blend(7) == LayerwiseEma().blend(7) == Blend(1, True)


@pytest.mark.parametrize("schedule", [SeparateEma(), LayerwiseEma(), DeferredWriteback(2)])
def test_steps_count_from_one(schedule):
    with pytest.raises(ValueError, match=r"step must be at least 1 .* not 0"):
        schedule.blend(0)


@pytest.mark.parametrize("every", [0, -1, 1.5])
def test_every_is_a_whole_number_from_one(every):
    with pytest.raises(ValueError, match="every must be a whole number of at least 1, not"):
        DeferredWriteback(every)


def test_without_a_teacher_forward_pass_the_average_runs_alone(lower, machine):
    passes = Passes(0, 3, 2, ema=True)
    for schedule, runs in ((LayerwiseEma(), True), (DeferredWriteback(2), True)):
        names = {o.pass_name for o in lower(schedule, machine, passes, store=True)}
        assert ("ema" in names) is runs
    names = {o.pass_name for o in lower(DeferredWriteback(2), machine, passes, store=False)}
    assert "ema" not in names


def test_an_explanation_is_one_line():
    for schedule in (SeparateEma(), LayerwiseEma(), DeferredWriteback(2)):
        assert schedule.explain()
        assert "\n" not in schedule.explain()
