"""The five lines in which a run answers: for the terminal and for the top of the page."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.ticker import EngFormatter
from rich.table import Table

KEYS: dict[str, tuple[str, ...]] = {
    "workload": ("steps",),
    "version": (),
    "seed": (),
    "data": ("name", "source", "stand_in", "images"),
    "accuracy": ("student", "teacher", "test_images"),
    "commonest_step": ("steps", "teacher_forward", "student_forward", "backward", "cycles"),
    "cost": (
        "cycles",
        "seconds",
        "joules",
        "ddr_read_bytes",
        "ddr_write_bytes",
        "peak_ddr_bytes",
        "peak_on_chip_bytes",
        "macs",
        "pe_utilization",
        "frames_seen",
        "frames_dropped",
    ),
    "memory": (),
    "ledgers": (),
    "energy_table": (),
}


def check_result(result: Mapping[str, Any]) -> None:
    """Raise ValueError unless `result` holds every key of `KEYS`."""
    missing = [name for name in KEYS if name not in result]
    missing += [
        f"{name}.{key}"
        for name, keys in KEYS.items()
        for key in keys
        if name in result and key not in result[name]
    ]
    if missing:
        raise ValueError(f"result must hold every key of a report; missing: {', '.join(missing)}")


def answer(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was learned, how fast and at what cost: (subject, sentence), five of them.

    Where `result["stream"]` is there, another tells what the networks made of the frames as they
    came, where `result["floor"]` is how far they fell below the deployed one, and where
    `result["guard"]` is how often a guard rolled back; where `result["phases"]` are there, another
    tells what each took and kept of the stream; where `result["rejected"]` is, another tells what
    samples without backward work spare; where
    `result["real_time"]` is, another tells deadlines, latencies and the ring buffer; where
    `result["frozen"]` is there, another tells what a step saves by layers that do not train;
    where `result["gate"]` has frames that are not clean, another tells what the confidence
    threshold let through; where `result["accuracy"]["shifted"]` names shifts of the stream, one
    tells the accuracy on test images that are shifted in the same way. `result["suspicions"]`, if
    any, come last.

    `result["cost"]` counts the whole run: `seconds` is simulated time with the waits for frames,
    `cycles` the machine's. Where it holds the optional `ddr_peak_bytes_per_second` the share of
    the DDR's peak bandwidth is told too. Raises ValueError for a missing key.
    """
    check_result(result)
    cost = result["cost"]
    steps = max(result["workload"]["steps"], 1)
    gate, shifts = result.get("gate", {}), result["accuracy"].get("shifted", {})
    return [
        ("Learned", learned(result["accuracy"])),
        *([("Stream", on_stream(result["stream"]))] if result.get("stream") else []),
        *([("Floor", stood_above(result["floor"]))] if result.get("floor") else []),
        *([("Guard", guarded(result["guard"]))] if result.get("guard") else []),
        *([("Phases", went_through(result["phases"]))] if result.get("phases") else []),
        (
            "Speed",
            f"{quantity(cost['seconds'] / steps, 's')} and {cost['cycles'] / steps:,.0f} cycles a "
            f"step ({quantity(cost['seconds'], 's')} for {steps:,} steps, simulated); the PE array "
            f"did {percent(cost['pe_utilization'])} of the MACs it could have done",
        ),
        ("Frames", frames(cost)),
        *([("Real time", in_time(result["real_time"]))] if result.get("real_time") else []),
        (
            "Energy",
            f"{quantity(cost['joules'] / steps, 'J')} a step, {quantity(cost['joules'], 'J')} in "
            f"all, {quantity(per(cost['joules'], cost['seconds']), 'W')} on average",
        ),
        ("DDR", ddr(cost)),
        *([("Frozen", spared(result["frozen"]))] if result.get("frozen") else []),
        *([("Rejected", kept_out(result["rejected"]))] if result.get("rejected") else []),
        *([("Gate", let_through(gate))] if set(gate) - {"clean"} else []),
        *([("Shifted", stood(shifts))] if shifts else []),
        *(("Suspect", suspicion) for suspicion in result.get("suspicions", ())),
    ]


