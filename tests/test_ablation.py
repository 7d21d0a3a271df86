"""The `ablate` command: choices, their values and seeds, gains told seed by seed."""

import json

import pandas as pd
import pytest
from click.testing import CliRunner

from accsim.__main__ import main
from accsim.ablation import choice, parsed
from accsim.numerics import Rounding
from accsim.report.ablation import ACCEPTED, LOST, drawn, summary, told
from accsim.workload import WorkloadError, read_workload


def call(path, *words):
    return CliRunner().invoke(main, ["ablate", str(path), *words])


def over(workload, text):
    return choice(workload, *parsed(text))


def run(value, seed, teacher, **changed):
    return {
        "threshold": value,
        "seed": seed,
        "student_accuracy": 0.1,
        "teacher_accuracy": teacher,
        "backward_share": 0.5,
        "cycles": 100,
        "joules": 2.0,
        "ddr_bytes": 3_000_000,
        "accuracy_at_equal_seconds": teacher,
        "accuracy_at_equal_joules": teacher,
        **dict.fromkeys((*LOST, *ACCEPTED)),
        **changed,
    }


def test_means_spreads_and_gains_are_those_counted_by_hand():
    rows = [run(0.0, 0, 0.50), run(0.0, 1, 0.60), run(0.9, 0, 0.53), run(0.9, 1, 0.61)]
    first, second = summary(["threshold"], rows).to_dict("records")
    assert (first["accuracy"], second["accuracy"]) == (pytest.approx(0.55), pytest.approx(0.57))
    assert first["accuracy_std"] == pytest.approx(0.05 * 2**0.5)  # n - 1
    assert second["gain"] == pytest.approx((0.03 + 0.01) / 2)  # seed by seed
    assert second["gain_std"] == pytest.approx(0.01 * 2**0.5)
    assert told(["threshold"], summary(["threshold"], rows))[1]["gain"] == "2.00 +- 1.41 points"


def test_without_a_teacher_the_student_counts_and_one_seed_has_no_spread():
    found = summary(["threshold"], [run(0.0, 0, None), run(0.9, 0, None, student_accuracy=0.3)])
    assert list(found["accuracy"]) == [0.1, 0.3]
    assert found["accuracy_std"].isna().all()
    assert told(["threshold"], found)[1]["accuracy"] == "30.00 %"


def test_gains_in_a_grid_leave_the_other_choice_as_it_is():
    rows = [
        run(0.0, 0, 0.50, share=0.1),
        run(0.0, 0, 0.40, share=None),
        run(0.9, 0, 0.55, share=0.1),
        run(0.9, 0, 0.60, share=None),
    ]
    names = ["threshold", "share"]
    found = summary(names, rows)
    assert found["gain"].tolist() == pytest.approx([0, 0, 0.05, 0.2])
    assert [row["gain"] for row in told(names, found)] == ["", "", "5.00 points", "20.00 points"]
    lines = drawn(names, found)
    assert lines["value"].tolist() == ["0.0", "0.0", "0.9", "0.9"]
    assert lines["line"].tolist() == ["share 0.1", "share None"] * 2


def test_kinds_of_frames_are_told_where_some_were_bad():
    only_clean = run(0.0, 0, 0.5, accepted_clean=0.25)
    assert not any(
        "accepted" in head for head in told(["threshold"], summary(["threshold"], [only_clean]))[0]
    )
    bad = {**only_clean, "accepted_out_of_distribution": 0.125}
    (row,) = told(["threshold"], summary(["threshold"], [bad]))
    assert (row["accepted clean"], row["accepted out of distribution"]) == ("25.0%", "12.5%")


def test_what_fixed_point_lost_is_told_as_far_as_there_is_something_to_lose():
    lost = {"unmoved": 0.25, "underflowed": 0.5, "saturated": 0.0001}
    (row,) = told(["threshold"], summary(["threshold"], [run(0.0, 0, 0.5, **lost)]))
    assert [row[name] for name in lost] == ["25.00%", "50.00%", "0.01%"]
    assert "teacher unmoved" not in row
    assert row["DDR MB"] == "3.00"


