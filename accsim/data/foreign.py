"""Frames of another data set, brought to the shape of the network's images in exact integers."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, final

import numpy as np

from accsim.data.base import DataError, Dataset
from accsim.data.disturbance import Change, FrameKind
from accsim.data.pool import in_random_order
from accsim.network import Shape

LUMA = np.array([299, 587, 114])  # thousandths of red, green and blue: ITU-R BT.601


@dataclass(frozen=True)
class Foreign(Change):
    """A training image of another data set takes the frame's place.

    They come in a random order; none comes again before all others could have come.
    """

    dataset: str | Path  # a known name, or the folder of a user's images

    kind: ClassVar[FrameKind]

    @property
    def datasets(self):
        return (self.dataset,)

    def check(self, dataset):
        super().check(dataset)
        fit(dataset.others[self.dataset].train_images[:1], dataset.train_images.shape[1:])

    def apply(self, images, kinds, numbers, key, dataset):
        chosen = dataset.others[self.dataset].train_images[self._chosen(numbers, key, dataset)]
        return fit(chosen, images.shape[1:]), np.full_like(kinds, self.kind)

    def _chosen(self, numbers, key: int, dataset: Dataset) -> np.ndarray:
        """Places of the images that the frames `numbers` become."""
        return in_random_order(numbers, len(dataset.others[self.dataset].train_images), key)


@final
class OutOfDistribution(Foreign):
    """Frames of another data set that show none of the classes."""

    kind = FrameKind.OUT_OF_DISTRIBUTION

    def truth(self, labels, numbers, key, dataset):
        return np.full_like(labels, -1)


@final
class OtherDomain(Foreign):
    """Frames of another data set that show the same classes, as USPS shows those of MNIST."""

    kind = FrameKind.OTHER_DOMAIN

    def check(self, dataset):
        super().check(dataset)
        other = dataset.others[self.dataset]
        made_up = other.stand_in or dataset.stand_in  # loudly; only the labels must fit
        if made_up and len(other.classes) == len(dataset.classes):
            return
        if other.classes != dataset.classes:
            raise DataError(
                f"classes of {other.name} must be those of {dataset.name} "
                f"({', '.join(dataset.classes)}), not {', '.join(other.classes)}"
            )

    def truth(self, labels, numbers, key, dataset):
        return dataset.others[self.dataset].train_labels[self._chosen(numbers, key, dataset)]

    def test(self, dataset):
        other = dataset.others[self.dataset]
        return fit(other.test_images, dataset.test_images.shape[1:]), other.test_labels


def resized(dataset: Dataset, image: Shape) -> Dataset:
    """`dataset` with images of the shape `image`, as by `fit`."""
    shape = image.height, image.width, image.channels
    train, test = (fit(images, shape) for images in (dataset.train_images, dataset.test_images))
    return replace(dataset, train_images=train, test_images=test)


def fit(images: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Images of any size as uint8[N, H, W, C] of `shape`, (H, W, C).

    Grey becomes colour by repeating it, colour becomes grey by its luma, and sizes change by the
    triangle filter: bilinear interpolation where images grow, its filter widened where they shrink.
    Rounded half up, once for colour and once for size. Raises DataError for channels that are
    neither grey nor colour.
    """
    before, (height, width, channels) = images.shape[3], shape
    if before != channels and {before, channels} != {1, 3}:
        raise DataError(
            f"channels of frames of another data set must be {channels}, or 1 or 3 where the "
            f"network's are 3 or 1, not {before}"
        )
    if before > channels:
        images = ((images @ LUMA + 500) // 1000)[..., None]
    if images.shape[1:3] != (height, width):
        images = _resized(images, height, width)
    return np.repeat(images, channels // images.shape[3], axis=3).astype(np.uint8)


def _resized(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """(N, h, w, C) -> int64[N, H, W, C]."""
    rows = triangle_weights(images.shape[1], height)
    columns = triangle_weights(images.shape[2], width)
    # Sums of integers below 2**53: exact in float64, in any order, and several times faster.
    tall = np.tensordot(rows.astype(np.float64), images, (1, 1))  # (H, N, w, C)
    total = np.tensordot(columns.astype(np.float64), tall, (1, 2))  # (W, H, N, C)
    total = total.transpose(2, 1, 0, 3).astype(np.int64)  # (N, H, W, C)
    weight = rows.sum(1)[:, None, None] * columns.sum(1)[:, None]  # (H, W, 1)
    return (2 * total + weight) // (2 * weight)


def triangle_weights(before: int, after: int) -> np.ndarray:
    """What each of `before` pixels in a row counts in each of `after`: int64[after, before].

    The middles of pixels, in units of ``1 / (2 before after)`` of the row, are odd multiples of
    `after` and `before`; a weight falls linearly to 0 at the larger distance of two neighbours.
    """
    old = (2 * np.arange(before) + 1) * after
    new = (2 * np.arange(after) + 1) * before
    return np.maximum(2 * max(before, after) - np.abs(new[:, None] - old), 0)
