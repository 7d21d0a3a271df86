import pytest

from accsim.hardware import boards
from accsim.hardware.accelerator import AcceleratorSpec
from accsim.hardware.resources import Resources, resources

ALL = [machine for machine in vars(boards).values() if isinstance(machine, AcceleratorSpec)]

# DSP, LUT, FF, BRAM36, URAM and the Mb of both memories, as the device tables print them:
# AMD DS891 (ZU7EV, ZU9EG, ZU3EG), DS987 (K26), DS190 (Z-7020)
DATA_SHEETS = {
    "ZCU104": (1_728, 230_400, 460_800, 312, 96, 11.0, 27.0),
    "ZCU102": (2_520, 274_080, 548_160, 912, 0, 32.1, 0),
    "KV260": (1_248, 117_120, 234_240, 144, 64, 5.1, 18.0),
    "Ultra96": (360, 70_560, 141_120, 216, 0, 7.6, 0),
    "PYNQ-Z2": (220, 53_200, 106_400, 140, 0, 4.9, 0),
}


@pytest.mark.parametrize("machine", ALL, ids=lambda machine: machine.name)
def test_resources_are_those_of_the_data_sheets(machine):
    board = machine.board
    *counts, bram_megabits, uram_megabits = DATA_SHEETS[machine.name]
    assert [
        board.dsp_slices, board.luts, board.flip_flops, board.bram36, board.uram
    ] == counts  # fmt: skip
    assert board.bram36 * 36 / 1024 == pytest.approx(bram_megabits, abs=0.05)
    assert board.uram * 288 / 1024 == pytest.approx(uram_megabits, abs=0.05)
    assert board.source


@pytest.mark.parametrize("machine", ALL, ids=lambda machine: machine.name)
def test_data_fills_eight_ninths_of_the_memory(machine):
    board = machine.board
    assert board.memory_bytes * 9 == (board.bram36 * 36 + board.uram * 288) * 1024


@pytest.mark.parametrize("machine", ALL, ids=lambda machine: machine.name)
def test_every_preset_fits_its_board_with_little_of_the_blocks_unused(machine):
    used = sum(resources(machine).values(), start=Resources())
    held = used.bram36 * 4 * 1024 + used.uram * 32 * 1024
    assert held <= machine.board.memory_bytes
    # FIFOs of the DMA are 512 words of 8 bytes or more a block
    fifos = machine.dma.read_bytes_per_cycle + machine.dma.write_bytes_per_cycle
    assert machine.buffers.capacity_bytes + 512 * fifos == held


@pytest.mark.parametrize("machine", ALL, ids=lambda machine: machine.name)
def test_no_preset_waits_for_the_ports_of_its_buffers(machine):
    array, buffers = machine.pe_array, machine.buffers
    # output stationary: an operand a row and one a column in every cycle
    assert buffers.input.bytes_per_cycle >= array.rows * array.operand_bytes
    assert buffers.weight.bytes_per_cycle >= array.columns * array.operand_bytes
    # a partial sum a column leaves, and with the weights held another comes back
    assert buffers.gradient.bytes_per_cycle >= array.columns * array.accumulator_bytes
    assert buffers.output.bytes_per_cycle >= 2 * array.columns * array.accumulator_bytes
