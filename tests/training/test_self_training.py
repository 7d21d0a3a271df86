"""Teacher, rank, student, fine-tune: what each phase learns from, and what it says that it ran."""

from dataclasses import replace

import numpy as np
import pytest

from accsim.ablation import ablate, choice
from accsim.data.augmentation import Mixup, Strong
from accsim.data.stream import SemiSupervisedStream
from accsim.kernels import loss
from accsim.kernels.augment import IMAGE_BITS, PixelScale
from accsim.numerics import Numerics
from accsim.passes import Kept, Passes
from accsim.report.answer import answer
from accsim.run import open_dataset, simulate
from accsim.schedule import (
    AlternateTeacher,
    DeferredWriteback,
    GradientAccumulation,
    LayerwiseEma,
    SeparateEma,
    SpatialSplit,
    TeacherAhead,
)
from accsim.training.base import Sgd
from accsim.training.fixed_network import Statistics
from accsim.training.parameters import Map
from accsim.training.self_training import NoisyStudent, Phase, RankedPseudoLabels, highest
from accsim.training.supervised import Supervised
from accsim.workload import (
    Pretraining,
    WorkloadError,
    describe,
    largest_passes,
    read_workload,
)

STREAM = SemiSupervisedStream(
    labels=12, labelled_per_batch=12, unlabelled_per_batch=24, translate=1, flip=False
)
RANKED = RankedPseudoLabels(
    k=20, p=2, teacher_share=0.3, rank_share=0.2, fine_tune_share=0.2, optimizer=Sgd(0.05)
)
NOISY = NoisyStudent(k=30, rounds=2, teacher_share=0.2, rank_share=0.25, optimizer=Sgd(0.05))


def run(rule, network, dataset, turn, clock, steps=20, stream=STREAM):
    """A learner after so many steps, its outcomes, and the batches that it saw."""
    learner = rule.start(network, Numerics(), turn, steps, seed=4)
    batches = stream.batches(dataset, clock, steps, 4, looks=lambda step: rule.looks(step, steps))
    seen = [(learner.step(batch), batch) for batch in batches]
    return learner, [outcome for outcome, _ in seen], [batch for _, batch in seen]


def words(student):
    tensors = [*student.parameters.values(), *student.momenta.values()]
    return [tensor.values.tobytes() for tensor in tensors]


def test_shares_of_the_steps_make_the_phases():
    assert [(s.name, s.first, s.last) for s in RANKED.stretches(20)] == [
        ("teacher", 1, 6),
        ("rank", 7, 10),
        ("student", 11, 16),
        ("fine-tune", 17, 20),
    ]
    assert [(s.name, s.first, s.last) for s in NOISY.stretches(20)] == [
        ("teacher", 1, 4),
        ("rank 1", 5, 6),
        ("student 1", 7, 12),
        ("rank 2", 13, 14),
        ("student 2", 15, 20),
    ]
    whole = replace(RANKED, fine_tune_share=0.0).stretches(20)
    assert [s.phase for s in whole] == [Phase.TEACHER, Phase.RANK, Phase.STUDENT]
    assert whole[-1].last == 20


def test_passes_of_the_pipeline_say_what_ran(network, dataset, follow, clock):
    """12 labelled images, 24 frames; the last step of the teacher stores it as an average is."""
    _, outcomes, batches = run(RANKED, network, dataset, follow, clock)
    passes = [outcome.passes for outcome in outcomes]
    alone = Passes(0, 12, 12, ema=False)
    assert passes[:6] == [alone] * 5 + [replace(alone, ema=True)]
    for outcome in outcomes[6:10]:
        kept = outcome.passes.kept
        assert outcome.passes == Passes(24, 0, 0, ema=False, kept=kept)
        assert kept.frames == outcome.accepted <= kept.scores <= 2 * kept.frames
        assert (kept.per_class, kept.soft) == (20, False)
    assert passes[10:16] == [Passes(0, 24, 24, ema=False, kept=Kept(20))] * 6
    assert passes[16:] == [alone] * 4
    assert [len(batch.student_view) for batch in batches] == [0] * 6 + [24] * 4 + [0] * 10
    assert [o.phase for o in outcomes] == [
        s.name for s in RANKED.stretches(20) for _ in range(s.steps)
    ]
    assert all(outcome.frame_error > 0 for outcome in outcomes[10:16])
    assert all(outcome.labelled_error > 0 for outcome in (*outcomes[:6], *outcomes[16:]))


