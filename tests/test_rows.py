"""Tables of results: what is run, what is taken, and which rows can stand beside each other."""

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from accsim import series
from accsim.__main__ import main
from accsim.rows import different_runs, read_rows
from accsim.series import runs_of
from accsim.workload import WorkloadError

pytest.importorskip("torch")

ROWS = """
    Row("supervised", PLAIN, ("steps=2",), "student", seeds=2),
    Row("supervised, weight average", PLAIN, ("steps=2",), over="supervised", seeds=2),
    Row("mean teacher", TAUGHT, ("steps=2", "data.labels=20"), over="supervised", seeds=2),
"""


@pytest.fixture
def write_rows(write_workload, tmp_path):
    """Write a table's file of these rows."""
    taught = write_workload()
    plain = write_workload("plain.py", algorithm="WeightAverage()")
    plain.write_text(
        "from accsim.training.weight_average import WeightAverage\n" + plain.read_text()
    )

    def write(rows=ROWS):
        path = tmp_path / "small.py"
        path.write_text(
            "from accsim.rows import Row\n"
            f"PLAIN, TAUGHT = {str(plain)!r}, {str(taught)!r}\nrows = ({rows})\n"
        )
        return path

    return write


def call(*words):
    return CliRunner().invoke(main, ["table", *map(str, words)])


def test_a_table_runs_what_is_missing_once_and_keeps_it(write_rows, tmp_path, monkeypatch):
    begun, simulate = [], series.simulate
    monkeypatch.setattr(series, "simulate", lambda *a: begun.append(a[0]) or simulate(*a))
    path, out = write_rows(), tmp_path / "table"
    ran = call(path, "--out", out)
    assert ran.exit_code == 0, ran.output
    assert ran.output.splitlines()[-1] == str(out / "README.md")
    assert len(begun) == len(list(runs_of(out).iterdir())) == 8  # two rows are one run's networks
    runs, table = (pd.read_csv(out / f"{name}.csv") for name in ("runs", "table"))
    mine = runs[runs["row"] == "mean teacher"]
    assert list(zip(mine["arithmetic"], mine["seed"], strict=True)) == [
        *(("float32", 0), ("fixed point", 0), ("float32", 1), ("fixed point", 1)),
    ]
    fixed = runs[runs["arithmetic"] == "fixed point"].pivot(
        index="seed", columns="row", values="accuracy"
    )
    gains = fixed["mean teacher"] - fixed["supervised"]
    row = table.set_index("row").loc["mean teacher"]
    assert row["gain"] == pytest.approx(gains.mean())
    assert row["fixed"] == pytest.approx(fixed["mean teacher"].mean())
    assert row["command"] in (out / "README.md").read_text()
    files = {file: (out / file).read_bytes() for file in ("table.csv", "runs.csv", "README.md")}
    again = call(path, "--out", out)
    assert again.exit_code == 0, again.output
    assert len(begun) == 8
    assert files == {file: (out / file).read_bytes() for file in files}


def test_rows_that_miss_a_run_are_left_out_where_nothing_is_run(write_rows, tmp_path):
    path, out = write_rows(), tmp_path / "table"
    refused = call(path, "--out", out, "--kept")
    assert refused.exit_code == 2
    assert "must hold every run of some row, but holds none" in " ".join(refused.output.split())
    assert call(path, "--out", out).exit_code == 0
    supervised = different_runs(read_rows(path)[:1])
    kept = sorted(runs_of(out).iterdir())
    assert len(supervised) == 4
    taught = [file for file in kept if b'"class": "MeanTeacher"' in file.read_bytes()]
    taught[0].unlink()
    assert call(path, "--out", out, "--kept").exit_code == 0
    assert list(pd.read_csv(out / "table.csv")["row"]) == [
        *("supervised", "supervised, weight average"),
    ]
    assert "Not run yet: mean teacher, 20 labels" in (out / "README.md").read_text()


def test_the_command_of_a_row_runs_it(write_rows, tmp_path):
    path = write_rows("Row('mean teacher', TAUGHT, ('steps=2', 'data.labels=10'), seeds=2),")
    (row,) = read_rows(path)
    python, _, module, *words = shlex.split(row.command)
    assert (python, module) == ("python", "accsim")
    out = tmp_path / "alone"
    assert CliRunner().invoke(main, [*words, "--out", str(out)]).exit_code == 0
    alone = pd.read_csv(out / "runs.csv")
    assert call(path, "--out", tmp_path / "table").exit_code == 0
    runs = pd.read_csv(tmp_path / "table" / "runs.csv")
    assert runs["accuracy"].tolist() == alone["teacher_accuracy"].tolist()
    assert set(runs["labels"]) == {10}


def test_the_project_s_own_table_is_whole(monkeypatch):
    """Its files are there; every row but the first kind has one to gain over; 3 seeds each."""
    monkeypatch.chdir(Path(__file__).parents[1])
    rows = read_rows(Path("experiments/learning.py"))
    assert {row.budget["labels"] for row in rows} == {1000, 4000}
    assert all(row.base(rows) for row in rows if row.name != "supervised")
    assert len(different_runs(rows)) == 2 * 2 * 3 * 3  # arithmetics, labels, methods, seeds


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ("", "must define `rows`, a tuple of Row objects"),
        ("3,", "must define `rows`, a tuple of Row objects"),
        ("Row('a', 'none.py'),", "there is no such file"),
        ("Row('a', PLAIN, ('label=1',)),", "--set must name a field"),
        ("Row('a', PLAIN, network='both'),", "network must be student or teacher, not 'both'"),
        ("Row('a', PLAIN, seeds=0),", "seeds must be a whole number of at least 1, not 0"),
        ("Row('a', PLAIN, over='b'),", "over of row 'a' must name one row of as many labels"),
        (
            "Row('a', PLAIN), Row('b', PLAIN, ('steps=3',), over='a'),",
            "over of row 'b' must name one row of as many labels, steps and seeds, of b, not 'a'",
        ),
        ("Row('a', PLAIN), Row('a', TAUGHT),", "name of row 'a' must be its own"),
    ],
)
def test_a_table_that_cannot_be_is_one_sentence(write_rows, rows, sentence):
    ran = call(write_rows(rows))
    assert ran.exit_code == 2
    assert sentence in " ".join(ran.output.split())


def test_a_row_of_a_student_has_no_teacher_to_tell(write_rows, write_workload):
    path = write_rows("Row('a', PLAIN),")
    write_workload("plain.py", algorithm="Supervised()")
    with pytest.raises(WorkloadError, match=re.escape("network of row 'a' must be student")):
        read_rows(path)
