"""Averages of weights against exact fractions, and what they cost."""

from fractions import Fraction

import numpy as np
import pytest

from accsim.data.stream import SemiSupervisedStream
from accsim.numerics import Numerics, Rounding
from accsim.passes import Passes
from accsim.schedule import DeferredWriteback
from accsim.training.supervised import Supervised
from accsim.training.weight_average import Equal, Exponential, WeightAverage

STREAM = SemiSupervisedStream(
    labels=60, labelled_per_batch=16, unlabelled_per_batch=0, translate=1, flip=False
)
NEAREST = Numerics(teacher_rounding=Rounding.HALF_UP, teacher_bits=20)


def students_and_average(rule, steps, network, dataset, follow, clock):
    """Weights of the student after every step, and the learner in the end."""
    learner = rule.start(network, NEAREST, follow, steps, seed=4)
    students, outcomes = [], []
    for batch in STREAM.batches(dataset, clock, steps, seed=4):
        outcomes.append(learner.step(batch))
        students.append(learner.student.parameters["conv2.weight"].values.astype(np.int64))
    return students, outcomes, learner


def test_an_equal_average_is_the_mean_of_its_students(network, dataset, follow, clock):
    """Of steps 6, 9 and 12 of 12; moved 1, 1/2 and 1/3 of the way in words of 4 more bits."""
    rule = WeightAverage(averaging=Equal(first_share=0.25, every=3))
    students, outcomes, learner = students_and_average(rule, 12, network, dataset, follow, clock)
    mean = (students[5] + students[8] + students[11]) * 16 / 3
    average = learner.average.stored["conv2.weight"].values
    # two roundings of half a word, and the share 1/3 in 15 bits of up to 2**20
    assert np.abs(average - mean).max() <= 1 + 2**20 / 2**16
    assert np.abs(16 * students[11] - mean).max() > 100 * (1 + 2**20 / 2**16)
    moved = [outcome.passes == Passes(0, 16, 16, ema=True) for outcome in outcomes]
    assert moved == [step in (6, 9, 12) for step in range(1, 13)]
    assert [outcome.teacher_changed > 0 for outcome in outcomes] == moved


def test_an_exponential_average_forgets_its_start(network, dataset, follow, clock):
    """Shares of 1/2, 1/4, 1/4, 1/8 ... of the way, in exact fractions of one weight."""
    rule = WeightAverage(averaging=Exponential(3))
    students, _, learner = students_and_average(rule, 9, network, dataset, follow, clock)
    start = rule.start(network, NEAREST, follow, 9, seed=4).average.stored["conv2.weight"].values
    exact = Fraction(int(start.flat[0]))
    for step, student in enumerate(students, 1):
        shift = 1 if step == 1 else 2 if step <= 3 else 3
        exact += (16 * int(student.flat[0]) - exact) / 2**shift
    average = learner.average.stored["conv2.weight"].values.flat[0]
    assert abs(average - exact) <= 4  # roundings of half a word that fade by 7/8


def test_the_student_is_that_of_plain_supervised_training(network, dataset, follow, clock):
    students, _, _ = students_and_average(WeightAverage(), 4, network, dataset, follow, clock)
    plain = Supervised().start(network, NEAREST, follow, 4, seed=4)
    for batch, student in zip(STREAM.batches(dataset, clock, 4, seed=4), students, strict=True):
        plain.step(batch)
        assert np.array_equal(plain.student.parameters["conv2.weight"].values, student)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Exponential(0), "shift must be 1 to 15, not 0"),
        (lambda: Equal(first_share=1.0), r"first_share must be at least 0 and less than 1, not 1"),
        (lambda: Equal(every=0), "every must be a whole number of at least 1, not 0"),
        (lambda: WeightAverage(averaging=7), r"averaging must be an Averaging such as Equal\(\)"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_schedule_must_store_the_average_in_every_step(network):
    with pytest.raises(ValueError, match="schedule of a WeightAverage must store the average"):
        WeightAverage().start(network, Numerics(), DeferredWriteback(2).turn, 9, seed=4)
