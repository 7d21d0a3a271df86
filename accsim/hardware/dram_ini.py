"""Reads a DRAMsim3 preset, an .ini file, as a memory part and an address mapping.

Read are [dram_structure], [timing] (clocks, but for tCK in nanoseconds), [power] (volts,
milliamperes) and, of [system], the size, the number and width of the channels and the mapping;
queues and policies belong to a controller and are passed over. As in DRAMsim3, tRC is tRAS + tRP,
RD to WR keeps the data apart by tRTRS, and the ranks of a channel are its size over that of a rank.
Its DDR3 presets say ``REFI`` for ``tREFI``; both are read.

Source: DRAMsim3, src/configuration.cc and src/timing.cc.
"""

import configparser
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from accsim.hardware.dram import AddressMapping, DramSpec, Permutation
from accsim.hardware.dram_parts import bus_pj_per_byte
from accsim.units import MIB

PROTOCOLS = ("DDR3", "DDR4", "LPDDR4")
MAY_BE_LEFT_OUT = {"AL": "0", "tRTRS": "2", "channels": "1", "IPP0": "0"}  # as in DRAMsim3


class PresetError(ValueError):
    """A preset cannot be used; the message is one sentence that names the file."""


def read_ini(path: Path) -> tuple[DramSpec, AddressMapping]:
    """The memory and the mapping that a DRAMsim3 preset describes.

    Raises PresetError, with the line where one is at fault, for a file that is not of this form, a
    missing key, a value of the wrong kind, and a memory that cannot be built; OSError for a file
    that cannot be read.
    """
    preset = _Preset(path)
    protocol = preset.text("dram_structure", "protocol")
    if protocol not in PROTOCOLS:
        raise preset.wrong("dram_structure", "protocol", f"must be one of {', '.join(PROTOCOLS)}")
    tCK_ns = preset.number("timing", "tCK")
    if not 0.1 <= tCK_ns <= 100:
        raise preset.wrong("timing", "tCK", "must be 0.1 to 100 nanoseconds")
    order = preset.text("system", "address_mapping")
    try:
        mapping = Permutation(order)
    except ValueError as error:
        raise PresetError(f"{preset.place('system', 'address_mapping')}: {error}") from error

    def chip(key: str) -> int:
        return preset.whole("dram_structure", key)

    def clocks(key: str) -> int:
        return preset.whole("timing", key)

    def power(key: str) -> float:
        return preset.number("power", key)

    added = clocks("AL")  # RD and WR may come so much sooner after ACT, and act so much later
    nBL = chip("BL") // 2
    values: dict[str, Any] = {
        "name": path.stem,
        "source": f"DRAMsim3 preset {path.name}",
        "tCK_ps": round(1000 * tCK_ns),
        "channels": preset.whole("system", "channels"),
        "bus_bits": preset.whole("system", "bus_width"),
        "device_bits": chip("device_width"),
        "bank_groups": chip("bankgroups"),
        "banks": chip("banks_per_group"),
        "rows": chip("rows"),
        "columns": chip("columns"),
        "burst_length": chip("BL"),
        "CL": added + clocks("CL"),
        "CWL": added + clocks("CWL"),
        "nRCD": clocks("tRCD") - added,
        "nRP": clocks("tRP"),
        "nRAS": clocks("tRAS"),
        "nRC": clocks("tRAS") + clocks("tRP"),
        "nCCD_S": clocks("tCCD_S"),
        "nCCD_L": clocks("tCCD_L"),
        "nRRD_S": clocks("tRRD_S"),
        "nRRD_L": clocks("tRRD_L"),
        "nFAW": clocks("tFAW"),
        "nWTR_S": clocks("tWTR_S"),
        "nWTR_L": clocks("tWTR_L"),
        "nWR": clocks("tWR"),
        "nRTP": added + clocks("tRTP"),
        "nRTW": clocks("CL") + nBL + clocks("tRTRS") - clocks("CWL"),
        "nRFC": clocks("tRFC"),
        "nREFI": clocks("REFI" if preset.has("timing", "REFI") else "tREFI"),
        "VDD": power("VDD"),
        "VPP": 2.5 if protocol == "DDR4" else 0.0,  # JESD79-4; the file does not say
        "IDD0": power("IDD0"),
        "IDD2N": power("IDD2N"),
        "IDD3N": power("IDD3N"),
        "IDD4R": power("IDD4R"),
        "IDD4W": power("IDD4W"),
        "IDD5": power("IDD5AB"),
        "IPP0": power("IPP0"),
    }
    try:
        one_rank = DramSpec(**values, **bus_pj_per_byte(protocol, 2 / tCK_ns))
        rank_mib = one_rank.capacity_bytes // one_rank.channels // MIB
        channel_mib = preset.whole("system", "channel_size")
        if not rank_mib or channel_mib % rank_mib:
            raise preset.wrong(
                "system", "channel_size", f"must be a multiple of a rank's {rank_mib} MB"
            )
        return replace(one_rank, ranks=channel_mib // rank_mib), mapping
    except PresetError:
        raise
    except ValueError as error:
        raise PresetError(f"{path}: {error}") from error


class _Preset:
    """The sections of a file; what is asked for is there and of its kind, or it is named."""

    def __init__(self, path: Path):
        self._path = path
        self._sections = configparser.ConfigParser(
            inline_comment_prefixes=(";", "#"), interpolation=None, default_section=""
        )
        self._sections.optionxform = str  # type: ignore[assignment] # keeps capitals
        try:
            self._lines = path.read_text(encoding="utf-8").splitlines()
            self._sections.read_file(self._lines)
        except UnicodeDecodeError as error:
            raise PresetError(f"{path}: must be text, but is not UTF-8") from error
        except configparser.MissingSectionHeaderError as error:
            raise PresetError(
                f"{path}, line {error.lineno}: must come below a [section]"
            ) from error
        except configparser.ParsingError as error:
            raise PresetError(
                f"{path}, line {error.errors[0][0]}: must be a [section], a comment or key = value"
            ) from error
        except configparser.DuplicateOptionError as error:
            raise PresetError(
                f"{path}, line {error.lineno}: {error.option} must be given once, not again"
            ) from error
        except configparser.DuplicateSectionError as error:
            raise PresetError(
                f"{path}, line {error.lineno}: [{error.section}] must be given once, not again"
            ) from error

    def has(self, section: str, key: str) -> bool:
        return self._sections.has_option(section, key)

    def text(self, section: str, key: str) -> str:
        fallback = MAY_BE_LEFT_OUT.get(key)
        value = self._sections.get(section, key, fallback=fallback)
        if value is None:
            raise PresetError(f"{self._path}: [{section}] must hold {key}, which is missing")
        return value

    def whole(self, section: str, key: str) -> int:
        text = self.text(section, key)
        try:
            value = int(text)
        except ValueError as error:
            raise self.wrong(section, key, "must be a whole number") from error
        if value < 0:
            raise self.wrong(section, key, "must be 0 or more")
        return value

    def number(self, section: str, key: str) -> float:
        text = self.text(section, key)
        try:
            value = float(text)
        except ValueError as error:
            raise self.wrong(section, key, "must be a number") from error
        if not 0 <= value < math.inf:
            raise self.wrong(section, key, "must be a finite number, 0 or more")
        return value

    def wrong(self, section: str, key: str, wanted: str) -> PresetError:
        value = self.text(section, key)
        return PresetError(f"{self.place(section, key)}: {key} {wanted}, not {value!r}")

    def place(self, section: str, key: str) -> str:
        """The file, and the line on which the key stands."""
        inside = False
        for number, line in enumerate(self._lines, 1):
            stripped = line.strip()
            if stripped.startswith("["):
                inside = stripped.startswith(f"[{section}]")
            elif inside and stripped.replace(":", "=").split("=")[0].strip() == key:
                return f"{self._path}, line {number}"
        return str(self._path)
