"""The vector unit: lanes of 16-bit arithmetic for everything that is not a matrix product.

`STEPS` says what each of its operations reads and writes. Steps that follow each other on one map
are a chain: a fused unit runs a chain in one pass, every word through all of its steps; else each
step is a pass of its own, and what lies between two of them goes through the buffers and, where
it is too large for the chip, through DDR. Fusing saves time and traffic, not arithmetic: both
backward passes of a batch norm then find the maxima and slopes they need again. The values of a run
are those of chains, which round once.

The update and the average are register-transfer code in `tests/rtl/vector_unit.sv`, equal to the
kernels in every bit and to this model in every cycle, for every rounding but that by hash: a hash
takes two 32-bit multiplications a draw, which no lane has.
"""

from dataclasses import dataclass, fields

from accsim.hardware.occupancy import Occupancy
from accsim.units import ceil_div


@dataclass(frozen=True)
class Step:
    """What a step reads and writes, by role, if it is a pass of its own."""

    reads: tuple[str, ...]
    writes: tuple[str, ...] = ()


STEPS = {
    # forward: a map in, a map out; a step reads what the step before it wrote
    "statistics": Step(("input",)),  # two sums a channel: of the words, and of their squares
    "normalise": Step(("input", "parameters"), ("output",)),  # one multiply-add
    "activate": Step(("input",), ("output",)),
    "pool": Step(("input",), ("output",)),  # running maximum
    "average": Step(("input",), ("output",)),
    "add": Step(("input",), ("output",)),  # of two maps
    "narrow": Step(("input",), ("output",)),  # of sums, to the exponent of the largest of them
    # backward: the error of a step's output in, that of its input out; "input" is the step's own
    # or, in a chain, the saved input of the whole layer, of which the lanes make the others again
    "route": Step(("error", "input"), ("below",)),  # of a pool: to where its maximum is found again
    "slope": Step(("error", "input"), ("below",)),  # of an activation, by the sign of its input
    "spread": Step(("error",), ("below",)),  # of an average
    "reduce": Step(("error", "input", "parameters")),  # two sums: of the error, and of it * input
    "apply": Step(("error", "input"), ("below",)),  # a * error + b * input + c
    # words
    "loss": Step(("logits", "labels"), ("error",)),
    "ensemble_loss": Step(("logits", "labels", "predictions"), ("error", "predictions")),
    "accumulate": Step(("sum", "gradient"), ("total",)),  # of micro-batches, exponents aligned
    "update": Step(("weights", "momentum", "gradient"), ("weights", "momentum")),
    "ema": Step(("weights", "teacher"), ("teacher",)),
    "balance": Step(("logits",)),  # a sum a class of the samples' probabilities
    # frames that later steps learn from, copied to where they wait; and the heaps of their scores
    "keep": Step(("frames", "scores"), ("kept", "scores")),
}


def operands(chain: tuple[str, ...]) -> Step:
    """What one pass of `chain` reads and writes.

    Of its steps' reads each once; written is what the last one makes, and what any step keeps: it
    reads that too. The rest goes from step to step on the lanes.
    """
    reads = dict.fromkeys(role for step in chain for role in STEPS[step].reads)
    writes = dict.fromkeys(
        role
        for step in chain
        for role in STEPS[step].writes
        if step == chain[-1] or role in STEPS[step].reads
    )
    return Step(tuple(reads), tuple(writes))


@dataclass(frozen=True)
class VectorUnitSpec:
    """Lanes that take one word each; the cycles of a word differ by step.

    A pass over n words takes ``ceil(n * cycles / lanes) + fill_cycles`` cycles, `cycles` being
    those of the slowest step of its chain. Stochastic rounding costs none: a lane's shift register
    makes its draw, or the two of an updated word, in one cycle (a fixed network of XOR gates).

    `sums_on_arrival`: the two sums of a batch norm's forward pass are taken while the map that it
    normalises leaves the unit that makes it, and take no pass. The hardware for it is a multiplier
    and two adders of 32 bits at the foot of each column of the PE array. Without them, or without
    `fused`, the map is read once more.

    Raises ValueError for a count below 1.
    """

    lanes: int
    fused: bool = True  # chains are one pass
    sums_on_arrival: bool = True
    statistics_cycles: int = 1
    normalise_cycles: int = 1
    activate_cycles: int = 1
    pool_cycles: int = 1
    average_cycles: int = 1
    add_cycles: int = 1
    narrow_cycles: int = 1
    route_cycles: int = 1
    slope_cycles: int = 1
    spread_cycles: int = 1
    reduce_cycles: int = 1
    apply_cycles: int = 1
    loss_cycles: int = 8  # exponential table, sum, division by shift and subtract
    ensemble_loss_cycles: int = 9  # ... and a prediction's multiply-add
    accumulate_cycles: int = 1
    update_cycles: int = 1
    ema_cycles: int = 1
    balance_cycles: int = 8  # as the loss
    keep_cycles: int = 1
    fill_cycles: int = 7  # memory, operands, products, alignment, sum, two roundings

    def __post_init__(self):
        for name in (spec.name for spec in fields(self) if spec.type is int):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} of a vector unit must be at least 1, not {getattr(self, name)}"
                )

    def passes(self, steps: tuple[str, ...], made: bool = True) -> tuple[tuple[str, ...], ...]:
        """The chains that this unit makes of `steps`, one pass each.

        `made`: a unit of the machine makes their input; it is not a map that comes from outside.
        """
        if not self.fused:
            return tuple((step,) for step in steps)
        apart = steps[0] == "statistics" and not (made and self.sums_on_arrival)
        return (steps[:1], steps[1:]) if apart else (steps,)

    def operations(self, chain: tuple[str, ...], words: int) -> int:
        """Lane operations on `words` words: of every step, whether fused or not."""
        return words * sum(self._cycles_of(step) for step in chain)

    def cycles(self, chain: tuple[str, ...], words: int) -> int:
        """Cycles of one pass of `chain` over `words` words."""
        slowest = max(self._cycles_of(step) for step in chain)
        return ceil_div(words * slowest, self.lanes) + self.fill_cycles

    def _cycles_of(self, step: str) -> int:
        return getattr(self, f"{step}_cycles")


class VectorUnit:
    """Runs tiles for their cycles; counts lane operations and time by cause."""

    def __init__(self, env, spec: VectorUnitSpec):
        self.spec = spec
        self.occupancy = Occupancy(env)
        self.operations = 0

    def work(self, tile) -> None:
        """Count the work of `tile`."""
        self.operations += tile.vector_operations
