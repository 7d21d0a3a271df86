"""Small residual network for 32x32 images.

Source: He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016,
section 4.2: three stages of `blocks` two-convolution blocks; projection shortcuts.
"""

from accsim.network import (
    IDENTITY,
    RELU,
    Add,
    BatchNorm,
    Branch,
    Conv2d,
    GlobalAveragePool,
    Layer,
    Linear,
    Network,
    Shape,
)


def network(
    blocks: int = 1, width: int = 16, classes: int = 10, image: Shape | None = None
) -> Network:
    """ResNet of 6 `blocks` + 2 layers with `width`, 2 `width` and 4 `width` channels."""
    layers: list[Layer] = [Conv2d("stem", width, 3, padding=1), BatchNorm("stem_norm", RELU)]
    source, channels = "stem_norm", width
    for stage in range(3):
        for block in range(blocks):
            name = f"stage{stage + 1}{chr(ord('a') + block)}"
            stride = 2 if stage and not block else 1
            out = width << stage
            shortcut = source
            if stride != 1 or out != channels:
                shortcut = f"{name}_shortcut_norm"
                layers += [
                    Conv2d(f"{name}_shortcut", out, 1, stride),
                    BatchNorm(shortcut, IDENTITY),
                    Branch(f"{name}_branch", source),
                ]
            layers += [
                Conv2d(f"{name}_conv1", out, 3, stride, padding=1),
                BatchNorm(f"{name}_norm1", RELU),
                Conv2d(f"{name}_conv2", out, 3, padding=1),
                BatchNorm(f"{name}_norm2", IDENTITY),
                Add(f"{name}_add", shortcut, RELU),
            ]
            source, channels = f"{name}_add", out
    layers += [GlobalAveragePool("pool"), Linear("classifier", classes)]
    return Network(f"resnet{6 * blocks + 2}_w{width}", image or Shape(32, 32, 3), tuple(layers))
