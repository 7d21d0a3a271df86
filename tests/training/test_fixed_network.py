"""Whole networks in fixed point against the float twin: logits and every gradient."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from accsim.kernels import loss
from accsim.kernels.fixed_point import narrowing_shift
from accsim.kernels.lfsr import LaneRegisters
from accsim.network import (
    IDENTITY,
    LEAKY_RELU,
    RELU,
    Activate,
    AveragePool,
    BatchNorm,
    Conv2d,
    GlobalAveragePool,
    Linear,
    MaxPool,
    Network,
    Shape,
)
from accsim.numerics import Numerics, Rounding, WeightScaling
from accsim.training import parameters
from accsim.training.fixed_network import FixedNetwork, Statistics
from accsim.training.float_twin import FloatTwin
from accsim.training.parameters import Map, Stored
from accsim.training.supervised import round_error
from models import convnet, digits, mlp, mobilenet, resnet

NETWORKS = {
    "convnet": convnet.network(16, image=Shape(16, 16, 3)),
    "resnet": resnet.network(image=Shape(16, 16, 3)),
    "digits": digits.network(16, image=Shape(20, 20, 1)),
    "mlp": mlp.network((48, 32), image=Shape(8, 8, 1)),
    "pools": Network(
        "pools",
        Shape(15, 15, 3),
        (
            Conv2d("conv1", 16, 3, padding=1),
            BatchNorm("norm1", IDENTITY),
            MaxPool("overlapping", 3, 2),  # 7x7
            Activate("leaky", LEAKY_RELU),
            Conv2d("conv2", 16, 3, padding=1),
            BatchNorm("norm2", RELU),
            AveragePool("mean", 3, 2),  # 3x3
            Linear("classifier", 10),
        ),
    ),
    "mean-only": Network(
        "mean-only",
        Shape(16, 16, 3),
        (
            Conv2d("conv1", 16, 3, padding=1),
            BatchNorm("norm1", LEAKY_RELU, max_pool=2, mean_only=True),
            Conv2d("conv2", 16, 3),
            BatchNorm("norm2", RELU, mean_only=True),
            Conv2d("conv3", 16, 1),
            BatchNorm("norm3", mean_only=True),
            GlobalAveragePool("pool"),
            Linear("classifier", 10),
        ),
    ),
}
GROUPED = {
    "mobilenet": mobilenet.network(4, image=Shape(16, 16, 3)),
    "grouped": Network(
        "grouped",
        Shape(12, 12, 3),
        (
            Conv2d("conv1", 16, 3, padding=1),
            BatchNorm("norm1", LEAKY_RELU),
            Conv2d("four", 24, 3, stride=2, padding=1, groups=4),
            BatchNorm("norm2", LEAKY_RELU),
            Conv2d("depth", 48, 3, groups=24),  # two outputs an input
            BatchNorm("norm3", LEAKY_RELU),
            GlobalAveragePool("pool"),
            Linear("classifier", 10),
        ),
    ),
}


class StraightThrough(FloatTwin):
    """Float64 derivatives of every layer, taken at the maps of a fixed-point forward pass."""

    def __init__(self, network, start, record):
        super().__init__(network, torch.float64, epsilon=1e-12)
        self.load(start)
        self.record = record
        with torch.no_grad():
            for name, operand in record.operands.items():
                finer = 0 if operand.finer is None else operand.finer  # of HWIO's last axis
                self[name].copy_(torch.tensor(operand.values * 2.0 ** (operand.exponent - finer)))

    def _run(self, node, inputs):
        norm = isinstance(node.layer, BatchNorm)
        y = self._decided(node, inputs[0]) if norm else super()._run(node, inputs)
        saved = self.record.outputs[node.index]
        values = saved.values.reshape(-1, *_shape(node.output)) * 2.0**saved.exponent
        return y + (torch.tensor(values).permute(0, 3, 1, 2) - y).detach()

    def _decided(self, node, x):
        """Batch norm whose signs and pool winners are those of the fixed-point pass.

        A value within rounding of zero, or of its neighbour in a pool, may fall on either side.
        """
        layer = replace(node.layer, activation=IDENTITY, max_pool=1)
        y = super()._run(replace(node, layer=layer), [x])
        factor, addend = self.record.normalised[node.index].constants.astype(np.int64)
        codes = self.record.input_of(node).values.astype(np.int64)
        reached = torch.tensor((factor * codes + addend).astype(float)).permute(0, 3, 1, 2)
        y = y * torch.where(reached > 0, 1, node.layer.activation.negative_eighths / 8)
        pool = node.layer.max_pool
        if pool == 1:
            return y
        _, winners = torch.nn.functional.max_pool2d(reached, pool, return_indices=True)
        return y.flatten(2).gather(2, winners.flatten(2)).view(winners.shape)


def _shape(shape):
    return shape.height, shape.width, shape.channels


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_those_of_autograd(name):
    """The rounding of errors is unbiased: the mean over many keys is the exact gradient."""
    network = NETWORKS[name]
    rng = np.random.default_rng(1)
    images = np.clip(rng.normal(0, 30, (48, *_shape(network.image))), -127, 127).astype(np.int8)
    labels = rng.integers(0, 10, 48)
    start = parameters.initial(network, Numerics(), key := 5)
    fixed = FixedNetwork(network, Numerics(), key)
    for _ in range(3):  # let the exponents settle
        record = fixed.forward(start, Map(images, -5))
    twin = StraightThrough(network, start, record)
    exact_images = torch.tensor(images / 32, requires_grad=True)
    torch.nn.functional.cross_entropy(twin(exact_images), torch.tensor(labels)).backward()

    wide = loss.cross_entropy_error(loss.softmax(record.logits, loss.EXP2), labels)
    total = dict.fromkeys((*start, "images"), 0.0)
    for step in range(50):
        gradients = fixed.backward(record, error := round_error(wide, 8, 3 + step), None, step)
        assert set(gradients) == set(start)
        of_images = fixed.image_error(record, error, None, step)
        gradients["images"] = of_images.values, of_images.exponent
        for tensor, (values, exponent) in gradients.items():
            total[tensor] = total[tensor] + values * 2.0**exponent / 50
    for tensor, real in total.items():
        exact = (exact_images if tensor == "images" else twin[tensor]).grad.numpy()
        assert _cosine(real, exact) > 0.99, tensor
        assert 0.95 < np.linalg.norm(real) / np.linalg.norm(exact) < 1.05, tensor


@pytest.mark.parametrize(
    ("name", "weight_scaling"),
    [
        *((name, WeightScaling.TENSOR) for name in NETWORKS if name not in ("digits", "mlp")),
        *((name, WeightScaling.TENSOR) for name in GROUPED),
        *((name, WeightScaling.CHANNEL) for name in ("resnet", "grouped")),
    ],
)
def test_gradients_of_16_bit_formats_are_those_of_float64(name, weight_scaling):
    """The formulas are right, not only consistent: 1e-3 of autograd at the same maps.

    Errors round stochastically: to nearest, the small errors that batch norm spreads over the
    losers of a max-pool round to nothing all at once (conv1c differs by 3e-3 then).
    """
    network = (NETWORKS | GROUPED)[name]
    classes = ("weight", "activation", "error", "gradient")
    bits = {f"{name}_bits": 16 for name in classes}
    numerics = Numerics(**bits, accumulator_bits=64, weight_scaling=weight_scaling)
    rng = np.random.default_rng(1)
    images = np.clip(rng.normal(0, 4000, (48, *_shape(network.image))), -32767, 32767)
    images = images.astype(np.int16)
    labels = rng.integers(0, 10, 48)
    start = parameters.initial(network, numerics, key := 5)
    fixed = FixedNetwork(network, numerics, key)
    for _ in range(3):
        record = fixed.forward(start, Map(images, -12))
    twin = StraightThrough(network, start, record)
    logits = twin(exact_images := torch.tensor(images / 4096.0, requires_grad=True))
    torch.nn.functional.cross_entropy(logits, torch.tensor(labels)).backward()
    wide = _exact_error(logits.detach(), labels)
    total = dict.fromkeys((*start, "images"), 0.0)
    for step in range(8):
        gradients = fixed.backward(record, error := round_error(wide, 16, step), None, step)
        of_images = fixed.image_error(record, error, None, step)
        gradients["images"] = of_images.values, of_images.exponent
        for tensor, (values, exponent) in gradients.items():
            total[tensor] = total[tensor] + values * 2.0**exponent / 8
    for tensor, real in total.items():
        exact = (exact_images if tensor == "images" else twin[tensor]).grad.numpy()
        size = np.linalg.norm(exact)
        if f"{tensor[:-5]}shift" in total:  # a scale before a depthwise layer has no gradient
            size = max(size, np.linalg.norm(twin[f"{tensor[:-5]}shift"].grad.numpy()))
        assert np.linalg.norm(real - exact) / size < 1e-3, tensor


@pytest.mark.parametrize("name", GROUPED)
def test_logits_of_grouped_layers_are_those_of_float64(name):
    network = GROUPED[name]
    bits = {"weight_bits": 16, "activation_bits": 16, "error_bits": 16, "accumulator_bits": 64}
    rng = np.random.default_rng(1)
    images = rng.integers(-9000, 9001, (48, *_shape(network.image))).astype(np.int16)
    start = parameters.initial(network, Numerics(**bits), key := 5)
    logits = FixedNetwork(network, Numerics(**bits), key).forward(start, Map(images, -12)).logits
    twin = FloatTwin(network, torch.float64)
    twin.load(start)
    exact = twin(torch.tensor(images / 4096)).detach().numpy()
    assert np.linalg.norm(logits / 4096 - exact) / np.linalg.norm(exact) < 2e-3


def _exact_error(logits, labels):
    """Error of the logits, 30 fractional bits, without the integer softmax's rounding."""
    onehot = torch.nn.functional.one_hot(torch.tensor(labels), 10)
    return np.round((torch.softmax(logits, 1) - onehot).numpy() / len(labels) * 2**30).astype(int)


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_follow_the_float_twin(name):
    network = NETWORKS[name]
    rng = np.random.default_rng(1)
    images = np.clip(rng.normal(0, 30, (48, *_shape(network.image))), -127, 127).astype(np.int8)
    start = parameters.initial(network, Numerics(), key := 5)
    fixed = FixedNetwork(network, Numerics(), key)
    logits = fixed.forward(start, Map(images, -5)).logits
    twin = FloatTwin(network, torch.float64)
    twin.load(start)
    assert _cosine(logits, twin(torch.tensor(images / 32)).detach().numpy()) > 0.975


