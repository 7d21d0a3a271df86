"""A perceptron learns digits on a small board: weights, not maps, are what travels through DDR.

What each schedule saves, and whether it learns as well: `python -m accsim compare
workloads/schedule_comparison.py --seeds 3`.
"""

from accsim.data.stream import SemiSupervisedStream
from accsim.dataflow.output_stationary import OutputStationary
from accsim.hardware import boards
from accsim.schedule import (
    AlternateTeacher,
    DeferredWriteback,
    FusedUpdate,
    GradientAccumulation,
    LayerwiseEma,
    OverlappedEma,
    SeparateEma,
    SpatialSplit,
    TeacherAhead,
)
from accsim.training.base import Sgd
from accsim.training.mean_teacher import MeanTeacher
from accsim.workload import Workload
from models import mlp

workload = Workload(
    network=mlp.network(hidden=(256, 128)),
    accelerator=boards.PYNQ_Z2,
    dataflow=OutputStationary(),
    schedule=SeparateEma(),
    algorithm=MeanTeacher(confidence_threshold=0.9, optimizer=Sgd(learning_rate=0.05)),
    data=SemiSupervisedStream(
        dataset="mnist",
        labels=100,
        labelled_per_batch=16,
        unlabelled_per_batch=48,
        frames_per_second=20_000,  # more than any schedule can take
        translate=2,
        flip=False,
    ),
    steps=500,
    evaluate_every=50,
)
schedules = (
    SeparateEma(),
    FusedUpdate(),
    LayerwiseEma(),
    DeferredWriteback(every=8),
    OverlappedEma(),
    GradientAccumulation(LayerwiseEma(), micro_batches=4),
    AlternateTeacher(LayerwiseEma(), every=2),
    TeacherAhead(LayerwiseEma()),
    SpatialSplit(teacher_rows=4),
)
