"""One matrix product on one PE array, operands on chip: cycles, and how busy its units are."""

from dataclasses import dataclass

from rich.table import Table

from accsim.dataflow.base import Dataflow, Gemm
from accsim.dataflow.channel_broadcast import ChannelBroadcast
from accsim.dataflow.input_stationary import InputStationary
from accsim.dataflow.output_stationary import OutputStationary
from accsim.dataflow.weight_stationary import WeightStationary
from accsim.hardware.pe_array import NO_REGISTERS, PEArraySpec

DATAFLOWS: dict[str, Dataflow] = {
    "output_stationary": OutputStationary(),
    "weight_stationary": WeightStationary(),
    "input_stationary": InputStationary(),
    "channel_broadcast": ChannelBroadcast(),
}
SYSTOLIC = tuple(name for name in DATAFLOWS if name.endswith("_stationary"))
MACHINES = ("rtl", "scalesim")


class GemmChoiceError(Exception):
    """A product, an array or a dataflow cannot be; the message is one sentence for its user."""


@dataclass(frozen=True)
class Usage:
    """What a product costs on an array."""

    cycles: int
    utilization: float  # of the multiply-accumulates that the array could do meanwhile
    tiles: int  # folds: how often the array is filled


def usage(
    dataflow: str,
    m: int,
    n: int,
    k: int,
    *,
    rows: int,
    columns: int,
    overlap: bool = True,
    multiplier_latency: int = 1,
    adder_latency: int = 1,
    like: str = "rtl",
) -> Usage:
    """The product ``(m, k) @ (k, n)`` on an array of `rows` by `columns`.

    `like` rtl is the machine of the register-transfer models; scalesim is the one that SCALE-Sim v3
    describes: no overlap, no registers, a fold ends with its last multiplication.

    Raises GemmChoiceError for extents, latencies or sizes below 1, for a name that is not known,
    and for what SCALE-Sim does not have.
    """
    _require("dataflow", dataflow, tuple(DATAFLOWS))
    _require("like", like, MACHINES)
    try:
        array = PEArraySpec(
            rows,
            columns,
            overlap=overlap,
            multiplier_latency=multiplier_latency,
            adder_latency=adder_latency,
        )
        product = Gemm(m, n, k)
    except ValueError as error:
        raise GemmChoiceError(str(error)) from error
    if like == "scalesim":
        _require("dataflow like scalesim", dataflow, SYSTOLIC)
        for name, latency in (("multiplier", multiplier_latency), ("adder", adder_latency)):
            if latency != 1:
                raise GemmChoiceError(
                    f"{name}_latency must be 1, as SCALE-Sim has it, not {latency}"
                )
        array = PEArraySpec(rows, columns, overlap=False, registers=NO_REGISTERS)
    cycles = DATAFLOWS[dataflow].cycles(array, product)
    tiles = DATAFLOWS[dataflow].folds(array, product)
    return Usage(cycles, product.macs / (cycles * array.macs_per_cycle), tiles)


def usage_table(spent: Usage) -> Table:
    """A usage as it is printed."""
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("cycles", f"{spent.cycles:,}")
    table.add_row("utilization", f"{100 * spent.utilization:.2f} %")
    table.add_row("tiles", f"{spent.tiles:,}")
    return table


def _require(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise GemmChoiceError(f"{name} must be one of {', '.join(known)}, not {value!r}")
