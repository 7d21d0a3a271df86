"""The folder of a run: every file, the same bytes each time, and a page that says what matters."""

import copy
import json

import numpy as np
import pandas as pd
import pytest

from accsim.report import figures
from accsim.report.page import DRAWINGS, write_report


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_figure_has_its_data_beside_it(tmp_path, run):
    out = write_report(tmp_path / "tiny", run.result, run.tables)
    for drawing in DRAWINGS:
        plotted = drawing.data(run.tables)
        beside = pd.read_csv(out / f"{drawing.name}.csv")
        pd.testing.assert_frame_equal(beside, plotted, check_dtype=False, check_exact=True)
        assert (out / f"{drawing.name}.png").read_bytes().startswith(b"\x89PNG")
        assert (out / f"{drawing.name}.png").stat().st_size < 120_000


def test_tables_come_back_as_they_were(tmp_path, run):
    out = write_report(tmp_path / "tiny", run.result, run.tables)
    for file in ("steps.csv", "counters.csv.gz", "passes.csv", "tensors.csv", "critical_path.csv"):
        name = file.partition(".")[0]
        written = pd.read_csv(out / file)
        pd.testing.assert_frame_equal(written, run.tables.ordered(name), check_exact=True)


def test_the_same_run_gives_the_same_bytes(tmp_path, run):
    first = write_report(tmp_path / "a" / "tiny", run.result, run.tables, {"seconds": 1.5})
    backwards = dict(reversed(run.result.items()))
    second = write_report(tmp_path / "b" / "tiny", backwards, run.tables, {"seconds": 2.5})
    ours, theirs = contents(first), contents(second)
    assert json.loads(ours.pop("host.json")) == {"seconds": 1.5}
    assert json.loads(theirs.pop("host.json")) == {"seconds": 2.5}
    assert ours == theirs
    assert json.loads(ours["result.json"]) == run.result


def test_numpy_scalars_are_written_as_numbers(tmp_path, run):
    run.result["cost"]["cycles"] = np.int64(4000)
    out = write_report(tmp_path / "tiny", run.result, run.tables)
    assert json.loads((out / "result.json").read_text())["cost"]["cycles"] == 4000


def test_a_number_that_is_not_finite_is_refused(tmp_path, run):
    run.result["cost"]["macs"] = float("nan")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_report(tmp_path / "tiny", run.result, run.tables)
    assert not (tmp_path / "tiny").exists()


def test_a_failing_figure_leaves_the_old_report(tmp_path, run, monkeypatch):
    out = write_report(tmp_path / "tiny", run.result, run.tables)
    before = contents(out)

    def full(path, table, panels):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(figures, "save_figure", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(out, {**run.result, "seed": 4}, run.tables)
    assert contents(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_the_warning_of_a_stand_in_comes_first(tmp_path, run):
    result = copy.deepcopy(run.result)
    page = (write_report(tmp_path / "real", result, run.tables) / "README.md").read_text()
    assert "STAND-IN" not in page
    result["data"].update(stand_in=True, source="drawn shapes")
    page = (write_report(tmp_path / "made", result, run.tables) / "README.md").read_text()
    assert page.splitlines()[2].startswith("**STAND-IN DATA: these images are not digits")
    assert "drawn shapes" in page.splitlines()[2]


def test_the_page_tells_ledgers_sources_columns_and_choices(tmp_path, run):
    result = {**run.result, "command": "python -m accsim run workloads/tiny.py"}
    page = (write_report(tmp_path / "tiny", result, run.tables) / "README.md").read_text()
    assert "| ddr bytes | tensors, DMA | 196 | 196 | bytes | yes |" in page
    assert "| int8 mac | 2.00 pJ | MAC | 1.00 pJ | 4.00 pJ | A \\| B |" in page
    assert "| student | fc | student forward | pe array | 1,400 | 46.7% | 1,000 |" in page
    assert "2 of 4 steps are of the kind" in page
    assert "| fc | student forward | pe array | 350 | 35.0% |" in page
    assert "| student | weights | fc.weight | 40 | 1 | 0 | 2.5% |" in page
    assert "| teacher | teacher | fc.weight | 20 | 8 | 12 | 0 | 60.0% |" in page
    assert "| teacher_changed | share of the teacher's words that the step moved |" in page
    assert "    python -m accsim run workloads/tiny.py\n" in page
    assert '"teacher_shift": 7' in page


def test_the_page_tells_what_every_memory_held(tmp_path, run):
    page = (write_report(tmp_path / "tiny", run.result, run.tables) / "README.md").read_text()
    assert "| ring buffer | 6,000 | 6,000 | 6,000 |" in page
    assert "| ddr | 64,000 | 61,440 | 1,000,000 |" in page


def test_a_supervised_run_has_no_figure_of_accepted_samples(tmp_path, run):
    run.tables.steps[["accepted", "unlabelled_samples"]] = 0
    out = write_report(tmp_path / "tiny", run.result, run.tables)
    assert "accepted.png" not in contents(out)
    assert "accepted.png" not in (out / "README.md").read_text()
