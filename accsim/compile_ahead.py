"""First run after installation: two processes share the compilation of what a run needs.

Compiled kernels are kept on disk. Where they are not there yet, another process makes the memory
controller's and those that end a training step, while this one makes those that begin it; whoever
needs a kernel sooner makes it itself.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import simpy

from accsim.hardware.dram_controller import DramController
from accsim.hardware.dram_parts import part
from accsim.hardware.dram_recall import advance_recalling
from accsim.kernels import conv2d, update


@contextmanager
def beside() -> Iterator[None]:
    """While the block runs, the other process compiles, unless an earlier run has done so."""
    folder = Path(advance_recalling.stats.cache_path)
    if any(folder.glob(f"*.{advance_recalling.py_func.__name__}-*.nbi")):
        yield
        return
    command = [sys.executable, "-m", "accsim.compile_ahead"]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet) as process:
        try:
            yield
        finally:
            process.kill()


def main() -> None:
    """Move one burst, update one word and multiply one pixel, in the default formats."""
    env = simpy.Environment()
    controller = DramController(env, part("DDR4_2400_8Gb_x16"))
    controller.transfer(0, 64, is_write=False)
    env.run()
    controller.finish()
    word, gradient = np.zeros(1, np.int16), np.zeros(1, np.int32)
    update.momentum_sgd(word, word.copy(), gradient, 0, 0, 0, 0, 1, 1, 0, 0)
    update.moving_average(word, word.copy(), 1, 7, 0, 0, 1, 0, word.copy())
    pixel = np.zeros((1, 1, 1, 1), np.int8)
    conv2d.backward_weight(pixel, pixel, 1, 1, 0)


if __name__ == "__main__":
    main()
