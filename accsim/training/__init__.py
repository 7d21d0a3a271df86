"""Learning rules over the fixed-point kernels; values only, no clock."""
