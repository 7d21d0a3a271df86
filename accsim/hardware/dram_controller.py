"""Memory controller: open rows, first-ready scheduling, write drain and refresh, to the clock.

Requests (one burst each) of the active transfers enter a read and a write queue, one a clock, round
robin. Reads have the turn until none waits or many writes do; then writes have it until few are
left; what has waited long takes it. Each clock carries at most one command: of the queue whose turn
it is, the command that may go first; at a tie column commands before ACT before PRE, then the
oldest. Where that queue has nothing to send yet, the other one may close and open rows in banks
that it alone needs. A row stays open until a conflicting request or a refresh needs its bank. A
request never overtakes an older one of its address in the other queue; it waits for older requests
only, so the oldest of all can always go: nothing locks up, and `Frfcfs.longest_wait_cycles` bounds
every wait. Every request moves its own data: none is merged with another or answered from a queue.

Sources: Rixner et al., "Memory access scheduling", ISCA 2000 (first-ready, first-come); JESD79-4
(timing rules). The watermarks and the cap are the middle of the range in which the controllers of
DRAMsim3 and Ramulator 2.1 enclose this one on traces of DMA traffic.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import simpy

from accsim.hardware import dram_core
from accsim.hardware.dram import AddressMapping, DramSpec, RowColumnBank
from accsim.hardware.dram_core import (
    ACCOUNTED_TO,
    ACTIVE,
    BURST,
    CAUSES,
    COUNTS,
    DATA_END,
    FINISHED,
    LONGEST,
    N_ACTIVATES,
    N_HITS,
    N_PRE_COMMANDS,
    N_READS,
    N_REFRESHES,
    N_WRITES,
    NEVER,
    OFFERING,
    OLDEST,
    OPEN_BANKS,
    OPEN_CYCLES,
    OPENED_AT,
    QUEUED,
    READ,
    READ_LATENCY,
    RECALLED,
    STUCK,
    TRACED,
    WRITE,
    Core,
)
from accsim.hardware.dram_recall import advance_recalling, new_recall
from accsim.hardware.dram_replay import Policy, Replay, requests
from accsim.hardware.dram_rules import Command, decode
from accsim.units import ceil_div

_TRACE_ROWS = 4096


@dataclass(frozen=True, kw_only=True)
class Frfcfs(Policy):
    """First ready, first come, in turns of reads and of writes; see the module.

    Raises ValueError for settings that contradict each other.
    """

    queue_depth: int = 32  # reads, and as many writes
    write_high: int = 30  # so many waiting writes take the turn from waiting reads
    write_low: int = 3  # so many writes may be left when reads get it back
    patience_cycles: int = 4096  # what has waited longer takes the turn; twice that, it goes alone
    row_hits_cap: int = 12  # bursts of an open row that may pass older requests of another row
    exact: bool = False  # play every command, and take no stretch from memory; see `dram_recall`

    def __post_init__(self):
        if not 1 <= self.queue_depth <= 256:
            raise ValueError(f"queue_depth must be from 1 to 256, not {self.queue_depth}")
        if not 1 <= self.write_high <= self.queue_depth:
            raise ValueError(
                f"write_high must be from 1 to queue_depth ({self.queue_depth}), "
                f"not {self.write_high}"
            )
        if not 0 <= self.write_low < self.write_high:
            raise ValueError(
                f"write_low must be from 0 to below write_high ({self.write_high}), "
                f"not {self.write_low}"
            )
        for name in ("patience_cycles", "row_hits_cap"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, not {getattr(self, name)}")

    def longest_wait_cycles(self, spec: DramSpec) -> int:
        """Bound on the cycles from a request's acceptance to its last data beat.

        Once the oldest request of all has waited twice `patience_cycles`, no other one moves. Alone
        it needs at most the recovery of its bank, PRE, ACT and the pauses between commands; at
        most 2 `queue_depth` requests are as old as any; a refresh costs its time and, at worst,
        what was done for one request. Raises ValueError where no request fits between refreshes.
        """
        recovery = max(spec.nRAS, spec.CWL + spec.nBL + spec.nWR) + spec.nRP
        alone = recovery + spec.nRC + spec.nFAW + spec.nRCD + spec.CWL + spec.nBL + spec.nWTR_L
        refresh = spec.nRFC + spec.ranks * recovery
        fit = (spec.nREFI - refresh) // alone
        if fit < 1:
            raise ValueError(
                f"nREFI of {spec.name} must be at least {refresh + alone}, for a request to fit "
                f"between two refreshes, not {spec.nREFI}"
            )
        intervals = ceil_div(2 * self.queue_depth, fit) + 1
        return 2 * self.patience_cycles + intervals * spec.nREFI + spec.CL + spec.nBL

    def replay(
        self,
        spec: DramSpec,
        mapping: AddressMapping,
        arrivals: np.ndarray,
        addresses: np.ndarray,
        is_write: np.ndarray,
        record: bool = False,
    ) -> Replay:
        """See `Policy.replay`; raises RuntimeError if a request can never be served."""
        core, commands = self._play(spec, mapping, arrivals, addresses, is_write, record)
        count, counts = len(arrivals), core.counts.tolist()
        end, reads = int(core.state[DATA_END]), counts[N_READS]
        still_open = core.ranks[core.ranks[:, OPEN_BANKS] > 0, OPENED_AT]
        return Replay(
            requests=count,
            total_cycles=end,
            row_hits=counts[N_HITS],
            act_commands=counts[N_ACTIVATES],
            pre_commands=counts[N_PRE_COMMANDS],
            read_commands=reads,
            write_commands=counts[N_WRITES],
            refresh_commands=counts[N_REFRESHES],
            active_cycles=int(core.state[OPEN_CYCLES] + (end - still_open).sum()),
            average_read_latency_cycles=core.state[READ_LATENCY] / reads if reads else 0.0,
            bandwidth_GBps=count * spec.burst_bytes * 1000 / (end * spec.tCK_ps),
            commands=commands,
        )

    def _play(
        self, spec, mapping, arrivals, addresses, is_write, record
    ) -> tuple[Core, np.ndarray]:
        """The controller's tables after all requests, and its commands."""
        count = len(arrivals)
        script = np.empty((count, 4), np.int64)
        self.longest_wait_cycles(spec)  # there must be one
        sound = spec.channels == 1 and count == len(addresses) == len(is_write)
        sound = sound and dram_core.fill_script(
            np.ascontiguousarray(arrivals, np.int64),
            np.ascontiguousarray(addresses, np.int64),
            np.ascontiguousarray(is_write, np.bool_),
            spec.burst_bytes,
            spec.capacity_bytes,
            script,
        )
        if not sound:
            requests(spec, mapping, arrivals, addresses, is_write)  # raises, and says why
        core = dram_core.new_core(
            spec, mapping, self, trace_rows=_TRACE_ROWS if record else 0, script=script
        )
        state, tables = core.state, []
        core.streams[0, :] = [script[0, 2], script[0, 1], count, count, 0, 0, script[0, 0]]
        state[OFFERING] = state[ACTIVE] = 1
        recall = None if record or self.exact else new_recall(core)
        while state[ACTIVE]:
            if recall is None:
                following, _ = dram_core.advance(NEVER, core)
            else:
                following, _ = advance_recalling(NEVER, core, recall)
            if following == STUCK:
                raise RuntimeError(_stuck(core, spec))
            tables.append(core.trace[: state[TRACED]].copy())
            state[TRACED] = 0
        return core, np.concatenate(tables)


