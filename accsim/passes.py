"""The seam between values and cost: what a schedule asks of a training step, and what it did."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kept:
    """Frames that wait in DDR for later steps: of each class those whose scores are highest.

    Every class has a heap of scores; a frame lies there once, however many classes keep it.
    """

    per_class: int  # frames at most
    soft: bool = False  # beside each lie its labels, a word a class; else its classes are its heaps
    frames: int = 0  # of this step's, written there
    scores: int = 0  # of those, one for each class that keeps the frame

    @property
    def levels(self) -> int:
        """Height of a heap that is full."""
        return self.per_class.bit_length()


@dataclass(frozen=True)
class Passes:
    """The work of one training step; the learner reports it, the clock charges it.

    A count of zero means that the pass did not happen: its cycles and its DDR traffic are not
    charged. ``backward`` may be smaller than ``student_forward``: samples that the confidence
    threshold rejects have no backward work. Where `student_forward` is zero, the teacher's labels
    rejected the whole batch: the step ends with them.
    """

    teacher_forward: int  # samples, every view of a frame is one
    student_forward: int  # samples
    backward: int  # samples, both backward_data and backward_weight
    ema: bool  # the teacher takes part in this step and follows the student
    micro_batches: tuple[tuple[int, int], ...] = ()  # (student_forward, backward); (): only one
    queued: int = 0  # samples whose labels are for later steps; negative: were made in earlier
    ahead: bool = False  # no label of this step's teacher is for this step's student
    own_labels: bool = False  # teacher_forward reads the student's weights: it is its own teacher
    separate_domains: bool = False  # micro-batches are of frames and of labelled images in turn
    frozen: tuple[str, ...] = ()  # layers without weight gradient, update and average
    predictions: int = 0  # frames whose predictions are stored: the labels, which the loss moves on
    kept: Kept | None = None  # frames in DDR that steps learn from after those that label them
    probes: tuple[tuple[int, int], ...] = ()  # (forward, backward) of the student on frames that
    # were moved, one after the other; backward are errors down to the images, and no gradient
    class_balance: bool = False  # before the loss, the student's predictions are averaged

    def __post_init__(self):
        if min(self.teacher_forward, self.student_forward, self.backward, self.frames) < 0:
            raise ValueError(f"samples of a pass must be 0 or more, not {self}")
        whole = (self.student_forward, self.backward)
        for forward, backward in (*self.micro_batches, *self.probes, whole):
            if backward > forward:
                raise ValueError(
                    f"backward must be at most student_forward ({forward} samples), not {backward}"
                )
        if self.probes and not (self.own_labels and self.separate_domains):
            raise ValueError(
                "probes must be () unless the student labels its frames itself and takes them "
                f"apart, not {self.probes}"
            )
        if self.own_labels and self.ema:
            raise ValueError("ema must be False where own_labels is True: there is no teacher")
        if self.predictions and self.teacher_forward:
            raise ValueError(
                "teacher_forward must be 0 where predictions are stored, "
                f"not {self.teacher_forward}"
            )
        sums = tuple(map(sum, zip(*self.parts, strict=True)))
        if sums != (self.student_forward, self.backward):
            raise ValueError(
                f"micro_batches must sum to student_forward and backward "
                f"{self.student_forward, self.backward}, not {sums}"
            )

        if self.separate_domains and len(self.parts) % 2:
            raise ValueError(
                f"micro_batches of separate_domains must be in pairs, not {len(self.parts)}"
            )

    @property
    def frames(self) -> int:
        """Labels that the student reads: one of every view of each of its frames."""
        return self.teacher_forward - self.queued

    @property
    def rejected(self) -> bool:
        """The labels rejected the whole batch."""
        return self.teacher_forward > 0 and self.student_forward == 0

    @property
    def parts(self) -> tuple[tuple[int, int], ...]:
        """(student_forward, backward) of every micro-batch; there is at least one."""
        return self.micro_batches or ((self.student_forward, self.backward),)

    @property
    def labels_read(self) -> tuple[int, ...]:
        """Labels of the teacher's that the loss of every micro-batch reads."""
        count = len(self.parts) // 2 if self.separate_domains else len(self.parts)
        read = [part.stop - part.start for part in cuts(self.frames, count)]
        if self.separate_domains:
            return tuple(labels for of_frames in read for labels in (of_frames, 0))
        return tuple(read)


@dataclass(frozen=True)
class Blend:
    """The teacher that a step's forward pass sees, from the stored one and the student.

    ``stored + ((student - stored) * numerator >> teacher_shift)``; `store`: it is written back.
    """

    numerator: int
    store: bool


@dataclass(frozen=True)
class Turn:
    """What a schedule asks of the values of one step."""

    blend: Blend | None  # how the teacher moves after the step; None: it rests
    labels: int = 1  # batches of frames that the teacher labels: this step's and the next ones';
    # 0: it rests, frames that wait for no label of an earlier step are skipped
    micro_batches: int = 1  # that the student takes one after the other, before one update
    ahead: bool = False  # the student learns from the frames of the step before


def cuts(count: int, parts: int) -> tuple[slice, ...]:
    """The places of `count` samples that each of `parts` micro-batches takes, in order."""
    return tuple(slice(count * part // parts, count * (part + 1) // parts) for part in range(parts))


def shares(
    labelled: int, frames: int, parts: int, separate_domains: bool
) -> list[tuple[slice, slice]]:
    """Which labelled images and which frames every pass of the student takes, in order.

    Both are cut into `parts`, which take both. With `separate_domains` frames come first, in passes
    of their own: labelled images are always learnt from, so that the last pass has backward work.
    """
    together = list(zip(cuts(labelled, parts), cuts(frames, parts), strict=True))
    if not separate_domains:
        return together
    none = slice(0, 0)
    return [share for own, seen in together for share in ((none, seen), (own, none))]
