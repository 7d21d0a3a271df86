"""The harness itself, on a module and a driver of a few lines."""

import ctypes
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import verilated

DOUBLER = """
module doubler #(parameter int BITS = 8) (input logic [BITS-1:0] d, output logic [BITS-1:0] q);
  halves #(.BITS(BITS)) inner (.d(BITS'(d * 2'd2)), .q);
endmodule
"""
HALVES = """
module halves #(parameter int BITS = 8) (input logic [BITS-1:0] d, output logic [BITS-1:0] q);
  assign q = d;
endmodule
"""
DRIVER = """
#include <memory>
#include "Vtop.h"
extern "C" int run(int d) {
  const auto top = std::make_unique<Vtop>();
  top->d = d;
  top->eval();
  return top->q;
}
"""


@pytest.fixture
def sources(build, tmp_path, monkeypatch):
    """A folder of two modules and a driver; beside it a cache with nothing but the runtime."""
    folder, cache = tmp_path / "sources", tmp_path / "cache"
    runtime = verilated.runtime()
    for made in (folder, cache):
        made.mkdir()
    (cache / runtime.name).symlink_to(runtime)
    for name, text in (("doubler.sv", DOUBLER), ("halves.sv", HALVES), ("driver.cpp", DRIVER)):
        (folder / name).write_text(text)
    monkeypatch.setattr(verilated, "SOURCES", folder)
    monkeypatch.setenv("ACCSIM_RTL_CACHE", str(cache))
    return folder


def libraries(sources):
    return sorted((sources.parent / "cache").glob("*.so"))


def test_a_library_is_built_once_for_its_sources_and_parameters(build, sources):
    assert build("doubler", {"BITS": 8}, "driver.cpp").run(200) == 400 % 256
    (first,) = libraries(sources)
    made = first.stat().st_mtime_ns
    assert build("doubler", {"BITS": 8}, "driver.cpp").run(3) == 6
    assert libraries(sources) == [first]
    assert first.stat().st_mtime_ns == made
    assert build("doubler", {"BITS": 4}, "driver.cpp").run(9) == 18 % 16
    assert len(libraries(sources)) == 2
    (sources / "halves.sv").write_text(HALVES.replace("q = d", "q = d + 1'b1"))
    assert build("doubler", {"BITS": 8}, "driver.cpp").run(5) == 11
    assert len(libraries(sources)) == 3


def test_builders_at_the_same_time_share_one_library(build, sources):
    with ThreadPoolExecutor(2) as pool:
        built = list(pool.map(lambda _: build("doubler", {}, "driver.cpp"), range(2)))
    assert [library.run(ctypes.c_int(5)) for library in built] == [10, 10]
    assert len(libraries(sources)) == 1


def test_a_wrong_source_is_named_with_the_tools_own_words(build, sources):
    (sources / "halves.sv").write_text("module halves (input logic d; endmodule")
    with pytest.raises(RuntimeError, match=r"verilator_bin failed:\n.*syntax error"):
        build("doubler", {}, "driver.cpp")
    assert not libraries(sources)


@pytest.mark.parametrize(("ci", "status", "outcome"), [("", 0, "SKIPPED"), ("1", 1, "ERROR")])
def test_without_a_compiler_a_test_is_skipped_and_in_ci_it_fails(ci, status, outcome):
    command = [sys.executable, "-m", "pytest", __file__, "-k", "wrong_source"]
    environment = {**os.environ, "PATH": "", "CI": ci}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ran.returncode == status, ran.stdout
    assert outcome in ran.stdout
    assert "RTL is built with g++, which is not installed" in ran.stdout
