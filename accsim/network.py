"""Networks as lists of layers: shapes, multiply-accumulates and words; no weights.

A layer is what the hardware runs as one piece: a convolution on the PE array, or one pass of the
vector unit (batch norm with its activation and its pooling, or one of these alone). Maps are NHWC,
weights are HWIO.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from math import prod

INPUT = -1  # the producer index of the images themselves


@dataclass(frozen=True)
class Shape:
    """One sample's map: height x width x channels."""

    height: int
    width: int
    channels: int

    @property
    def size(self) -> int:
        """Words of one sample."""
        return self.height * self.width * self.channels

    def __str__(self):
        return f"{self.height}x{self.width}x{self.channels}"


@dataclass(frozen=True)
class Activation:
    """``x`` where positive, ``x * negative_eighths / 8`` elsewhere: one shift and one add."""

    negative_eighths: int

    def __post_init__(self):
        if not 0 <= self.negative_eighths <= 8:
            raise ValueError(f"negative_eighths must be 0 to 8, not {self.negative_eighths}")


IDENTITY = Activation(8)
RELU = Activation(0)
LEAKY_RELU = Activation(1)  # slope 1/8, the power of two nearest to the usual 0.1


@dataclass(frozen=True)
class Layer(ABC):
    """A named layer; it reads the layer before it."""

    name: str

    @abstractmethod
    def output_shape(self, shape: Shape) -> Shape:
        """Shape of the output map for an input map of `shape`; ValueError if it cannot be."""

    def weight_shape(self, shape: Shape) -> tuple[int, ...]:
        """Shape of the weights that the PE array multiplies by; empty if there are none."""
        return ()

    def macs(self, shape: Shape) -> int:
        """Multiply-accumulates of one sample's forward pass."""
        return 0


