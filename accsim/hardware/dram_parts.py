"""Memory parts by name: datasheet tables in nanoseconds and milliamperes, made into `DramSpec`s.

A part is a speed (clock, CL-nRCD-nRP) times a chip (density, width). Nanoseconds become clocks by
the exact clock period, rounded up; the refresh interval is rounded down. The usual speed bin of a
rate has the short name, ``DDR4_2400_8Gb_x16``; others name their CL, ``DDR4_2400_8Gb_x16_CL16``.

Sources of the tables
---------------------
Timings: JEDEC JESD79-4B, JESD79-3F and JESD209-4, "Timing parameters by speed grade" and "Refresh
parameters", from memory of them and checked: DDR4's clocks are those of DRAMsim3's configs, but for
tRRD_S of 2666 x16 (8; its 7 clocks are 5.25 of the 5.3 ns) and tREFI of 2133 and 2666 (7.8 us
exactly), those of DDR3-1600 too, but for tRRD (its 6 ns is that of narrower chips); LPDDR4-3200's
are those of DRAMSys's memspec. Currents: Micron's datasheets of the chips, as DRAMsim3's configs
(DDR4, DDR3) and DRAMSys's memspecs (LPDDR4) hold them. The `source` of a row names what is
estimated, or unchecked. nRTW is CL + nBL + turnaround - CWL.

Estimates of bus drivers, termination and PHY, in pJ a byte, are
8 x (milliwatts of a data line / Gbit/s + PHY), rounded up; the milliwatts are those of a
data line and an eighth of its strobe pair's:

- DDR4, POD12 (JESD79-4): a line that is low sinks 1.2 V / (34 + R) ohm x 1.2 V, half of the data
  lines and one of each strobe pair are low; R is 48 ohm, in the range 80 to 34.
- DDR3L, SSTL 1.35 V (JESD79-3): a line draws 0.675 V / (34 + R) ohm x 0.675 V, high or low; R to
  half the supply is 60 ohm, in the range 120 to 40.
- LPDDR4, LVSTL (JESD209-4): a line that is high draws VDDQ x VDDQ / 3 / R, VDDQ being 1.1 V, half
  of the data lines and one of each strobe pair are high; R is 40 ohm, in the range 60 to 40.
- PHY: 1.6 pJ a bit, an estimate between HBM2's 0.8 (PyTorchSim's table) and 4.
"""

import difflib
import math
from dataclasses import replace
from fractions import Fraction
from itertools import product
from typing import Any

from accsim.hardware.dram import DramSpec

