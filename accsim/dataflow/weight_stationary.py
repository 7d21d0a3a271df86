"""Weight stationary: a PE keeps one weight; inputs stream through and sums fall down a column."""

from dataclasses import dataclass

from accsim.dataflow.base import RESULTS, Accesses, Dataflow, one_at_a_time
from accsim.units import ceil_div


@dataclass(frozen=True)
class WeightStationary(Dataflow):
    """A fold is ``rows x columns`` weights; it streams all of m.

    A sum falls through one adder a row, so row r works r * `adder_latency` cycles after row 0.
    Weights shift down a column behind those in use, the bottom row's first; the first input of a
    fold swaps them, row by row, and a row that has swapped may shift again. With overlap a fold
    streams while the next one loads. Sums over more than `rows` of k are partial: they wait in the
    output buffer as accumulator words, and come back to one more adder. Skews grow evenly along
    rows and columns: what binds, binds in a corner.
    """

    def sides(self, gemm):
        return gemm.k, gemm.n, gemm.m

    def folds(self, array, gemm):
        return gemm.groups * ceil_div(gemm.k, array.rows) * ceil_div(gemm.n, array.columns)

    def play(self, time, array, gemm):
        registers, hop = array.registers, array.adder_latency
        down, across = (array.rows - 1) * hop, array.columns - 1  # to the last PE, in cycles
        arrived = registers.memory_cycles  # an operand, at the edge of the array
        at_adder = array.product_cycles + down + hop + across + registers.sum_cycles
        written = at_adder + hop + registers.output_cycles
        over = written + 1 if registers.awaits_results else array.product_cycles + down + across
        top, bottom = "next weights of the top row", "next weights of the bottom row"
        first = one_at_a_time(array)
        word = {"weight port": (0, 1), top: (arrived, arrived + 1)}
        last_word = {bottom: (arrived, arrived + 1)}
        row = {"input port": (0, 1), "row port": (written, written + 1)}
        swap = {
            top: (arrived, arrived),
            bottom: (arrived + down, arrived + down),
            "first sum": (at_adder, at_adder + hop),
        }

        def fold():
            time.stream(array.rows, each=word, first=first, last=last_word)
            time.stream(gemm.m, each=row, first=swap, last={RESULTS: (over, over)})

        time.repeat(self.folds(array, gemm), fold)

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
