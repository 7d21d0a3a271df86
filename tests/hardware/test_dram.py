"""Memory chips: energies known from the datasheet currents by hand, mappings that lose no byte."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accsim.hardware.dram import (
    FIELDS,
    Location,
    Permutation,
    RowBankColumn,
    RowColumnBank,
    mapping,
)
from accsim.hardware.dram_parts import part as part_named

X16, X8 = part_named("DDR4_2400_8Gb_x16"), part_named("DDR4_2400_8Gb_x8")
DDR3, LPDDR4 = part_named("DDR3_1050_4Gb_x16"), part_named("LPDDR4_2400_8Gb_x16")
PARTS = [X16, X8, DDR3, LPDDR4, replace(X16, ranks=2, channels=4)]
permutations = st.permutations(list(FIELDS)).map(lambda fields: Permutation("".join(fields)))
mappings = st.sampled_from([RowBankColumn(), RowColumnBank()]) | permutations


@pytest.mark.parametrize(
    ("part", "activate_nj", "read_nj", "write_nj", "refresh_nj", "active_mw", "precharged_mw"),
    [  # 1.2 V x mA x clocks x 0.833 ns x chips, worked by hand with nRFC 420 / 421
        (X8, 3.46, 2.94, 2.56, 695, 413, 326),
        (X16, 8.27, 3.13, 2.89, 391, 226, 163),
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
    half = replace(X16, bus_bits=32)
    assert half.chips == 2
    assert half.read_joules == pytest.approx(X16.read_joules / 2)


def test_pump_supply_and_bus_are_apart():
    part = X16
    assert part.pump_watts == pytest.approx(2.5 * 4.0e-3 * 4)
    assert part.io_phy_joules_per_byte == pytest.approx(50e-12)


@pytest.mark.parametrize(
    ("part", "gib", "burst_bytes", "row_bytes", "peak_gbps"),
    [
        (X16, 4, 64, 8192, 19.2),
        (X8, 8, 64, 8192, 19.2),
        (part_named("DDR4_2400_4Gb_x16"), 2, 64, 8192, 19.2),
        (LPDDR4, 2, 64, 4096, 9.6),
        (DDR3, 0.5, 16, 2048, 2.1),
    ],
)
def test_geometry(part, gib, burst_bytes, row_bytes, peak_gbps):
    assert part.capacity_bytes == gib * 2**30
    assert (part.burst_bytes, part.row_bytes) == (burst_bytes, row_bytes)
    assert part.peak_bytes_per_second / 1e9 == pytest.approx(peak_gbps, rel=1e-3)


@given(part=st.sampled_from(PARTS), order=mappings, data=st.data())
def test_an_address_can_be_put_together_again_from_its_place(part, order, data):
    """No two bursts share a place, whatever the mapping."""
    address = data.draw(st.integers(0, part.capacity_bytes - 1))
    place = order.locate(part, address)
    assert order.address(part, place) == address // part.burst_bytes * part.burst_bytes


@given(part=st.sampled_from(PARTS), order=mappings, data=st.data())
def test_every_place_has_an_address_within_the_capacity(part, order, data):
    limits = Location(
        part.bank_groups,
        part.banks,
        part.rows,
        part.columns // part.burst_length,
        part.ranks,
        part.channels,
    )
    place = Location(*(data.draw(st.integers(0, limit - 1)) for limit in limits))
    address = order.address(part, place)
    assert 0 <= address < part.capacity_bytes
    assert order.locate(part, address) == place


@given(part=st.sampled_from(PARTS), data=st.data())
def test_the_named_mappings_are_permutations_of_dramsim3(part, data):
    address = data.draw(st.integers(0, part.capacity_bytes - 1))
    for name, spelt in (("row_bank_column", "rochrababgco"), ("row_column_bank", "rochracobabg")):
        assert mapping(name).locate(part, address) == mapping(spelt).locate(part, address)


def test_a_permutation_puts_its_last_field_lowest():
    order, memory = Permutation("bgbarocorach"), replace(X16, ranks=2, channels=2)
    assert order.locate(memory, 64) == Location(0, 0, 0, 0, rank=0, channel=1)
    assert order.locate(memory, 2 * 64) == Location(0, 0, 0, 0, rank=1, channel=0)
    assert order.locate(memory, 4 * 64) == Location(0, 0, 0, 1)
    assert order.locate(memory, memory.capacity_bytes // 2) == Location(1, 0, 0, 0)


@pytest.mark.parametrize("fields", ["rochrababg", "rochrababgro", "rochrababgcox", "", "columns"])
def test_a_mapping_without_each_field_once_is_refused(fields):
    with pytest.raises(ValueError, match=f"must name each of bg, ba, ro, .* not '{fields}'"):
        Permutation(fields)
    with pytest.raises(ValueError, match=f"row_bank_column, row_column_bank or .* not '{fields}'"):
        mapping(fields)


def test_neighbours_change_bank_group_in_one_mapping_and_column_in_the_other():
    part = X16
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
        ({"nRC": 54}, "nRC of .* must be at least nRAS \\+ nRP - 1 \\(55; .*\\), not 54"),
        ({"nRCD": 40}, "nRAS of .* must be at least nRCD \\(40\\), not 39"),
        ({"IDD0": 40}, "IDD0 of .* standby current of its own cycle .*43.1 mA.*, not 40"),
        ({"nCCD_L": 3}, "nCCD_L of .* must be at least nCCD_S \\(4\\), not 3"),
        ({"nRTW": 8}, "nRTW of .* must be at least CL \\+ nBL - CWL \\(9\\), not 8"),
        ({"IDD4R": 40}, "IDD4R of .* must be at least IDD3N \\(47\\), not 40"),
        ({"io_phy_pj_per_byte": 90.0}, "io_phy_pj_per_byte of .* range 33.0 to 77.0, not 90.0"),
    ],
)
def test_a_part_that_cannot_be_built_is_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(X16, **change)
