from dataclasses import fields, replace

import pytest

from accsim.hardware.vector_unit import STEPS, VectorUnitSpec, operands

NORM = ("statistics", "normalise", "activate", "pool")


@pytest.mark.parametrize(("words", "cycles"), [(1, 8), (8, 8), (9, 9), (1000, 132)])
def test_update_takes_what_the_register_transfer_model_takes(words, cycles):
    # ceil(words / lanes) + 7, for 8 lanes: tests/rtl/test_vector_unit.py
    assert VectorUnitSpec(lanes=8).cycles(("update",), words) == cycles


def test_a_step_of_many_cycles_holds_its_lane():
    unit = VectorUnitSpec(lanes=4, loss_cycles=8)
    assert unit.operations(("loss",), 10) == 80
    assert unit.cycles(("loss",), 10) == 80 // 4 + 7


def test_a_chain_is_as_slow_as_its_slowest_step_and_does_the_work_of_all():
    unit = VectorUnitSpec(lanes=4, activate_cycles=3)
    assert unit.operations(NORM, 10) == 10 * (1 + 1 + 3 + 1)
    assert unit.cycles(NORM, 10) == -(-10 * 3 // 4) + 7


def test_fused_steps_are_one_pass_and_others_one_each():
    unit = VectorUnitSpec(lanes=4)
    assert unit.passes(NORM) == (NORM,)
    assert replace(unit, fused=False).passes(NORM) == tuple((step,) for step in NORM)


def test_sums_that_are_not_taken_on_arrival_are_a_pass():
    unit = VectorUnitSpec(lanes=4)
    apart = (NORM[:1], NORM[1:])
    assert replace(unit, sums_on_arrival=False).passes(NORM) == apart
    assert unit.passes(NORM, made=False) == apart  # a map from outside arrives at no unit
    assert replace(unit, sums_on_arrival=False).passes(("add",)) == (("add",),)


def test_a_chain_reads_for_all_of_its_steps_and_writes_for_the_last():
    assert operands(NORM).reads == ("input", "parameters")
    assert operands(NORM).writes == ("output",)
    assert operands(("route", "slope", "reduce")).reads == ("error", "input", "parameters")
    assert operands(("route", "slope", "reduce")).writes == ()


def test_every_step_has_its_cycles():
    names = {spec.name for spec in fields(VectorUnitSpec)}
    assert {f"{step}_cycles" for step in STEPS} | {"lanes", "fused", "sums_on_arrival"} == (
        names - {"fill_cycles"}
    )


@pytest.mark.parametrize("name", ["lanes", "pool_cycles", "fill_cycles"])
def test_counts_must_be_at_least_one(name):
    with pytest.raises(ValueError, match=f"{name} of a vector unit must be at least 1, not 0"):
        replace(VectorUnitSpec(lanes=1), **{name: 0})