def _cosine(a, b):
    a, b = a.astype(np.float64).ravel(), b.ravel()
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_outputs_of_unequal_size_keep_their_bits_with_exponents_of_their_own(network):
    """A batch norm makes up for channels 8 or 64 times smaller, if their weights have bits.

    Maps have one exponent: 16 bits, so that it is the weights' 8 that decide.
    """
    rng = np.random.default_rng(1)
    images = rng.integers(-60, 61, (48, 8, 8, 3)).astype(np.int8)
    start = parameters.initial(network, Numerics(), 5)
    for name in ("conv1.weight", "conv2.weight"):
        start[name].values[:] >>= np.resize([0, 3, 6], start[name].values.shape[-1])
    twin = FloatTwin(network, torch.float64, epsilon=1e-12)
    twin.load(start)
    exact = twin(torch.tensor(images / 32)).detach().numpy()
    found = []
    for weight_scaling in WeightScaling:
        bits = {"activation_bits": 16, "accumulator_bits": 48}
        fixed = FixedNetwork(network, Numerics(**bits, weight_scaling=weight_scaling), 5)
        found.append(_cosine(fixed.forward(start, Map(images, -5)).logits, exact))
    assert found[0] < 0.97 < 0.99 < found[1], found


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("backward", [False, True])
def test_each_output_is_narrowed_by_its_own_largest_weight(groups, backward):
    """Weight by weight, in whole numbers; forward outputs are K, backward C, group by group."""
    inputs, outputs, rng = 2, 12 // groups, np.random.default_rng(3)  # of a group
    values = rng.integers(-30000, 30001, (3, 3, inputs, 12)).astype(np.int16)
    values >>= np.resize([0, 2, 5, 13], 12)
    stored = Stored(values, 14, int(np.abs(values).max()))
    unused = LaneRegisters.seeded(1, 32, 0)
    narrowed = stored.narrow_outputs(8, Rounding.HALF_UP, (0,), unused, groups, backward)
    words = {}
    for (*_, c, k), word in np.ndenumerate(values):
        output = k // outputs * inputs + c if backward else k
        words.setdefault(output, []).append(int(word))
    wanted = {o: narrowing_shift(max(map(abs, of_o)), 8) for o, of_o in words.items()}
    coarsest = max(wanted.values())
    assert narrowed.exponent == coarsest - 14
    assert narrowed.finer.tolist() == [min(coarsest - wanted[o], 7) for o in sorted(wanted)]
    for (r, s, c, k), word in np.ndenumerate(values):
        output = k // outputs * inputs + c if backward else k
        shift = coarsest - int(narrowed.finer[output])
        assert narrowed.values[r, s, c, k] == (int(word) + (1 << shift >> 1)) >> shift


