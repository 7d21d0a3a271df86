"""Training steps of the digits network with every product and every stored word made by RTL.

The same learner runs twice: on the kernels, and on the verilated PE array and vector unit, which
take the kernels' place where the learner calls them. What the one makes is what its next layer and
its next step work on, so a single wrong bit spreads. Batch norms, pooling and the loss stay with
the kernels. The array rounds half up; where errors round by hash, its exact sums are rounded by the
kernels' function.
"""

from collections import Counter

import numpy as np
import pytest
from pe_array import RtlArray
from vector_unit import RtlVectorUnit

from accsim.data.stream import Batch
from accsim.dataflow.base import Gemm
from accsim.dataflow.output_stationary import OutputStationary
from accsim.dataflow.weight_stationary import WeightStationary
from accsim.hardware.pe_array import PEArraySpec
from accsim.hardware.vector_unit import VectorUnitSpec
from accsim.kernels import conv2d, update
from accsim.kernels.fixed_point import store_codes
from accsim.numerics import Numerics, Rounding
from accsim.schedule.operation import macs_by_label
from accsim.schedule.separate_ema import SeparateEma
from accsim.training.fixed_network import FixedNetwork
from accsim.training.mean_teacher import MeanTeacher
from accsim.training.parameters import Narrowed
from models import digits

pytestmark = pytest.mark.scheduled

LABELLED, UNLABELLED = 2, 3
ANY, SUM_DEPTH = 1 << 20, 256  # rows of a product; as many as weight_stationary.sv keeps sums of


class RtlMachine:
    """Stands in for the kernels; every result's cycles are held against the model's."""

    def __init__(self, array: RtlArray, dataflow, most_rows: int, unit: RtlVectorUnit):
        self.array, self.dataflow, self.unit = array, dataflow, unit
        self.most_rows = most_rows  # of a left operand, at once
        self.ran: Counter = Counter()

    def take_over(self, monkeypatch) -> None:
        """Answer the learner's calls from now on."""
        for name in ("forward", "backward_data", "backward_weight"):
            monkeypatch.setattr(conv2d, name, getattr(self, name))
        for name in ("momentum_sgd", "moving_average"):
            monkeypatch.setattr(update, name, getattr(self, name))
        exact = FixedNetwork._logits

        def logits(network, node, parameters, values, weights, unit):
            """The method itself, given the array's sums and the identity to multiply them by."""
            rows = values.reshape(len(values), -1)
            sums, _ = self.multiply(rows, weights.values.reshape(rows.shape[1], -1))
            one = Narrowed(np.eye(sums.shape[1], dtype=np.int64), weights.exponent, weights.finer)
            return exact(network, node, parameters, sums, one, unit)

        monkeypatch.setattr(FixedNetwork, "_logits", logits)

    def multiply(self, left, right, shift=0):
        """``left @ right`` and that requantised, in parts whose sums the array can keep."""
        self.ran["products"] += 1
        sums, results = [], []
        for first in range(0, len(left), self.most_rows):
            part = left[first : first + self.most_rows]
            gemm = Gemm(len(part), right.shape[1], right.shape[0])
            done = self.array(part, right, shift)
            assert done.cycles == self.dataflow.cycles(self.array.spec, gemm)
            self.ran["macs"] += gemm.macs
            sums.append(done.sums)
            results.append(done.results)
        exact = np.concatenate(sums)
        np.testing.assert_array_equal(exact, left.astype(np.int64) @ right)
        return exact, np.concatenate(results)

    def forward(self, x, weights, stride, padding, shift, key, limit, bits, groups, finer):
        assert (stride, bits, groups, finer) == (1, 32, 1, None)
        kernel, outputs = weights.shape[0], weights.shape[3]
        left, (rows, columns) = windows(x, kernel, padding)
        product = self.multiply(left, weights.reshape(-1, outputs), shift)
        return requantised(*product, (len(x), rows, columns, outputs), shift, key, limit)

    def backward_data(
        self, dy, weights, stride, padding, height, width, shift, key, limit, bits, groups, finer
    ):
        assert (stride, bits, groups, finer) == (1, 32, 1, None)
        kernel, inputs = weights.shape[0], weights.shape[2]
        flipped = weights[::-1, ::-1].swapaxes(2, 3)
        left, (rows, columns) = windows(dy, kernel, kernel - 1 - padding)
        assert (rows, columns) == (height, width)
        product = self.multiply(left, flipped.reshape(-1, inputs), shift)
        return requantised(*product, (len(dy), height, width, inputs), shift, key, limit)

    def backward_weight(self, x, dy, kernel, stride, padding, bits, groups):
        assert (stride, bits, groups) == (1, 32, 1)
        outputs = dy.shape[3]
        left, _ = windows(x, kernel, padding)
        sums, _ = self.multiply(left.T, dy.reshape(-1, outputs))
        shape = kernel, kernel, x.shape[3], outputs
        return sums.astype(np.int32).reshape(shape), 0, 0  # the sums fit: no shift, no overflow

    def momentum_sgd(self, master, *arguments):
        return self._words("update", self.unit.momentum_sgd(master, *arguments), len(master))

    def moving_average(self, teacher, *arguments):
        return self._words("ema", self.unit.moving_average(teacher, *arguments), len(teacher))

    def _words(self, step, done, words):
        assert done.cycles == VectorUnitSpec(self.unit.lanes).cycles((step,), words)
        self.ran[step] += 1
        return update.WordCounts(words, done.largest)


