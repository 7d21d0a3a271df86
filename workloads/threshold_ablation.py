"""A confidence threshold, or none: the teacher names the class of every frame that it is sure of.

Digits are learned from 50 labels and a stream in which 30 % of the frames show no digit but grey
CIFAR-10 pictures, whose label is always wrong; without a threshold all of them are taught. What
rejecting gains, and what it saves: `python -m accsim ablate workloads/threshold_ablation.py
--seeds 3`. Here the student sees a frame as its teacher does, shifted, and wrong labels harm it; a
strong view (student_augmentation=Strong(magnitude=10)) forgives them, and a threshold only saves.
"""

from accsim.data.disturbance import AtRandom, Disturbance
from accsim.data.foreign import OutOfDistribution
from accsim.data.stream import SemiSupervisedStream
from accsim.dataflow.output_stationary import OutputStationary
from accsim.hardware import boards
from accsim.schedule.layerwise_ema import LayerwiseEma
from accsim.training.base import Sgd
from accsim.training.consistency import PseudoLabel
from accsim.training.mean_teacher import MeanTeacher
from accsim.workload import Workload
from models import digits

workload = Workload(
    network=digits.network(width=8),
    accelerator=boards.PYNQ_Z2,
    dataflow=OutputStationary(),
    schedule=LayerwiseEma(),
    algorithm=MeanTeacher(
        confidence_threshold=0.9,
        consistency=PseudoLabel(),
        consistency_weight=3.0,  # a frame counts as much as a labelled image
        ramp_share=0.1,
        optimizer=Sgd(learning_rate=0.05),
    ),
    data=SemiSupervisedStream(
        dataset="mnist",
        labels=50,
        labelled_per_batch=16,
        unlabelled_per_batch=48,
        frames_per_second=20_000,  # more than the machine can take: it never waits
        translate=2,
        flip=False,
        disturbances=(Disturbance(OutOfDistribution("cifar10"), AtRandom(share=0.3)),),
    ),
    steps=1000,
    evaluate_every=100,
)
over = {"confidence_threshold": (0.0, 0.5, 0.75, 0.9, 0.95)}
