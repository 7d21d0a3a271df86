"""Runs a step's operations on an accelerator: a timeline of cycles, bytes and their causes.

Four processes share the machine. The DMA read engine (or two, one of them for weights) walks all
tiles in program order and fills buffer slots as they come free; the PE array and the vector unit
take their tiles in order; the DMA write engine empties what they leave. A machine that is cut in
two has all of these twice, and each part takes its own operations in order. All of them meet in one
DDR channel.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import simpy

from accsim.dataflow.tile import Tensor, Tile, Transfer
from accsim.hardware.accelerator import AcceleratorSpec
from accsim.hardware.buffer import Buffer
from accsim.hardware.dma import DmaEngine, bursts
from accsim.hardware.dram_controller import DramController, RecallCheck
from accsim.hardware.part import of_part
from accsim.hardware.pe_array import PEArray
from accsim.hardware.vector_unit import VectorUnit
from accsim.ledger import TOTAL, Ledger
from accsim.network import Network
from accsim.passes import Passes
from accsim.schedule.allocation import Extent, extents
from accsim.schedule.operation import Operation, macs_by_label
from accsim.units import PS_PER_SECOND, ceil_div

# What a transfer on the critical path waits for, and how the DDR's bus calls it.
MECHANISMS = {
    "ddr_data": "busy",
    "ddr_rows": "row",
    "ddr_turnaround": "turnaround",
    "ddr_refresh": "refresh",
}


@dataclass
class OperationRecord:
    """What one operation did, counted by the hardware that did it."""

    operation: Operation
    number: int  # in program order
    busy_ps: int = 0
    wait_operand_ps: int = 0  # for its own reads, or for the DMA to reach them
    wait_dependency_ps: int = 0  # for another operation's results, or until it needs its operands
    wait_output_ps: int = 0  # for a free slot: the write engine or the update is behind
    macs: int = 0
    vector_operations: int = 0
    buffer_read_bytes: int = 0
    buffer_write_bytes: int = 0
    ddr_read_bytes: int = 0
    ddr_write_bytes: int = 0
    ddr_read_bursts: int = 0
    ddr_write_bursts: int = 0
    end_ps: int = 0  # its last cycle or its last written beat
    share_ps: int = 0  # of the makespan, when operations of a part retire in program order


@dataclass(frozen=True)
class Timeline:
    """One simulated step: integers as counted, tables as data frames.

    Time is picoseconds; the compute units move on whole cycles of `period_ps`.
    """

    accelerator: AcceleratorSpec = field(repr=False)
    makespan_ps: int
    records: tuple[OperationRecord, ...] = field(repr=False)
    unit_ps: dict[str, dict[str, int]] = field(repr=False)  # unit -> cause -> ps
    dram_counts: dict[str, int] = field(repr=False)  # commands
    dram_active_ps: int
    dram_precharged_ps: int
    recall: RecallCheck = field(
        repr=False
    )  # of the controller's short cuts, on this step's traffic
    path: list[tuple["Work", int]] = field(repr=False)  # critical, with the ps that each adds
    mechanism_ps: dict[str, int]  # the makespan, by what the critical path waits for
    dma_bytes: dict[str, int]  # read, write: payload
    dma_bursts: dict[str, int]
    array_macs: int
    vector_operations: int  # of the vector unit, and blends in the weights' path
    buffer_bytes: dict[str, int]  # read, write: by the units and by the DMA
    slots_held: dict[str, int]  # of each buffer, at one time

    @property
    def period_ps(self) -> int:
        return self.accelerator.period_ps

    @property
    def makespan_cycles(self) -> int:
        """Cycles of the accelerator's clock."""
        return self.makespan_ps // self.period_ps

    @property
    def ddr_read_bytes(self) -> int:
        """Payload; whole bursts are `dma_bursts`."""
        return self.dma_bytes["read"]

    @property
    def ddr_write_bytes(self) -> int:
        return self.dma_bytes["write"]

    @property
    def padding_bytes(self) -> int:
        """Bytes of touched bursts that are no payload."""
        moved = sum(self.dma_bursts.values()) * self.accelerator.dram.burst_bytes
        return moved - sum(self.dma_bytes.values())

    def memory(self) -> pd.DataFrame:
        """One row a memory, DDR first: bytes at its fullest, the least they could be, capacity.

        Of buffers with slots the peak is the slots that were held at one time, each as large as the
        largest tile in them; sums of micro-batches lie beside those of the gradient buffer. Where
        tensors have addresses it goes to the end of the last one, and `least_bytes`, the most that
        they have at one time, is what no addresses undercut.
        """
        operations = [record.operation for record in self.records]
        found = extents(
            (taken, one)
            for operation in operations
            for taken, side in ((True, operation.takes), (False, operation.gives))
            for one in side
        )
        none = Extent(0, 0)
        rows = [("ddr", *found.get("ddr", none), self.accelerator.dram.capacity_bytes)]
        for part, spec in self.accelerator.parts.items():
            own = [o for o in operations if o.part == part]
            for name, buffer in spec.buffers.by_name.items():
                called = of_part(part, name)
                peak_bytes, least_bytes = found.get(called, none)
                if called in self.slots_held:
                    slots = [o.slot_bytes[name] for o in own if o.holds_slot_of(name)]
                    peak_bytes = least_bytes + self.slots_held[called] * max(slots, default=0)
                    least_bytes = peak_bytes
                rows.append((called, peak_bytes, least_bytes, buffer.capacity_bytes))
        return pd.DataFrame(rows, columns=["memory", "peak_bytes", "least_bytes", "capacity_bytes"])

    def allocations(self) -> pd.DataFrame:
        """One row for all that an operation takes before it, or gives back after it, in order."""
        return pd.DataFrame(
            [
                (index, event, one.memory, one.tensor.name, one.address, one.size_bytes)
                for index, record in enumerate(self.records)
                for event, side in (
                    ("take", record.operation.takes),
                    ("give", record.operation.gives),
                )
                for one in side
            ],
            columns=["operation", "event", "memory", "tensor", "address", "bytes"],
        )

    @property
    def on_chip_bytes(self) -> int:
        """Bytes that the resident and gradient buffers kept from travelling."""
        return sum(size for record in self.records for _, size in record.operation.on_chip)

    def passes(self) -> pd.DataFrame:
        """One row an operation, in program order."""
        period_ps = self.period_ps
        return pd.DataFrame(
            [
                (
                    record.operation.network,
                    record.operation.layer,
                    record.operation.pass_name,
                    of_part(record.operation.part, record.operation.unit),
                    record.operation.samples,
                    record.busy_ps // period_ps,
                    record.wait_operand_ps // period_ps,
                    record.wait_dependency_ps // period_ps,
                    record.wait_output_ps // period_ps,
                    record.macs,
                    record.vector_operations,
                    record.ddr_read_bytes,
                    record.ddr_write_bytes,
                    sum(size for _, size in record.operation.on_chip),
                )
                for record in self.records
            ],
            columns=[
                *("network", "layer", "pass", "unit", "samples"),
                *("cycles_busy", "cycles_wait_operand", "cycles_wait_dependency"),
                *("cycles_wait_output", "macs", "vector_operations"),
                *("ddr_read_bytes", "ddr_write_bytes", "on_chip_bytes"),
            ],
        )

    def tensors(self) -> pd.DataFrame:
        """Bytes of every tensor by the pass that moved them; `on_chip_bytes` did not travel."""
        rows: dict[tuple[Tensor, str], list[int]] = {}
        for record in self.records:
            operation = record.operation
            sides = (operation.reads, operation.writes, operation.on_chip)
            for column, side in enumerate(sides):
                for tensor, size in side:
                    counts = rows.setdefault((tensor, operation.pass_name), [0, 0, 0])
                    counts[column] += size
        return pd.DataFrame(
            [(tensor.name, tensor.kind, name, *counts) for (tensor, name), counts in rows.items()],
            columns=["tensor", "class", "pass", "read_bytes", "write_bytes", "on_chip_bytes"],
        )

    def units(self) -> pd.DataFrame:
        """Every unit's time by cause; the causes of a unit sum to the makespan."""
        return pd.DataFrame(
            [
                (unit, cause, ps, ps / self.period_ps)
                for unit, causes in self.unit_ps.items()
                for cause, ps in causes.items()
            ],
            columns=["unit", "cause", "ps", "cycles"],
        )

    def critical_path(self) -> pd.DataFrame:
        """What the makespan waits for: cycles by operation and unit, in order of time.

        They sum to the makespan: the last takes the rest of its clock cycle.
        """
        rows = [
            (work.record.operation.layer, work.record.operation.pass_name, work.unit, ps)
            for work, ps in self.path
        ]
        table = pd.DataFrame(rows, columns=["layer", "pass", "unit", "ps"])
        table.loc[table.index[-1:], "ps"] += self.makespan_ps - table["ps"].sum()
        table = table.groupby(["layer", "pass", "unit"], sort=False, as_index=False).sum()
        table["cycles"] = table.pop("ps") / self.period_ps
        return table

    def ledgers(self, network: Network, passes: Passes) -> dict[str, Ledger]:
        """The books that must balance: bytes, bursts, MACs, time, and the bound on speed."""
        planned: dict[str, int] = {}
        moved: dict[str, int] = {}
        macs: dict[str, int] = {}
        for record in self.records:
            operation, label = record.operation, record.operation.label
            for side, travelled, counted in (
                ("read", operation.reads, record.ddr_read_bytes),
                ("written", operation.writes, record.ddr_write_bytes),
            ):
                row = f"{label} {side}"
                planned[row] = planned.get(row, 0) + sum(size for _, size in travelled)
                moved[row] = moved.get(row, 0) + counted
            if record.macs:
                macs[label] = macs.get(label, 0) + record.macs
        planned[TOTAL] = sum(planned.values())
        moved[TOTAL] = sum(self.dma_bytes.values())
        expected = macs_by_label(network, passes)
        expected[TOTAL], macs[TOTAL] = sum(expected.values()), self.array_macs

        burst_bytes = self.accelerator.dram.burst_bytes
        dma = {f"{side}s": n * burst_bytes for side, n in self.dma_bursts.items()}
        dma[TOTAL] = sum(self.dma_bytes.values()) + self.padding_bytes
        ddr = {side: self.dram_counts[side] * burst_bytes for side in ("reads", "writes")}
        ddr[TOTAL] = ddr["reads"] + ddr["writes"]

        time = {unit: sum(causes.values()) for unit, causes in self.unit_ps.items()}
        time["operations"] = sum(record.share_ps for record in self.records)
        return {
            ledger.name: ledger
            for ledger in (
                Ledger("ddr_bytes", "bytes", "tensors", "DMA", planned, moved),
                Ledger("ddr_bursts", "bytes", "DMA", "DDR commands", dma, ddr),
                Ledger("macs", "MACs", "PE array", "network", macs, expected),
                Ledger(
                    "time", "ps", "causes", "makespan", time, dict.fromkeys(time, self.makespan_ps)
                ),
                Ledger("bound", "ps", "peak rates", "makespan", *self._bound(), bound=True),
                Ledger(
                    "ddr_recall",
                    "cycles",
                    "sampled transfers, recalled",
                    "command by command",
                    {
                        "all samples": self.recall.cycles,
                        "ends that differ": self.recall.differing_ends,
                    },
                    {"all samples": self.recall.exact_cycles, "ends that differ": 0},
                ),
            )
        }

    def _bound(self) -> tuple[dict[str, int], dict[str, int]]:
        """Picoseconds that the MACs and the bytes take at peak rates, against the makespan."""
        peak_bytes = self.accelerator.dram.peak_bytes_per_second
        moved = sum(self.dma_bursts.values()) * self.accelerator.dram.burst_bytes
        least = {
            "MACs": ceil_div(self.array_macs, self.accelerator.macs_per_cycle) * self.period_ps,
            "bytes": int(moved * PS_PER_SECOND / peak_bytes),
        }
        return least, dict.fromkeys(least, self.makespan_ps)


