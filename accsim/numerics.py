"""Fixed-point formats: the learner computes in them, the machine moves them."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Numerics:
    """Bits of every tensor class; signed, two's complement, power-of-two exponent per tensor.

    Weights are stored once, as masters (or as the teacher), and narrowed to ``weight_bits`` on
    their way into the PE array: no narrow copy exists in DDR.
    """

    weight_bits: int = 8  # operand of the PE array
    activation_bits: int = 8
    error_bits: int = 8  # gradients with respect to activations
    gradient_bits: int = 32  # gradients with respect to weights: the accumulator's width
    master_bits: int = 16  # the student's stored weights
    momentum_bits: int = 16
    teacher_bits: int = 16  # the teacher's stored weights

    def __post_init__(self):
        ranges = {
            "weight_bits": (2, 8),
            "activation_bits": (2, 8),
            "error_bits": (2, 8),
            "gradient_bits": (32, 32),
            "master_bits": (8, 16),
            "momentum_bits": (8, 16),
            "teacher_bits": (8, 16),
        }
        for spec in fields(self):
            low, high = ranges[spec.name]
            value = getattr(self, spec.name)
            if not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f"{spec.name} must be {low} to {high}, not {value}")
        if self.teacher_bits > self.master_bits:
            raise ValueError(
                f"teacher_bits must be at most master_bits ({self.master_bits}), "
                f"not {self.teacher_bits}: the two share one scale"
            )

    @staticmethod
    def word_bytes(bits: int) -> int:
        """Bytes that a word of `bits` takes in DDR."""
        return (bits + 7) // 8
