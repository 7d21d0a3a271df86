"""The PE array: a grid of multiply-accumulate units, one per DSP slice."""

from dataclasses import dataclass

from accsim.hardware.occupancy import Occupancy


@dataclass(frozen=True)
class PEArraySpec:
    """Grid of multiply-accumulate units that works on one tile at a time.

    Raises ValueError for a grid without units and for an accumulator too narrow for a product.
    """

    rows: int  # rows of the GEMM in parallel (output stationary), or of K (weight stationary)
    columns: int  # columns of the GEMM in parallel
    operand_bits: int = 8
    accumulator_bits: int = 32
    overlap: bool = True  # a fold starts while the one before drains

    def __post_init__(self):
        for name in ("rows", "columns", "operand_bits"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} of a PE array must be at least 1, not {getattr(self, name)}"
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
