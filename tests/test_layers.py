"""The `layers` command: a line a pass, with what bounds it."""

import json

import pytest
from click.testing import CliRunner

from accsim.__main__ import main
from accsim.layers import layers
from accsim.network import Shape
from accsim.schedule.operation import macs_by_label
from accsim.workload import largest_passes, read_workload
from models import convnet

BOARD = "replace(boards.ZCU104, buffers=replace(boards.ZCU104.buffers, resident_bytes=0))"


def call(*words):
    return CliRunner().invoke(main, ["layers", *map(str, words)])


def test_every_product_of_the_network_is_listed_once_with_its_macs(write_workload):
    workload = read_workload(write_workload())
    rows = [row for row in layers(workload).rows if row.unit == "pe_array"]
    found = {f"{row.layer}/{row.pass_name}": row.work for row in rows}
    assert found == macs_by_label(workload.network, largest_passes(workload))
    for row in rows:
        assert row.compute_cycles <= row.cycles
        assert row.work <= row.peak


@pytest.mark.parametrize(
    ("machine", "bound"),
    [
        (BOARD, "compute"),
        (f"replace({BOARD}, dma=DmaSpec(1, 1))", "DDR"),
        (f"replace({BOARD}, dma=DmaSpec(64, 64, startup_cycles=100_000))", "latency"),
    ],
)
def test_what_bounds_a_pass_is_what_the_machine_lacks(write_workload, machine, bound):
    path = write_workload(accelerator=machine)
    text = path.read_text()
    path.write_text("from accsim.hardware.dma import DmaSpec\n" + text)
    rows = {(row.layer, row.pass_name): row for row in layers(read_workload(path)).rows}
    assert rows["conv1b", "student_forward"].bound == bound


def test_json_and_table_show_the_same_passes(write_workload):
    path = write_workload()
    shown = call(path, "--json")
    assert shown.exit_code == 0, shown.output
    document = json.loads(shown.output)
    network = convnet.network(width=4, classes=2, image=Shape(16, 16, 3))
    convolutions = sum(bool(node.weights) for node in network.nodes)
    forward = [row for row in document["passes"] if row["pass_name"] == "teacher_forward"]
    assert sum(row["unit"] == "pe_array" for row in forward) == convolutions
    assert set(document["pe_array"]) == {
        *("teacher_forward", "student_forward", "backward_data", "backward_weight"),
    }
    spent = sum(part["cycles"] for part in document["critical_path"])
    assert document["step_cycles"] - 1 < spent <= document["step_cycles"]
    held = {row["memory"]: row for row in document["memory"]}
    assert list(held) == ["ddr", "input", "weight", "output", "gradient", "resident"]
    for row in held.values():
        assert 0 < row["least_bytes"] <= row["peak_bytes"] <= row["capacity_bytes"]
    table = call(path)
    assert table.exit_code == 0
    assert f"{held['ddr']['peak_bytes']:,}" in table.output
    assert f"Critical path of a step of {document['step_cycles']:,} cycles" in table.output
    assert table.output.count("conv2b") >= 5  # forward twice, backward twice, its update
    assert f"{forward[0]['cycles']:,}" in table.output


def test_a_workload_that_does_not_fit_is_told_in_one_sentence(write_workload):
    small = "replace(boards.PYNQ_Z2, buffers=replace(boards.PYNQ_Z2.buffers, input=BufferSpec(4)))"
    shown = call(write_workload(accelerator=small))
    assert shown.exit_code == 2
    assert "input buffer must hold one tile of" in shown.output
    assert "Traceback" not in shown.output
