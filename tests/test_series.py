"""Runs that are kept: what was stopped goes on, and what is kept is taken for nothing else."""

import json
from dataclasses import replace

import numpy as np
import pytest

from accsim import series
from accsim.ablation import ablate, choice
from accsim.comparison import compare
from accsim.data import load_folder
from accsim.schedule import LayerwiseEma, SeparateEma
from accsim.series import places_of, run_missing, runs_of
from accsim.twin import twin
from accsim.workload import WorkloadError, read_workload


@pytest.fixture
def dataset(pictures):
    return load_folder(pictures, 16)


@pytest.fixture
def workload(write_workload):
    return read_workload(write_workload(steps="4", evaluate_every="2"))


@pytest.fixture
def ran(monkeypatch):
    """What is simulated: the seed of every run, and the step after which it began."""
    begun = []
    simulate = series.simulate

    def noted(workload, dataset, on_step, checkpoint, resume):
        begun.append((workload.seed, resume))
        return simulate(workload, dataset, on_step, checkpoint, resume)

    monkeypatch.setattr(series, "simulate", noted)
    return begun


def run_all(workloads, folder, dataset, resume=True, any_code=False):
    places = places_of(workloads, folder, dataset, any_code)
    run_missing(places, dataset, resume=resume)
    return [place.read() for place in places]


class Stopped(Exception):
    """As Ctrl-C, or whatever ends a run from outside."""


def stop_after(steps):
    left = iter(range(steps))

    def on_step(status):
        if next(left, None) is None:
            raise Stopped

    return on_step


def an_ablation(workload, out, dataset, **how):
    over = [choice(workload, "confidence_threshold", (0.0, 1.0))]
    return ablate(workload, over, 2, out, dataset, **how)


def a_comparison(workload, out, dataset, **how):
    return compare(workload, [LayerwiseEma(), SeparateEma()], out, dataset, seeds=2, **how)


def twins(workload, out, dataset, **how):
    pytest.importorskip("torch")
    return twin(workload, out, dataset, seeds=2, **how)


REPORTS = [an_ablation, a_comparison, twins]


def written(out):
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name != "host.json"}


@pytest.mark.parametrize("report", REPORTS)
def test_a_stopped_report_goes_on_with_the_runs_that_are_missing(
    report, workload, dataset, tmp_path, ran
):
    """Of 4 runs of 4 steps one is done, the second stands behind its evaluation at step 2."""
    whole, out = tmp_path / "whole" / "report", tmp_path / "report"
    report(workload, whole, dataset)
    ran.clear()
    with pytest.raises(Stopped):
        report(workload, out, dataset, on_step=stop_after(7))
    assert [resumed for _, resumed in ran] == [False, False]
    assert {path.suffix for path in runs_of(out).iterdir()} == {".run", ".checkpoint"}
    assert not out.exists()
    ran.clear()
    steps = []
    report(workload, out, dataset, resume=True, on_step=steps.append)
    assert [resumed for _, resumed in ran] == [True, False, False]
    assert len(steps) == 16  # of the kept run too
    assert written(out) == written(whole)
    assert not runs_of(out).exists()


def test_more_seeds_join_those_that_are_kept(workload, dataset, tmp_path, ran):
    folder = tmp_path / "runs"
    three = [replace(workload, seed=seed) for seed in range(3)]
    first = run_all(three[:2], folder, dataset)
    again = run_all(three, folder, dataset)
    assert [seed for seed, _ in ran] == [0, 1, 2]
    assert [json.dumps(run.summary) for run in again[:2]] == [
        json.dumps(run.summary) for run in first
    ]
    run_all(three, folder, dataset, resume=False)
    assert [seed for seed, _ in ran] == [0, 1, 2, 0, 1, 2]


def test_a_report_that_fails_keeps_its_runs(workload, dataset, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError("No space left on device")

    out = tmp_path / "report"
    with monkeypatch.context() as disk:
        disk.setattr("accsim.comparison.write_comparison", full)
        with pytest.raises(OSError, match="No space left"):
            a_comparison(workload, out, dataset)
    steps = []
    a_comparison(workload, out, dataset, resume=True, on_step=steps.append)
    assert {status.step for status in steps} == {1, 2, 3, 4}


def test_a_run_that_cannot_begin_leaves_no_folder(workload, dataset, tmp_path):
    other = replace(dataset, classes=("rows", "columns", "dots"))
    with pytest.raises(WorkloadError, match="classes of network"):
        a_comparison(workload, tmp_path / "report", other)
    assert not list(tmp_path.glob("report*"))


def test_a_kept_run_of_something_else_is_refused(workload, dataset, tmp_path, monkeypatch):
    folder = tmp_path / "runs"
    run_all([workload], folder, dataset)
    (kept,) = folder.iterdir()

    def sentence(dataset=dataset, **how):
        with pytest.raises(WorkloadError) as told:
            run_all([workload], folder, dataset, **how)
        return str(told.value)

    darker = np.maximum(dataset.train_images, 1) - 1
    assert f"{kept} must be of the same data as" in sentence(
        dataset=replace(dataset, train_images=darker)
    )
    with monkeypatch.context() as other:
        other.setattr("accsim.checkpoint._digest_of_code", lambda: "other sources")
        assert "same version" in sentence()
        assert run_all([workload], folder, dataset, any_code=True)
        other.setattr("accsim.checkpoint.__version__", "0.0.9")
        assert "same version" in sentence(any_code=True)
    whole = kept.read_bytes()
    for damaged in (whole[:-1], whole[:100], b""):
        kept.write_bytes(damaged)
        assert f"{kept} must be whole, but is damaged" in sentence()
    kept.unlink()
    run_all([replace(workload, seed=1)], folder, dataset)
    (other_seed,) = folder.iterdir()
    other_seed.rename(kept)
    assert "same seed" in sentence()


def test_a_report_takes_none_but_its_own_runs_away(workload, dataset, tmp_path):
    out = tmp_path / "report"
    run_all([replace(workload, steps=1)], runs_of(out), dataset)
    compare(workload, [LayerwiseEma(), SeparateEma()], out, dataset)
    assert len(list(runs_of(out).iterdir())) == 1


def test_without_anything_kept_there_is_nothing_to_resume(workload, dataset, tmp_path):
    with pytest.raises(WorkloadError, match=r"--resume needs finished runs in .*report\.runs"):
        a_comparison(workload, tmp_path / "report", dataset, resume=True)
