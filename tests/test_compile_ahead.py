"""Part of the kernels compiles in a process of its own, on the first run only."""

import subprocess
from types import SimpleNamespace

import numpy as np
import pytest

from accsim import compile_ahead
from accsim.data.stream import Batch
from accsim.hardware.dram_recall import advance_recalling
from accsim.kernels import conv2d, norm, operands, pooling, update
from accsim.network import Shape
from accsim.numerics import Numerics
from accsim.passes import Blend, Turn
from accsim.training.mean_teacher import MeanTeacher
from models import convnet


def test_a_training_step_needs_the_kernels_in_the_same_types():
    """What the other process leaves on disk is what the learner looks for, and nothing else."""
    network = convnet.network(4, image=Shape(16, 16, 3))
    rule = MeanTeacher(confidence_threshold=0.0)
    learner = rule.start(network, Numerics(), lambda step: Turn(Blend(1, True)), 2, seed=0)
    images = np.zeros((4, 16, 16, 3), np.int8)
    learner.step(Batch(images, np.zeros(4, np.int64), images, images, -5, 0, 0))
    kernels = [
        advance_recalling, update._sgd_chunk, update._average_chunk, conv2d.correlate,
        operands.interleave_images, conv2d.output_sums, norm._activation_error, norm._denormalise,
        pooling.route,
    ]  # fmt: skip
    before = [set(kernel.signatures) for kernel in kernels]
    compile_ahead.main()
    after = [set(kernel.signatures) for kernel in kernels]
    assert before[1:] == after[1:]
    assert all(after)


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
