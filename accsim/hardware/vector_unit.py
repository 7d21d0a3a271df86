"""The vector unit: lanes of 16-bit arithmetic for everything that is not a matrix product."""

from dataclasses import dataclass, fields

from accsim.hardware.occupancy import Occupancy
from accsim.units import ceil_div


@dataclass(frozen=True)
class VectorUnitSpec:
    """Lanes that take one word each; the cycles of a word differ by operation.

    A pass over n words takes ``ceil(n * cycles / lanes) + fill_cycles`` cycles; one cycle a word
    and four of fill are what the register-transfer model of the update and EMA datapath takes.

    Raises ValueError for a count below 1.
    """

    lanes: int
    normalise_cycles: int = 1  # scale, shift, activation, running maximum
    reduce_cycles: int = 1  # the two sums of a batch norm's backward pass
    apply_cycles: int = 1  # a * dz + b * y + c, routed to the maximum's place
    add_cycles: int = 1
    average_cycles: int = 1
    loss_cycles: int = 8  # exponential table, sum, division by shift and subtract
    update_cycles: int = 1
    ema_cycles: int = 1
    fill_cycles: int = 4

    def __post_init__(self):
        for spec in fields(self):
            if getattr(self, spec.name) < 1:
                raise ValueError(
                    f"{spec.name} of a vector unit must be at least 1, "
                    f"not {getattr(self, spec.name)}"
                )

    def operations(self, kind: str, words: int) -> int:
        """Lane operations of `kind` (normalise, reduce, ...) on `words` words."""
        return words * getattr(self, f"{kind}_cycles")

    def cycles(self, kind: str, words: int) -> int:
        """Cycles of one pass of `kind` over `words` words."""
        return ceil_div(self.operations(kind, words), self.lanes) + self.fill_cycles


class VectorUnit:
    """Runs tiles for their cycles; counts lane operations and time by cause."""

    def __init__(self, env, spec: VectorUnitSpec):
        self.spec = spec
        self.occupancy = Occupancy(env)
        self.operations = 0

    def work(self, tile) -> None:
        """Count the work of `tile`."""
        self.operations += tile.vector_operations
