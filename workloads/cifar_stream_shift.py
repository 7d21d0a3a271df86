"""Semi-supervised CIFAR-10 as in cifar_semi.py; fog and noise come over the stream and go."""

from accsim.data.corruption import Fog, GaussianNoise
from accsim.data.disturbance import Disturbance, During
from accsim.data.stream import SemiSupervisedStream
from accsim.dataflow.output_stationary import OutputStationary
from accsim.hardware import boards
from accsim.schedule.layerwise_ema import LayerwiseEma
from accsim.training.mean_teacher import MeanTeacher
from accsim.workload import Workload
from models import convnet

SPELL = 2500  # frames: a second

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
        disturbances=(  # clean, fog, clean, noise, and again
            Disturbance(Fog(severity=4), During(1 * SPELL, frames=SPELL, every=4 * SPELL)),
            Disturbance(
                GaussianNoise(severity=5), During(3 * SPELL, frames=SPELL, every=4 * SPELL)
            ),
        ),
    ),
    steps=3000,
)
