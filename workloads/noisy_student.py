"""50 labels and three rounds of students: each labels the stream for the next, which sees it worse.

Noisy Student: the teacher of a round labels frames as the camera has them, and a new student learns
them, beside the labelled images, shifted, distorted and with a part of them covered. What is gained
by leaving out frames that the teacher is not sure of: `python -m accsim ablate
workloads/noisy_student.py`.
"""

from accsim.data.augmentation import Strong
from accsim.data.stream import SemiSupervisedStream
from accsim.dataflow.output_stationary import OutputStationary
from accsim.hardware import boards
from accsim.schedule.separate_ema import SeparateEma
from accsim.training.base import Sgd
from accsim.training.self_training import NoisyStudent
from accsim.workload import Workload
from models import digits

workload = Workload(
    network=digits.network(width=8),
    accelerator=boards.PYNQ_Z2,
    dataflow=OutputStationary(),
    schedule=SeparateEma(),
    algorithm=NoisyStudent(
        k=1000,
        confidence_threshold=0.9,
        rounds=3,
        teacher_share=0.1,
        rank_share=0.25,
        optimizer=Sgd(learning_rate=0.05),
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
    steps=2000,
    evaluate_every=50,
)
over = {"confidence_threshold": (0.0, 0.3, 0.9)}
