"""A multilayer perceptron: linear layers with batch norm and ReLU."""

from accsim.network import RELU, BatchNorm, Layer, Linear, Network, Shape


def network(
    hidden: tuple[int, ...] = (256, 128), classes: int = 10, image: Shape | None = None
) -> Network:
    """Perceptron with the hidden widths of `hidden`."""
    layers: list[Layer] = []
    for number, width in enumerate(hidden, 1):
        layers.append(Linear(f"linear{number}", width, bias=False))
        layers.append(BatchNorm(f"norm{number}", RELU))
    layers.append(Linear("classifier", classes))
    name = "mlp_" + "_".join(map(str, hidden))
    return Network(name, image or Shape(28, 28, 1), tuple(layers))
