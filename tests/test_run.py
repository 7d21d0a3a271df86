"""Whole runs: what every report promises, and values and cost that meet in both directions."""

import json
import math
from dataclasses import replace

import numba
import pandas as pd
import pytest

from accsim import energy, engine
from accsim.comparison import compare, told
from accsim.data import DataError, load, load_folder
from accsim.data.augmentation import Mixup, Strong
from accsim.data.corruption import Fog
from accsim.data.disturbance import WHEN, AtRandom, Disturbance, During
from accsim.data.foreign import OutOfDistribution
from accsim.data.stream import DISTURBANCES
from accsim.kernels.fixed_point import random_key
from accsim.ledger import LedgerError
from accsim.report.tables import KINDS
from accsim.run import open_dataset, run, simulate
from accsim.schedule import (
    AlternateTeacher,
    DeferredWriteback,
    FusedUpdate,
    GradientAccumulation,
    LayerwiseEma,
    OverlappedEma,
    SeparateEma,
    TeacherAhead,
)
from accsim.training.consistency import Divergence
from accsim.training.float_learner import InFloat
from accsim.training.mean_teacher import MeanTeacher
from accsim.training.self_taught import SelfTaught
from accsim.training.supervised import Supervised
from accsim.training.temporal_ensembling import TemporalEnsembling
from accsim.training.virtual_adversarial import VirtualAdversarial
from accsim.training.weight_average import Equal, WeightAverage
from accsim.workload import WorkloadError, largest_passes, read_workload


@pytest.fixture
def dataset(pictures):
    return load_folder(pictures, 16)


@pytest.fixture
def workload(write_workload):
    return read_workload(write_workload())


def test_a_run_writes_every_table_and_closes_its_ledgers(workload, dataset, tmp_path):
    out = tmp_path / "report"
    seen = []
    run(workload, out, dataset, on_step=seen.append)
    result = json.loads((out / "result.json").read_text())
    assert [status.step for status in seen] == [1, 2, 3, 4, 5, 6]
    assert result["workload"]["steps"] == 6
    assert result["accuracy"]["test_images"] == 40
    assert result["data"]["stand_in"] is False
    assert set(result["ledgers"]) >= {"ddr_bytes", "ddr_bursts", "macs", "time", "energy", "bound"}
    assert all(book["closed"] for book in result["ledgers"].values())
    steps = pd.read_csv(out / "steps.csv")
    passes = pd.read_csv(out / "passes.csv")
    tensors = pd.read_csv(out / "tensors.csv")
    assert len(steps) == 6
    assert steps["teacher_accuracy"].notna().tolist() == [False] * 3 + [True, False, True]
    counters = pd.read_csv(out / "counters.csv.gz").groupby("step").sum(numeric_only=True)
    assert (counters["saturated"] + counters["overflowed"]).tolist() == steps[
        "saturations"
    ].tolist()
    cost = result["cost"]
    assert passes["macs"].sum() == cost["macs"]
    assert tensors["read_bytes"].sum() == passes["ddr_read_bytes"].sum() == cost["ddr_read_bytes"]
    assert tensors["write_bytes"].sum() == cost["ddr_write_bytes"]
    assert steps["joules"].iloc[-1] == pytest.approx(cost["joules"])
    energy = pd.read_csv(out / "energy.csv")
    assert energy["joules"].sum() == pytest.approx(cost["joules"])
    assert cost["frames_seen"] == 48
    for figure in ("accuracy", "ddr_traffic", "cycles", "energy"):
        assert (out / f"{figure}.png").stat().st_size > 1000
        assert (out / f"{figure}.csv").is_file()