def test_chosen_rows_stand_for_their_batch(network):
    """Half of a batch that holds every image twice: the bits of the batch that holds them once."""
    rng = np.random.default_rng(2)
    once = rng.integers(-127, 128, (16, 8, 8, 3)).astype(np.int8)
    wide = rng.integers(-(2**28), 2**28, (16, 3))
    start = parameters.initial(network, Numerics(), 7)
    found = []
    for images, rows in ((once, None), (np.concatenate([once, once]), np.arange(16))):
        fixed = FixedNetwork(network, Numerics(), 7)
        record = fixed.forward(start, Map(images, -5))
        found.append(fixed.backward(record, round_error(wide, 8, 3), rows, step=1))
    for tensor, (values, exponent) in found[0].items():
        assert np.array_equal(values, found[1][tensor][0]), tensor
        assert exponent == found[1][tensor][1]


def test_evaluation_changes_nothing_and_ignores_batches(network):
    rng = np.random.default_rng(2)
    images = rng.integers(-127, 128, (30, 8, 8, 3)).astype(np.int8)
    start = parameters.initial(network, Numerics(), 7)
    fixed = FixedNetwork(network, Numerics(), 7)
    fixed.forward(start, Map(images, -5))
    before = dict(fixed.exponents)
    fixed.tally.take()
    together = fixed.forward(start, Map(images, -5), Statistics.RUNNING, False).logits
    alone = fixed.forward(start, Map(images[4:5], -5), Statistics.RUNNING, False).logits
    assert np.array_equal(together[4:5], alone)
    assert fixed.exponents == before
    assert not fixed.tally.take().tensors