# fmt: off
# Nanoseconds and least clocks, by the rate in MT/s or by the data pins of a chip: x8 chips have
# rows of 1 KB, x16 of 2 KB.
DDR4_NS: dict[str, tuple[float, int]] = {
    "nWTR_S": (2.5, 2), "nWTR_L": (7.5, 4), "nWR": (15.0, 1), "nRTP": (7.5, 4), "nREFI": (7800, 1),
}
DDR4_NS_OF_RATE = {
    2133: {"nRAS": (33.0, 1), "nCCD_L": (5.355, 5)},
    2400: {"nRAS": (32.0, 1), "nCCD_L": (5.0, 5)},
    2666: {"nRAS": (32.0, 1), "nCCD_L": (5.0, 5)},
    3200: {"nRAS": (32.0, 1), "nCCD_L": (5.0, 5)},
}
DDR4_NS_OF_ROWS = {
    (2133, 8):  {"nRRD_S": (3.7, 4), "nRRD_L": (5.3, 4), "nFAW": (21.0, 20)},
    (2400, 8):  {"nRRD_S": (3.3, 4), "nRRD_L": (4.9, 4), "nFAW": (21.0, 20)},
    (2666, 8):  {"nRRD_S": (3.0, 4), "nRRD_L": (4.9, 4), "nFAW": (21.0, 20)},
    (3200, 8):  {"nRRD_S": (2.5, 4), "nRRD_L": (4.9, 4), "nFAW": (21.0, 20)},
    (2133, 16): {"nRRD_S": (5.3, 4), "nRRD_L": (6.4, 4), "nFAW": (30.0, 28)},
    (2400, 16): {"nRRD_S": (5.3, 4), "nRRD_L": (6.4, 4), "nFAW": (30.0, 28)},
    (2666, 16): {"nRRD_S": (5.3, 4), "nRRD_L": (6.4, 4), "nFAW": (30.0, 28)},
    (3200, 16): {"nRRD_S": (5.3, 4), "nRRD_L": (6.4, 4), "nFAW": (30.0, 28)},
}
DDR4_TRFC_NS = {4: 260, 8: 350}  # by Gbit of a chip
DDR4_CLOCKS = {  # rate: tCK in ns, CL = nRCD = nRP with the usual bin first, CWL
    2133: (Fraction(15, 16), (16, 15), 11),
    2400: (Fraction(5, 6),   (17, 16), 12),
    2666: (Fraction(3, 4),   (19, 18), 14),
    3200: (Fraction(5, 8),   (22, 20), 16),
}
# Milliamperes of a chip. Rate, Gbit, pins: IDD0, IDD2N, IDD3N, IDD4R, IDD4W, IDD5, IPP0
DDR4_CURRENTS = {
    (2133, 8, 16): (75, 33, 44, 225, 225, 280, 4.0),
    (2400, 8, 16): (80, 34, 47, 243, 228, 280, 4.0),
    (2666, 8, 16): (85, 35, 50, 263, 244, 280, 4.0),
    (3200, 8, 16): (95, 37, 56, 302, 278, 280, 4.0),
    (2133, 8, 8):  (45, 33, 40, 125, 115, 250, 3.0),
    (2400, 8, 8):  (48, 34, 43, 135, 123, 250, 3.0),
    (2666, 8, 8):  (51, 35, 46, 146, 132, 250, 3.0),
    (3200, 8, 8):  (57, 37, 52, 168, 150, 250, 3.0),
    (2133, 4, 16): (65, 42, 55, 195, 250, 170, 3.6),
    (2400, 4, 16): (65, 45, 60, 205, 285, 175, 3.6),
    (2666, 4, 16): (70, 50, 65, 225, 310, 175, 3.6),
    (3200, 4, 16): (80, 60, 75, 265, 360, 175, 3.6),  # continued from 2400 and 2666
    (2133, 4, 8):  (55, 42, 55, 135, 155, 170, 3.0),
    (2400, 4, 8):  (60, 45, 60, 145, 175, 175, 3.0),
    (2666, 4, 8):  (65, 50, 65, 170, 195, 175, 3.0),
    (3200, 4, 8):  (75, 60, 75, 220, 235, 175, 3.0),  # continued from 2400 and 2666
}
DDR4_SOURCE = "JESD79-4B, checked with DRAMsim3; currents of Micron's datasheet as in DRAMsim3"
DDR4_CONTINUED = "JESD79-4B, checked with DRAMsim3; currents: estimate, from 2400 and 2666"

DDR3_NS: dict[str, tuple[float, int]] = {
    "nWTR_S": (7.5, 4), "nWTR_L": (7.5, 4), "nWR": (15.0, 1), "nRTP": (7.5, 4),
    "nRFC": (260, 1), "nREFI": (7800, 1),  # 4 Gbit
}
DDR3_NS_OF_RATE = {  # x16
    1066: {"nRAS": (37.5, 1), "nRRD_S": (10.0, 4), "nRRD_L": (10.0, 4), "nFAW": (50.0, 1)},
    1600: {"nRAS": (35.0, 1), "nRRD_S": (7.5, 4), "nRRD_L": (7.5, 4), "nFAW": (40.0, 1)},
}
DDR3_CLOCKS = {  # name: tCK in ns, CL = nRCD = nRP, CWL, rate whose nanoseconds the chip keeps
    "DDR3_1050_4Gb_x16": (Fraction(40, 21), 8, 6, 1600),
    "DDR3_1066_4Gb_x16": (Fraction(15, 8), 7, 6, 1066),
    "DDR3_1066_4Gb_x16_CL8": (Fraction(15, 8), 8, 6, 1066),
    "DDR3_1600_4Gb_x16": (Fraction(5, 4), 11, 8, 1600),
}
DDR3_CURRENTS = (66, 32, 47, 235, 171, 235, 0.0)
DDR3_SOURCE = "JESD79-3F; currents of Micron's MT41K256M16-125 as in DRAMsim3"
DDR3_SLOWER = f"{DDR3_SOURCE}, upper bound; timings from memory, unchecked"

