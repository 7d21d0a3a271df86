"""What the hardware computes, bit exact: numba on plain arrays; maps are NHWC, weights are HWIO."""

import os

# Threads that wait for each other sleep instead of spinning: a busy core costs its share of the
# time, not a multiple of it. Read by OpenMP when numba starts its threads; the user's choice wins.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