def test_macs_are_those_of_the_passes_that_ran(workload, dataset):
    """By hand: an error of every input pixel meets every weight, except in the first layer."""
    result = simulate(workload, dataset)
    network, granule = workload.network, workload.accelerator.sample_granule
    first, *others = (node for node in network.nodes if node.macs)
    data = sum(node.input.height * node.input.width * node.weights for node in others[:-1])
    each = network.macs + data + others[-1].macs  # backward_weight and backward_data
    expected = 0
    for backward in result.tables.steps["backward_samples"]:
        padded = min(-(-backward // granule) * granule, 16)
        expected += (8 + 16) * network.macs + padded * each
    assert result.summary["cost"]["macs"] == expected
    assert first.inputs == (-1,)


def test_what_the_gate_does_is_counted_by_kind(write_workload, pictures):
    """Of 48 frames, those from 16 to 23 are foggy and a quarter or so shows other pictures."""
    rule = "MeanTeacher(teacher_shift=4, confidence_threshold=0.5)"
    workload = read_workload(write_workload(algorithm=rule))
    foreign = Disturbance(OutOfDistribution(pictures), AtRandom(0.25))
    fog = Disturbance(Fog(5), During(first=16, frames=8))
    disturbed = replace(workload.data, disturbances=(foreign, fog), frames_per_second=10)
    workload = replace(workload, data=disturbed)
    result = simulate(workload, open_dataset(workload, None))
    steps = result.tables.steps
    for fate, total in (
        ("accepted", steps["accepted"]),
        ("rejected", steps["unlabelled_samples"] - steps["accepted"]),
    ):
        assert steps[[f"{fate}_{kind}" for kind in KINDS]].sum(axis=1).equals(total)
    labels = result.tables.pseudo_labels
    assert labels["step"].tolist() == [4, 4, 6, 6]
    assert labels["accepted"].sum() == steps["accepted"].sum() > 0
    assert (steps["frame_error"] > 0).equals(steps["accepted"] > 0)
    gate = result.summary["gate"]
    assert set(gate) == {"clean", "corrupted", "out_of_distribution"}
    seen = {kind: sum(counts.values()) for kind, counts in gate.items()}
    due = foreign.when.due(range(48), random_key(random_key(0, DISTURBANCES, 0), WHEN))
    assert seen["out_of_distribution"] == due.sum() > 0
    assert seen["corrupted"] == 8 - due[16:24].sum()
    assert sum(counts["accepted"] for counts in gate.values()) == steps["accepted"].sum() > 0
    assert result.summary["data"]["others"][0]["name"] == pictures.name
    shifted = result.summary["accuracy"]["shifted"]
    assert set(shifted) == {"Fog(severity=5)"}
    assert shifted["Fog(severity=5)"]["test_images"] == 40


def test_a_run_adapts_to_another_set_and_is_told_by_its_test_images(
    write_workload, tmp_path, monkeypatch
):
    monkeypatch.setenv("ACCSIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("accsim.data.synth_digits.TRAIN_IMAGES", 60)
    monkeypatch.setattr("accsim.data.synth_digits.TEST_IMAGES", 30)
    path = write_workload(
        network="convnet.network(width=4, classes=10, image=Shape(16, 16, 3))",
        algorithm="MeanTeacher(teacher_shift=4, separate_domains=True)",
        data="SemiSupervisedStream(dataset='synth_digits', frames_dataset='synth_digits_colour',"
        " resize=True, labels=20, labelled_per_batch=8, unlabelled_per_batch=8, flip=False)",
    )
    workload = read_workload(path)
    dataset = open_dataset(workload, None)
    assert dataset.train_images.shape == (60, 16, 16, 3)
    summary = run(workload, tmp_path / "report", dataset).summary
    assert summary["data"]["frames_of"] == "synth_digits_colour"
    assert summary["accuracy"]["test_images"] == 30
    page = (tmp_path / "report" / "README.md").read_text()
    assert "Frames and test images are of synth_digits_colour." in page


def test_a_set_that_is_nowhere_has_its_stand_in_among_the_frames(
    write_workload, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        "accsim.run.load", lambda name, folder, on_progress: load(name, allow_download=False)
    )
    monkeypatch.setattr("accsim.data.search.places", lambda folder=None: ())
    monkeypatch.setattr("accsim.data.standin.TRAIN_IMAGES", 20)
    monkeypatch.setattr("accsim.data.standin.TEST_IMAGES", 10)
    workload = read_workload(write_workload(steps="1"))
    digits = Disturbance(OutOfDistribution("mnist"), AtRandom(1.0))
    workload = replace(workload, data=replace(workload.data, disturbances=(digits,)))
    with pytest.warns(UserWarning, match="mnist was not found"):
        dataset = open_dataset(workload, None)
    run(workload, tmp_path / "report", dataset)
    page = (tmp_path / "report" / "README.md").read_text()
    assert "STAND-IN DATA: frames of mnist are not of that set" in page
    assert "**Gate**: the teacher was sure of" in page
    assert (tmp_path / "report" / "accepted_by_kind.png").is_file()


def test_a_set_that_was_not_opened_is_missed_before_time_starts(workload, dataset):
    digits = Disturbance(OutOfDistribution("mnist"), AtRandom(0.5))
    lacking = replace(workload, data=replace(workload.data, disturbances=(digits,)))
    with pytest.raises(DataError, match="pictures0 must be opened together with mnist"):
        simulate(lacking, dataset)


def test_same_seed_same_report_on_any_threads(workload, dataset, tmp_path):
    texts = []
    for threads in (1, min(2, numba.config.NUMBA_NUM_THREADS)):
        numba.set_num_threads(threads)
        run(workload, tmp_path / "report", dataset)
        texts.append((tmp_path / "report" / "result.json").read_bytes())
    assert texts[0] == texts[1]
    other = simulate(replace(workload, seed=1), dataset).summary
    assert (
        other["cost"] != json.loads(texts[0])["cost"]
        or other["accuracy"] != json.loads(texts[0])["accuracy"]
    )


def test_a_slow_camera_makes_the_machine_wait(workload, dataset):
    slow = replace(workload, data=replace(workload.data, frames_per_second=10))
    result = simulate(slow, dataset).summary["cost"]
    assert result["seconds"] >= 48 / 10
    assert result["idle_seconds"] > 4
    assert result["frames_dropped"] == 0


def test_how_a_machine_kept_up_with_its_camera_is_reported(workload, dataset, tmp_path):
    """8 frames a step: of a slow camera the oldest waits for 7 more, and for its own step."""
    slow = replace(workload, data=replace(workload.data, frames_per_second=10))
    run(slow, tmp_path / "slow", dataset)
    found = json.loads((tmp_path / "slow" / "result.json").read_text())["real_time"]
    steps = pd.read_csv(tmp_path / "slow" / "steps.csv")
    spent = steps["step_cycles"] * slow.accelerator.period_ps / 10**12
    assert (steps["worst_latency_seconds"] - spent).tolist() == pytest.approx([0.7] * 6)
    assert (steps["mean_latency_seconds"] - spent).tolist() == pytest.approx([0.35] * 6)
    assert steps["frames_waiting"].tolist() == [8] * 6
    assert (found["deadlines_met"], found["deadline_seconds"]) == (1.0, 0.8)
    assert found["worst_latency_seconds"] == steps["worst_latency_seconds"].max()
    assert (tmp_path / "slow" / "frames_waiting.png").is_file()
    fast = replace(workload, data=replace(workload.data, frames_per_second=10**6))
    found = simulate(fast, dataset).summary["real_time"]
    assert found["deadlines_met"] == 0
    assert found["max_frames_waiting"] == fast.data.buffer_frames
    none = replace(workload.data, unlabelled_per_batch=0)
    none = replace(workload, data=none, algorithm=Supervised())
    assert simulate(none, dataset).summary["real_time"] is None


def test_the_critical_path_of_the_commonest_step_sums_to_it(workload, dataset, tmp_path):
    run(workload, tmp_path / "report", dataset)
    told = json.loads((tmp_path / "report" / "result.json").read_text())["commonest_step"]
    path = pd.read_csv(tmp_path / "report" / "critical_path.csv")
    assert path["cycles"].sum() == pytest.approx(told["cycles"])
    cycles = pd.read_csv(tmp_path / "report" / "steps.csv")["step_cycles"]
    assert (cycles == told["cycles"]).sum() == told["steps"] == cycles.value_counts().max()


def test_the_memory_that_a_run_needs_is_its_ring_buffer_and_the_largest_step(
    workload, dataset, tmp_path
):
    out = tmp_path / "report"
    cost, rows = (run(workload, out, dataset).summary[name] for name in ("cost", "memory"))
    held = {row["memory"]: row["peak_bytes"] for row in rows}
    assert held["ring_buffer"] == 16 * 16 * 16 * 3  # 16 frames of 16x16 pixels
    assert cost["peak_ddr_bytes"] == held.pop("ring_buffer") + held["ddr"]
    assert cost["peak_on_chip_bytes"] == sum(held.values()) - held["ddr"]
    stored = 3 * 2 * workload.network.parameters  # weights, momentum, teacher
    assert held["ddr"] > stored + 16 * 16 * 3 * (8 + 16)  # images of both passes
    assert f"| ddr | {held['ddr']:,} |" in (out / "README.md").read_text()


def test_a_fast_camera_loses_frames(workload, dataset):
    fast = replace(workload, data=replace(workload.data, frames_per_second=10**6))
    assert simulate(fast, dataset).summary["cost"]["frames_dropped"] > 0


def test_schedules_with_one_rule_learn_the_same_and_cost_different(workload, dataset):
    """The teacher of both schedules is the same moving average; only its traffic differs."""
    waiting = replace(workload, data=replace(workload.data, frames_per_second=100))
    separate = simulate(replace(waiting, schedule=SeparateEma()), dataset)
    layerwise = simulate(replace(waiting, schedule=LayerwiseEma()), dataset)
    assert separate.summary["accuracy"] == layerwise.summary["accuracy"]
    deferred = simulate(replace(waiting, schedule=DeferredWriteback(every=3)), dataset)
    columns = ["labelled_correct", "accepted", "teacher_changed"]
    tables = [r.tables.steps[columns] for r in (separate, layerwise, deferred)]
    assert tables[0].equals(tables[1])
    assert not tables[0].equals(tables[2])


def test_schedules_move_the_bytes_of_the_hand_count(workload, dataset):
    """Words of 2 bytes a parameter and step beside the forward's own read: 5, 4 and 3 + 1/n."""
    every, steps = 3, 6
    words = {}
    for schedule in (SeparateEma(), LayerwiseEma(), DeferredWriteback(every=every)):
        tensors = simulate(replace(workload, schedule=schedule), dataset).tables.tensors
        moved = tensors.assign(bytes=tensors["read_bytes"] + tensors["write_bytes"])
        stored = moved[moved["class"].isin(["weights", "teacher"])]
        of_pass = stored.groupby(["class", "pass"])["bytes"].sum()
        own_read = 2 * workload.network.parameters * steps  # the teacher forward's
        followed = of_pass.reindex(
            [("weights", "update"), ("weights", "ema"), ("teacher", "ema"),
             ("weights", "teacher_forward"), ("teacher", "teacher_forward")]
        ).sum()  # fmt: skip
        words[schedule.name] = (followed - own_read) / (2 * workload.network.parameters * steps)
    assert words == {"SeparateEma": 5, "LayerwiseEma": 4, "DeferredWriteback": 3 + 1 / every}


@pytest.mark.parametrize(
    "schedule",
    [
        FusedUpdate(),
        GradientAccumulation(FusedUpdate(), micro_batches=3),
        GradientAccumulation(DeferredWriteback(every=2), micro_batches=8),
        AlternateTeacher(GradientAccumulation(OverlappedEma()), every=2, queue=True),
        TeacherAhead(AlternateTeacher(FusedUpdate(), every=2, queue=True)),
    ],
    ids=told,
)
@pytest.mark.parametrize(
    "rule",
    [MeanTeacher(teacher_shift=4), MeanTeacher(4, separate_domains=True), Supervised()],
)
def test_schedules_close_their_books_with_every_rule(schedule, rule, workload, dataset):
    chosen = replace(workload, schedule=schedule, algorithm=rule)
    summary = simulate(chosen, dataset).summary
    assert all(book["closed"] for book in summary["ledgers"].values())


def test_frames_that_a_resting_teacher_skips_are_dropped(workload, dataset):
    """Steps 1, 3 and 5 of 6 label 8 frames each; no other is lost to a camera that is slow."""
    schedule = AlternateTeacher(GradientAccumulation(LayerwiseEma()), every=2)
    slow = replace(workload, data=replace(workload.data, frames_per_second=100))
    result = simulate(replace(slow, schedule=schedule), dataset)
    assert result.summary["cost"]["frames_seen"] == 3 * 8
    assert result.summary["cost"]["frames_dropped"] == 3 * 8
    assert result.tables.steps["unlabelled_samples"].tolist() == [8, 0, 8, 0, 8, 0]
    assert all(book["closed"] for book in result.summary["ledgers"].values())


def test_a_teacher_without_frames_is_refused(workload):
    none = replace(workload.data, unlabelled_per_batch=0)
    with pytest.raises(ValueError, match="at least 1 for MeanTeacher, which learns from frames"):
        replace(workload, data=none)
    for rule in (Supervised(), WeightAverage()):
        assert replace(workload, data=none, algorithm=rule).data == none


def test_a_queue_loses_no_frame_and_reads_its_teacher_once_a_round(workload, dataset):
    """8 frames a step, 2 steps at once: 6 steps learn from 48, of a camera that is slow."""
    schedule = AlternateTeacher(LayerwiseEma(), every=2, queue=True)
    slow = replace(workload, data=replace(workload.data, frames_per_second=100))
    result = simulate(replace(slow, schedule=schedule), dataset)
    assert result.summary["cost"]["frames_seen"] == 48
    assert result.summary["cost"]["frames_dropped"] == 0
    steps, tensors = result.tables.steps, result.tables.tensors
    assert steps["unlabelled_samples"].tolist() == [8] * 6
    assert steps["frames_waiting"].tolist() == [16, 0] * 3
    wait = steps["worst_latency_seconds"] - steps["step_cycles"] * 1e-8
    assert wait[::2].tolist() == pytest.approx([0.15] * 3)  # for 15 more frames
    forward = tensors[(tensors["class"] == "teacher") & (tensors["pass"] == "teacher_forward")]
    assert forward["read_bytes"].sum() == 3 * 2 * workload.network.parameters
    few = replace(workload.data, buffer_frames=16)
    with pytest.raises(ValueError, match=r"at least the 32 frames of the 4 batches .* not 16"):
        replace(workload, data=few, schedule=AlternateTeacher(LayerwiseEma(), 4, queue=True))


def test_frames_that_are_labelled_ahead_count_in_the_step_that_learns_from_them(workload, dataset):
    """They arrive before the step that labels them begins and wait for the end of the next."""
    result = simulate(replace(workload, schedule=TeacherAhead(LayerwiseEma())), dataset)
    steps = result.tables.steps
    assert steps["unlabelled_samples"].tolist() == [0, 8, 8, 8, 8, 8]
    assert (steps["backward_samples"] == 8 + steps["accepted"]).all()
    assert math.isnan(steps["worst_latency_seconds"][0])
    seconds = steps["step_cycles"] / (workload.accelerator.clock_mhz * 10**6)
    two_steps = (seconds + seconds.shift())[1:]
    assert (steps["worst_latency_seconds"][1:] >= two_steps).all()
    assert result.summary["cost"]["frames_seen"] == 6 * 8
    assert all(book["closed"] for book in result.summary["ledgers"].values())


@pytest.mark.parametrize(
    "schedule",
    [
        SeparateEma(),
        FusedUpdate(),
        LayerwiseEma(),
        DeferredWriteback(every=2),
        GradientAccumulation(LayerwiseEma(), micro_batches=2),
        TeacherAhead(SeparateEma()),
    ],
    ids=told,
)
def test_a_rejected_batch_costs_its_labels_alone(schedule, workload, dataset):
    """Six steps, the last three rejected, beside the first three: only labelling is added."""
    rule = replace(workload.algorithm, confidence_threshold=1.0)
    gated = replace(rule, least_accepted=0.5, ramp_share=0.5)
    six = simulate(replace(workload, schedule=schedule, algorithm=gated), dataset)
    three = simulate(replace(workload, schedule=schedule, algorithm=rule, steps=3), dataset)
    assert all(book["closed"] for book in six.summary["ledgers"].values())
    assert six.tables.steps["backward_samples"].tolist()[3:] == [0] * 3
    columns = ["macs", "cycles_busy", "ddr_read_bytes", "ddr_write_bytes"]
    done, before = (r.tables.passes.groupby("pass")[columns].sum() for r in (six, three))
    added = (done - before)[lambda table: table.any(axis=1)]
    assert set(added.index) == {"teacher_forward", "loss"}
    assert added.loc["teacher_forward", "macs"] == 3 * 8 * workload.network.macs
    columns = ["read_bytes", "write_bytes"]
    done, before = (r.tables.tensors.groupby("class")[columns].sum() for r in (six, three))
    added = done - before
    assert not added.loc[["teacher", "weights", "momentum"], "write_bytes"].any()
    formed_anew = 3 if isinstance(schedule, DeferredWriteback) else 0  # of student and teacher
    words = 2 * workload.network.parameters
    assert added.loc["teacher", "read_bytes"] == 3 * words
    assert added.loc["weights", "read_bytes"] == formed_anew * words


@pytest.mark.parametrize("schedule", [SeparateEma(), FusedUpdate(), LayerwiseEma()], ids=told)
def test_an_average_costs_its_own_words_where_it_moves(schedule, workload, dataset):
    """In 3 or 1 of 6 steps; 3 words of 2 bytes a parameter each, or 2 in the pass of the update."""
    rule = WeightAverage(averaging=Equal(first_share=0.5, every=1))
    gap = WeightAverage(averaging=Equal(first_share=0.5, every=3))
    bytes_moved = []
    for chosen in (rule, gap, Supervised()):
        result = simulate(replace(workload, algorithm=chosen, schedule=schedule), dataset)
        assert all(book["closed"] for book in result.summary["ledgers"].values())
        cost = result.summary["cost"]
        bytes_moved.append(cost["ddr_read_bytes"] + cost["ddr_write_bytes"])
    words = 2 if isinstance(schedule, FusedUpdate) else 3
    each = words * 2 * workload.network.parameters
    assert [moved - bytes_moved[2] for moved in bytes_moved] == [3 * each, each, 0]


def test_a_rule_in_float_is_charged_as_in_fixed_point(workload, dataset):
    """Every frame accepted: the same passes of the same machine, other values."""
    rule = MeanTeacher(confidence_threshold=0.0)
    fixed, real = (
        simulate(replace(workload, algorithm=chosen), dataset) for chosen in (rule, InFloat(rule))
    )
    assert fixed.summary["cost"] == real.summary["cost"]
    assert not real.summary["suspicions"]
    assert real.tables.counters["class"].unique().tolist() == ["teacher"]
    assert fixed.tables.steps["labelled_error"].tolist() != (
        real.tables.steps["labelled_error"].tolist()
    )


@pytest.mark.parametrize(
    "schedule",
    [
        LayerwiseEma(),
        GradientAccumulation(SeparateEma(), micro_batches=2),
        TeacherAhead(SeparateEma()),
        AlternateTeacher(LayerwiseEma(), every=2, queue=True),
    ],
    ids=told,
)
def test_every_view_that_is_labelled_is_charged(schedule, workload, dataset):
    """Twice the teacher's MACs and, in the loss, its logits: 8 frames of 2 classes more a step."""
    one, two = (
        simulate(
            replace(workload, schedule=schedule, data=replace(workload.data, label_views=views),
                    algorithm=MeanTeacher(confidence_threshold=1.0)),
            dataset,
        )
        for views in (1, 2)
    )  # fmt: skip
    assert all(book["closed"] for book in two.summary["ledgers"].values())
    macs = [r.tables.passes.groupby("pass")["macs"].sum() for r in (one, two)]
    assert (macs[1] - macs[0])["teacher_forward"] == macs[0]["teacher_forward"] > 0
    assert (macs[1] - macs[0]).drop("teacher_forward").eq(0).all()
    busy = [r.tables.passes.groupby("pass")["cycles_busy"].sum()["loss"] for r in (one, two)]
    assert busy[1] > busy[0]
    frames = [r.tables.steps["unlabelled_samples"].tolist() for r in (one, two)]
    assert frames[0] == frames[1]
    assert largest_passes(replace(workload, schedule=schedule, data=replace(
        workload.data, label_views=2))).frames == 2 * 8  # fmt: skip


def test_a_student_that_labels_itself_stores_no_teacher(workload, dataset):
    """Two forward passes read its weights; no tensor of a teacher moves but its activations."""
    rule = SelfTaught(confidence_threshold=1.0)
    result = simulate(replace(workload, algorithm=rule), dataset)
    assert all(book["closed"] for book in result.summary["ledgers"].values())
    tensors, passes = result.tables.tensors, result.tables.passes
    assert "teacher" not in set(tensors["class"])
    assert "ema" not in set(passes["pass"])
    read = tensors[tensors["class"].eq("weights")].groupby("pass")["read_bytes"].sum()
    words = 2 * workload.network.parameters
    assert read["teacher_forward"] == 6 * words
    assert 0 < read["student_forward"] <= 6 * words  # what stays on chip is not read again
    macs = passes.groupby("pass")["macs"].sum()
    assert macs["teacher_forward"] == 6 * 8 * workload.network.macs
    assert result.summary["accuracy"]["teacher"] is None


@pytest.mark.parametrize("in_float", [False, True])
@pytest.mark.parametrize("steps", [6, 20])
def test_predictions_of_frames_are_charged_and_must_be_used(steps, in_float, workload, dataset):
    """Of 120 frames, 8 a step, some return in 20 steps and none in 6.

    A prediction is two logits and a count, 16 bits each.
    """
    rule = TemporalEnsembling(confidence_threshold=0.0)
    slow = replace(workload.data, frames_per_second=100)
    result = simulate(
        replace(workload, algorithm=InFloat(rule) if in_float else rule, data=slow, steps=steps),
        dataset,
    )
    summary, tables = result.summary, result.tables
    assert all(book["closed"] for book in summary["ledgers"].values())
    stored = tables.tensors[tables.tensors["class"] == "predictions"]
    assert stored[["tensor", "pass"]].values.tolist() == [["student/predictions", "loss"]]
    assert stored["read_bytes"].tolist() == stored["write_bytes"].tolist() == [steps * 8 * 6]
    assert set(tables.passes["network"]) == {"student"}
    assert tables.passes.groupby("pass")["macs"].sum()["student_forward"] == (
        steps * (8 + 8) * workload.network.macs
    )
    accepted = tables.steps["accepted"]
    assert not accepted[:15].any()
    assert accepted[15:].sum() == max(steps * 8 - 120, 0)
    told = [sentence for sentence in summary["suspicions"] if "came a second time" in sentence]
    assert len(told) == (steps == 6)


def test_labels_that_an_own_output_cannot_be_are_refused(workload):
    rule = TemporalEnsembling()
    for choice, message in (
        (
            {"label_views": 2},
            "label_views of the stream must be 1 for TemporalEnsembling, .* not 2",
        ),
        ({"mixup": Mixup()}, "mixup of the stream must be None for TemporalEnsembling, .* not Mix"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(workload, algorithm=rule, data=replace(workload.data, **choice))
    with pytest.raises(ValueError, match="at least 1 for TemporalEnsembling, which learns from fr"):
        replace(workload, algorithm=rule, data=replace(workload.data, unlabelled_per_batch=0))


def test_virtual_adversarial_training_is_charged_for_its_probes_and_looks_sound(workload, dataset):
    """Beyond the same student without: a forward pass, errors down to the images, and the moves."""
    rule = SelfTaught(
        confidence_threshold=0.0, consistency=Divergence(), consistency_weight=1.0,
        separate_domains=True,
    )  # fmt: skip
    plain, found = (
        simulate(replace(workload, algorithm=each), dataset)
        for each in (rule, VirtualAdversarial(iterations=2))
    )
    assert all(book["closed"] for book in found.summary["ledgers"].values())
    assert not found.summary["suspicions"]
    macs = [result.tables.passes.groupby("pass")["macs"].sum() for result in (plain, found)]
    added = macs[1].drop(macs[0].index)
    assert (macs[1][macs[0].index] == macs[0]).all()
    assert added["probe_forward"] == 6 * 2 * 8 * workload.network.macs
    assert added["probe_backward_data"] > added["probe_forward"]  # 3 x 3 with a frame around it
    assert added.drop(["probe_forward", "probe_backward_data"]).eq(0).all()
    moves = found.tables.tensors[found.tables.tensors["pass"] == "perturb"]
    image = workload.network.image.size
    assert moves[moves["class"] == "images"]["read_bytes"].sum() == 6 * 3 * 8 * image
    steps = found.tables.steps
    assert (steps["frame_error"] > 0).all()
    assert (steps["accepted"] == 8).all()
    counters = found.tables.counters
    assert set(counters["network"]) == {"student", "probe"}
    assert found.summary["accuracy"]["teacher"] is None


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"label_views": 2}, "label_views of the stream must be 1 for"),
        ({"student_augmentation": Strong()}, "student_augmentation of the stream must be None for"),
        ({"mixup": Mixup()}, "mixup of the stream must be None for"),
    ],
)
@pytest.mark.parametrize("wrapped", [lambda rule: rule, InFloat])
def test_frames_that_are_moved_have_one_view(choice, message, wrapped, workload):
    with pytest.raises(ValueError, match=message):
        replace(
            workload,
            algorithm=wrapped(VirtualAdversarial()),
            data=replace(workload.data, **choice),
        )


@pytest.mark.parametrize(
    "schedule",
    [
        LayerwiseEma(),
        GradientAccumulation(SeparateEma(), micro_batches=2),
        TeacherAhead(SeparateEma()),
    ],
    ids=told,
)
@pytest.mark.parametrize("apart", [False, True], ids=["one pass", "domains apart"])
def test_rejected_samples_spare_what_accepted_ones_cost(apart, schedule, workload, dataset):
    """Step by step: the run that accepts all has the difference; of samples, of whole batches."""
    workload = replace(workload, schedule=schedule, steps=4)
    rule = replace(workload.algorithm, ramp_share=0.5, separate_domains=apart)
    accepts, rejects, gated = (
        simulate(replace(workload, algorithm=replace(rule, **choices)), dataset)
        for choices in (
            {"confidence_threshold": 0.0},
            {"confidence_threshold": 1.0},
            {"confidence_threshold": 1.0, "least_accepted": 0.5},
        )
    )
    whole = accepts.tables.steps
    assert not whole["spared_cycles"].any()
    assert accepts.summary["rejected"] is None
    for result in (rejects, gated):
        steps = result.tables.steps
        assert (steps["step_cycles"] + steps["spared_cycles"]).equals(whole["step_cycles"])
        left = whole["step_joules"] - steps["step_joules"] - steps["spared_joules"]
        seconds = steps["spared_cycles"] / (workload.accelerator.clock_mhz * 10**6)
        assert (left >= workload.accelerator.board.static_watts * seconds).all()  # it idles
        assert (steps["spared_joules"] > 0).equals(steps["spared_cycles"] > 0)
    assert gated.summary["rejected"]["whole_batches"] == 2
    assert (gated.tables.steps["spared_cycles"] > rejects.tables.steps["spared_cycles"])[2:].all()


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("network", "resnet.network(width=4, classes=2, image=Shape(16, 16, 3))"),
        ("network", "mlp.network((16,), classes=2, image=Shape(16, 16, 3))"),
        ("network", "mobilenet.network(4, classes=2, image=Shape(16, 16, 3))"),
        ("dataflow", "WeightStationary()"),
        ("algorithm", "Supervised()"),
        ("numerics", "Numerics(weight_bits=4, activation_bits=6, teacher_bits=12)"),
        ("numerics", "Numerics(master_bits=20, teacher_bits=24, error_feedback=True)"),
        ("numerics", "Numerics(weight_scaling=WeightScaling.CHANNEL)"),
    ],
)
def test_every_choice_runs(name, source, write_workload, dataset):
    result = simulate(read_workload(write_workload(**{name: source})), dataset)
    assert all(book["closed"] for book in result.summary["ledgers"].values())


