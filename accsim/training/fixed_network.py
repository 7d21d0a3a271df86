"""One network's passes in fixed point: forward, and backward for the samples that need it.

Every map has the exponent that its own values of the step before asked for (delayed scaling): the
hardware rounds in one pass as results leave the accumulators, and what outgrows the format
saturates and is counted. The first pass of a map is run twice to find its exponent. Evaluation
uses the last exponents, unchanged, and running or adapted statistics of the batch norms.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

import numpy as np

from accsim.kernels import conv2d, loss, norm, pooling, residual
from accsim.kernels.fixed_point import (
    code_type,
    limit,
    narrowing_shift,
    random_key,
    round_shift,
    store_codes,
)
from accsim.kernels.lfsr import LaneRegisters
from accsim.network import (
    INPUT,
    Activate,
    Add,
    AveragePool,
    BatchNorm,
    Conv2d,
    GlobalAveragePool,
    Linear,
    MaxPool,
    Network,
    Node,
)
from accsim.numerics import Numerics, Rounding, Scaling, WeightScaling
from accsim.training.counters import Tally
from accsim.training.parameters import Map, Narrowed, Stored, weight_name

LARGEST_SHIFT = 30
REGISTERS = 6  # label of the random key that seeds the lanes' registers
RUNNING_SHIFT = 3  # running statistics move by 1/8 a step


class Statistics(Enum):
    """What batch norms normalise a batch by."""

    BATCH = auto()  # its own mean and deviation
    RUNNING = auto()  # the running average over training batches
    ADAPTED = auto()  # those of the images that the network was last adapted to


LARGEST_COUNT = 1 << 22  # values a channel that exact statistics are taken over


@dataclass
class Normalised:
    """What the backward pass of a batch norm needs from its forward pass."""

    mean: np.ndarray
    sigma: np.ndarray
    inverse: np.ndarray
    scale: np.ndarray
    constants: np.ndarray


@dataclass
class Record:
    """One forward pass: the logits, and what its backward pass needs."""

    images: Map
    parameters: dict[str, Stored]
    registers: LaneRegisters
    outputs: list[Map] = field(default_factory=list)  # of every node
    operands: dict[str, Narrowed] = field(default_factory=dict)  # weights of the forward pass
    normalised: dict[int, Normalised] = field(default_factory=dict)

    @property
    def logits(self) -> np.ndarray:
        """int32[N, classes], 12 fractional bits."""
        return self.outputs[-1].values

    def input_of(self, node: Node, which: int = 0) -> Map:
        """The map that `node` reads."""
        producer = node.inputs[which]
        return self.images if producer == INPUT else self.outputs[producer]


class HasStatistics(Protocol):
    """What a network's passes start from, beside its parameters."""

    exponents: dict[str, int]
    running: dict[int, tuple[np.ndarray, np.ndarray]]


