"""Resources of the arrays and the vector unit as yosys maps them to 7-series primitives.

Writes a row a design. The 7-series DSP48E1 holds the 32-bit sum of a PE; for UltraScale+ yosys
leaves it in LUTs, though a DSP48E2 can hold it too: this family is the better estimate of both.
Without timing: yosys knows no clock.

    pip install pyosys==0.70 && python tests/rtl/synthesise.py tests/golden/yosys.csv
"""

import csv
import json
import sys
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from pyosys import libyosys

SOURCES = Path(__file__).parent
ARRAYS = ("output_stationary", "weight_stationary")
BITS = [(8, 32), (16, 32), (16, 48)]  # of operands and accumulators
SHAPES = [(4, 4), (4, 8), (8, 4), (8, 8)]  # rows and columns
SIZES = [*product(BITS, SHAPES), ((8, 32), (16, 16))]
LANES = (1, 2, 4)
LUTS = ("LUT1", "LUT2", "LUT3", "LUT4", "LUT5", "LUT6", "SRL16E", "SRLC32E")
FLIP_FLOPS = ("FDRE", "FDSE", "FDCE", "FDPE")
SHOWN = ("ROWS", "COLUMNS", "OPERAND_BITS", "ACCUMULATOR_BITS", "LANES")
RESOURCES = ("dsp_slices", "luts", "flip_flops", "bram36")
COLUMNS = ["design", *(name.lower() for name in SHOWN), *RESOURCES]
FILES = {
    "output_stationary": ("delay.sv", "tapped_delay.sv", "requantise.sv", "output_stationary.sv"),
    "weight_stationary": (
        *("delay.sv", "tapped_delay.sv", "requantise.sv", "running_sums.sv"),
        "weight_stationary.sv",
    ),
    "vector_unit": ("vector_unit.sv",),
}


def synthesise(top: str, parameters: dict[str, int]) -> dict[str, float]:
    """Primitives of module `top`."""
    design = libyosys.Design()
    settings = " ".join(f"-set {name} {value}" for name, value in parameters.items())
    with tempfile.TemporaryDirectory() as folder:
        log, answer = Path(folder, "log"), Path(folder, "stat")
        for command in (
            *(f"read_verilog -sv {SOURCES / file}" for file in FILES[top]),
            f"chparam {settings} {top}",
            f"synth_xilinx -family xc7 -flatten -noiopad -noclkbuf -top {top}",
        ):
            libyosys.run_pass(f"tee -q -o {log} {command}", design)
        libyosys.run_pass(f"tee -q -o {answer} stat -json", design)
        cells = json.loads(answer.read_text())["design"]["num_cells_by_type"]

    def count(*kinds: str) -> int:
        return sum(cells.get(kind, 0) for kind in kinds)

    return {
        "dsp_slices": count("DSP48E1"),
        "luts": count(*LUTS),
        "flip_flops": count(*FLIP_FLOPS),
        "bram36": count("RAMB36E1") + count("RAMB18E1") / 2,
    }


def designs() -> Iterator[tuple[str, dict[str, int]]]:
    """Top modules and their parameters."""
    for top in ARRAYS:
        for (operand_bits, accumulator_bits), (rows, columns) in SIZES:
            yield (
                top,
                {
                    "ROWS": rows,
                    "COLUMNS": columns,
                    "OPERAND_BITS": operand_bits,
                    "ACCUMULATOR_BITS": accumulator_bits,
                    "RESULT_BITS": operand_bits,
                    "PARTS": 0,
                },
            )
    for lanes in LANES:
        yield "vector_unit", {"LANES": lanes}


def main(path: str) -> None:
    with open(path, "w") as file:
        table = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        table.writeheader()
        for top, parameters in designs():
            shown = {name.lower(): value for name, value in parameters.items() if name in SHOWN}
            table.writerow({"design": top} | shown | synthesise(top, parameters))
            file.flush()


if __name__ == "__main__":
    main(sys.argv[1])