def simulate(
    operations: Sequence[Operation],
    accelerator: AcceleratorSpec,
    controller: Callable[..., DramController] = DramController,
    listen: Callable[["Work"], None] = lambda work: None,
) -> Timeline:
    """Run `operations` in program order and return what happened, to the picosecond.

    `controller` makes the memory controller, from the first four arguments of `DramController`;
    `listen` hears of every tile and every transfer when it has ended.
    """
    return _Machine(operations, accelerator, controller, listen).run()


@dataclass(eq=False, slots=True)
class Work:
    """One tile on a unit, or one transfer, and what had to end before it could."""

    record: OperationRecord
    unit: str
    what: Tile | Transfer
    after: list["Work | None"]
    start_ps: int = 0
    end_ps: int = 0


def critical_path(last: Work | None) -> list[tuple[Work, int]]:
    """The chain of work that ends with `last`, each with the picoseconds that it adds, in order.

    Of all that a piece of work waits for, what ends last is on the path.
    """
    path: list[tuple[Work, int]] = []
    while last:
        ended = [work for work in last.after if work and work.end_ps <= last.end_ps]
        before = max(ended, key=lambda work: work.end_ps, default=None)
        path.append((last, last.end_ps - (before.end_ps if before else 0)))
        last = before
    return path[::-1]


