"""What each kind of training step costs: simulated once, remembered, and charged step by step."""

import time
from collections import Counter
from dataclasses import dataclass, field, fields, replace
from typing import Any

import pandas as pd

from accsim import energy, engine, ledger
from accsim.dataflow.base import Dataflow
from accsim.hardware.accelerator import AcceleratorSpec
from accsim.ledger import Ledger
from accsim.network import Network
from accsim.numerics import Numerics
from accsim.passes import Passes
from accsim.schedule.base import Schedule
from accsim.units import ceil_div, joules, seconds


@dataclass(frozen=True)
class StepCost:
    """What one training step took."""

    cycles: int  # of the accelerator's clock
    ps: int
    joules: float
    ddr_read_bytes: int
    ddr_write_bytes: int
    macs: int

    @property
    def seconds(self) -> float:
        return seconds(self.ps)

    def __add__(self, other: "StepCost") -> "StepCost":
        """Of both, one after the other."""
        return StepCost(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class Kind:
    """One kind of step: what ran, and what the simulation of it says."""

    passes: Passes
    store: bool  # the teacher is written back, where the schedule leaves a choice
    timeline: engine.Timeline = field(repr=False)
    account: energy.EnergyAccount = field(repr=False)
    ledgers: dict[str, Ledger] = field(repr=False)

    def pass_table(self) -> pd.DataFrame:
        """One row an operation: what it did and cost; waits for operands of either cause."""
        table = self.timeline.passes()
        table["cycles_wait_operand"] += table.pop("cycles_wait_dependency")
        table["joules"] = [joules(sum(part.values())) for part in self.account.by_operation]
        return table.drop(columns=["vector_operations", "on_chip_bytes"])

    def energy_table(self) -> pd.DataFrame:
        """Joules by component and pass."""
        rows: Counter[tuple[str, str]] = Counter()
        for record, parts in zip(self.timeline.records, self.account.by_operation, strict=True):
            for component, amount in parts.items():
                rows[component, record.operation.pass_name] += amount
        return pd.DataFrame(
            [(*key, joules(amount)) for key, amount in rows.items()],
            columns=["component", "pass", "joules"],
        )


@dataclass(frozen=True)
class Totals:
    """A run's counts and tables, summed over all charged steps and the idle time between them."""

    steps: int
    cycles: int  # of the accelerator's clock, idle ones too
    idle_ps: int
    joules: float
    ddr_read_bytes: int
    ddr_write_bytes: int
    padding_bytes: int  # of whole bursts beyond those
    on_chip_bytes: int  # that did not travel, because they stayed on chip
    macs: int
    memory: pd.DataFrame = field(repr=False)  # a row a memory: the most that a kind of step takes
    dram_counts: dict[str, int] = field(repr=False)
    mechanism_cycles: dict[str, float]  # what the run waits for: DDR by cause, units, idle
    passes: pd.DataFrame = field(repr=False)  # a row a layer and pass
    tensors: pd.DataFrame = field(repr=False)  # a row a tensor and pass
    units: pd.DataFrame = field(repr=False)  # a row a unit and cause
    critical_path: pd.DataFrame = field(repr=False)  # a row a pass and unit waited for; idle is one
    energy: pd.DataFrame = field(repr=False)  # a row a component and pass; idle is one
    kinds: pd.DataFrame = field(repr=False)  # a row a kind of step: how often, what each cost
    energy_table: list[dict[str, Any]] = field(repr=False)  # joules an action, with their sources
    ledgers: dict[str, Ledger] = field(repr=False)


class StepClock:
    """Simulated time of one accelerator that trains one network by one schedule.

    A step is simulated once for each distinct set of passes and charged from memory afterwards.
    The samples of a backward pass are rounded up to the accelerator's `sample_granule`: the
    samples that fill the granule are padded work, and there are few kinds of step. Those
    of micro-batches and of probes are rounded up one by one.

    Raises ValueError at birth for buffers too small for one tile of any layer, for operands wider
    than the PE array's, and where the schedule cannot cut the accelerator as it wants.
    """

    def __init__(
        self,
        network: Network,
        numerics: Numerics,
        schedule: Schedule,
        accelerator: AcceleratorSpec,
        dataflow: Dataflow,
    ):
        accelerator = schedule.machine(accelerator)
        for name in ("weight_bits", "activation_bits", "error_bits"):
            if getattr(numerics, name) > accelerator.pe_array.operand_bits:
                raise ValueError(
                    f"{name} must be at most operand_bits of the PE array "
                    f"({accelerator.pe_array.operand_bits}), not {getattr(numerics, name)}"
                )
        if numerics.accumulator_bits > accelerator.pe_array.accumulator_bits:
            raise ValueError(
                f"accumulator_bits must be at most those of the PE array "
                f"({accelerator.pe_array.accumulator_bits}), not {numerics.accumulator_bits}"
            )
        self.network = network
        self.numerics = numerics
        self.schedule = schedule
        self.accelerator = accelerator
        self.dataflow = dataflow
        self.table = energy.energy_table(accelerator)
        self.host_seconds = 0.0  # spent simulating
        self._now_ps = 0
        self._idle_ps = 0
        self._kinds: dict[tuple[Passes, bool], Kind] = {}
        self._charged: Counter[tuple[Passes, bool]] = Counter()
        parts = schedule.turn(1).micro_batches
        smallest = Passes(1, parts, parts, True, ((1, 1),) * parts)
        self._operations(smallest, True)  # every layer must fit

    @property
    def now_ps(self) -> int:
        """Simulated time since the start of the run."""
        return self._now_ps

    @property
    def seconds(self) -> float:
        """Simulated time since the start of the run."""
        return seconds(self._now_ps)

    @property
    def joules(self) -> float:
        """Energy since the start of the run, that of idle time included."""
        busy = sum(
            self._kinds[key].account.total_aj * count for key, count in self._charged.items()
        )
        return joules(busy + sum(self._idle_energy().values()))

    def charge(self, passes: Passes, step: int) -> StepCost:
        """Advance time by one training step and return its cost.

        The teacher that a fused schedule forms while it reads the weights is charged to the step
        whose number its blend has: the run as a whole counts every blend and write-back once.

        Parameters
        ----------
        passes : what ran
        step : updates of the student so far, this one included; of a rejected batch those before
            it; at least 1

        Raises
        ------
        LedgerError where a book of a newly simulated kind of step does not close.
        ValueError where the step's tensors do not fit the DDR.
        """
        kind = self.kind(passes, step)
        self._charged[kind.passes, kind.store] += 1
        timeline = kind.timeline
        self._now_ps += timeline.makespan_ps
        return StepCost(
            cycles=timeline.makespan_cycles,
            ps=timeline.makespan_ps,
            joules=kind.account.joules,
            ddr_read_bytes=timeline.ddr_read_bytes,
            ddr_write_bytes=timeline.ddr_write_bytes,
            macs=timeline.array_macs,
        )

    def kind(self, passes: Passes, step: int) -> Kind:
        """The kind of step that `passes` make at `step`, simulated if it is new; time stands."""
        passes = self._padded(passes)
        teacher = passes.ema or (passes.rejected and not passes.own_labels)
        return self._kind(passes, self.schedule.blend(step).store if teacher else True)

    def spared(self, passes: Passes, whole: Passes, step: int) -> tuple[int, float]:
        """Cycles and joules that `passes` take less than `whole`; time stands, `step` as above.

        In the cycles that it gains the machine idles: that energy is not spared.
        """
        less, more = self.kind(passes, step), self.kind(whole, step)
        gained = more.timeline.makespan_cycles - less.timeline.makespan_cycles
        gained_ps = gained * self.accelerator.period_ps
        idle = sum(energy.idle_account(gained_ps, self.accelerator, self.table).values())
        return gained, joules(more.account.total_aj - less.account.total_aj - idle)

    def unfrozen(self, kind: Kind) -> Kind:
        """What `kind` would be if every layer trained; time stands."""
        return self._kind(replace(kind.passes, frozen=()), kind.store)

    def _kind(self, passes: Passes, store: bool) -> Kind:
        key = (passes, store)
        if key not in self._kinds:
            started = time.perf_counter()
            timeline = engine.simulate(self._operations(passes, store), self.accelerator)
            account = energy.account(timeline, self.table)
            ledgers = timeline.ledgers(self.network, passes)
            ledgers["energy"] = account.ledger()
            ledger.check(ledgers)
            self._kinds[key] = Kind(passes, store, timeline, account, ledgers)
            self.host_seconds += time.perf_counter() - started
        return self._kinds[key]

    def commonest(self) -> tuple[Kind, int]:
        """The kind of step that was charged most often, of equals the longest; and how often.

        Raises ValueError where none was charged.
        """
        charged = ((self._kinds[key], count) for key, count in self._charged.items())
        return max(charged, key=lambda pair: (pair[1], pair[0].timeline.makespan_ps))

    def _padded(self, passes: Passes) -> Passes:
        """`passes` with whole granules backward, of every micro-batch and probe."""
        granule = self.accelerator.sample_granule
        parts, probes = (
            tuple(
                (forward, min(ceil_div(backward, granule) * granule, forward))
                for forward, backward in pairs
            )
            for pairs in (passes.parts, passes.probes)
        )
        return replace(
            passes,
            backward=sum(backward for _, backward in parts),
            micro_batches=parts if passes.micro_batches else (),
            probes=probes,
        )

    def wait_until(self, ps: int) -> None:
        """Stand idle until `ps`; no effect where it has passed."""
        if ps > self._now_ps:
            self._idle_ps += ps - self._now_ps
            self._now_ps = ps

    def totals(self) -> Totals:
        """Tables and ledgers of everything charged so far; raises LedgerError if one is open."""
        charged = [(self._kinds[key], count) for key, count in self._charged.items()]
        ledgers = self._ledgers(charged)
        ledger.check(ledgers)
        dram_counts: Counter[str] = Counter()
        for kind, count in charged:
            for name, amount in kind.timeline.dram_counts.items():
                dram_counts[name] += amount * count

        def total(of) -> int:
            return sum(of(kind.timeline) * count for kind, count in charged)

        return Totals(
            steps=sum(self._charged.values()),
            cycles=self._now_ps // self.accelerator.period_ps,
            idle_ps=self._idle_ps,
            joules=self.joules,
            ddr_read_bytes=total(lambda timeline: timeline.ddr_read_bytes),
            ddr_write_bytes=total(lambda timeline: timeline.ddr_write_bytes),
            padding_bytes=total(lambda timeline: timeline.padding_bytes),
            on_chip_bytes=total(lambda timeline: timeline.on_chip_bytes),
            macs=total(lambda timeline: timeline.array_macs),
            memory=self._memory(charged),
            dram_counts=dict(dram_counts),
            mechanism_cycles=self._mechanisms(charged),
            passes=_sum(
                [(kind.pass_table(), count) for kind, count in charged],
                ["network", "layer", "pass", "unit"],
            ),
            tensors=_sum(
                [
                    (kind.timeline.tensors().drop(columns="on_chip_bytes"), count)
                    for kind, count in charged
                ],
                ["tensor", "class", "pass"],
            ),
            units=self._units(charged),
            critical_path=self._critical_path(charged),
            energy=self._energy(charged),
            kinds=self._table_of_kinds(charged),
            energy_table=[
                {
                    "action": action.name,
                    "component": action.component,
                    "joules": action.joules,
                    "unit": action.unit,
                    "source": action.source,
                    "low": action.low,
                    "high": action.high,
                }
                for action in self.table.actions
            ],
            ledgers=ledgers,
        )

    def _idle_energy(self) -> dict[str, int]:
        return energy.idle_account(self._idle_ps, self.accelerator, self.table)

    def _energy(self, charged) -> pd.DataFrame:
        frames = [(kind.energy_table(), count) for kind, count in charged]
        if self._idle_ps:
            idle = [
                (self.table[action].component, "idle", joules(amount))
                for action, amount in self._idle_energy().items()
            ]
            frames.append((pd.DataFrame(idle, columns=["component", "pass", "joules"]), 1))
        return _sum(frames, ["component", "pass"])

    def _table_of_kinds(self, charged) -> pd.DataFrame:
        return pd.DataFrame(
            [
                {
                    "steps": count,
                    "teacher_forward": kind.passes.teacher_forward,
                    "student_forward": kind.passes.student_forward,
                    "backward": kind.passes.backward,
                    "ema": kind.passes.ema,
                    "store": kind.store,
                    "cycles": kind.timeline.makespan_cycles,
                    "joules": kind.account.joules,
                    "ddr_read_bytes": kind.timeline.ddr_read_bytes,
                    "ddr_write_bytes": kind.timeline.ddr_write_bytes,
                }
                for kind, count in charged
            ]
        )

    def _operations(self, passes: Passes, store: bool):
        return self.schedule.operations(
            self.network, self.numerics, self.accelerator, self.dataflow, passes, store
        )

    def _units(self, charged) -> pd.DataFrame:
        frames = [(kind.timeline.units().drop(columns="ps"), count) for kind, count in charged]
        table = _sum(frames, ["unit", "cause"])
        if not self._idle_ps or table.empty:
            return table
        cycles = self._idle_ps / self.accelerator.period_ps
        idle = [(unit, "idle", cycles) for unit in table["unit"].unique()]
        idle_table = pd.DataFrame(idle, columns=["unit", "cause", "cycles"])
        return _sum([(table, 1), (idle_table, 1)], ["unit", "cause"])

    def _memory(self, charged) -> pd.DataFrame:
        frames = [kind.timeline.memory() for kind, _ in charged]
        if not frames:
            return pd.DataFrame(columns=["memory"])
        return pd.concat(frames).groupby("memory", sort=False, as_index=False).max()

    def _mechanisms(self, charged) -> dict[str, float]:
        """Cycles of the run by what its critical paths wait for; they sum to those of the run."""
        spent_ps: Counter[str] = Counter()
        for kind, count in charged:
            for name, ps in kind.timeline.mechanism_ps.items():
                spent_ps[name] += ps * count
        spent_ps["idle"] = self._idle_ps
        return {name: ps / self.accelerator.period_ps for name, ps in spent_ps.items()}

    def _critical_path(self, charged) -> pd.DataFrame:
        frames = [(k.timeline.critical_path().drop(columns="layer"), n) for k, n in charged]
        if self._idle_ps:
            cycles = self._idle_ps / self.accelerator.period_ps
            idle = pd.DataFrame([("idle", "idle", cycles)], columns=["pass", "unit", "cycles"])
            frames.append((idle, 1))
        return _sum(frames, ["pass", "unit"])

    def _ledgers(self, charged) -> dict[str, Ledger]:
        """The kinds' ledgers, each counted as often as it was charged; time against this clock."""
        merged: dict[str, Ledger] = {}
        for kind, count in charged:
            for name, book in kind.ledgers.items():
                before = merged.get(name)
                left: Counter[str] = Counter(before.left_rows if before else {})
                right: Counter[str] = Counter(before.right_rows if before else {})
                for row, amount in book.left_rows.items():
                    left[row] += amount * count
                for row, amount in book.right_rows.items():
                    right[row] += amount * count
                merged[name] = replace(book, left_rows=left, right_rows=right)
        if not merged:
            return merged
        spent = {row: ps + self._idle_ps for row, ps in merged["time"].left_rows.items()}
        merged["time"] = replace(
            merged["time"],
            right_name="clock",
            left_rows=spent,
            right_rows=dict.fromkeys(spent, self._now_ps),
        )
        idle = sum(self._idle_energy().values())
        books = merged["energy"]
        merged["energy"] = replace(
            books,
            left_rows={**books.left_rows, "idle": idle},
            right_rows={**books.right_rows, "idle": idle},
        )
        return merged


def _sum(frames: list[tuple[pd.DataFrame, int]], keys: list[str]) -> pd.DataFrame:
    """Rows of all frames, each counted so many times, summed by `keys` in order of appearance."""
    if not frames:
        return pd.DataFrame(columns=keys)
    scaled = []
    for frame, count in frames:
        counts = frame.columns.difference(keys)
        scaled.append(frame.assign(**{name: frame[name] * count for name in counts}))
    return pd.concat(scaled).groupby(keys, sort=False, as_index=False).sum()
