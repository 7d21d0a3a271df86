"""One run of four steps whose every total can be worked out by hand."""

from dataclasses import dataclass
from typing import Any

import pandas as pd
import pytest

from accsim.report.tables import Tables

NONE = float("nan")


def passes(*rows):
    names = ["network", "layer", "pass", "unit", "cycles_busy", "cycles_wait_operand", "joules"]
    rest = {
        "samples": 96,
        "cycles_wait_output": 0,
        "macs": 10,
        "ddr_read_bytes": 64,
        "ddr_write_bytes": 0,
    }
    return pd.DataFrame(rows, columns=names).assign(**rest)


@dataclass(frozen=True)
class Run:
    result: dict[str, Any]
    tables: Tables


@pytest.fixture
def run() -> Run:
    steps = pd.DataFrame(
        {
            "step": [1, 2, 3, 4],
            "simulated_seconds": [0.01, 0.02, 0.03, 0.04],
            "joules": [0.5, 1.0, 1.5, 2.0],
            "step_cycles": [1000, 1000, 1000, 1000],
            "step_joules": [0.5, 0.5, 0.5, 0.5],
            "spared_cycles": [750, 500, 250, 0],
            "spared_joules": [0.25, 0.125, 0.125, 0.0],
            "learning_rate": [0.125] * 4,
            "labelled_correct": [8, 8, 16, 16],
            "labelled_samples": [32] * 4,
            "labelled_error": [0.5, 0.25, 0.25, 0.125],
            "frame_error": [0.0, 0.125, 0.25, 0.25],
            "accepted": [0, 24, 48, 96],
            "unlabelled_samples": [96] * 4,
            "backward_samples": [32, 56, 80, 128],
            "teacher_changed": [0.25] * 4,
            "unmoved": [0.125] * 4,
            "underflowed": [0.0625] * 4,
            "saturations": [0, 1, 0, 2],
            "frames_seen": [96, 192, 288, 384],
            "frames_dropped": [0, 4, 8, 16],
            "frames_waiting": [96, 100, 130, 128],
            "mean_latency_seconds": [NONE, 0.016, 0.018, 0.02],
            "worst_latency_seconds": [NONE, 0.02, 0.022, 0.03],
            "accepted_clean": [0, 20, 48, 60],
            "rejected_clean": [60, 40, 12, 0],
            "accepted_other_domain": [0] * 4,
            "rejected_other_domain": [0] * 4,
            "accepted_corrupted": [0] * 4,
            "rejected_corrupted": [0] * 4,
            "accepted_out_of_distribution": [0, 4, 0, 36],
            "rejected_out_of_distribution": [36, 32, 36, 0],
            "student_accuracy": [NONE, 0.5, NONE, 0.75],
            "teacher_accuracy": [NONE, 0.25, NONE, 0.8125],
        }
    )
    counters = pd.DataFrame(
        [
            (1, "student", "activations", "fc.output", 100, 2, 1, 0, 0, 0),
            (1, "student", "weights", "fc.weight", 20, 0, 0, 15, 5, 4),
            (1, "teacher", "teacher", "fc.weight", 20, 0, 0, 8, 12, 0),
            (2, "student", "activations", "fc.output", 100, 0, 0, 0, 0, 0),
            (2, "student", "weights", "fc.weight", 20, 1, 0, 20, 0, 0),
            (2, "student", "error", "fc.input_error", 50, 0, 0, 0, 0, 0),
        ],
        columns=["step", "network", "class", "tensor", "words", "saturated", "overflowed", "moved",
                 "unmoved", "underflowed"],
    )  # fmt: skip
    tensors = pd.DataFrame(
        [
            ("fc.weights", "weights", "update", 20, 20),
            ("fc.teacher", "teacher", "ema", 10, 10),
            ("fc.weights", "weights", "student_forward", 20, 0),
            ("fc.input", "activations", "student_forward", 64, 0),
            ("conv.input", "activations", "student_forward", 36, 0),
            ("fc.output", "activations", "student_forward", 0, 16),
        ],
        columns=["tensor", "class", "pass", "read_bytes", "write_bytes"],
    )
    units = pd.DataFrame(
        [
            ("vector_unit", "idle", 3000),
            ("vector_unit", "busy", 1000),
            ("pe_array", "idle", 1000),
            ("pe_array", "operand", 1000),
            ("pe_array", "busy", 2000),
        ],
        columns=["unit", "cause", "cycles"],
    )
    energy = pd.DataFrame(
        [
            ("ddr", "update", 0.25),
            ("pe_array", "student_forward", 0.75),
            ("ddr", "student_forward", 0.5),
            ("ddr", "ema", 0.5),
        ],
        columns=["component", "pass", "joules"],
    )
    layers = passes(
        ("teacher", "fc", "teacher_forward", "pe_array", 600, 0, 0.25),
        ("student", "fc", "student_forward", "pe_array", 1400, 1000, 1.5),
        ("student", "fc", "update", "vector_unit", 1000, 0, 0.25),
    )
    result = {
        "workload": {"name": "tiny", "steps": 4, "algorithm": {"teacher_shift": 7}},
        "version": "0.1.0",
        "seed": 3,
        "data": {
            "name": "digits",
            "frames_of": "digits",
            "source": "IDX files",
            "stand_in": False,
            "images": 5000,
        },
        "accuracy": {"student": 0.75, "teacher": 0.8125, "test_images": 1000},
        "commonest_step": {
            "steps": 2,
            "teacher_forward": 96,
            "student_forward": 128,
            "backward": 56,
            "cycles": 1000,
        },
        "cost": {
            "cycles": 4000,
            "seconds": 0.04,
            "joules": 2.0,
            "ddr_read_bytes": 150,
            "ddr_write_bytes": 46,
            "peak_ddr_bytes": 70_000,
            "peak_on_chip_bytes": 1_500,
            "macs": 30,
            "pe_utilization": 0.5,
            "frames_seen": 384,
            "frames_dropped": 16,
        },
        "memory": [
            {
                "memory": name,
                "peak_bytes": peak_bytes,
                "least_bytes": least_bytes,
                "capacity_bytes": capacity_bytes,
            }
            for name, peak_bytes, least_bytes, capacity_bytes in (
                ("ring_buffer", 6_000, 6_000, 6_000),
                ("ddr", 64_000, 61_440, 1_000_000),
                ("input", 1_500, 1_500, 2_048),
            )
        ],
        "ledgers": {
            "ddr_bytes": {
                "left": 196,
                "right": 196,
                "closed": True,
                "unit": "bytes",
                "sides": "tensors, DMA",
            }
        },
        "energy_table": [
            {
                "action": "int8_mac",
                "joules": 2e-12,
                "unit": "MAC",
                "source": "A | B",
                "low": 1e-12,
                "high": 4e-12,
            }
        ],
    }
    path = pd.DataFrame(
        [
            ("fc", "teacher_forward", "dma_read", 50.0),
            ("fc", "teacher_forward", "pe_array", 150.0),
            ("fc", "student_forward", "pe_array", 350.0),
            ("fc", "update", "vector_unit", 250.0),
            ("fc", "update", "dma_write", 200.0),
        ],
        columns=["layer", "pass", "unit", "cycles"],
    )
    pseudo_labels = pd.DataFrame(
        [
            (2, "zero", 18),
            (2, "one", 6),
            (2, "two", 0),
            (4, "zero", 72),
            (4, "one", 36),
            (4, "two", 36),
        ],
        columns=["step", "class", "accepted"],
    )
    on_stream = pd.DataFrame(
        [
            (2, "deployed", 64, 48),
            (2, "student", 64, 32),
            (2, "teacher", 64, 40),
            (4, "deployed", 128, 32),
            (4, "student", 128, 64),
            (4, "teacher", 128, 104),
        ],
        columns=["step", "network", "frames", "correct"],
    )
    tables = Tables(steps, counters, layers, tensors, units, energy, path, pseudo_labels, on_stream)
    return Run(result, tables)
