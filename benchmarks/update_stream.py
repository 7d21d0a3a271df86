"""What the length of runs does to an update: bandwidth of the memory alone, and of whole machines.

An update reads and writes several arrays in turn. The shorter the run of each, the more often the
memory opens rows and turns its bus round, and the more often a DMA engine starts; the longer, the
more of the pass is the first load and the last store, which overlap with nothing.

    python benchmarks/update_stream.py [--words 262144]
"""

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from accsim import engine
from accsim.dataflow.output_stationary import OutputStationary
from accsim.hardware import boards
from accsim.hardware.accelerator import AcceleratorSpec
from accsim.hardware.dram import mapping
from accsim.hardware.dram_controller import Frfcfs
from accsim.hardware.dram_parts import part
from accsim.network import Linear, Network, Shape
from accsim.numerics import Numerics
from accsim.schedule.program import Program
from accsim.units import KIB

RUNS = (256, KIB, 4 * KIB, 16 * KIB, 64 * KIB)
MAPPINGS = ("rochrababgco", "rochrabacobg", "rochracobabg")  # the last is the machines' own
BOARDS = (boards.ZCU104, boards.ZCU102, boards.KV260, boards.ULTRA96, boards.PYNQ_Z2)
ARRAY_BYTES = 1024 * KIB


def memory_GBps(device: str, name: str, run_bytes: int) -> float:
    """Two arrays read and a third written in turn, a request a clock, on a rank of DDR4-2400."""
    bursts = np.arange(ARRAY_BYTES // 64).reshape(-1, 1, run_bytes // 64) * 64
    addresses = bursts + np.array([0, 16, 32]).reshape(1, 3, 1) * ARRAY_BYTES
    is_write = np.broadcast_to(np.array([False, False, True]).reshape(1, 3, 1), addresses.shape)
    spec = part(f"DDR4_2400_8Gb_{device}")
    trace = np.zeros(addresses.size, np.int64), addresses.ravel(), is_write.ravel()
    return Frfcfs().replay(spec, mapping(name), *trace).bandwidth_GBps


def ema_GBps(machine: AcceleratorSpec, words: int, run_bytes: int | None) -> tuple[float, int]:
    """Bytes a nanosecond of an ema pass over a layer of so many weights, and its longest run."""
    network = Network("one", Shape(1, 1, words // KIB), (Linear("fc", KIB),))
    program = Program(network, Numerics(), machine, OutputStationary(run_bytes=run_bytes))
    program.ema()
    operations = program.operations()
    timeline = engine.simulate(operations, machine)
    longest = max(load.size_bytes for tile in operations[0].tiles for load in tile.loads)
    return sum(timeline.dma_bytes.values()) / timeline.makespan_ps * 1000, longest


def show(title: str, heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """A table for the terminal."""
    table = Table(title=title)
    for head in heads:
        table.add_column(head, justify="right")
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)


@click.command()
@click.option("--words", default=2**18, show_default=True, help="Weights of the layer.")
def main(words):
    """Tell the bandwidth of an update over the length of its runs."""
    lengths = tuple(f"{run} B" for run in RUNS)
    rows = []
    for device in ("x16", "x8"):
        for name in MAPPINGS:
            reached = [memory_GBps(device, name, run) for run in RUNS]
            spread = max(reached) / min(reached)
            rows.append((device, name, *(f"{one:.2f}" for one in reached), f"{spread:.2f}x"))
    show("GB/s, memory alone, of 19.2", ("chips", "mapping", *lengths, "spread"), rows)
    rows = []
    for machine in BOARDS:
        reached = [ema_GBps(machine, words, run)[0] for run in RUNS]
        default, run = ema_GBps(machine, words, None)
        share = default / max(reached)
        cells = (f"{one:.2f}" for one in (*reached, default))
        rows.append((machine.name, *cells, f"{run} B", f"{share:.1%}"))
    heads = ("board", *lengths, "by default", "in runs of", "of the best")
    show("GB/s of an ema pass, whole machine", heads, rows)


if __name__ == "__main__":
    main()
