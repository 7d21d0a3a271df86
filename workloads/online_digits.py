"""A deployed network goes on learning: it knows MNIST; then frames are USPS's, and MNIST's in fog.

Pretrained at the factory on 1,000 labels, the device replays them beside one pass over its stream.
The report sets the networks that learn beside the deployed one, frozen, on the frames as they come;
`python -m accsim ablate workloads/online_digits.py --seeds 3` asks what the guard costs.
"""

from accsim.data.corruption import Fog
from accsim.data.disturbance import Disturbance, During
from accsim.data.foreign import OtherDomain
from accsim.data.stream import SemiSupervisedStream
from accsim.dataflow.output_stationary import OutputStationary
from accsim.hardware import boards
from accsim.schedule.layerwise_ema import LayerwiseEma
from accsim.training.base import Sgd
from accsim.training.guard import Guarded
from accsim.training.mean_teacher import MeanTeacher
from accsim.training.supervised import Supervised
from accsim.workload import Pretraining, Workload
from models import digits

factory = SemiSupervisedStream(
    dataset="mnist",
    labels=1000,
    labelled_per_batch=64,
    unlabelled_per_batch=0,
    translate=2,
    flip=False,
)

workload = Workload(
    network=digits.network(width=8),
    accelerator=boards.ZCU104,
    dataflow=OutputStationary(),
    schedule=LayerwiseEma(),
    start=Pretraining(Supervised(optimizer=Sgd(learning_rate=0.05)), factory, steps=600),
    algorithm=Guarded(
        rule=MeanTeacher(
            confidence_threshold=0.9,
            ramp_share=0.0,
            optimizer=Sgd(learning_rate=0.01, last_share=1.0),
        ),
        every=25,
        margin=0.02,
    ),
    data=SemiSupervisedStream(
        dataset="mnist",
        labels=1000,
        held_out=500,
        frames_per_second=5000,
        translate=2,
        flip=False,
        disturbances=(  # no frame comes twice
            Disturbance(OtherDomain("usps"), During(first=7296, frames=7200)),
            Disturbance(Fog(severity=4), During(first=19_296, frames=9600)),
        ),
    ),
    steps=400,
    evaluate_every=25,
)
over = {"margin": (0.02, 1.0)}  # of 1 it only watches
