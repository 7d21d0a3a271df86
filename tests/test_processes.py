"""Runs in several processes: the same reports, and nothing left when they are interrupted."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numba
import pytest

from accsim.ablation import ablate, choice
from accsim.data import load_folder
from accsim.processes import run_in_processes
from accsim.run import Status
from accsim.series import places_of, run_missing, runs_of
from accsim.workload import WorkloadError, read_workload

OWN_RULE = """
from dataclasses import dataclass, replace
from accsim.training.base import Sgd
@dataclass(frozen=True)
class Mine(Sgd):
    "A class that other processes cannot find: this file is no module."
workload = replace(workload, algorithm=replace(workload.algorithm, optimizer=Mine()))
"""


@pytest.fixture
def dataset(pictures):
    return load_folder(pictures, 16)


def test_two_processes_write_the_report_of_one(write_workload, dataset, tmp_path):
    workload = read_workload(write_workload(steps="3"))
    over = [choice(workload, "confidence_threshold", (0.0, 1.0))]
    one, two, steps = tmp_path / "one" / "report", tmp_path / "two" / "report", []
    ablate(workload, over, 2, one, dataset)
    ablate(workload, over, 2, two, dataset, steps.append, jobs=2)
    assert {file.name: file.read_bytes() for file in one.iterdir()} == {
        file.name: file.read_bytes() for file in two.iterdir()
    }
    assert all(isinstance(status, Status) for status in steps)
    assert sorted(status.step for status in steps) == [1] * 4 + [2] * 4 + [3] * 4
    assert not runs_of(two).exists()


def test_a_mistake_in_a_process_is_told_as_in_one(write_workload, dataset, tmp_path):
    workload = read_workload(write_workload())
    wrong = replace(dataset, classes=("rows", "columns", "dots"))
    rivals = [replace(workload, seed=seed) for seed in range(2)]
    places = places_of(rivals, tmp_path / "runs", wrong)
    with pytest.raises(WorkloadError, match="classes of network"):
        run_missing(places, wrong, jobs=2)
    assert not (tmp_path / "runs").exists()


def test_choices_that_no_other_process_can_have_are_told(write_workload, dataset, tmp_path):
    path = write_workload()
    path.write_text(path.read_text() + OWN_RULE)
    workload = read_workload(path)
    rivals = [replace(workload, seed=seed) for seed in range(2)]
    with pytest.raises(WorkloadError, match="--jobs needs choices that pickle can hand to other"):
        run_missing(places_of(rivals, tmp_path / "runs", dataset), dataset, jobs=2)


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """A module of tasks, which other processes find too."""
    (tmp_path / "tasks.py").write_text(
        "import os, signal, numba\n"
        "def threads(dataset, say):\n"
        "    say((dataset, numba.get_num_threads(), os.environ['OMP_NUM_THREADS']))\n"
        "def killed(dataset, say):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return import_module("tasks")


def test_every_process_has_its_share_of_the_threads(tasks, monkeypatch):
    monkeypatch.setenv("NUMBA_NUM_THREADS", "4")  # of new processes; this one has begun
    monkeypatch.setattr(numba, "get_num_threads", lambda: 4)
    heard = []
    run_in_processes([tasks.threads] * 3, "the data", heard.append, jobs=2)
    assert heard == [("the data", 2, "2")] * 3


def test_a_process_that_was_killed_is_told(tasks):
    with pytest.raises(WorkloadError, match="a process of --jobs was killed"):
        run_in_processes([tasks.killed] * 2, None, print, jobs=2)


@pytest.fixture
def begun(write_workload, tmp_path):
    """A command of two long runs in two processes, as a shell starts it: both have begun."""
    out = tmp_path / "report"
    path = write_workload(steps="100000", evaluate_every="1")
    command = [sys.executable, "-m", "accsim", "ablate", str(path), "--jobs", "2", "--quiet"]
    choices = ["--over", "confidence_threshold=0,1", "--out", str(out)]
    with subprocess.Popen(
        [*command, *choices],
        cwd=Path(__file__).parents[1],
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    ) as process:
        try:
            wait_for(lambda: len(list(runs_of(out).glob("*.checkpoint"))) == 2)
            yield process
        finally:
            if process_group(process.pid):
                os.killpg(process.pid, signal.SIGKILL)


def wait_for(condition, seconds=240):
    for _ in range(10 * seconds):
        if condition():
            return
        time.sleep(0.1)
    raise TimeoutError


def process_group(leader):
    """The processes that a command left, of Linux's /proc."""
    stats = [path.read_text() for path in Path("/proc").glob("[0-9]*/stat") if path.exists()]
    fields = [stat.rpartition(")")[2].split() for stat in stats]
    return [state for state, _, group, *_ in fields if int(group) == leader and state != "Z"]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads Linux's /proc")
def test_an_interrupt_ends_every_process_without_a_traceback(begun):
    """As a terminal does it: every process of the command gets the signal."""
    os.killpg(begun.pid, signal.SIGINT)
    _, complaints = begun.communicate(timeout=60)
    assert begun.returncode == 1
    assert complaints.strip() == "Aborted!"
    wait_for(lambda: not process_group(begun.pid), 10)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads Linux's /proc")
def test_processes_end_with_the_one_that_began_them(begun):
    begun.kill()
    wait_for(lambda: not process_group(begun.pid), 30)