def windows(x, kernel, padding):
    """A map as the left operand of a product (im2col), and the rows and columns of the result."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    views = np.lib.stride_tricks.sliding_window_view(x, (kernel, kernel), (1, 2))
    words = kernel * kernel * x.shape[3]
    return views.transpose(0, 1, 2, 4, 5, 3).reshape(-1, words), views.shape[1:3]


def requantised(sums, results, shape, shift, key, limit):
    """The array's product as a kernel returns it; its own words where it rounds as the kernel."""
    codes = np.empty(sums.size, np.int8)
    seen = store_codes(sums.reshape(-1), 0, shift, key, limit, codes)
    if key == Rounding.HALF_UP:
        np.testing.assert_array_equal(results.reshape(-1), codes)
        codes = results.astype(np.int8)
    return conv2d.Product(codes.reshape(shape), *map(int, seen))


def new_learner(network, error_rounding, error_feedback, lanes, register_bits):
    by_registers = dict.fromkeys(
        ("master_rounding", "momentum_rounding", "teacher_rounding"), Rounding.STOCHASTIC_LFSR
    )
    numerics = Numerics(
        error_rounding=error_rounding,
        error_feedback=error_feedback,
        lfsr_lanes=lanes,
        lfsr_bits=register_bits,
        **by_registers,
    )
    rule = MeanTeacher(confidence_threshold=0.0)
    return rule.start(network, numerics, SeparateEma().turn, steps=10, seed=1)


def batches(count):
    rng = np.random.default_rng(2)
    for _ in range(count):
        labelled, student, teacher = (
            rng.integers(-127, 128, (images, 28, 28, 1), np.int8)
            for images in (LABELLED, UNLABELLED, UNLABELLED)
        )
        labels = rng.integers(0, 10, LABELLED)
        yield Batch(labelled, labels, student, teacher, -6, 0, 0)


def state(learner):
    """Everything that a step leaves behind, by name."""
    student = learner.student
    tensors = {"registers": student.executor.registers.states}
    stores = {
        "master": student.parameters,
        "momentum": student.momenta,
        "teacher": learner.average.stored,
    }
    for kind, store in stores.items():
        for name, tensor in store.items():
            tensors[f"{kind}/{name}"] = tensor.values
            if tensor.residual is not None:
                tensors[f"{kind}/{name}/residual"] = tensor.residual
    for owner, executor in (("student", student.executor), ("teacher", learner.executor)):
        for index, running in executor.running.items():
            tensors[f"{owner}/running/{index}"] = np.stack(running)
        for name, exponent in executor.exponents.items():
            tensors[f"{owner}/exponent/{name}"] = np.array(exponent)
    return {name: tensor.copy() for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("top", "dataflow", "most_rows", "lanes", "register_bits", "error_rounding", "error_feedback"),
    [
        ("output_stationary", OutputStationary(), ANY, 8, 16, Rounding.HALF_UP, False),
        ("output_stationary", OutputStationary(), ANY, 16, 32, Rounding.STOCHASTIC, True),
        ("weight_stationary", WeightStationary(), SUM_DEPTH, 16, 32, Rounding.HALF_UP, False),
    ],
    ids=["output_stationary", "errors_by_hash", "weight_stationary"],
)
def test_steps_of_the_digits_network_on_rtl_are_the_kernels(
    top,
    dataflow,
    most_rows,
    lanes,
    register_bits,
    error_rounding,
    error_feedback,
    build,
    monkeypatch,
):
    network = digits.network()
    ours, theirs = (
        new_learner(network, error_rounding, error_feedback, lanes, register_bits) for _ in range(2)
    )
    before = state(ours)
    expected = []
    for batch in batches(2):
        outcome = ours.step(batch)
        expected.append(state(ours))

    machine = RtlMachine(
        RtlArray(build, top, PEArraySpec(rows=8, columns=8)),
        dataflow,
        most_rows,
        RtlVectorUnit(build, lanes, register_bits, feedback=error_feedback),
    )
    machine.take_over(monkeypatch)
    for batch, after in zip(batches(2), expected, strict=True):
        machine.ran.clear()
        assert theirs.step(batch).passes == outcome.passes
        found = state(theirs)
        assert found.keys() == after.keys()
        for name, tensor in found.items():
            np.testing.assert_array_equal(tensor, after[name], err_msg=name)
    assert any((after[name] != tensor).any() for name, tensor in before.items())
    # the second step, whose exponents are known: five layers forward twice, back once, and the
    # error of all but the first; every parameter updated and averaged; the MACs of the cost model
    assert machine.ran == {
        "products": 5 + 5 + 5 + 4,
        "macs": sum(macs_by_label(network, outcome.passes).values()),
        "update": len(ours.student.parameters),
        "ema": len(ours.student.parameters),
    }
