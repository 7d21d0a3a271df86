"""The operations of a step as they are written down, before it is known what stays on chip."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod

from accsim.dataflow.sweep import Sweep
from accsim.dataflow.tile import Tensor, Weights
from accsim.dataflow.tiling import Window
from accsim.hardware.accelerator import AcceleratorSpec
from accsim.hardware.vector_unit import operands
from accsim.network import Conv2d, Node, Shape
from accsim.numerics import Numerics, Scaling
from accsim.units import ceil_div


@dataclass
class Draft:
    """An operation before it is known what stays on chip."""

    network: str
    node: Node
    pass_name: str
    part: str
    unit: str
    samples: int
    reads: tuple[Tensor, ...]
    writes: tuple[Tensor, ...]
    job: Callable  # of a function Tensor, samples -> Operand
    gemm: tuple[int, int, int] | None = None
    words: int = 0
    keeps: tuple[Tensor, ...] = ()  # reads that the next operation wants again


class Drafts:
    """Those of one step, in order."""

    def __init__(self, numerics: Numerics, accelerator: AcceleratorSpec):
        self.numerics = numerics
        self.accelerator = accelerator  # of one that is cut in two, the student's part
        self.parts = accelerator.parts
        self.written: list[Draft] = []
        self._unrounded: list[tuple[Tensor, Draft]] = []  # a map whose sums wait, what makes them

    def map(self, name: str, kind: str, shape: Shape, samples: int) -> Tensor:
        """A new map of so many samples: of errors, or as wide as activations."""
        return Tensor(name, kind, shape.size * self._word_bytes(kind), samples)

    def _word_bytes(self, kind: str) -> int:
        numerics = self.numerics
        return numerics.word_bytes(
            numerics.error_bits if kind == "error" else numerics.activation_bits
        )

    def part_of(self, pass_name: str) -> str:
        """The part of the machine that a pass runs on."""
        if len(self.parts) == 1:
            return ""
        return "teacher" if pass_name == "teacher_forward" else "student"

    def add(
        self, network, node, pass_name, samples, reads, writes, job, gemm=None, words=0, keeps=(),
        rounds=False,
    ) -> None:  # fmt: skip
        """The next operation; where it `rounds`, the exponent of what it writes is a new one."""
        while self._unrounded and pass_name != "ema":  # averages may go on under a product
            self._narrow(*self._unrounded.pop())
        unit = "pe_array" if gemm else "vector_unit"
        part = self.part_of(pass_name)
        draft = Draft(
            network, node, pass_name, part, unit, samples, reads, writes, job, gemm, words, keeps
        )
        if rounds and self.numerics.scaling is Scaling.CURRENT:
            for target in writes:
                draft = self._widened(draft, target)
                self._unrounded.append((target, draft))
        self.written.append(draft)

    def sweep(
        self, network, node, pass_name, chain, samples, tensors,
        words=None, parameters=None, keeps=(), whole=False,
    ) -> None:  # fmt: skip
        """One pass of the vector unit over maps: `tensors` by role."""
        words = words or node.input.size
        streamed, writes = by_role(chain, tensors | {"parameters": ()})
        held = "parameters" in operands(chain).reads

        def job(use):
            return Sweep(
                label=f"{node.name}/{pass_name}",
                chain=chain,
                samples=samples,
                rows=node.output.height,
                words=words,
                reads=tuple(use(tensor, samples, whole) for tensor in streamed),
                writes=tuple(use(tensor, samples) for tensor in writes),
                parameters=parameters(use) if held else Weights((), ()),
            )

        reads = (*streamed, *tensors["parameters"]) if held else streamed
        self.add(
            network, node, pass_name, samples, reads, writes, job,
            words=words * samples, keeps=keeps, rounds=chain not in (("pool",), ("narrow",)),
        )  # fmt: skip

    def _widened(self, draft: Draft, target: Tensor) -> Draft:
        """`draft` with its results as wide as they were summed, in place of those of `target`."""
        size_bytes = self._words_of(target) * self.accelerator.pe_array.accumulator_bytes
        sums = Tensor(f"{target.name}_sums", "sums", size_bytes, target.samples)

        def job(use):
            def instead(tensor, *how, **more):
                return use(sums if tensor is target else tensor, *how, **more)

            return draft.job(instead)

        return replace(draft, writes=(sums,), job=job)

    def _narrow(self, target: Tensor, made: Draft) -> None:
        """Round the sums of `target`, all of which are there: the largest of them tells how far."""
        self.sweep(
            made.network, made.node, made.pass_name, ("narrow",), made.samples,
            {"input": made.writes, "output": (target,)}, words=self._words_of(target), whole=True,
        )  # fmt: skip

    def _words_of(self, target: Tensor) -> int:
        """Words of a sample of a map."""
        return target.sample_bytes // self._word_bytes(target.kind)

    def interleave(self) -> None:
        """Spread what comes up to the teacher's forward pass over what comes after, by their work.

        It stays before the first pass that writes what it reads.
        """
        names = [draft.pass_name for draft in self.written]
        ends = (
            index for index in range(len(names), 0, -1) if names[index - 1] == "teacher_forward"
        )
        end = next(ends, 0)
        teacher, student = self.written[:end], self.written[end:]
        read = {tensor for draft in teacher for tensor in draft.reads}
        clash = (index for index, draft in enumerate(student) if read.intersection(draft.writes))
        span = next(clash, len(student))
        places = [
            place
            for drafts in (teacher, student[:span])
            for place in zip(self._positions(drafts), drafts, strict=True)
        ]
        places.sort(key=lambda place: place[0])
        self.written = [draft for _, draft in places] + student[span:]

    def _positions(self, drafts: Sequence[Draft]) -> list[Fraction]:
        """The middle of each draft's work as a share of the work of all, in cycles at peak rates.

        One that finds on chip what the draft before it kept stays behind that one.
        """
        array, lanes = self.accelerator.pe_array.macs_per_cycle, self.accelerator.vector_unit.lanes
        work = [
            ceil_div(prod(draft.gemm), array) if draft.gemm else ceil_div(draft.words, lanes)
            for draft in drafts
        ]
        done = 0
        positions: list[Fraction] = []
        for index, cycles in enumerate(work):
            middle = Fraction(2 * done + cycles, 2 * sum(work))
            positions.append(positions[-1] if index and drafts[index - 1].keeps else middle)
            done += cycles
        return positions


def by_role(chain: tuple[str, ...], tensors: dict) -> tuple[tuple[Tensor, ...], ...]:
    """What a pass of `chain` reads and writes, of the tensors by their role."""
    roles = operands(chain)
    return tuple(
        tuple(tensor for role in side for tensor in tensors[role])
        for side in (roles.reads, roles.writes)
    )


def window_of(node: Node, transposed: bool = False) -> Window:
    """What a product of an array layer reads of its source for a pixel of its target."""
    layer = node.layer
    if isinstance(layer, Conv2d):
        return Window(layer.kernel, layer.stride, layer.padding, transposed)
    return Window(1, transposed=transposed)


def flat(node: Node) -> Shape:
    """The input of an array layer; a linear layer sees it as one pixel."""
    return node.input if isinstance(node.layer, Conv2d) else Shape(1, 1, node.input.size)
