"""Semi-supervised CIFAR-10, mean teacher: agreement of probabilities, on every frame.

The teacher sees a frame shifted and mirrored, the student distorted too; no frame is rejected. The
network, the distortions and the steps are those of cifar_weak_strong.py.
"""

from accsim.data.augmentation import Strong
from accsim.data.stream import SemiSupervisedStream
from accsim.dataflow.output_stationary import OutputStationary
from accsim.hardware import boards
from accsim.schedule.layerwise_ema import LayerwiseEma
from accsim.training.consistency import ProbabilityDistance
from accsim.training.mean_teacher import MeanTeacher
from accsim.workload import Workload
from models import convnet

workload = Workload(
    network=convnet.network(width=32, classes=10),
    accelerator=boards.ZCU104,
    dataflow=OutputStationary(),
    schedule=LayerwiseEma(),
    algorithm=MeanTeacher(
        confidence_threshold=0.0,
        consistency=ProbabilityDistance(),
        consistency_weight=50.0,
    ),
    data=SemiSupervisedStream(
        dataset="cifar10",
        labels=1000,
        labelled_per_batch=32,
        unlabelled_per_batch=96,
        frames_per_second=1000,
        student_augmentation=Strong(operations=2, magnitude=20, cutout=12),
    ),
    steps=4000,
    evaluate_every=500,
)