def learned(accuracy: Mapping[str, Any]) -> str:
    """Test accuracy of the student, and of the teacher if there is one."""
    sentence = f"the student gets {percent(accuracy['student'])} of the "
    sentence += f"{accuracy['test_images']:,} test images right"
    if accuracy["teacher"] is not None:
        sentence += f", its teacher {percent(accuracy['teacher'])}"
    if accuracy.get("deployed") is not None:
        sentence += f", the deployed network {percent(accuracy['deployed'])}"
    return sentence


def on_stream(stream: Mapping[str, Mapping[str, Any]]) -> str:
    """Accuracy of the networks on the frames as they came, and where it was lowest."""
    networks = [
        f"the {name} tells {percent(found['accuracy'])} right, at worst {percent(found['lowest'])} "
        f"(in the stretch to step {found['lowest_step']:,})"
        for name, found in stream.items()
    ]
    frames = max(found["frames"] for found in stream.values())
    return f"of {frames:,} frames as they came {'; '.join(networks)}"


def stood_above(floor: Mapping[str, Mapping[str, Any]]) -> str:
    """How the networks that learn compare with the deployed one where that is worst."""
    networks = [
        f"the {name} tells {100 * found['least_gain']:+.1f} points of the frames right in its "
        f"worst stretch (to step {found['least_gain_step']:,}), and at its lowest "
        f"{percent(found['lowest_test'])} of the test images (step {found['lowest_test_step']:,})"
        for name, found in floor.items()
    ]
    return f"against the deployed network {'; '.join(networks)}"


def kept_out(found: Mapping[str, Any]) -> str:
    """What rejected samples spare of a run that accepts all."""
    share = percent(found["rejected"] / found["samples"])
    batches = found["whole_batches"]
    whole = f" ({batches:,} whole batches among them)" if batches else ""
    return (
        f"{share} of {found['samples']:,} unlabelled samples{whole} have no backward work, which "
        f"spares {percent(found['spared_cycles_share'])} of the cycles and "
        f"{percent(found['spared_joules_share'])} of the joules of a run that accepts all, even "
        "where the machine idles for the time that it gains"
    )


def guarded(guard: Mapping[str, int]) -> str:
    """Checks and roll-backs of a guard, and what it saw of the held-out images."""
    return (
        f"the deployed network was put back {guard['roll_backs']:,} times in {guard['checks']:,} "
        f"checks: at the lowest {guard['lowest_right']:,} of {guard['images']:,} held-out images "
        f"were right, and {guard['least_right']:,} must be"
    )


def went_through(phases: Sequence[Mapping[str, Any]]) -> str:
    """Every phase of a rule: its last step, time, energy, accuracy, and what it kept of frames."""
    told = []
    for row in phases:
        sentence = f"{row['phase']} to step {row['last_step']:,} "
        sentence += f"({quantity(row['seconds'], 's')}, {quantity(row['joules'], 'J')}"
        if row["accuracy"] is not None:
            sentence += f", {percent(row['accuracy'])} right"
        if row["labelled"]:
            sentence += f", {row['kept']:,} of {row['labelled']:,} frames kept as they came"
        told.append(f"{sentence})")
    return "; ".join(told)


def stood(shifts: Mapping[str, Mapping[str, Any]]) -> str:
    """Test accuracy under each shift of the stream."""
    return "; ".join(
        f"under {name} {learned({'teacher': None, **accuracy})}"
        for name, accuracy in shifts.items()
    )


def spared(found: Mapping[str, Any]) -> str:
    """What layers that do not train save of a step of the commonest kind."""
    shares = ", ".join(
        f"{percent(found[f'saved_{name}'])} of the {told}"
        for name, told in (("cycles", "cycles"), ("macs", "MACs"), ("ddr_bytes", "DDR bytes"))
    )
    return (
        f"{found['layers']} of {found['layers_with_parameters']} layers with parameters do not "
        f"train, which saves {shares} and {percent(found['saved_joules'])} of the joules of a step"
    )


