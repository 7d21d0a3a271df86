"""Printed digits teach handwritten ones: labels are of digits drawn from fonts, all frames MNIST's.

Domains are separate: labelled images and frames go through the student in passes, and with batch
statistics, of their own. The student learns the teacher's hard labels from a distorted view.
Accuracies are of MNIST's test images.

`python -m accsim ablate workloads/synth_to_mnist.py` takes the threshold away; the rule beside the
student alone and AdaBN: `python experiments/adaptation.py`.
"""

from accsim.data.augmentation import Strong
from accsim.data.stream import SemiSupervisedStream
from accsim.dataflow.output_stationary import OutputStationary
from accsim.hardware import boards
from accsim.schedule.layerwise_ema import LayerwiseEma
from accsim.training.base import Sgd
from accsim.training.consistency import PseudoLabel
from accsim.training.mean_teacher import MeanTeacher
from accsim.workload import Workload
from models import digits

workload = Workload(
    network=digits.network(width=16),
    accelerator=boards.ZCU104,
    dataflow=OutputStationary(),
    schedule=LayerwiseEma(),
    algorithm=MeanTeacher(
        confidence_threshold=0.9,
        consistency=PseudoLabel(),
        consistency_weight=1.0,
        class_balance=0.3,  # keeps 9 from being lost as a 4 or 7, which printed ones resemble
        ramp_share=0.6,
        separate_domains=True,
        optimizer=Sgd(learning_rate=0.05),
    ),
    data=SemiSupervisedStream(
        dataset="synth_digits",
        frames_dataset="mnist",
        labels=50_000,
        labelled_per_batch=64,
        unlabelled_per_batch=64,
        frames_per_second=1500,
        translate=2,
        flip=False,
        student_augmentation=Strong(operations=2, magnitude=12, cutout=0),
    ),
    steps=3000,
)
over = {"confidence_threshold": (0.9, 0.0)}
