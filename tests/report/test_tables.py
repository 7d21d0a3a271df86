"""Tables refuse the wrong columns, and their shapes for the figures are worked by hand."""

from dataclasses import replace

import pytest

from accsim.report import tables


def test_a_missing_and_an_unknown_column_are_named(run):
    steps = run.tables.steps.rename(columns={"joules": "jules"})
    with pytest.raises(ValueError, match=r"'steps'.*missing: joules; unknown: jules"):
        replace(run.tables, steps=steps)


def test_a_run_without_steps_is_refused(run):
    with pytest.raises(ValueError, match="at least one row, not none"):
        replace(run.tables, steps=run.tables.steps.head(0))


def test_accuracy_is_told_only_where_it_was_evaluated(run):
    curves = tables.accuracy_curves(run.tables)
    assert curves.values.tolist() == [
        [2, 0.02, 1.0, "student", 0.5],
        [4, 0.04, 2.0, "student", 0.75],
        [2, 0.02, 1.0, "teacher", 0.25],
        [4, 0.04, 2.0, "teacher", 0.8125],
    ]


def test_accepted_shares_of_two_steps_are_their_samples_together(run):
    assert tables.accepted_shares(run.tables).values.tolist() == [
        [1, 0.0],
        [2, 0.25],
        [3, 0.5],
        [4, 1.0],
    ]
    assert tables.accepted_shares(run.tables, points=2).values.tolist() == [[2, 0.125], [4, 0.75]]


def test_supervised_steps_have_no_accepted_share(run):
    steps = run.tables.steps.assign(unlabelled_samples=0, accepted=0)
    assert tables.accepted_shares(replace(run.tables, steps=steps)).empty


def test_every_kind_of_frame_has_its_accepted_share(run):
    """Of 60 clean and 36 foreign samples a step."""
    assert tables.accepted_by_kind(run.tables).values.tolist() == [
        [1, "clean", 0.0],
        [2, "clean", 20 / 60],
        [3, "clean", 48 / 60],
        [4, "clean", 1.0],
        [1, "out_of_distribution", 0.0],
        [2, "out_of_distribution", 4 / 36],
        [3, "out_of_distribution", 0.0],
        [4, "out_of_distribution", 1.0],
    ]
    shares = tables.accepted_by_kind(run.tables, points=1)
    assert shares.values.tolist() == [
        [4, "clean", 128 / 240],
        [4, "out_of_distribution", 40 / 144],
    ]


def test_clean_frames_alone_need_no_shares_by_kind(run):
    steps = run.tables.steps.assign(accepted_out_of_distribution=0, rejected_out_of_distribution=0)
    assert tables.accepted_by_kind(replace(run.tables, steps=steps)).empty


def test_ddr_traffic_adds_the_tensors_of_a_class_in_the_order_of_passes(run):
    assert tables.ddr_traffic(run.tables).values.tolist() == [
        ["student_forward", "activations", "read", 100],
        ["student_forward", "activations", "write", 16],
        ["student_forward", "weights", "read", 20],
        ["student_forward", "weights", "write", 0],
        ["update", "weights", "read", 20],
        ["update", "weights", "write", 20],
        ["ema", "teacher", "read", 10],
        ["ema", "teacher", "write", 10],
    ]


def test_shares_of_a_unit_add_up_to_its_makespan_with_busy_first_and_idle_last(run):
    shares = tables.cycle_shares(run.tables)
    assert shares.values.tolist() == [
        ["vector_unit", "busy", 1000, 0.25],
        ["pe_array", "busy", 2000, 0.5],
        ["pe_array", "operand", 1000, 0.25],
        ["vector_unit", "idle", 3000, 0.75],
        ["pe_array", "idle", 1000, 0.25],
    ]


def test_energy_begins_with_the_component_that_spends_most(run):
    assert tables.energy_shares(run.tables).values.tolist() == [
        ["ddr", "student_forward", 0.5],
        ["ddr", "update", 0.25],
        ["ddr", "ema", 0.5],
        ["pe_array", "student_forward", 0.75],
    ]


def test_clipped_and_still_tensors_are_ranked_by_their_share_of_the_run(run):
    clipped = tables.clipped_tensors(run.tables)
    assert clipped[["network", "tensor", "words", "saturated", "share"]].values.tolist() == [
        ["student", "fc.weight", 40, 1, 1 / 40],
        ["student", "fc.output", 200, 2, 3 / 200],
    ]
    still = tables.still_tensors(run.tables, rows=1)
    assert still[["network", "tensor", "moved", "unmoved", "share"]].values.tolist() == [
        ["teacher", "fc.weight", 8, 12, 12 / 20]
    ]
    assert len(tables.still_tensors(run.tables)) == 2


def test_busiest_passes_tell_their_waits_beside(run):
    busiest = tables.busiest_passes(run.tables, rows=2)
    assert busiest[["pass", "cycles_busy", "share", "waiting"]].values.tolist() == [
        ["student_forward", 1400, 1400 / 3000, 1000],
        ["update", 1000, 1000 / 3000, 0],
    ]
