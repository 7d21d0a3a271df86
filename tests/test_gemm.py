"""The `gemm` command: RTL's cycles, SCALE-Sim's cycles, and one sentence for every mistake."""

import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from accsim.__main__ import main
from accsim.gemm import usage

GOLDEN = Path(__file__).parent / "golden" / "scalesim.csv"
NAMES = {"os": "output_stationary", "ws": "weight_stationary", "is": "input_stationary"}
PRODUCT = {"m": 196, "n": 64, "k": 576, "rows": 8, "columns": 8, "dataflow": "output_stationary"}


def scalesim_rows():
    with GOLDEN.open() as lines:
        return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def call(*flags, **options):
    """The command on PRODUCT, with other choices."""
    words = [f"--{name.replace('_', '-')}={value}" for name, value in (PRODUCT | options).items()]
    return CliRunner().invoke(main, ["gemm", *words, *flags])


def test_json_has_the_cycles_of_the_verilator_run_and_their_use():
    ran = call("--json")
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.output) == {
        "cycles": 115_227,
        "utilization": 196 * 64 * 576 / (115_227 * 64),
        "tiles": 25 * 8,
    }


def test_a_table_has_the_same_numbers():
    ran = call()
    assert ran.exit_code == 0, ran.output
    for number in ("115,227", "97.98 %", "200"):
        assert number in ran.output


@pytest.mark.parametrize(
    ("flags", "choices", "cycles"),
    [
        ([], {}, 16 + 2 * 4 + 4 + 3 + 15 * 16),
        (["--no-overlap"], {}, 16 * (16 + 2 * 4 + 4 + 3)),
        ([], {"multiplier_latency": 3}, 16 + 2 * 4 + 4 + 5 + 15 * 16),
        ([], {"adder_latency": 2}, 2 * 16 + 2 * 4 + 4 + 3 + 15 * 32),
        ([], {"dataflow": "weight_stationary"}, 4 + 15 * 16 + 16 + 4 + 4 + 5),
        ([], {"dataflow": "input_stationary"}, 4 + 15 * 16 + 16 + 4 + 4 + 5),
        ([], {"dataflow": "channel_broadcast"}, 16 * 16 + 1 + 1 + 1 + 2 + 1 + 1 + 1),
    ],
)
def test_every_option_reaches_the_array(flags, choices, cycles):
    ran = call("--json", *flags, m=16, n=16, k=16, **{"rows": 4, "columns": 4, **choices})
    assert json.loads(ran.output)["cycles"] == cycles


@pytest.mark.parametrize("row", scalesim_rows(), ids=lambda row: "-".join(list(row.values())[:7]))
def test_like_scalesim_the_cycles_are_scalesims(row):
    product = {name: int(row[name.upper()]) for name in "mnk"}
    sizes = {"rows": int(row["array_rows"]), "columns": int(row["array_cols"])}
    ran = call("--json", **product, **sizes, dataflow=NAMES[row["dataflow"]], like="scalesim")
    document = json.loads(ran.output)
    assert document["cycles"] == int(row["compute_cycles"])
    assert document["tiles"] == usage(NAMES[row["dataflow"]], **product, **sizes).tiles


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ({"m": 0}, "m of a product must be at least 1, not 0"),
        ({"k": -3}, "k of a product must be at least 1, not -3"),
        ({"rows": 0}, "rows of a PE array must be at least 1, not 0"),
        ({"adder_latency": 0}, "adder_latency of a PE array must be at least 1, not 0"),
        ({"columns": "x"}, "Invalid value for '--columns': 'x' is not a valid integer."),
        (
            {"dataflow": "row_stationary"},
            "dataflow must be one of output_stationary, weight_stationary, input_stationary, "
            "channel_broadcast, not 'row_stationary'",
        ),
        ({"like": "timeloop"}, "like must be one of rtl, scalesim, not 'timeloop'"),
        (
            {"like": "scalesim", "dataflow": "channel_broadcast"},
            "dataflow like scalesim must be one of output_stationary, weight_stationary, "
            "input_stationary, not 'channel_broadcast'",
        ),
        (
            {"like": "scalesim", "multiplier_latency": 2},
            "multiplier_latency must be 1, as SCALE-Sim has it, not 2",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_a_mistake_gets_one_sentence(choices, sentence):
    ran = call(**choices)
    assert (ran.exit_code, ran.output) == (2, f"Error: {sentence}\n")


def test_a_missing_option_is_named():
    ran = CliRunner().invoke(main, ["gemm", "--m", "3"])
    assert (ran.exit_code, ran.output) == (2, "Error: Missing option '--n'.\n")
