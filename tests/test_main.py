"""The command line: what it prints, and one sentence with exit status 2 for every mistake."""

import gzip
import json
import re
import sys
import tarfile

import pytest
from click.testing import CliRunner

from accsim.__main__ import main, parsed_schedules
from accsim.comparison import told
from accsim.schedule import AlternateTeacher, GradientAccumulation, LayerwiseEma, SeparateEma


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


def test_a_split_machine_is_compared_fitted_cut_into_layers_and_traced(write_workload, tmp_path):
    out = tmp_path / "compared"
    schedules = "LayerwiseEma,SpatialSplit(teacher_rows=4)"
    compared = call(
        "compare", write_workload(), "--steps", 2, "--out", out, "--schedules", schedules
    )
    assert compared.exit_code == 0, compared.output
    rows = json.loads((out / "compare.json").read_text())["schedules"]
    assert [row["schedule"] for row in rows] == schedules.split(",")
    header = "from accsim.schedule import SpatialSplit\n"
    path = write_workload(schedule="SpatialSplit(teacher_rows=4)")
    path.write_text(header + path.read_text())
    fitted = call("fit", path)
    assert "teacher's PE array" in fitted.output
    assert "student's gradient buffer" in fitted.output
    shown = json.loads(call("layers", path, "--json").output)
    assert shown["pe_array"].keys() >= {"teacher_forward", "backward_weight"}
    traced = call("dram", "trace", path, "--out", tmp_path / "step.trace")
    assert traced.exit_code == 0, traced.output


def test_schedules_are_arguments_of_schedules():
    text = (
        "GradientAccumulation(LayerwiseEma(), micro_batches=3),"
        "AlternateTeacher(schedule=GradientAccumulation(SeparateEma), every=4)"
    )
    schedules = parsed_schedules(text)
    assert schedules == [
        GradientAccumulation(LayerwiseEma(), micro_batches=3),
        AlternateTeacher(GradientAccumulation(SeparateEma(), micro_batches=2), every=4),
    ]
    assert parsed_schedules(",".join(map(told, schedules))) == schedules


def test_without_schedules_the_workloads_file_says_which_to_compare(write_workload, tmp_path):
    path, out = write_workload(steps="1"), tmp_path / "compared"
    path.write_text(path.read_text() + "schedules = (SeparateEma(), DeferredWriteback(every=2))\n")
    ran = call("compare", path, "--out", out)
    assert ran.exit_code == 0, ran.output
    compared = json.loads((out / "compare.json").read_text())["schedules"]
    assert [row["schedule"] for row in compared] == ["SeparateEma", "DeferredWriteback(every=2)"]
    path.write_text(path.read_text() + "schedules = 'SeparateEma'\n")
    refused = call("compare", path)
    assert refused.exit_code == 2
    assert "must be a tuple of Schedule objects" in " ".join(refused.output.split())


def test_boards_and_data_are_listed(tmp_path):
    assert "boards.ZCU104" in call("boards").output
    listed = call("data", "--data", tmp_path)
    assert listed.exit_code == 0
    assert "cifar10" in listed.output


def test_memory_parts_are_listed():
    listed = call("dram", "parts")
    assert listed.exit_code == 0
    assert "DDR4_2400_8Gb_x16" in listed.output


def test_a_replay_prints_its_numbers_or_json(tmp_path):
    trace = written(tmp_path, "0 0x0 R\n5 0x2000 W\n")
    options = ("--part", "DDR4_2400_8Gb_x16", "--mapping", "row_bank_column", "--ranks", 1)
    for policy in ("frfcfs", "dramsim3", "ramulator2"):
        replayed = call("dram", "replay", trace, *options, "--policy", policy, "--json")
        assert replayed.exit_code == 0, replayed.output
        told = json.loads(replayed.output)
        assert (told["requests"], told["act_commands"]) == (2, 2)
        assert told["energy_nJ"]["total"] > told["energy_nJ"]["act_pre"] > 0
    assert "read latency" in call("dram", "replay", trace, *options).output


