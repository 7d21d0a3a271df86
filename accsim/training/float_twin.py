"""The same network in torch floating point: reference for values and gradients.

Needs the package's extra ``float`` (torch). Maps are NCHW inside, as torch wants them; images and
logits are as in the fixed-point network.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from accsim.kernels import norm
from accsim.network import (
    INPUT,
    Activate,
    Activation,
    Add,
    AveragePool,
    BatchNorm,
    Conv2d,
    GlobalAveragePool,
    Linear,
    MaxPool,
    Network,
)
from accsim.training.parameters import Stored

RUNNING_SHARE = 1 / 8  # of a batch in the running statistics, as in fixed point


class FloatTwin(nn.Module):
    """Torch module with the layers and the parameter names of a `Network`.

    Weights keep accsim's HWIO layout: gradients compare without a transposition.
    """

    def __init__(self, network: Network, dtype: torch.dtype = torch.float32, epsilon: float = 1e-5):
        super().__init__()
        self.network = network
        self.share = 1.0  # of a batch in the running statistics: the first is the first average
        self.epsilon = epsilon  # of the batch norms; the fixed-point network has none
        self.tensors = nn.ParameterDict()
        for node in network.nodes:
            if node.weights:
                fan_in = node.weights // node.weight_shape[-1]
                weight = torch.randn(node.weight_shape, dtype=dtype) * (2 / fan_in) ** 0.5
                self._add(f"{node.name}.weight", weight)
            if isinstance(node.layer, BatchNorm):
                channels = node.input.channels
                if not node.layer.mean_only:
                    self._add(f"{node.name}.scale", torch.ones(channels, dtype=dtype))
                self._add(f"{node.name}.shift", torch.zeros(channels, dtype=dtype))
                self.register_buffer(f"{node.name}_mean", torch.zeros(channels, dtype=dtype))
                self.register_buffer(f"{node.name}_variance", torch.ones(channels, dtype=dtype))
            if isinstance(node.layer, Linear) and node.layer.bias:
                bias = torch.zeros(node.layer.out_features, dtype=dtype)
                self._add(f"{node.name}.bias", bias)

    def _add(self, name: str, value: Tensor) -> None:
        self.tensors[_key(name)] = nn.Parameter(value)

    def __getitem__(self, name: str) -> Tensor:
        """Parameter by its accsim name, such as ``conv1a.weight``."""
        return self.tensors[_key(name)]

    def load(self, parameters: dict[str, Stored]) -> None:
        """Take the values of a fixed-point network."""
        with torch.no_grad():
            for name, stored in parameters.items():
                real = stored.values.astype(np.float64) * 2.0**-stored.frac_bits
                self[name].copy_(torch.from_numpy(real))

    def by_layer(self, value: Callable[[str], float]) -> dict[str, float]:
        """`value` of the layer of every tensor, by the tensor's name."""
        return {
            key: value(node.name)
            for node in self.network.nodes
            for kind in ("weight", "scale", "shift", "bias")
            if (key := _key(f"{node.name}.{kind}")) in self.tensors
        }

    def load_statistics(self, other: "FloatTwin") -> None:
        """Take the running statistics of a network of the same layers."""
        with torch.no_grad():
            for name, buffer in other.named_buffers():
                getattr(self, name).copy_(buffer)

    def start_from(self, running: dict[int, tuple[np.ndarray, np.ndarray]]) -> None:
        """Take the running statistics of a fixed-point network, by node; batches move them on."""
        self.share = RUNNING_SHARE
        with torch.no_grad():
            for index, statistics in running.items():
                for kind, words in zip(("mean", "variance"), statistics, strict=True):
                    buffer = getattr(self, f"{self.network.nodes[index].name}_{kind}", None)
                    if buffer is not None:  # some norms keep the mean only
                        buffer.copy_(torch.from_numpy(words * 2.0**-norm.RUNNING_BITS))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, classes] of images [N, H, W, C]."""
        outputs: list[Tensor] = []
        x = images.permute(0, 3, 1, 2)
        for node in self.network.nodes:
            inputs = [x if index == INPUT else outputs[index] for index in node.inputs]
            outputs.append(self._run(node, inputs))
        self.share = RUNNING_SHARE if self.training else self.share
        return outputs[-1].flatten(1)

    def _run(self, node, inputs: list[Tensor]) -> Tensor:
        layer, x = node.layer, inputs[0]
        match layer:
            case Conv2d():
                weight = self[f"{node.name}.weight"].permute(3, 2, 0, 1)
                return functional.conv2d(
                    x, weight, stride=layer.stride, padding=layer.padding, groups=layer.groups
                )
            case Linear():
                rows = x.permute(0, 2, 3, 1).flatten(1)
                y = rows @ self[f"{node.name}.weight"].flatten(0, 2)
                if layer.bias:
                    y = y + self[f"{node.name}.bias"]
                return y[:, :, None, None]
            case BatchNorm():
                y = _activate(self._normalise(node, x), layer.activation)
                return functional.max_pool2d(y, layer.max_pool) if layer.max_pool > 1 else y
            case MaxPool():
                return functional.max_pool2d(x, layer.size, layer.stride)
            case AveragePool():
                return functional.avg_pool2d(x, layer.size, layer.stride)
            case Activate():
                return _activate(x, layer.activation)
            case GlobalAveragePool():
                return x.mean((2, 3), keepdim=True)
            case Add():
                return _activate(inputs[0] + inputs[1], layer.activation)
        raise TypeError(f"layer {node.name!r} must be one of accsim.network's, not {layer!r}")

    def _normalise(self, node, x: Tensor) -> Tensor:
        running, shift = getattr(self, f"{node.name}_mean"), self[f"{node.name}.shift"]
        if node.layer.mean_only:
            mean = x.mean((0, 2, 3)) if self.training else running
            if self.training:
                running.lerp_(mean.detach(), self.share)
            return x + (shift - mean)[:, None, None]
        variance, scale = getattr(self, f"{node.name}_variance"), self[f"{node.name}.scale"]
        if not self.training:
            return functional.batch_norm(x, running, variance, scale, shift, eps=self.epsilon)
        own_mean, own_variance = torch.zeros_like(running), torch.zeros_like(variance)
        y = functional.batch_norm(
            x, own_mean, own_variance, scale, shift, True, momentum=1.0, eps=self.epsilon
        )
        count = x.numel() // len(running)
        running.lerp_(own_mean, self.share)
        variance.lerp_(own_variance * ((count - 1) / count), self.share)  # of the images themselves
        return y


def _key(name: str) -> str:
    return name.replace(".", "_")  # torch reserves the dot


def _activate(x: Tensor, activation: Activation) -> Tensor:
    return functional.leaky_relu(x, activation.negative_eighths / 8)
