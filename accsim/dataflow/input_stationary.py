"""Input stationary: a PE keeps one input; weights stream through and sums fall down a column."""

from dataclasses import dataclass, replace

from accsim.dataflow.base import Dataflow, Gemm
from accsim.dataflow.weight_stationary import WeightStationary

_TRANSPOSED = WeightStationary()


@dataclass(frozen=True)
class InputStationary(Dataflow):
    """A fold is ``rows x columns`` inputs, k by m; it streams all of n.

    ``(x @ w)^T = w^T @ x^T``: the array is that of `WeightStationary`, with inputs in the place of
    weights, so cycles and accesses are its own with m and n exchanged.
    """

    def sides(self, gemm):
        return gemm.k, gemm.m, gemm.n

    def folds(self, array, gemm):
        return _TRANSPOSED.folds(array, _transposed(gemm))

    def play(self, time, array, gemm):
        _TRANSPOSED.play(time, array, _transposed(gemm))

    def accesses(self, array, gemm):
        transposed = _TRANSPOSED.accesses(array, _transposed(gemm))
        return replace(
            transposed,
            input_read_bytes=transposed.weight_read_bytes,
            weight_read_bytes=transposed.input_read_bytes,
        )

    def output_word_bytes(self, array, k):
        return _TRANSPOSED.output_word_bytes(array, k)


def _transposed(gemm: Gemm) -> Gemm:
    """The product whose result is the transpose; of a plain matrix product, which has no taps."""
    return Gemm(gemm.n, gemm.m, gemm.k, gemm.groups)
