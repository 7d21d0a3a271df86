"""Semi-supervised CIFAR-10 as in cifar_semi.py; 30 % of the frames show handwritten digits.

What rejecting saves: `python -m accsim ablate workloads/cifar_semi_bad_samples.py --over
confidence_threshold=0.0,0.75`. To agree with its teacher on digits does a student little harm, to
take a class for granted does: threshold_ablation.py asks that.
"""

from accsim.data.disturbance import AtRandom, Disturbance
from accsim.data.foreign import OutOfDistribution
from accsim.data.stream import SemiSupervisedStream
from accsim.dataflow.output_stationary import OutputStationary
from accsim.hardware import boards
from accsim.schedule.layerwise_ema import LayerwiseEma
from accsim.training.mean_teacher import MeanTeacher
from accsim.workload import Workload
from models import convnet

workload = Workload(
    network=convnet.network(width=16, classes=10),
    accelerator=boards.ZCU104,
    dataflow=OutputStationary(),
    schedule=LayerwiseEma(),
    algorithm=MeanTeacher(confidence_threshold=0.75),
    data=SemiSupervisedStream(
        dataset="cifar10",
        labels=1000,
        frames_per_second=2500,
        disturbances=(
            Disturbance(
                OutOfDistribution("mnist"), AtRandom(share=0.3)
            ),  # or share=0.3, mean_run=50: bursts
        ),
    ),
    steps=3000,
)
