"""What a schedule writes a step in: passes of teacher and student, in order."""

from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from math import gcd

from accsim.dataflow.base import Dataflow
from accsim.dataflow.sweep import WordSweep
from accsim.dataflow.tile import Tensor
from accsim.hardware.accelerator import AcceleratorSpec
from accsim.network import INPUT, Network
from accsim.numerics import Numerics
from accsim.passes import Kept, Passes
from accsim.schedule.backward import Backward
from accsim.schedule.drafts import Drafts, by_role
from accsim.schedule.forward import Forward, Trace
from accsim.schedule.gradient_slots import GradientSlots
from accsim.schedule.operation import Operation
from accsim.schedule.placement import Placement
from accsim.schedule.stores import Stores
from accsim.schedule.words import Words


class Program:
    """Collects the passes of one step in order; `operations` places and cuts them."""

    def __init__(
        self,
        network: Network,
        numerics: Numerics,
        accelerator: AcceleratorSpec,
        dataflow: Dataflow,
        own_labels: bool = False,
        frozen: Collection[str] = (),
        predictions: int = 0,
        kept: Kept | None = None,
    ):
        self.network = network
        self.parts = accelerator.parts
        self.dataflow = dataflow
        self.kept = kept
        self._drafts = Drafts(numerics, accelerator)
        self._stores = Stores(network, numerics, own_labels, frozen, predictions, kept)
        self._slots = GradientSlots(numerics, accelerator)
        self._words = Words(self._drafts, self._stores, self._slots, network)
        self._traces: dict[str, Trace] = {}  # of the last forward pass of each network
        self._labels: Tensor | None = None  # the logits that frames learn from
        self._logit_error: Tensor | None = None
        self._image_error: Tensor | None = None  # of the last probe
        self._places: Iterator[int] = iter(())  # of this step's frames among the predictions
        self._outlasting: set[Tensor] = set()  # what later steps read too

    def keep_teacher_twice(self) -> None:
        """Write the teacher's average beside the teacher; the next step finds them changed over."""
        self._stores.keep_teacher_twice()

    def interleave(self) -> None:
        """Spread what comes up to the teacher's forward pass over what comes after."""
        self._drafts.interleave()

    def operations(self) -> tuple[Operation, ...]:
        """The operations in order, every tensor with its place and every one cut into tiles.

        Raises ValueError for tensors beyond the DDR.
        """
        return Placement(
            self._drafts,
            self._stores,
            self._slots,
            self.dataflow,
            self._words.place_of,
            self._outlasting,
        ).operations()

    # The student's part of a step

    def student(self, passes: Passes, average: bool = False) -> None:
        """Its passes, micro-batch by micro-batch, and one update of the sum of their gradients.

        With `average` the teacher follows in the same pass over the words as the update. Labels
        that are for more steps than this one wait in DDR. Probes come first.
        """
        if passes.predictions:
            self._places = scattered(passes.frames, passes.predictions)
        elif passes.queued > 0 and not passes.ahead:
            assert self._labels, "nothing was labelled"
            self._outlasting.add(self._labels)
        elif passes.frames and (passes.ahead or passes.queued < 0):
            node = self.network.nodes[-1]
            self._labels = self._drafts.map(
                f"teacher/{node.name}/output", "activations", node.output, passes.frames
            )
        parts = passes.parts
        last = max((index for index, (_, samples) in enumerate(parts) if samples), default=None)
        labels = passes.labels_read
        for samples in passes.probes:
            self._probe(*samples)
        moved = self._moved("student", passes.frames) if passes.probes else None
        for index, ((forward, backward), labelled) in enumerate(zip(parts, labels, strict=True)):
            self.student_forward(forward, moved if labelled else None)
            if passes.class_balance and labelled:
                self.balance(forward)
            self.loss(forward, labelled, backward)
            self.backward(backward, update=index == last, average=average)

    def _probe(self, samples: int, backward: int) -> None:
        """The student on `samples` frames that were moved, and the error of the images of some."""
        self._forward("probe", samples, self._moved("probe", samples))
        self.loss(samples, samples, backward, "probe")
        frozen = self.network.trainable()
        down = self._backward(
            "probe", backward, frozen, to_images=True, pass_name="probe_backward_data"
        )
        for _ in down.run(self._error_of_logits):
            pass
        self._image_error = down.image_error

    def _moved(self, network: str, samples: int) -> Tensor:
        """The frames of the labels, each a given length further: along the error that a probe left.

        Where there is none, along random signs that the lanes draw. The squares of an image's error
        are summed in a pass before; the lanes then do one multiply-add a value, as in the backward
        pass of a batch norm.
        """
        node, error = self.network.nodes[0], self._image_error
        frames = self._traces["teacher"].outputs[INPUT]
        moved = self._drafts.map(f"{network}/images", "images", self.network.image, samples)
        errors = (error,) if error else ()
        steps = [("statistics", {"input": errors}, errors)] if error else []
        steps += [("apply", {"error": errors, "input": (frames,), "below": (moved,)}, ())]
        for step, tensors, keeps in steps:
            reads, writes = by_role((step,), tensors)
            most = max(tensor.samples for tensor in reads)

            def job(use, step=step, reads=reads, writes=writes, most=most):
                return WordSweep(
                    label=f"{node.name}/perturb",
                    chain=(step,),
                    words=most * node.input.size,
                    reads=tuple(use(tensor, tensor.samples) for tensor in reads),
                    writes=tuple(use(tensor, tensor.samples) for tensor in writes),
                )

            self._drafts.add(
                network, node, "perturb", most, reads, writes, job,
                words=most * node.input.size, keeps=keeps,
            )  # fmt: skip
        return moved

    # Forward

    def teacher_forward(
        self, samples: int, blend: bool = False, store: bool = False, ema_ahead: bool = False
    ) -> None:
        """The teacher's labels; with `blend` its weights are averaged as they stream in.

        With `ema_ahead` a layer is averaged in a pass of its own, behind the product before it.
        """
        if samples:
            to_average = deque(self.network.nodes if ema_ahead else ())
            self._words.average_next(to_average)
            behind_product = partial(self._words.average_next, to_average)  # under the product
            self._forward("teacher", samples, None, behind_product, blend, store)
            self._labels = self._traces["teacher"].logits

    def student_forward(self, samples: int, images: Tensor | None = None) -> None:
        """The student's forward pass; what the backward pass will need stays.

        Of `images`, or of those that are there as the step begins.
        """
        if samples:
            self._forward("student", samples, images)

    def _forward(
        self,
        network: str,
        samples: int,
        images: Tensor | None,
        behind_product: Callable[[], None] = lambda: None,
        blend: bool = False,
        store: bool = False,
    ) -> None:
        forward = Forward(self._drafts, self._stores, self.network, network, samples, blend, store)
        self._traces[network] = forward.run(images, behind_product)

    # Loss

    def balance(self, samples: int) -> None:
        """A sum for each class over the student's logits, which the loss then needs."""
        node, logits = self.network.nodes[-1], self._traces["student"].logits
        words = samples * node.output.size

        def job(use):
            return WordSweep(
                label="balance",
                chain=("balance",),
                words=words,
                reads=(use(logits, samples),),
                writes=(),
            )

        self._drafts.add("student", node, "balance", samples, (logits,), (), job, words=words)

    def loss(
        self,
        student_samples: int,
        teacher_samples: int,
        backward_samples: int,
        network: str = "student",
    ) -> None:
        """Logits and labels in, the error of the logits of the samples that count out.

        Without student samples the teacher's logits alone, whose confidence rejected the batch.
        Stored predictions, each at its own place, take those logits' part and are moved on. A probe
        has no other labels than the teacher's.
        """
        node = self.network.nodes[-1]
        store = self._stores.predictions
        places = tuple(islice(self._places, teacher_samples)) if store else ()
        labels: tuple[Tensor, ...] = ()
        logits: dict[Tensor, int] = {}
        if student_samples:
            label_bytes = 1 if self.network.classes < 256 else 2  # one code means: no label
            if network == "student":
                labels = (Tensor("student/labels", "labels", label_bytes, student_samples),)
            logits[self._traces[network].logits] = student_samples
        if teacher_samples and not store:
            assert self._labels, "frames must be labelled before they are learned from"
            logits[self._labels] = teacher_samples
        writes: tuple[Tensor, ...] = ()
        if backward_samples:
            self._logit_error = self._drafts.map(
                f"{network}/loss/error", "error", node.output, backward_samples
            )
            writes = (self._logit_error,)
        if not logits:
            return
        words = (sum(logits.values()) + len(places)) * node.output.size
        tensors = {"logits": tuple(logits), "labels": labels, "error": writes}
        chain = ("loss",)
        if store and places:
            tensors["predictions"], chain = (store,), ("ensemble_loss",)
        reads, writes = by_role(chain, tensors)

        def operand(use, tensor):
            if tensor is store:
                return replace(use(tensor, len(places)), pending=False, places=places)
            return use(tensor, logits.get(tensor, tensor.samples))

        def job(use):
            return WordSweep(
                label="loss",
                chain=chain,
                words=words,
                reads=tuple(operand(use, tensor) for tensor in reads),
                writes=tuple(operand(use, tensor) for tensor in writes),
            )

        name = "loss" if network == "student" else f"{network}_loss"
        self._drafts.add(network, node, name, student_samples, reads, writes, job, words=words)

    # Backward

    def backward(self, samples: int, update: bool = True, average: bool = False) -> None:
        """Errors down the student, gradients and the update of every layer that trains.

        They go as far down as a layer trains. Without `update` the gradients wait for those of the
        next micro-batch; with `average` the update and the teacher's average are one pass.
        """
        if not samples:
            return
        frozen = self._stores.frozen
        for node, gradient in self._backward("student", samples, frozen).run(self._error_of_logits):
            if update and node.trains(frozen):
                self._words.update(node, gradient, average)
            elif gradient:
                self._words.accumulate(node, gradient)

    def _backward(self, network, samples, frozen, to_images=False, pass_name="backward_data"):
        return Backward(
            self._drafts, self._stores, self._slots, self.network, self._traces[network], samples,
            frozen, to_images, network, pass_name,
        )  # fmt: skip

    @property
    def _error_of_logits(self) -> Tensor:
        if self._logit_error is None:
            raise ValueError("loss of the same samples must come before backward, not after it")
        return self._logit_error

    def ema(self) -> None:
        """The teacher's average as a pass of its own: student and teacher in, teacher out."""
        for node in self.network.nodes:
            self._words.average(node)

    # Frames that wait

    def keep(self) -> None:
        """Copy the frames that some class keeps, of those just labelled, and sink their scores.

        A score that takes the place of the lowest sinks through its heap: of each level two are
        read and one is written, the lowest is in a register. Where the heaps have fewer scores than
        that touches, they are read and written once.
        """
        kept = self.kept
        if not (kept and kept.frames):
            return
        node, room = self.network.nodes[-1], kept.per_class * self.network.classes
        read, written = (
            min(kept.scores * count, room) for count in (2 * (kept.levels - 1), kept.levels)
        )
        scores, *stores = self._stores.of_frames.values()
        trace = self._traces["teacher"]
        sources = (trace.outputs[INPUT], trace.logits)[: len(stores)]
        tensors = {"frames": sources, "scores": (scores,), "kept": tuple(stores)}
        reads, writes = by_role(("keep",), tensors)
        words = kept.frames * (self.network.image.size + kept.soft * self.network.classes) + read

        def job(use):
            frames = kept.frames
            return WordSweep(
                label="keep",
                chain=("keep",),
                words=words,
                reads=tuple(use(one, read if one is scores else frames) for one in reads),
                writes=tuple(use(one, written if one is scores else frames) for one in writes),
            )

        self._drafts.add("teacher", node, "keep", kept.frames, reads, writes, job, words=words)


def scattered(count: int, places: int) -> Iterator[int]:
    """Some of so many `places`, far apart and in no order, as frames that return have them.

    A step is simulated once for all: which frames come is not known. Multiples of the golden ratio
    spread evenly (Knuth, "The Art of Computer Programming" 3, section 6.4, on hashing by them).
    """
    step = next(
        step for step in range(count * 618 // 1000 + 1, 2 * count + 2) if gcd(step, count) == 1
    )
    return (places * (index * step % count) // count for index in range(count))
