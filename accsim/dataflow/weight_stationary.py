"""Weight stationary: a PE keeps one weight; inputs stream through and sums fall down a column."""

from dataclasses import dataclass

from accsim.dataflow.base import Accesses, Dataflow
from accsim.units import ceil_div


@dataclass(frozen=True)
class WeightStationary(Dataflow):
    """A fold is ``rows x columns`` weights; it streams all of m.

    The cycles are those of a register-transfer model, equal on every shape tried: `rows` to load
    the first weights, m inputs, the skew of rows and columns, 5 registers and memory. With overlap
    the next weights load behind the present ones, so a fold takes ``max(m, rows)``. Sums over
    more than `rows` of k are partial: they wait in the output buffer as accumulator words.
    """

    def cycles(self, array, gemm):
        m, n, k, groups = gemm.m, gemm.n, gemm.k, gemm.groups
        folds = groups * ceil_div(k, array.rows) * ceil_div(n, array.columns)
        stream = m + array.rows + array.columns + 5
        if array.overlap:
            return array.rows + (folds - 1) * max(m, array.rows) + stream
        return folds * (array.rows + stream)

    def accesses(self, array, gemm):
        m, n, k, groups = gemm.m, gemm.n, gemm.k, gemm.groups
        folds_of_k = ceil_div(k, array.rows)
        word = self.output_word_bytes(array, k)
        return Accesses(
            input_read_bytes=groups * m * k * ceil_div(n, array.columns) * array.operand_bytes,
            weight_read_bytes=groups * k * n * array.operand_bytes,
            output_read_bytes=groups * m * n * (folds_of_k - 1) * word,
            output_write_bytes=groups * m * n * folds_of_k * word,
        )

    def output_word_bytes(self, array, k):
        return array.accumulator_bytes if k > array.rows else array.operand_bytes
