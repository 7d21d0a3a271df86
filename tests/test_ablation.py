"""The `ablate` command: one choice, several values and seeds, gains told seed by seed."""

import json

import pandas as pd
import pytest
from click.testing import CliRunner

from accsim.__main__ import main
from accsim.ablation import choice
from accsim.report.ablation import summary, told
from accsim.workload import WorkloadError, read_workload


def call(path, *words):
    return CliRunner().invoke(main, ["ablate", str(path), *words])


def run(value, seed, teacher, **changed):
    return {
        "threshold": value,
        "seed": seed,
        "student_accuracy": 0.1,
        "teacher_accuracy": teacher,
        "backward_share": 0.5,
        "cycles": 100,
        "joules": 2.0,
        **changed,
    }


def test_means_spreads_and_gains_are_those_counted_by_hand():
    rows = [run(0.0, 0, 0.50), run(0.0, 1, 0.60), run(0.9, 0, 0.53), run(0.9, 1, 0.61)]
    first, second = summary("threshold", rows).to_dict("records")
    assert (first["accuracy"], second["accuracy"]) == (pytest.approx(0.55), pytest.approx(0.57))
    assert first["accuracy_std"] == pytest.approx(0.05 * 2**0.5)  # n - 1
    assert second["gain"] == pytest.approx((0.03 + 0.01) / 2)  # seed by seed
    assert second["gain_std"] == pytest.approx(0.01 * 2**0.5)
    assert told("threshold", summary("threshold", rows))[1]["gain"] == "2.00 +- 1.41 points"


def test_without_a_teacher_the_student_counts_and_one_seed_has_no_spread():
    found = summary("threshold", [run(0.0, 0, None), run(0.9, 0, None, student_accuracy=0.3)])
    assert list(found["accuracy"]) == [0.1, 0.3]
    assert found["accuracy_std"].isna().all()
    assert told("threshold", found)[1]["accuracy"] == "30.00 %"


def test_every_value_runs_with_every_seed_and_the_folder_holds_all_of_it(write_workload, tmp_path):
    out = tmp_path / "sweep"
    ran = call(
        write_workload(), "--over", "confidence_threshold=0,1", "--seeds=2", "--out", str(out)
    )
    assert ran.exit_code == 0, ran.output
    runs = pd.read_csv(out / "runs.csv")
    assert list(zip(runs["confidence_threshold"], runs["seed"], strict=True)) == [
        *((0, 0), (0, 1), (1, 0), (1, 1)),
    ]
    taught, rejected = runs["backward_share"][:2], runs["backward_share"][2:]
    assert (taught == 1).all()  # of 8 labelled and 8 unlabelled samples all, or the labelled alone
    assert (rejected == 0.5).all()
    assert runs["joules"][:2].min() > runs["joules"][2:].max()
    assert json.loads((out / "ablation.json").read_text())["over"] == "confidence_threshold"
    assert (out / "ablation.png").stat().st_size > 1000
    assert "confidence_threshold" in (out / "README.md").read_text()


def test_a_choice_is_found_where_the_workload_keeps_it(write_workload):
    workload = read_workload(write_workload())
    assert choice(workload, "confidence_threshold=0,0.5").path == (
        *("algorithm", "confidence_threshold"),
    )
    rate = choice(workload, "optimizer.learning_rate=0.1,0.2")
    assert rate.path == ("algorithm", "optimizer", "learning_rate")
    assert rate.on(workload, 0.2).algorithm.optimizer.learning_rate == 0.2
    assert choice(workload, "labels=10,20").path == ("data", "labels")
    assert choice(workload, "master_bits=8,16").path == ("numerics", "master_bits")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("confidence_threshold", "--over must be a name and its values"),
        ("confidence_threshold=a b", "--over must be a name and its values"),
        ("confidence_threshold=0.5", "two different values or more"),
        ("confidence_threshold=0.5,0.5", "two different values or more"),
        ("threshold=0,1", "--over must name a field of the workload, one of accelerator"),
        ("name=1,2", "--over must name one of accelerator.board.name, accelerator.name"),
    ],
)
def test_a_choice_that_cannot_be_is_one_sentence(write_workload, text, message):
    with pytest.raises(WorkloadError, match=message):
        choice(read_workload(write_workload()), text)


def test_a_value_that_cannot_be_is_told_before_anything_runs(write_workload, tmp_path):
    out = tmp_path / "sweep"
    ran = call(write_workload(), "--over", "confidence_threshold=0,2", "--out", str(out))
    assert ran.exit_code == 2
    assert "--over confidence_threshold=2: confidence_threshold must be 0 to 1" in " ".join(
        ran.output.split()
    )
    assert not out.exists()
