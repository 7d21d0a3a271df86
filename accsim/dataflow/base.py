"""What a dataflow decides: cycles of a matrix product, and the buffer accesses it makes."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache

from accsim.hardware.pe_array import PEArraySpec, Reservations

RESULTS = "results"  # what the last event of a fold takes until the fold is over

LOOPS = ("samples", "rows", "outputs", "inputs")
SIZES = (*LOOPS, "held")


@dataclass(frozen=True, slots=True)
class Gemm:
    """``groups`` matrix products ``(m, k) @ (k, n)``, one after the other without a pause.

    A convolution of `taps` kernel positions is a product whose k is taps times input channels and
    whose m are pixels; with `of_weights` it is that of backward_weight: m is taps times input
    channels, k are pixels. Raises ValueError for an extent below 1 and for taps that do not
    divide theirs.
    """

    m: int
    n: int
    k: int
    groups: int = 1  # no fold holds a part of two
    taps: int = 1
    of_weights: bool = False

    def __post_init__(self):
        for name in ("m", "n", "k", "groups", "taps"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} of a product must be at least 1, not {getattr(self, name)}"
                )
        if (self.m if self.of_weights else self.k) % self.taps:
            extent = "m" if self.of_weights else "k"
            raise ValueError(
                f"{extent} of a product of {self.taps} taps must be a multiple of them, "
                f"not {getattr(self, extent)}"
            )

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all groups."""
        return self.groups * self.m * self.n * self.k


@dataclass(frozen=True, slots=True)
class Accesses:
    """Bytes that the PE array moves from and to the on-chip buffers, by buffer."""

    input_read_bytes: int
    weight_read_bytes: int
    output_read_bytes: int  # partial sums that come back
    output_write_bytes: int

    @property
    def read_bytes(self) -> int:
        return self.input_read_bytes + self.weight_read_bytes + self.output_read_bytes

    @property
    def write_bytes(self) -> int:
        return self.output_write_bytes


@dataclass(frozen=True)
class FixedTiling:
    """What a user decides about the tilings of some passes; the rest is searched.

    `where` is a pattern for ``layer/pass``, such as ``conv1*/backward_weight``. Raises ValueError
    for a size below 1 (0 for held) and for an order that is none of the four loops.
    """

    where: str = "*"
    samples: int | None = None
    rows: int | None = None
    outputs: int | None = None
    inputs: int | None = None
    held: int | None = None
    order: tuple[str, ...] | None = None

    def __post_init__(self):
        for name in SIZES:
            size, least = getattr(self, name), 0 if name == "held" else 1
            if size is not None and size < least:
                raise ValueError(f"{name} of a tiling must be at least {least}, not {size}")
        if self.order is not None and sorted(self.order) != sorted(LOOPS):
            raise ValueError(
                f"order of a tiling must name {', '.join(LOOPS)} once each, not {self.order}"
            )


@dataclass(frozen=True)
class Dataflow(ABC):
    """Which operand of a product stays in the PE array while the others stream.

    Cycles come out of events: a dataflow says in `play` which ones a product takes. `tilings` are a
    user's own; the first whose pattern fits a pass decides about it, the rest is searched.

    `run_bytes`: the longest run of one tensor in a pass over words, which reads and writes several
    in turn (update, ema, loss); None: what the memory and the buffers suggest. Raises ValueError
    for one below 1.
    """

    tilings: tuple[FixedTiling, ...] = ()
    run_bytes: int | None = None

    def __post_init__(self):
        if self.run_bytes is not None and self.run_bytes < 1:
            raise ValueError(f"run_bytes must be at least 1, not {self.run_bytes}")

    @property
    def name(self) -> str:
        return type(self).__name__

    def fixed(self, label: str) -> FixedTiling:
        """What a user decided about the pass ``layer/pass``."""
        chosen = (one for one in self.tilings if fnmatchcase(label, one.where))
        return next(chosen, FixedTiling())

    def cycles(self, array: PEArraySpec, gemm: Gemm) -> int:
        """Cycles from the first operand to the last result, fill and drain counted."""
        return _cycles(self, array, gemm)

    @abstractmethod
    def sides(self, gemm: Gemm) -> tuple[int, int, int]:
        """What lies along rows and columns of the array, and how much streams through a fold."""

    @abstractmethod
    def folds(self, array: PEArraySpec, gemm: Gemm) -> int:
        """How many times the array is filled, partly or whole, all groups together."""

    @abstractmethod
    def play(self, time: Reservations, array: PEArraySpec, gemm: Gemm) -> None:
        """Take the events of `gemm`, one after the other; RESULTS is free when the last is over."""

    @abstractmethod
    def accesses(self, array: PEArraySpec, gemm: Gemm) -> Accesses:
        """Bytes that the array moves from and to the on-chip buffers, all groups together."""

    @abstractmethod
    def output_word_bytes(self, array: PEArraySpec, k: int) -> int:
        """Bytes that a result takes in the output buffer while its sum over `k` grows."""


@lru_cache(maxsize=2**14)
def _cycles(dataflow: Dataflow, array: PEArraySpec, gemm: Gemm) -> int:
    time = Reservations()
    dataflow.play(time, array, gemm)
    return time.free_at[RESULTS]


def one_at_a_time(array: PEArraySpec) -> dict[str, tuple[int, int]]:
    """What the first event of a fold takes so that without overlap it waits for the fold before."""
    return {} if array.overlap else {RESULTS: (0, 0)}
