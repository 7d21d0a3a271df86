"""DRAMsim3 presets: one that makes a known part, and one sentence for every way to be wrong."""

import re
from dataclasses import replace

import pytest

from accsim.hardware.dram import Permutation
from accsim.hardware.dram_ini import PresetError, read_ini
from accsim.hardware.dram_parts import part

PRESET = """\
; 4 GiB a rank
[dram_structure]
protocol = DDR4
bankgroups = 2
banks_per_group = 4
rows = 65536  ; of a bank
columns = 1024
device_width = 16
BL = 8

[timing]
tCK = 0.833
AL = 0
CL = 17
CWL = 12
tRCD = 17
tRP = 17
tRAS = 39
tRFC = 420
tRFC2 = 312
tREFI = 9360
tRRD_S = 7
tRRD_L = 8
tWTR_S = 3
tWTR_L = 9
tFAW = 36
tWR = 18
tRTP = 9
tCCD_S = 4
tCCD_L = 6
tRTRS = 1

[power]
VDD = 1.2
IDD0 = 80
IPP0 = 4.0
IDD2N = 34
IDD3N = 47
IDD4W = 228
IDD4R = 243
IDD5AB = 280

[system]
channel_size = 8192
channels = 1
bus_width = 64
address_mapping = rochrababgco
queue_structure = PER_BANK
"""


@pytest.fixture
def preset(tmp_path):
    """Write a preset whose line `key = ...` is replaced, or gone where the new line is empty."""

    def write(key="", line=""):
        text, count = re.subn(rf"(?m)^{re.escape(key)} =.*\n", f"{line}\n" if line else "", PRESET)
        assert count == bool(key)
        path = tmp_path / "memory.ini"
        path.write_text(text)
        return path

    return write


def test_a_preset_of_a_known_part_is_that_part(preset):
    spec, mapping = read_ini(preset())
    same = part("DDR4_2400_8Gb_x16")
    assert spec == replace(same, name="memory", source="DRAMsim3 preset memory.ini", ranks=2)
    assert mapping == Permutation("rochrababgco")


def test_its_size_makes_the_ranks(preset):
    assert read_ini(preset("channel_size", "channel_size = 4096"))[0].ranks == 1
    assert read_ini(preset("channels", "channels = 2"))[0].capacity_bytes == 16 * 2**30


def test_what_dramsim3_lets_out_may_be_left_out(preset):
    assert read_ini(preset("IPP0"))[0].IPP0 == 0
    assert read_ini(preset("channels"))[0].channels == 1
    assert read_ini(preset("tRTRS"))[0].nRTW == 17 + 4 + 2 - 12


def test_refresh_may_be_spelt_as_in_its_ddr3_presets(preset):
    assert read_ini(preset("tREFI", "REFI = 6240"))[0].nREFI == 6240


def test_additive_latency_lets_columns_come_sooner_and_act_later(preset):
    """A posted RD is held in the chip for AL clocks: CL + AL and tRTP + AL, from tRCD - AL on."""
    spec, _ = read_ini(preset("AL", "AL = 5"))
    assert (spec.CL, spec.CWL, spec.nRCD, spec.nRTP, spec.nRTW) == (22, 17, 12, 14, 10)


@pytest.mark.parametrize(
    ("key", "line", "sentence"),
    [
        ("tRCD", "", r"memory\.ini: \[timing\] must hold tRCD, which is missing"),
        ("IDD5AB", "", r"\[power\] must hold IDD5AB, which is missing"),
        ("address_mapping", "", r"\[system\] must hold address_mapping, which is missing"),
        ("protocol", "protocol = HBM2", r"memory\.ini, line 3: protocol must be one of DDR3, .*"),
        ("rows", "rows = many", r"line 6: rows must be a whole number, not 'many'"),
        ("CL", "CL = 17.5", r"line 14: CL must be a whole number, not '17.5'"),
        ("CL", "CL = -17", r"line 14: CL must be 0 or more, not '-17'"),
        ("tCK", "tCK = 833", r"line 12: tCK must be 0.1 to 100 nanoseconds, not '833'"),
        ("VDD", "VDD = 1,2", r"line 34: VDD must be a number, not '1,2'"),
        ("VDD", "VDD = inf", r"line 34: VDD must be a finite number, 0 or more, not 'inf'"),
        ("rows", "rows = 65000", r"memory\.ini: rows of memory must be a power of two, not 65000"),
        ("tRCD", "tRCD = 0", r"memory\.ini: nRCD of memory must be 1 or more, not 0"),
        ("tCCD_L", "tCCD_L = 3", r"nCCD_L of memory must be at least nCCD_S \(4\), not 3"),
        ("channel_size", "channel_size = 1000", r"must be a multiple of a rank's 4096 MB, not"),
        ("channel_size", "channel_size = 16384", r"ranks of memory must be 1 or 2, not 4"),
        ("address_mapping", "address_mapping = robaco", r"line 47: a mapping must name each of"),
        ("CL", "CL 17", r"line 14: must be a \[section\], a comment or key = value"),
        ("CL", "CWL = 12", r"line 15: CWL must be given once, not again"),
        ("BL", "[timing]", r"line 11: \[timing\] must be given once, not again"),
        ("bankgroups", "bankgroups = 16", r"bank_groups x banks of memory must be at most 32"),
    ],
)
def test_a_wrong_preset_is_told_in_one_sentence(preset, key, line, sentence):
    with pytest.raises(PresetError, match=sentence) as caught:
        read_ini(preset(key, line))
    assert "\n" not in str(caught.value)


def test_a_preset_that_is_no_preset_is_refused(tmp_path):
    path = tmp_path / "memory.ini"
    path.write_text("protocol = DDR4\n")
    with pytest.raises(PresetError, match=r"line 1: must come below a \[section\]"):
        read_ini(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(PresetError, match="must be text, but is not UTF-8"):
        read_ini(path)
    path.write_text("")
    with pytest.raises(PresetError, match=r"\[dram_structure\] must hold protocol"):
        read_ini(path)
