from dataclasses import replace

import pytest

from accsim.hardware import boards
from accsim.hardware.pe_array import PEArraySpec


def test_a_preset_can_be_changed():
    assert replace(boards.ZCU104, clock_mhz=100).period_ps == 10_000


def test_an_array_larger_than_the_device_is_refused():
    with pytest.raises(ValueError, match=r"at most the 1728 of ZCU104.*, not 4384; use fewer rows"):
        replace(boards.ZCU104, pe_array=PEArraySpec(64, 64))


def test_buffers_larger_than_the_device_are_refused():
    buffers = replace(boards.ZCU104.buffers, resident_bytes=8 * 2**20)
    with pytest.raises(ValueError, match=r"blocks of the machine must be at most the .* smaller"):
        replace(boards.ZCU104, buffers=buffers)


def test_a_machine_larger_than_its_board_can_be_asked_for():
    large = replace(boards.ZCU104, pe_array=PEArraySpec(64, 64), check_board=False)
    assert large.pe_array.macs_per_cycle > large.board.dsp_slices


def test_resident_maps_lie_in_banks_like_those_of_the_input():
    buffers = boards.ZCU104.buffers
    assert buffers.by_name["resident"] == replace(buffers.input, capacity_bytes=2**20, slots=1)
    assert "resident" not in replace(buffers, resident_bytes=0).by_name


@pytest.mark.parametrize(("name", "least"), [("bram36", 1), ("luts", 1), ("uram", 0)])
def test_a_board_has_something_of_everything(name, least):
    message = f"{name} of board .* must be at least {least}, not {least - 1}"
    with pytest.raises(ValueError, match=message):
        replace(boards.ZCU104.board, **{name: least - 1})


@pytest.mark.parametrize("clock_mhz", [0, 133.3])
def test_a_clock_is_whole_megahertz(clock_mhz):
    with pytest.raises(ValueError, match="clock_mhz must be a whole number of at least 1"):
        replace(boards.ZCU104, clock_mhz=clock_mhz)