@pytest.mark.parametrize("soft", [False, True])
def test_passes_of_a_noisy_student_say_what_ran(soft, network, dataset, follow, clock):
    """Soft labels wait in DDR, as those of an earlier step do; the last student stays one."""
    _, outcomes, _ = run(replace(NOISY, soft=soft), network, dataset, follow, clock)
    student = Passes(0, 36, 36, ema=False, queued=-24 * soft, kept=Kept(30, soft))
    assert student.labels_read == (24 * soft,)
    assert [outcome.passes for outcome in outcomes[6:12]] == (
        [student] * 5 + [replace(student, ema=True)]
    )
    assert [outcome.passes for outcome in outcomes[14:]] == [student] * 6
    ranking = [outcomes[n].passes for n in (4, 5, 12, 13)]
    assert all((p.teacher_forward, p.student_forward) == (24, 0) for p in ranking)
    assert all(p.kept.frames == p.kept.scores for p in ranking)  # one class a frame


def test_the_teacher_is_that_of_supervised_training(network, dataset, follow, clock):
    """Bit for bit, its rate falling to the end of its own phase."""
    alone = Supervised(optimizer=Sgd(0.05)).start(network, Numerics(), follow, 6, seed=4)
    learner = RANKED.start(network, Numerics(), follow, 20, seed=4)
    for batch in STREAM.batches(dataset, clock, 6, seed=4, looks=lambda step: False):
        assert learner.step(batch).labelled_error == alone.step(batch).labelled_error
    assert words(learner.student) == words(alone.student)
    for name, stored in alone.student.parameters.items():
        assert np.array_equal(learner.teacher.seen[name].values, stored.values)


def test_frames_are_ranked_by_the_probabilities_of_the_teacher_at_rest(
    network, dataset, follow, clock
):
    """A plain sort of the whole stream, labelled as it came by running statistics."""
    learner = RANKED.start(network, Numerics(), follow, 20, seed=4)
    batches = STREAM.batches(dataset, clock, 20, 4, looks=lambda step: RANKED.looks(step, 20))
    scores, pixels, changed = [], [], []
    for step, batch in zip(range(1, 11), batches, strict=False):
        changed.append(learner.step(batch).teacher_changed)
        if step > 6:
            frames = Map(batch.frames, batch.exponent)
            record = learner.executor.forward(
                learner.teacher.seen, frames, Statistics.RUNNING, training=False
            )
            scores.append(loss.softmax(record.logits, loss.EXP2))
            pixels.append(batch.pixels)
    scores, pixels = np.concatenate(scores), np.concatenate(pixels)
    assert changed == [0] * 5 + [1] + [0] * 4
    for c, heap in enumerate(learner.best.heaps):
        offered = [n for n in range(96) if c in np.argsort(-scores[n], kind="stable")[:2]]
        wanted = sorted(offered, key=lambda n: (-scores[n, c], n))[:20]
        assert sorted(-number for _, number in heap) == sorted(wanted)
    for number, held in learner.best.frames.items():
        assert np.array_equal(held.pixels, pixels[number])


def test_of_equal_scores_the_lower_class_is_the_higher():
    scores = np.array([[5, 7, 7, 1], [3, 3, 3, 3]])
    assert highest(scores, 1).tolist() == [[False, True, False, False], [True, False, False, False]]
    assert highest(scores, 3).tolist() == [[True, True, True, False], [True, True, True, False]]
    assert highest(scores, 9).all()