def test_a_replay_of_a_preset_takes_its_mapping_and_writes_its_commands(tmp_path):
    preset = tmp_path / "memory.ini"
    preset.write_text(
        """
        [dram_structure]
        protocol = DDR3
        bankgroups = 1
        banks_per_group = 8
        rows = 32768
        columns = 1024
        device_width = 16
        BL = 8
        [timing]
        tCK = 1.25
        CL = 11
        CWL = 8
        tRCD = 11
        tRP = 11
        tRAS = 28
        tRFC = 208
        tREFI = 6240
        tRRD_S = 6
        tRRD_L = 6
        tWTR_S = 6
        tWTR_L = 6
        tFAW = 32
        tWR = 12
        tRTP = 6
        tCCD_S = 4
        tCCD_L = 4
        tRTRS = 1
        [power]
        VDD = 1.35
        IDD0 = 66
        IDD2N = 32
        IDD3N = 47
        IDD4W = 171
        IDD4R = 235
        IDD5AB = 235
        [system]
        channel_size = 2048
        bus_width = 64
        address_mapping = rorababgchco
        """.replace("        ", "")
    )
    trace, commands = tmp_path / "trace.gz", tmp_path / "commands.csv"
    trace.write_bytes(gzip.compress(b"0 0x4000 R\n"))
    replayed = call("dram", "replay", trace, "--part", preset, "--commands", commands)
    assert replayed.exit_code == 0, replayed.output
    header, act, _ = commands.read_text().splitlines()
    assert header == "cycle,command,rank,bank_group,bank,row"
    assert act.split(",")[1:] == ["ACT", "0", "0", "2", "0"]  # 8 KiB rows: the third bank