class FixedNetwork:
    """Executes one network; keeps its exponents, its running statistics and its counters.

    `registers` are the vector unit's: networks that one machine runs share them.

    Raises ValueError for a network that this arithmetic does not cover: the last layer must be a
    Linear with a bias, no other layer may have one, padding must be less than the kernel.
    """

    def __init__(
        self,
        network: Network,
        numerics: Numerics,
        key: int,
        registers: LaneRegisters | None = None,
    ):
        self.network = network
        self.numerics = numerics
        self.key = key
        self.exponents: dict[str, int] = {}
        self.registers = registers or LaneRegisters.seeded(
            numerics.lfsr_lanes, numerics.lfsr_bits, random_key(key, REGISTERS)
        )
        self.tally = Tally()
        self.running: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.adapted: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._step = 0
        self._passes = 0  # forward passes so far, for random keys
        for node in network.nodes:
            _check(node, last=node is network.nodes[-1])

    def fork(self, key: int) -> "FixedNetwork":
        """Another one on the same machine, that starts from these exponents and statistics."""
        other = FixedNetwork(self.network, self.numerics, key, self.registers)
        other.start_from(self)
        return other

    def start_from(self, other: "HasStatistics") -> None:
        """Take over the exponents and the running statistics of `other`, as they are now."""
        self.exponents = dict(other.exponents)
        self.running = {at: (mean.copy(), var.copy()) for at, (mean, var) in other.running.items()}

    def forward(
        self,
        parameters: dict[str, Stored],
        images: Map,
        statistics: Statistics = Statistics.BATCH,
        training: bool = True,
    ) -> Record:
        """Run the network on `images`, int8[N, H, W, C], normalised by `statistics`.

        `training` moves exponents and running statistics on, and counts what saturates. Raises
        ValueError for ADAPTED before `adapt`.
        """
        if statistics is Statistics.ADAPTED and not self.adapted:
            raise ValueError("statistics must be BATCH or RUNNING before adapt(), not ADAPTED")
        record = Record(images, parameters, self.registers if training else self.registers.copy())
        self._passes += training
        for node in self.network.nodes:
            x = record.input_of(node)
            match node.layer:
                case Conv2d() | Linear():
                    y = self._multiply(node, parameters, x, record, training)
                case BatchNorm():
                    y = self._normalise(node, parameters, x, record, statistics, training)
                case GlobalAveragePool():
                    y = self._average(node, x, training)
                case MaxPool():
                    pooled = pooling.max_pool(x.values, node.layer.size, node.layer.stride)
                    y = Map(pooled, x.exponent)
                case AveragePool():
                    y = self._average_pool(node, x, training)
                case Activate():
                    y = self._activate(node, x, training)
                case Add():
                    y = self._add(node, x, record.input_of(node, 1), training)
            record.outputs.append(y)
        return record

    @property
    def most_adapted(self) -> int:
        """Images that exact statistics can be taken over."""
        return most_adapted(self.network)

    def adapt(self, parameters: dict[str, Stored], images: Map) -> None:
        """Take the batch norms' statistics from `images`, all at once, for ADAPTED passes.

        Nothing else changes. Raises ValueError for more images than `most_adapted`.
        Source: Li et al., "Revisiting Batch Normalization for Practical Domain Adaptation", 2016,
        section 3.3 (AdaBN).
        """
        if len(images.values) > self.most_adapted:
            raise ValueError(
                f"images to adapt to must be at most {self.most_adapted} for maps of this size, "
                f"not {len(images.values)}"
            )
        record = self.forward(parameters, images, Statistics.BATCH, training=False)
        for node in _norms(self.network):
            state, exponent = record.normalised[node.index], record.input_of(node).exponent
            self.adapted[node.index] = _nothing_yet(node)
            norm.update_running(
                *self.adapted[node.index], state.mean, state.sigma, exponent, momentum_shift=0
            )

    def backward(
        self,
        record: Record,
        error: Map,
        rows: np.ndarray | None,
        step: int,
        frozen: Collection[str] = (),
    ) -> dict[str, tuple[np.ndarray, int]]:
        """Gradients of all parameters but the frozen layers': name -> (int32 array, exponent).

        Parameters
        ----------
        record : of a training forward pass
        error : int8[n, 1, 1, classes], error of the logits of the samples that have backward work
        rows : their places in the batch, or None for all
        step : training step, for the random keys
        frozen : names of layers that do not train; errors go as far down as others need them

        Notes
        -----
        The forward statistics are those of the whole batch. In the backward pass the chosen rows
        stand for it: samples left out take no gradient, not even the one through the statistics.
        """
        asked = self.network.asked_errors(frozen)
        return self._backward(record, error, rows, step, frozen, asked)[0]

    def image_error(self, record: Record, error: Map, rows: np.ndarray | None, step: int) -> Map:
        """Error of the images of the chosen rows: a backward pass of data alone, no gradients.

        Arguments as of `backward`.
        """
        every = self.network.trainable()
        asked = self.network.asked_errors(every, images=True)
        _, errors = self._backward(record, error, rows, step, every, asked)
        (of_images,) = errors[INPUT]  # the first layer alone reads them
        return of_images

    def _backward(
        self,
        record: Record,
        error: Map,
        rows: np.ndarray | None,
        step: int,
        frozen: Collection[str],
        asked: frozenset[int],
    ) -> tuple[dict[str, tuple[np.ndarray, int]], dict[int, list[Map]]]:
        """Gradients of what trains, and errors that no layer took: those of the images."""
        self._step = step
        gradients: dict[str, tuple[np.ndarray, int]] = {}
        errors: dict[int, list[Map]] = {self.network.nodes[-1].index: [error]}

        def saved(map_: Map) -> Map:
            return map_ if rows is None else Map(map_.values[rows], map_.exponent)

        for node in reversed(self.network.nodes):
            if node.index not in asked:
                continue
            arrived = errors.pop(node.index)
            below = asked.intersection(node.inputs)
            dy = arrived[0]
            for other in arrived[1:]:
                dy = self._sum_errors(node, dy, other)
            match node.layer:
                case Conv2d() | Linear():
                    x = saved(record.input_of(node))
                    if node.trains(frozen):
                        self._multiply_gradient(node, x, dy, gradients)
                    dx = self._multiply_backward(node, x, dy, record) if below else None
                case BatchNorm():
                    x = saved(record.input_of(node))
                    found = gradients if node.trains(frozen) else {}
                    dx = self._normalise_backward(node, x, dy, record, found, below)
                case GlobalAveragePool():
                    dx = self._spread(node, dy)
                case MaxPool():
                    z = saved(record.outputs[node.index])
                    dx = self._max_pool_backward(node, saved(record.input_of(node)), z, dy)
                case AveragePool():
                    dx = self._average_pool_backward(node, dy)
                case Activate():
                    dx = self._slope(node, dy, saved(record.input_of(node)))
                case Add():
                    dx = self._slope(node, dy, saved(record.outputs[node.index]))
            for producer in node.inputs:
                if producer in below:
                    assert dx is not None
                    errors.setdefault(producer, []).append(dx)
        return gradients, errors

    def _rounded(
        self, kind, name, unit, bits, rounding, kernel, *labels, adapt=True, most=LARGEST_SHIFT
    ):
        """Run ``kernel(shift, key, limit)`` so that its results get the map's exponent.

        What it clips is counted where the pass may `adapt`, that is in training.
        `unit` is the exponent of the kernel's results before their shift; `labels` make the
        random key where `rounding` draws; `most` is the largest shift that the kernel takes.
        """
        scaling = self.numerics.scaling
        if name not in self.exponents or (adapt and scaling is Scaling.CURRENT):
            _, largest, *_ = kernel(0, int(Rounding.HALF_UP), limit(bits))
            if largest or name not in self.exponents:
                self.exponents[name] = unit + narrowing_shift(largest, bits)
        shift = min(max(self.exponents[name] - unit, 0), most)
        stochastic = rounding is Rounding.STOCHASTIC
        key = random_key(self.key, *labels) if stochastic else int(rounding)
        values, largest, saturated, *overflowed = kernel(shift, key, limit(bits))
        if adapt:
            self.tally.add(kind, name, values.size, int(saturated), sum(map(int, overflowed)))
        if adapt and largest and scaling is Scaling.DELAYED:
            self.exponents[name] = unit + narrowing_shift(largest, bits)
        return Map(values, unit + shift)

    def _round_map(self, node, unit, kernel, training, most=LARGEST_SHIFT):
        numerics = self.numerics
        return self._rounded(
            "activations",
            f"{node.name}.output",
            unit,
            numerics.activation_bits,
            numerics.activation_rounding,
            kernel,
            self._passes,
            node.index,
            2,
            adapt=training,
            most=most,
        )

    def _round_error(self, node, unit, kernel, part=0, most=LARGEST_SHIFT):
        numerics = self.numerics
        labels = (self._step, node.index, part) if part else (self._step, node.index)
        name = f"{node.name}.{'sum' if part else 'input'}_error"
        bits, rounding = numerics.error_bits, numerics.error_rounding
        return self._rounded("error", name, unit, bits, rounding, kernel, *labels, most=most)

    def _round_gradient(self, node, gradient, exponent, overflowed):
        """A weight gradient in its format, and its exponent; `overflowed` of its sums wrapped."""
        numerics, name = self.numerics, f"{node.name}.gradient"
        if numerics.gradient_bits == 32:
            self.tally.add("gradient", name, gradient.size, 0, overflowed)
            return gradient, exponent

        def kernel(shift, key, largest_code):
            codes = np.empty(gradient.size, code_type(largest_code))
            wide = gradient.astype(np.int64).reshape(-1)
            return codes, *store_codes(wide, 0, shift, key, largest_code, codes), overflowed

        bits, rounding = numerics.gradient_bits, numerics.gradient_rounding
        labels = self._step, node.index, 3
        narrow = self._rounded("gradient", name, exponent, bits, rounding, kernel, *labels)
        return narrow.values.astype(np.int32).reshape(gradient.shape), narrow.exponent

    def _multiply(self, node, parameters, x, record, training):
        name = weight_name(node)
        weights = self._narrow(node, parameters[name], record)
        record.operands[name] = weights
        unit = x.exponent + weights.exponent
        values = _flat(node, x.values)
        if node is self.network.nodes[-1]:
            return self._logits(node, parameters, values, weights, unit)

        stride, padding = _window(node)
        accumulator_bits = self.numerics.accumulator_bits

        def kernel(shift, key, largest_code):
            arguments = values, weights.values, stride, padding, shift, key, largest_code
            return conv2d.forward(*arguments, accumulator_bits, node.groups, weights.finer)

        return self._round_map(node, unit, kernel, training, LARGEST_SHIFT - weights.most_finer)

    def _narrow(self, node, stored, record, backward=False):
        """The weights as the array takes them in one pass."""
        numerics = self.numerics
        labels = (self.key, self._passes, 1) if backward else (self.key, self._passes)
        how = numerics.weight_bits, numerics.weight_rounding, labels, record.registers
        if numerics.weight_scaling is WeightScaling.TENSOR:
            return stored.narrow(*how)
        return stored.narrow_outputs(*how, node.groups, backward)

    def _logits(self, node, parameters, values, weights, unit):
        """Logits with 12 fractional bits from exact sums; never narrowed."""
        rows = values.reshape(len(values), -1).astype(np.int64)
        wide = rows @ weights.values.reshape(rows.shape[1], -1).astype(np.int64)
        left = unit + loss.LOGIT_BITS - (0 if weights.finer is None else weights.finer)
        wide = round_shift(wide << np.maximum(left, 0), np.maximum(-left, 0))
        bias = parameters[f"{node.name}.bias"].at(loss.LOGIT_BITS).astype(np.int64)
        return Map(np.clip(wide + bias, -(1 << 24), 1 << 24).astype(np.int32), -loss.LOGIT_BITS)

    def _multiply_gradient(self, node, x, dy, gradients):
        stride, padding = _window(node)
        values = _flat(node, x.values)
        accumulator_bits = self.numerics.accumulator_bits
        gradient, shift, overflowed = conv2d.backward_weight(
            values, dy.values, node.weight_shape[0], stride, padding, accumulator_bits, node.groups
        )
        exponent = x.exponent + dy.exponent + shift
        found = self._round_gradient(node, gradient, exponent, int(overflowed))
        gradients[weight_name(node)] = found
        if node is self.network.nodes[-1]:
            sums = conv2d.output_sums(dy.values).astype(np.int32)
            gradients[f"{node.name}.bias"] = (sums, dy.exponent)

    def _multiply_backward(self, node, x, dy, record):
        name = weight_name(node)
        weights = record.operands[name]
        if self.numerics.weight_scaling is WeightScaling.CHANNEL:
            weights = self._narrow(node, record.parameters[name], record, backward=True)
        stride, padding = _window(node)
        _, height, width, _ = _flat(node, x.values).shape
        accumulator_bits = self.numerics.accumulator_bits

        def kernel(shift, key, largest_code):
            return conv2d.backward_data(
                dy.values,
                weights.values,
                stride,
                padding,
                height,
                width,
                shift,
                key,
                largest_code,
                accumulator_bits,
                node.groups,
                weights.finer,
            )

        most = LARGEST_SHIFT - weights.most_finer
        dx = self._round_error(node, dy.exponent + weights.exponent, kernel, most=most)
        return Map(dx.values.reshape(x.values.shape), dx.exponent)

    def _normalise(self, node, parameters, y, record, statistics, training):
        if training or statistics is Statistics.BATCH:
            count = y.values.size // node.input.channels
            mean, sigma = norm.batch_statistics(*norm.channel_sums(y.values), count)
        if training:
            first = node.index not in self.running
            running = self.running.setdefault(node.index, _nothing_yet(node))
            shift = 0 if first else RUNNING_SHIFT  # the first batch is the first average
            norm.update_running(*running, mean, sigma, y.exponent, shift)
        if statistics is not Statistics.BATCH:
            kept = self.adapted if statistics is Statistics.ADAPTED else self.running
            mean, sigma = norm.running_statistics(*kept[node.index], y.exponent)
        bits = self.numerics.activation_bits
        if node.layer.mean_only:
            inverse = norm.inverse_unit(len(mean), y.exponent, bits)
            scale = np.full(len(mean), 1 << norm.PARAMETER_BITS, np.int16)
        else:
            inverse = norm.inverse_sigma(sigma, bits)
            scale = parameters[f"{node.name}.scale"].at(norm.PARAMETER_BITS)
        shift = parameters[f"{node.name}.shift"].at(norm.PARAMETER_BITS)
        constants, frac_bits = norm.forward_constants(mean, inverse, scale, shift, bits)
        record.normalised[node.index] = Normalised(mean, sigma, inverse, scale, constants)
        eighths, pool = node.layer.activation.negative_eighths, node.layer.max_pool

        def kernel(shift, key, largest_code):
            return norm.normalise(y.values, constants, eighths, pool, shift, key, largest_code)

        return self._round_map(node, -frac_bits, kernel, training)

    def _normalise_backward(self, node, y, dz, record, gradients, below):
        state = record.normalised[node.index]
        error, sums, products = norm.activation_error(
            dz.values,
            y.values,
            state.constants,
            node.layer.activation.negative_eighths,
            node.layer.max_pool,
        )
        count = y.values.size // node.input.channels
        constants, frac_bits, scale_gradient, shift_gradient = norm.backward_constants(
            sums,
            products,
            count,
            state.mean,
            state.inverse,
            state.scale,
            self.numerics.activation_bits,
            self.numerics.error_bits,
            node.layer.mean_only,
        )
        exponent = dz.exponent - norm.EIGHTHS
        if not node.layer.mean_only:
            gradients[f"{node.name}.scale"] = (scale_gradient, exponent)
        gradients[f"{node.name}.shift"] = (shift_gradient, exponent)
        if not below:
            return None

        def kernel(shift, key, largest_code):
            return norm.denormalise(error, y.values, constants, shift, key, largest_code)

        return self._round_error(node, exponent - y.exponent - frac_bits, kernel)

    def _average(self, node, x, training):
        reciprocal = pooling.reciprocal(node.input.height * node.input.width)

        def kernel(shift, key, largest_code):
            return pooling.average(x.values, reciprocal, shift, key, largest_code)

        unit = x.exponent - pooling.RECIPROCAL_BITS
        return self._round_map(node, unit, kernel, training)

    def _spread(self, node, dy):
        height, width = node.input.height, node.input.width
        reciprocal = pooling.reciprocal(height * width)

        def kernel(shift, key, largest_code):
            return pooling.spread(dy.values, height, width, reciprocal, shift, key, largest_code)

        return self._round_error(node, dy.exponent - pooling.RECIPROCAL_BITS, kernel)

    def _average_pool(self, node, x, training):
        size, stride = node.layer.size, node.layer.stride

        def kernel(shift, key, largest_code):
            return pooling.average_pool(x.values, size, stride, shift, key, largest_code)

        unit = x.exponent - pooling.RECIPROCAL_BITS
        return self._round_map(node, unit, kernel, training)

    def _average_pool_backward(self, node, dy):
        height, width = node.input.height, node.input.width
        window = node.layer.size, node.layer.stride

        def kernel(shift, key, largest_code):
            arguments = dy.values, height, width, *window, shift, key, largest_code
            return pooling.average_pool_error(*arguments)

        return self._round_error(node, dy.exponent - pooling.RECIPROCAL_BITS, kernel)

    def _max_pool_backward(self, node, x, z, dy):
        window = node.layer.size, node.layer.stride

        def kernel(shift, key, largest_code):
            arguments = dy.values, z.values, x.values, *window, shift, key, largest_code
            return pooling.max_pool_error(*arguments)

        return self._round_error(node, dy.exponent, kernel)

    def _activate(self, node, x, training):
        eighths = node.layer.activation.negative_eighths

        def kernel(shift, key, largest_code):
            return residual.activate(x.values, eighths, shift, key, largest_code)

        return self._round_map(node, x.exponent - norm.EIGHTHS, kernel, training)

    def _add(self, node, a, b, training):
        left_a, left_b, common = residual.alignment(a.exponent, b.exponent)
        eighths = node.layer.activation.negative_eighths

        def kernel(shift, key, largest_code):
            return residual.add(
                a.values, b.values, left_a, left_b, eighths, shift, key, largest_code
            )

        return self._round_map(node, common - norm.EIGHTHS, kernel, training)

    def _slope(self, node, dz, z):
        eighths = node.layer.activation.negative_eighths
        if eighths == 8:
            return dz

        def kernel(shift, key, largest_code):
            return residual.slope_error(dz.values, z.values, eighths, shift, key, largest_code)

        return self._round_error(node, dz.exponent - norm.EIGHTHS, kernel)

    def _sum_errors(self, node, a, b):
        """Errors of a map with two consumers."""
        left_a, left_b, common = residual.alignment(a.exponent, b.exponent)

        def kernel(shift, key, largest_code):
            return residual.add(a.values, b.values, left_a, left_b, 8, shift, key, largest_code)

        return self._round_error(node, common - norm.EIGHTHS, kernel, part=1)


