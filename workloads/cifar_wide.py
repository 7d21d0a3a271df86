"""Supervised CIFAR-10 on ConvNet-13 in full width, batches of 32: a machine that computes."""

from accsim.data.stream import SemiSupervisedStream
from accsim.dataflow.output_stationary import OutputStationary
from accsim.hardware import boards
from accsim.schedule.separate_ema import SeparateEma
from accsim.training.base import Sgd
from accsim.training.supervised import Supervised
from accsim.workload import Workload
from models import convnet

workload = Workload(
    network=convnet.network(width=128, classes=10),
    accelerator=boards.ZCU104,
    dataflow=OutputStationary(),
    schedule=SeparateEma(),
    algorithm=Supervised(optimizer=Sgd(learning_rate=0.1, momentum=0.9, weight_decay=5e-4)),
    data=SemiSupervisedStream(
        dataset="cifar10", labels=4000, labelled_per_batch=32, unlabelled_per_batch=0
    ),
    steps=2000,
    seed=0,
)
