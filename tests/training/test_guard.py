"""A guard keeps what wrong labels would take away, and its checks are charged."""

from dataclasses import replace

import numpy as np
import pytest

from accsim.run import open_dataset, simulate
from accsim.schedule import AlternateTeacher, LayerwiseEma, SeparateEma, TeacherAhead
from accsim.training.base import Sgd
from accsim.training.fixed_network import Statistics
from accsim.training.float_learner import InFloat
from accsim.training.guard import Guarded
from accsim.training.mean_teacher import MeanTeacher
from accsim.training.supervised import Supervised
from accsim.workload import Pretraining, WorkloadError, read_workload


@pytest.fixture
def workload(write_workload):
    """A network that tells all pictures right, where nine of ten labels that it replays lie."""
    tiny = read_workload(write_workload())
    return replace(
        tiny,
        start=Pretraining(Supervised(), tiny.data, steps=60),
        algorithm=MeanTeacher(
            teacher_shift=2, ramp_share=0.0, optimizer=Sgd(learning_rate=0.1, last_share=1.0)
        ),
        data=replace(tiny.data, label_noise=0.9, held_out=20),
        steps=20,
        evaluate_every=5,
    )


@pytest.fixture
def dataset(workload):
    return open_dataset(workload, None)


def guarded(workload, **choices):
    return replace(workload, algorithm=Guarded(rule=workload.algorithm, **choices))


@pytest.mark.parametrize(
    "schedule",
    [LayerwiseEma(), AlternateTeacher(LayerwiseEma(), 2, queue=True), TeacherAhead(SeparateEma())],
    ids=["in step", "labels of two steps at once", "labels ahead"],
)
def test_a_guard_keeps_the_accuracy_that_wrong_labels_take(schedule, workload, dataset):
    """Labels that wait when the networks are put back are dropped with those that made them."""
    workload = replace(workload, schedule=schedule)
    fallen = simulate(workload, dataset)
    kept = simulate(guarded(workload, every=5, margin=0.05), dataset)
    assert fallen.summary["accuracy"]["deployed"] == 1.0
    assert fallen.summary["accuracy"]["teacher"] < 0.5
    evaluated = kept.tables.steps["teacher_accuracy"].dropna()
    assert len(evaluated) == 4
    assert (evaluated >= 0.9).all()
    guard = kept.summary["guard"]
    assert (guard["images"], guard["checks"], guard["least_right"]) == (20, 4, 19)
    assert guard["roll_backs"] >= 1
    assert guard["lowest_right"] < 19
    assert fallen.summary["guard"] is None


def test_a_guard_in_float_puts_the_same_network_back(workload, dataset):
    workload = replace(workload, schedule=SeparateEma(), evaluate_every=10)
    rule = Guarded(rule=workload.algorithm, every=10, margin=0.05)
    fallen, kept = (
        simulate(replace(workload, algorithm=InFloat(one)), dataset).summary
        for one in (workload.algorithm, rule)
    )
    assert fallen["accuracy"]["teacher"] < 0.5 < 0.95 < kept["accuracy"]["teacher"]
    guard = kept["guard"]
    assert (guard["images"], guard["roll_backs"], guard["least_right"]) == (20, 2, 19)
    with pytest.raises(WorkloadError, match="must be a deployed network"):
        simulate(replace(workload, algorithm=InFloat(rule), start=None), dataset)


def test_what_is_put_back_is_the_deployed_network(workload, dataset):
    factory = replace(
        workload,
        algorithm=Supervised(),
        schedule=SeparateEma(),
        start=None,
        data=replace(workload.data, label_noise=0.0),
        steps=60,
    )
    deployed = simulate(factory, dataset).network.parameters
    result = simulate(guarded(workload, every=20), dataset)
    assert result.summary["guard"]["roll_backs"] == 1
    for name, stored in result.network.parameters.items():
        assert np.array_equal(stored.values, deployed[name].values), name
    assert result.summary["accuracy"]["student"] == result.summary["accuracy"]["deployed"]


def test_a_guard_that_never_rolls_back_costs_its_forward_passes_alone(workload, dataset):
    free = simulate(workload, dataset)
    watched = simulate(guarded(workload, every=5, margin=1.0), dataset)
    assert watched.summary["guard"]["roll_backs"] == 0
    for name, stored in watched.network.parameters.items():
        assert np.array_equal(stored.values, free.network.parameters[name].values), name
    costs = watched.summary["cost"], free.summary["cost"]
    assert costs[0]["macs"] - costs[1]["macs"] == 4 * 20 * workload.network.macs
    steps = watched.tables.steps["step_cycles"] - free.tables.steps["step_cycles"]
    assert ((steps > 0) == (watched.tables.steps["step"] % 5 == 0)).all()


def test_a_guarded_run_that_was_stopped_goes_on(workload, dataset, tmp_path):
    workload, file = guarded(workload, every=4, margin=0.05), tmp_path / "some.checkpoint"

    def stop(status):
        if status.step == 12:
            raise KeyboardInterrupt

    whole = simulate(workload, dataset)
    with pytest.raises(KeyboardInterrupt):
        simulate(workload, dataset, stop, file)
    assert simulate(workload, dataset, checkpoint=file, resume=True).summary == whole.summary


def test_held_out_images_are_balanced_and_never_learned_from(workload, dataset):
    class Clock:
        now_ps = 0

        def wait_until(self, ps):
            self.now_ps = max(self.now_ps, ps)

    data = replace(workload.data, label_noise=0.0, translate=0, frames_per_second=10)
    batches = [*data.batches(dataset, Clock(), 10, seed=0)]
    held_out = {image.tobytes() for image in batches[0].held_out}
    assert np.bincount(batches[0].held_out_labels).tolist() == [10, 10]
    learned = {image.tobytes() for batch in batches for image in batch.labelled}
    assert len(learned) == data.labels
    assert not held_out & learned
    assert all(np.array_equal(batch.held_out, batches[0].held_out) for batch in batches)
    without = [*replace(data, held_out=0).batches(dataset, Clock(), 10, seed=0)]
    assert {image.tobytes() for batch in without for image in batch.labelled} == learned


def test_a_guard_without_what_it_needs_is_refused(workload, dataset):
    rule = guarded(workload)
    with pytest.raises(WorkloadError, match="must be a deployed network"):
        simulate(replace(rule, start=None), dataset)
    with pytest.raises(ValueError, match="held_out of the stream must be at least 1"):
        replace(rule, data=replace(workload.data, held_out=0))
    with pytest.raises(ValueError, match="must be left to its rule"):
        Guarded(evaluation_statistics=Statistics.ADAPTED)
    with pytest.raises(ValueError, match="margin must be 0 to 1"):
        Guarded(margin=1.5)
    with pytest.raises(ValueError, match="every must be a whole number"):
        Guarded(every=0)
    with pytest.raises(
        ValueError, match="rule must be a MeanTeacher, SelfTaught or VirtualAdversarial"
    ):
        Guarded(rule=Supervised())
