"""Digits whose stream changes: all labels are of MNIST, the frames are MNIST's, then USPS's."""

from accsim.data.disturbance import Disturbance, During
from accsim.data.foreign import OtherDomain
from accsim.data.stream import SemiSupervisedStream
from accsim.dataflow.output_stationary import OutputStationary
from accsim.hardware import boards
from accsim.schedule.layerwise_ema import LayerwiseEma
from accsim.training.base import Sgd
from accsim.training.mean_teacher import MeanTeacher
from accsim.workload import Workload
from models import digits

workload = Workload(
    network=digits.network(width=8),
    accelerator=boards.ZCU104,
    dataflow=OutputStationary(),
    schedule=LayerwiseEma(),
    algorithm=MeanTeacher(confidence_threshold=0.9, optimizer=Sgd(learning_rate=0.05)),
    data=SemiSupervisedStream(
        dataset="mnist",
        labels=1000,
        frames_per_second=5000,
        translate=2,
        flip=False,
        disturbances=(Disturbance(OtherDomain("usps"), During(first=20_000)),),
    ),
    steps=1000,
)
