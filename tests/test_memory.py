"""Memories by name, and replays of one request worked by hand under each controller."""

import csv
import gzip
import io

import pytest
from rich.console import Console

from accsim import memory
from accsim.hardware.dram import Permutation, RowBankColumn, RowColumnBank
from accsim.hardware.dram_parts import PARTS, part

ENERGY = ["act_pre", "read", "write", "refresh", "background", "total"]
KEYS = [
    *("requests", "total_cycles", "row_hits"),
    *("act_commands", "pre_commands", "read_commands", "write_commands", "refresh_commands"),
    *("average_read_latency_cycles", "bandwidth_GBps", "energy_nJ"),
]


@pytest.fixture
def play(tmp_path):
    def play(text, policy="dramsim3", name="DDR4_2400_8Gb_x16", order=None, ranks=None):
        path = tmp_path / "requests"
        path.write_text(text)
        spec, order = memory.chosen(name, order, ranks)
        return spec, memory.replay(path, spec, order, memory.policy(policy), record=True)

    return play


def shown(renderable):
    console = Console(width=200, file=io.StringIO())
    console.print(renderable)
    return console.file.getvalue()


def test_a_memory_is_a_part_a_mapping_and_ranks():
    spec, order = memory.chosen("DDR4_2400_8Gb_x16", None, None)
    assert (spec, order) == (part("DDR4_2400_8Gb_x16"), RowColumnBank())
    spec, order = memory.chosen("DDR4_2400_8Gb_x16", "row_bank_column", 2)
    assert (spec.ranks, order) == (2, RowBankColumn())
    assert memory.chosen("DDR3_1600_4Gb_x16", "bgbarocorach", 1)[1] == Permutation("bgbarocorach")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("DDR4", None, None), "part must be a known one, such as .*, not 'DDR4'"),
        (("DDR4_2400_8Gb_x16", "rocoba", None), "mapping must be row_bank_column, .* not 'rocoba'"),
        (("DDR4_2400_8Gb_x16", None, 3), "ranks of DDR4_2400_8Gb_x16 must be 1 or 2, not 3"),
    ],
)
def test_a_memory_that_is_not_known_is_told(arguments, sentence):
    with pytest.raises(memory.MemoryChoiceError, match=sentence):
        memory.chosen(*arguments)


def test_an_unknown_controller_is_told_with_those_that_exist():
    with pytest.raises(
        memory.MemoryChoiceError,
        match="one of frfcfs, dramsim3, ramulator2, ramulator2_frfcfs, not",
    ):
        memory.policy("fcfs")


@pytest.mark.parametrize(("policy", "first"), [("dramsim3", 2), ("ramulator2", 1)])
def test_a_lone_read_takes_its_activate_its_latency_and_its_data(play, policy, first):
    """first command + nRCD 17 + CL 17 + nBL 4; the row stays open from ACT on."""
    spec, done = play("0 0x0 R\n", policy)
    told = memory.document(spec, done)
    assert list(told) == KEYS
    assert list(told["energy_nJ"]) == ENERGY
    assert told["total_cycles"] == first + 17 + 17 + 4
    assert (told["act_commands"], told["read_commands"], told["write_commands"]) == (1, 1, 0)
    assert told["energy_nJ"]["act_pre"] == pytest.approx(8.27, rel=0.01)
    assert told["energy_nJ"]["read"] == pytest.approx(3.13, rel=0.01)
    open_row, closed_row = 226e-3 * 0.833 * (17 + 17 + 4), 163e-3 * 0.833 * first  # W x ns
    assert told["energy_nJ"]["background"] == pytest.approx(open_row + closed_row, rel=0.02)
    assert told["energy_nJ"]["total"] == pytest.approx(
        sum(told["energy_nJ"][term] for term in ENERGY[:-1])
    )


def test_a_request_of_four_short_bursts_is_one_request(play):
    told = memory.document(*play("0 0x0 R\n0 0x40 W\n", name="DDR3_1600_4Gb_x16"))
    assert (told["requests"], told["read_commands"], told["write_commands"]) == (2, 4, 4)


def test_a_damaged_gzip_file_is_told(tmp_path):
    path = tmp_path / "trace.gz"
    whole = bytearray(gzip.compress(b"".join(b"%d 0x40 R\n" % n for n in range(1000))))
    whole[200] ^= 255
    path.write_bytes(whole)
    chosen = memory.chosen("DDR3_1600_4Gb_x16", None, None)
    with pytest.raises(memory.MemoryChoiceError, match="gzip"):
        memory.replay(path, *chosen, memory.policy("frfcfs"))


def test_a_second_rank_stands_by_as_long(play):
    one_spec, one = play("0 0x0 R\n", "frfcfs")
    two_spec, two = play("0 0x0 R\n", "frfcfs", ranks=2)
    more = memory.energy(two_spec, two).precharged - memory.energy(one_spec, one).precharged
    standby = one_spec.precharged_watts * one_spec.tCK_ps * 1e-3
    assert two.total_cycles == one.total_cycles
    assert more == pytest.approx(standby * one.total_cycles)


def test_recorded_commands_are_written_as_a_table(play):
    _, done = play("0 0x0 R\n0 0x40 W\n", order="row_bank_column")
    file = io.BytesIO()
    memory.write_commands(done.commands, file)
    rows = list(csv.DictReader(io.StringIO(file.getvalue().decode())))
    assert [row["command"] for row in rows] == ["ACT", "RD", "WR"]
    assert rows[0] == {
        "cycle": "2", "command": "ACT", "rank": "0", "bank_group": "0", "bank": "0", "row": "0",
    }  # fmt: skip


def test_a_replay_is_printed_with_its_bus_apart(play):
    text = shown(memory.replay_table(*play("0 0x0 R\n")))
    assert "µJ beside the total" in text
    assert "I/O + PHY" in text


def test_every_part_is_listed_with_its_source():
    text = shown(memory.parts_table())
    for spec in PARTS.values():
        assert spec.name in text
        assert spec.source in text
