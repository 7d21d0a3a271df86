"""Twins side by side; means and differences are counted by hand."""

import json

import pandas as pd
import pytest

from accsim.numerics import Numerics
from accsim.report.twin import FIXED, FLOAT, mean_curves, summary, told, write_twin
from accsim.workload import describe


def ran(seed, arithmetic, student, teacher=None, accepted=None, seconds=10.0):
    curve = pd.DataFrame(
        {"step": [1, 2], "simulated_seconds": 0.0, "joules": 0.0, "network": "student",
         "accuracy": [0.25, student]}
    )  # fmt: skip
    return {
        "seed": seed,
        "arithmetic": arithmetic,
        "student_accuracy": student,
        "teacher_accuracy": teacher,
        "accepted_share": accepted,
        "seconds": seconds,
        "joules": 4 * seconds,
        "curve": curve,
    }


TWO_SEEDS = [
    ran(0, FLOAT, 0.50, 0.60, 0.4),
    ran(0, FIXED, 0.49, 0.62, 0.3),
    ran(1, FLOAT, 0.60, 0.64, 0.4),
    ran(1, FIXED, 0.56, 0.64, 0.5, seconds=12.0),
]


def test_differences_are_taken_seed_by_seed():
    rows = summary(TWO_SEEDS).set_index("measure")
    student = rows.loc["student_accuracy"]
    assert student["fixed"] == pytest.approx(0.525)
    assert student["float"] == pytest.approx(0.55)
    assert student["difference"] == pytest.approx(-0.025)
    assert student["difference_std"] == pytest.approx(0.03 / 2**0.5)  # of -0.01 and -0.04
    assert told(TWO_SEEDS)[1] == {
        "measure": "teacher accuracy",
        FIXED: "63.0% +- 1.4",
        FLOAT: "62.0% +- 2.8",
        "difference": "+1.0 +- 1.4 points",
    }
    assert rows.loc["accepted_share", "difference"] == pytest.approx(0.0)


def test_what_a_workload_does_not_have_is_left_out():
    (row,) = told([ran(3, FIXED, 0.5), ran(3, FLOAT, 0.51)])
    assert list(row.values()) == ["student accuracy", "50.0%", "51.0%", "-1.0 points"]


def test_curves_are_means_over_the_seeds():
    curves = mean_curves(TWO_SEEDS)
    last = curves[curves["step"] == 2].set_index("arithmetic")["accuracy"]
    assert last.to_dict() == pytest.approx({FIXED: 0.525, FLOAT: 0.55})


def test_a_report_of_twins_holds_every_run(tmp_path):
    choices = {"numerics": describe(Numerics(error_bits=6))}
    out = write_twin(tmp_path / "twin", TWO_SEEDS, choices, [1.0, 2.0, 3.0, 4.0])
    assert {path.name for path in out.iterdir()} == {
        "README.md",
        "accuracy.csv",
        "accuracy.png",
        "host.json",
        "runs.csv",
        "twin.json",
    }
    runs = json.loads((out / "twin.json").read_text())["runs"]
    assert [run["student_accuracy"] for run in runs] == [0.50, 0.49, 0.60, 0.56]
    page = (out / "README.md").read_text()
    assert "| student accuracy | 52.5% +- 4.9 | 55.0% +- 7.1 | -2.5 +- 2.1 points |" in page
    assert "| student accuracy | 1 | 56.0% | 60.0% | -4.0 points |" in page
    assert "| fixed point | 11.0 +- 1.4 | 44.0 +- 5.7 |" in page  # of 10 and 12, 40 and 48
    assert "| float32 | 10.0 +- 0.0 | 40.0 +- 0.0 |" in page
    assert "6-bit errors" in page
    host = json.loads((out / "host.json").read_text())["runs"]
    assert host[3] == {"seed": 1, "arithmetic": FIXED, "minutes": 4.0}


def test_minutes_of_the_computer_are_told_in_one_file_alone(tmp_path):
    choices = {"numerics": describe(Numerics())}
    fast, slow = (
        write_twin(tmp_path / speed / "twin", TWO_SEEDS, choices, [minutes] * 4)
        for speed, minutes in (("fast", 1.0), ("slow", 60.0))
    )
    differ = [
        path.name for path in fast.iterdir() if path.read_bytes() != (slow / path.name).read_bytes()
    ]
    assert differ == ["host.json"]
