"""Weight stationary: a PE keeps one weight; inputs stream through and sums fall down a column."""

from dataclasses import dataclass

from accsim.dataflow.base import Dataflow
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

    def reads_bytes(self, array, gemm):
        m, n, k, groups = gemm.m, gemm.n, gemm.k, gemm.groups
        inputs = m * k * ceil_div(n, array.columns) * array.operand_bytes
        weights = k * n * array.operand_bytes
        sums = m * n * (ceil_div(k, array.rows) - 1) * array.accumulator_bytes
        return groups * (inputs + weights + sums)

    def writes_bytes(self, array, gemm):
        m, n, k, groups = gemm.m, gemm.n, gemm.k, gemm.groups
        return groups * m * n * ceil_div(k, array.rows) * self.output_word_bytes(array, k)

    def output_word_bytes(self, array, k):
        return array.accumulator_bytes if k > array.rows else array.operand_bytes
