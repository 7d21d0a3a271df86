"""What a memory is: geometry, timings and currents of its chips, and address mappings.

Timings are clocks, ``nXXX``; the rows of the datasheets, in nanoseconds, are in `dram_parts`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, NamedTuple


@dataclass(frozen=True, kw_only=True)
class DramSpec:
    """Equal channels of equal ranks of equal chips: geometry, timings, currents.

    Energies are of one whole rank (all its chips), of the core of the chips only: I/O, termination
    and PHY are the separate `io_phy_joules_per_byte`. Raises ValueError for what cannot be built.
    """

    name: str  # standard_rate_density_width, and the CAS latency where a rate has several bins
    source: str = ""  # datasheets, tables and estimates of this row
    tCK_ps: int  # clock period; data moves on both edges

    channels: int = 1  # each with its own bus and commands
    ranks: int = 1  # on a channel's bus
    bus_bits: int  # of a channel
    device_bits: int  # data pins of a chip
    bank_groups: int
    banks: int  # in a bank group
    rows: int  # in a bank
    columns: int  # in a row; a column is one bus word
    burst_length: int = 8  # bus words

    CL: int  # RD to first data
    CWL: int  # WR to first data
    nRCD: int  # ACT to RD, WR
    nRP: int  # PRE to ACT, REF
    nRAS: int  # ACT to PRE
    nRC: int  # ACT to ACT of a bank
    nCCD_S: int  # RD to RD, WR to WR, other bank group
    nCCD_L: int  # the same bank group
    nRRD_S: int  # ACT to ACT, other bank group
    nRRD_L: int  # the same bank group
    nFAW: int  # ACT to the fourth ACT after it
    nWTR_S: int  # last written data to RD, other bank group
    nWTR_L: int  # the same bank group
    nWR: int  # last written data to PRE
    nRTP: int  # RD to PRE
    nRTW: int  # RD to WR
    nRFC: int  # REF to ACT, REF
    nREFI: int  # REF to REF, average

    VDD: float  # volts
    VPP: float = 0.0  # volts of DDR4's pump supply, LPDDR4's VDD1; 0: the part has none
    IDD0: float  # mA of one chip: ACT, PRE every nRC
    IDD2N: float  # mA: standby, all banks precharged
    IDD3N: float  # mA: standby, a row open
    IDD4R: float  # mA: reads without gap
    IDD4W: float  # mA: writes without gap
    IDD5: float  # mA: REF every nRFC
    IPP0: float = 0.0  # mA from VPP: ACT, PRE every nRC

    io_phy_pj_per_byte: float  # both ends of the bus: drivers, termination, PHY
    io_phy_pj_per_byte_range: tuple[float, float]

    def __post_init__(self):
        for spec in fields(self):
            value = getattr(self, spec.name)
            if spec.type in (int, "int") and (not isinstance(value, int) or value < 1):
                raise ValueError(f"{spec.name} of {self.name} must be 1 or more, not {value}")
        for name, counts in (("channels", (1, 2, 4)), ("ranks", (1, 2))):
            if getattr(self, name) not in counts:
                raise ValueError(
                    f"{name} of {self.name} must be {', '.join(map(str, counts[:-1]))} or "
                    f"{counts[-1]}, not {getattr(self, name)}"
                )
        for name in ("bus_bits", "bank_groups", "banks", "rows", "columns", "burst_length"):
            value = getattr(self, name)
            if value & (value - 1):
                raise ValueError(f"{name} of {self.name} must be a power of two, not {value}")
        if self.bus_bits < 8 or self.bus_bits % self.device_bits:
            raise ValueError(
                f"bus_bits of {self.name} must be whole bytes and a multiple of device_bits "
                f"({self.device_bits}), not {self.bus_bits}"
            )
        if self.bank_groups * self.banks > 32:
            raise ValueError(
                f"bank_groups x banks of {self.name} must be at most 32, "
                f"not {self.bank_groups * self.banks}"
            )
        at_least = (
            ("columns", "burst_length"),
            ("nRAS", "nRCD"),
            ("nCCD_S", "nBL"),
            ("nCCD_L", "nCCD_S"),
            ("nRRD_L", "nRRD_S"),
            ("nFAW", "nRRD_S"),
            ("nWTR_L", "nWTR_S"),
            ("CL", "CWL"),
            ("nREFI", "nRFC"),
            ("IDD0", "IDD2N"),
            ("IDD3N", "IDD2N"),
            ("IDD4R", "IDD3N"),
            ("IDD4W", "IDD3N"),
            ("IDD5", "IDD3N"),
        )
        for name, other in at_least:
            value, least = getattr(self, name), getattr(self, other)
            if value < least:
                raise ValueError(
                    f"{name} of {self.name} must be at least {other} ({least}), not {value}"
                )
        if self.nRC < self.nRAS + self.nRP - 1:
            raise ValueError(
                f"nRC of {self.name} must be at least nRAS + nRP - 1 "
                f"({self.nRAS + self.nRP - 1}; each is rounded up), not {self.nRC}"
            )
        if self.nRTW + self.CWL < self.CL + self.nBL:
            raise ValueError(
                f"nRTW of {self.name} must be at least CL + nBL - CWL "
                f"({self.CL + self.nBL - self.CWL}), not {self.nRTW}: the bus would carry both"
            )
        if self.activate_joules < 0:
            standby = (self.IDD3N * self.nRAS + self.IDD2N * (self.nRC - self.nRAS)) / self.nRC
            raise ValueError(
                f"IDD0 of {self.name} must be at least the standby current of its own cycle of "
                f"nRAS and nRC ({standby:.1f} mA), not {self.IDD0}"
            )
        low, high = self.io_phy_pj_per_byte_range
        if not 0 <= low <= self.io_phy_pj_per_byte <= high:
            raise ValueError(
                f"io_phy_pj_per_byte of {self.name} must be in its range {low} to {high}, "
                f"not {self.io_phy_pj_per_byte}"
            )

    @property
    def nBL(self) -> int:
        """Clocks that a burst holds the data bus."""
        return self.burst_length // 2

    @property
    def chips(self) -> int:
        """Chips of a rank."""
        return self.bus_bits // self.device_bits

    @property
    def burst_bytes(self) -> int:
        """Bytes of one RD or WR: 64 on a 64-bit bus, 16 on a 16-bit bus."""
        return self.bus_bits // 8 * self.burst_length

    @property
    def row_bytes(self) -> int:
        return self.bus_bits // 8 * self.columns

    @property
    def capacity_bytes(self) -> int:
        """Bytes of all ranks of all channels."""
        in_rank = self.bank_groups * self.banks * self.rows * self.row_bytes
        return self.channels * self.ranks * in_rank

    @property
    def peak_bytes_per_second(self) -> float:
        """Of all channels."""
        return self.channels * self.burst_bytes / (self.nBL * self.tCK_ps * 1e-12)

    # Energies of commands and standby. Source of the formulas: Micron TN-40-07, "Calculating
    # Memory Power for DDR4 SDRAM"; a command's energy is what it draws above the standby current.

    @property
    def activate_joules(self) -> float:
        """One ACT and its PRE: VDD (IDD0 nRC - IDD3N nRAS - IDD2N (nRC - nRAS)) tCK."""
        standby = self.IDD3N * self.nRAS + self.IDD2N * (self.nRC - self.nRAS)
        return self._joules(self.IDD0 * self.nRC - standby)

    @property
    def read_joules(self) -> float:
        """One RD: VDD (IDD4R - IDD3N) nBL tCK."""
        return self._joules((self.IDD4R - self.IDD3N) * self.nBL)

    @property
    def write_joules(self) -> float:
        """One WR: VDD (IDD4W - IDD3N) nBL tCK."""
        return self._joules((self.IDD4W - self.IDD3N) * self.nBL)

    @property
    def refresh_joules(self) -> float:
        """One all-bank REF: VDD (IDD5 - IDD3N) nRFC tCK."""
        return self._joules((self.IDD5 - self.IDD3N) * self.nRFC)

    @property
    def active_watts(self) -> float:
        """Standby with at least one row open: VDD IDD3N."""
        return self.VDD * self.IDD3N * 1e-3 * self.chips

    @property
    def precharged_watts(self) -> float:
        """Standby with all rows closed: VDD IDD2N."""
        return self.VDD * self.IDD2N * 1e-3 * self.chips

    @property
    def pump_watts(self) -> float:
        """Upper bound of the VPP supply, VPP IPP0: drawn if rows were opened without pause."""
        return self.VPP * self.IPP0 * 1e-3 * self.chips

    @property
    def io_phy_joules_per_byte(self) -> float:
        """Bus drivers, termination and PHY at both ends, per byte moved; an estimate."""
        return self.io_phy_pj_per_byte * 1e-12

    def _joules(self, milliampere_clocks: float) -> float:
        return self.VDD * milliampere_clocks * 1e-3 * self.tCK_ps * 1e-12 * self.chips


FIELDS = {
    "bg": "bank_group",
    "ba": "bank",
    "ro": "row",
    "co": "column",
    "ra": "rank",
    "ch": "channel",
}


class Location(NamedTuple):
    """Where a burst lives; integers, or where many bursts live, int64[n] each."""

    bank_group: Any
    bank: Any  # in its bank group
    row: Any
    column: Any  # in bursts
    rank: Any = 0  # of its channel
    channel: Any = 0


class Shifts(NamedTuple):
    """Lowest bit of each field in a burst's number (its address / burst_bytes)."""

    bank_group: int
    bank: int
    row: int
    column: int
    rank: int
    channel: int


