"""A confidence threshold, or none: the teacher names the class of every frame it is sure of.

As in cifar_weak_strong.py, but in width 16, and 30 % of the frames show handwritten digits, whose
class is always wrong; without a threshold all of them are taught. What rejecting gains, and what it
saves: `python -m accsim ablate workloads/threshold_ablation.py --seeds 3`.
"""

from accsim.data.augmentation import Strong
from accsim.data.disturbance import AtRandom, Disturbance
from accsim.data.foreign import OutOfDistribution
from accsim.data.stream import SemiSupervisedStream
from accsim.dataflow.output_stationary import OutputStationary
from accsim.hardware import boards
from accsim.schedule.layerwise_ema import LayerwiseEma
from accsim.training.consistency import PseudoLabel
from accsim.training.mean_teacher import MeanTeacher
from accsim.workload import Workload
from models import convnet

workload = Workload(
    network=convnet.network(width=16, classes=10),
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
        frames_per_second=2500,  # so fast that a machine which teaches every frame drops some
        student_augmentation=Strong(operations=2, magnitude=20, cutout=12),
        disturbances=(Disturbance(OutOfDistribution("mnist"), AtRandom(share=0.3)),),
    ),
    steps=2000,
    evaluate_every=250,
)
over = {"confidence_threshold": (0.0, 0.5, 0.75, 0.9, 0.95)}
