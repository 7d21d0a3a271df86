"""ConvNet-13, the network of the semi-supervised literature, at any width.

Source: Laine and Aila, "Temporal Ensembling for Semi-Supervised Learning", ICLR 2017, Table 5;
used unchanged by Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017.
The paper's width is 128. Full batch norm as in the PyTorch copies; slope 1/8 instead of 0.1.
"""

from accsim.network import (
    LEAKY_RELU,
    BatchNorm,
    Conv2d,
    GlobalAveragePool,
    Layer,
    Linear,
    Network,
    Shape,
)


def network(width: int = 128, classes: int = 10, image: Shape | None = None) -> Network:
    """ConvNet-13 with `width`, 2 `width` and 4 `width` channels."""
    plan = [  # name, channels, kernel, padding, max_pool
        ("conv1a", width, 3, 1, 1),
        ("conv1b", width, 3, 1, 1),
        ("conv1c", width, 3, 1, 2),
        ("conv2a", 2 * width, 3, 1, 1),
        ("conv2b", 2 * width, 3, 1, 1),
        ("conv2c", 2 * width, 3, 1, 2),
        ("conv3a", 4 * width, 3, 0, 1),
        ("conv3b", 2 * width, 1, 0, 1),
        ("conv3c", width, 1, 0, 1),
    ]
    layers: list[Layer] = []
    for name, channels, kernel, padding, max_pool in plan:
        layers.append(Conv2d(name, channels, kernel, padding=padding))
        layers.append(BatchNorm(name.replace("conv", "norm"), LEAKY_RELU, max_pool))
    layers += [GlobalAveragePool("pool"), Linear("classifier", classes)]
    return Network(f"convnet13_w{width}", image or Shape(32, 32, 3), tuple(layers))
