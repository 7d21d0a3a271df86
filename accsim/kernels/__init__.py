"""What the hardware computes, bit exact: numba on plain arrays; maps are NHWC, weights are HWIO."""
