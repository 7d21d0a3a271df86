"""Output stationary: a PE keeps one sum; both operands stream through."""

from dataclasses import dataclass

from accsim.dataflow.base import Accesses, Dataflow
from accsim.units import ceil_div


@dataclass(frozen=True)
class OutputStationary(Dataflow):
    """A fold is ``rows x columns`` results; it streams all of k.

    The cycles are those of a register-transfer model, equal on every shape tried: fill
    ``(rows - 1) + (columns - 1)``, k products, drain of `rows` results, 5 registers and memory,
    one cycle shared. With overlap a fold starts ``max(k, rows)`` cycles after the one before: its
    sums leave through the rows while the next fold streams.
    """

    def cycles(self, array, gemm):
        m, n, k, groups = gemm.m, gemm.n, gemm.k, gemm.groups
        folds = groups * ceil_div(m, array.rows) * ceil_div(n, array.columns)
        one_fold = k + 2 * array.rows + array.columns + 3
        if array.overlap:
            return one_fold + (folds - 1) * max(k, array.rows)
        return folds * one_fold

    def accesses(self, array, gemm):
        m, n, k, words = gemm.m, gemm.n, gemm.k, gemm.groups * array.operand_bytes
        return Accesses(
            input_read_bytes=m * k * ceil_div(n, array.columns) * words,
            weight_read_bytes=k * n * ceil_div(m, array.rows) * words,
            output_read_bytes=0,
            output_write_bytes=m * n * words,
        )

    def output_word_bytes(self, array, k):
        return array.operand_bytes
