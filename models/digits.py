"""The digits network of self-ensembling domain adaptation.

Source: French, Mackiewicz and Fisher, "Self-ensembling for visual domain adaptation", ICLR 2018,
network mnist-bn-32-64-256; batch norm follows the hidden linear layer too, in place of dropout.
"""

from accsim.network import RELU, BatchNorm, Conv2d, Linear, Network, Shape


def network(width: int = 32, classes: int = 10, image: Shape | None = None) -> Network:
    """Three convolutions of `width`, 2 `width` and 2 `width` channels, two linear layers."""
    return Network(
        f"digits_w{width}",
        image or Shape(28, 28, 1),
        (
            Conv2d("conv1", width, 5),
            BatchNorm("norm1", RELU, max_pool=2),
            Conv2d("conv2", 2 * width, 3),
            BatchNorm("norm2", RELU),
            Conv2d("conv3", 2 * width, 3),
            BatchNorm("norm3", RELU, max_pool=2),
            Linear("hidden", 8 * width, bias=False),
            BatchNorm("norm4", RELU),
            Linear("classifier", classes),
        ),
    )
