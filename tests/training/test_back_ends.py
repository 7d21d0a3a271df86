"""The same training on CPUs with other instructions, each in a process of its own."""

import functools
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from accsim.data.stream import Batch
from accsim.network import Shape
from accsim.numerics import Numerics
from accsim.passes import Blend, Turn
from accsim.training.mean_teacher import MeanTeacher
from models import convnet

HASWELL = {"NUMBA_CPU_NAME": "haswell", "NUMBA_NUM_THREADS": "2"}


@functools.cache
def digest():
    """Hash of student and teacher after a few steps of a ConvNet in 8 bits, and in 16."""
    rng = np.random.default_rng(7)
    seen = hashlib.sha256()
    for numerics in (Numerics(), Numerics(activation_bits=12, error_bits=16, accumulator_bits=48)):
        network = convnet.network(8, image=Shape(16, 16, 3))
        rule = MeanTeacher(confidence_threshold=0.2)
        learner = rule.start(network, numerics, lambda step: Turn(Blend(1, True)), 4, seed=3)
        for _ in range(3):
            images = rng.integers(-90, 91, (3, 10, 16, 16, 3)).astype(np.int8)
            learner.step(Batch(images[0], rng.integers(0, 10, 10), *images[1:], -5, 0, 0))
        for stored in (*learner.student.parameters.values(), *learner.average.stored.values()):
            seen.update(stored.values)
    return seen.hexdigest()


@pytest.mark.parametrize("features", ["", "+avx,+avx2,+sse4.2,+bmi,+bmi2,+fma"])
def test_a_cpu_without_avx512_trains_to_the_same_bits(features):
    """Without features only plain instructions are used; with AVX2, its pair products."""
    environment = {**HASWELL, "NUMBA_CPU_FEATURES": features}
    ran = subprocess.run(
        [sys.executable, "-c", "import test_back_ends as t; print(t.digest())"],
        cwd=Path(__file__).parent,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.strip() == digest()
