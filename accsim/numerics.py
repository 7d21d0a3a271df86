"""Fixed-point formats: the learner computes in them, the machine moves them."""

from dataclasses import dataclass, fields
from enum import Enum, IntEnum, auto

RESIDUAL_BYTES = 2  # of what a stored word keeps with error feedback
EXPONENT_BYTES = 1  # of an output's own exponent
PREDICTION_BYTES = 2  # of each logit of a stored prediction, and of its count
SCORE_BYTES = 8  # in a heap: a frame's score, when it came (older first among equals), where it is


class Rounding(IntEnum):
    """How a tensor class drops bits; kernels take the code, or a random key in its place.

    ``PSEUDO_STOCHASTIC`` rounds up where the upper half of the dropped bits exceeds the lower half:
    no random numbers. Source: Wang et al., "NITI", IEEE TPDS 2022, section 3.3.
    ``STOCHASTIC`` draws from a hash of (seed, step, tensor, element). Source: Gupta et al., "Deep
    Learning with Limited Numerical Precision", ICML 2015, eq. 1.
    ``STOCHASTIC_LFSR`` draws from the shift registers of the vector unit's lanes, in the order in
    which the words stream through: for stored words, and for weights on their way to the array.
    """

    STOCHASTIC = 0
    HALF_UP = -1
    TRUNCATE = -2
    NEAREST_EVEN = -3
    PSEUDO_STOCHASTIC = -4
    STOCHASTIC_LFSR = -5


class Scaling(Enum):
    """Where the exponent of a map comes from; that of weights comes from their own largest."""

    DELAYED = auto()  # from the map of the step before: results are rounded once, as they come
    CURRENT = auto()  # from the map itself: its sums wait, on chip or in DDR, until all are there
    STATIC = auto()  # from the first map that was seen, for the whole run


class WeightScaling(Enum):
    """How many exponents the weights of a layer have on their way into the PE array."""

    TENSOR = auto()  # one
    CHANNEL = auto()  # one for every output of the pass: sums of fine weights shift further


@dataclass(frozen=True)
class Numerics:
    """Bits, rounding and scaling of every tensor class; signed, a power-of-two exponent a tensor.

    Weights are stored once, as masters (or as the teacher), and narrowed to ``weight_bits`` on
    their way into the PE array: no narrow copy exists in DDR.
    """

    weight_bits: int = 8  # operand of the PE array
    activation_bits: int = 8
    error_bits: int = 8  # gradients with respect to activations
    gradient_bits: int = (
        32  # gradients of the PE array's weights: 2 to 16, or 32, as they were summed
    )
    accumulator_bits: int = 32  # sums of products; beyond it they wrap, and are counted
    master_bits: int = 16  # the student's stored weights; above 16 bits a word takes 3 bytes
    momentum_bits: int = 16  # reaches as far as 1/16 of the master's range, whatever its bits
    teacher_bits: int = 16  # the teacher's stored weights, in the master's range
    weight_rounding: Rounding = Rounding.HALF_UP
    activation_rounding: Rounding = Rounding.HALF_UP
    error_rounding: Rounding = Rounding.STOCHASTIC
    gradient_rounding: Rounding = Rounding.STOCHASTIC
    master_rounding: Rounding = Rounding.STOCHASTIC
    momentum_rounding: Rounding = Rounding.STOCHASTIC
    teacher_rounding: Rounding = Rounding.STOCHASTIC
    scaling: Scaling = Scaling.DELAYED
    weight_scaling: WeightScaling = WeightScaling.TENSOR
    error_feedback: bool = False  # stored words keep what their rounding dropped, in 2 more bytes
    lfsr_lanes: int = 32  # of STOCHASTIC_LFSR: one register a lane of the vector unit
    lfsr_bits: int = 32  # of one register, 16 or 32

    def __post_init__(self):
        ranges = {
            "weight_bits": (2, 16),
            "activation_bits": (2, 16),
            "error_bits": (2, 16),
            "gradient_bits": (2, 32),
            "accumulator_bits": (8, 64),
            "master_bits": (2, 24),
            "momentum_bits": (2, 24),
            "teacher_bits": (2, 24),
            "lfsr_lanes": (1, 1024),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f"{name} must be {low} to {high}, not {value}")
        if 16 < self.gradient_bits < 32:
            raise ValueError(f"gradient_bits must be 2 to 16, or 32, not {self.gradient_bits}")
        if self.lfsr_bits not in (16, 32):
            raise ValueError(f"lfsr_bits must be 16 or 32, not {self.lfsr_bits}")
        if not isinstance(self.error_feedback, bool):
            raise ValueError(f"error_feedback must be True or False, not {self.error_feedback!r}")
        if self.momentum_bits > self.master_bits + 12:
            raise ValueError(
                f"momentum_bits must be at most master_bits + 12 ({self.master_bits + 12}), "
                f"not {self.momentum_bits}: finer steps than that never reach their weights"
            )
        kinds: dict[str, type] = {
            spec.name: Rounding for spec in fields(self) if spec.name.endswith("rounding")
        }
        for name, kind in (kinds | {"scaling": Scaling, "weight_scaling": WeightScaling}).items():
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"{name} must be a {kind.__name__}, not {getattr(self, name)!r}")
        for name in ("activation_rounding", "error_rounding", "gradient_rounding"):
            if getattr(self, name) is Rounding.STOCHASTIC_LFSR:
                raise ValueError(
                    f"{name} must be a Rounding other than STOCHASTIC_LFSR: results are rounded as "
                    "they leave the array, where the lanes' registers are not; use STOCHASTIC"
                )

    @property
    def uses_lfsr(self) -> bool:
        """Whether any tensor class rounds by the lanes' registers."""
        return any(getattr(self, spec.name) is Rounding.STOCHASTIC_LFSR for spec in fields(self))

    @staticmethod
    def word_bytes(bits: int) -> int:
        """Bytes that a word of `bits` takes in DDR."""
        return (bits + 7) // 8
