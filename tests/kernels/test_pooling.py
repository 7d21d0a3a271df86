"""Global average pooling, forward and backward, against exact integers."""

import numpy as np
import reference

from accsim.kernels import pooling


def test_reciprocal_is_rounded_half_up():
    for count in (1, 2, 3, 36, 64, 1000):
        assert pooling.reciprocal(count) == (2 * 65536 + count) // (2 * count)


def test_average_is_exact(rng):
    x = rng.integers(-127, 128, (5, 6, 6, 11)).astype(np.int8)
    wide = x.astype(np.int64).sum((1, 2), keepdims=True) * pooling.reciprocal(36)
    for key in (-1, 9):
        z, largest, saturated = pooling.average(x, pooling.reciprocal(36), 14, key, 127)
        assert np.array_equal(z, reference.rounded_map(wide, 14, key, 127))
        assert largest == np.abs(wide).max()
    assert saturated == 0


def test_spread_is_exact(rng):
    dz = rng.integers(-127, 128, (4, 1, 1, 9)).astype(np.int8)
    wide = np.broadcast_to(dz.astype(np.int64) * pooling.reciprocal(20), (4, 4, 5, 9))
    dx, largest, _ = pooling.spread(dz, 4, 5, pooling.reciprocal(20), 9, 3, 127)
    assert np.array_equal(dx, reference.rounded_map(wide, 9, 3, 127))
    assert largest == np.abs(wide).max()