def test_compare_sets_schedules_side_by_side(workload, dataset, tmp_path):
    rivals = [SeparateEma(), DeferredWriteback(every=2)]
    rows = compare(workload, rivals, tmp_path / "out", dataset)
    assert [row["schedule"] for row in rows] == ["SeparateEma", "DeferredWriteback(every=2)"]
    assert told(rivals[1]) == rows[1]["schedule"]
    assert rows[0]["ddr_read_bytes"] > rows[1]["ddr_read_bytes"]
    assert (tmp_path / "out" / "README.md").is_file()


def test_compare_runs_every_schedule_with_every_seed(workload, dataset, tmp_path):
    (row,) = compare(workload, [SeparateEma()], tmp_path / "out", dataset, seeds=2)
    alone = [
        simulate(replace(workload, schedule=SeparateEma(), seed=workload.seed + number), dataset)
        for number in range(2)
    ]
    accuracies = [result.summary["accuracy"]["student"] for result in alone]
    assert row["student_accuracy"] == pytest.approx(sum(accuracies) / 2)
    assert row["student_accuracy_std"] == pytest.approx(abs(accuracies[0] - accuracies[1]) / 2**0.5)
    assert row["cycles"] == round(sum(result.summary["cost"]["cycles"] for result in alone) / 2)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"network": "convnet.network(width=4, classes=3, image=Shape(16, 16, 3))"}, "classes of"),
        ({"network": "convnet.network(width=4, classes=2)"}, "images of network"),
        (
            {
                "accelerator": "replace(boards.PYNQ_Z2, buffers=replace("
                "boards.PYNQ_Z2.buffers, input=BufferSpec(64)))"
            },
            "input",
        ),
        (
            {"numerics": "Numerics(master_rounding=Rounding.STOCHASTIC_LFSR, lfsr_lanes=7)"},
            "lfsr_lanes must be the 8 lanes of the vector unit of PYNQ-Z2, not 7",
        ),
    ],
)
def test_choices_that_do_not_fit_are_refused_before_time_starts(
    choices, message, write_workload, dataset, tmp_path
):
    workload = read_workload(write_workload(**choices))
    with pytest.raises(WorkloadError, match=message):
        run(workload, tmp_path / "report", dataset)
    assert not (tmp_path / "report").exists()


