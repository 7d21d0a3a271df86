"""Parts: the clocks of two simulators' own tables, and nanoseconds rounded the safe way."""

from dataclasses import replace
from fractions import Fraction

import pytest

from accsim.hardware.dram_parts import PARTS, clocks, part

ROW = (
    *("CL", "CWL", "nRCD", "nRP", "nRAS", "nRC", "nCCD_S", "nCCD_L", "nRRD_S", "nRRD_L", "nFAW"),
    *("nWTR_S", "nWTR_L", "nWR", "nRTP", "nRTW", "nRFC", "nREFI"),
)


@pytest.mark.parametrize(
    ("name", "row"),
    [  # DRAMsim3 29817593, DDR4_8Gb_{x16,x8}_2400; Ramulator 2.1 c5b1c3a4, DDR4_2400R
        (
            "DDR4_2400_8Gb_x16",
            (17, 12, 17, 17, 39, 56, 4, 6, 7, 8, 36, 3, 9, 18, 9, 10, 420, 9360),
        ),
        ("DDR4_2400_8Gb_x8", (17, 12, 17, 17, 39, 56, 4, 6, 4, 6, 26, 3, 9, 18, 9, 10, 420, 9360)),
        (
            "DDR4_2400R_8Gb_x16",
            (16, 12, 16, 16, 39, 55, 4, 6, 7, 8, 36, 3, 9, 18, 9, 10, 433, 9364),
        ),
        ("DDR4_2400R_8Gb_x8", (16, 12, 16, 16, 39, 55, 4, 6, 4, 6, 26, 3, 9, 18, 9, 10, 433, 9364)),
    ],
)
def test_namesakes_have_the_timing_of_the_simulators(name, row):
    assert tuple(getattr(part(name), timing) for timing in ROW) == row


@pytest.mark.parametrize(
    ("name", "row"),
    [  # clocks of DRAMsim3's configs of the same chips, tREFI left out
        ("DDR4_2133_8Gb_x8", (16, 11, 16, 16, 36, 52, 4, 6, 4, 6, 23, 3, 8, 16, 8, 10, 374)),
        ("DDR4_2133_4Gb_x16", (16, 11, 16, 16, 36, 52, 4, 6, 6, 7, 32, 3, 8, 16, 8, 10, 278)),
        ("DDR4_2133_4Gb_x16_CL15", (15, 11, 15, 15, 36, 51, 4, 6, 6, 7, 32, 3, 8, 16, 8, 9, 278)),
        ("DDR4_2400_4Gb_x16", (17, 12, 17, 17, 39, 56, 4, 6, 7, 8, 36, 3, 9, 18, 9, 10, 312)),
        ("DDR4_2666_8Gb_x8", (19, 14, 19, 19, 43, 62, 4, 7, 4, 7, 28, 4, 10, 20, 10, 10, 467)),
        ("DDR4_2666_8Gb_x8_CL18", (18, 14, 18, 18, 43, 61, 4, 7, 4, 7, 28, 4, 10, 20, 10, 9, 467)),
        ("DDR4_3200_8Gb_x16", (22, 16, 22, 22, 52, 74, 4, 8, 9, 11, 48, 4, 12, 24, 12, 11, 560)),
        ("DDR4_3200_8Gb_x8", (22, 16, 22, 22, 52, 74, 4, 8, 4, 8, 34, 4, 12, 24, 12, 11, 560)),
    ],
)
def test_nanoseconds_become_the_clocks_of_dramsim3(name, row):
    assert tuple(getattr(part(name), timing) for timing in ROW[:-1]) == row


def test_lpddr4_has_the_clocks_of_dramsys():
    """DRAMSys, JEDEC_8Gb_LPDDR4-3200_16bit.json; its RL and tDQSCK are one CL here."""
    chip = part("LPDDR4_3200_8Gb_x16")
    assert (chip.CL, chip.CWL, chip.nCCD_S) == (28 + 6, 14 + 1, 8)
    assert (chip.nRCD, chip.nRP, chip.nRAS, chip.nRC) == (29, 29, 68, 97)
    assert (chip.nRRD_S, chip.nFAW, chip.nWTR_S, chip.nWR, chip.nRTP) == (16, 64, 16, 29, 12)
    assert (chip.nRFC, chip.nREFI) == (448, 6246)


@pytest.mark.parametrize(
    ("ns", "period", "least", "expected"),
    [
        (350, Fraction(5, 6), 1, 420),  # exactly: floats would say 421
        (350.1, Fraction(5, 6), 1, 421),
        (5.3, Fraction(3, 4), 4, 8),
        (2.5, Fraction(5, 4), 4, 4),
    ],
)
def test_a_time_is_covered_by_the_fewest_whole_clocks(ns, period, least, expected):
    assert clocks(ns, period, least) == expected


def test_refresh_comes_never_later_than_the_datasheet_says():
    for chip in PARTS.values():
        interval_ns = 3904 if chip.name.startswith("LPDDR4") else 7800
        if not chip.name.startswith("DDR4_2400R"):  # Ramulator's own 7800.2
            assert chip.nREFI * chip.tCK_ps <= interval_ns * 1000 * 1.0006  # tCK_ps is rounded


@pytest.mark.parametrize("chip", PARTS.values(), ids=lambda chip: chip.name)
def test_every_part_is_what_its_name_says(chip):
    standard, rate, density, width = chip.name.split("_")[:4]
    assert chip.source
    assert chip.name == next(name for name, value in PARTS.items() if value is chip)
    assert int(rate.rstrip("R")) == pytest.approx(2e6 / chip.tCK_ps, rel=1e-3)
    assert chip.device_bits == int(width[1:])
    bits = 8 * chip.capacity_bytes // chip.chips
    assert bits == int(density[:-2]) * 2**30
    assert {"DDR4": 1.2, "DDR3": 1.35, "LPDDR4": 1.1}[standard] == chip.VDD
    if chip.name.count("_CL"):
        assert chip.name.endswith(f"_CL{chip.CL}")


def test_every_part_that_is_asked_for_is_there():
    for rate in (2133, 2400, 2666, 3200):
        for gbit in (4, 8):
            for pins in (8, 16):
                assert part(f"DDR4_{rate}_{gbit}Gb_x{pins}").nRTW >= 9
    for name in ("DDR3_1066_4Gb_x16", "DDR3_1600_4Gb_x16"):
        assert part(name).bank_groups == 1
    assert part("LPDDR4_2400_8Gb_x16").burst_bytes == 64


def test_ranks_and_channels_multiply_the_capacity_and_channels_the_bandwidth():
    one = part("DDR4_2400_8Gb_x16")
    many = replace(one, ranks=2, channels=4)
    assert many.capacity_bytes == 8 * one.capacity_bytes
    assert many.peak_bytes_per_second == 4 * one.peak_bytes_per_second
    assert many.read_joules == one.read_joules


def test_an_unknown_part_is_told_with_its_neighbours():
    with pytest.raises(ValueError, match=r"such as .*DDR4_2400_8Gb_x16.*, not 'DDR4-2400-8Gb-x16'"):
        part("DDR4-2400-8Gb-x16")
    with pytest.raises(ValueError, match=r"part must be a known one, such as DDR4_2133.*, not ''"):
        part("")
