"""How many bits the teacher's store takes: rounded to nearest, a narrow one stands still.

At `teacher += (student - teacher) >> 7` a difference below 64 units of the store rounds to nothing:
`python -m accsim ablate workloads/teacher_bits.py --seeds 3`. The widest store is as good as exact.
"""

from accsim.data.stream import SemiSupervisedStream
from accsim.dataflow.output_stationary import OutputStationary
from accsim.hardware import boards
from accsim.numerics import Numerics, Rounding
from accsim.schedule.layerwise_ema import LayerwiseEma
from accsim.training.base import Sgd
from accsim.training.mean_teacher import MeanTeacher
from accsim.workload import Workload
from models import digits

workload = Workload(
    network=digits.network(width=8),
    accelerator=boards.PYNQ_Z2,
    dataflow=OutputStationary(),
    schedule=LayerwiseEma(),
    algorithm=MeanTeacher(confidence_threshold=0.9, optimizer=Sgd(learning_rate=0.05)),
    numerics=Numerics(teacher_rounding=Rounding.NEAREST_EVEN),
    data=SemiSupervisedStream(
        dataset="mnist",
        labels=1000,
        labelled_per_batch=16,
        unlabelled_per_batch=48,
        frames_per_second=20_000,  # more than the machine can take: it never waits
        translate=2,
        flip=False,
    ),
    steps=1500,
    evaluate_every=100,
)
over = {"teacher_bits": (8, 10, 12, 14, 16, 24)}
