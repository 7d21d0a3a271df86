"""A deployed network goes on learning: fog, noise and low contrast come over its camera, twice.

Pretrained at the factory on 10,000 labels, the device replays them beside one pass over its stream,
whose frames it has not seen. Networks tell frames normalised by the statistics of those frames, as
the teacher does when it labels them. `python -m accsim ablate workloads/online_cifar.py --seeds 3`
sets it beside a network that takes those statistics alone.
"""

from accsim.data.augmentation import Strong
from accsim.data.corruption import Contrast, Fog, GaussianNoise
from accsim.data.disturbance import Disturbance, During
from accsim.data.stream import SemiSupervisedStream
from accsim.dataflow.output_stationary import OutputStationary
from accsim.hardware import boards
from accsim.schedule.layerwise_ema import LayerwiseEma
from accsim.training.base import Sgd
from accsim.training.consistency import PseudoLabel
from accsim.training.fixed_network import Statistics
from accsim.training.guard import Guarded
from accsim.training.mean_teacher import MeanTeacher
from accsim.training.supervised import Supervised
from accsim.workload import Pretraining, Workload
from models import convnet

factory = SemiSupervisedStream(
    dataset="cifar10", labels=10_000, labelled_per_batch=64, unlabelled_per_batch=0
)

workload = Workload(
    network=convnet.network(width=16, classes=10),
    accelerator=boards.ZCU104,
    dataflow=OutputStationary(),
    schedule=LayerwiseEma(),
    start=Pretraining(Supervised(optimizer=Sgd(learning_rate=0.1)), factory, steps=1500),
    algorithm=Guarded(
        rule=MeanTeacher(
            confidence_threshold=0.9,
            consistency=PseudoLabel(),
            consistency_weight=1.0,
            ramp_share=0.0,
            separate_domains=True,
            evaluation_statistics=Statistics.ADAPTED,
            optimizer=Sgd(learning_rate=0.01, last_share=1.0),
        ),
        every=50,
        margin=0.02,
    ),
    data=SemiSupervisedStream(
        dataset="cifar10",
        labels=10_000,
        held_out=1000,
        unseen_frames=True,
        frames_per_second=1000,
        student_augmentation=Strong(),
        disturbances=(
            Disturbance(Fog(severity=4), During(first=2400, frames=4800, every=19_200)),
            Disturbance(GaussianNoise(severity=4), During(first=7200, frames=4800, every=19_200)),
            Disturbance(Contrast(severity=4), During(first=12_000, frames=4800, every=19_200)),
        ),
    ),
    steps=400,
    evaluate_every=25,
)
over = {"rule.optimizer.learning_rate": (0.0, 0.01)}  # at 0 only statistics follow the frames