def test_a_mean_only_network_that_diverges_says_so_in_one_sentence(
    write_workload, dataset, tmp_path
):
    network = """Network("wild", Shape(16, 16, 3), (
        Conv2d("conv1", 8, 3), BatchNorm("norm1", LEAKY_RELU, mean_only=True),
        Conv2d("conv2", 8, 3), BatchNorm("norm2", LEAKY_RELU, mean_only=True),
        Conv2d("conv3", 8, 3), BatchNorm("norm3", LEAKY_RELU, mean_only=True),
        Linear("fc", 2)))"""
    rule = "Supervised(optimizer=Sgd(learning_rate=15.0))"
    workload = read_workload(write_workload(network=network, algorithm=rule, steps="30"))
    with pytest.raises(WorkloadError, match=r"^step \d+: a mean-only norm .* lower the learning"):
        run(workload, tmp_path / "report", dataset)


def tampered_timelines(**change):
    """What makes every simulated step report other totals than its parts."""
    honest = engine.simulate
    return lambda *arguments: replace(honest(*arguments), **change)


@pytest.mark.parametrize(
    ("change", "row"),
    [
        ({"dma_bytes": {"read": 1, "write": 0}}, "'ddr_bytes'.*row all"),
        ({"dma_bursts": {"read": 1, "write": 1}}, "'ddr_bursts'.*row reads"),
        ({"array_macs": 5}, "'macs'.*row all"),
        ({"unit_ps": {"pe_array": {"busy": 5}}}, "'time'.*row pe_array"),
        ({"makespan_ps": 5000}, "'time'.*row"),
    ],
    ids=["ddr_bytes", "ddr_bursts", "macs", "time", "makespan"],
)
def test_an_open_ledger_stops_the_run_and_names_its_row(
    change, row, workload, dataset, tmp_path, monkeypatch
):
    monkeypatch.setattr(engine, "simulate", tampered_timelines(**change))
    with pytest.raises(LedgerError, match=row):
        run(workload, tmp_path / "report", dataset)
    assert not list(tmp_path.glob("report*"))


def test_a_joule_too_many_stops_the_run(workload, dataset, tmp_path, monkeypatch):
    honest = energy.account

    def dishonest(timeline, table):
        account = honest(timeline, table)
        account.by_component["ddr"] += 1
        return account

    monkeypatch.setattr(energy, "account", dishonest)
    with pytest.raises(LedgerError, match=r"'energy' does not close.*row ddr"):
        run(workload, tmp_path / "report", dataset)


def test_a_run_faster_than_peak_rates_is_stopped(workload, dataset, tmp_path, monkeypatch):
    """Every count agrees, but in less time than the MACs take: only the bound can tell."""
    honest = engine.simulate

    def hurried(*arguments):
        timeline = honest(*arguments)
        units = {unit: {"busy": 5000} for unit in timeline.unit_ps}
        for record in timeline.records:
            record.share_ps = 0
        timeline.records[0].share_ps = 5000
        return replace(timeline, makespan_ps=5000, unit_ps=units)

    monkeypatch.setattr(engine, "simulate", hurried)
    with pytest.raises(LedgerError, match=r"'bound' does not close.*row MACs"):
        run(workload, tmp_path / "report", dataset)