def let_through(gate: Mapping[str, Mapping[str, int]]) -> str:
    """Accepted share of the unlabelled samples of each kind of frame."""
    kinds = []
    for kind, counts in gate.items():
        samples = counts["accepted"] + counts["rejected"]
        share = percent(counts["accepted"] / samples)
        kinds.append(f"{share} of {samples:,} {kind.replace('_', ' ')}")
    return f"the teacher was sure of {', '.join(kinds)} samples"


def frames(cost: Mapping[str, Any]) -> str:
    """Frames a second that training kept up with, against those that the camera sent."""
    seen, dropped = cost["frames_seen"], cost["frames_dropped"]
    if seen + dropped == 0:
        return "no camera: nothing arrived while the machine worked"
    return (
        f"{per(seen, cost['seconds']):,.1f} frames a second sustained of "
        f"{per(seen + dropped, cost['seconds']):,.1f} that the camera sent; "
        f"{dropped:,} of {seen + dropped:,} dropped ({percent(dropped / (seen + dropped))})"
    )


def in_time(found: Mapping[str, Any]) -> str:
    """Steps that kept up with the camera, the age of what they learned from, and what waited."""
    sentence = (
        f"{percent(found['deadlines_met'])} of the steps met the deadline of "
        f"{quantity(found['deadline_seconds'], 's')}, in which the next step's frames arrive; "
    )
    if found["mean_latency_seconds"] is not None:
        sentence += (
            f"from a frame's arrival to the end of its step "
            f"{quantity(found['mean_latency_seconds'], 's')}, at worst "
            f"{quantity(found['worst_latency_seconds'], 's')}; "
        )
    return sentence + (
        f"{found['mean_frames_waiting']:,.1f} frames waited in the ring buffer as a step began, "
        f"at most {found['max_frames_waiting']:,}"
    )


def ddr(cost: Mapping[str, Any]) -> str:
    """Bytes moved, and their rate against the DDR's peak if that is known."""
    read, write = cost["ddr_read_bytes"], cost["ddr_write_bytes"]
    rate = per(read + write, cost["seconds"])
    sentence = f"{quantity(read, 'B')} read and {quantity(write, 'B')} written, "
    sentence += quantity(rate, "B/s")
    peak = cost.get("ddr_peak_bytes_per_second")
    return sentence if peak is None else f"{sentence} or {percent(rate / peak)} of the peak"


def summary_table(result: Mapping[str, Any]) -> Table:
    """The answer as a table for the terminal; a stand-in data set is named first."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for warning in stand_in_warnings(result["data"]):
        table.add_row("[bold red]Stand-in", f"[bold red]{warning}")
    for subject, sentence in answer(result):
        table.add_row(subject, sentence)
    return table


def stand_in_warnings(data: Mapping[str, Any]) -> list[str]:
    """The sentences that keep a made-up data set from being taken for the real one."""
    warnings = [
        f"frames of {other['name']} are not of that set but of a stand-in ({other['source']}): "
        "what the teacher accepts of them says nothing about the real data set"
        for other in data.get("others", ())
        if other["stand_in"]
    ]
    if data["stand_in"]:
        warnings.insert(
            0,
            f"these images are not {data['name']} but a stand-in ({data['source']}): "
            "the accuracies below say nothing about the real data set",
        )
    return warnings


def quantity(value: float, unit: str) -> str:
    """A number with an SI prefix and two decimals: 0.0123 s is 12.30 ms, 1.5e9 B is 1.50 GB."""
    return EngFormatter(unit, places=2)(value)


def percent(share: float) -> str:
    """A share of one as a percentage with one decimal."""
    return f"{share:.1%}"


def per(amount: float, seconds: float) -> float:
    """Amount a second; 0 for a run that took no time."""
    return amount / seconds if seconds else 0.0
