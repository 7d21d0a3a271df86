"""Silent errors of learning, each in a run that has it and nothing else wrong."""

from dataclasses import replace

import pytest

from accsim.report.answer import answer
from accsim.report.suspicion import suspicions


def with_steps(run, **columns):
    return replace(run.tables, steps=run.tables.steps.assign(**columns))


def with_labels(run, *accepted):
    return replace(run.tables, pseudo_labels=run.tables.pseudo_labels.assign(accepted=accepted))


def test_a_sound_run_is_not_suspect(run):
    assert suspicions(run.tables) == []
    assert "Suspect" not in dict(answer(run.result))


def test_frames_that_teach_nothing_are_told(run):
    (told,) = suspicions(with_steps(run, frame_error=0.0))
    assert told.startswith("168 unlabelled samples were accepted, but none gave the student an err")
    assert suspicions(with_steps(run, frame_error=0.0, accepted=0)) == []


def test_a_teacher_that_never_moves_is_told(run):
    (told,) = suspicions(with_steps(run, teacher_changed=0.0))
    assert told.startswith("no word of the teacher ever moved")
    none = with_steps(run, teacher_changed=0.0, teacher_accuracy=float("nan"))
    assert suspicions(none) == []


def test_predictions_of_frames_that_never_return_are_told(run):
    def kept(moved):
        counters = run.tables.counters.replace({"class": {"weights": "predictions"}})
        return replace(run.tables, counters=counters.assign(moved=moved))

    (told,) = suspicions(kept(0))
    assert told.startswith("no frame came a second time")
    assert suspicions(kept([0, 0, 0, 0, 3, 0])) == []


def test_a_gate_that_shuts_for_good_is_told(run):
    (told,) = suspicions(with_steps(run, backward_samples=[32, 0, 0, 0]))
    assert told.startswith("the last 3 of 4 batches were rejected whole")
    assert suspicions(with_steps(run, backward_samples=[0, 0, 32, 0])) == []


@pytest.mark.parametrize(
    ("accepted", "collapsed"),
    [
        ((18, 6, 0, 67, 17, 16), True),  # of 100: more than (1 + 1/3) / 2
        ((18, 6, 0, 66, 17, 17), False),
        ((29, 0, 0, 40, 40, 40), False),  # of less than 10 a class
        ((0, 1, 29, 40, 40, 40), True),
        ((0, 0, 0, 0, 0, 0), False),
    ],
)
def test_labels_collapse_when_one_class_takes_them(accepted, collapsed, run):
    told = suspicions(with_labels(run, *accepted))
    assert bool(told) is collapsed


def test_the_sentence_names_the_class_and_the_page_tells_it(run):
    found = suspicions(with_labels(run, 18, 6, 0, 90, 5, 5))
    sentence = (
        "the labels have collapsed: 90.0% of the 100 samples accepted up to step 4 were labelled "
        "zero"
    )
    assert found == [sentence]
    assert answer({**run.result, "suspicions": found})[-1] == ("Suspect", sentence)
