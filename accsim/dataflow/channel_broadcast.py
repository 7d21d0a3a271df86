"""Channel broadcast: rows are output channels, columns are input channels, one pixel a cycle."""

from dataclasses import dataclass

from accsim.dataflow.base import RESULTS, Accesses, Dataflow, one_at_a_time
from accsim.units import ceil_div


@dataclass(frozen=True)
class ChannelBroadcast(Dataflow):
    """A fold is the products of ``rows`` output channels (Tm) and ``columns`` input channels (Tn).

    The unrolled loops of most FPGA accelerators. Forward and backward_data: an input pixel of every
    column is broadcast to all rows, a tree adds each row's products, and the result is added to the
    sum of its output pixel. A tap visits all pixels before the next one, so a sum is due again only
    after m cycles. backward_weight: every unit keeps one sum a tap, and a pixel visits all taps, so
    a sum is due again after `taps` cycles. Where that is sooner than the adder is done, units wait.

    Without overlap a fold waits until the pipeline has run empty; with overlap its depth is paid
    once: memory, operand, multiplier, ``ceil(log2(columns))`` adders of the tree (forward), one of
    the sum, output. With NO_REGISTERS there is none, which is EF-Train's model (Tang et al., TODAES
    2022): m * taps * ceil(n / rows) * ceil(k / taps / columns) cycles. Groups follow one another; a
    depthwise layer uses one row and one column. ``tests/rtl`` has the forward pass as RTL.
    """

    def sides(self, gemm):
        channels, pixels = (gemm.m, gemm.k) if gemm.of_weights else (gemm.k, gemm.m)
        return gemm.n, channels // gemm.taps, pixels * gemm.taps

    def folds(self, array, gemm):
        inputs = (gemm.m if gemm.of_weights else gemm.k) // gemm.taps
        return gemm.groups * ceil_div(gemm.n, array.rows) * ceil_div(inputs, array.columns)

    def play(self, time, array, gemm):
        registers = array.registers
        # in a round every sum of the fold is visited once
        rounds, sums = (gemm.k, gemm.taps) if gemm.of_weights else (gemm.taps, gemm.m)
        tree = 0 if gemm.of_weights else (array.columns - 1).bit_length() * array.adder_latency
        at_adder = array.product_cycles + tree + registers.sum_cycles
        written = at_adder + array.adder_latency + registers.output_cycles
        over = sums - 1 + (written + 1 if registers.awaits_results else array.product_cycles)
        visit = {
            "operand ports": (0, sums),
            "first sum": (at_adder, at_adder + array.adder_latency),
        }
        first, last = one_at_a_time(array), {RESULTS: (over, over)}
        time.repeat(
            self.folds(array, gemm), lambda: time.stream(rounds, each=visit, first=first, last=last)
        )

    def accesses(self, array, gemm):
        m, n, k = gemm.m, gemm.n, gemm.k
        rows_of_n = ceil_div(n, array.rows)
        word = array.operand_bytes * gemm.groups
        sum_word = array.accumulator_bytes * gemm.groups
        if gemm.of_weights:  # an error stays for all taps of its pixel
            slices = ceil_div(m // gemm.taps, array.columns)
            return Accesses(
                input_read_bytes=m * k * rows_of_n * word,
                weight_read_bytes=k * n * slices * word,
                output_read_bytes=0,
                output_write_bytes=m * n * sum_word,
            )
        visits = gemm.taps * ceil_div(k // gemm.taps, array.columns)  # of a sum
        return Accesses(
            input_read_bytes=m * k * rows_of_n * word,
            weight_read_bytes=k * n * word,
            output_read_bytes=m * n * (visits - 1) * sum_word,
            output_write_bytes=m * n * visits * sum_word,
        )

    def output_word_bytes(self, array, k):
        return array.accumulator_bytes
