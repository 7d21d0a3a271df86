"""A run that was stopped and goes on ends with the bytes of one that was never stopped."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest
from pandas.testing import assert_frame_equal

from accsim.checkpoint import checkpoint_of
from accsim.data import load_folder
from accsim.hardware import boards
from accsim.numerics import Numerics, Rounding
from accsim.run import run, simulate
from accsim.schedule import (
    AlternateTeacher,
    DeferredWriteback,
    LayerwiseEma,
    SeparateEma,
    TeacherAhead,
)
from accsim.training.fixed_network import Statistics
from accsim.training.float_learner import InFloat
from accsim.training.mean_teacher import MeanTeacher
from accsim.training.self_taught import SelfTaught
from accsim.training.semi_supervised import SemiSupervisedLearner
from accsim.training.temporal_ensembling import TemporalEnsembling
from accsim.training.virtual_adversarial import VirtualAdversarial
from accsim.training.weight_average import Equal, WeightAverage
from accsim.workload import WorkloadError, read_workload


@pytest.fixture
def dataset(pictures):
    return load_folder(pictures, 16)


class Stopped(Exception):
    """As Ctrl-C, or whatever ends a run from outside."""


def stop_after(steps):
    def on_step(status):
        if status.step == steps:
            raise Stopped

    return on_step


def stopped(workload, out, dataset, steps):
    with pytest.raises(Stopped):
        run(workload, out, dataset, stop_after(steps))


RULES = {
    "mean teacher": {},
    "labels of two steps at once": {"schedule": AlternateTeacher(LayerwiseEma(), 2, queue=True)},
    "teacher ahead": {"schedule": TeacherAhead(SeparateEma())},
    "registers and residuals": {
        "schedule": DeferredWriteback(every=2),
        "numerics": Numerics(
            master_rounding=Rounding.STOCHASTIC_LFSR,
            teacher_rounding=Rounding.STOCHASTIC_LFSR,
            lfsr_lanes=boards.PYNQ_Z2.vector_unit.lanes,
            error_feedback=True,
        ),
    },
    "weight average": {"algorithm": WeightAverage(), "schedule": SeparateEma()},
    "mean teacher in float": {
        "algorithm": InFloat(
            MeanTeacher(teacher_shift=4, evaluation_statistics=Statistics.ADAPTED)
        ),
        "schedule": DeferredWriteback(every=2),
    },
    "weight average in float": {"algorithm": InFloat(WeightAverage(Equal(0.0, every=2)))},
    "self-taught in float": {"algorithm": InFloat(SelfTaught(confidence_threshold=0.0))},
    "predictions": {"algorithm": TemporalEnsembling(confidence_threshold=0.0), "steps": 20},
    "predictions in float": {
        "algorithm": InFloat(TemporalEnsembling(confidence_threshold=0.0)),
        "steps": 20,
    },
    "virtual adversarial": {"algorithm": VirtualAdversarial()},
    "virtual adversarial in float": {"algorithm": InFloat(VirtualAdversarial())},
}


@pytest.mark.parametrize("choices", RULES.values(), ids=RULES)
def test_a_stopped_run_goes_on_to_the_same_result(choices, write_workload, dataset, tmp_path):
    workload = replace(read_workload(write_workload(evaluate_every="3")), **choices)
    file = tmp_path / "some.checkpoint"
    whole = simulate(workload, dataset)
    with pytest.raises(Stopped):
        simulate(workload, dataset, stop_after(5), file)
    again = simulate(workload, dataset, checkpoint=file, resume=True)
    assert json.dumps(again.summary) == json.dumps(whole.summary)
    for field in fields(whole.tables):
        assert_frame_equal(getattr(again.tables, field.name), getattr(whole.tables, field.name))


def test_only_the_steps_after_the_checkpoint_are_calculated(
    write_workload, dataset, tmp_path, monkeypatch
):
    """Stopped again on its way, a run goes on from its latest evaluation, not from its first."""
    workload = read_workload(write_workload(evaluate_every="2"))
    whole, out = tmp_path / "whole", tmp_path / "report"
    run(workload, whole, dataset)
    calculated = []
    step = SemiSupervisedLearner.step
    monkeypatch.setattr(
        SemiSupervisedLearner,
        "step",
        lambda self, batch: calculated.append(self.done + 1) or step(self, batch),
    )
    stopped(workload, out, dataset, 3)
    for last in (5, 6):
        with pytest.raises(Stopped):
            run(workload, out, dataset, stop_after(last), resume=True)
    assert not out.exists()
    run(workload, out, dataset, resume=True)
    assert calculated == [1, 2, 3, 3, 4, 5, 5, 6]
    for name in ("result.json", "steps.csv", "counters.csv.gz", "energy.csv"):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    assert not checkpoint_of(out).exists()


def test_a_checkpoint_of_something_else_is_refused(write_workload, dataset, tmp_path, monkeypatch):
    workload, out = read_workload(write_workload(evaluate_every="2")), tmp_path / "report"

    def sentence(workload=workload, dataset=dataset):
        with pytest.raises(WorkloadError) as told:
            run(workload, out, dataset, resume=True)
        assert not out.exists()
        return str(told.value)

    assert "there is no such file" in sentence()
    stopped(workload, out, dataset, 3)
    assert "must be of the same steps and seed as" in sentence(replace(workload, steps=8, seed=1))
    assert "same algorithm" in sentence(
        replace(workload, algorithm=replace(workload.algorithm, teacher_shift=5))
    )
    darker = np.maximum(dataset.train_images, 1) - 1
    assert "same data" in sentence(dataset=replace(dataset, train_images=darker))
    with monkeypatch.context() as other:
        other.setattr("accsim.checkpoint.__version__", "0.0.9")
        assert "same version" in sentence()
    file = checkpoint_of(out)
    whole = file.read_bytes()
    for damaged in (whole[:-1], whole[:100], b"", b"\xff\n" + whole, b"[]\n"):
        file.write_bytes(damaged)
        assert "is damaged" in sentence()
    file.write_bytes(whole)
    run(workload, out, dataset, resume=True)


def test_a_learner_that_cannot_be_stored_is_told(write_workload, dataset, tmp_path, monkeypatch):
    def start_with_a_function(self, *arguments):
        start(self, *arguments)
        self.hook = lambda: None

    start = SemiSupervisedLearner.__init__
    monkeypatch.setattr(SemiSupervisedLearner, "__init__", start_with_a_function)
    with pytest.raises(WorkloadError, match="learner of MeanTeacher must have attributes"):
        run(read_workload(write_workload()), tmp_path / "report", dataset)