def test_a_step_s_requests_can_be_replayed(write_workload, tmp_path):
    out = tmp_path / "step.trace.gz"
    wrote = call("dram", "trace", write_workload(accelerator="boards.ZCU104"), "--out", out)
    assert wrote.exit_code == 0, wrote.output
    assert wrote.output.splitlines()[-1] == str(out)
    requests = int(wrote.output.split()[0].replace(",", ""))
    part, order = re.search(r"memory is (\w+), mapping (\w+)", wrote.output).groups()
    replayed = call("dram", "replay", out, "--part", part, "--mapping", order, "--json")
    assert replayed.exit_code == 0, replayed.output
    assert json.loads(replayed.output)["requests"] == requests


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
            "--schedules must be a list of SeparateEma, FusedUpdate, LayerwiseEma, Deferred",
        ),
        (
            "schedule with a bad setting",
            lambda w, t: ["compare", w(), "--schedules", "DeferredWriteback(every=0)"],
            "every must be a whole number of at least 1, not 0",
        ),
        (
            "schedule of no schedule",
            lambda w, t: ["compare", w(), "--schedules", "AlternateTeacher(Fastest)"],
            "--schedules must be a list of SeparateEma, FusedUpdate, LayerwiseEma, Deferred",
        ),
        (
            "more micro-batches than labels",
            lambda w, t: ["compare", w(), "--schedules", "GradientAccumulation(SeparateEma, 9)"],
            "micro_batches of the schedule must be at most the 8 labelled images of a batch, not 9",
        ),
        (
            "no row for the student",
            lambda w, t: ["compare", w(), "--schedules", "SpatialSplit(teacher_rows=8)"],
            "teacher_rows must be 1 to 7, for the PE array has 8 rows of which each part needs one",
        ),
        (
            "no share for the teacher",
            lambda w, t: ["compare", w(), "--schedules", "SpatialSplit"],
            "--schedules SpatialSplit: ",
        ),
        ("no such file", lambda w, t: ["run", t / "none.py"], "there is no such file"),
        ("no workload", lambda w, t: ["run", written(t, "steps = 3\n")], "must define `workload"),
        ("unknown field", lambda w, t: ["run", w(), "--set", "label=3"], "--set must name a field"),
        (
            "impossible value",
            lambda w, t: ["twin", w(), "--set", "labels=0"],
            "--set labels=0: labels must be at least 1, not 0",
        ),
        (
            "nothing to resume",
            lambda w, t: ["compare", w(), "--resume"],
            "--resume needs finished runs in",
        ),
        ("no checkpoint", lambda w, t: ["run", w(), "--resume"], "there is no such file"),
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
        (
            "malformed request",
            lambda w, t: replay(written(t, "0 0x0 R\n7 0x40 read\n")),
            "wrong.py, line 2: a request must be a decimal arrival",
        ),
        (
            "request beyond the memory",
            lambda w, t: replay(written(t, "0 0x100000000 R\n")),
            "line 1: the request must lie within the 4294967296 bytes of DDR4_2400_8Gb_x16",
        ),
        ("empty trace", lambda w, t: replay(written(t, "")), "at least one request"),
        ("no such trace", lambda w, t: replay(t / "none"), "cannot write or read"),
        (
            "unknown part",
            lambda w, t: replay(written(t, "0 0x0 R\n"), part="DDR4_2400_8Gb_x32"),
            "part must be a known one, such as DDR4_2400_8Gb_x8",
        ),
        (
            "unknown mapping",
            lambda w, t: replay(written(t, "0 0x0 R\n"), mapping="bank_row"),
            "mapping must be row_bank_column, row_column_bank or each of",
        ),
        (
            "unknown policy",
            lambda w, t: replay(written(t, "0 0x0 R\n"), policy="fcfs"),
            "policy must be one of frfcfs, dramsim3, ramulator2, ramulator2_frfcfs, not 'fcfs'",
        ),
        (
            "three ranks",
            lambda w, t: replay(written(t, "0 0x0 R\n"), ranks=3),
            "ranks of DDR4_2400_8Gb_x16 must be 1 or 2, not 3",
        ),
        (
            "preset that is not there",
            lambda w, t: replay(written(t, "0 0x0 R\n"), part=t / "none.ini"),
            "cannot write or read",
        ),
        (
            "unwritable commands",
            lambda w, t: replay(written(t, "0 0x0 R\n"), commands=t / "none" / "commands"),
            "cannot write or read",
        ),
        (
            "bad trace with commands",
            lambda w, t: replay(written(t, "0 0x0\n"), commands="commands.csv"),
            "line 1: a request must be",
        ),
        (
            "unwritable trace",
            lambda w, t: ["dram", "trace", w(), "--out", t / "none" / "trace"],
            "cannot write or read",
        ),
        (
            "trace over a folder",
            lambda w, t: ["dram", "trace", w(), "--out", t],
            "not an ordinary file; choose another place",
        ),
        (
            "trace of a workload that does not fit",
            lambda w, t: ["dram", "trace", w(accelerator=small_buffer), "--out", "step.trace"],
            "input",
        ),
    ]  # fmt: skip


def replay(trace, **options):
    """Arguments of a replay; by default of a known part."""
    options = {"part": "DDR4_2400_8Gb_x16", **options}
    pairs = ((f"--{name}", value) for name, value in options.items())
    return ["dram", "replay", trace, *(word for pair in pairs for word in pair)]


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


def test_twins_are_told_in_a_table_and_written(write_workload, tmp_path):
    pytest.importorskip("torch")
    out = tmp_path / "twin"
    ran = call("twin", write_workload(), "--set", "steps=2", "--set", "flip=True", "--out", out)
    assert ran.exit_code == 0, ran.output
    assert re.search(r"teacher accuracy .*%.*%.*points", ran.output)
    told = json.loads((out / "twin.json").read_text())
    assert [run["arithmetic"] for run in told["runs"]] == ["float32", "fixed point"]
    assert (told["workload"]["steps"], told["workload"]["data"]["flip"]) == (2, True)


def test_without_torch_a_twin_says_what_to_install(write_workload, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("accsim.training.float_")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    ran = call("twin", write_workload(), "--out", tmp_path / "twin")
    assert ran.exit_code == 2
    assert "float32 needs torch, which is not installed: pip install" in " ".join(
        ran.output.split()
    )