@dataclass(frozen=True)
class AddressMapping(ABC):
    """Which bits of an address choose channel, rank, bank group, bank, row and column."""

    @property
    @abstractmethod
    def order(self) -> tuple[str, ...]:
        """Fields of `Location` from the least significant, above the bits within a burst."""

    def shifts(self, spec: DramSpec) -> Shifts:
        sizes = _sizes(spec)
        lowest, shift = {}, 0
        for name in self.order:
            lowest[name] = shift
            shift += getattr(sizes, name).bit_length() - 1
        return Shifts(**lowest)

    def locate(self, spec: DramSpec, address: Any) -> Location:
        """The place of the burst that holds byte `address`, or each of int64[n] addresses."""
        burst = address // spec.burst_bytes
        shifts, sizes = self.shifts(spec), _sizes(spec)
        return Location(*((burst >> at) % size for at, size in zip(shifts, sizes, strict=True)))

    def address(self, spec: DramSpec, location: Location) -> Any:
        """First byte of the burst at `location`: what `locate` takes apart."""
        shifts = self.shifts(spec)
        burst = sum(field << at for field, at in zip(location, shifts, strict=True))
        return burst * spec.burst_bytes


def _sizes(spec: DramSpec) -> Location:
    """How many values each field has."""
    return Location(
        bank_group=spec.bank_groups,
        bank=spec.banks,
        row=spec.rows,
        column=spec.columns // spec.burst_length,
        rank=spec.ranks,
        channel=spec.channels,
    )


