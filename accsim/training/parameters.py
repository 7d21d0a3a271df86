"""Stored weights: masters of the student and the teacher's average, one scale a tensor."""

from dataclasses import dataclass
from math import isqrt, prod

import numpy as np

from accsim.kernels import norm, update
from accsim.kernels.fixed_point import (
    limit,
    narrowing_shift,
    random_key,
    random_words,
    round_shift,
)
from accsim.kernels.lfsr import LaneRegisters
from accsim.network import BatchNorm, Linear, Network, Node
from accsim.numerics import Numerics, Rounding

MOST_FINER = 7  # bits by which an output's weights may lie below those of the whole tensor
HEADROOM_BITS = 2  # weights may grow by this much before their store saturates


@dataclass
class Map:
    """Integers and their exponent: stands for ``values * 2**exponent``."""

    values: np.ndarray
    exponent: int


@dataclass
class Narrowed(Map):
    """Weights as operands of the PE array, for the outputs of one pass."""

    finer: np.ndarray | None = None  # int32[outputs], how much less than `exponent` each has

    @property
    def most_finer(self) -> int:
        """How much less the finest output has."""
        return 0 if self.finer is None else int(self.finer.max())


@dataclass
class Momentum:
    """The momentum of one tensor as it lies in DDR."""

    values: np.ndarray  # int16[words], or int32 above 16 bits
    residual: np.ndarray | None  # int16[words] with error feedback

    @classmethod
    def zero(cls, words: int, numerics: Numerics) -> "Momentum":
        """The momentum at the start."""
        residual = np.zeros(words, np.int16) if numerics.error_feedback else None
        return cls(np.zeros(words, word_type(numerics.momentum_bits)), residual)


@dataclass
class Stored:
    """One tensor of parameters as it lies in DDR."""

    values: np.ndarray  # int16, or int32 above 16 bits
    frac_bits: int  # fixed for the whole run
    largest: int  # bound on the magnitude, known before the tensor streams in
    residual: np.ndarray | None = None  # int16[words], what rounding dropped; with error feedback
    channel_bounds: np.ndarray | None = None  # int64[K], `largest` of every output of weights

    def copy(self) -> "Stored":
        """An independent tensor of the same content."""
        residual = None if self.residual is None else self.residual.copy()
        return Stored(self.values.copy(), self.frac_bits, self.largest, residual)

    def largest_of_outputs(self, groups: int = 1, backward: bool = False) -> np.ndarray:
        """Largest magnitude of the weights of every output of the forward or backward pass."""
        magnitudes = np.abs(_by_group(self.values, groups).astype(np.int64))
        if backward:
            return magnitudes.max(axis=(0, 3)).T.reshape(-1)
        return magnitudes.max(axis=(0, 1)).reshape(-1)

    def at(self, frac_bits: int) -> np.ndarray:
        """The values with other fractional bits, rounded half up and saturated: int16."""
        if frac_bits == self.frac_bits:
            return self.values
        wide = self.values.astype(np.int64)
        left = frac_bits - self.frac_bits
        wide = wide << left if left >= 0 else round_shift(wide, -left)
        return np.clip(wide, -limit(16), limit(16)).astype(np.int16)

    def teacher(self, finer_bits: int, bits: int) -> "Stored":
        """A teacher that starts here: `finer_bits` more (or less) fractional bits, words of `bits`.

        Where it has less, its words keep the master's fractional bits, of which the lowest are 0.
        """
        left, coarse = max(finer_bits, 0), max(-finer_bits, 0)
        values = (self.values.astype(word_type(bits + coarse)) << left) >> coarse << coarse
        residual = None if self.residual is None else np.zeros_like(self.residual)
        return Stored(values, self.frac_bits + left, self.largest << left, residual)

    def master(self, finer_bits: int, bits: int) -> "Stored":
        """A master of `bits` that starts at this teacher of `teacher`, rounded and saturated."""
        left, most = max(finer_bits, 0), limit(bits)
        wide = round_shift(self.values.astype(np.int64), left)
        values = np.clip(wide, -most, most).astype(word_type(bits))
        residual = None if self.residual is None else np.zeros_like(self.residual)
        largest = int(np.abs(values.astype(np.int64)).max())
        return Stored(values, self.frac_bits - left, largest, residual)

    def narrow(
        self, bits: int, rounding: Rounding, labels: tuple[int, ...], registers: LaneRegisters
    ) -> Narrowed:
        """The tensor as `bits`-bit operands of the PE array.

        Where `rounding` draws, it does from random keys that `labels` make, or from `registers`.
        """
        shift = narrowing_shift(self.largest, bits)
        operands = np.empty(self.values.shape, np.int8 if bits <= 8 else np.int16)
        how = random_key(*labels) if rounding is Rounding.STOCHASTIC else rounding
        words = self.values.reshape(-1)
        update.narrow(words, shift, limit(bits), operands.reshape(-1), how, registers)
        return Narrowed(operands, shift - self.frac_bits)

    def narrow_outputs(
        self,
        bits: int,
        rounding: Rounding,
        labels: tuple[int, ...],
        registers: LaneRegisters,
        groups: int,
        backward: bool,
    ) -> Narrowed:
        """`narrow`, each output of the pass to its own exponent: HWIO weights of `groups`.

        Forward an output is an output channel, backward an input channel.
        """
        bounds = self.channel_bounds
        if bounds is None or backward:
            bounds = self.largest_of_outputs(groups, backward)
        wanted = np.array([narrowing_shift(largest, bits) for largest in bounds.tolist()])
        coarsest = int(wanted.max())
        shifts = np.maximum(wanted, coarsest - MOST_FINER).astype(np.int8)
        words = _by_group(self.values, groups)
        placed = shifts.reshape(groups, -1)
        placed = placed.T[:, :, None] if backward else placed
        each = np.broadcast_to(placed, words.shape).reshape(-1)
        operands = np.empty(self.values.shape, np.int8 if bits <= 8 else np.int16)
        how = random_key(*labels) if rounding is Rounding.STOCHASTIC else rounding
        flat = self.values.reshape(-1)
        update.narrow_each(flat, each, limit(bits), operands.reshape(-1), how, registers)
        finer = (coarsest - shifts).astype(np.int32)
        return Narrowed(operands, coarsest - self.frac_bits, finer)


