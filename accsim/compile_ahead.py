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
from accsim.kernels import conv2d, norm, update


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
    """Move one burst, and take a step's last kernels over one word or map, in default formats."""
    env = simpy.Environment()
    controller = DramController(env, part("DDR4_2400_8Gb_x16"))
    controller.transfer(0, 64, is_write=False)
    env.run()
    controller.finish()
    word, gradient = np.zeros(1, np.int16), np.zeros(1, np.int32)
    update.momentum_sgd(word, word.copy(), gradient, 0, 0, 0, 0, 1, 1, 0, 0)
    update.moving_average(word, word.copy(), 1, 7, 0, 0, 1, 0, word.copy())
    codes = np.zeros((1, 2, 2, 1), np.int8)
    conv2d.backward_weight(codes, codes, 1, 1, 0)
    constants = np.zeros((3, 1), np.int32)
    error, *_ = norm.activation_error(codes[:, :1, :1].copy(), codes, constants[:2], 1, pool=2)
    norm.denormalise(error, codes, constants, 0, 0, 127)


if __name__ == "__main__":
    main()