def test_members_of_an_enumeration_go_by_their_names(write_workload, tmp_path):
    workload = read_workload(write_workload())
    by_name = over(workload, "master_rounding=HALF_UP,STOCHASTIC")
    assert by_name == choice(workload, "master_rounding", (Rounding.HALF_UP, Rounding.STOCHASTIC))
    assert by_name.values == ("HALF_UP", "STOCHASTIC")
    assert by_name.on(workload, "HALF_UP").numerics.master_rounding is Rounding.HALF_UP
    assert over(workload, "labels=10, 20").values == (10, 20)
    with pytest.raises(WorkloadError, match="scaling=NEVER: scaling must be DELAYED, CURRENT, ST"):
        over(workload, "numerics.scaling=DELAYED,NEVER").on(workload, "NEVER")


def test_exact_scaling_clips_no_map_and_pays_in_bytes_and_cycles(write_workload, tmp_path):
    """The exponent is that of the map itself: its largest word fits; but its sums must wait."""
    out = tmp_path / "sweep"
    scales = "numerics.scaling=DELAYED,CURRENT,STATIC"
    ran = call(write_workload(), "--over", scales, "--out", str(out))
    assert ran.exit_code == 0, ran.output
    delayed, exact, fixed = pd.read_csv(out / "runs.csv").to_dict("records")
    assert delayed["saturated"] > exact["saturated"] == 0
    assert fixed["saturated"] > 0
    assert exact["ddr_bytes"] > delayed["ddr_bytes"] == fixed["ddr_bytes"]
    assert exact["cycles"] > delayed["cycles"] == fixed["cycles"]


def test_every_value_runs_with_every_seed_and_the_folder_holds_all_of_it(write_workload, tmp_path):
    out = tmp_path / "sweep"
    ran = call(
        write_workload(), "--over", "confidence_threshold=0,1", "--seeds=2", "--out", str(out)
    )
    assert ran.exit_code == 0, ran.output
    runs = pd.read_csv(out / "runs.csv")
    assert list(zip(runs["confidence_threshold"], runs["seed"], strict=True)) == [
        *((0, 0), (0, 1), (1, 0), (1, 1)),
    ]
    taught, rejected = runs["backward_share"][:2], runs["backward_share"][2:]
    assert (taught == 1).all()  # of 8 labelled and 8 unlabelled samples all, or the labelled alone
    assert (rejected == 0.5).all()
    assert runs["joules"][:2].min() > runs["joules"][2:].max()
    assert (runs["accepted_clean"] == [1, 1, 0, 0]).all()
    assert runs["accepted_corrupted"].isna().all()
    ends = runs["seconds"].idxmin()  # at equal time: the run that ends first has its last accuracy
    assert runs["accuracy_at_equal_seconds"][ends] == runs["teacher_accuracy"][ends]
    assert json.loads((out / "ablation.json").read_text())["over"] == ["confidence_threshold"]
    assert (out / "ablation.png").stat().st_size > 1000
    assert "confidence_threshold" in (out / "README.md").read_text()


def test_without_over_the_workloads_file_says_what_and_several_make_a_grid(
    write_workload, tmp_path
):
    path = write_workload(steps="1")
    path.write_text(
        path.read_text() + "over = {'confidence_threshold': (0.0, 1.0), 'labels': (10, 20)}\n"
    )
    ran = call(path, "--out", str(tmp_path / "sweep"))
    assert ran.exit_code == 0, ran.output
    runs = pd.read_csv(tmp_path / "sweep" / "runs.csv")
    assert list(zip(runs["confidence_threshold"], runs["labels"], strict=True)) == [
        *((0, 10), (0, 20), (1, 10), (1, 20)),
    ]


@pytest.mark.parametrize("over", ["", "over = {'labels': 10}", "over = ('labels', (10, 20))"])
def test_a_file_that_does_not_say_what_to_ablate_is_one_sentence(write_workload, over):
    path = write_workload()
    path.write_text(path.read_text() + over)
    ran = call(path)
    assert ran.exit_code == 2
    assert "--over must name a choice" in " ".join(ran.output.split())