@dataclass(frozen=True)
class RowColumnBank(AddressMapping):
    """Neighbouring bursts lie in different bank groups, then banks: streams run at nCCD_S."""

    @property
    def order(self):
        return ("bank_group", "bank", "column", "rank", "channel", "row")


@dataclass(frozen=True)
class RowBankColumn(AddressMapping):
    """A whole row of neighbouring bursts lies in one bank: few rows open, streams at nCCD_L."""

    @property
    def order(self):
        return ("column", "bank_group", "bank", "rank", "channel", "row")


@dataclass(frozen=True)
class Permutation(AddressMapping):
    """Fields in any order: ro, ch, ra, ba, bg and co, the most significant first.

    The notation is DRAMsim3's; its default ``rochrababgco`` is `RowBankColumn`, ``rochracobabg``
    is `RowColumnBank`. Raises ValueError unless each field is there once.
    """

    fields: str

    def __post_init__(self):
        if not isinstance(self.fields, str) or sorted(self._pairs) != sorted(FIELDS):
            raise ValueError(
                f"a mapping must name each of {', '.join(FIELDS)} once, the most significant "
                f"first, such as rochrababgco, not {self.fields!r}"
            )

    @property
    def _pairs(self) -> list[str]:
        return [self.fields[at : at + 2] for at in range(0, len(self.fields), 2)]

    @property
    def order(self):
        return tuple(FIELDS[pair] for pair in reversed(self._pairs))


MAPPINGS = {"row_bank_column": RowBankColumn(), "row_column_bank": RowColumnBank()}


def mapping(name: str) -> AddressMapping:
    """The mapping of that name in `MAPPINGS`, or the `Permutation` that it spells.

    Raises ValueError where it is neither.
    """
    if name in MAPPINGS:
        return MAPPINGS[name]
    try:
        return Permutation(name)
    except ValueError as error:
        raise ValueError(
            f"mapping must be {', '.join(MAPPINGS)} or each of {', '.join(FIELDS)} once, the most "
            f"significant first, such as rochrababgco, not {name!r}"
        ) from error
