"""Twins of DRAMsim3's and Ramulator 2.1's controllers: plain lists, and every clock is ticked.

They follow the rules in the order in which those simulators' clock works them off; the compiled
controllers, which jump from event to event, must issue the same commands in the same clocks.
"""

from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accsim.hardware.dram import RowBankColumn, RowColumnBank
from accsim.hardware.dram_parts import part
from accsim.hardware.dram_policies.dramsim3 import DramSim3
from accsim.hardware.dram_policies.ramulator2 import Ramulator2
from accsim.hardware.dram_rules import Command, encode, rules

X16 = part("DDR4_2400_8Gb_x16")


class Memory:
    """Open rows, and for every rule when its preceding commands came."""

    def __init__(self, spec):
        self.spec, self.rules = spec, rules(spec)
        self.past, self.row, self.served, self.commands = defaultdict(list), {}, {}, []
        self.banks = [
            (rank, group, bank)
            for rank in range(spec.ranks)
            for group in range(spec.bank_groups)
            for bank in range(spec.banks)
        ]

    @staticmethod
    def node(level, place):
        return place[: {"rank": 1, "bank_group": 2, "bank": 3}[level]]

    def may(self, name, place, at):
        for number, rule in enumerate(self.rules):
            if name not in rule.following:
                continue
            nodes = [self.node(rule.level, place)]
            if rule.others:
                nodes = [(rank,) for rank in range(self.spec.ranks) if rank != place[0]]
            for node in nodes:
                times = self.past[number, node]
                if len(times) >= rule.window and at < times[-rule.window] + rule.latency:
                    return False
        return True

    def issue(self, name, place, at, row=-1):
        for number, rule in enumerate(self.rules):
            if name in rule.preceding:
                self.past[number, self.node(rule.level, place)].append(at)
        if name == "ACT":
            self.row[place], self.served[place] = row, 0
        elif name in ("RD", "WR"):
            self.served[place] += 1
        elif name == "PRE":
            del self.row[place]
        elif name == "PREA":
            self.row = {bank: row for bank, row in self.row.items() if bank[0] != place[0]}
        group, bank = place[1:] if len(place) == 3 else (-1, -1)
        self.commands.append(Command(at, name, place[0], group, bank, row))

    def next_command(self, request):
        if request.place not in self.row:
            return "ACT"
        if self.row[request.place] != request.row:
            return "PRE"
        return "WR" if request.is_write else "RD"


@dataclass(eq=False)
class Request:
    arrival: int
    address: int
    is_write: bool
    place: tuple
    row: int
    stamp: int = -1
    done: int | None = None
    served_by: "Request | None" = None
    command: str = ""


def requests(spec, mapping, trace):
    out = []
    for arrival, address, is_write in zip(*(row.tolist() for row in trace), strict=True):
        at = mapping.locate(spec, address)
        place = (at.rank, at.bank_group, at.bank)
        out.append(Request(arrival, address, is_write, place, at.row))
    return out


def held(request, accepted, now):
    """The front end's hold rule."""
    return request.is_write and any(
        old.address == request.address and not old.is_write and (old.done is None or old.done > now)
        for old in accepted
    )


def finished(memory, everyone):
    """(commands, end, average read latency)."""
    spec = memory.spec
    column = {"RD": spec.CL + spec.nBL, "WR": spec.CWL + spec.nBL}
    end = max(c.cycle + column[c.command] for c in memory.commands if c.command in column)
    reads = [r.done - r.stamp for r in everyone if not r.is_write]
    return memory.commands, end, sum(reads) / len(reads) if reads else 0.0


