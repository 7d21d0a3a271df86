"""Two schedules side by side; every difference is counted by hand."""

import json

import pandas as pd
import pytest
from rich.console import Console

from accsim.report.comparison import (
    MECHANISMS,
    byte_differences,
    compare_table,
    cycle_differences,
    equal_accuracies,
    reached,
    told,
    totals,
    write_comparison,
)


def curve(*points, network="student"):
    columns = ["step", "simulated_seconds", "joules", "accuracy"]
    return pd.DataFrame(points, columns=columns).assign(network=network)


def schedule(name, *tensors, **changed):
    columns = ["tensor", "class", "pass", "read_bytes", "write_bytes"]
    return {
        "schedule": name,
        "cycles": 4000,
        "seconds": 0.04,
        "ddr_read_bytes": 150,
        "ddr_write_bytes": 46,
        "peak_ddr_bytes": 64_000,
        "peak_on_chip_bytes": 1_500,
        "joules": 2.0,
        "frames_dropped": 0,
        "seeds": 1,
        "student_accuracy": 0.75,
        "student_accuracy_std": None,
        "teacher_accuracy": None,
        "teacher_accuracy_std": None,
        "tensors": pd.DataFrame(tensors, columns=columns),
        "critical_path": pd.DataFrame(
            [("update", "vector_unit", 7.0)], columns=["pass", "unit", "cycles"]
        ),
        "mechanism_cycles": dict.fromkeys(MECHANISMS, 0.0) | {"ddr_data": 3000.0, "dma": 1000.0},
        "dram_counts": {"reads": 6, "writes": 4, "row_hits": 9},
        "curves": [curve((1, 0.5, 1.0, 0.4), (2, 1.0, 2.0, 0.75))],
        **changed,
    }


@pytest.fixture
def rows():
    forward = ("fc.teacher", "teacher", "teacher_forward")
    return [
        schedule(
            "SeparateEma",
            (*forward, 100, 0),
            ("fc.weights", "weights", "ema", 60, 0),
            ("conv.weights", "weights", "ema", 40, 0),
            ("fc.teacher", "teacher", "ema", 100, 100),
        ),
        schedule(
            "LayerwiseEma",
            (*forward, 100, 100),
            ("fc.weights", "weights", "teacher_forward", 100, 0),
            cycles=3500,
            mechanism_cycles=dict.fromkeys(MECHANISMS, 0.0)
            | {"ddr_data": 2400.0, "dma": 900.0, "ddr_rows": 200.0},
            dram_counts={"reads": 5, "writes": 3, "row_hits": 6},
        ),
        schedule(
            "Same",
            (*forward, 100, 0),
            ("all.weights", "weights", "ema", 100, 0),
            ("fc.teacher", "teacher", "ema", 100, 100),
        ),
    ]


EXPLANATIONS = {"SeparateEma": "A pass of its own.", "LayerwiseEma": "Fused.", "Same": "Same."}


def test_differences_are_told_by_class_and_pass_where_there_are_any(rows):
    assert byte_differences(rows).values.tolist() == [
        ["LayerwiseEma", "teacher_forward", "teacher", 0, 100],
        ["LayerwiseEma", "teacher_forward", "weights", 100, 0],
        ["LayerwiseEma", "ema", "teacher", -100, -100],
        ["LayerwiseEma", "ema", "weights", -100, 0],
    ]


def test_one_schedule_has_nothing_to_differ_from(rows, tmp_path):
    assert byte_differences(rows[:1]).empty
    out = write_comparison(tmp_path / "one", rows[:1], EXPLANATIONS)
    assert json.loads((out / "compare.json").read_text())["byte_differences"] == []


def test_terminal_shows_a_row_a_schedule(rows):
    console = Console(width=200)
    with console.capture() as capture:
        console.print(compare_table(rows))
    line = next(line for line in capture.get().splitlines() if "LayerwiseEma" in line)
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert cells == [
        "LayerwiseEma",
        "3,500",
        "0.040",
        "150.00 B",
        "46.00 B",
        "64.00 kB",
        "1.50 kB",
        "2.000",
        "0",
        "75.0%",
        "none",
    ]


def test_folder_holds_page_totals_and_differences(rows, tmp_path):
    out = write_comparison(tmp_path / "both", rows, EXPLANATIONS)
    names = {path.name for path in out.iterdir()}
    figures = {f"compare_{name}" for name in ("accuracy", "cycles", "ddr_traffic", "totals")}
    assert names == {
        *("README.md", "compare.json", "compare.csv", "compare_bytes.csv"),
        "compare_mechanisms.csv",
        *(f"{name}.{kind}" for name in figures for kind in ("csv", "png")),
    }
    page = (out / "README.md").read_text()
    assert "- **LayerwiseEma**: Fused." in page
    assert "| teacher forward | weights | +100 | 0 |" in page
    assert "| **all** |  | **-100** | **0** |" in page
    assert "### Same\n\nNo byte moves differently." in page
    written = json.loads((out / "compare.json").read_text())
    assert written["schedules"][1]["cycles"] == 3500
    assert written["schedules"][1]["explanation"] == "Fused."
    totals = pd.read_csv(out / "compare.csv")
    assert totals["cycles"].tolist() == [4000, 3500, 4000]
    assert pd.read_csv(out / "compare_bytes.csv")["read_bytes"].sum() == -100


