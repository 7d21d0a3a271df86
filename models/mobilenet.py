"""MobileNet for small images: depthwise convolutions over space, pointwise ones over channels.

Source: Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
Applications", 2017, table 1, for 32x32 images: the stem does not stride, and the 14x14 stage has
two layers.
"""

from accsim.network import (
    RELU,
    BatchNorm,
    Conv2d,
    GlobalAveragePool,
    Layer,
    Linear,
    Network,
    Shape,
)


def network(width: int = 16, classes: int = 10, image: Shape | None = None) -> Network:
    """A stem of `width` channels and seven separable layers of up to 16 `width` channels."""
    plan = [(2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (8, 1), (16, 2)]  # channels, stride
    layers: list[Layer] = [Conv2d("stem", width, 3, padding=1), BatchNorm("stem_norm", RELU)]
    channels = width
    for number, (widths, stride) in enumerate(plan, 1):
        layers += [
            Conv2d(f"depth{number}", channels, 3, stride, padding=1, groups=channels),
            BatchNorm(f"depth{number}_norm", RELU),
            Conv2d(f"point{number}", widths * width, 1),
            BatchNorm(f"point{number}_norm", RELU),
        ]
        channels = widths * width
    layers += [GlobalAveragePool("pool"), Linear("classifier", classes)]
    return Network(f"mobilenet_w{width}", image or Shape(32, 32, 3), tuple(layers))
