"""Semi-supervised CIFAR-10: mean teacher, 1,000 labels, unlabelled frames from a camera."""

from accsim.data.stream import SemiSupervisedStream
from accsim.dataflow.output_stationary import OutputStationary
from accsim.hardware import boards
from accsim.numerics import Numerics
from accsim.schedule.layerwise_ema import LayerwiseEma
from accsim.training.base import Sgd
from accsim.training.mean_teacher import MeanTeacher
from accsim.workload import Workload
from models import convnet

workload = Workload(
    network=convnet.network(width=16, classes=10),
    accelerator=boards.ZCU104,
    dataflow=OutputStationary(),
    schedule=LayerwiseEma(),
    algorithm=MeanTeacher(
        teacher_shift=7,  # teacher += (student - teacher) >> 7
        confidence_threshold=0.75,
        consistency_weight=0.3,
        optimizer=Sgd(learning_rate=0.1, momentum=0.9, weight_decay=5e-4),
    ),
    numerics=Numerics(weight_bits=8, activation_bits=8, error_bits=8, master_bits=16),
    data=SemiSupervisedStream(
        dataset="cifar10",
        labels=1000,
        labelled_per_batch=32,
        unlabelled_per_batch=96,
        frames_per_second=2500,  # a machine that is too slow for it drops frames
    ),
    steps=3000,
    seed=0,
)
