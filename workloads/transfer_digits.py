"""How much of a deployed network should go on learning: it knows MNIST, and the frames are USPS's.

The convolutions and their batch norms train like the rest, at a tenth of its rate, or stay as they
were deployed, so that only the hidden layer and the classifier learn. Accuracies are of USPS's test
images. `python -m accsim ablate workloads/transfer_digits.py --seeds 3`
"""

from accsim.data.stream import SemiSupervisedStream
from accsim.dataflow.output_stationary import OutputStationary
from accsim.hardware import boards
from accsim.schedule.layerwise_ema import LayerwiseEma
from accsim.training.base import Sgd
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
    algorithm=MeanTeacher(
        confidence_threshold=0.9,
        ramp_share=0.0,
        separate_domains=True,
        optimizer=Sgd(learning_rate=0.01, rates=(("*[123]", 0),)),  # conv1 to norm3
    ),
    data=SemiSupervisedStream(
        dataset="mnist",
        frames_dataset="usps",
        labels=1000,
        frames_per_second=80_000,  # more than the machine can take: it never waits
        translate=2,
        flip=False,
    ),
    steps=400,
    evaluate_every=50,
)
over = {"rates.0.1": (1, 0.1, 0)}