def test_adapted_statistics_are_those_of_the_images(network):
    """They replace the running ones in ADAPTED passes, and nothing else moves."""
    rng = np.random.default_rng(2)
    images = rng.integers(-60, 61, (40, 8, 8, 3)).astype(np.int8)
    other = Map((images // 2 + 50).astype(np.int8), -5)
    start = parameters.initial(network, Numerics(), 7)
    fixed = FixedNetwork(network, Numerics(), 7)
    fixed.forward(start, Map(images, -5))
    running = fixed.forward(start, other, Statistics.RUNNING, False).logits
    with pytest.raises(ValueError, match=r"BATCH or RUNNING before adapt\(\), not ADAPTED"):
        fixed.forward(start, other, Statistics.ADAPTED, False)
    fixed.adapt(start, other)
    record = fixed.forward(start, other, Statistics.ADAPTED, False)
    for node in network.nodes:
        if isinstance(node.layer, BatchNorm):
            y = record.input_of(node)
            real = y.values.reshape(-1, node.input.channels) * 2.0**y.exponent
            mean, variance = (words / 2.0**32 for words in fixed.adapted[node.index])
            assert np.allclose(mean, real.mean(0), atol=2.0**y.exponent / 100)
            assert np.allclose(variance, real.var(0), rtol=1e-2)
    own = fixed.forward(start, other, Statistics.BATCH, False).logits
    assert _cosine(record.logits, own) > 0.9999 > 0.99 > _cosine(running, own)
    assert np.array_equal(fixed.forward(start, other, Statistics.RUNNING, False).logits, running)
    alone = fixed.forward(start, Map(other.values[3:4], -5), Statistics.ADAPTED, False).logits
    assert np.array_equal(alone, record.logits[3:4])


def test_too_many_images_to_adapt_to_are_refused(network):
    fixed = FixedNetwork(network, Numerics(), 7)
    images = np.broadcast_to(np.int8(0), (65537, 8, 8, 3))
    with pytest.raises(ValueError, match="at most 65536 for maps of this size, not 65537"):
        fixed.adapt(parameters.initial(network, Numerics(), 7), Map(images, -5))


def test_a_narrow_gradient_is_the_wide_one_rounded(network):
    """Every element lies within one step of its format's exponent; no code beyond the largest."""
    wide, narrow = (FixedNetwork(network, Numerics(gradient_bits=bits), key=5) for bits in (32, 6))
    start = parameters.initial(network, Numerics(), 5)
    rng = np.random.default_rng(3)
    images = rng.integers(-90, 91, (12, *_shape(network.image))).astype(np.int8)
    error = Map(rng.integers(-90, 91, (12, 1, 1, network.classes)).astype(np.int8), -9)
    found = [
        fixed.backward(fixed.forward(start, Map(images, -5)), error, None, 1)
        for fixed in (wide, narrow)
    ]
    for name in start:
        (exact, exponent), (codes, step) = found[0][name], found[1][name]
        if name.endswith(".weight"):
            assert np.abs(codes).max() <= 31
            assert step > exponent
        assert np.abs(codes * 2.0**step - exact * 2.0**exponent).max() < 2.0**step


def clipped(fixed):
    """Codes clipped since the last call."""
    return fixed.tally.take().total("saturated")


def test_exponents_follow_the_step_before(network):
    """Images twice as bright saturate at the old exponents and not at those that follow."""
    images = np.random.default_rng(2).integers(-63, 64, (30, 8, 8, 3)).astype(np.int8)
    start = parameters.initial(network, Numerics(), 7)
    fixed = FixedNetwork(network, Numerics(), 7)
    fixed.forward(start, Map(images, -5))
    assert clipped(fixed) == 0
    brighter = Map((2 * images).astype(np.int8), -4)
    fixed.forward(start, brighter)
    assert clipped(fixed) > 0
    for _ in range(3):  # each layer settles once the layer before has
        clipped(fixed)
        fixed.forward(start, brighter)
    assert clipped(fixed) == 0


def test_a_hidden_bias_is_refused():
    network = Network("bad", Shape(4, 4, 1), (Linear("hidden", 5), Linear("classifier", 3)))
    with pytest.raises(ValueError, match="the last layer, and no other, must be a Linear"):
        FixedNetwork(network, Numerics(), 0)
