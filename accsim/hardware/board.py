"""The board that carries a machine: what its device offers, and the power that it always draws."""

from dataclasses import dataclass

from accsim.units import KIB


@dataclass(frozen=True)
class BoardSpec:
    """What the board offers: device resources (data sheet) and power that is always drawn."""

    name: str
    source: str  # the data sheets of the numbers below
    dsp_slices: int
    luts: int
    flip_flops: int
    bram36: int  # blocks of 36 Kib
    uram: int  # blocks of 288 Kib
    static_watts: float  # device leakage, processor system and regulators, without the DDR
    static_watts_range: tuple[float, float]

    def __post_init__(self):
        for name, least in (
            ("dsp_slices", 1),
            ("luts", 1),
            ("flip_flops", 1),
            ("bram36", 1),
            ("uram", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(
                    f"{name} of board {self.name} must be at least {least}, "
                    f"not {getattr(self, name)}"
                )
        low, high = self.static_watts_range
        if not 0 <= low <= self.static_watts <= high:
            raise ValueError(
                f"static_watts of board {self.name} must be in its range {low} to {high}, "
                f"not {self.static_watts}"
            )

    @property
    def memory_bytes(self) -> int:
        """Bytes of data in block RAM and UltraRAM: 32 of 36 Kib and 256 of 288, no parity."""
        return self.bram36 * 4 * KIB + self.uram * 32 * KIB