def test_a_choice_is_found_where_the_workload_keeps_it(write_workload):
    workload = read_workload(write_workload())
    assert over(workload, "confidence_threshold=0,0.5").path == (
        *("algorithm", "confidence_threshold"),
    )
    rate = over(workload, "optimizer.learning_rate=0.1,0.2")
    assert rate.path == ("algorithm", "optimizer", "learning_rate")
    assert rate.on(workload, 0.2).algorithm.optimizer.learning_rate == 0.2
    assert over(workload, "labels=10,20").path == ("data", "labels")
    assert over(workload, "master_bits=8,16").path == ("numerics", "master_bits")


def test_a_choice_may_lie_in_a_tuple(write_workload):
    noise = "Disturbance(GaussianNoise(severity=2), AtRandom(share=0.1))"
    path = write_workload(data=f"SemiSupervisedStream(disturbances=({noise}, {noise}))")
    path.write_text(
        "from accsim.data.corruption import GaussianNoise\n"
        "from accsim.data.disturbance import AtRandom, Disturbance\n" + path.read_text()
    )
    workload = read_workload(path)
    share = over(workload, "disturbances.1.when.share=0,0.1,0.3")
    changed = share.on(workload, 0.3).data.disturbances
    assert [disturbance.when.share for disturbance in changed] == [0.1, 0.3]
    run = over(workload, "disturbances.0.when.mean_run=None,50")  # what is left out counts too
    assert run.on(workload, 50).data.disturbances[0].when.mean_run == 50
    with pytest.raises(
        WorkloadError, match=r"one of data\.disturbances\.0\.when\.share, data\.dis"
    ):
        over(workload, "share=0,0.1")
    with pytest.raises(WorkloadError, match="share=2: share must be 0 to 1, not 2"):
        share.on(workload, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("confidence_threshold", "--over must be a name and its values"),
        ("confidence_threshold=a b", "--over must be a name and its values"),
        ("confidence_threshold=0.5", "two different values or more"),
        ("confidence_threshold=0.5,0.5", "two different values or more"),
        ("threshold=0,1", "--over must name a field of the workload, such as algorithm.conf"),
        ("name=1,2", "--over must name one of accelerator.board.name, accelerator.name"),
    ],
)
def test_a_choice_that_cannot_be_is_one_sentence(write_workload, text, message):
    with pytest.raises(WorkloadError, match=message):
        over(read_workload(write_workload()), text)


def test_a_value_that_cannot_be_is_told_before_anything_runs(write_workload, tmp_path):
    out = tmp_path / "sweep"
    ran = call(write_workload(), "--over", "confidence_threshold=0,2", "--out", str(out))
    assert ran.exit_code == 2
    assert "--over confidence_threshold=2: confidence_threshold must be 0 to 1" in " ".join(
        ran.output.split()
    )
    assert not out.exists()


def test_a_deployed_network_is_set_beside_what_adapts(write_workload, tmp_path):
    """At a learning rate of 0 nothing is gained but by statistics, and the floor is told."""
    path = write_workload(
        start="Pretraining(Supervised(), SemiSupervisedStream(dataset=Path(PICTURES), labels=20,"
        " labelled_per_batch=8, unlabelled_per_batch=0, translate=1, flip=False), steps=40)",
        steps="4",
        evaluate_every="2",
    )
    path.write_text(
        path.read_text().replace("import Workload", "import Pretraining, Workload")
        + "over = {'algorithm.optimizer.learning_rate': (0.0, 0.05)}\n"
    )
    out = tmp_path / "online"
    ran = call(path, "--seeds=2", "--out", str(out))
    assert ran.exit_code == 0, ran.output
    assert "worst stretch of the stream" in ran.output
    found = pd.read_csv(out / "online.csv")
    assert (
        found["place"].tolist()
        == [
            *("test images", "frames of the stream", "worst stretch of the stream"),
        ]
        * 2
    )
    still = found.set_index("place").iloc[:3]
    assert (still.loc["test images", ["deployed", "adapted"]] == 1).all()
    assert still.loc["worst stretch of the stream", "gain"] == 0
    page = (out / "README.md").read_text()
    assert "What adapting gains" in page
    assert "no guard" in page
    assert (out / "stream.png").stat().st_size > 1000
    assert set(pd.read_csv(out / "stream.csv")["step"]) == {2, 4}
