"""Speed of the fixed-point kernels against torch, paired in one process.

Prints two tables and writes them as JSON. Each figure is a median of rounds in which the rivals
take turns, so that a change of the machine's speed meets both; CPU time, and wall time in the JSON.

A convolution's share of the peak is taken in rounds of its own, in which the peak and the layer's
convolutions take turns: as in a training step, a part of the operands is still in the caches.
`share_beside_torch` is the same share in the rounds with torch, whose operands of four times the
bytes leave nothing there. Errors are rounded stochastically, as they are by default; beside that
stands half up, which draws no random bits.

    python benchmarks/kernels.py [--threads 1] [--rounds 7] [--json FILE] [--quick]
"""

import itertools
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import numba
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from accsim.data.stream import Batch
from accsim.kernels import conv2d
from accsim.kernels.augment import IMAGE_BITS
from accsim.kernels.gemm import LANES, ROWS, WORD, multiply_wide_tile
from accsim.network import BatchNorm, Conv2d, GlobalAveragePool, Linear, Network
from accsim.numerics import Numerics
from accsim.passes import Blend, Turn
from accsim.training.mean_teacher import MeanTeacher
from accsim.training.supervised import Supervised
from models import convnet

LAYERS = [  # inputs, outputs, size, kernel, padding, at width 128; divided by 4 at width 32
    (128, 128, 32, 3, 1),
    (128, 256, 16, 3, 1),
    (256, 256, 16, 3, 1),
    (256, 512, 8, 3, 0),
    (512, 256, 6, 1, 0),
    (256, 128, 6, 1, 0),
]


def paired(rivals: dict[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, float]]:
    """Median (CPU, wall) seconds of each rival; they take turns, after one round unmeasured."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in rivals}
    for number in range(rounds + 1):
        for name, work in rivals.items():
            cpu, wall = time.process_time(), time.perf_counter()
            work()
            spent = time.process_time() - cpu, time.perf_counter() - wall
            if number:
                times[name].append(spent)
    return {
        name: (statistics.median(t[0] for t in taken), statistics.median(t[1] for t in taken))
        for name, taken in times.items()
    }


def torch_network(network: Network) -> nn.Sequential:
    """The same chain of layers as a torch user would write it, in its fastest memory layout."""
    layers: list[nn.Module] = []
    for node in network.nodes:
        match node.layer:
            case Conv2d() as layer:
                shape = node.input.channels, layer.out_channels, layer.kernel, layer.stride
                layers.append(nn.Conv2d(*shape, padding=layer.padding, bias=False))
            case BatchNorm() as layer:
                layers.append(nn.BatchNorm2d(node.input.channels))
                layers.append(nn.LeakyReLU(layer.activation.negative_eighths / 8, inplace=True))
                if layer.max_pool > 1:
                    layers.append(nn.MaxPool2d(layer.max_pool))
            case GlobalAveragePool():
                layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
            case Linear() as layer:
                layers.append(nn.Linear(node.input.size, layer.out_features))
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


class TorchLearner:
    """Supervised or mean-teacher steps in torch: forward, loss, backward, SGD, moving average."""

    def __init__(self, network: Network, mean_teacher: bool, autocast: bool):
        self.student = torch_network(network)
        self.teacher = torch_network(network) if mean_teacher else None
        self.optimizer = torch.optim.SGD(
            self.student.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4
        )
        self.autocast = autocast

    def step(self, batch: Batch) -> None:
        """One training step on the images of `batch`."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.autocast):
            self._step(batch)

    def _step(self, batch):
        labels = torch.from_numpy(batch.labels)
        images = _floats(np.concatenate([batch.labelled, batch.student_view]))
        logits = self.student(images)
        loss = nn.functional.cross_entropy(logits[: len(labels)], labels)
        if self.teacher is not None:
            with torch.no_grad():
                wanted = self.teacher(_floats(batch.teacher_view))
            distance = (logits[len(labels) :] - wanted).square().mean(1)
            loss = loss + 0.3 * distance.mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        if self.teacher is not None:
            with torch.no_grad():
                pairs = zip(self.teacher.parameters(), self.student.parameters(), strict=True)
                for mean, new in pairs:
                    mean.lerp_(new, 1 / 128)


