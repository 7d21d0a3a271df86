"""A small problem that every learning rule can solve, and the schedule-free teacher."""

import numpy as np
import pytest

from accsim.data.base import Dataset
from accsim.network import (
    LEAKY_RELU,
    BatchNorm,
    Conv2d,
    GlobalAveragePool,
    Linear,
    Network,
    Shape,
)
from accsim.passes import Blend, Turn


@pytest.fixture
def network():
    """Two convolutions on 8x8 colour images, 3 classes."""
    return Network(
        "small",
        Shape(8, 8, 3),
        (
            Conv2d("conv1", 16, 3, padding=1),
            BatchNorm("norm1", LEAKY_RELU, max_pool=2),
            Conv2d("conv2", 16, 3),
            BatchNorm("norm2", LEAKY_RELU),
            GlobalAveragePool("pool"),
            Linear("classifier", 3),
        ),
    )


@pytest.fixture
def dataset():
    """Stripes along rows, along columns, and neither, in noise."""
    rng = np.random.default_rng(3)

    def draw(count):
        labels = rng.integers(0, 3, count)
        phase = rng.integers(0, 4, count)
        wave = np.array([60, 60, -60, -60])[(np.arange(8)[None] + phase[:, None]) % 4]
        images = rng.normal(128, 40, (count, 8, 8, 3))
        images += np.where((labels == 0)[:, None, None], wave[:, :, None], 0)[..., None]
        images += np.where((labels == 1)[:, None, None], wave[:, None, :], 0)[..., None]
        return np.clip(images, 0, 255).astype(np.uint8), labels

    return Dataset("stripes", "made by the test", False, ("row", "column", "none"),
                   *draw(600), *draw(300))  # fmt: skip


@pytest.fixture
def follow():
    """The moving average, stored after every step."""
    return lambda step: Turn(Blend(1, True))


class StoppedClock:
    """A machine that takes no time of its own."""

    def __init__(self):
        self.now_ps = 0

    def wait_until(self, ps):
        self.now_ps = max(self.now_ps, ps)


@pytest.fixture
def clock():
    return StoppedClock()
