"""50 labels teach a network, which picks the 400 best frames of each digit for a new one to learn.

The pipeline of billion-scale semi-supervised learning, a share of the steps for each phase: a
teacher learns from the labels, ranks one pass over the stream, a student learns from the frames
that it kept, and is fine-tuned on the labels. How many to keep: `python -m accsim ablate
workloads/ranked_pseudo_labels.py`. Fewer are easier and more alike, of more some labels are wrong.
"""

from accsim.data.augmentation import Strong
from accsim.data.stream import SemiSupervisedStream
from accsim.dataflow.output_stationary import OutputStationary
from accsim.hardware import boards
from accsim.schedule.separate_ema import SeparateEma
from accsim.training.base import Sgd
from accsim.training.self_training import RankedPseudoLabels
from accsim.workload import Workload
from models import digits

workload = Workload(
    network=digits.network(width=8),
    accelerator=boards.PYNQ_Z2,
    dataflow=OutputStationary(),
    schedule=SeparateEma(),
    algorithm=RankedPseudoLabels(
        k=400,
        p=2,
        teacher_share=0.2,
        rank_share=0.15,
        fine_tune_share=0.1,
        optimizer=Sgd(learning_rate=0.05),
        fine_tuning=Sgd(learning_rate=0.005),
    ),
    data=SemiSupervisedStream(
        dataset="mnist",
        labels=50,
        labelled_per_batch=32,
        unlabelled_per_batch=64,
        frames_per_second=20_000,
        translate=2,
        flip=False,
        student_augmentation=Strong(magnitude=10, cutout=8),
    ),
    steps=1000,
    evaluate_every=50,
)
over = {"k": (50, 200, 400, 800)}
