"""Memory chips: energies known from the datasheet currents by hand, mappings that lose no byte."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accsim.hardware.dram import (
    DDR3L_1050_4GBIT_X16,
    DDR4_2400_4GBIT_X16,
    DDR4_2400_8GBIT_X8,
    DDR4_2400_8GBIT_X16,
    RowBankColumn,
    RowColumnBank,
)

PARTS = [DDR4_2400_8GBIT_X16, DDR4_2400_8GBIT_X8, DDR4_2400_4GBIT_X16, DDR3L_1050_4GBIT_X16]
MAPPINGS = [RowBankColumn(), RowColumnBank()]


@pytest.mark.parametrize(
    ("part", "activate_nj", "read_nj", "write_nj", "refresh_nj", "active_mw", "precharged_mw"),
    [  # 1.2 V x mA x clocks x 0.833 ns x chips, worked by hand with nRFC 420 / 421
        (DDR4_2400_8GBIT_X8, 3.46, 2.94, 2.56, 695, 413, 326),
        (DDR4_2400_8GBIT_X16, 8.27, 3.13, 2.89, 391, 226, 163),
    ],
)
def test_energy_of_a_command_is_its_current_above_standby(
    part, activate_nj, read_nj, write_nj, refresh_nj, active_mw, precharged_mw
):
    assert part.activate_joules * 1e9 == pytest.approx(activate_nj, rel=0.01)
    assert part.read_joules * 1e9 == pytest.approx(read_nj, rel=0.01)
    assert part.write_joules * 1e9 == pytest.approx(write_nj, rel=0.01)
    assert part.refresh_joules * 1e9 == pytest.approx(refresh_nj, rel=0.01)
    assert part.active_watts * 1e3 == pytest.approx(active_mw, rel=0.01)
    assert part.precharged_watts * 1e3 == pytest.approx(precharged_mw, rel=0.01)


def test_energy_is_of_the_whole_rank():
    half = replace(DDR4_2400_8GBIT_X16, bus_bits=32)
    assert half.chips == 2
    assert half.read_joules == pytest.approx(DDR4_2400_8GBIT_X16.read_joules / 2)


def test_pump_supply_and_bus_are_apart():
    part = DDR4_2400_8GBIT_X16
    assert part.pump_watts == pytest.approx(2.5 * 4.0e-3 * 4)
    assert part.io_phy_joules_per_byte == pytest.approx(50e-12)


@pytest.mark.parametrize(
    ("part", "gib", "burst_bytes", "row_bytes", "peak_gbps"),
    [
        (DDR4_2400_8GBIT_X16, 4, 64, 8192, 19.2),
        (DDR4_2400_8GBIT_X8, 8, 64, 8192, 19.2),
        (DDR4_2400_4GBIT_X16, 2, 64, 8192, 19.2),
        (DDR3L_1050_4GBIT_X16, 0.5, 16, 2048, 2.1),
    ],
)
def test_geometry(part, gib, burst_bytes, row_bytes, peak_gbps):
    assert part.capacity_bytes == gib * 2**30
    assert (part.burst_bytes, part.row_bytes) == (burst_bytes, row_bytes)
    assert part.peak_bytes_per_second / 1e9 == pytest.approx(peak_gbps, rel=1e-3)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
@pytest.mark.parametrize("mapping", MAPPINGS, ids=lambda mapping: type(mapping).__name__)
@given(data=st.data())
def test_no_two_bursts_share_a_place(part, mapping, data):
    """The mapping is a bijection: the address can be put together again from its place."""
    burst = data.draw(st.integers(0, part.capacity_bytes // part.burst_bytes - 1))
    place, shifts = mapping.locate(part, burst * part.burst_bytes), mapping.shifts(part)
    again = sum(field << shift for field, shift in zip(place, shifts, strict=True))
    assert again == burst


def test_neighbours_change_bank_group_in_one_mapping_and_column_in_the_other():
    part = DDR4_2400_8GBIT_X16
    assert RowColumnBank().locate(part, 64) == (1, 0, 0, 0, 0, 0)
    assert RowColumnBank().locate(part, 2 * 64) == (0, 1, 0, 0, 0, 0)
    assert RowColumnBank().locate(part, 8 * 64) == (0, 0, 0, 1, 0, 0)
    assert RowBankColumn().locate(part, 64) == (0, 0, 0, 1, 0, 0)
    assert RowBankColumn().locate(part, 8192) == (1, 0, 0, 0, 0, 0)
    assert RowBankColumn().locate(part, 65536) == (0, 0, 1, 0, 0, 0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"nRCD": 0}, "nRCD of .* must be 1 or more, not 0"),
        ({"CL": 16.5}, "CL of .* must be 1 or more, not 16.5"),
        ({"ranks": 3}, "ranks of .* must be 1 or 2, not 3"),
        ({"channels": 3}, "channels of .* must be 1, 2 or 4, not 3"),
        ({"rows": 60000}, "rows of .* must be a power of two, not 60000"),
        ({"device_bits": 48}, "bus_bits of .* multiple of device_bits \\(48\\), not 64"),
        ({"banks": 64}, "bank_groups x banks of .* must be at most 32, not 128"),
        ({"nRC": 38}, "nRC of .* must be at least nRAS \\+ nRP \\(56\\), not 38"),
        ({"nCCD_L": 3}, "nCCD_L of .* must be at least nCCD_S \\(4\\), not 3"),
        ({"nRTW": 8}, "nRTW of .* must be at least CL \\+ nBL - CWL \\(9\\), not 8"),
        ({"IDD4R": 40}, "IDD4R of .* must be at least IDD3N \\(47\\), not 40"),
        ({"io_phy_pj_per_byte": 90.0}, "io_phy_pj_per_byte of .* range 33.0 to 77.0, not 90.0"),
    ],
)
def test_a_part_that_cannot_be_built_is_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(DDR4_2400_8GBIT_X16, **change)
