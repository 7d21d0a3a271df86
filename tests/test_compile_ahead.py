"""The controller compiles in a process of its own, on the first run only."""

import subprocess
from types import SimpleNamespace

import pytest

from accsim import compile_ahead
from accsim.hardware.dram_recall import advance_recalling


def test_one_burst_compiles_all_that_later_runs_need():
    """The compiled controller is on disk then, for one kind of arguments."""
    compile_ahead.main()
    assert len(advance_recalling.signatures) == 1


def test_a_compiled_controller_starts_no_process(monkeypatch):
    compile_ahead.main()
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("started"))
    with compile_ahead.beside():
        pass


def test_the_first_run_compiles_beside_and_waits_for_nothing(monkeypatch, tmp_path):
    """A process that would run for a minute ends with the block."""
    unseen = SimpleNamespace(
        stats=SimpleNamespace(cache_path=str(tmp_path)),
        py_func=advance_recalling.py_func,
    )
    monkeypatch.setattr(compile_ahead, "advance_recalling", unseen)
    started = []
    popen = subprocess.Popen

    def slow(command, **options):
        assert command[1:] == ["-m", "accsim.compile_ahead"]
        started.append(popen(["sleep", "60"], **options))
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", slow)
    with compile_ahead.beside():
        assert started[0].poll() is None
    assert started[0].returncode is not None
