import pytest

from accsim.hardware.pe_array import PEArraySpec


def test_accumulator_must_hold_a_product():
    with pytest.raises(ValueError, match=r"accumulator_bits must be at least 16 .* not 15"):
        PEArraySpec(4, 4, operand_bits=8, accumulator_bits=15)


@pytest.mark.parametrize("name", ["rows", "columns", "operand_bits"])
def test_an_array_without_units_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} of a PE array must be at least 1, not 0"):
        PEArraySpec(**{"rows": 4, "columns": 4, name: 0})


def test_words_of_part_bytes_take_whole_bytes():
    array = PEArraySpec(2, 3, operand_bits=6, accumulator_bits=20)
    assert (array.macs_per_cycle, array.operand_bytes, array.accumulator_bytes) == (6, 1, 3)
