"""How few bits each class of tensors takes, and what its rounding is worth, one class at a time.

The others stay at 8 bits, stores at 16. Any class of `accsim/numerics.py` goes in place of master:
`python -m accsim ablate workloads/number_formats.py --over master_bits=6,8,10,12,16
--over master_rounding=STOCHASTIC,HALF_UP,TRUNCATE --seeds 3`. USPS at its own 16 x 16 pixels: a run
takes two seconds.
"""

from accsim.data.stream import SemiSupervisedStream
from accsim.dataflow.output_stationary import OutputStationary
from accsim.hardware import boards
from accsim.network import Shape
from accsim.numerics import Rounding
from accsim.schedule.layerwise_ema import LayerwiseEma
from accsim.training.base import Sgd
from accsim.training.mean_teacher import MeanTeacher
from accsim.workload import Workload
from models import digits

workload = Workload(
    network=digits.network(width=8, image=Shape(16, 16, 1)),
    accelerator=boards.PYNQ_Z2,
    dataflow=OutputStationary(),
    schedule=LayerwiseEma(),
    algorithm=MeanTeacher(confidence_threshold=0.0, optimizer=Sgd(learning_rate=0.05)),
    data=SemiSupervisedStream(
        dataset="usps",
        labels=1000,
        labelled_per_batch=16,
        unlabelled_per_batch=48,
        frames_per_second=30_000,  # more than the machine can take: it never waits
        translate=1,
        flip=False,
    ),
    steps=300,
)
over = {
    "master_bits": (6, 8, 10, 12, 16),
    "master_rounding": (Rounding.STOCHASTIC, Rounding.HALF_UP, Rounding.TRUNCATE),
}