def mechanisms(
    path: list[tuple[Work, int]], memory: DramController, makespan_ps: int
) -> dict[str, int]:
    """The makespan by what the critical path waits for; the rest of the last cycle is `dma`.

    The time of a transfer is split by what the memory's bus did meanwhile, for whomever it did it;
    what no cause of the memory explains is the DMA engine's own: starts, ports, latency.
    """
    units = ("pe_array", "vector_unit")
    spent = {unit: sum(ps for work, ps in path if unit in work.unit) for unit in units}
    moved = [(work.end_ps - ps, work.end_ps) for work, ps in path if "dma" in work.unit]
    until = memory.bus_ps_until(np.array(moved, np.int64).reshape(-1, 2))
    for name, cause in MECHANISMS.items():
        spent[name] = int(np.diff(until[cause]).sum())
    spent["dma"] = makespan_ps - sum(spent.values())
    return spent


class _Progress:
    """Bytes of a tensor that have been written, and who waits for more."""

    __slots__ = ("size_bytes", "waiting")

    def __init__(self):
        self.size_bytes = 0
        self.waiting: list = []

    def add(self, size_bytes: int, by: Work) -> None:
        self.size_bytes += size_bytes
        if self.waiting:
            ready = [event for needed, event in self.waiting if needed <= self.size_bytes]
            self.waiting = [pair for pair in self.waiting if pair[0] > self.size_bytes]
            for event in ready:
                event.succeed(by)

    def reach(self, env, size_bytes: int):
        """Process step: wait until `size_bytes` have been written; by whom, if there was a wait."""
        if self.size_bytes >= size_bytes:
            return None
        event = env.event()
        self.waiting.append((size_bytes, event))
        return (yield event)


