"""CIFAR-10 from 1,000 and 4,000 labels: what a stream of frames adds to them, in 8 bits and float.

`python -m accsim table experiments/learning.py` runs what is missing and writes reports/learning.
"""

from accsim.rows import Row

SUPERVISED = "supervised"
METHODS = {  # the file, whose accuracy, and the row that it should gain over
    SUPERVISED: ("cifar_supervised", "student", ""),
    "supervised, weight average": ("cifar_supervised", "teacher", SUPERVISED),
    "mean teacher": ("cifar_mean_teacher", "teacher", SUPERVISED),
    "gated weak-strong": ("cifar_weak_strong", "teacher", SUPERVISED),
}

rows = tuple(
    Row(name, f"workloads/{file}.py", (f"data.labels={labels}",), network, over)
    for labels in (1000, 4000)
    for name, (file, network, over) in METHODS.items()
)
