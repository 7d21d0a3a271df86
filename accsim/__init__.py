"""accsim: what a fixed-point teacher and student learn on an accelerator, and what it costs."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("accsim")
except PackageNotFoundError:  # imported from a checkout that was never installed
    __version__ = "0+unknown"