def _by_group(weights: np.ndarray, groups: int) -> np.ndarray:
    """A view of HWIO weights: (taps, inputs of a group, groups, outputs of a group)."""
    return weights.reshape(-1, weights.shape[2], groups, weights.shape[3] // groups)


def word_type(bits: int) -> type:
    """What stored words of `bits` are kept in."""
    return np.int16 if bits <= 16 else np.int32


def weight_name(node: Node) -> str:
    """Name of the weights of a convolution or linear layer."""
    return f"{node.name}.weight"


def layer_of(name: str) -> str:
    """The layer that a parameter belongs to."""
    return name.rpartition(".")[0]


def initial(network: Network, numerics: Numerics, seed: int) -> dict[str, Stored]:
    """Parameters at random start, from integers only.

    Weights are normal with variance ``2 / fan_in``, drawn as sums of 12 uniform 16-bit numbers;
    scales are 1, shifts and biases 0; their range is 8 from 4 bits on.
    Source: He et al., "Delving Deep into Rectifiers", ICCV 2015, eq. 10.
    """
    parameters = {}
    vector_bits = max(norm.PARAMETER_BITS + numerics.master_bits - 16, 0)  # fractional
    type_ = word_type(numerics.master_bits)
    for node in network.nodes:
        if node.weights:
            deviation = isqrt((2 << 32) // prod(node.weight_shape[:-1]))  # 16 fractional bits
            wide = _normal(node.weights, random_key(seed, node.index)) * deviation >> 16
            bits = numerics.master_bits - 1 - min(HEADROOM_BITS, numerics.master_bits - 2)
            frac_bits = 16 + bits - int(np.abs(wide).max()).bit_length()
            values: np.ndarray = _scaled(wide, frac_bits).astype(type_).reshape(node.weight_shape)
            largest = int(np.abs(values).max())
            parameters[weight_name(node)] = Stored(values, frac_bits, largest)
        if isinstance(node.layer, BatchNorm):
            channels = node.input.channels
            if not node.layer.mean_only:
                parameters[f"{node.name}.scale"] = _filled(channels, 1, vector_bits, type_)
            parameters[f"{node.name}.shift"] = _filled(channels, 0, vector_bits, type_)
        if isinstance(node.layer, Linear) and node.layer.bias:
            features = node.layer.out_features
            parameters[f"{node.name}.bias"] = _filled(features, 0, vector_bits, type_)
    if numerics.error_feedback:
        for stored in parameters.values():
            stored.residual = np.zeros(stored.values.size, np.int16)
    return parameters


def _scaled(wide: np.ndarray, frac_bits: int) -> np.ndarray:
    """Integers of 16 fractional bits with `frac_bits` of them, the rest cut off."""
    return wide << max(frac_bits - 16, 0) >> max(16 - frac_bits, 0)


def _filled(count: int, value: int, frac_bits: int, type_: type) -> Stored:
    code = value << frac_bits
    return Stored(np.full(count, code, type_), frac_bits, code)


def _normal(count: int, key: int) -> np.ndarray:
    """int64[count] of deviation 1 with 16 fractional bits (Irwin-Hall of 12)."""
    draws = random_words(12 * count, key).astype(np.int64) >> 16
    return draws.reshape(count, 12).sum(1) - 6 * (1 << 16)
