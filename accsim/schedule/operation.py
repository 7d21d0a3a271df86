"""One pass of one layer on one unit, cut into tiles; and what the passes of a step multiply."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from accsim.dataflow.tile import Tensor, Tile
from accsim.dataflow.tiling import Tiling
from accsim.network import Conv2d, Network
from accsim.passes import Passes
from accsim.schedule.allocation import Allocation


@dataclass(frozen=True)
class Operation:
    """One pass of one layer on one unit: what it moves and how it is cut.

    `reads` and `writes` are bytes of each tensor that travel; `on_chip` those that need not. Before
    its first tile it `takes` memory and waits until the operations that it `follows` (by number)
    are over; after its last it `gives` back.
    """

    network: str  # "student", "teacher" or "probe": the student on frames that were moved
    layer: str
    pass_name: str  # teacher_forward, student_forward, loss, backward_data, ...
    unit: str  # "pe_array" or "vector_unit"
    samples: int
    gemm: tuple[int, int, int] | None  # m, n, k of the whole operation; of groups, n of all
    words: int  # of the vector unit; 0 for a matrix product
    reads: tuple[tuple[Tensor, int], ...]
    writes: tuple[tuple[Tensor, int], ...]
    on_chip: tuple[tuple[Tensor, int], ...]
    tiles: tuple[Tile, ...] = field(repr=False)
    tiling: Tiling | None = None  # of a matrix product
    slot_bytes: Mapping[str, int] = field(default_factory=dict)  # of each buffer, a tile at most
    takes: tuple[Allocation, ...] = ()
    gives: tuple[Allocation, ...] = ()
    follows: tuple[int, ...] = ()
    part: str = ""  # of a machine that is cut in two: student or teacher

    @property
    def label(self) -> str:
        return f"{self.layer}/{self.pass_name}"

    def holds_slot_of(self, buffer: str) -> bool:
        """Whether any tile takes a slot of `buffer`."""
        return any(buffer in (*tile.fills, *tile.opens) for tile in self.tiles)


def macs_by_label(network: Network, passes: Passes) -> dict[str, int]:
    """Multiply-accumulates that `passes` take by ``layer/pass``, from the network's shapes alone.

    backward_data counts every product that the array makes, those with inserted zeros too.
    """
    macs: dict[str, int] = {}
    asked = network.asked_errors(passes.frozen)
    probed = [sum(samples) for samples in zip(*passes.probes, strict=True)] or [0, 0]
    for node in network.nodes:
        if not node.macs:
            continue
        data = node.input.height * node.input.width * node.weights
        if not isinstance(node.layer, Conv2d):
            data = node.macs
        by_pass = {
            "teacher_forward": node.macs * passes.teacher_forward,
            "probe_forward": node.macs * probed[0],
            "probe_backward_data": data * probed[1],  # of every layer: down to the images
            "student_forward": node.macs * passes.student_forward,
            "backward_weight": node.macs * passes.backward if node.trains(passes.frozen) else 0,
            "backward_data": data * passes.backward if asked.intersection(node.inputs) else 0,
        }
        macs.update({f"{node.name}/{name}": count for name, count in by_pass.items() if count})
    return macs
