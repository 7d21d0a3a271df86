"""Shapes, words and products of layers worked by hand, and layers that do not fit."""

import pytest

from accsim.network import (
    RELU,
    Activate,
    AveragePool,
    BatchNorm,
    Conv2d,
    Linear,
    MaxPool,
    Network,
    Shape,
)


def test_shapes_and_words_by_hand():
    network = Network(
        "small",
        Shape(11, 9, 3),
        (
            Conv2d("conv", 4, 3, stride=2, padding=1),  # 6x5
            BatchNorm("norm", RELU, max_pool=2),  # 3x2
            Activate("again", RELU),
            MaxPool("max", 2, 1),  # 2x1
            AveragePool("mean", 1, 2),  # 1x1
            Linear("fc", 5),
        ),
    )
    shapes = [str(node.output) for node in network.nodes]
    assert shapes == ["6x5x4", "3x2x4", "3x2x4", "2x1x4", "1x1x4", "1x1x5"]
    assert network.parameters == 9 * 3 * 4 + 2 * 4 + 4 * 5 + 5
    assert network.macs == 6 * 5 * 9 * 3 * 4 + 4 * 5


def test_a_separable_pair_by_hand():
    """Depthwise 9 weights a channel, pointwise 6 x 4; 24 pixels of each."""
    layers = (Conv2d("depth", 6, 3, padding=1, groups=6), Conv2d("point", 4, 1))
    network = Network("pair", Shape(4, 6, 6), layers)
    assert [node.weight_shape for node in network.nodes] == [(3, 3, 1, 6), (1, 1, 6, 4)]
    assert network.macs == 24 * (9 * 6 + 6 * 4)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            lambda: Conv2d("conv", 6, 1, groups=4),
            "groups of layer 'conv' must divide its 6 output channels, not be 4",
        ),
        (
            lambda: Conv2d("conv", 6, 1, groups=3),
            "groups of layer 'conv' must divide its 2 input channels, not be 3",
        ),
        (lambda: MaxPool("pool", 0, 1), "size of layer 'pool' must be at least 1, not 0"),
        (lambda: AveragePool("pool", 2, 0), "stride of layer 'pool' must be at least 1, not 0"),
        (lambda: MaxPool("pool", 5, 1), "size of layer 'pool' must be at most the map 4x8x2"),
        (lambda: Conv2d("conv", 2, 5), "kernel of layer 'conv' must fit its padded input 4x8x2"),
    ],
)
def test_layers_that_do_not_fit_are_refused(layer, message):
    with pytest.raises(ValueError, match=message):
        Network("bad", Shape(4, 8, 2), (layer(),))
