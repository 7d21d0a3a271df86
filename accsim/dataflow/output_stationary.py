"""Output stationary: a PE keeps one sum; both operands stream through."""

from dataclasses import dataclass

from accsim.dataflow.base import RESULTS, Accesses, Dataflow, one_at_a_time
from accsim.units import ceil_div


@dataclass(frozen=True)
class OutputStationary(Dataflow):
    """A fold is ``rows x columns`` results; it streams all of k.

    Operands hop one PE a cycle, so PE (r, c) works r + c cycles after PE (0, 0). It keeps one sum:
    a product waits until the one before has left the adder. A whole sum is captured in a shadow
    register; the shadows of a column are a chain that moves down, a row out a cycle, once the
    bottom one has its sum, so each is taken for `rows` cycles. With overlap the next fold streams
    meanwhile. Skews grow evenly along rows and columns: what binds, binds in a corner.
    """

    def sides(self, gemm):
        return gemm.m, gemm.n, gemm.k

    def folds(self, array, gemm):
        return gemm.groups * ceil_div(gemm.m, array.rows) * ceil_div(gemm.n, array.columns)

    def play(self, time, array, gemm):
        rows, registers = array.rows, array.registers
        down, across = rows - 1, array.columns - 1  # hops to the last PE
        summed = array.product_cycles + array.adder_latency  # in PE (0, 0)
        moving = summed + down  # the bottom of column 0 has its sum
        leaving = moving + across + registers.sum_cycles + registers.output_cycles
        over = leaving + rows if registers.awaits_results else array.product_cycles + down + across
        product = {
            "operand ports": (0, 1),
            "sum": (array.product_cycles, summed),
        }
        drain = {
            "shadow of the top row": (summed, moving + 1),  # it moves first
            "shadow of the bottom row": (moving, moving + rows),  # the top row's sum leaves it last
            "row port": (leaving, leaving + rows),
            RESULTS: (over, over),
        }
        first = one_at_a_time(array)
        time.repeat(
            self.folds(array, gemm),
            lambda: time.stream(gemm.k, each=product, first=first, last=drain),
        )

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