def test_a_noisy_students_frames_are_those_above_the_threshold():
    sure = round(0.3 * 2**15)
    scores = np.array([[sure, 0, sure - 1], [sure + 1, 0, 0], [1, 2, sure + 1]], np.int32)
    assert NOISY.offers(scores).tolist() == [
        [False] * 3,
        [True, False, False],
        [False, False, True],
    ]


def test_a_student_starts_anew_and_its_teacher_stays(network, dataset, follow, clock):
    learner = NOISY.start(network, Numerics(), follow, 20, seed=4)
    teachers, students = [], []
    batches = STREAM.batches(dataset, clock, 20, 4, looks=lambda step: NOISY.looks(step, 20))
    for batch in batches:
        learner.step(batch)
        stored = learner.teacher.seen if learner.teacher else {}
        teachers.append([tensor.values.tobytes() for tensor in stored.values()])
        students.append(words(learner.student))
    assert teachers[3:11] == [teachers[3]] * 8
    assert teachers[11:] == [teachers[11]] * 9
    assert not teachers[2]
    assert teachers[3] != teachers[11]
    assert students[3:6] == [students[3]] * 3  # while the stream is ranked
    one, two = (NOISY.start(network, Numerics(), follow, 20, seed=s).student for s in (4, 5))
    assert words(one) != words(two)
    assert len({str(s) for s in (students[3], students[6], students[14])}) == 3


def test_a_students_step_is_the_mean_cross_entropy_of_images_and_frames(
    network, dataset, follow, clock
):
    """In plain floats from the logits of a copy of the new student: (p - q) / 36."""
    learner = NOISY.start(network, Numerics(), follow, 20, seed=4)
    twin = NOISY.start(network, Numerics(), follow, 20, seed=4)
    batches = STREAM.batches(dataset, clock, 20, 4, looks=lambda step: NOISY.looks(step, 20))
    for step, batch in zip(range(1, 8), batches, strict=False):
        if step == 7:
            twin.done, twin.best, twin.frames_at_once = 7, learner.best, 24
            stretch, seed = twin.stretches[2], twin._seed(2)
            twin.renew(seed)
        outcome = learner.step(batch)
    lesson = twin._lesson(batch, stretch, 0)
    assert (lesson.labelled, lesson.frames) == (12, 24)
    assert (np.abs(lesson.targets.sum(1) - 2**15) <= 2).all()
    logits = twin.student.executor.forward(
        twin.student.parameters, Map(lesson.images, lesson.exponent)
    ).logits[:12]
    p = np.exp(logits / 4096) / np.exp(logits / 4096).sum(1, keepdims=True)
    far = (p - np.eye(3)[batch.labels]) / 36
    assert outcome.labelled_error == pytest.approx(np.linalg.norm(far), rel=0.05)


def test_a_student_sees_new_and_strong_views(network, dataset, follow, clock):
    still = replace(STREAM, translate=0)
    strong = replace(still, student_augmentation=Strong(operations=0, magnitude=0, cutout=3))
    for stream, changes in ((still, False), (strong, True)):
        learner = RANKED.start(network, Numerics(), follow, 20, seed=4)
        batches = stream.batches(dataset, clock, 20, 4, looks=lambda step: RANKED.looks(step, 20))
        for _, batch in zip(range(11), batches, strict=False):
            learner.step(batch)
        pixels = np.stack([held.pixels for held in learner.best.frames.values()])
        seen = batch.view(pixels)
        plain = PixelScale.of(dataset.train_images).apply(pixels)
        assert (seen != plain).any((1, 2, 3)).all() == changes
        assert np.array_equal(seen, batch.view(pixels))


