"""workloads/real_time.py keeps its word: what a schedule too slow for the camera drops, by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from accsim.clock import StepClock
from accsim.data.base import Dataset
from accsim.run import simulate
from accsim.schedule import LayerwiseEma, SeparateEma
from accsim.units import PS_PER_SECOND, ceil_div
from accsim.workload import largest_passes, read_workload

STEPS = 40


@pytest.fixture(scope="module")
def workload():
    path = Path(__file__).parents[1] / "workloads" / "real_time.py"
    return replace(read_workload(path), steps=STEPS, evaluate_every=STEPS)


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(3)
    images = rng.integers(0, 256, (1200, 28, 28, 1)).astype(np.uint8)
    labels = np.arange(1200) % 10
    names = tuple("0123456789")
    return Dataset("noise", "made", False, names, images, labels, images[:10], labels[:10])


@pytest.fixture(scope="module")
def runs(workload, dataset):
    return {
        schedule.name: simulate(replace(workload, schedule=schedule), dataset)
        for schedule in (SeparateEma(), LayerwiseEma())
    }


def step_ps(workload, schedule):
    choices = workload.network, workload.numerics, schedule, workload.accelerator, workload.dataflow
    return StepClock(*choices).charge(largest_passes(workload), 1).ps


def test_the_camera_is_between_the_throughputs_of_the_schedules(workload):
    slow, fast = (step_ps(workload, schedule) for schedule in (SeparateEma(), LayerwiseEma()))
    assert fast <= workload.data.deadline_ps < slow
    assert slow > 1.1 * fast


def test_the_faster_schedule_drops_nothing(workload, runs):
    summary, steps = runs["LayerwiseEma"].summary, runs["LayerwiseEma"].tables.steps
    assert summary["cost"]["frames_dropped"] == 0
    assert summary["real_time"]["deadlines_met"] == 1.0
    assert set(steps["frames_waiting"]) == {24}
    oldest = 23 / workload.data.frames_per_second + step_ps(workload, LayerwiseEma()) / 1e12
    assert summary["real_time"]["worst_latency_seconds"] == pytest.approx(oldest, abs=1e-9)


def test_the_slower_schedule_drops_what_its_ring_buffer_has_no_room_for(workload, runs):
    """It begins with the 24th frame, and never waits again: its steps are longer than a batch."""
    summary, steps = runs["SeparateEma"].summary, runs["SeparateEma"].tables.steps
    rate, room, step = workload.data.frames_per_second, 96, step_ps(workload, SeparateEma())
    begin = ceil_div(24 * PS_PER_SECOND, rate)
    dropped = 0
    for number in range(STEPS):
        arrived = (begin + number * step) * rate // PS_PER_SECOND
        dropped = max(dropped, arrived - room - 24 * number)
        assert steps["frames_dropped"][number] == dropped
        assert steps["frames_waiting"][number] == arrived - dropped - 24 * number
    assert dropped > 0
    assert summary["cost"]["frames_dropped"] == dropped
    assert summary["real_time"]["deadlines_met"] == 0
    assert summary["real_time"]["max_frames_waiting"] == room
    worst = summary["real_time"]["worst_latency_seconds"]
    assert 0 < worst - (room - 1) / rate - step / 1e12 < 1 / rate


def test_the_slower_schedule_has_learned_from_fewer_frames_at_equal_time(workload, runs):
    ends = {name: result.tables.steps["simulated_seconds"] for name, result in runs.items()}
    done = (ends["SeparateEma"] <= ends["LayerwiseEma"].iloc[-1]).sum()
    assert done < STEPS * workload.data.deadline_ps / step_ps(workload, SeparateEma()) + 1 < STEPS
