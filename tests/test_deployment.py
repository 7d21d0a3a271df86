"""A trained network is written, read again and started from, to the last bit."""

from dataclasses import replace

import numpy as np
import pytest

from accsim.data import load_folder
from accsim.data.corruption import Fog
from accsim.data.disturbance import Disturbance, During
from accsim.data.foreign import OtherDomain, OutOfDistribution
from accsim.numerics import Numerics
from accsim.passes import Blend, Turn
from accsim.run import open_dataset, run, simulate
from accsim.schedule import SeparateEma
from accsim.training.base import Sgd
from accsim.training.deployed import Deployed
from accsim.training.mean_teacher import MeanTeacher
from accsim.training.parameters import Stored
from accsim.training.supervised import Supervised
from accsim.workload import Pretraining, WorkloadError, read_workload


@pytest.fixture
def dataset(pictures):
    return load_folder(pictures, 16)


@pytest.fixture
def workload(write_workload):
    return read_workload(write_workload())


def same_words(a, b):
    return a.keys() == b.keys() and all(
        np.array_equal(a[name].values, b[name].values) and a[name].frac_bits == b[name].frac_bits
        for name in a
    )


def test_the_file_holds_the_teacher_as_it_was_evaluated(workload, dataset, tmp_path):
    result = run(workload, tmp_path / "first", dataset)
    file = tmp_path / "first" / "network.npz"
    read = Deployed.read(file, workload.network, workload.numerics)
    assert same_words(read.parameters, result.network.parameters)
    assert read.exponents == result.network.exponents
    again = simulate(replace(workload, start=file, steps=1), dataset)
    assert again.summary["accuracy"]["deployed"] == result.summary["accuracy"]["teacher"]
    assert result.summary["stream"] is None


def test_training_starts_where_the_deployed_network_is(workload, dataset, tmp_path):
    """At a learning rate of 0 nothing moves: neither student nor teacher forgets its start."""
    still = replace(
        workload,
        algorithm=MeanTeacher(optimizer=Sgd(learning_rate=0.0)),
        start=Pretraining(Supervised(), workload.data, steps=3),
    )
    first = replace(workload, algorithm=Supervised(), schedule=SeparateEma(), steps=3)
    deployed = simulate(first, dataset).network
    result = simulate(still, dataset)
    assert same_words(result.network.parameters, deployed.parameters)
    stream = result.summary["stream"]
    assert set(stream) == {"deployed", "student", "teacher"}
    frames = result.tables.steps["unlabelled_samples"].sum()
    assert {found["frames"] for found in stream.values()} == {frames}
    moved = simulate(replace(still, algorithm=workload.algorithm), dataset)
    assert not same_words(moved.network.parameters, deployed.parameters)


def test_pretraining_is_not_charged_and_the_same_as_from_its_file(workload, dataset, tmp_path):
    factory = replace(workload, algorithm=Supervised(), schedule=SeparateEma(), steps=5)
    run(factory, tmp_path / "factory", dataset)
    read = simulate(replace(workload, start=tmp_path / "factory" / "network.npz"), dataset)
    start = Pretraining(Supervised(), workload.data, steps=5)
    trained = simulate(replace(workload, start=start), dataset)
    assert read.summary.pop("workload") != trained.summary.pop("workload")
    assert read.summary == trained.summary


@pytest.mark.parametrize("teacher_bits", [14, 16, 20])
def test_a_master_that_starts_at_a_teacher_is_its_own_start(teacher_bits):
    """By hand: of 14 bits the lowest two are gone, more bits are rounded away again."""
    words = np.array([-5, 0, 7, 32767], np.int16)
    teacher = Stored(words, 12, 32767).teacher(teacher_bits - 16, teacher_bits)
    master = teacher.master(teacher_bits - 16, 16)
    expected = [-8, 0, 4, 32764] if teacher_bits == 14 else [-5, 0, 7, 32767]
    assert master.values.tolist() == expected
    assert (master.frac_bits, master.values.dtype, master.largest) == (12, np.int16, expected[-1])


def test_a_finer_teacher_is_rounded_half_up():
    teacher = Stored(np.array([23, 24, -24, -25], np.int32), 16, 25)
    assert teacher.master(4, 16).values.tolist() == [1, 2, -1, -2]


def test_a_file_of_something_else_is_refused(workload, dataset, tmp_path):
    out = tmp_path / "first"
    run(workload, out, dataset)
    file = out / "network.npz"

    def sentence(**choices):
        with pytest.raises(WorkloadError) as told:
            simulate(replace(workload, start=file, **choices), dataset)
        return str(told.value)

    other = replace(workload.network, name="same", layers=workload.network.layers[1:])
    assert "of the same network as the workload" in sentence(network=other)
    assert "same teacher_bits" in sentence(numerics=Numerics(teacher_bits=20))
    whole = file.read_bytes()
    for damaged in (whole[:-400], b"", b"words"):
        file.write_bytes(damaged)
        assert "is damaged or another file" in sentence()
    np.savez(file, words=np.zeros(3))
    assert "is damaged or another file" in sentence()


def test_a_pretraining_on_other_data_is_refused(workload):
    data = replace(workload.data, dataset="cifar10")
    with pytest.raises(ValueError, match="dataset of the pretraining's stream must be"):
        replace(workload, start=Pretraining(Supervised(), data, 3))
    with pytest.raises(ValueError, match="start must be the Path of"):
        replace(workload, start="network.npz")
    with pytest.raises(ValueError, match="steps of a pretraining must be"):
        Pretraining(Supervised(), workload.data, 0)


def test_the_average_moves_by_its_shift_from_the_first_step_on(workload, dataset):
    """A deployed teacher has nothing to forget; a random one is the student after one step."""

    def share(deployed):
        rule = MeanTeacher(teacher_shift=4)
        follow = lambda step: Turn(Blend(1, True))  # noqa: E731
        learner = rule.start(workload.network, workload.numerics, follow, 5, 3, deployed)
        shifts = []
        learner.average.move = lambda numerator, shift, *rest: shifts.append((numerator, shift))
        learner.follow(Blend(1, True))
        return shifts

    network = simulate(replace(workload, steps=1), dataset).network
    assert share(None) == [(1, 1)]
    assert share(network) == [(1, 4)]


def test_truth_is_what_a_frame_shows_after_what_happened_to_it(workload, pictures):
    """Of 24 frames 8 are foggy, 8 another set's and 8 show nothing known."""
    happens = [Fog(3), OtherDomain(pictures), OutOfDistribution(pictures)]
    data = replace(
        workload.data,
        disturbances=tuple(
            Disturbance(what, During(first=8 * number, frames=8))
            for number, what in enumerate(happens)
        ),
        frames_per_second=10,
    )
    workload = replace(workload, data=data)
    dataset = open_dataset(workload, None)
    clean = replace(data, disturbances=())

    class Clock:
        now_ps = 0

        def wait_until(self, ps):
            self.now_ps = max(self.now_ps, ps)

    foggy, other, nothing = data.batches(dataset, Clock(), 3, seed=1)
    untouched = next(clean.batches(dataset, Clock(), 3, seed=1))
    assert np.array_equal(foggy.truth, untouched.truth)
    assert set(nothing.truth.tolist()) == {-1}
    everyone = replace(clean, unlabelled_per_batch=120, buffer_frames=120)
    batch = next(everyone.batches(dataset, Clock(), 1, seed=1))
    labels = {
        image.tobytes(): label for image, label in zip(batch.frames, batch.truth, strict=True)
    }
    assert [labels[image.tobytes()] for image in other.frames] == other.truth.tolist()
    assert len(set(other.truth.tolist())) == 2
