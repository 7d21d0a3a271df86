"""A network so small that every byte of its training step can be counted by hand."""

from dataclasses import replace

import pytest

from accsim.dataflow.output_stationary import OutputStationary
from accsim.hardware import boards
from accsim.hardware.buffer import BufferSpec
from accsim.network import RELU, BatchNorm, Conv2d, Linear, Network, Shape
from accsim.numerics import Numerics


@pytest.fixture
def network() -> Network:
    """18 + 4 + 27 parameters: conv 3x3 1 -> 2, scale and shift of 2, linear 8 -> 3 with bias."""
    return Network(
        "tiny",
        Shape(4, 4, 1),
        (Conv2d("conv", 2, 3, padding=1), BatchNorm("norm", RELU, 2), Linear("fc", 3)),
    )


@pytest.fixture
def machine():
    """A ZCU104 without a resident buffer: every map travels."""
    return replace(boards.ZCU104, buffers=replace(boards.ZCU104.buffers, resident_bytes=0))


@pytest.fixture
def small_machine(machine):
    """Room for one fold of 8 x 8 at a time."""
    buffers = replace(
        machine.buffers,
        input=BufferSpec(8192),
        weight=BufferSpec(8192),
        output=BufferSpec(8192),
        gradient=BufferSpec(5000, slots=1),
    )
    array = replace(machine.pe_array, rows=8, columns=8)
    return replace(machine, buffers=buffers, pe_array=array)


@pytest.fixture
def lower(network):
    """Operations of one step of `network` under a schedule."""

    def lowered(schedule, machine, passes, store=True, network=network, numerics=None, tilings=()):
        return schedule.operations(
            network,
            numerics or Numerics(),
            machine,
            OutputStationary(tilings),
            passes,
            store,
        )

    return lowered
