"""The five lines, worked by hand."""

import copy

import pytest
from rich.console import Console

from accsim.report.answer import answer, summary_table
from accsim.report.tables import floor, rejected, stream_accuracy


def text_of(table):
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_what_the_networks_make_of_the_stream_is_told(run):
    assert "Stream" not in dict(answer(run.result))
    lines = dict(answer({**run.result, "stream": stream_accuracy(run.tables)}))
    assert lines["Stream"] == (
        "of 192 frames as they came the deployed tells 41.7% right, at worst 25.0% (in the stretch "
        "to step 4); the student tells 50.0% right, at worst 50.0% (in the stretch to step 2); the "
        "teacher tells 75.0% right, at worst 62.5% (in the stretch to step 2)"
    )
    run.result["accuracy"]["deployed"] = 0.5
    assert dict(answer(run.result))["Learned"].endswith(", the deployed network 50.0%")


def test_the_worst_against_the_deployed_network_is_told(run):
    assert "Floor" not in dict(answer(run.result))
    lines = dict(answer({**run.result, "floor": floor(run.tables)}))
    assert lines["Floor"] == (
        "against the deployed network the student tells -25.0 points of the frames right in its "
        "worst stretch (to step 2), and at its lowest 50.0% of the test images (step 2); the "
        "teacher tells -12.5 points of the frames right in its worst stretch (to step 2), and at "
        "its lowest 25.0% of the test images (step 2)"
    )


def test_what_rejected_samples_spare_is_told(run):
    assert "Rejected" not in dict(answer(run.result))
    steps = run.tables.steps
    lines = dict(answer({**run.result, "rejected": rejected(steps)}))
    assert lines["Rejected"] == (
        "56.2% of 384 unlabelled samples have no backward work, which spares 27.3% of the cycles "
        "and 20.0% of the joules of a run that accepts all, even where the machine idles for the "
        "time that it gains"
    )
    steps.loc[0, "labelled_samples"] = 0
    assert (
        "samples (1 whole batches among them) have"
        in dict(answer({**run.result, "rejected": rejected(steps)}))["Rejected"]
    )
    assert rejected(steps.assign(spared_cycles=0)) is None


def test_what_a_guard_did_is_told(run):
    guard = {"images": 200, "checks": 9, "roll_backs": 2, "least_right": 190, "lowest_right": 97}
    lines = dict(answer({**run.result, "guard": guard}))
    assert lines["Guard"] == (
        "the deployed network was put back 2 times in 9 checks: at the lowest 97 of 200 held-out "
        "images were right, and 190 must be"
    )


def test_answer_is_worked_by_hand(run):
    lines = dict(answer(run.result))
    assert lines["Learned"] == (
        "the student gets 75.0% of the 1,000 test images right, its teacher 81.2%"
    )
    assert lines["Speed"] == (
        "10.00 ms and 1,000 cycles a step (40.00 ms for 4 steps, simulated); "
        "the PE array did 50.0% of the MACs it could have done"
    )
    assert lines["Frames"] == (
        "9,600.0 frames a second sustained of 10,000.0 that the camera sent; "
        "16 of 400 dropped (4.0%)"
    )
    assert lines["Energy"] == "500.00 mJ a step, 2.00 J in all, 50.00 W on average"
    assert lines["DDR"] == "150.00 B read and 46.00 B written, 4.90 kB/s"


def test_how_a_run_kept_up_with_its_camera_is_told(run):
    result = copy.deepcopy(run.result)
    assert "Real time" not in dict(answer(result))
    result["real_time"] = {
        "deadline_seconds": 0.02,
        "deadlines_met": 0.5,
        "mean_latency_seconds": 0.047,
        "worst_latency_seconds": 0.089,
        "mean_frames_waiting": 25.0,
        "max_frames_waiting": 30,
    }
    assert dict(answer(result))["Real time"] == (
        "50.0% of the steps met the deadline of 20.00 ms, in which the next step's frames arrive; "
        "from a frame's arrival to the end of its step 47.00 ms, at worst 89.00 ms; "
        "25.0 frames waited in the ring buffer as a step began, at most 30"
    )
    result["real_time"].update(mean_latency_seconds=None, worst_latency_seconds=None)
    assert "arrival" not in dict(answer(result))["Real time"]


def test_share_of_the_peak_is_told_where_the_peak_is_known(run):
    result = copy.deepcopy(run.result)
    result["cost"]["ddr_peak_bytes_per_second"] = 9800
    assert dict(answer(result))["DDR"].endswith("4.90 kB/s or 50.0% of the peak")


def test_no_teacher_and_no_camera_are_said(run):
    result = copy.deepcopy(run.result)
    result["accuracy"]["teacher"] = None
    result["cost"].update(frames_seen=0, frames_dropped=0)
    lines = dict(answer(result))
    assert lines["Learned"] == "the student gets 75.0% of the 1,000 test images right"
    assert lines["Frames"].startswith("no camera")


def test_what_the_gate_let_through_is_told_where_frames_were_bad(run):
    result = copy.deepcopy(run.result)
    result["gate"] = {"clean": {"accepted": 128, "rejected": 112}}
    assert "Gate" not in dict(answer(result))
    result["gate"]["out_of_distribution"] = {"accepted": 400, "rejected": 1040}
    assert dict(answer(result))["Gate"] == (
        "the teacher was sure of 53.3% of 240 clean, 27.8% of 1,440 out of distribution samples"
    )


def test_what_frozen_layers_save_is_told(run):
    assert "Frozen" not in dict(answer(run.result))
    saved = {"saved_cycles": 0.25, "saved_macs": 0.5, "saved_ddr_bytes": 0.125, "saved_joules": 0.2}
    found = {"layers": 8, "layers_with_parameters": 9, **saved}
    assert dict(answer(run.result | {"frozen": found}))["Frozen"] == (
        "8 of 9 layers with parameters do not train, which saves 25.0% of the cycles, 50.0% of the "
        "MACs, 12.5% of the DDR bytes and 20.0% of the joules of a step"
    )


def test_the_accuracy_under_each_shift_is_told(run):
    result = copy.deepcopy(run.result)
    result["accuracy"]["shifted"] = {
        "Fog(severity=4)": {"student": 0.5, "teacher": 0.625, "test_images": 1000},
        "Contrast(severity=1)": {"student": 0.25, "test_images": 1000},
    }
    assert dict(answer(result))["Shifted"] == (
        "under Fog(severity=4) the student gets 50.0% of the 1,000 test images right, its teacher "
        "62.5%; under Contrast(severity=1) the student gets 25.0% of the 1,000 test images right"
    )


def test_a_missing_key_is_named(run):
    result = copy.deepcopy(run.result)
    del result["cost"]["macs"], result["seed"]
    with pytest.raises(ValueError, match=r"missing: seed, cost\.macs"):
        answer(result)


def test_terminal_shows_the_lines_and_warns_of_a_stand_in(run):
    assert "4.0%" in text_of(summary_table(run.result))
    assert "stand-in" not in text_of(summary_table(run.result))
    result = copy.deepcopy(run.result)
    result["data"]["stand_in"] = True
    assert text_of(summary_table(result)).startswith("Stand-in")
    result["data"].update(
        stand_in=False, others=[{"name": "svhn", "source": "drawn shapes", "stand_in": True}]
    )
    assert "frames of svhn are not of that set" in text_of(summary_table(result))