LPDDR4_NS: dict[str, tuple[float, int]] = {
    "nRCD": (18.0, 4), "nRP": (18.0, 3), "nRAS": (42.0, 3), "nRRD_S": (10.0, 4),
    "nRRD_L": (10.0, 4), "nFAW": (40.0, 1), "nWTR_S": (10.0, 8), "nWTR_L": (10.0, 8),
    "nWR": (18.0, 6), "nRTP": (7.5, 8), "nRFC": (280, 1), "nREFI": (3904, 1),  # 8 Gbit a channel
}
LPDDR4_CLOCKS = {  # rate: tCK in ns, read latency and tDQSCK of 3.5 ns, write latency and tDQSS
    2400: (Fraction(5, 6), 24 + 5, 12 + 1),
    3200: (Fraction(5, 8), 28 + 6, 14 + 1),
}
LPDDR4_CURRENTS = {  # of one channel of a chip; VDD is VDD2 and VPP is VDD1
    2400: (45, 27, 30, 213.75, 165, 90, 3.5),  # IDD4: the same energy a burst as at 3200
    3200: (45, 27, 30, 275, 210, 90, 3.5),
}
LPDDR4_SOURCE = "JESD209-4, two channels in step; currents of Micron's chip as in DRAMSys"
LPDDR4_SLOWER = f"{LPDDR4_SOURCE}; IDD4: estimate; latencies from memory, unchecked"
# fmt: on


def part(name: str) -> DramSpec:
    """The part of that name; raises ValueError, with the nearest names, if there is none."""
    if name not in PARTS:
        near = difflib.get_close_matches(name, PARTS, n=3, cutoff=0.4) or list(PARTS)[:3]
        raise ValueError(f"part must be a known one, such as {', '.join(near)}, not {name!r}")
    return PARTS[name]


def clocks(ns: float, tCK: Fraction, least: int = 1) -> int:
    """Clocks of `tCK` nanoseconds that cover `ns`: the fewest, and `least` or more."""
    return max(least, math.ceil(Fraction(str(ns)) / tCK))


def bus_pj_per_byte(standard: str, gbit_per_second: float) -> dict[str, Any]:
    """The fields of a `DramSpec` that hold the estimate of drivers, termination and PHY.

    `standard` is DDR4, DDR3 (at 1.35 V) or LPDDR4. The formulas are at the head of this file.
    """
    if standard == "DDR4":
        line_mw = [1200 * 1.2 / (34 + ohm) * (1 / 2 + 1 / 8) for ohm in (80, 48, 34)]
    elif standard == "DDR3":
        line_mw = [675 * 0.675 / (34 + ohm) * (1 + 2 / 8) for ohm in (120, 60, 40)]
    else:
        line_mw = [1100 * 1.1 / 3 / ohm * (1 / 2 + 1 / 8) for ohm in (60, 40, 40)]
    low, likely, high = (
        float(math.ceil(8 * (line / gbit_per_second + phy)))
        for line, phy in zip(line_mw, (0.8, 1.6, 4.0), strict=True)
    )
    return {"io_phy_pj_per_byte": likely, "io_phy_pj_per_byte_range": (low, high)}


def _spec(
    name: str, tCK: Fraction, ns: dict[str, tuple[float, int]], currents, **values: Any
) -> DramSpec:
    """A row from its datasheet tables."""
    nXXX = {key: clocks(time, tCK, least) for key, (time, least) in ns.items()}
    nXXX["nREFI"] = math.floor(ns["nREFI"][0] / tCK)
    names = ("IDD0", "IDD2N", "IDD3N", "IDD4R", "IDD4W", "IDD5", "IPP0")
    values = {**nXXX, **dict(zip(names, currents, strict=True)), **values}
    return DramSpec(
        name=name,
        tCK_ps=round(1000 * tCK),
        nRC=values["nRAS"] + values["nRP"],
        **bus_pj_per_byte(name.split("_")[0], float(2 / tCK)),
        **values,
    )