class _Wake(simpy.Event):
    """Calls the controller after all ordinary events of its picosecond."""

    AFTER_ALL = 2  # simpy's own priorities are 0 and 1

    def __init__(self, env, callback, delay_ps):
        super().__init__(env)
        self.callbacks.append(callback)
        self._ok, self._value = True, None
        env.schedule(self, self.AFTER_ALL, delay_ps)


@dataclass
class _Moving:
    """A transfer on its way: in how many channels, and the end of those that are through."""

    done: simpy.Event
    channels: int = 0
    end_cycle: int = 0


@dataclass(frozen=True)
class RecallCheck:
    """Part of a run's transfers, played with stretches from memory and command by command."""

    transfers: int
    bursts: int
    recalled_bursts: int  # of these, taken from memory
    cycles: int  # to the end of the last transfer, summed over the samples
    exact_cycles: int
    differing_ends: int  # transfers that do not end in the same picosecond

    @property
    def difference(self) -> float:
        """Relative difference of the cycles."""
        return abs(self.cycles - self.exact_cycles) / max(self.exact_cycles, 1)


class DramController:
    """The channels of a memory behind their controllers; time is the environment's picoseconds.

    Parameters
    ----------
    env : simulation whose ``now`` is a whole number of picoseconds
    spec : the memory
    mapping : which address bits choose channel, rank, bank group, bank, row and column
    policy : how the controllers, one a channel, order commands; ValueError if it cannot here
    trace : record every command in `commands`
    """

    def __init__(
        self,
        env: simpy.Environment,
        spec: DramSpec,
        mapping: AddressMapping = RowColumnBank(),  # noqa: B008 (frozen)
        policy: Frfcfs = Frfcfs(),
        trace: bool = False,
    ):
        policy.longest_wait_cycles(spec)  # there must be one
        self.env = env
        self.spec = spec
        self.mapping = mapping
        self.policy = policy
        self.commands: list[Command] = []
        self._cores = tuple(
            dram_core.new_core(spec, mapping, policy, channel, _TRACE_ROWS if trace else 0)
            for channel in range(spec.channels)
        )
        if trace and spec.channels > 1:
            raise ValueError(
                f"trace needs a memory of one channel, not the {spec.channels} of {spec.name}"
            )
        exact = policy.exact or trace or spec.channels > 1
        self._recall = None if exact else new_recall(self._cores[0])
        self._asked: list[tuple[int, int, int, bool, int]] = []  # transfers, from their ps on
        self._history: list[tuple[int, ...]] = []  # cycle, and `Core.bus` up to it
        self._channel_shift = mapping.shifts(spec).channel
        self._free = list(range(15, -1, -1))
        self._moving: dict[int, _Moving] = {}  # by stream
        self._wake: _Wake | None = None
        self._finished_ps = 0

    def transfer(
        self, address: int, size_bytes: int, is_write: bool, interval_ps: int = 0
    ) -> simpy.Event:
        """Move `size_bytes` from byte `address` on, rounded out to whole bursts.

        Burst i of ``spec.burst_bytes`` is offered no earlier than now + i x `interval_ps`, the
        rate of the port. The event comes at the picosecond at which the last data beat has
        passed; like a `simpy.Timeout` it counts as triggered, not as processed, before.
        Raises ValueError for a range outside the memory.
        """
        if size_bytes < 1:
            raise ValueError(f"size_bytes of a transfer must be 1 or more, not {size_bytes}")
        if interval_ps < 0:
            raise ValueError(f"interval_ps of a transfer must be 0 or more, not {interval_ps}")
        if address < 0 or address + size_bytes > self.spec.capacity_bytes:
            raise ValueError(
                f"a transfer must lie within the {self.spec.capacity_bytes} bytes of "
                f"{self.spec.name}, not at {address:#x} with {size_bytes} bytes"
            )
        if not self._free:
            self._grow()
        now = int(self.env.now)
        self._asked.append((now, address, size_bytes, is_write, interval_ps))
        arrival_cycle = -(-now // self.spec.tCK_ps)
        first = address // self.spec.burst_bytes
        after = (address + size_bytes - 1) // self.spec.burst_bytes + 1
        stream, done = self._free.pop(), simpy.Event(self.env)
        moving = self._moving[stream] = _Moving(done)
        for channel, core in enumerate(self._cores):
            skipped = self._bursts_below(first, channel)
            bursts = self._bursts_below(after, channel) - skipped
            if bursts == 0:
                continue
            moving.channels += 1
            state = core.state
            own_first = dram_core.in_channel(first, core)
            offer_ps = now + (own_first - first) * interval_ps
            offer_cycle = -(-offer_ps // self.spec.tCK_ps)
            core.streams[stream] = (
                is_write, own_first, bursts, bursts, offer_ps, interval_ps, offer_cycle
            )  # fmt: skip
            core.offering[state[OFFERING]] = stream
            state[OFFERING] += 1
            if state[ACTIVE] == 0:  # the bus was idle until now
                state[ACCOUNTED_TO] = max(state[ACCOUNTED_TO], arrival_cycle)
            state[ACTIVE] += 1
        self._note_bus()
        self._wake_in(0)
        return done

    def check_recall(self, samples: int = 8, length: int = 8) -> RecallCheck:
        """Play samples of the transfers so far again, each from an idle memory, in both ways.

        The samples are `length` consecutive transfers each, spread evenly over the run. The bound
        on the difference is 0: what follows from equal states is equal.
        """
        last = max(len(self._asked) - length, 0)
        places = range(samples) if self._asked else ()
        starts = sorted({last * n // max(samples - 1, 1) for n in places})
        sums = np.zeros(6, np.int64)
        for start in starts:
            sample = self._asked[start : start + length]
            recalling, ends = self._play(sample, replace(self.policy, exact=False))
            exact, exact_ends = self._play(sample, replace(self.policy, exact=True))
            bursts = exact.counts["reads"] + exact.counts["writes"]
            recalled = sum(int(core.state[RECALLED]) for core in recalling._cores)
            tck, wrong = self.spec.tCK_ps, np.not_equal(ends, exact_ends).sum()
            cycles, exact_cycles = max(ends) // tck, max(exact_ends) // tck
            sums += [len(sample), bursts, recalled, cycles, exact_cycles, wrong]
        return RecallCheck(*sums.tolist())

    def _play(self, asked, policy: Frfcfs) -> tuple["DramController", list[int]]:
        """A new memory that has moved these transfers, and when each ended."""
        env: Any = simpy.Environment()
        memory = DramController(env, self.spec, self.mapping, policy)
        ends = [0] * len(asked)

        def move(index, at_ps, *transfer):
            yield env.timeout(at_ps - asked[0][0])
            yield memory.transfer(*transfer)
            ends[index] = env.now

        for index, transfer in enumerate(asked):
            env.process(move(index, *transfer))
        env.run()
        return memory, ends

    def finish(self) -> None:
        """Bring refresh and accounts up to now; RuntimeError if a transfer is still on its way."""
        now = int(self.env.now)
        self._advance(-(-now // self.spec.tCK_ps))
        for core in self._cores:
            if core.state[ACTIVE] or core.state[DATA_END] * self.spec.tCK_ps > now:
                raise RuntimeError(
                    f"the memory must be idle to finish, not moving data at {now} ps; "
                    f"wait for the events of all transfers"
                )
        self._finished_ps = now
        self._note_bus()

    def _note_bus(self) -> None:
        """Write down the bus's time by cause up to the last burst that is accounted for."""
        accounted_to = max(int(core.state[ACCOUNTED_TO]) for core in self._cores)
        causes = np.sum([core.bus for core in self._cores], axis=0)
        self._history.append((accounted_to, *causes.tolist()))

    def bus_ps_until(self, times_ps: np.ndarray) -> dict[str, np.ndarray]:
        """`bus_ps` from 0 to each of int64[n] times, int64[n] each.

        It is known where transfers begin and end, and taken as even in between.
        """
        at, *cycles = np.array([(0,) * (1 + len(CAUSES)), *self._history]).T * self.spec.tCK_ps
        causes = {
            name: np.interp(times_ps, at, spent / len(self._cores)).astype(np.int64)
            for name, spent in zip(CAUSES, cycles, strict=True)
        }
        causes["idle"] = times_ps - sum(causes.values())
        return causes

    @property
    def counts(self) -> dict[str, int]:
        """Bursts, commands, and bursts by what they found: their row, none, or another one."""
        counts = np.sum([core.counts for core in self._cores], axis=0)
        return dict(zip(COUNTS, counts.tolist(), strict=False))

    @property
    def bus_ps(self) -> dict[str, int]:
        """Time of the data bus by cause, from 0 to the last burst or `finish`; mean of channels.

        busy: data; refresh, turnaround (read to write and back): requests wait for it; row: they
        wait for ACT, PRE and bank-group gaps; wait: transfers are active, but none had a request
        in time, command latency included; idle: no transfer is active.
        """
        cycles = np.sum([core.bus for core in self._cores], axis=0)
        causes_ps = cycles * self.spec.tCK_ps // len(self._cores)
        causes = dict(zip(CAUSES, causes_ps.tolist(), strict=True))
        causes["idle"] = self._until_ps - sum(causes.values())
        return causes

    @property
    def active_ps(self) -> int:
        """Time with at least one row open, up to the last burst or `finish`; sum of ranks."""
        until_ps, tck, total = self._until_ps, self.spec.tCK_ps, 0
        for core in self._cores:
            total += int(core.state[OPEN_CYCLES]) * tck
            for rank in core.ranks:
                if rank[OPEN_BANKS]:
                    total += max(0, until_ps - int(rank[OPENED_AT]) * tck)
        return total

    @property
    def precharged_ps(self) -> int:
        """Time with all rows closed, sum of ranks; `active_ps` and this are all time."""
        return self.spec.channels * self.spec.ranks * self._until_ps - self.active_ps

    @property
    def longest_wait_cycles(self) -> int:
        """Memory clocks from a burst's acceptance to its last data beat, the greatest so far."""
        return max(int(core.state[LONGEST]) for core in self._cores)

    @property
    def _until_ps(self) -> int:
        accounted_to = max(int(core.state[ACCOUNTED_TO]) for core in self._cores)
        return max(self._finished_ps, accounted_to * self.spec.tCK_ps)

    def _bursts_below(self, burst: int, channel: int) -> int:
        """How many of the bursts 0 to `burst` - 1 lie in a channel."""
        run = 1 << self._channel_shift
        rounds, rest = divmod(burst, run * self.spec.channels)
        return rounds * run + min(max(rest - channel * run, 0), run)

    def _grow(self):
        """Room for twice as many transfers at once."""
        size = len(self._cores[0].streams)
        self._cores = tuple(dram_core.with_room(core) for core in self._cores)
        self._free = list(range(2 * size - 1, size - 1, -1))

    def _wake_in(self, delay_ps: int):
        self._wake = _Wake(self.env, self._on_wake, delay_ps)

    def _on_wake(self, wake):
        """Simulate up to the next event of anyone, and return then if there is more to do."""
        if wake is not self._wake:
            return  # a newer wake replaced it
        now, tck = int(self.env.now), self.spec.tCK_ps
        peek = self.env.peek()
        until = NEVER if peek == float("inf") else max(-(-int(peek) // tck), now // tck + 1)
        following = self._advance(until)
        if any(core.state[ACTIVE] for core in self._cores):
            self._wake_in(following * tck - now)

    def _advance(self, until: int) -> int:
        """Play all cycles below `until` or the first completion; return the next busy cycle."""
        while True:
            if self._recall is None:
                following, until = dram_core.advance_all(until, self._cores)
            else:
                following, until = advance_recalling(until, self._cores[0], self._recall)
            for core in self._cores:
                for stream, end in core.finished[: core.state[FINISHED]].tolist():
                    self._through(stream, end)
                core.state[FINISHED] = 0
                if core.state[TRACED]:
                    self.commands += decode(core.trace[: core.state[TRACED]])
                    core.state[TRACED] = 0
                if following == STUCK and core.queues[:, QUEUED].any():
                    raise RuntimeError(_stuck(core, self.spec))
            if following >= until:
                return following

    def _through(self, stream: int, end_cycle: int):
        """A transfer has moved its last burst in one of its channels."""
        self._note_bus()
        moving = self._moving[stream]
        moving.channels -= 1
        moving.end_cycle = max(moving.end_cycle, end_cycle)
        if moving.channels:
            return
        del self._moving[stream]
        moving.done._ok, moving.done._value = True, None  # as simpy.Timeout does
        self.env.schedule(
            moving.done, delay=moving.end_cycle * self.spec.tCK_ps - int(self.env.now)
        )
        self._free.append(stream)


def _stuck(core: Core, spec: DramSpec) -> str:
    """What a controller says that can issue no command ever again."""
    kind = READ if core.queues[READ, QUEUED] else WRITE
    request = core.requests[kind, core.queues[kind, OLDEST]]
    return (
        f"the memory controller must be able to serve its oldest {('read', 'write')[kind]}, of "
        f"{int(request[BURST]) * spec.burst_bytes:#x}, but no command can ever be issued"
    )
