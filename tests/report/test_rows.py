"""The table of results: its means, gains and their test are held against a case worked by hand."""

import pandas as pd
import pytest

from accsim.report.rows import COLUMNS, paired, summary, told, write_rows
from accsim.report.twin import FIXED, FLOAT

LABELS = {"data": "cifar10", "labels": 1000, "steps": 4000}


def run(row, seed, arithmetic, accuracy, over="", **changed):
    return {
        "row": row,
        **LABELS,
        "over": over,
        "command": f"python -m accsim twin {row}.py",
        "seed": seed,
        "arithmetic": arithmetic,
        "network": "teacher",
        "accuracy": accuracy,
        "accepted_share": None,
        "seconds": 100.0,
        "joules": 400.0,
        "minutes": 10.0 if arithmetic == FIXED else 20.0,
        "sources": "0123456789ab",
        **changed,
    }


RUNS = [
    *(run("alone", seed, FLOAT, value) for seed, value in enumerate((0.60, 0.62, 0.61))),
    *(run("alone", seed, FIXED, value) for seed, value in enumerate((0.59, 0.62, 0.60))),
    *(run("taught", seed, FLOAT, 0.65, "alone") for seed in range(3)),
    *(
        run("taught", seed, FIXED, value, "alone", accepted_share=0.5, seconds=100.0 + seed)
        for seed, value in enumerate((0.64, 0.68, 0.68))
    ),
]


def test_means_differences_and_gains_are_those_counted_by_hand():
    alone, taught = summary(pd.DataFrame(RUNS)).to_dict("records")
    assert alone["fixed"] == pytest.approx(1.81 / 3)
    assert alone["difference"] == pytest.approx(-0.02 / 3)
    assert pd.isna(alone["gain"])
    assert pd.isna(alone["accepted_share"])
    assert taught["gain"] == pytest.approx(0.19 / 3)  # of 0.05, 0.06 and 0.08
    assert taught["gain_std"] == pytest.approx(((0.04**2 + 0.01**2 + 0.05**2) / 9 / 2) ** 0.5)
    assert taught["seconds"] == 101.0
    assert (taught["fixed_minutes"], taught["float_minutes"]) == (10.0, 20.0)
    assert list(taught) == COLUMNS


def test_the_test_of_a_gain_is_student_s():
    """Three pairs: with 2 degrees of freedom the distribution of t is elementary.

    P(|T| > t) = 1 - t / sqrt(t**2 + 2), and 95 % of it lie within 4.3027.
    """
    values, base = pd.Series([0.64, 0.68, 0.68]), pd.Series([0.59, 0.62, 0.60])
    found = paired(values, base)
    error = found["gain_std"] / 3**0.5
    t = found["gain"] / error
    assert found["gain_p"] == pytest.approx(1 - t / (t * t + 2) ** 0.5)
    assert found["gain_low"] == pytest.approx(found["gain"] - 4.302653 * error)
    assert found["gain_high"] == pytest.approx(found["gain"] + 4.302653 * error)


@pytest.mark.parametrize("values", [[0.6], [0.6, 0.6]])
def test_gains_without_spread_are_not_tested(values):
    found = paired(pd.Series(values), pd.Series([0.5] * len(values)))
    assert found["gain"] == pytest.approx(0.1)
    assert found["gain_p"] is None


def test_a_reader_sees_spread_bounds_and_p():
    cells = told(summary(pd.DataFrame(RUNS)))[1]
    assert cells[FIXED] == "66.7% +- 2.3"
    assert cells["gain"] == "+6.3 +- 1.5 (+2.5 to +10.1, p = 0.019)"
    assert cells["host minutes"] == "10.0, 20.0"


def test_what_differs_from_time_to_time_has_a_file_of_its_own(tmp_path):
    out = tmp_path / "table"
    write_rows(out, RUNS, missing=["wide, 1,000 labels"], warnings=["these are not cifar10"])
    slower = [row | {"minutes": 99.0} for row in RUNS]
    write_rows(tmp_path / "slower", slower)
    for file in ("table.csv", "runs.csv"):
        assert (out / file).read_bytes() == (tmp_path / "slower" / file).read_bytes()
    assert set(pd.read_csv(tmp_path / "slower" / "host.csv")["minutes"]) == {99.0}
    page = (out / "README.md").read_text()
    assert "`python -m accsim twin taught.py`" in page
    assert "Not run yet: wide, 1,000 labels" in page
    assert "**Stand-in**: these are not cifar10" in page