@pytest.mark.parametrize("schedule", [SeparateEma(), LayerwiseEma()])
def test_micro_batches_share_images_and_frames(schedule, network, dataset, clock):
    turn = GradientAccumulation(schedule, micro_batches=2).turn
    _, outcomes, _ = run(NOISY, network, dataset, turn, clock)
    assert outcomes[0].passes.micro_batches == ((6, 6), (6, 6))
    assert outcomes[6].passes.micro_batches == ((18, 18), (18, 18))
    assert outcomes[6].passes.labels_read == (12, 12)


@pytest.mark.parametrize(
    ("rule", "steps", "stream"),
    [
        (replace(RANKED, k=60, p=1), 200, STREAM),
        (replace(NOISY, k=60), 240, STREAM),
        (
            replace(NOISY, k=60, soft=False),
            240,
            replace(STREAM, student_augmentation=Strong(magnitude=5, cutout=2)),
        ),
    ],
    ids=["ranked", "soft", "hard, strong"],
)
def test_a_student_outgrows_its_teacher(rule, steps, stream, network, dataset, follow, clock):
    """Stripes in so much noise that 12 labels teach 250 to 260 of 300 pictures."""
    rng = np.random.default_rng(0)
    train, tested = (
        np.clip(images + rng.normal(0, 80, images.shape), 0, 255).astype(np.uint8)
        for images in (dataset.train_images, dataset.test_images)
    )
    dataset = replace(dataset, train_images=train, test_images=tested)
    test = Map(PixelScale.of(train).apply(tested), -IMAGE_BITS), dataset.test_labels
    learner = rule.start(network, Numerics(), follow, steps, seed=4)
    first = learner.stretches[0].last
    batches = stream.batches(dataset, clock, steps, 4, looks=lambda step: rule.looks(step, steps))
    outcomes, right = [], []
    for batch in batches:
        outcomes.append(learner.step(batch))
        if learner.done in (first, steps):
            right.append(learner.correct(*test))
    assert 220 < right[0]["teacher"] < 270
    assert right[1]["student"] >= right[0]["teacher"] + 20, right
    assert np.median([outcome.unmoved for outcome in outcomes]) < 0.2
    labels = sum(outcome.pseudo_labels(3) for outcome in outcomes)
    assert labels.min() > 0.5 * labels.max()


@pytest.fixture
def workload(write_workload):
    """Twelve steps on a real board: 3 teach, 3 rank, 3 learn, 3 fine-tune."""
    tiny = read_workload(write_workload())
    rule = RankedPseudoLabels(k=6, p=1, teacher_share=0.25, rank_share=0.25, fine_tune_share=0.25)
    return replace(tiny, algorithm=rule, steps=12, evaluate_every=3)


def test_a_run_tells_its_phases_and_charges_them(workload):
    result = simulate(workload, open_dataset(workload, None))
    phases, steps = result.summary["phases"], result.tables.steps
    assert [(row["phase"], row["first_step"], row["last_step"]) for row in phases] == [
        ("teacher", 1, 3),
        ("rank", 4, 6),
        ("student", 7, 9),
        ("fine-tune", 10, 12),
    ]
    assert [row["labelled"] for row in phases] == [0, 24, 0, 0]
    kept = steps["accepted"].sum()
    assert phases[1]["kept"] == kept > 0
    for name in ("seconds", "joules"):
        whole = steps["simulated_seconds" if name == "seconds" else "joules"].iloc[-1]
        assert sum(row[name] for row in phases) == pytest.approx(whole)
    (told,) = (sentence for subject, sentence in answer(result.summary) if subject == "Phases")
    assert told.startswith("teacher to step 3 (")
    assert f"{kept} of 24 frames kept as they came" in told
    found = result.tables.tensors.set_index(["tensor", "pass"])
    assert found.loc[("kept/frames", "keep"), "write_bytes"] == kept * 16 * 16 * 3
    accuracies = steps[["student_accuracy", "teacher_accuracy"]].dropna(how="all")
    assert accuracies["teacher_accuracy"].notna().tolist() == [True, True, False, False]
    assert accuracies["student_accuracy"].notna().tolist() == [False, False, True, True]
    assert [row["accuracy"] for row in phases] == accuracies.max(axis=1).tolist()
    assert phases[0]["accuracy"] == phases[1]["accuracy"]  # the teacher rests
    assert result.summary["accuracy"]["teacher"] is None
    assert result.summary["accuracy"]["student"] == phases[3]["accuracy"]
    assert f"J, {phases[0]['accuracy']:.1%} right); rank to step 6" in told
    assert result.summary["suspicions"] == []


