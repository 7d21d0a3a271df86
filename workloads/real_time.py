"""A camera between the throughputs of two schedules: one keeps up with it, the other drops frames.

Both learn by the same rule, to the bit, and at the same rate from the first step to the last, for a
device in the field does not know when its stream ends. What the slower one loses at equal simulated
time: `python -m accsim compare workloads/real_time.py --seeds 3`.
"""

from accsim.data.stream import SemiSupervisedStream
from accsim.dataflow.output_stationary import OutputStationary
from accsim.hardware import boards
from accsim.schedule import LayerwiseEma, SeparateEma
from accsim.training.base import Sgd
from accsim.training.mean_teacher import MeanTeacher
from accsim.workload import Workload
from models import mlp

workload = Workload(
    network=mlp.network(hidden=(512, 256)),
    accelerator=boards.ULTRA96,
    dataflow=OutputStationary(),
    schedule=LayerwiseEma(),
    algorithm=MeanTeacher(
        teacher_shift=6,
        confidence_threshold=0.0,  # every frame teaches: all steps are equally long
        optimizer=Sgd(learning_rate=0.01, last_share=1.0),
    ),
    data=SemiSupervisedStream(
        dataset="mnist",
        labels=1000,
        labelled_per_batch=8,
        unlabelled_per_batch=24,
        frames_per_second=10_000,  # more than SeparateEma takes, less than LayerwiseEma could
        buffer_frames=96,
        translate=2,
        flip=False,
    ),
    steps=250,
    evaluate_every=25,
)
schedules = (SeparateEma(), LayerwiseEma())
