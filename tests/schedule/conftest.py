"""A network so small that every byte of its training step can be counted by hand."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from accsim.data.stream import Batch
from accsim.dataflow.output_stationary import OutputStationary
from accsim.hardware import boards
from accsim.hardware.buffer import BufferSpec
from accsim.network import RELU, BatchNorm, Conv2d, Linear, Network, Shape
from accsim.numerics import Numerics, Rounding

sys.path.insert(0, str(Path(__file__).parent))  # for the twin of the memory


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


@pytest.fixture
def travelled():
    """(pass, class) -> bytes read, bytes written over DDR by some operations."""

    def count(operations):
        counts = {}
        for operation in operations:
            for place, side in enumerate((operation.reads, operation.writes)):
                for tensor, size in side:
                    row = counts.setdefault((operation.pass_name, tensor.kind), [0, 0])
                    row[place] += size
        return {key: tuple(value) for key, value in counts.items()}

    return count


@pytest.fixture
def batches():
    """Some batches of `network`'s images: 4 labelled, 6 frames in two views."""

    def make(count):
        rng = np.random.default_rng(8)
        return [
            Batch(
                rng.integers(-127, 128, (4, 4, 4, 1), np.int8),
                rng.integers(0, 3, 4),
                *rng.integers(-127, 128, (2, 6, 4, 4, 1), np.int8),
                -6,
                6 * number,
                0,
            )
            for number in range(1, count + 1)
        ]

    return make


@pytest.fixture
def nearest():
    """Formats whose every word rounds half up: values without random bits."""
    names = ("error", "master", "momentum", "teacher")
    return Numerics(**{f"{name}_rounding": Rounding.HALF_UP for name in names})


@pytest.fixture
def averaged():
    """The teacher's rule in plain integers: ``teacher + round((student - teacher) / 2**shift)``."""

    def average(teacher, student, shift):
        pairs = zip(teacher.ravel().tolist(), student.ravel().tolist(), strict=True)
        return [t + ((s - t + (1 << shift >> 1)) >> shift) for t, s in pairs]

    return average