def test_accuracies_are_told_when_the_first_has_ended(rows):
    """The second schedule is twice as fast and takes half the energy: it ends at 0.5 s and 1 J."""
    fast = [curve((1, 0.25, 0.5, 0.4), (2, 0.5, 1.0, 0.75))]
    slow = [
        curve((1, 0.4, 0.8, 0.2), (2, 0.8, 1.6, 0.6)),  # a quarter of the way: 0.3
        curve((1, 0.6, 1.2, 0.5)),  # not yet evaluated: as in the first
    ]
    found = equal_accuracies([{**rows[0], "curves": slow}, {**rows[1], "curves": fast}])
    for at, accuracy in zip(found, (0.4, 0.75), strict=True):
        assert at["accuracy_at_equal_seconds"] == pytest.approx(accuracy)
        assert at["accuracy_at_equal_joules"] == pytest.approx(accuracy)
    assert found[0]["accuracy_at_equal_seconds_std"] == pytest.approx(0.1 * 2**0.5)  # of 0.3, 0.5
    assert found[1]["accuracy_at_equal_seconds_std"] is None


def test_a_spread_stands_beside_its_mean(rows):
    spread = {**rows[0], "seeds": 3, "student_accuracy_std": 0.01}
    assert told(spread)["student"] == "75.0% +- 1.0%"
    assert told(rows[0])["student"] == "75.0%"


def test_rows_that_cannot_be_compared_are_refused(rows, tmp_path):
    with pytest.raises(ValueError, match="at least one schedule"):
        compare_table([])
    with pytest.raises(ValueError, match="different names"):
        compare_table([rows[0], rows[0]])
    with pytest.raises(ValueError, match="must hold joules"):
        compare_table([{key: value for key, value in rows[0].items() if key != "joules"}])
    with pytest.raises(ValueError, match="missing: \\['Same'\\]"):
        write_comparison(tmp_path / "x", rows, {"SeparateEma": "", "LayerwiseEma": ""})


def test_totals_are_of_the_teacher_and_where_there_is_none_of_the_student(rows):
    taught = {**rows[0], "teacher_accuracy": 0.5, "teacher_accuracy_std": 0.125}
    spread = {**rows[1], "student_accuracy_std": 0.25}
    both = [taught, spread]
    found = totals([row | equal for row, equal in zip(both, equal_accuracies(both), strict=True)])
    assert found["accuracy"].tolist() == [0.5, 0.75]
    assert found["accuracy_std"].tolist() == [0.125, 0.25]
    assert found["joules"].tolist() == [2.0, 2.0]


def test_cycles_differ_by_what_the_critical_path_waits_for(rows, tmp_path):
    """500 cycles fewer: 600 of data and 100 of the DMA less, 200 of rows more."""
    first, second, third = cycle_differences(rows).to_dict("records")
    assert (first["cycles"], first["ddr_data"], first["row_hit_share"]) == (4000, 3000, 0.9)
    assert (second["cycles"], second["ddr_data"], second["dma"]) == (-500, -600, -100)
    assert (second["ddr_rows"], second["row_hit_share"]) == (200, 0.75)
    assert not any(third[name] for name in ("cycles", *MECHANISMS))
    page = (write_comparison(tmp_path / "both", rows, EXPLANATIONS) / "README.md").read_text()
    assert "| SeparateEma | 4,000 | 3,000 | 0 | 0 | 0 | 1,000 | 0 | 0 | 0 | 90.0% |" in page
    assert "| LayerwiseEma | -500 | -600 | +200 | +0 | +0 | -100 | +0 | +0 | +0 | 75.0% |" in page
    assert "| DDR data, 120.0% |" in page
    assert "| Same | +0 | +0 | +0 | +0 | +0 | +0 | +0 | +0 | +0 | 90.0% | none |" in page


def test_waiting_for_frames_decides_nothing(rows, tmp_path):
    """A machine that is 500 cycles faster in a step waits 500 longer for the next frames."""
    rows[1]["mechanism_cycles"] |= {"idle": 500.0}
    page = (write_comparison(tmp_path / "both", rows, EXPLANATIONS) / "README.md").read_text()
    assert "| +0 | +500 | 75.0% | DDR data, 120.0% |" in page


def test_where_a_student_leaves_its_teacher_behind_the_student_counts():
    """The teacher was evaluated at 1 s, the student at 2 and 4 s: half-way at 3."""
    curve = pd.DataFrame(
        [("teacher", 1, 1.0, 0.5), ("student", 2, 2.0, 0.6), ("student", 4, 4.0, 0.8)],
        columns=["network", "step", "simulated_seconds", "accuracy"],
    )
    assert reached(curve, "simulated_seconds", 3.0) == pytest.approx(0.7)
    both = pd.concat([curve, curve.tail(1).assign(network="teacher", accuracy=0.9)])
    assert reached(both, "simulated_seconds", 4.0) == pytest.approx(0.9)
