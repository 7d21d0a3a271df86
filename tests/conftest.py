"""A whole workload small enough for a test: stripes in pictures, a tiny network, a real board."""

from textwrap import dedent

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

# compilation counts as time of the first example, and CI machines are shared
settings.register_profile("accsim", deadline=None)
settings.load_profile("accsim")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Folder of 16x16 pictures: horizontal stripes, vertical stripes."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for split, count in (("train", 60), ("test", 20)):
        for axis, name in enumerate(("rows", "columns")):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                wave = 60 * np.sign(np.sin((np.arange(16) + rng.integers(8)) * np.pi / 4 + 0.1))
                lines = wave[:, None] if axis == 0 else wave[None, :]
                pixels = 128 + lines[..., None] + rng.normal(0, 20, (16, 16, 3))
                image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
                image.save(folder / split / name / f"{number}.png")
    return folder


@pytest.fixture
def write_workload(tmp_path, pictures):
    """Write a workload file; keyword arguments replace its choices, as source text."""

    def write(name="tiny.py", **choices):
        text = {
            "network": "convnet.network(width=4, classes=2, image=Shape(16, 16, 3))",
            "accelerator": "boards.PYNQ_Z2",
            "dataflow": "OutputStationary()",
            "schedule": "LayerwiseEma()",
            "algorithm": "MeanTeacher(teacher_shift=4)",
            "data": "SemiSupervisedStream(dataset=Path(PICTURES), labels=20, labelled_per_batch=8,"
            " unlabelled_per_batch=8, translate=1, flip=False, frames_per_second=1000,"
            " buffer_frames=16)",
            "steps": "6",
            "evaluate_every": "4",
            **choices,
        }
        header = f"""\
            from dataclasses import replace
            from pathlib import Path
            from accsim.data.stream import SemiSupervisedStream
            from accsim.dataflow.output_stationary import OutputStationary
            from accsim.dataflow.weight_stationary import WeightStationary
            from accsim.hardware import boards
            from accsim.hardware.buffer import BufferSpec
            from accsim.network import LEAKY_RELU, BatchNorm, Conv2d, Linear, Network, Shape
            from accsim.numerics import Numerics, Rounding, WeightScaling
            from accsim.schedule import DeferredWriteback, LayerwiseEma, SeparateEma
            from accsim.training.base import Sgd
            from accsim.training.mean_teacher import MeanTeacher
            from accsim.training.supervised import Supervised
            from accsim.workload import Workload
            from models import convnet, mlp, mobilenet, resnet
            PICTURES = {str(pictures)!r}
            """
        arguments = "".join(f"    {key}={value},\n" for key, value in text.items())
        path = tmp_path / name
        path.write_text(dedent(header) + f"workload = Workload(\n{arguments})\n")
        return path

    return write
