"""What a machine takes of its board: the resources of every part, for a preset or a workload."""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rich.table import Table

from accsim.hardware import boards
from accsim.hardware.accelerator import AcceleratorSpec
from accsim.hardware.resources import Resources, resources
from accsim.workload import WorkloadError, read_workload

NAMES = {
    "dsp_slices": "DSP",
    "luts": "LUT",
    "flip_flops": "FF",
    "bram36": "BRAM36",
    "uram": "URAM",
}


def machine(name: str) -> AcceleratorSpec:
    """The preset of that name, or the machine of that workload file; raises WorkloadError."""
    presets = {k: v for k, v in vars(boards).items() if isinstance(v, AcceleratorSpec)}
    if name in presets:
        return presets[name]
    if not name.endswith(".py"):
        known = ", ".join(presets)
        raise WorkloadError(f"fit must be given a workload file or one of {known}, not {name!r}")
    return read_workload(Path(name)).machine


def document(accelerator: AcceleratorSpec) -> dict[str, Any]:
    """Resources of every part, their sum, what the board has, and the share of it in percent."""
    parts = resources(accelerator)
    used = asdict(sum(parts.values(), start=Resources()))
    available = {name: getattr(accelerator.board, name) for name in used}
    return {
        "accelerator": accelerator.name,
        "board": accelerator.board.name,
        "parts": {part: asdict(amounts) for part, amounts in parts.items()},
        "used": used,
        "available": available,
        "percent": {
            name: round(100 * used[name] / available[name], 1) if available[name] else 0.0
            for name in used
        },
    }


def table(accelerator: AcceleratorSpec) -> Table:
    """The same as a table, a row a part."""
    found = document(accelerator)
    shown = Table(title=f"{found['accelerator']} on {found['board']}")
    shown.add_column("part")
    for field in fields(Resources):
        shown.add_column(NAMES[field.name], justify="right")
    for part, amounts in found["parts"].items():
        shown.add_row(part, *(f"{amount:,}" if amount else "" for amount in amounts.values()))
    shown.add_section()
    for row in ("used", "available"):
        shown.add_row(row, *(f"{amount:,}" for amount in found[row].values()))
    shown.add_row("%", *(f"{share:.1f}" for share in found["percent"].values()))
    return shown
