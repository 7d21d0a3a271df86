import pytest

from accsim.hardware.vector_unit import VectorUnitSpec


@pytest.mark.parametrize(("words", "cycles"), [(1, 5), (8, 5), (9, 6), (1000, 129)])
def test_update_takes_what_the_register_transfer_model_takes(words, cycles):
    # measured: ceil(words / lanes) + 4, for 8 lanes
    assert VectorUnitSpec(lanes=8).cycles("update", words) == cycles


def test_an_operation_of_many_cycles_holds_its_lane():
    unit = VectorUnitSpec(lanes=4, loss_cycles=8)
    assert unit.operations("loss", 10) == 80
    assert unit.cycles("loss", 10) == 80 // 4 + 4


def test_lanes_must_exist():
    with pytest.raises(ValueError, match="lanes of a vector unit must be at least 1, not 0"):
        VectorUnitSpec(lanes=0)
