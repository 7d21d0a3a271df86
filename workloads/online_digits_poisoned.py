"""As online_digits.py, but nine of ten replayed labels are wrong, without a threshold; guarded.

`python -m accsim ablate workloads/online_digits_poisoned.py` sets it beside one that never acts.
"""

from accsim.data.disturbance import Disturbance, During
from accsim.data.foreign import OtherDomain
from accsim.data.stream import SemiSupervisedStream
from accsim.dataflow.output_stationary import OutputStationary
from accsim.hardware import boards
from accsim.schedule.layerwise_ema import LayerwiseEma
from accsim.training.base import Sgd
from accsim.training.fixed_network import Statistics
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
            confidence_threshold=0.0,
            ramp_share=0.0,
            evaluation_statistics=Statistics.ADAPTED,  # as the guard's checks
            optimizer=Sgd(learning_rate=0.01, last_share=1.0),
        ),
        every=10,
        margin=0.02,
    ),
    data=SemiSupervisedStream(
        dataset="mnist",
        labels=1000,
        label_noise=0.9,
        held_out=500,
        frames_per_second=5000,
        translate=2,
        flip=False,
        disturbances=(Disturbance(OtherDomain("usps"), During(first=7296, frames=7200)),),
    ),
    steps=200,
    evaluate_every=25,
)
over = {"margin": (0.02, 1.0)}  # of 1 it only watches
