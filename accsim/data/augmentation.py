"""What a stream does to the images of one view beyond shifting and mirroring them."""

from dataclasses import dataclass

import numpy as np

from accsim.kernels import distort
from accsim.kernels.fixed_point import random_key, random_words

OPERATIONS, PLACES = range(2)  # labels of random keys


@dataclass(frozen=True)
class Strong:
    """Random operations on the image, one after another, and a grey square over it.

    Each operation is drawn of the dozen of `accsim.kernels.distort`, its amount from 0 to
    `magnitude` of 30 in either direction. Source: Sohn et al., "FixMatch", NeurIPS 2020, section
    2.3 (RandAugment with random magnitudes, then cutout).
    """

    operations: int = 2
    magnitude: int = 20
    cutout: int = 12  # side of the square, pixels; 0: none

    def __post_init__(self):
        for name, most in (("operations", 16), ("magnitude", distort.MOST), ("cutout", 1024)):
            value = getattr(self, name)
            if not isinstance(value, int) or not 0 <= value <= most:
                raise ValueError(f"{name} must be a whole number of 0 to {most}, not {value}")

    def distort(self, images: np.ndarray, key: int) -> np.ndarray:
        """Before they are normalised: uint8[N, H, W, C], image i by (key, i) alone."""
        count = len(images) * self.operations
        words = random_words(2 * count, random_key(key, OPERATIONS))
        kinds, amounts = words.astype(np.int64).reshape(len(images), self.operations, 2).T
        amounts = amounts % (2 * self.magnitude + 1) - self.magnitude
        return distort.distort(images, (kinds % distort.KINDS).T.copy(), amounts.T.copy())

    def cover(self, images: np.ndarray, key: int) -> None:
        """After they are normalised: int8[N, H, W, C], in place."""
        if self.cutout:
            words = random_words(2 * len(images), random_key(key, PLACES)).astype(np.int64)
            centres = words.reshape(-1, 2) % images.shape[1:3]
            distort.cut_out(images, centres, self.cutout)