@dataclass(frozen=True)
class Conv2d(Layer):
    """Convolution without bias (a batch norm follows): weights (kernel, kernel, in, out).

    With `groups`, as many convolutions side by side: each has its own channels of the input and of
    the output, in order, and the weights are (kernel, kernel, in / groups, out). As many groups as
    input channels make it depthwise.
    """

    out_channels: int
    kernel: int = 3
    stride: int = 1
    padding: int = 0
    groups: int = 1

    def __post_init__(self):
        for name, least in (
            ("out_channels", 1),
            ("kernel", 1),
            ("stride", 1),
            ("padding", 0),
            ("groups", 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(
                    f"{name} of layer {self.name!r} must be at least {least}, "
                    f"not {getattr(self, name)}"
                )
        if self.out_channels % self.groups:
            raise ValueError(
                f"groups of layer {self.name!r} must divide its {self.out_channels} output "
                f"channels, not be {self.groups}"
            )

    def output_shape(self, shape):
        if shape.channels % self.groups:
            raise ValueError(
                f"groups of layer {self.name!r} must divide its {shape.channels} input channels, "
                f"not be {self.groups}"
            )
        height = (shape.height + 2 * self.padding - self.kernel) // self.stride + 1
        width = (shape.width + 2 * self.padding - self.kernel) // self.stride + 1
        if height < 1 or width < 1:
            raise ValueError(
                f"kernel of layer {self.name!r} must fit its padded input {shape}, "
                f"not {self.kernel}x{self.kernel} with padding {self.padding}"
            )
        return Shape(height, width, self.out_channels)

    def weight_shape(self, shape):
        return (self.kernel, self.kernel, shape.channels // self.groups, self.out_channels)

    def macs(self, shape):
        return self.output_shape(shape).size * self.kernel**2 * (shape.channels // self.groups)


@dataclass(frozen=True)
class Linear(Layer):
    """Fully connected layer on the flattened map: weights (1, 1, in, out), bias optional."""

    out_features: int
    bias: bool = True

    def output_shape(self, shape):
        return Shape(1, 1, self.out_features)

    def weight_shape(self, shape):
        return (1, 1, shape.size, self.out_features)

    def macs(self, shape):
        return shape.size * self.out_features


@dataclass(frozen=True)
class BatchNorm(Layer):
    """Normalise, scale, shift, activate and max-pool in one pass of the vector unit.

    `mean_only`: the mean is subtracted and nothing is divided; there is no scale.
    Source: Salimans and Kingma, "Weight Normalization", NeurIPS 2016, section 4.
    """

    activation: Activation = IDENTITY
    max_pool: int = 1  # pool size and stride
    mean_only: bool = False

    def output_shape(self, shape):
        if min(shape.height, shape.width) < self.max_pool:
            raise ValueError(
                f"max_pool of layer {self.name!r} must be at most the map {shape}, "
                f"not {self.max_pool}"
            )
        return Shape(shape.height // self.max_pool, shape.width // self.max_pool, shape.channels)


@dataclass(frozen=True)
class Add(Layer):
    """Residual sum of the layer before and of the output of layer `other`, then an activation."""

    other: str
    activation: Activation = IDENTITY

    def output_shape(self, shape):
        return shape


@dataclass(frozen=True)
class Branch(Layer):
    """Continue from the output of layer `source` instead of the layer before (a shortcut)."""

    source: str

    def output_shape(self, shape):
        return shape


@dataclass(frozen=True)
class Activate(Layer):
    """An activation by itself."""

    activation: Activation

    def output_shape(self, shape):
        return shape


@dataclass(frozen=True)
class Pool(Layer):
    """Square windows `stride` apart, reduced by channel; windows may overlap, none is padded."""

    size: int
    stride: int

    def __post_init__(self):
        for name in ("size", "stride"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} of layer {self.name!r} must be at least 1, not {getattr(self, name)}"
                )

    def output_shape(self, shape):
        if min(shape.height, shape.width) < self.size:
            raise ValueError(
                f"size of layer {self.name!r} must be at most the map {shape}, not {self.size}"
            )
        height = (shape.height - self.size) // self.stride + 1
        width = (shape.width - self.size) // self.stride + 1
        return Shape(height, width, shape.channels)


@dataclass(frozen=True)
class MaxPool(Pool):
    """Largest value of every window; a batch norm with `max_pool` does it in the same pass."""


@dataclass(frozen=True)
class AveragePool(Pool):
    """Mean of every window."""


@dataclass(frozen=True)
class GlobalAveragePool(Layer):
    """Mean over the map of every channel."""

    def output_shape(self, shape):
        return Shape(1, 1, shape.channels)


@dataclass(frozen=True)
class Node:
    """A layer in its place: where its inputs come from and the shapes it works on."""

    index: int
    layer: Layer
    inputs: tuple[int, ...]  # producers' indices; INPUT is the images
    input: Shape
    output: Shape

    @property
    def name(self) -> str:
        return self.layer.name

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return self.layer.weight_shape(self.input)

    @property
    def groups(self) -> int:
        """Products side by side that the PE array makes of this layer."""
        return self.layer.groups if isinstance(self.layer, Conv2d) else 1

    @property
    def weights(self) -> int:
        """Words of the weights; 0 for a layer without."""
        return prod(self.weight_shape) if self.weight_shape else 0

    @property
    def vector_words(self) -> int:
        """Words of the per-channel parameters: scale and shift of a batch norm, or a bias."""
        if isinstance(self.layer, BatchNorm):
            return (1 if self.layer.mean_only else 2) * self.input.channels
        if isinstance(self.layer, Linear) and self.layer.bias:
            return self.layer.out_features
        return 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one sample's forward pass."""
        return self.layer.macs(self.input)

    def trains(self, frozen: Collection[str]) -> bool:
        """Whether it has parameters, and is none of the `frozen` layers."""
        return self.weights + self.vector_words > 0 and self.name not in frozen


@dataclass(frozen=True)
class Network:
    """A named list of layers on images of one shape; shapes are resolved at birth.

    Raises ValueError for an unknown or repeated layer name and for shapes that do not fit.
    """

    name: str
    image: Shape
    layers: tuple[Layer, ...] = field(repr=False)

    def __post_init__(self):
        if not self.layers:
            raise ValueError(f"network {self.name!r} must have at least one layer, not none")
        _ = self.nodes

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """The layers that compute, in order of execution (a Branch only redirects)."""
        nodes: list[Node] = []
        places: dict[str, int] = {}
        previous = INPUT

        def output(index: int) -> Shape:
            return self.image if index == INPUT else nodes[index].output

        def place(name: str, wanted_by: str) -> int:
            if name not in places:
                raise ValueError(
                    f"layer {wanted_by!r} must name an earlier layer, not {name!r}; "
                    f"known: {', '.join(places) or 'none'}"
                )
            return places[name]

        for layer in self.layers:
            if layer.name in places:
                raise ValueError(f"layer names must be unique, not {layer.name!r} twice")
            if isinstance(layer, Branch):
                previous = place(layer.source, layer.name)
                continue
            inputs: tuple[int, ...] = (previous,)
            if isinstance(layer, Add):
                other = place(layer.other, layer.name)
                if output(other) != output(previous):
                    raise ValueError(
                        f"layer {layer.name!r} must add maps of one shape, "
                        f"not {output(previous)} and {output(other)}"
                    )
                inputs = (previous, other)
            shape = output(previous)
            nodes.append(Node(len(nodes), layer, inputs, shape, layer.output_shape(shape)))
            previous = places[layer.name] = len(nodes) - 1
        return tuple(nodes)

    def trainable(self, pattern: str = "*", choice: str = "layers") -> tuple[str, ...]:
        """Layers with parameters whose names match a `pattern`, as of file names.

        Raises ValueError where there is none, for the user's `choice`.
        """
        names = [node.name for node in self.nodes if node.trains(())]
        found = tuple(name for name in names if fnmatchcase(name, pattern))
        if not found:
            raise ValueError(
                f"{choice} must name layers with parameters of {self.name}, "
                f"but {pattern!r} matches none of {', '.join(names)}"
            )
        return found

    def asked_errors(self, frozen: Collection[str] = (), images: bool = False) -> frozenset[int]:
        """Places of the layers whose output's error a layer that trains needs: it, or one below.

        `frozen` are names of layers that do not train. What lies below the lowest layer that does
        has no backward work, unless the error of the `images` is wanted too.
        """
        asked: set[int] = {INPUT} if images else set()
        for node in self.nodes:
            if node.trains(frozen) or asked.intersection(node.inputs):
                asked.add(node.index)
        return frozenset(asked)

    @property
    def classes(self) -> int:
        """Outputs of the last layer."""
        return self.nodes[-1].output.size

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one sample's forward pass."""
        return sum(node.macs for node in self.nodes)

    @property
    def parameters(self) -> int:
        """Words of all weights, scales, shifts and biases."""
        return sum(node.weights + node.vector_words for node in self.nodes)
