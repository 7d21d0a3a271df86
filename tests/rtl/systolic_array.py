"""A verilated systolic array as a function of matrices: its sums, its results, its cycles."""

import ctypes
from dataclasses import dataclass

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


class SystolicArray:
    """`output_stationary.sv` or `weight_stationary.sv` with the parameters of a PEArraySpec."""

    def __init__(self, build, top: str, spec: PEArraySpec, result_bits: int = 8):
        self.top, self.spec, self.result_bits = top, spec, result_bits
        parameters = {
            "ROWS": spec.rows,
            "COLUMNS": spec.columns,
            "OPERAND_BITS": spec.operand_bits,
            "ACCUMULATOR_BITS": spec.accumulator_bits,
            "RESULT_BITS": result_bits,
            "OVERLAP": int(spec.overlap),
            "MULTIPLIER_LATENCY": spec.multiplier_latency,
            "ADDER_LATENCY": spec.adder_latency,
        }
        self._run = build(top, parameters, "systolic_array.cpp").run
        self._run.restype = ctypes.c_int64
        memories = [ctypes.POINTER(_Memory)] * 4
        self._run.argtypes = [*memories, *[ctypes.c_int] * 6, ctypes.c_int64]

    def __call__(
        self, inputs: np.ndarray, weights: np.ndarray, shift: int, part: PEArraySpec | None = None
    ) -> Outcome:
        """``inputs[m, k] @ weights[k, n]``, and that rounded half up by `shift` bits.

        `part` has as many rows and columns as are in use: all of them by default.
        """
        rows, columns = (part or self.spec).rows, (part or self.spec).columns
        m, n = len(inputs), weights.shape[1]
        of_outputs = self.top == "output_stationary"
        layout = _output_stationary if of_outputs else _weight_stationary
        input_words, weight_words, length, folds = layout(inputs, weights, rows, columns)
        written = folds[0] * folds[1] * rows if of_outputs else folds[1] * length
        operands = [
            _packed(words, lanes, self.spec.operand_bits)
            for words, lanes in ((input_words, self.spec.rows), (weight_words, self.spec.columns))
        ]
        bits = (self.spec.accumulator_bits, self.result_bits)
        lanes = self.spec.columns
        packed = [np.zeros((written, ceil_div(lanes * width, 8)), np.uint8) for width in bits]
        memories = [_Memory(a.ctypes.data, a.shape[1], len(a)) for a in (*operands, *packed)]
        cycles = self._run(*memories, rows, columns, length, *folds, shift, CYCLES_AT_MOST)
        first = (
            (folds[0], folds[1], rows, columns) if of_outputs else (1, folds[1], length, columns)
        )
        sums, results = (
            _unpacked(a, lanes, width)[:, :columns]
            .reshape(first)
            .swapaxes(1, 2)
            .reshape(first[0] * first[2], -1)[:m, :n]
            for a, width in zip(packed, bits, strict=True)
        )
        return Outcome(sums, results, cycles)


def _output_stationary(inputs, weights, rows: int, columns: int):
    """Memory words, products of a sum, folds; what is missing in a fold is zero."""
    (m, k), n = inputs.shape, weights.shape[1]
    down, across = ceil_div(m, rows), ceil_div(n, columns)
    left, right = _padded(inputs, down * rows, k), _padded(weights, k, across * columns)
    input_words = left.reshape(down, rows, k).swapaxes(1, 2).reshape(-1, rows)
    weight_words = right.reshape(k, across, columns).swapaxes(0, 1).reshape(-1, columns)
    return input_words, weight_words, k, (down, across)


def _weight_stationary(inputs, weights, rows: int, columns: int):
    """Memory words, inputs of a fold, folds; what is missing in a fold is zero."""
    (m, k), n = inputs.shape, weights.shape[1]
    down, across = ceil_div(k, rows), ceil_div(n, columns)
    left, right = _padded(inputs, m, down * rows), _padded(weights, down * rows, across * columns)
    input_words = left.reshape(m, down, rows).swapaxes(0, 1).reshape(-1, rows)
    weight_words = right.reshape(-1, across, columns).swapaxes(0, 1).reshape(-1, columns)
    return input_words, weight_words, m, (down, across)


def _padded(values, rows: int, columns: int) -> np.ndarray:
    return np.pad(values, ((0, rows - values.shape[0]), (0, columns - values.shape[1])))


def _packed(words, lanes: int, bits: int) -> np.ndarray:
    """Lanes of `bits` bits side by side, the first one lowest, in whole bytes.

    What is on the lanes that `words` does not have must not matter: all ones.
    """
    full = np.pad(words, ((0, 0), (0, lanes - words.shape[1])), constant_values=-1)
    split = (full[..., None] >> np.arange(bits)) & 1
    return np.packbits(split.reshape(len(full), -1).astype(np.uint8), axis=1, bitorder="little")


def _unpacked(packed, lanes: int, bits: int) -> np.ndarray:
    """The signed lanes of what `_packed` made."""
    flat = np.unpackbits(packed, axis=1, count=lanes * bits, bitorder="little")
    weights = np.left_shift(1, np.arange(bits), dtype=np.int64)
    weights[-1] *= -1
    return flat.reshape(len(packed), lanes, bits) @ weights
