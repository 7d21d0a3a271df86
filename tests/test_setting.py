"""Fields of a workload replaced by name: what is found, what a field may be, and what is told."""

from dataclasses import replace
from pathlib import Path

import pytest

from accsim.data.augmentation import Strong
from accsim.numerics import Rounding
from accsim.setting import with_settings
from accsim.workload import WorkloadError, read_workload


@pytest.fixture
def workload(write_workload):
    return read_workload(write_workload())


def test_fields_are_replaced_in_turn(workload):
    changed = with_settings(
        workload,
        ["data.labels=10", "steps = 9", "optimizer.learning_rate=1", "data.labels=12"],
    )
    assert (changed.data.labels, changed.steps) == (12, 9)
    assert repr(changed.algorithm.optimizer.learning_rate) == "1.0"  # as its annotation has it
    assert workload.data.labels == 20


def test_names_need_no_quotes_and_enumerations_go_by_theirs(workload):
    changed = with_settings(workload, ["data.dataset=mnist", "teacher_rounding=NEAREST_EVEN"])
    assert changed.data.dataset == "mnist"
    assert changed.numerics.teacher_rounding is Rounding.NEAREST_EVEN
    assert with_settings(workload, ["start=network.npz"]).start == Path("network.npz")
    assert with_settings(workload, ["data.dataset='0'"]).data.dataset == "0"


def test_what_may_be_left_out_is_none(workload):
    strong = replace(workload, data=replace(workload.data, student_augmentation=Strong()))
    assert with_settings(strong, ["data.student_augmentation=None"]) == workload
    assert with_settings(strong, ["student_augmentation.cutout=3"]).data.student_augmentation == (
        Strong(cutout=3)
    )


def test_a_field_of_the_workload_goes_before_one_further_down(write_workload):
    factory = (
        "Pretraining(Supervised(), SemiSupervisedStream(dataset=Path(PICTURES), "
        "unlabelled_per_batch=0, labelled_per_batch=8, labels=20), steps=2)"
    )
    path = write_workload(start=factory)
    path.write_text("from accsim.workload import Pretraining\n" + path.read_text())
    changed = with_settings(read_workload(path), ["steps=5", "start.steps=7"])
    assert (changed.steps, changed.start.steps) == (5, 7)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("labels", "--set must be a name and its value, such as data.labels=4000, not 'labels'"),
        ("label=3", "--set must name a field of the workload, such as data.labels, "),
        ("seed=3", "--set must name a field of the workload, such as "),
        ("name=a", "--set must name one of accelerator.board.name, accelerator.name, not 'name'"),
        ("labels=0", "--set labels=0: labels must be at least 1, not 0"),
        ("labels=1.5", "--set labels=1.5: labels must be a whole number, not 1.5"),
        ("labels=many", "--set labels=many: labels must be a whole number, not 'many'"),
        ("labels=True", "--set labels=True: labels must be a whole number, not True"),
        ("flip=1", "--set flip=1: flip must be True or False, not 1"),
        ("momentum=None", "--set momentum=None: momentum must be a number, not None"),
        ("momentum=2", "--set momentum=2: momentum must be at least 0 and less than 1, not 2.0"),
        (
            "teacher_rounding=UP",
            "--set teacher_rounding=UP: teacher_rounding must be STOCHASTIC, HALF_UP, TRUNCATE, ",
        ),
        ("mixup=3", "--set mixup=3: mixup must be a Mixup or None, not 3"),
    ],
)
def test_what_cannot_be_is_one_sentence(workload, text, sentence):
    with pytest.raises(WorkloadError) as told:
        with_settings(workload, [text])
    assert str(told.value).startswith(sentence)
