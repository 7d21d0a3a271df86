"""What the table of experiments/adaptation.py is made of, and that no run of it is repeated."""

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from click.testing import CliRunner

pytest.importorskip("torch")  # one of the rules is in float32

FILE = Path(__file__).parents[1] / "experiments" / "adaptation.py"


@pytest.fixture
def adaptation():
    spec = importlib.util.spec_from_file_location("adaptation", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def told(adaptation, monkeypatch):
    """What the command asks to simulate: instead, teachers get 0.9 right, students 0.7."""
    told = []

    def simulate(workload, dataset):
        told.append(workload)
        taught = workload.algorithm.largest_passes(1, 1).ema
        accuracy = {"student": 0.7, "teacher": 0.9 if taught else None}
        return SimpleNamespace(summary={"accuracy": accuracy})

    monkeypatch.setattr(adaptation, "open_dataset", lambda workload, folder: None)
    monkeypatch.setattr(adaptation, "simulate", simulate)
    return told


def test_rules_differ_in_the_algorithm_alone_and_threshold_in_nothing_else(adaptation):
    for name in adaptation.DOMAINS.values():
        workload = adaptation.read_workload(FILE.parents[1] / "workloads" / name)
        by_rule = {rule: adaptation.by_rule(workload, rule) for rule in adaptation.RULES}
        plain = by_rule.pop(adaptation.PLAIN)
        assert plain.algorithm == by_rule[adaptation.ADABN].algorithm
        assert plain.data == replace(workload.data, labelled_augmentation=None)
        for one in by_rule.values():
            assert replace(one, algorithm=workload.algorithm) == workload
        taught, free = (by_rule[r].algorithm for r in (adaptation.TAUGHT, adaptation.UNGATED))
        threshold = workload.algorithm.confidence_threshold
        assert threshold > 0 == free.confidence_threshold
        assert replace(free, confidence_threshold=threshold) == taught
        assert by_rule[adaptation.FLOAT].algorithm.rule == taught
        assert len({adaptation.settings_of(one) for one in by_rule.values()}) == len(by_rule)


def test_gains_are_of_pairs_of_one_seed(adaptation):
    """By hand: two seeds, whose gains over AdaBN are 10 and 20 points."""
    right = {
        adaptation.SOURCE: (0.5, 0.6),
        adaptation.ADABN: (0.7, 0.4),
        adaptation.PLAIN: (0.6, 0.5),
        adaptation.TAUGHT: (0.8, 0.7),
        adaptation.UNGATED: (0.6, 0.6),
        adaptation.FLOAT: (0.8, 0.8),
    }
    rows = [
        ("USPS to MNIST", rule, seed, accuracy, "")
        for rule, accuracies in right.items()
        for seed, accuracy in enumerate(accuracies)
    ]
    table = adaptation.table_of(pd.DataFrame(rows, columns=adaptation.COLUMNS))
    row = table.loc["USPS to MNIST"]
    assert row["seeds"] == 2
    for column, mean, deviation in (
        ("mean teacher", 75, 50**0.5),
        ("over the better AdaBN", 15, 50**0.5),
        ("by the threshold", 15, 50**0.5),
        ("over float32", -5, 50**0.5),
    ):
        assert row[column] == pytest.approx(mean)
        assert row[f"{column}_std"] == pytest.approx(deviation)


def test_a_run_that_is_known_is_not_repeated(adaptation, told, tmp_path):
    def command(*more):
        told.clear()
        done = CliRunner().invoke(adaptation.main, ["--out", str(tmp_path), *more])
        assert done.exit_code == 0, done.output
        return len(told), pd.read_csv(tmp_path / "runs.csv")

    runs_of_a_seed = len(adaptation.DOMAINS) * len(adaptation.RULES)
    different = runs_of_a_seed - 1  # printed digits are not distorted: one AdaBN is the other
    assert command("--seeds", "1")[0] == different
    simulated, runs = command("--seeds", "2")
    assert simulated == different
    assert len(runs) == 2 * runs_of_a_seed
    page = (tmp_path / "README.md").read_bytes()
    assert command("--seeds", "2")[0] == 0
    assert (tmp_path / "README.md").read_bytes() == page
    assert page.count(b"| 2 | 70.0 +- 0.0 | 70.0 +- 0.0 | 70.0 +- 0.0 | 90.0 +- 0.0 |") == 3
    assert command("--seeds", "2", "--steps", "7")[0] == 2 * different  # other settings