def _floats(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 32


def random_batch(labelled: int, unlabelled: int) -> Batch:
    """Images without meaning; a step takes the same time on them as on any."""
    rng = np.random.default_rng(0)

    def draw(count):
        return rng.integers(-60, 61, (count, 32, 32, 3)).astype(np.int8)

    views = draw(unlabelled), draw(unlabelled)
    return Batch(draw(labelled), rng.integers(0, 10, labelled), *views, -IMAGE_BITS, 0, 0)


@numba.njit
def _multiply_in_l1(left, offsets, right, tile, steps, times):
    for _ in range(times):
        multiply_wide_tile(
            left,
            0,
            offsets.ctypes.data,
            WORD,
            offsets.ctypes.data,
            right.ctypes.data,
            2 * LANES * WORD,
            1,
            steps,
            tile.ctypes.data,
            2 * LANES * WORD,
            tile.ctypes.data,
        )


def peak_rival(steps: int = 64, times: int = 2000) -> tuple[Callable[[], object], float]:
    """The micro-kernel alone, all operands in the first-level cache, and how many GMAC it does."""
    left = np.ones(ROWS * WORD * steps, np.uint8)
    offsets = np.arange(ROWS) * WORD * steps
    right = np.ones(2 * LANES * WORD * steps, np.int8)
    tile = np.zeros((ROWS, 2 * LANES), np.int32)
    work = partial(_multiply_in_l1, left, offsets, right, tile, steps, times)
    return work, times * ROWS * steps * 2 * LANES * WORD / 1e9


def step_rows(widths, batches, rounds: int) -> list[dict]:
    """Whole training steps: milliseconds of CPU, and ratios to torch float32."""
    rows = []
    for width in widths:
        network = convnet.network(width)
        for batch_size in batches:
            for method in ("supervised", "mean teacher"):
                mean_teacher = method == "mean teacher"
                labelled = batch_size // 4 if mean_teacher else batch_size
                batch = random_batch(labelled, batch_size - labelled)
                rule = MeanTeacher(confidence_threshold=0.0) if mean_teacher else Supervised()
                rivals = {
                    "float32": TorchLearner(network, mean_teacher, autocast=False),
                    "bfloat16": TorchLearner(network, mean_teacher, autocast=True),
                }
                for name, numerics in FORMATS.items():
                    rivals[name] = rule.start(network, numerics, follow, 10**6, seed=0)
                spent = paired(
                    {name: partial(rival.step, batch) for name, rival in rivals.items()}, rounds
                )
                rows.append(
                    {
                        "width": width,
                        "batch": batch_size,
                        "method": method,
                        **{f"{name}_cpu_ms": 1e3 * cpu for name, (cpu, _) in spent.items()},
                        **{f"{name}_wall_ms": 1e3 * wall for name, (_, wall) in spent.items()},
                        **{f"{n}_ratio": spent[n][0] / spent["float32"][0] for n in FORMATS},
                    }
                )
    return rows


FORMATS = {
    "int8": Numerics(),
    "int16_gradients": Numerics(error_bits=16, accumulator_bits=48),
}


def follow(step: int) -> Turn:
    """The moving average, stored after every step."""
    return Turn(Blend(1, True))


def convolution_rows(width: int, batch: int, rounds: int) -> list[dict]:
    """The three convolutions of every layer in GMAC/s of CPU time, beside oneDNN's."""
    rng = np.random.default_rng(0)
    at_peak, peak_gmacs = peak_rival()
    rows = []
    for inputs, outputs, size, kernel, padding in LAYERS:
        inputs, outputs = inputs * width // 128, outputs * width // 128
        out = size + 2 * padding - kernel + 1
        x = rng.integers(-127, 128, (batch, size, size, inputs)).astype(np.int8)
        w = rng.integers(-127, 128, (kernel, kernel, inputs, outputs)).astype(np.int8)
        dy = rng.integers(-127, 128, (batch, out, out, outputs)).astype(np.int8)
        xt, wt, dyt = (
            torch.from_numpy(a).float().permute(order).contiguous(memory_format=torch.channels_last)
            for a, order in ((x, (0, 3, 1, 2)), (w, (3, 2, 0, 1)), (dy, (0, 3, 1, 2)))
        )
        window = [1, 1], [padding] * 2, [1, 1], False, [0, 0], 1
        torch_back = partial(torch.ops.aten.convolution_backward, dyt, xt, wt, None, *window)
        ours = {
            "forward": partial(conv2d.forward, x, w, 1, padding, 8, -1, 127),
            "backward_data": partial(
                conv2d.backward_data, dy, w, 1, padding, size, size, 8, 5, 127
            ),
            "backward_data, half up": partial(
                conv2d.backward_data, dy, w, 1, padding, size, size, 8, -1, 127
            ),
            "backward_weight": partial(conv2d.backward_weight, x, dy, kernel, 1, padding),
        }
        theirs = {
            "forward": partial(nn.functional.conv2d, xt, wt, padding=padding),
            "backward_data": partial(torch_back, [True, False, False]),
            "backward_weight": partial(torch_back, [False, True, False]),
        }
        alone = paired({"peak": at_peak, **ours}, rounds)
        torches = {f"torch {name}": work for name, work in theirs.items()}
        spent = paired({**ours, **torches}, rounds)
        peak = peak_gmacs / alone["peak"][0]
        gmacs = batch * out * out * kernel**2 * inputs * outputs / 1e9
        for name in ours:
            rate = gmacs / alone[name][0]
            rows.append(
                {
                    "batch": batch,
                    "layer": f"{inputs}->{outputs} {size}x{size} {kernel}x{kernel}",
                    "pass": name,
                    "gmac_per_s": rate,
                    "share_of_peak": rate / peak,
                    "share_beside_torch": gmacs / spent[name][0] / peak,
                    "torch_gmac_per_s": gmacs / spent[f"torch {name.partition(',')[0]}"][0],
                }
            )
    return rows


def show(title: str, rows: list[dict]) -> None:
    """A table for the terminal."""
    table = Table(title=title)
    for heading in rows[0]:
        if not heading.endswith("wall_ms"):
            table.add_column(heading)
    for row in rows:
        shown = [v for k, v in row.items() if not k.endswith("wall_ms")]
        table.add_row(*(f"{v:.3f}" if isinstance(v, float) else str(v) for v in shown))
    Console(width=150).print(table)


@click.command()
@click.option("--threads", default=1, show_default=True, help="Threads of both rivals.")
@click.option("--rounds", default=7, show_default=True, help="Rounds that a median is taken of.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="Where to write the rows.")
@click.option("--quick", is_flag=True, help="Width 32 and batch 32 only.")
def main(threads, rounds, path, quick):
    """Compare the fixed-point kernels with torch in this process."""
    numba.set_num_threads(threads)
    torch.set_num_threads(threads)
    widths, batches = ((32,), (32,)) if quick else ((128, 32), (32, 100))
    convolutions = [
        row
        for width, batch in itertools.product(widths, batches)
        for row in convolution_rows(width, batch, rounds)
    ]
    show(f"convolutions, {threads} thread(s)", convolutions)
    steps = step_rows(widths, batches, rounds)
    show(f"whole training steps, CPU milliseconds, {threads} thread(s)", steps)
    if path:
        rows = {"threads": threads, "convolutions": convolutions, "steps": steps}
        path.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