def test_an_ablation_is_of_the_student_and_counts_frames_that_come_again(workload, tmp_path):
    """12 steps of 8 samples; the 3 that rank have no backward pass."""
    over = [choice(workload, "k", (2, 6))]
    rows = ablate(workload, over, 1, tmp_path / "out", open_dataset(workload, None))
    assert [row["backward_share"] for row in rows] == [0.75, 0.75]
    for row in rows:
        assert row["teacher_accuracy"] is None
        assert 0 <= row["student_accuracy"] <= 1


def test_only_steps_that_rank_wait_for_the_camera(workload):
    """Its 8 frames take a second to come; the others go on, and what nobody takes is dropped."""
    slow = replace(workload, data=replace(workload.data, frames_per_second=8))
    result = simulate(slow, open_dataset(workload, None))
    seconds = [row["seconds"] for row in result.summary["phases"]]
    assert seconds[1] == pytest.approx(3, rel=0.05)
    assert sum(seconds[:1] + seconds[2:]) < 1
    assert result.summary["cost"]["frames_seen"] == 24


@pytest.mark.parametrize("stop", [3, 6, 9])
def test_a_run_that_was_stopped_in_any_phase_goes_on(stop, workload, tmp_path):
    """At the end of the teacher, with full heaps, and between student and fine-tuning."""
    dataset, file = open_dataset(workload, None), tmp_path / "some.checkpoint"
    workload = replace(workload, algorithm=replace(workload.algorithm, p=2), evaluate_every=stop)

    def interrupt(status):
        if status.step == stop + 1:
            raise KeyboardInterrupt

    whole = simulate(workload, dataset)
    with pytest.raises(KeyboardInterrupt):
        simulate(workload, dataset, interrupt, file)
    resumed = simulate(workload, dataset, checkpoint=file, resume=True)
    assert resumed.summary == whole.summary
    for name, stored in whole.network.parameters.items():
        assert np.array_equal(stored.values, resumed.network.parameters[name].values)


def test_a_deployed_network_may_be_the_teacher(workload):
    rule = replace(workload.algorithm, teacher_share=0.0)
    with pytest.raises(WorkloadError, match="teacher_share of RankedPseudoLabels must be above 0"):
        simulate(replace(workload, algorithm=rule), open_dataset(workload, None))
    start = Pretraining(Supervised(), workload.data, steps=60)
    workload = replace(workload, algorithm=rule, start=start)
    result = simulate(workload, open_dataset(workload, None))
    phases = result.summary["phases"]
    assert [row["phase"] for row in phases] == ["rank", "student", "fine-tune"]
    assert phases[0]["accuracy"] == result.summary["accuracy"]["deployed"]


def test_the_factory_may_train_in_phases(workload):
    start = Pretraining(workload.algorithm, workload.data, steps=12)
    after = replace(workload, algorithm=Supervised(), start=start, steps=1)
    before = simulate(workload, open_dataset(workload, None))
    deployed = simulate(after, open_dataset(workload, None)).summary["accuracy"]["deployed"]
    assert deployed == before.summary["accuracy"]["student"]


def test_the_largest_step_is_a_students(workload):
    assert largest_passes(workload) == Passes(0, 8, 8, ema=False, kept=Kept(6))
    noisy = replace(workload, algorithm=NOISY)
    assert largest_passes(noisy) == Passes(0, 16, 16, ema=False, queued=-8, kept=Kept(30, True))


