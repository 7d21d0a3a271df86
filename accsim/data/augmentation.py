"""What a stream does to the student's view of frames beyond shifting and mirroring them."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import betaincinv

from accsim.kernels import distort
from accsim.kernels.fixed_point import random_key, random_words

OPERATIONS, PLACES, PARTNERS, SHARES = range(4)  # labels of random keys
SHARE_BITS = 8  # fractional bits of the share that an image keeps of itself


@dataclass(frozen=True)
class Strong:
    """Random operations on the image, one after another, and a grey square over it.

    Each operation is drawn of the dozen of `accsim.kernels.distort` and of what is `added`, its
    amount from 0 to `magnitude` of 30 in either direction. Source: Sohn et al., "FixMatch", NeurIPS
    2020, section 2.3 (RandAugment with random magnitudes, then cutout).
    """

    operations: int = 2
    magnitude: int = 20
    cutout: int = 12  # side of the square, pixels; 0: none
    added: tuple[int, ...] = ()  # RandAugment has distort.EQUALIZE and distort.SHARPNESS too

    def __post_init__(self):
        for name, most in (("operations", 16), ("magnitude", distort.MOST), ("cutout", 1024)):
            value = getattr(self, name)
            if not isinstance(value, int) or not 0 <= value <= most:
                raise ValueError(f"{name} must be a whole number of 0 to {most}, not {value}")
        if not set(self.added) <= {distort.EQUALIZE, distort.SHARPNESS}:
            raise ValueError(
                f"added must be of distort's EQUALIZE ({distort.EQUALIZE}) and SHARPNESS "
                f"({distort.SHARPNESS}), not {self.added}"
            )

    def distort(self, images: np.ndarray, key: int) -> np.ndarray:
        """Before they are normalised: uint8[N, H, W, C], image i by (key, i) alone."""
        count = len(images) * self.operations
        words = random_words(2 * count, random_key(key, OPERATIONS))
        kinds, amounts = words.astype(np.int64).reshape(len(images), self.operations, 2).T
        amounts = amounts % (2 * self.magnitude + 1) - self.magnitude
        choice = np.array([*range(distort.EQUALIZE), *self.added])
        drawn = choice[kinds % len(choice)]
        return distort.distort(images, drawn.T.copy(), amounts.T.copy())

    def cover(self, images: np.ndarray, key: int) -> None:
        """After they are normalised: int8[N, H, W, C], in place."""
        if self.cutout:
            words = random_words(2 * len(images), random_key(key, PLACES)).astype(np.int64)
            centres = words.reshape(-1, 2) % images.shape[1:3]
            distort.cut_out(images, centres, self.cutout)


@dataclass(frozen=True)
class Blending:
    """Which image each one is blended with, and how much it keeps of itself."""

    partners: np.ndarray  # int64[N], places in the batch, each once
    shares: np.ndarray  # int64[N], 8 fractional bits

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Blended with their partners', rounded half up: integers [N, ...] of the same type."""
        own = self.shares.reshape(-1, *[1] * (values.ndim - 1))
        wide = own * values + ((1 << SHARE_BITS) - own) * values[self.partners]
        return (wide + (1 << SHARE_BITS >> 1) >> SHARE_BITS).astype(values.dtype)


@dataclass(frozen=True)
class Mixup:
    """Every image blended with another one of the batch; the share is of Beta(alpha, alpha).

    A learner that asks for consistency blends the labels in the same way. Sources: Zhang et al.,
    "mixup: Beyond empirical risk minimization", ICLR 2018, section 2; of frames and their labels
    Verma et al., "Interpolation consistency training for semi-supervised learning", IJCAI 2019.
    """

    alpha: float = 1.0  # 1: all shares alike; towards 0: 0 or 1

    def __post_init__(self):
        if not 0.05 <= self.alpha <= 100:
            raise ValueError(f"alpha must be 0.05 to 100, not {self.alpha}")

    @cached_property
    def _quantiles(self) -> np.ndarray:
        """The distribution's 4,096 mid-quantiles: int64, 8 fractional bits."""
        places = (np.arange(4096) + 0.5) / 4096
        exact = betaincinv(self.alpha, self.alpha, places)
        return np.round(exact * (1 << SHARE_BITS)).astype(np.int64)

    def draw(self, images: int, key: int) -> Blending:
        """Partners and shares of so many images."""
        order = np.argsort(random_words(images, random_key(key, PARTNERS)), kind="stable")
        places = random_words(images, random_key(key, SHARES)) >> np.uint32(20)
        return Blending(order, self._quantiles[places])
