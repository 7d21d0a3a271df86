"""A moving average of the student's weights, as it lies in DDR and as the next pass sees it."""

from collections.abc import Collection

import numpy as np

from accsim.kernels import update
from accsim.kernels.fixed_point import limit, random_key
from accsim.numerics import WeightScaling
from accsim.training.base import Student, chosen
from accsim.training.counters import Tally
from accsim.training.parameters import Stored, layer_of

EMA = 5  # label of random keys


class Average:
    """Starts as the student; moves towards it as often as it is told."""

    def __init__(self, student: Student, seed: int):
        self.student, self.seed = student, seed
        self.moves = 0
        bits = student.numerics.teacher_bits
        self.finer_bits = bits - student.numerics.master_bits  # than the student's words
        self.stored = {
            name: tensor.teacher(self.finer_bits, bits)
            for name, tensor in student.parameters.items()
        }
        self.seen = {name: tensor.copy() for name, tensor in self.stored.items()}

    def masters(self) -> dict[str, Stored]:
        """The average in the format of the student's words."""
        bits = self.student.numerics.master_bits
        return {name: seen.master(self.finer_bits, bits) for name, seen in self.seen.items()}

    def move(
        self,
        numerator: int,
        shift: int,
        store: bool,
        step: int,
        tally: Tally,
        frozen: Collection[str] = (),
    ) -> None:
        """See it ``numerator / 2**shift`` of the way nearer the student; `store`: keep that.

        That of `frozen` layers stays as it started: the student's words, at the precision of its
        own. What fixed point does to the others is added to `tally`; `step` makes random keys.
        """
        self.moves += 1
        numerics = self.student.numerics
        finer, coarse = max(self.finer_bits, 0), max(-self.finer_bits, 0)
        largest_code = limit(numerics.teacher_bits) << coarse
        for index, (name, master) in enumerate(self.student.parameters.items()):
            if layer_of(name) in frozen:
                continue
            stored, seen = self.stored[name], self.seen[name]
            seen.largest = max(stored.largest, master.largest << finer)
            if numerics.weight_scaling is WeightScaling.CHANNEL and master.values.ndim == 4:
                seen.channel_bounds = np.maximum(
                    stored.largest_of_outputs(), master.largest_of_outputs() << finer
                )
            residual = None if stored.residual is None else stored.residual.copy()
            key = random_key(self.seed, EMA, step, index)
            counts = update.moving_average(
                stored.values.reshape(-1),
                master.values.reshape(-1),
                numerator,
                shift,
                coarse,
                finer,
                largest_code,
                chosen(numerics.teacher_rounding, key),
                seen.values.reshape(-1),
                self.student.executor.registers,
                residual,
            )
            tally.add_stored("teacher", name, counts)
            if store:
                np.copyto(stored.values, seen.values)
                stored.residual = residual
                stored.largest = int(np.abs(stored.values).max())