class _Load:
    """Where the loads of a tile stand."""

    __slots__ = ("computed", "event", "pending", "ready_ps")

    def __init__(self, env, readers: int):
        self.event = env.event()
        self.computed = env.event()
        self.pending = readers  # themselves, until they have issued their last transfers
        self.ready_ps = 0  # when the last result of another operation that it needs was there

    def finish(self, work: Work | None = None) -> None:
        self.pending -= 1
        if not self.pending:
            self.event.succeed(work)


class _Over:
    """When an operation is over: its tiles computed and what they stored landed."""

    __slots__ = ("event", "pending")

    def __init__(self, env, operation: Operation):
        self.event = env.event()
        self.pending = sum(1 + len(t.stores) + len(t.early_stores) for t in operation.tiles)

    def finish(self, work: Work) -> None:
        self.pending -= 1
        if not self.pending:
            self.event.succeed(work)


class _Machine:
    """The accelerator while it runs one step: its parts, their memory, and who waits for whom."""

    def __init__(
        self, operations: Sequence[Operation], accelerator: AcceleratorSpec, controller, listen
    ):
        spec = accelerator
        self.listen = listen
        self.env: Any = simpy.Environment()  # its time is whole picoseconds
        self.spec = spec
        self.period_ps = spec.period_ps
        self.records = [OperationRecord(one, number) for number, one in enumerate(operations)]
        self.dram = controller(self.env, spec.dram, spec.address_mapping, spec.memory_controller)
        self.progress: dict[Tensor, _Progress] = {}
        self.overs = [_Over(self.env, operation) for operation in operations]
        self.last_work: Work | None = None  # of those that have ended
        parts = spec.parts
        strange = {operation.part for operation in operations} - parts.keys()
        if strange:
            raise ValueError(
                f"operations must be of the parts {sorted(parts)} of {spec.name}, not of "
                f"{sorted(strange)}: a schedule and its own machine belong together"
            )
        self.parts = [_Part(self, name, part) for name, part in parts.items()]

    def run(self) -> Timeline:
        """Run to the first clock edge at which every tile is computed and written."""
        env, parts = self.env, self.parts
        processes = [process for part in parts for process in part.start()]
        env.run(until=env.all_of(processes))
        for part in parts:
            part.check_finished()
        edge_ps = ceil_div(env.now, self.period_ps) * self.period_ps
        if edge_ps > env.now:
            env.run(until=edge_ps)
        self.dram.finish()
        named = {of_part(part.name, name): unit for part in parts for name, unit in part.named()}
        for unit in named.values():
            unit.occupancy.enter("idle")
        self._retire(edge_ps)
        path = critical_path(self.last_work)
        unit_ps = {name: dict(unit.occupancy.ps_by_cause) for name, unit in named.items()}
        unit_ps["ddr"] = dict(self.dram.bus_ps)
        readers = [reader for part in parts for reader in part.readers.values()]
        tiles = [tile for record in self.records for tile in record.operation.tiles]
        return Timeline(
            accelerator=self.spec,
            makespan_ps=edge_ps,
            records=tuple(self.records),
            unit_ps=unit_ps,
            dram_counts=dict(self.dram.counts),
            dram_active_ps=self.dram.active_ps,
            dram_precharged_ps=self.dram.precharged_ps,
            recall=self.dram.check_recall(),
            path=path,
            mechanism_ps=mechanisms(path, self.dram, edge_ps),
            dma_bytes={
                "read": sum(reader.size_bytes for reader in readers),
                "write": sum(part.writer.size_bytes for part in parts),
            },
            dma_bursts={
                "read": sum(reader.bursts for reader in readers),
                "write": sum(part.writer.bursts for part in parts),
            },
            array_macs=sum(part.units["pe_array"].macs for part in parts),
            vector_operations=sum(
                part.units["vector_unit"].operations + part.units["pe_array"].blends
                for part in parts
            ),
            buffer_bytes={
                "read": sum(tile.buffer_read_bytes for tile in tiles),
                "write": sum(tile.buffer_write_bytes for tile in tiles),
            },
            slots_held={
                of_part(part.name, name): buffer.most_held
                for part in parts
                for name, buffer in part.buffers.items()
            },
        )

    def _retire(self, makespan_ps: int) -> None:
        """Split the makespan: each operation gets the time by which it moves the last end on.

        Those of one part retire in program order, those of two as they come.
        """
        ends: dict[str, int] = {}
        retiring = []
        for record in self.records:
            part = record.operation.part
            ends[part] = max(ends.get(part, 0), record.end_ps)
            retiring.append((ends[part], record))
        retiring.sort(key=lambda pair: pair[0])  # stable
        retired_ps = 0
        for end_ps, record in retiring:
            record.share_ps = end_ps - retired_ps
            retired_ps = end_ps
        if retiring:
            retiring[-1][1].share_ps += makespan_ps - retired_ps

    def progress_of(self, tensor: Tensor) -> _Progress:
        return self.progress.setdefault(tensor, _Progress())

    def ended(self, work: Work) -> None:
        """Note that `work` ends now."""
        work.end_ps = self.env.now
        self.listen(work)
        work.record.end_ps = max(work.record.end_ps, self.env.now)
        self.overs[work.record.number].finish(work)
        if self.last_work is None or work.end_ps >= self.last_work.end_ps:
            self.last_work = work


