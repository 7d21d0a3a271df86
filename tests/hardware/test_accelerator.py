from dataclasses import replace

import pytest

from accsim.hardware import boards
from accsim.hardware.pe_array import PEArraySpec

ALL = [boards.ZCU104, boards.ZCU102, boards.KV260, boards.ULTRA96, boards.PYNQ_Z2]


@pytest.mark.parametrize("machine", ALL, ids=lambda machine: machine.name)
def test_every_preset_fits_its_board_and_can_be_changed(machine):
    assert replace(machine, clock_mhz=100).period_ps == 10_000
    assert machine.buffers.capacity_bytes <= machine.board.memory_bytes
    assert machine.board.source


def test_dsp_slices_are_those_of_the_data_sheets():
    # AMD DS891 (UltraScale+ devices), DS987 (K26), DS190 (Zynq-7000)
    slices = [machine.board.dsp_slices for machine in ALL]
    assert slices == [1728, 2520, 1248, 360, 220]


def test_an_array_larger_than_the_device_is_refused():
    with pytest.raises(ValueError, match=r"at most the 1728 DSP slices of ZCU104.* not 4128"):
        replace(boards.ZCU104, pe_array=PEArraySpec(64, 64))


def test_buffers_larger_than_the_device_are_refused():
    buffers = replace(boards.ZCU104.buffers, resident_bytes=8 * 2**20)
    with pytest.raises(ValueError, match=r"buffers must be at most the .* use smaller buffers"):
        replace(boards.ZCU104, buffers=buffers)


@pytest.mark.parametrize("clock_mhz", [0, 133.3])
def test_a_clock_is_whole_megahertz(clock_mhz):
    with pytest.raises(ValueError, match="clock_mhz must be a whole number of at least 1"):
        replace(boards.ZCU104, clock_mhz=clock_mhz)
