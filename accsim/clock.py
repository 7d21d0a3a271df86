"""What each kind of training step costs: simulated once, remembered, and charged step by step."""

import time
from collections import Counter
from dataclasses import dataclass, field, replace

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


@dataclass(frozen=True)
class Kind:
    """One kind of step: what ran, and what the simulation of it says."""

    passes: Passes
    store: bool  # the teacher is written back, where the schedule leaves a choice
    timeline: engine.Timeline = field(repr=False)
    account: energy.EnergyAccount = field(repr=False)
    ledgers: dict[str, Ledger] = field(repr=False)

    def pass_table(self) -> pd.DataFrame:
        """The timeline's passes with the joules of each."""
        table = self.timeline.passes()
        table["joules"] = [joules(sum(part.values())) for part in self.account.by_operation]
        return table


@dataclass(frozen=True)
class Totals:
    """A run's tables, summed over all charged steps and the idle time between them."""

    steps: int
    ps: int
    idle_ps: int
    joules: float
    passes: pd.DataFrame = field(repr=False)
    tensors: pd.DataFrame = field(repr=False)
    units: pd.DataFrame = field(repr=False)
    energy: pd.DataFrame = field(repr=False)  # by action, with component, count unit and source
    kinds: pd.DataFrame = field(repr=False)  # one row a kind of step: how often, what each cost
    dram_counts: dict[str, int] = field(repr=False)
    ledgers: dict[str, Ledger] = field(repr=False)


class StepClock:
    """Simulated time of one accelerator that trains one network by one schedule.

    A step is simulated once for each distinct set of passes and charged from memory afterwards.
    The samples of a backward pass are rounded up to the accelerator's `sample_granule`: the
    samples that fill the granule are padded work, and there are few kinds of step.

    Raises ValueError at birth for buffers too small for one tile of any layer and for operands
    wider than the PE array's.
    """

    def __init__(
        self,
        network: Network,
        numerics: Numerics,
        schedule: Schedule,
        accelerator: AcceleratorSpec,
        dataflow: Dataflow,
    ):
        for name in ("weight_bits", "activation_bits", "error_bits"):
            if getattr(numerics, name) > accelerator.pe_array.operand_bits:
                raise ValueError(
                    f"{name} must be at most operand_bits of the PE array "
                    f"({accelerator.pe_array.operand_bits}), not {getattr(numerics, name)}"
                )
        if numerics.gradient_bits > accelerator.pe_array.accumulator_bits:
            raise ValueError(
                f"accumulator_bits of the PE array must be at least gradient_bits "
                f"({numerics.gradient_bits}), not {accelerator.pe_array.accumulator_bits}"
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
        self._operations(Passes(1, 1, 1, True), True)  # every layer must fit

    @property
    def now_ps(self) -> int:
        """Simulated time since the start of the run."""
        return self._now_ps

    def charge(self, passes: Passes, step: int) -> StepCost:
        """Advance time by one training step and return its cost.

        Parameters
        ----------
        passes : what ran
        step : updates of the student so far, this one included; at least 1

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
        granule = self.accelerator.sample_granule
        backward = min(ceil_div(passes.backward, granule) * granule, passes.student_forward)
        passes = replace(passes, backward=backward)
        store = self.schedule.blend(max(step, 1)).store if passes.ema else True
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

    def wait_until(self, ps: int) -> None:
        """Stand idle until `ps`; no effect where it has passed."""
        if ps > self._now_ps:
            self._idle_ps += ps - self._now_ps
            self._now_ps = ps

    def totals(self) -> Totals:
        """Tables and ledgers of everything charged so far; raises LedgerError if one is open."""
        charged = [(self._kinds[key], count) for key, count in self._charged.items()]
        idle_energy = energy.idle_account(self._idle_ps, self.accelerator, self.table)
        by_action = Counter(idle_energy)
        dram_counts: Counter[str] = Counter()
        for kind, count in charged:
            for name, amount in kind.account.by_action.items():
                by_action[name] += amount * count
            for name, amount in kind.timeline.dram_counts.items():
                dram_counts[name] += amount * count
        ledgers = self._ledgers(charged)
        ledger.check(ledgers)
        return Totals(
            steps=sum(self._charged.values()),
            ps=self._now_ps,
            idle_ps=self._idle_ps,
            joules=joules(sum(by_action.values())),
            passes=_sum(
                [(kind.pass_table(), count) for kind, count in charged],
                ["network", "layer", "pass", "unit"],
            ),
            tensors=_sum(
                [(kind.timeline.tensors(), count) for kind, count in charged],
                ["tensor", "class", "pass"],
            ),
            units=self._units(charged),
            energy=pd.DataFrame(
                [
                    (action.component, action.name, joules(by_action[action.name]),
                     joules(idle_energy.get(action.name, 0)), action.source)
                    for action in self.table.actions
                ],
                columns=["component", "action", "joules", "idle_joules", "source"],
            ),
            kinds=pd.DataFrame(
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
            ),
            dram_counts=dict(dram_counts),
            ledgers=ledgers,
        )  # fmt: skip

    def _operations(self, passes: Passes, store: bool):
        return self.schedule.operations(
            self.network, self.numerics, self.accelerator, self.dataflow, passes, store
        )

    def _units(self, charged) -> pd.DataFrame:
        frames = [(kind.timeline.units(), count) for kind, count in charged]
        table = _sum(frames, ["unit", "cause"])
        if self._idle_ps and not table.empty:
            cycles = self._idle_ps / self.accelerator.period_ps
            idle = [(unit, "idle", self._idle_ps, cycles) for unit in table["unit"].unique()]
            table = _sum([(table, 1), (pd.DataFrame(idle, columns=table.columns), 1)],
                         ["unit", "cause"])  # fmt: skip
        return table

    def _ledgers(self, charged) -> dict[str, Ledger]:
        """The kinds' ledgers, each counted as often as it was charged; time against this clock."""
        merged: dict[str, Ledger] = {}
        for kind, count in charged:
            for name, book in kind.ledgers.items():
                before = merged.get(name)
                left = Counter(before.left_rows if before else {})
                right = Counter(before.right_rows if before else {})
                for row, amount in book.left_rows.items():
                    left[row] += amount * count
                for row, amount in book.right_rows.items():
                    right[row] += amount * count
                merged[name] = replace(book, left_rows=left, right_rows=right)
        if "time" in merged:
            left = {row: ps + self._idle_ps for row, ps in merged["time"].left_rows.items()}
            merged["time"] = replace(
                merged["time"],
                right_name="clock",
                left_rows=left,
                right_rows=dict.fromkeys(left, self._now_ps),
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