def most_adapted(network: Network) -> int:
    """Images that exact statistics can be taken over: 2**22 values of a channel."""
    sizes = (node.input.height * node.input.width for node in _norms(network))
    return LARGEST_COUNT // max(sizes, default=1)


def _norms(network: Network) -> list[Node]:
    return [node for node in network.nodes if isinstance(node.layer, BatchNorm)]


def _window(node: Node) -> tuple[int, int]:
    """Stride and padding; a linear layer is a 1x1 convolution of a 1x1 map."""
    layer = node.layer
    return (layer.stride, layer.padding) if isinstance(layer, Conv2d) else (1, 0)


def _nothing_yet(node: Node) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of a batch norm before its first batch."""
    return np.zeros(node.input.channels, np.int64), np.zeros(node.input.channels, np.int64)


def _flat(node: Node, values: np.ndarray) -> np.ndarray:
    """The map as a linear layer reads it: (N, 1, 1, H*W*C)."""
    return values.reshape(len(values), 1, 1, -1) if isinstance(node.layer, Linear) else values


def _check(node: Node, last: bool) -> None:
    layer = node.layer
    if last != (isinstance(layer, Linear) and layer.bias):
        raise ValueError(
            "the last layer, and no other, must be a Linear with a bias, "
            f"not {type(layer).__name__} {node.name!r}"
        )
    if isinstance(layer, Conv2d) and layer.padding >= layer.kernel:
        raise ValueError(
            f"padding of layer {node.name!r} must be less than its kernel {layer.kernel}, "
            f"not {layer.padding}"
        )
