"""The command line: what it prints, and one sentence with exit status 2 for every mistake."""

import re
import tarfile

import pytest
from click.testing import CliRunner

from accsim.__main__ import main


def call(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_run_ends_with_the_path_of_the_report(write_workload, tmp_path):
    out = tmp_path / "report"
    ran = call("run", write_workload(), "--steps", 3, "--seed", 5, "--out", out)
    assert ran.exit_code == 0, ran.output
    assert ran.output.splitlines()[-1] == str(out / "README.md")
    assert '"seed": 5' in (out / "result.json").read_text()


def test_quiet_prints_the_path_alone(write_workload, tmp_path):
    out = tmp_path / "report"
    ran = call("run", write_workload(), "--steps", 2, "--out", out, "--quiet")
    assert ran.output == f"{out / 'README.md'}\n"


def test_compare_explains_every_schedule_in_a_line(write_workload, tmp_path):
    out = tmp_path / "compared"
    ran = call("compare", write_workload(), "--steps", 2, "--out", out)
    assert ran.exit_code == 0, ran.output
    for schedule in ("SeparateEma", "LayerwiseEma", "DeferredWriteback(every=8)"):
        assert re.search(rf"^{re.escape(schedule)}: \w+", ran.output, re.MULTILINE)


def test_boards_and_data_are_listed(tmp_path):
    assert "boards.ZCU104" in call("boards").output
    listed = call("data", "--data", tmp_path)
    assert listed.exit_code == 0
    assert "cifar10" in listed.output


def truncated_archive(folder):
    """A CIFAR-10 archive whose second half is missing."""
    folder.mkdir()
    image = folder / "0.jpg"
    image.write_bytes(bytes(range(256)) * 200)
    path = folder / "cifar10-images.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(image, "train/airplane/0.jpg")
    image.unlink()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return folder


def mistakes():
    """(what, arguments from (write_workload, tmp_path), words of the sentence)."""
    small_buffer = (
        "replace(boards.PYNQ_Z2, buffers=replace(boards.PYNQ_Z2.buffers, input=BufferSpec(64)))"
    )
    cifar = "SemiSupervisedStream()"
    network = "convnet.network(width=4)"
    return [
        ("negative steps", lambda w, t: ["run", w(), "--steps", "-1"], "steps must be a whole"),
        ("negative seed", lambda w, t: ["run", w(), "--seed", "-1"], "seed must be a whole"),
        (
            "unknown schedule",
            lambda w, t: ["compare", w(), "--schedules", "Fastest"],
            "--schedules must be a list of SeparateEma, LayerwiseEma, DeferredWriteback",
        ),
        (
            "schedule with a bad setting",
            lambda w, t: ["compare", w(), "--schedules", "DeferredWriteback(every=0)"],
            "every must be a whole number of at least 1, not 0",
        ),
        ("no such file", lambda w, t: ["run", t / "none.py"], "there is no such file"),
        ("no workload", lambda w, t: ["run", written(t, "steps = 3\n")], "must define `workload"),
        ("syntax error", lambda w, t: ["run", written(t, "\nx = (\n")], "line 2"),
        ("failing file", lambda w, t: ["run", written(t, "\n\nx = undefined\n")], "in line 3"),
        (
            "missing data folder",
            lambda w, t: ["run", w(data=cifar, network=network), "--data", t / "nowhere"],
            "the data folder must be a folder",
        ),
        (
            "truncated archive",
            lambda w, t: [
                "run", w(data=cifar, network=network), "--data", truncated_archive(t / "cut"),
            ],
            "cifar10-images.tar.gz",
        ),
        ("small buffer", lambda w, t: ["run", w(accelerator=small_buffer)], "input"),
        (
            "unwritable place",
            lambda w, t: ["run", w(), "--out", written(t, "a file") / "report"],
            "must lie in a folder, not in file 'wrong.py'",
        ),
        (
            "a folder of other files",
            lambda w, t: ["run", w(), "--out", written(t, "mine").parent],
            "must be new, empty or an earlier report",
        ),
    ]  # fmt: skip


def written(folder, text):
    path = folder / "wrong.py"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("arguments", "words"), [m[1:] for m in mistakes()], ids=[m[0] for m in mistakes()]
)
def test_a_mistake_gets_one_sentence(arguments, words, write_workload, tmp_path, monkeypatch):
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    ran = call(*arguments(write_workload, tmp_path))
    assert ran.exit_code == 2, ran.output
    assert ran.output.startswith("Error: ")
    assert words in ran.output
    assert len(ran.output.strip().splitlines()) == 1
    assert not any(work.iterdir()) or [p.name for p in work.iterdir()] == ["reports"]
    assert not list(work.glob("reports/*"))
