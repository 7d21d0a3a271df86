"""Drafts as operations: each tensor with its place on chip or in DDR, each pass cut into tiles."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from accsim.dataflow.base import Dataflow
from accsim.dataflow.tile import Operand, Plan, Tensor
from accsim.hardware.part import of_part
from accsim.schedule.allocation import (
    PAGE_BYTES,
    Allocation,
    Arena,
    Life,
    Uses,
    follows,
    largest_first,
)
from accsim.schedule.drafts import Drafts
from accsim.schedule.gradient_slots import GradientSlots
from accsim.schedule.operation import Operation
from accsim.schedule.stores import STORED, Stores


@dataclass
class Placement:
    """Places the tensors of one step and cuts its passes."""

    drafts: Drafts
    stores: Stores
    slots: GradientSlots
    dataflow: Dataflow
    place_of: Mapping[Tensor, Tensor]  # a tensor: that whose bytes it is written over
    outlasting: set[Tensor]  # what later steps read too

    def operations(self) -> tuple[Operation, ...]:
        """The operations in order, every tensor with its place and every one cut into tiles.

        Raises ValueError for tensors beyond the DDR.
        """
        stay = self._stay()
        held = {  # what an operation finds on chip, but for gradients in their slots
            (index, tensor): one
            for one in stay
            for index in range(one.first + one.copy, one.last + 1)
            for tensor in self._in_place(one.tensor)
        }
        resident = {tensor for (_, tensor), one in held.items() if not one.copy}
        resident |= {tensor for tensor in self._gradients() if self.slots.fits(tensor)}
        homes = {
            tensor: tensor for draft in self.drafts.written for tensor in draft.reads + draft.writes
        }
        in_ddr: dict[Tensor, Allocation] = {}
        for one in self._travel(resident):
            tensors = self._in_place(one.tensor)
            homes |= {tensor: replace(tensor, address=one.address) for tensor in tensors}
            placed = replace(one, tensor=homes[one.tensor])
            in_ddr |= {homes[tensor]: placed for tensor in tensors}
        memory = [*dict.fromkeys(in_ddr.values()), *stay]
        written: set[Tensor] = set()
        out_of_order: set[Tensor] = set()
        operations: list[Operation] = []
        uses: list[Uses] = []
        for index, draft in enumerate(self.drafts.written):
            on_chip: dict[Tensor, int] = {}

            def use(tensor, samples, whole=False, size_bytes=None, index=index, on_chip=on_chip):
                here = tensor in resident or (index, tensor) in held
                home = homes[tensor]
                if here:
                    on_chip[home] = size_bytes or tensor.sample_bytes * samples
                return Operand(
                    home,
                    samples,
                    on_chip=here,
                    pending=home in written,
                    whole=whole or home in out_of_order or tensor.kind in STORED,
                )

            plan: Plan = draft.job(use).plan(self.drafts.parts[draft.part], self.dataflow)
            made = {homes[tensor] for tensor in draft.writes} | {home for home, _ in plan.writes}
            if not plan.in_order:
                out_of_order.update(homes[tensor] for tensor in draft.writes)
            written.update(made)
            operations.append(
                Operation(
                    draft.network,
                    draft.node.name,
                    draft.pass_name,
                    draft.unit,
                    draft.samples,
                    draft.gemm,
                    draft.words,
                    plan.reads,
                    plan.writes,
                    tuple(on_chip.items()),
                    plan.tiles,
                    plan.tiling,
                    plan.slot_bytes,
                    takes=tuple(one for one in memory if one.first == index),
                    gives=tuple(one for one in memory if one.last == index),
                    part=draft.part,
                )
            )
            reads, writes = (
                {in_ddr[home] for home, _ in moved}
                | {held[index, tensor] for tensor in side if (index, tensor) in held}
                for moved, side in ((plan.reads, draft.reads), (plan.writes, draft.writes))
            )
            writes |= {one for one in stay if one.copy and one.first == index}
            unit = of_part(draft.part, draft.unit)
            uses.append(Uses(unit, frozenset(reads), frozenset(writes)))
        waits = follows(uses, memory)
        return tuple(
            replace(operation, follows=wait)
            for operation, wait in zip(operations, waits, strict=True)
        )

    def _in_place(self, tensor: Tensor) -> list[Tensor]:
        """`tensor` and all that is written over it."""
        return [tensor, *(over for over, place in self.place_of.items() if place is tensor)]

    def _outlast(self) -> set[Tensor]:
        """What this step makes for later ones: what it is known to, and what it does not read."""
        made = {tensor for draft in self.drafts.written for tensor in draft.writes}
        return self.outlasting | made.difference(*(draft.reads for draft in self.drafts.written))

    def _gradients(self) -> set[Tensor]:
        made = (tensor for draft in self.drafts.written for tensor in draft.writes)
        return {tensor for tensor in made if tensor.kind == "gradient"}

    def _lingering(self, first: int, last: int) -> tuple[int, int]:
        """The operations for which a tensor has its bytes in DDR, if `last` is the last to use it.

        The operation behind that works at the same time if it has a unit of its own. It takes no
        bytes for which it would have to wait; on chip, where bytes are few, it does and waits.
        """
        behind = last + 1
        if (
            behind < len(self.drafts.written)
            and self.drafts.written[behind].unit != self.drafts.written[last].unit
        ):
            return first, behind
        return first, last

    def _travel(self, resident: set[Tensor]) -> list[Allocation]:
        """A place in DDR for every tensor that is not `resident`.

        What is stored from step to step comes first, at the same place in every step. What no
        operation writes is there when the step begins, images and labels; what none reads stays to
        the end. A part of a machine that works beside the student's does not keep its order: what
        it makes stays to the end too. Raises ValueError for tensors beyond the DDR.
        """
        end = len(self.drafts.written) - 1
        written = {tensor for draft in self.drafts.written for tensor in draft.writes}
        outlast = self._outlast()
        spans: dict[Tensor, tuple[int, int]] = {}
        for index, draft in enumerate(self.drafts.written):
            for tensor in (*draft.reads, *draft.writes):
                if tensor not in resident and tensor.kind not in STORED:
                    place = self.place_of.get(tensor, tensor)
                    first, _ = spans.get(place, (index if tensor in written else 0, 0))
                    stays = tensor in outlast or draft.part != self.drafts.part_of("update")
                    spans[place] = first, end if stays else index
        arena = Arena(grain_bytes=PAGE_BYTES)
        placed: list[Allocation] = []
        for tensor in self.stores.in_ddr():
            placed += largest_first("ddr", [Life(tensor, tensor.size_bytes, 0, end)], arena)
        lives = [
            Life(tensor, tensor.size_bytes, *self._lingering(*span))
            for tensor, span in spans.items()
        ]
        placed += largest_first("ddr", lives, arena)
        dram, peak_bytes = self.drafts.accelerator.dram, max((one.end for one in placed), default=0)
        if peak_bytes > dram.capacity_bytes:
            raise ValueError(
                f"tensors of a step must fit {dram.name}, {dram.capacity_bytes} bytes, "
                f"not {peak_bytes}; use fewer samples or a larger memory"
            )
        return placed

    def _stay(self) -> list[Allocation]:
        """What stays on chip, and where: tensors that never leave it, and copies of others.

        Room in the resident buffer goes to maps in program order, from the operation that makes
        them to the last that reads them, if there are bytes enough for all that time; and to what
        an operation reads that the next one wants again. What is left goes to weights that both a
        forward pass and backward_data read. Then these take their places, the largest first; one
        that finds only pieces travels after all. Sums of micro-batches lie in the gradient buffer
        while there is room beside its slots.
        """
        uses: dict[Tensor, list[int]] = {}
        ends: dict[Tensor, int] = {}  # of every place, the last operation that uses it
        for index, draft in enumerate(self.drafts.written):
            for tensor in draft.reads:
                uses.setdefault(tensor, []).append(index)
                ends[self.place_of.get(tensor, tensor)] = index
        free = {
            part: [spec.buffers.resident_bytes] * len(self.drafts.written)
            for part, spec in self.drafts.parts.items()
        }
        chosen: dict[Tensor, Life] = {}
        copies: list[Life] = []
        sums: list[Allocation] = []

        def hold(size_bytes: int, first: int, last: int) -> bool:
            """Take bytes from operation `first` to `last`, if there are so many where they run."""
            span, left = range(first, last + 1), free[self.drafts.written[first].part]
            fits = all(left[index] >= size_bytes for index in span)
            for index in span if fits else ():
                left[index] -= size_bytes
            return fits

        outlast = self._outlast()
        room = self.slots.room_for_sums(self._gradients())
        for index, draft in enumerate(self.drafts.written):
            for tensor in draft.writes:
                size = tensor.size_bytes
                if tensor.kind == "gradient_sum":
                    if tensor not in self.place_of and size <= room:
                        address = self.slots.buffer.capacity_bytes - room
                        life = Life(tensor, size, index, ends[tensor])
                        memory = of_part(draft.part, "gradient")
                        sums.append(Allocation(memory, address, *life))
                        room -= size
                elif tensor.kind not in ("gradient", *STORED) and tensor not in outlast:
                    last = uses[tensor][-1]
                    if hold(size, index, last):
                        chosen[tensor] = Life(tensor, size, index, last)
            again = {
                tensor: tensor.sample_bytes * draft.samples
                for tensor in draft.keeps
                if tensor not in chosen
            }
            if again and hold(sum(again.values()), index, index + 1):
                copies += [
                    Life(tensor, size, index, index + 1, copy=True)
                    for tensor, size in again.items()
                ]
        for tensor, readers in uses.items():
            products = [
                index
                for index in readers
                if self.drafts.written[index].gemm
                and self.drafts.written[index].part == self.drafts.part_of("update")
            ]
            if tensor.kind == "weights" and len(products) > 1:
                life = Life(tensor, tensor.size_bytes, products[0], products[-1], copy=True)
                if hold(life.size_bytes, life.first, life.last):
                    copies.append(life)
        lives: dict[str, list[Life]] = {part: [] for part in self.drafts.parts}
        for life in (*chosen.values(), *copies):
            lives[self.drafts.written[life.first].part].append(life)
        return sums + [
            one
            for part, spec in self.drafts.parts.items()
            for one in largest_first(
                of_part(part, "resident"), lives[part], Arena(spec.buffers.resident_bytes)
            )
        ]
