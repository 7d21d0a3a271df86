"""Tables refuse the wrong columns, and their shapes for the figures are worked by hand."""

from dataclasses import replace

import pandas as pd
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


def test_a_stream_is_lowest_in_one_of_its_stretches(run):
    stream = tables.stream_accuracy(run.tables)
    assert stream == {
        "deployed": {"frames": 192, "accuracy": 80 / 192, "lowest": 0.25, "lowest_step": 4},
        "student": {"frames": 192, "accuracy": 0.5, "lowest": 0.5, "lowest_step": 2},
        "teacher": {"frames": 192, "accuracy": 0.75, "lowest": 0.625, "lowest_step": 2},
    }
    none = replace(run.tables, on_stream=run.tables.on_stream.head(0))
    assert tables.stream_accuracy(none) is None


def test_the_floor_is_the_stretch_that_compares_worst(run):
    """By hand: 48, 32 and 40 of 64, then 32, 64 and 104 of 128, are right."""
    found = tables.floor(run.tables)
    assert found == {
        network: {
            "least_gain": gain,
            "least_gain_step": 2,
            "lowest_test": lowest,
            "lowest_test_step": 2,
        }
        for network, gain, lowest in (("student", -0.25, 0.5), ("teacher", -0.125, 0.25))
    }
    none = replace(run.tables, on_stream=run.tables.on_stream.head(0))
    assert tables.floor(none) is None


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


def test_what_a_run_lost_is_told_in_shares_of_the_words_that_could_be_lost(run):
    assert tables.lost_shares(run.tables) == {
        "unmoved": 5 / 40,
        "teacher_unmoved": 12 / 20,
        "underflowed": 4 / 40,
        "saturated": (2 + 1 + 1) / 310,  # two clipped and one overflowed, then another clipped
    }
    counters = run.tables.counters
    alone = replace(run.tables, counters=counters[counters["network"] == "student"])
    assert tables.lost_shares(alone)["teacher_unmoved"] is None


def test_busiest_passes_tell_their_waits_beside(run):
    busiest = tables.busiest_passes(run.tables, rows=2)
    assert busiest[["pass", "cycles_busy", "share", "waiting"]].values.tolist() == [
        ["student_forward", 1400, 1400 / 3000, 1000],
        ["update", 1000, 1000 / 3000, 0],
    ]


def test_real_time_is_worked_by_hand():
    """Steps of 15, 35, 60 and 20 ms for a camera of 20 frames in 20 ms, and a buffer of 30."""
    steps = pd.DataFrame(
        {
            "step_cycles": [15, 35, 60, 20],
            "unlabelled_samples": [20, 20, 20, 20],
            "frames_waiting": [20, 20, 30, 30],
            "mean_latency_seconds": [0.0245, 0.0445, 0.0795, 0.0395],
            "worst_latency_seconds": [0.034, 0.054, 0.089, 0.049],
        }
    )
    found = tables.real_time(steps, deadline_ps=20 * 10**9, period_ps=10**9)
    assert found == {
        "deadline_seconds": 0.02,
        "deadlines_met": 0.5,
        "mean_latency_seconds": pytest.approx(0.047),
        "worst_latency_seconds": 0.089,
        "mean_frames_waiting": 25.0,
        "max_frames_waiting": 30,
    }
    assert tables.real_time(steps, deadline_ps=None, period_ps=10**9) is None


def test_latencies_are_of_the_frames_that_were_learned_from():
    """Two frames of 1 s and six of 2 s are 1.75 s; no step that learned from none counts."""
    steps = pd.DataFrame(
        {
            "step_cycles": [1, 1, 1],
            "unlabelled_samples": [2, 0, 6],
            "frames_waiting": [2, 6, 6],
            "mean_latency_seconds": [1.0, float("nan"), 2.0],
            "worst_latency_seconds": [1.0, float("nan"), 3.0],
        }
    )
    found = tables.real_time(steps, 1, 1)
    assert (found["mean_latency_seconds"], found["worst_latency_seconds"]) == (1.75, 3.0)
    found = tables.real_time(steps[1:2], 1, 1)
    assert found["mean_latency_seconds"] is found["worst_latency_seconds"] is None


def test_the_ring_buffer_over_time_keeps_its_fullest_step(run):
    whole = tables.frames_waiting(run.tables)
    assert whole.values.tolist() == [
        [0.01, 96, 96],
        [0.02, 100, 100],
        [0.03, 130, 130],
        [0.04, 128, 128],
    ]
    halves = tables.frames_waiting(run.tables, points=2)
    assert halves.values.tolist() == [[0.02, 98, 100], [0.04, 129, 130]]
    nothing = run.tables.steps.assign(frames_waiting=0)
    assert tables.frames_waiting(replace(run.tables, steps=nothing)).empty


def test_the_longest_waits_are_shares_of_the_step(run):
    waits = tables.longest_waits(run.tables, rows=2)
    assert waits[["pass", "unit", "share"]].values.tolist() == [
        ["student_forward", "pe_array", 0.35],
        ["update", "vector_unit", 0.25],
    ]
