"""Whole runs that teach a deployed network something new: a part of it, or a new classifier."""

from dataclasses import replace

import numpy as np
import pytest

from accsim.data import load_folder
from accsim.kernels.fixed_point import random_key
from accsim.run import simulate
from accsim.training.base import Sgd
from accsim.training.mean_teacher import MeanTeacher
from accsim.training.parameters import initial, layer_of
from accsim.training.supervised import STUDENT, Supervised
from accsim.workload import Pretraining, read_workload


@pytest.fixture
def dataset(pictures):
    return load_folder(pictures, 16)


@pytest.fixture
def workload(write_workload):
    """Three steps of supervised training at the factory, then mean teacher."""
    workload = read_workload(write_workload())
    return replace(workload, start=Pretraining(Supervised(), workload.data, steps=3))


def deployed(workload, dataset):
    """The words that the factory leaves: at a rate of 0 nothing moves them."""
    still = MeanTeacher(optimizer=Sgd(learning_rate=0.0))
    return simulate(replace(workload, algorithm=still), dataset).network


def layers_that_differ(one, other):
    return {
        layer_of(name)
        for name, stored in one.parameters.items()
        if not np.array_equal(stored.values, other.parameters[name].values)
    }


def test_a_frozen_backbone_stays_as_it_was_deployed_and_its_saving_is_told(workload, dataset):
    *backbone, classifier = workload.network.trainable()
    rates = ((classifier, 1), ("*", 0))
    head = replace(workload, algorithm=MeanTeacher(optimizer=Sgd(rates=rates)))
    result = simulate(head, dataset)
    before = deployed(workload, dataset)
    assert layers_that_differ(before, result.network) == {classifier}
    told = result.summary["frozen"]
    assert (told["layers"], told["layers_with_parameters"]) == (len(backbone), len(backbone) + 1)
    whole = simulate(replace(workload, algorithm=MeanTeacher()), dataset)
    assert "frozen" not in whole.summary
    assert layers_that_differ(before, whole.network) == {*backbone, classifier}
    passes = result.tables.passes
    backward = passes[passes["pass"].isin(["backward_data", "backward_weight", "update"])]
    assert set(backward["layer"]) == {classifier}
    assert 0 < told["saved_macs"] < 1
    assert 0 < told["saved_ddr_bytes"] < 1


def test_the_saving_is_the_whole_step_less_that_of_the_frozen_network(workload, dataset):
    """Steps of one kind, so that a run's totals are so many times what one step takes."""
    rates = ((workload.network.trainable()[-1], 1), ("*", 0))
    every = MeanTeacher(confidence_threshold=0.0, ramp_share=0.0)
    head = replace(every, optimizer=Sgd(rates=rates))
    some, whole = (
        simulate(replace(workload, algorithm=rule), dataset).summary for rule in (head, every)
    )
    macs = [one["cost"]["macs"] for one in (some, whole)]
    assert some["frozen"]["saved_macs"] == pytest.approx(1 - macs[0] / macs[1])
    step = [one["commonest_step"]["cycles"] for one in (some, whole)]
    assert some["frozen"]["saved_cycles"] == pytest.approx(1 - step[0] / step[1])


def test_a_new_classifier_starts_at_random_on_the_deployed_network(workload, dataset):
    classifier = workload.network.trainable()[-1]
    new = deployed(replace(workload, fresh=(classifier,)), dataset)
    old = deployed(workload, dataset)
    assert layers_that_differ(old, new) == {classifier}
    random = initial(workload.network, workload.numerics, random_key(workload.seed, STUDENT))
    for name in (f"{classifier}.weight", f"{classifier}.bias"):
        np.testing.assert_array_equal(new.parameters[name].values, random[name].values)


def test_what_is_fresh_must_be_there_and_deployed(workload):
    with pytest.raises(ValueError, match=r"fresh must name layers .* but 'head' matches none of"):
        replace(workload, fresh=("head",))
    with pytest.raises(ValueError, match=r"fresh must be \(\) without a start, .* not \('\*',\)"):
        replace(workload, start=None, fresh=("*",))
