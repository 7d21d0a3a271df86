"""Supervised CIFAR-10: what labels alone teach, and what averaging the student's weights adds.

The student is plain supervised training, the average beside it has its weights of every step; both
come of one run. Network, labels, batches and steps are those of cifar_weak_strong.py.
"""

from accsim.data.stream import SemiSupervisedStream
from accsim.dataflow.output_stationary import OutputStationary
from accsim.hardware import boards
from accsim.schedule.layerwise_ema import LayerwiseEma
from accsim.training.weight_average import WeightAverage
from accsim.workload import Workload
from models import convnet

workload = Workload(
    network=convnet.network(width=32, classes=10),
    accelerator=boards.ZCU104,
    dataflow=OutputStationary(),
    schedule=LayerwiseEma(),
    algorithm=WeightAverage(),
    data=SemiSupervisedStream(
        dataset="cifar10", labels=1000, labelled_per_batch=64, unlabelled_per_batch=0
    ),
    steps=4000,
    evaluate_every=500,
)
