"""First run after installation: the memory controller compiles beside the learner, not after it.

Compiled kernels are kept on disk. Where the controller's are not there yet, another process makes
them while this one makes the learner's; whoever needs them sooner makes them itself.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import simpy

from accsim.hardware.dram_controller import DramController
from accsim.hardware.dram_parts import part
from accsim.hardware.dram_recall import advance_recalling


@contextmanager
def beside() -> Iterator[None]:
    """While the block runs, the controller compiles, unless an earlier run has left it compiled."""
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
    """Move one burst: this compiles all that a controller ever runs."""
    env = simpy.Environment()
    controller = DramController(env, part("DDR4_2400_8Gb_x16"))
    controller.transfer(0, 64, is_write=False)
    env.run()
    controller.finish()


if __name__ == "__main__":
    main()