def _ddr4(rate: int, gbit: int, pins: int, CL: int) -> DramSpec:
    tCK, bins, CWL = DDR4_CLOCKS[rate]
    bin_name = "" if bins[0] == CL else f"_CL{CL}"
    ns = DDR4_NS | DDR4_NS_OF_RATE[rate] | DDR4_NS_OF_ROWS[rate, pins]
    return _spec(
        f"DDR4_{rate}_{gbit}Gb_x{pins}{bin_name}",
        tCK,
        ns | {"nRFC": (DDR4_TRFC_NS[gbit], 1)},
        DDR4_CURRENTS[rate, gbit, pins],
        source=DDR4_CONTINUED if (rate, gbit) == (3200, 4) else DDR4_SOURCE,
        bus_bits=64,
        device_bits=pins,
        bank_groups=32 // pins,
        banks=4,
        rows=gbit * 8192,
        columns=1024,
        CL=CL,
        CWL=CWL,
        nRCD=CL,
        nRP=CL,
        nCCD_S=4,
        nRTW=CL + 4 + 1 - CWL,
        VDD=1.2,
        VPP=2.5,
    )


def _ddr3(name: str) -> DramSpec:
    tCK, CL, CWL, rate = DDR3_CLOCKS[name]
    return _spec(
        name,
        tCK,
        DDR3_NS | DDR3_NS_OF_RATE[rate],
        DDR3_CURRENTS,
        source=DDR3_SOURCE if name == "DDR3_1600_4Gb_x16" else DDR3_SLOWER,
        bus_bits=16,
        device_bits=16,
        bank_groups=1,
        banks=8,
        rows=32768,
        columns=1024,
        CL=CL,
        CWL=CWL,
        nRCD=CL,
        nRP=CL,
        nCCD_S=4,
        nCCD_L=4,
        nRTW=CL + 4 + 2 - CWL,
        VDD=1.35,
    )


def _lpddr4(rate: int) -> DramSpec:
    tCK, CL, CWL = LPDDR4_CLOCKS[rate]
    return _spec(
        f"LPDDR4_{rate}_8Gb_x16",
        tCK,
        LPDDR4_NS,
        LPDDR4_CURRENTS[rate],
        source=LPDDR4_SOURCE if rate == 3200 else LPDDR4_SLOWER,
        bus_bits=32,
        device_bits=16,
        bank_groups=1,
        banks=8,
        rows=65536,
        columns=1024,
        burst_length=16,
        CL=CL,
        CWL=CWL,
        nCCD_S=8,
        nCCD_L=8,
        nRTW=CL + 8 + 2 - (CWL - 1),
        VDD=1.1,
        VPP=1.8,
    )


def _ramulator(pins: int) -> DramSpec:
    """Ramulator 2.1's preset 2400R: tRFC of 360 ns, a turnaround of two clocks, tCK 0.833 ns."""
    return replace(
        _ddr4(2400, 8, pins, 16),
        name=f"DDR4_2400R_8Gb_x{pins}",
        source="Ramulator 2.1, DDR4_2400R; currents of Micron's datasheet as in DRAMsim3",
        nRTW=10,
        nRFC=433,
        nREFI=9364,
    )


PARTS: dict[str, DramSpec] = {
    spec.name: spec
    for spec in (
        *(
            _ddr4(rate, gbit, pins, CL)
            for rate, (_, bins, _) in DDR4_CLOCKS.items()
            for gbit, pins, CL in product((4, 8), (8, 16), bins)
        ),
        *(_ramulator(pins) for pins in (8, 16)),
        *(_ddr3(name) for name in DDR3_CLOCKS),
        *(_lpddr4(rate) for rate in LPDDR4_CLOCKS),
    )
}
