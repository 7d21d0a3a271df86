"""The verilated vector unit in place of the kernels of `accsim.kernels.update`."""

import ctypes
from dataclasses import dataclass

import numpy as np

from accsim.kernels.fixed_point import limit
from accsim.kernels.lfsr import LaneRegisters
from accsim.kernels.update import MOMENTUM_EXTRA_BITS, RATE_BITS, RESIDUAL_BITS
from accsim.numerics import Rounding
from accsim.units import ceil_div

GUARD_BITS = 16  # of a step before its one rounding
SLACK_CYCLES = 1000  # a pass that takes so many more than it has beats never ends
BYTES = ctypes.POINTER(ctypes.c_uint8)
WORDS = ctypes.POINTER(ctypes.c_int64)
ROUNDINGS = {  # as the ports `first_rounding` and `second_rounding` number them
    Rounding.HALF_UP: 1,
    Rounding.TRUNCATE: 2,
    Rounding.NEAREST_EVEN: 3,
    Rounding.PSEUDO_STOCHASTIC: 4,
    Rounding.STOCHASTIC_LFSR: 5,
}


@dataclass(frozen=True)
class Pass:
    """What one pass of the unit did besides the words that it wrote."""

    cycles: int
    largest: int  # magnitude written


class RtlVectorUnit:
    """`vector_unit.sv` with its parameters: functions that take what the kernels take.

    Stores of 2 to 24 bits; words come and go as the kernels keep them.
    """

    def __init__(
        self,
        build,
        lanes: int,
        register_bits: int,
        master_bits: int = 16,
        momentum_bits: int = 16,
        teacher_bits: int = 16,
        gradient_bits: int = 32,
        feedback: bool = False,
    ):
        self.lanes, self.register_bits = lanes, register_bits
        self.bits = master_bits, momentum_bits, gradient_bits, teacher_bits
        self.extra_bits = MOMENTUM_EXTRA_BITS + momentum_bits - master_bits
        self.feedback = feedback
        self.stream_bits = *self.bits, RESIDUAL_BITS + 1, RESIDUAL_BITS + 1
        parameters = {
            "LANES": lanes,
            "REGISTER_BITS": register_bits,
            "MASTER_BITS": master_bits,
            "MOMENTUM_BITS": momentum_bits,
            "TEACHER_BITS": teacher_bits,
            "GRADIENT_BITS": gradient_bits,
            "FEEDBACK": int(feedback),
        }
        self._run = build("vector_unit", parameters, "vector_unit.cpp").run
        self._run.restype = ctypes.c_int64
        self._run.argtypes = [WORDS, WORDS, *[BYTES] * 7, WORDS, ctypes.c_int64]

    def momentum_sgd(
        self,
        master,
        momentum,
        gradient,
        exponent,
        rate,
        factor,
        decay,
        master_limit,
        momentum_limit,
        master_rounding,
        momentum_rounding,
        registers=None,
        master_residual=None,
        momentum_residual=None,
        extra_bits=MOMENTUM_EXTRA_BITS,
    ) -> Pass:
        """`update.momentum_sgd` in place."""
        assert (master_limit, momentum_limit) == tuple(map(limit, self.bits[:2]))
        assert extra_bits == self.extra_bits
        left = exponent - RATE_BITS + extra_bits + GUARD_BITS
        control = {
            "average": 0,
            "rate": rate,
            "factor": factor,
            "decay": decay,
            "gradient_limit": (2**61 - 1) // max(rate, 1),
            "push_up": min(max(left, 0), 60),
            "push_down": min(max(-left, 0), 62),
            "shift": 0,
            "first_rounding": ROUNDINGS[momentum_rounding],
            "second_rounding": ROUNDINGS[master_rounding],
        }
        streams = master, momentum, gradient, None, momentum_residual, master_residual
        done, (master[:], momentum[:], _, _, first, second) = self._pass(
            control, streams, registers
        )
        if self.feedback:
            momentum_residual[:], master_residual[:] = first, second
        return done

    def moving_average(
        self,
        teacher,
        student,
        numerator,
        shift,
        coarse_bits,
        student_shift,
        teacher_limit,
        rounding,
        out,
        registers=None,
        residual=None,
    ) -> Pass:
        """`update.moving_average` into `out`."""
        master_bits, _, _, teacher_bits = self.bits
        assert teacher_limit == limit(teacher_bits) << coarse_bits
        assert student_shift == max(teacher_bits - master_bits, 0)
        assert coarse_bits == max(master_bits - teacher_bits, 0)
        control = {
            "average": 1,
            "rate": numerator,
            "factor": 0,
            "decay": 0,
            "gradient_limit": 0,
            "push_up": 0,
            "push_down": 0,
            "shift": shift,
            "first_rounding": ROUNDINGS[rounding],
            "second_rounding": ROUNDINGS[rounding],
        }
        streams = student, None, None, teacher >> coarse_bits, residual, None
        done, (_, _, _, codes, first, _) = self._pass(control, streams, registers)
        out[:] = codes << coarse_bits
        if self.feedback:
            residual[:] = first
        return Pass(done.cycles, done.largest << coarse_bits)

    def _pass(self, control, streams, registers):
        """One pass over the unit's streams of words, and what they are after it; None: zeros."""
        words = len(streams[0])
        beats = ceil_div(words, self.lanes)
        packed = [
            _pack(np.zeros(0) if values is None else values, bits, beats * self.lanes)
            for values, bits in zip(streams, self.stream_bits, strict=True)
        ]
        register_type = np.dtype(f"<u{self.register_bits // 8}")
        if registers is None:
            registers = LaneRegisters.seeded(self.lanes, self.register_bits, 0)
        assert (len(registers.states), registers.bits) == (self.lanes, self.register_bits)
        states = registers.states.astype(register_type)
        beat_bytes = [part.nbytes // beats for part in packed]
        largest = ctypes.c_int64()
        cycles = self._run(
            _words([beats, *control.values()]),
            _words([states.nbytes, *beat_bytes]),
            states.ctypes.data_as(BYTES),
            *(part.ctypes.data_as(BYTES) for part in packed),
            ctypes.byref(largest),
            beats + SLACK_CYCLES,
        )
        assert cycles > 0, "the pass does not end"
        registers.states[:] = states
        after = [_unpack(part)[:words] for part in packed]
        return Pass(cycles, largest.value), after


def _words(values):
    return (ctypes.c_int64 * len(values))(*values)


def _pack(values, bits, words):
    """Words of as many bytes as `bits` need, zeros behind them: uint8[words, bytes]."""
    wide = np.zeros(words, "<i8")
    wide[: len(values)] = values
    return np.ascontiguousarray(wide.view(np.uint8).reshape(words, 8)[:, : ceil_div(bits, 8)])


def _unpack(packed):
    """int64[words] of `_pack`."""
    wide = np.zeros((len(packed), 8), np.uint8)
    wide[:, 8 - packed.shape[1] :] = packed
    return wide.reshape(-1).view("<i8") >> (64 - 8 * packed.shape[1])
