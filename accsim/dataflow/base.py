"""What a dataflow decides: cycles of a matrix product, and the buffer accesses it makes."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from accsim.hardware.pe_array import PEArraySpec


@dataclass(frozen=True)
class Dataflow(ABC):
    """Which operand of ``(m, k) @ (k, n)`` stays in the PE array while the others stream.

    `groups` such products run one after the other without a pause: a fold holds one group's alone.
    """

    @property
    def name(self) -> str:
        return type(self).__name__

    @abstractmethod
    def cycles(self, array: PEArraySpec, m: int, n: int, k: int, groups: int = 1) -> int:
        """Cycles from the first operand to the last result, fill and drain counted."""

    @abstractmethod
    def reads_bytes(self, array: PEArraySpec, m: int, n: int, k: int, groups: int = 1) -> int:
        """Bytes that the array reads from the input, weight and output buffers."""

    @abstractmethod
    def writes_bytes(self, array: PEArraySpec, m: int, n: int, k: int, groups: int = 1) -> int:
        """Bytes that the array writes to the output buffer."""

    @abstractmethod
    def output_word_bytes(self, array: PEArraySpec, k: int) -> int:
        """Bytes that a result takes in the output buffer while its sum over `k` grows."""
