"""The PE array: a grid of multiply-accumulate units, one per DSP slice, and its time.

What an array does with a matrix product is a sequence of events: a word is loaded, a product enters
its sum, a column drains. An event takes resources (a port, an adder, a chain of registers) and is
issued as soon as it finds them free; cycles are what comes out. Which events there are, and what
they take, is the dataflow's matter (`accsim.dataflow`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from accsim.hardware.occupancy import Occupancy

OPERAND_BITS = range(2, 17)


@dataclass(frozen=True)
class RegistersSpec:
    """Cycles of an operand's way to a result beside those of multiplier and adder.

    The defaults are those of the register-transfer models in ``tests/rtl``. Raises ValueError for
    negative cycles.
    """

    memory_cycles: int = 1  # from an operand's address to the operand
    operand_cycles: int = 1  # into the operand registers of a PE
    sum_cycles: int = 1  # out of the PE: into the drain chain, or beside the earlier sum
    output_cycles: int = 1  # through requantisation into the output buffer
    awaits_results: bool = True  # a product ends with its last write, else its last multiplication

    def __post_init__(self):
        for name in ("memory_cycles", "operand_cycles", "sum_cycles", "output_cycles"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"{name} of a PE array must be at least 0, not {getattr(self, name)}"
                )


# as SCALE-Sim and EF-Train's model count: operands are there, results are not waited for
NO_REGISTERS = RegistersSpec(0, 0, 0, 0, awaits_results=False)


@dataclass(frozen=True)
class PEArraySpec:
    """Grid of multiply-accumulate units that works on one tile at a time.

    Multiplier and adder are pipelines that take an operation a cycle; a sum that is added to again
    must have left the adder, `adder_latency` cycles after it entered.

    Raises ValueError for a grid without units, for operands not of 2 to 16 bits (packed: 8),
    for an accumulator too narrow for a product and for a latency below 1.
    """

    rows: int  # rows of the GEMM in parallel (output stationary), or of K (weight stationary)
    columns: int  # columns of the GEMM in parallel
    operand_bits: int = 8
    accumulator_bits: int = 32
    overlap: bool = True  # a fold starts while the one before is in the array, else when it is out
    multiplier_latency: int = 1  # cycles
    adder_latency: int = 1  # cycles
    parts: bool = True  # a small product can work as on a smaller array, with its shorter skews
    registers: RegistersSpec = RegistersSpec()
    dsp_packing: bool = False  # two products of one operand in a DSP slice: no cycle changes

    def __post_init__(self):
        for name in ("rows", "columns", "multiplier_latency", "adder_latency"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} of a PE array must be at least 1, not {getattr(self, name)}"
                )
        if self.operand_bits not in OPERAND_BITS:
            raise ValueError(
                f"operand_bits of a PE array must be {OPERAND_BITS[0]} to {OPERAND_BITS[-1]}, "
                f"not {self.operand_bits}"
            )
        if self.dsp_packing and self.operand_bits > 8:
            raise ValueError(
                f"operand_bits of a PE array with dsp_packing must be at most 8, "
                f"not {self.operand_bits}"
            )
        if self.accumulator_bits < 2 * self.operand_bits:
            raise ValueError(
                f"accumulator_bits must be at least {2 * self.operand_bits} "
                f"for {self.operand_bits}-bit operands, not {self.accumulator_bits}"
            )

    @property
    def macs_per_cycle(self) -> int:
        """Multiply-accumulates of one cycle."""
        return self.rows * self.columns

    @property
    def operand_bytes(self) -> int:
        """Bytes of an operand in an on-chip buffer."""
        return (self.operand_bits + 7) // 8

    @property
    def accumulator_bytes(self) -> int:
        """Bytes of a partial sum in an on-chip buffer."""
        return (self.accumulator_bits + 7) // 8

    @property
    def product_cycles(self) -> int:
        """From the address of the operands of one PE to their product, at the adder."""
        registers = self.registers
        return registers.memory_cycles + registers.operand_cycles + self.multiplier_latency


Holds = Mapping[str, tuple[int, int]]  # resource: from, until, in cycles after the event's issue


class Reservations:
    """When each resource of an array is free again, as events take them one after the other.

    An event is a wavefront: once issued it crosses the array without a stop, so it holds every
    resource at fixed distances from its issue, the port that issues it at 0. It is issued in the
    first cycle that finds all of them free at their time: a maximum of sums, which is why equal
    events soon come at a steady pace (Baccelli et al., "Synchronization and Linearity", 1992).
    """

    def __init__(self):
        self.free_at: dict[str, int] = {}
        self._taken: set[str] = set()

    def take(self, holds: Holds) -> None:
        """Issue an event that takes `holds`."""
        issue = max(self.free_at.get(name, 0) - first for name, (first, _) in holds.items())
        for name, (_, end) in holds.items():
            self.free_at[name] = issue + end
        self._taken |= holds.keys()

    def stream(self, count: int, each: Holds, first: Holds, last: Holds) -> None:
        """`count` equal events, of which the first and the last take some more."""
        if count == 1:
            self.take(_joined(each, first, last))
            return
        self.take(_joined(each, first))
        self.repeat(count - 2, lambda: self.take(each))
        self.take(_joined(each, last))

    def repeat(self, count: int, work: Callable[[], None]) -> None:
        """Do `work` `count` times, in the time of a few.

        The events of `work` see nothing but what they take, and no absolute time. Where all of it
        has moved by the same number of cycles it will do so every time: the rest is a product.
        """
        outer, self._taken = self._taken, set()
        for done in range(1, count + 1):
            before = dict(self.free_at)
            work()
            steps = {self.free_at[name] - before.get(name, 0) for name in self._taken}
            if len(steps) == 1:
                (step,) = steps
                for name in self._taken:
                    self.free_at[name] += step * (count - done)
                break
        self._taken |= outer


def _joined(*parts: Holds) -> Holds:
    """What an event takes that does all of `parts`: a resource from first to last."""
    joined: dict[str, tuple[int, int]] = {}
    for name, (first, end) in (hold for part in parts for hold in part.items()):
        low, high = joined.get(name, (first, end))
        joined[name] = (min(low, first), max(high, end))
    return joined


class PEArray:
    """Runs tiles for their cycles; counts multiply-accumulates and time by cause."""

    def __init__(self, env, spec: PEArraySpec):
        self.spec = spec
        self.occupancy = Occupancy(env)
        self.macs = 0
        self.blends = 0  # words averaged on their way into the weight buffer

    def work(self, tile) -> None:
        """Count the work of `tile`."""
        self.macs += tile.macs
        self.blends += tile.vector_operations
