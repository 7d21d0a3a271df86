import json

import pytest
from click.testing import CliRunner

from accsim import fit
from accsim.__main__ import main
from accsim.hardware import boards
from accsim.workload import WorkloadError


def call(*arguments):
    return CliRunner().invoke(main, ["fit", *map(str, arguments)])


def test_a_preset_is_known_by_name():
    assert fit.machine("PYNQ_Z2") is boards.PYNQ_Z2


def test_a_workload_has_its_own_machine(write_workload):
    larger = "replace(boards.ZCU104, clock_mhz=100)"
    assert fit.machine(str(write_workload(accelerator=larger))).clock_mhz == 100


def test_an_unknown_name_is_told():
    with pytest.raises(WorkloadError, match="fit must be given a workload file or one of ZCU104"):
        fit.machine("ZCU105")
    told = call("ZCU105")
    assert told.exit_code == 2
    assert told.output.startswith("Error: fit must be given a workload file")


def test_the_parts_sum_to_what_is_used():
    found = fit.document(boards.KV260)
    for name, used in found["used"].items():
        assert used == sum(part[name] for part in found["parts"].values())
        assert 0 < found["percent"][name] <= 100
        assert found["percent"][name] == pytest.approx(
            100 * used / found["available"][name], abs=0.05
        )
    assert json.loads(call("KV260", "--json").output) == found


def test_a_device_without_ultraram_has_a_table_too():
    shown = call("PYNQ_Z2").output
    for part in ("PE array", "vector unit", "weight buffer", "DMA", "53,200", "URAM"):
        assert part in shown


def test_a_machine_beyond_its_board_is_shown_when_asked_for(write_workload):
    wide = "replace(boards.PYNQ_Z2, pe_array=replace(boards.PYNQ_Z2.pe_array, columns=512)"
    told = call(write_workload(accelerator=f"{wide})"))
    assert told.exit_code == 2
    assert "DSP slices of the machine must be at most the 220 of PYNQ-Z2" in told.output
    shown = call(write_workload(accelerator=f"{wide}, check_board=False)"), "--json")
    assert json.loads(shown.output)["percent"]["dsp_slices"] > 100
