"""Semi-supervised CIFAR-10, weak-strong: hard labels by the teacher, learned on distorted frames.

FixMatch whose labels are the moving average's: the teacher sees a frame shifted and mirrored, and
where it is sure, the student learns its class from the same frame after two random operations and
under a grey square.
"""

from accsim.data.augmentation import Strong
from accsim.data.stream import SemiSupervisedStream
from accsim.dataflow.output_stationary import OutputStationary
from accsim.hardware import boards
from accsim.schedule.layerwise_ema import LayerwiseEma
from accsim.training.consistency import PseudoLabel
from accsim.training.mean_teacher import MeanTeacher
from accsim.workload import Workload
from models import convnet

workload = Workload(
    network=convnet.network(width=32, classes=10),
    accelerator=boards.ZCU104,
    dataflow=OutputStationary(),
    schedule=LayerwiseEma(),
    algorithm=MeanTeacher(
        confidence_threshold=0.9,
        consistency=PseudoLabel(),
        consistency_weight=1.0,
        ramp_share=0.1,
    ),
    data=SemiSupervisedStream(
        dataset="cifar10",
        labels=1000,
        labelled_per_batch=64,
        unlabelled_per_batch=128,
        frames_per_second=1000,
        student_augmentation=Strong(operations=2, magnitude=20, cutout=12),
    ),
    steps=4000,
    evaluate_every=500,
)