def test_choices_are_told(workload):
    assert describe(workload)["algorithm"]["k"] == 6


def test_room_for_frames_beyond_the_memory_is_refused(workload):
    """65,536 frames of each class, 2 x (16 x 16 x 3 + 8) bytes, in 64 MiB."""
    dram = replace(workload.accelerator.dram, rows=workload.accelerator.dram.rows // 8)
    assert dram.capacity_bytes == 1 << 26
    machine = replace(workload.accelerator, dram=dram)
    rule = replace(workload.algorithm, k=1 << 16)
    with pytest.raises(WorkloadError, match="tensors of a step must fit"):
        simulate(
            replace(workload, accelerator=machine, algorithm=rule), open_dataset(workload, None)
        )


@pytest.mark.parametrize(
    "schedule",
    [
        DeferredWriteback(every=2),
        AlternateTeacher(SeparateEma(), every=2),
        AlternateTeacher(SeparateEma(), every=2, queue=True),
        TeacherAhead(SeparateEma()),
        SpatialSplit(teacher_rows=4),
    ],
)
@pytest.mark.parametrize("rule", [RANKED, NOISY])
def test_a_schedule_that_labels_otherwise_is_refused(rule, schedule, network):
    with pytest.raises(ValueError, match=r"schedule of \w+ must label in every step, for that"):
        rule.start(network, Numerics(), schedule.turn, 20, seed=4)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"unlabelled_per_batch": 0}, "unlabelled_per_batch must be at least 1 for NoisyStudent"),
        ({"mixup": Mixup()}, "mixup of the stream must be None for NoisyStudent, not Mixup"),
        ({"label_views": 2}, "label_views of the stream must be 1 for NoisyStudent, not 2"),
    ],
)
def test_a_stream_that_it_cannot_learn_from_is_refused(choices, message, workload):
    with pytest.raises(ValueError, match=message):
        replace(workload, algorithm=NOISY, data=replace(workload.data, **choices))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: replace(RANKED, k=0), "k must be a whole number of 1 to 65536, not 0"),
        (lambda: replace(RANKED, p=0), "p must be a whole number of at least 1, not 0"),
        (lambda: replace(NOISY, rounds=0), "rounds must be a whole number of at least 1, not 0"),
        (
            lambda: replace(NOISY, confidence_threshold=1.0),
            r"confidence_threshold must be at least 0 and less than 1, not 1\.0",
        ),
        (
            lambda: replace(RANKED, rank_share=0.0),
            "shares of RankedPseudoLabels must leave steps for the phase rank, not 0 of them",
        ),
        (
            lambda: replace(RANKED, fine_tune_share=0.5),
            "shares of RankedPseudoLabels must leave steps for the phase student, not 0 of them",
        ),
        (lambda: NOISY.stretches(3), "steps must be enough for one of every phase of NoisyStudent"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_frozen_layer_of_a_random_student_is_refused(network, follow):
    rule = replace(RANKED, optimizer=Sgd(rates=(("conv1", 0.0),)))
    with pytest.raises(ValueError, match="rates of RankedPseudoLabels must freeze no layer"):
        rule.start(network, Numerics(), follow, 20, seed=4)


def test_fine_tuning_may_freeze_layers(network, dataset, follow, clock):
    rule = replace(RANKED, fine_tuning=Sgd(0.01, rates=(("conv1", 0.0),)))
    learner = rule.start(network, Numerics(), follow, 20, seed=4)
    before = None
    batches = STREAM.batches(dataset, clock, 20, 4, looks=lambda step: rule.looks(step, 20))
    for step, batch in enumerate(batches, 1):
        outcome = learner.step(batch)
        if step == 16:
            before = learner.student.parameters["conv1.weight"].values.copy()
    assert outcome.passes.frozen == ("conv1",)
    assert np.array_equal(learner.student.parameters["conv1.weight"].values, before)