class _Part:
    """Units, buffers and DMA engines that take the operations of one part in program order."""

    def __init__(self, machine: _Machine, name: str, spec: AcceleratorSpec):
        env, dram, burst_bytes = machine.env, machine.dram, spec.dram.burst_bytes
        self.env, self.name, self.spec = env, name, spec
        self.listen, self.overs = machine.listen, machine.overs
        self.ended, self.progress_of = machine.ended, machine.progress_of
        self.period_ps = spec.period_ps
        self.readers = {
            reader: DmaEngine(env, spec.dma, self.period_ps, dram, burst_bytes, False)
            for reader in ("dma_read", "dma_read_weights")[: 1 + spec.dma.weight_channel]
        }
        self.writer = DmaEngine(env, spec.dma, self.period_ps, dram, burst_bytes, True)
        self.units: dict[str, Any] = {
            "pe_array": PEArray(env, spec.pe_array),
            "vector_unit": VectorUnit(env, spec.vector_unit),
        }
        self.buffers = {
            buffer: Buffer(env, one)
            for buffer, one in spec.buffers.by_name.items()
            if buffer != "resident"
        }
        self.to_write: deque = deque()
        self.writer_wake: simpy.Event | None = None
        self.computing = len(self.units)
        self.tiles = [
            (record, tile, _Load(env, len(self.readers)))
            for record in machine.records
            if record.operation.part == name
            for tile in record.operation.tiles
        ]

    def start(self) -> list:
        """The processes of this part."""
        env = self.env
        processes = [env.process(self._write())]
        if len(self.readers) == 1:
            processes += [env.process(self._read("dma_read", lambda _: True))]
        else:
            processes += [
                env.process(self._read("dma_read", lambda name: name != "weight")),
                env.process(self._read("dma_read_weights", lambda name: name == "weight")),
            ]
        return processes + [env.process(self._compute(name)) for name in self.units]

    def named(self) -> list[tuple[str, Any]]:
        """Everything that has an occupancy, by its name."""
        return [*self.readers.items(), ("dma_write", self.writer), *self.units.items()]

    def _read(self, name: str, serves: Callable[[str], bool]):
        """Walk all tiles and bring in what belongs into the buffers that reader `name` serves."""
        env, reader, burst_bytes = self.env, self.readers[name], self.spec.dram.burst_bytes
        called = of_part(self.name, name)
        ahead: _Load | None = None
        work: Work | None = None
        for record, tile, load in self.tiles:
            waited: list[Work | None] = []
            if tile.restarts and ahead and not self.spec.dma.prefetch:
                reader.wait_for("dependency")
                waited.append((yield ahead.computed))
            ahead = load
            reader.wait_for("buffer")
            for buffer in tile.fills:
                if serves(buffer):
                    waited.append((yield from self.buffers[buffer].take()))
            for transfer in tile.loads:
                if not serves(transfer.buffer):
                    continue
                if transfer.needs_bytes:
                    reader.wait_for("dependency")
                    progress = self.progress_of(transfer.tensor)
                    waited.append((yield from progress.reach(env, transfer.needs_bytes)))
                    load.ready_ps = max(load.ready_ps, env.now)
                load.pending += 1
                work = Work(record, called, transfer, [work, *waited], env.now)
                address, size = transfer.address, transfer.size_bytes
                yield from reader.transfer(address, size, self._loaded(work, load))
                record.ddr_read_bytes += size
                record.ddr_read_bursts += bursts(address, size, burst_bytes)
            load.finish(work)
        reader.wait_for("idle")

    def _loaded(self, work: Work, load: _Load):
        def done():
            work.end_ps = self.env.now
            self.listen(work)
            load.finish(work)

        return done

    def _compute(self, name: str):
        env, period_ps, unit = self.env, self.period_ps, self.units[name]
        occupancy, called = unit.occupancy, of_part(self.name, name)
        work: Work | None = None
        for record, tile, load in self.tiles:
            if record.operation.unit != name:
                continue
            start_ps = env.now
            occupancy.enter("operand")
            work = Work(record, called, tile, [work])
            work.after.append((yield load.event))
            ready_ps = min(max(load.ready_ps, start_ps), env.now)
            for tensor, size_bytes in tile.needs:
                if self.progress_of(tensor).size_bytes < size_bytes:
                    work.after.append((yield from self.progress_of(tensor).reach(env, size_bytes)))
                    ready_ps = env.now
            if tile is record.operation.tiles[0]:
                for earlier in record.operation.follows:
                    if not (over := self.overs[earlier].event).processed:
                        work.after.append((yield over))
                        ready_ps = env.now
            # the units move on clock edges only: what ends between two is seen at the second
            ready_ps = ceil_div(ready_ps, period_ps) * period_ps
            loaded_ps = max(ceil_div(env.now, period_ps) * period_ps, ready_ps)
            for buffer in tile.opens:
                work.after.append((yield from self.buffers[buffer].take()))
            begin_ps = work.start_ps = ceil_div(env.now, period_ps) * period_ps
            end_ps = begin_ps + tile.cycles * period_ps
            record.wait_dependency_ps += ready_ps - start_ps
            record.wait_operand_ps += loaded_ps - ready_ps
            record.wait_output_ps += begin_ps - loaded_ps
            record.busy_ps += end_ps - begin_ps
            self._split(occupancy, start_ps, ready_ps, loaded_ps, begin_ps)
            if tile.early_stores:
                self._queue(record, work.after, tile.early_stores, ())
            yield env.timeout(end_ps - env.now)
            occupancy.enter("idle")
            self._finish(work, tile, unit)
            load.computed.succeed(work)
        self.computing -= 1
        self._wake_writer()

    @staticmethod
    def _split(occupancy, start_ps, ready_ps, loaded_ps, begin_ps) -> None:
        """Book a unit's wait by cause, now that each cause's end is known."""
        occupancy.enter_at("dependency", start_ps)
        occupancy.enter_at("operand", ready_ps)
        occupancy.enter_at("output", loaded_ps)
        occupancy.enter_at("busy", begin_ps)

    def _finish(self, work: Work, tile: Tile, unit) -> None:
        self.ended(work)
        unit.work(tile)
        record = work.record
        record.macs += tile.macs
        record.vector_operations += tile.vector_operations
        record.buffer_read_bytes += tile.buffer_read_bytes
        record.buffer_write_bytes += tile.buffer_write_bytes
        for name in tile.frees:
            self.buffers[name].give(work)
        for tensor, size_bytes in tile.makes:
            self.progress_of(tensor).add(size_bytes, work)
        if tile.stores:
            self._queue(record, [work], tile.stores, tile.drains)

    def _queue(self, record: OperationRecord, after: list[Work | None], stores, drains) -> None:
        for position, transfer in enumerate(stores, 1):
            last = position == len(stores)
            self.to_write.append((record, after, transfer, drains if last else ()))
        self._wake_writer()

    def _wake_writer(self) -> None:
        if self.writer_wake and not self.writer_wake.triggered:
            self.writer_wake.succeed()

    def _write(self):
        env, writer, burst_bytes = self.env, self.writer, self.spec.dram.burst_bytes
        last = work = None
        called = of_part(self.name, "dma_write")
        while self.computing or self.to_write:
            if not self.to_write:
                self.writer_wake = env.event()
                yield self.writer_wake
                continue
            record, after, transfer, drains = self.to_write.popleft()
            address, size = transfer.address, transfer.size_bytes
            last = env.event()
            work = Work(record, called, transfer, [work, *after], env.now)
            yield from writer.transfer(address, size, self._written(work, transfer, drains, last))
            record.ddr_write_bytes += size
            record.ddr_write_bursts += bursts(address, size, burst_bytes)
        if last and not last.triggered:
            yield last

    def _written(self, work: Work, transfer, drains, landed):
        def done():
            self.ended(work)
            self.progress_of(transfer.tensor).add(transfer.size_bytes, work)
            for name in drains:
                self.buffers[name].give(work)
            landed.succeed()

        return done

    def check_finished(self) -> None:
        """Every load has landed and every wait has ended; else the model itself is wrong."""
        stuck = [record.operation.label for record, _, load in self.tiles if load.pending]
        if stuck:
            raise RuntimeError(
                f"operation {stuck[0]} never finished: its loads are still under way"
            )
