"""A verilated PE array as a function of matrices: its sums, its results, its cycles."""

import ctypes
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from accsim.hardware.pe_array import PEArraySpec
from accsim.units import ceil_div

CYCLES_AT_MOST = 10**8


class _Memory(ctypes.Structure):
    _fields_ = (
        ("bytes", ctypes.c_void_p),
        ("word_bytes", ctypes.c_int64),
        ("words", ctypes.c_int64),
    )


@dataclass(frozen=True)
class Outcome:
    """What the array wrote, and when it was done."""

    sums: np.ndarray  # int64[m, n]
    results: np.ndarray  # int64[m, n], requantised
    cycles: int


class _Layout(NamedTuple):
    """A product as the memories hold it; what is missing in a fold is zero."""

    input_words: np.ndarray  # [words, lanes]
    weight_words: np.ndarray  # [words, lanes]
    length: int
    folds: tuple[int, int]  # of rows, of columns
    written: tuple[int, int, int, int]  # results: blocks of m, of n; rows of a block, lanes


class RtlArray:
    """The module of a dataflow with the parameters of a PEArraySpec.

    `dataflow` is output_stationary, weight_stationary, input_stationary, which is the one before on
    transposed operands, or channel_broadcast, whose products are of `taps`.
    """

    def __init__(
        self, build, dataflow: str, spec: PEArraySpec, result_bits: int = 8, taps: int = 1
    ):
        self.dataflow, self.spec, self.result_bits, self.taps = dataflow, spec, result_bits, taps
        parameters = {
            "ROWS": spec.rows,
            "COLUMNS": spec.columns,
            "OPERAND_BITS": spec.operand_bits,
            "ACCUMULATOR_BITS": spec.accumulator_bits,
            "RESULT_BITS": result_bits,
            "OVERLAP": int(spec.overlap),
            "PARTS": int(spec.parts),
            "MULTIPLIER_LATENCY": spec.multiplier_latency,
            "ADDER_LATENCY": spec.adder_latency,
        }
        self._transposed = dataflow == "input_stationary"
        self._top = "weight_stationary" if self._transposed else dataflow
        if self._top == "channel_broadcast":
            parameters["TAPS"] = taps
        self._run = build(self._top, parameters, "pe_array.cpp").run
        self._run.restype = ctypes.c_int64
        memories = [ctypes.POINTER(_Memory)] * 4
        self._run.argtypes = [*memories, *[ctypes.c_int] * 6, ctypes.c_int64]

    def __call__(
        self, inputs: np.ndarray, weights: np.ndarray, shift: int, part: PEArraySpec | None = None
    ) -> Outcome:
        """``inputs[m, k] @ weights[k, n]``, and that rounded half up by `shift` bits.

        `part` has as many rows and columns as are in use: all of them by default.
        """
        used = part or self.spec
        if not self._transposed:
            return self._multiply(inputs, weights, shift, used.rows, used.columns)
        outcome = self._multiply(weights.T, inputs.T, shift, used.rows, used.columns)
        return Outcome(outcome.sums.T, outcome.results.T, outcome.cycles)

    def _multiply(self, inputs, weights, shift, rows, columns) -> Outcome:
        layout = getattr(self, f"_{self._top}")(inputs, weights, rows, columns)
        blocks, across, height, lanes = layout.written
        broadcast = self._top == "channel_broadcast"
        all_lanes = self.spec.rows if broadcast else self.spec.columns  # of a row of results
        bits = (self.spec.accumulator_bits, self.result_bits)
        outputs = [
            np.zeros((blocks * across * height, ceil_div(all_lanes * width, 8)), np.uint8)
            for width in bits
        ]
        operands = [
            _packed(words, self.spec.operand_bits)
            for words in (layout.input_words, layout.weight_words)
        ]
        memories = [_Memory(a.ctypes.data, a.shape[1], len(a)) for a in (*operands, *outputs)]
        cycles = self._run(
            *memories, rows, columns, layout.length, *layout.folds, shift, CYCLES_AT_MOST
        )
        sums, results = (
            _unpacked(a, all_lanes, width)[:, :lanes]
            .reshape(layout.written)
            .swapaxes(1, 2)
            .reshape(blocks * height, across * lanes)[: len(inputs), : weights.shape[1]]
            for a, width in zip(outputs, bits, strict=True)
        )
        return Outcome(sums, results, cycles)

    def _output_stationary(self, inputs, weights, rows, columns) -> _Layout:
        (m, k), n = inputs.shape, weights.shape[1]
        down, across = ceil_div(m, rows), ceil_div(n, columns)
        left, right = _padded(inputs, down * rows, k), _padded(weights, k, across * columns)
        input_words = left.reshape(down, rows, k).swapaxes(1, 2).reshape(-1, rows)
        weight_words = right.reshape(k, across, columns).swapaxes(0, 1).reshape(-1, columns)
        return _Layout(
            _on_lanes(input_words, self.spec.rows),
            _on_lanes(weight_words, self.spec.columns),
            k,
            (down, across),
            (down, across, rows, columns),
        )

    def _weight_stationary(self, inputs, weights, rows, columns) -> _Layout:
        (m, k), n = inputs.shape, weights.shape[1]
        down, across = ceil_div(k, rows), ceil_div(n, columns)
        left = _padded(inputs, m, down * rows)
        right = _padded(weights, down * rows, across * columns)
        input_words = left.reshape(m, down, rows).swapaxes(0, 1).reshape(-1, rows)
        weight_words = right.reshape(-1, across, columns).swapaxes(0, 1).reshape(-1, columns)
        return _Layout(
            _on_lanes(input_words, self.spec.rows),
            _on_lanes(weight_words, self.spec.columns),
            m,
            (down, across),
            (1, across, m, columns),
        )

    def _channel_broadcast(self, inputs, weights, rows, columns) -> _Layout:
        """k is a tap's channels after the other's."""
        taps, (m, k), n = self.taps, inputs.shape, weights.shape[1]
        channels = k // taps
        down, across = ceil_div(n, rows), ceil_div(channels, columns)
        missing = across * columns - channels
        left = np.pad(inputs.reshape(m, taps, channels), ((0, 0), (0, 0), (0, missing)))
        right = np.pad(
            weights.reshape(taps, channels, n), ((0, 0), (0, missing), (0, down * rows - n))
        )
        input_words = left.reshape(m, taps, across, columns).transpose(2, 1, 0, 3)
        weight_words = right.reshape(taps, across, columns, down, rows).transpose(3, 1, 0, 4, 2)
        of_rows = _on_lanes(weight_words, self.spec.columns).swapaxes(-1, -2)
        of_all = _on_lanes(of_rows, self.spec.rows).swapaxes(-1, -2)
        return _Layout(
            _on_lanes(input_words.reshape(-1, columns), self.spec.columns),
            of_all.reshape(-1, self.spec.macs_per_cycle),
            m,
            (down, across),
            (1, down, m, rows),
        )


def _padded(values, rows: int, columns: int) -> np.ndarray:
    return np.pad(values, ((0, rows - values.shape[0]), (0, columns - values.shape[1])))


def _on_lanes(words, lanes: int) -> np.ndarray:
    """Words on the first of `lanes` lanes; all ones on the others, where nothing may matter."""
    unused = [(0, 0)] * (words.ndim - 1) + [(0, lanes - words.shape[-1])]
    return np.pad(words, unused, constant_values=-1)


def _packed(words, bits: int) -> np.ndarray:
    """Lanes of `bits` bits side by side, the first one lowest, in whole bytes."""
    split = (words[..., None] >> np.arange(bits)) & 1
    return np.packbits(split.reshape(len(words), -1).astype(np.uint8), axis=1, bitorder="little")


def _unpacked(packed, lanes: int, bits: int) -> np.ndarray:
    """The signed lanes of what `_packed` made."""
    flat = np.unpackbits(packed, axis=1, count=lanes * bits, bitorder="little")
    weights = np.left_shift(1, np.arange(bits), dtype=np.int64)
    weights[-1] *= -1
    return flat.reshape(len(packed), lanes, bits) @ weights
