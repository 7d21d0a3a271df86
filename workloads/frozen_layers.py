"""Convolutions that train, that train at a tenth of the rate, and that stay as they started.

What each of these costs and learns: `python -m accsim ablate workloads/frozen_layers.py --seeds 3`.
From a random start a frozen convolution is a random feature. The classifier and the hidden layer
train in all three; batch norms go with the convolution before them.
"""

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
    algorithm=MeanTeacher(
        confidence_threshold=0.9,
        optimizer=Sgd(learning_rate=0.05, rates=(("*[123]", 0),)),  # conv1 to norm3
    ),
    data=SemiSupervisedStream(
        dataset="mnist", labels=100, frames_per_second=60_000, translate=2, flip=False
    ),
    steps=600,
    evaluate_every=100,
)
over = {"rates.0.1": (1, 0.1, 0)}