def dramsim3(spec, mapping, trace):
    memory = Memory(spec)
    queues = {bank: [] for bank in memory.banks}
    reads, writes, accepted, due = [], [], [], []
    todo = requests(spec, mapping, trace)
    visited, draining, clock = len(memory.banks) - 1, 0, 0

    def close_or_refresh():
        rank = due[0]
        banks = [bank for bank in memory.banks if bank[0] == rank]
        for bank in banks:
            if bank in memory.row and memory.may("PRE", bank, clock):
                return memory.issue("PRE", bank, clock)
        if not any(bank in memory.row for bank in banks) and memory.may("REF", (rank,), clock):
            memory.issue("REF", (rank,), clock)
            due.pop(0)
        return None

    def serve_a_queue():
        nonlocal visited
        for step in range(1, len(memory.banks) + 1):
            number = (visited + step) % len(memory.banks)
            bank = memory.banks[number]
            if due and bank[0] == due[0]:
                continue
            for request in queues[bank]:
                name = memory.next_command(request)
                if not memory.may(name, bank, clock):
                    continue
                if name == "PRE":
                    hits = any(r.row == memory.row[bank] for r in queues[bank])
                    if request is not queues[bank][0] or (hits and memory.served[bank] < 4):
                        continue
                memory.issue(name, bank, clock, -1 if name == "PRE" else request.row)
                visited = number
                if name in ("RD", "WR"):
                    queues[bank].remove(request)
                    request.done = clock + spec.nBL + (spec.CL if name == "RD" else spec.CWL)
                    for other in accepted:
                        if other.served_by is request:
                            other.done = request.done
                return

    while True:
        if clock > 0 and clock % (spec.nREFI // spec.ranks) == 0:
            due.append((clock // (spec.nREFI // spec.ranks) - 1) % spec.ranks)
        issued = len(memory.commands)
        if due:
            close_or_refresh()
        if len(memory.commands) == issued:
            serve_a_queue()

        idle = not any(queues.values())
        if draining == 0 and (len(writes) == 32 or (len(writes) > 8 and idle)):
            draining = len(writes)
        source = writes if draining else reads
        for request in source:
            if len(queues[request.place]) < 8:
                queues[request.place].append(request)
                source.remove(request)
                draining -= request.is_write
                break

        if todo and todo[0].arrival <= clock:
            request = todo[0]
            own = writes if request.is_write else reads
            if len(own) < 32 and not held(request, accepted, clock):
                todo.pop(0)
                request.stamp = clock + 1
                same = [r for r in accepted if r.address == request.address and not r.served_by]
                buffered = [r for r in same if r.is_write and r.done is None]
                shared = [r for r in same if not r.is_write and r.done is None]
                if request.is_write and buffered:
                    request.served_by = buffered[0]
                elif buffered:
                    request.done = clock + 2
                elif not request.is_write and shared:
                    request.served_by = shared[0]
                else:
                    own.append(request)
                accepted.append(request)
        if not todo and not reads and not any(queues.values()):
            if not writes and all(r.is_write or r.done <= clock for r in accepted):
                return finished(memory, accepted)
            draining = draining or len(writes)
        clock += 1


def ramulator2(spec, mapping, trace, row_hit):
    memory = Memory(spec)
    buffers, active, due, accepted = {False: [], True: []}, [], [], []
    todo = requests(spec, mapping, trace)
    writing, clock, returns = False, 0, []

    def oldest_ready(buffer, allowed):
        for request in buffer:
            request.command = memory.next_command(request)
        ready = [r for r in buffer if allowed(r) and memory.may(r.command, r.place, clock)]
        return min(ready, key=lambda r: r.stamp, default=None)

    def may_close(request):
        if request.command != "PRE":
            return True
        if any(other.place == request.place for other in active):
            return False
        return not row_hit or not any(
            r.place == request.place and r.row == memory.row[r.place] and r.stamp < request.stamp
            for r in buffers[request.is_write]
        )

    def choose():
        nonlocal writing
        request = oldest_ready(active, lambda r: True)
        if request:
            return request, active
        if due:
            rank = due[0]
            name = "PREA" if any(bank[0] == rank for bank in memory.row) else "REF"
            if memory.may(name, (rank,), clock) and not any(r.place[0] == rank for r in active):
                memory.issue(name, (rank,), clock)
                if name == "REF":
                    due.pop(0)
            return None, None
        if writing:
            writing = len(buffers[True]) >= 0.2 * 32 or not buffers[False]
        else:
            writing = len(buffers[True]) > 0.8 * 32 or not buffers[False]
        return oldest_ready(buffers[writing], may_close), buffers[writing]

    while True:
        if todo and todo[0].arrival <= clock and not held(todo[0], accepted, clock):
            request = todo[0]
            buffered = any(r.address == request.address for r in buffers[True])
            if buffered or len(buffers[request.is_write]) < 32:
                todo.pop(0)
                accepted.append(request)
                request.stamp = clock
                if not buffered:
                    buffers[request.is_write].append(request)
                elif not request.is_write:
                    returns.append((clock + 1, request))
        clock += 1
        while returns and returns[0][0] <= clock:
            returns.pop(0)[1].done = clock
        if clock % spec.nREFI == 0:
            due += range(spec.ranks)
        request, buffer = choose()
        if request:
            row = -1 if request.command == "PRE" else request.row
            memory.issue(request.command, request.place, clock, row)
            if request.command != "PRE":
                buffer.remove(request)
            if request.command == "ACT":
                active.append(request)
            elif request.command == "RD":
                returns.append((clock + spec.CL + spec.nBL, request))
        if not todo and not returns and not active and not buffers[False] and not buffers[True]:
            return finished(memory, accepted)


def stream(rng):
    """Requests that meet in few banks and rows, in bursts, runs of reads and writes, or mixed."""
    count = int(rng.integers(1, 220))
    few = rng.integers(0, 2**26, rng.integers(1, 12)) * 64 % 2**23
    bases = rng.choice(np.concatenate([few, few + 2**20, few + 2**13]), count)
    addresses = bases + rng.integers(0, rng.integers(1, 9), count) * 64
    run = rng.integers(1, 80)
    is_write = rng.random(count // run + 1).repeat(run)[:count] < rng.random()
    gaps = rng.integers(0, rng.integers(1, 30), count) * (rng.random(count) < rng.random())
    return np.cumsum(gaps), addresses, is_write


@settings(max_examples=15)
@pytest.mark.parametrize(
    ("policy", "twin"),
    [
        (DramSim3(), dramsim3),
        (Ramulator2(row_hit=True), lambda *a: ramulator2(*a, True)),
        (Ramulator2(row_hit=False), lambda *a: ramulator2(*a, False)),
    ],
    ids=["DramSim3", "Ramulator2-RowHit", "Ramulator2"],
)
@given(seed=st.integers(0, 2**32), ranks=st.sampled_from([1, 2]),
       mapping=st.sampled_from([RowBankColumn(), RowColumnBank()]),
       nRTP=st.sampled_from([5, 9]), nREFI=st.sampled_from([900, 9360]))  # fmt: skip
def test_jumping_equals_ticking(policy, twin, seed, ranks, mapping, nRTP, nREFI):
    trace = stream(np.random.default_rng(seed))
    spec = replace(X16, ranks=ranks, nRTP=nRTP, nREFI=nREFI)
    commands, end, latency = twin(spec, mapping, trace)
    done = policy.replay(spec, mapping, *trace, record=True)
    assert done.commands.tolist() == encode(commands).tolist()
    assert done.total_cycles == end
    assert done.average_read_latency_cycles == pytest.approx(latency)
