"""Figures: a tidy table and an Axes in, nothing computed."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

Panel = Callable[[Axes, pd.DataFrame], None]

WIDTH_INCHES, HEIGHT_INCHES = 7.0, 3.0
LONGEST = 28  # letters in a line of a bar's name
ACROSS = 18  # letters of all values that stand side by side below one of three panels
PALETTE = 9  # colours of accsim.mplstyle before they begin anew
HATCHES = ("", "////", "\\\\\\\\", "xxxx", "....", "oooo", "++++")
GREY = "#DDDDDD"  # the pale grey of the same palette: time in which nothing happens


def plot_accuracy_over_time(ax: Axes, curves: pd.DataFrame) -> None:
    """Lines of test accuracy over simulated seconds; one line a network."""
    plot_accuracy(ax, curves, "simulated_seconds")
    ax.set(xlabel="simulated time (s)")


def plot_accuracy_over_energy(ax: Axes, curves: pd.DataFrame) -> None:
    """Lines of test accuracy over joules; one line a network."""
    plot_accuracy(ax, curves, "joules")
    ax.set(xlabel="energy (J)")


def plot_accuracy(ax: Axes, curves: pd.DataFrame, over: str) -> None:
    """Lines of test accuracy over the column `over`; one line a network."""
    marks = {
        "student": ("C0", "o", "-"),
        "teacher": ("C3", "s", "--"),
        "deployed": ("C2", "^", ":"),
    }
    for network, curve in curves.groupby("network"):
        color, marker, line = marks[str(network)]
        ax.plot(
            curve[over], curve["accuracy"], color=color, marker=marker, ls=line, label=str(network)
        )
    ax.set(ylabel="test accuracy")
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))


def plot_stream(ax: Axes, curves: pd.DataFrame) -> None:
    """Lines of the accuracy on the stream's frames over training steps; one line a network."""
    plot_accuracy(ax, curves, "step")
    ax.set(xlabel="training step", ylabel="accuracy on the stream")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def plot_adapted(ax: Axes, curves: pd.DataFrame) -> None:
    """Lines of the mean accuracy on the stream's frames over steps, and its span; one a `line`."""
    for number, (line, curve) in enumerate(curves.groupby("line", sort=False)):
        color = "C2" if line == "deployed" else f"C{3 * number}"
        style = ":" if line == "deployed" else "-"
        ax.plot(curve["step"], curve["mean"], color=color, ls=style, marker=".", label=str(line))
        ax.fill_between(curve["step"], curve["min"], curve["max"], color=color, alpha=0.2, lw=0)
    ax.set(xlabel="training step", ylabel="accuracy on the stream")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))


def plot_accepted(ax: Axes, shares: pd.DataFrame) -> None:
    """Line of the share of unlabelled samples that the teacher was confident about."""
    ax.plot(
        shares["step"], shares["accepted_share"], color="C2", marker="." if len(shares) < 2 else ""
    )
    ax.set(xlabel="training step", ylabel="accepted share of\nunlabelled samples", ylim=(0, 1.02))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))


def plot_pseudo_labels(ax: Axes, shares: pd.DataFrame) -> None:
    """Stacked bars of the share of each class, as wide as their stretch; the last widest is named.

    A stretch reaches back to the one before it, or as far as the first step.
    """
    table = shares.pivot_table(index="step", columns="class", values="share", sort=False)
    starts = np.array([0, *table.index[:-1]])
    widest = table.iloc[-1].idxmax()
    below = np.zeros(len(table))
    for number, (name, share) in enumerate(table.items()):
        ax.bar(starts, share, table.index - starts, below, align="edge", edgecolor="white",
               linewidth=0.3, color=f"C{number % 10}", alpha=1.0 if name == widest else 0.4,
               label=str(name) if name == widest else None)  # fmt: skip
        below += share.to_numpy()
    ax.set(xlabel="training step", ylabel="share of\naccepted samples", ylim=(0, 1),
           xlim=(0, table.index[-1]))  # fmt: skip
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))


def plot_accepted_by_kind(ax: Axes, shares: pd.DataFrame) -> None:
    """Lines of the accepted share of each kind of frame; one line a kind."""
    styles = {
        "clean": ("C2", "-"),
        "other_domain": ("C0", "--"),
        "corrupted": ("C1", "-."),
        "out_of_distribution": ("C3", ":"),
    }
    for kind, share in shares.groupby("kind", sort=False):
        color, line = styles[str(kind)]
        marker = "." if len(share) < 2 else ""
        ax.plot(share["step"], share["accepted_share"], color=color, ls=line, marker=marker,
                label=words(str(kind)))  # fmt: skip
    ax.set(
        xlabel="training step", ylabel="accepted share of\nits unlabelled samples", ylim=(0, 1.02)
    )
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))


def plot_frames_waiting(ax: Axes, waiting: pd.DataFrame) -> None:
    """Lines of the frames in the ring buffer over simulated seconds: mean and most of the steps."""
    for column, color, line in (("most", "C1", "--"), ("mean", "C0", "-")):
        marker = "." if len(waiting) < 2 else ""
        ax.plot(waiting["simulated_seconds"], waiting[column], color=color, ls=line, marker=marker,
                label=column)  # fmt: skip
    ax.set(xlabel="simulated time (s)", ylabel="frames waiting")
    ax.set_ylim(bottom=0)


def plot_ddr_reads(ax: Axes, traffic: pd.DataFrame) -> None:
    """Stacked bars of bytes read from DDR; bars are passes, colours are tensor classes."""
    plot_ddr_bytes(ax, traffic, "read")


def plot_ddr_writes(ax: Axes, traffic: pd.DataFrame) -> None:
    """Stacked bars of bytes written to DDR; bars are passes, colours are tensor classes."""
    plot_ddr_bytes(ax, traffic, "write")


def plot_ddr_bytes(ax: Axes, traffic: pd.DataFrame, direction: str) -> None:
    """Stacked bars of the bytes that went one `direction`, on a scale that holds both."""
    bytes_ = traffic[traffic["direction"] == direction]
    plot_stacked_bars(ax, bytes_, bar="pass", stack="class", length="bytes")
    longest = traffic.groupby(["direction", "pass"])["bytes"].sum().max()
    ax.set(xlabel="bytes over the run", title=f"DDR {direction}", xlim=(0, 1.05 * max(longest, 1)))
    ax.xaxis.set_major_formatter(EngFormatter("B"))
    ax.xaxis.set_major_locator(MaxNLocator(4))


def plot_cycles(ax: Axes, shares: pd.DataFrame) -> None:
    """Stacked bars of how each unit spent the makespan; colours are causes, idle in grey."""
    plot_stacked_bars(ax, shares, bar="unit", stack="cause", length="share", grey="idle")
    ax.set(xlabel="share of the makespan", xlim=(0, 1))
    ax.xaxis.set_major_formatter(PercentFormatter(1.0))


def plot_energy(ax: Axes, joules: pd.DataFrame) -> None:
    """Stacked bars of joules; bars are components, colours are passes."""
    plot_stacked_bars(ax, joules, bar="component", stack="pass", length="joules")
    ax.set(xlabel="energy over the run")
    ax.xaxis.set_major_formatter(EngFormatter("J"))


def plot_ablated_accuracy(ax: Axes, found: pd.DataFrame) -> None:
    """Mean accuracy of every value, with the spread over the seeds."""
    plot_spread(ax, found, "accuracy")
    ax.set(ylabel="test accuracy")
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))


def plot_ablated_gain(ax: Axes, found: pd.DataFrame) -> None:
    """Mean gain of accuracy over the first value, with its spread; both seed by seed."""
    plot_spread(ax, found, "gain")
    ax.set(ylabel="gain over the first\nvalue, seed by seed")
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))


def plot_ablated_equal(ax: Axes, found: pd.DataFrame) -> None:
    """Mean accuracy when the run that ends first has ended, with its spread."""
    plot_spread(ax, found, "accuracy_at_equal_seconds")
    ax.set(ylabel="accuracy at equal time")
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))


def plot_ablated_backward(ax: Axes, found: pd.DataFrame) -> None:
    """Mean share of the samples that had a backward pass, with its spread; the rest was skipped."""
    plot_spread(ax, found, "backward_share")
    ax.set(ylabel="samples with a\nbackward pass", ylim=(0, 1.02))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))


def plot_ablated_cycles(ax: Axes, found: pd.DataFrame) -> None:
    """Mean cycles of every value, with the spread over the seeds."""
    plot_spread(ax, found, "cycles")
    ax.set(ylabel="cycles", ylim=(0, None))
    ax.yaxis.set_major_formatter(EngFormatter())


def plot_ablated_joules(ax: Axes, found: pd.DataFrame) -> None:
    """Mean energy of every value, with the spread over the seeds."""
    plot_spread(ax, found, "joules")
    ax.set(ylabel="energy", ylim=(0, None))
    ax.yaxis.set_major_formatter(EngFormatter("J"))


def plot_ablated_bytes(ax: Axes, found: pd.DataFrame) -> None:
    """Mean bytes over DDR of every value, with the spread over the seeds."""
    plot_spread(ax, found, "ddr_bytes")
    ax.set(ylabel="bytes over DDR", ylim=(0, None))
    ax.yaxis.set_major_formatter(EngFormatter("B"))


def plot_ablated_unmoved(ax: Axes, found: pd.DataFrame) -> None:
    """Mean share of the student's updates that rounded to nothing, with its spread."""
    plot_spread(ax, found, "unmoved")
    ax.set(ylabel="updates rounded\nto nothing", ylim=(0, None))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))


def plot_ablated_saturated(ax: Axes, found: pd.DataFrame) -> None:
    """Mean share of all words that were clipped or overflowed, with its spread."""
    plot_spread(ax, found, "saturated")
    ax.set(ylabel="clipped words", ylim=(0, None))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))


def plot_compared_over_time(ax: Axes, curves: pd.DataFrame) -> None:
    """Lines of test accuracy over simulated seconds; one line a schedule."""
    plot_compared_accuracy(ax, curves, "simulated_seconds")
    ax.set(xlabel="simulated time (s)")


def plot_compared_over_energy(ax: Axes, curves: pd.DataFrame) -> None:
    """Lines of test accuracy over joules; one line a schedule."""
    plot_compared_accuracy(ax, curves, "joules")
    ax.set(xlabel="energy (J)")


def plot_compared_accuracy(ax: Axes, curves: pd.DataFrame, over: str) -> None:
    """Lines of test accuracy over the column `over`; one line a schedule."""
    for place, (schedule, curve) in enumerate(curves.groupby("schedule", sort=False)):
        color = f"C{place % PALETTE}"
        ax.plot(curve[over], curve["accuracy"], color=color, marker=".", label=str(schedule))
    ax.set(ylabel="test accuracy")
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))


def plot_twin_accuracy(ax: Axes, curves: pd.DataFrame) -> None:
    """Lines of test accuracy over the steps; a colour a network, dashed in float32."""
    for (network, arithmetic), curve in curves.groupby(["network", "arithmetic"]):
        color = {"student": "C0", "teacher": "C3"}[str(network)]
        line = "--" if arithmetic == "float32" else "-"
        ax.plot(curve["step"], curve["accuracy"], color=color, ls=line, marker=".",
                label=f"{network}, {arithmetic}")  # fmt: skip
    ax.set(xlabel="training step", ylabel="test accuracy")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))


def plot_compared_seconds(ax: Axes, rows: pd.DataFrame) -> None:
    """Bars of the simulated seconds of a run; bars are schedules."""
    plot_bars(ax, rows, "seconds", "C0")
    ax.set(xlabel="time")
    ax.xaxis.set_major_formatter(EngFormatter("s"))


def plot_compared_joules(ax: Axes, rows: pd.DataFrame) -> None:
    """Bars of the joules of a run; bars are schedules."""
    plot_bars(ax, rows, "joules", "C1")
    ax.set(xlabel="energy")
    ax.xaxis.set_major_formatter(EngFormatter("J"))


def plot_compared_ddr(ax: Axes, rows: pd.DataFrame) -> None:
    """Bars of the bytes of DDR that a run takes at its fullest; bars are schedules."""
    plot_bars(ax, rows, "peak_ddr_bytes", "C2")
    ax.set(xlabel="DDR taken, at most")
    ax.xaxis.set_major_formatter(EngFormatter("B"))


def plot_compared_on_chip(ax: Axes, rows: pd.DataFrame) -> None:
    """Bars of the on-chip bytes that a run takes at its fullest; bars are schedules."""
    plot_bars(ax, rows, "peak_on_chip_bytes", "C4")
    ax.set(xlabel="buffers taken, at most")
    ax.xaxis.set_major_formatter(EngFormatter("B"))


def plot_compared_last(ax: Axes, rows: pd.DataFrame) -> None:
    """Points of the final test accuracy with its spread over the seeds; rows are schedules."""
    plot_points(ax, rows, "accuracy")
    ax.set(xlabel="test accuracy")


def plot_compared_equal(ax: Axes, rows: pd.DataFrame) -> None:
    """The same when the run that ends first has ended."""
    plot_points(ax, rows, "accuracy_at_equal_seconds")
    ax.set(xlabel="accuracy at equal time")


def plot_compared_cycles(ax: Axes, cycles: pd.DataFrame) -> None:
    """Stacked bars of cycles waited; bars are schedules, colours are passes, hatches are units."""
    passes = [name for name in cycles["pass"].unique() if name != "idle"]
    units = [name for name in cycles["unit"].unique() if name != "idle"]
    units.sort(key=lambda name: name != "pe_array")  # plain where the array computes
    schedules = list(cycles["schedule"].unique())
    ends = dict.fromkeys(schedules, 0.0)
    looks: dict[str, Any] = {"height": 0.7, "edgecolor": "white", "linewidth": 0.4}
    for _, piece in cycles.iterrows():
        idle = piece["pass"] == "idle"
        ax.barh(
            schedules.index(piece["schedule"]),
            piece["cycles"],
            left=ends[piece["schedule"]],
            color=GREY if idle else f"C{passes.index(piece['pass'])}",
            hatch="" if idle else HATCHES[units.index(piece["unit"])],
            **looks,
        )
        ends[piece["schedule"]] += piece["cycles"]
    name_bars(ax, schedules)
    for place, name in enumerate(passes):
        ax.barh(0, 0, color=f"C{place}", label=words(name))
    for place, name in enumerate(units):
        ax.barh(
            0, 0, color="#888888", hatch=HATCHES[place], label=f"waiting for {words(name)}", **looks
        )
    if "idle" in set(cycles["pass"]):
        ax.barh(0, 0, color=GREY, label="waiting for frames")
    ax.set(xlabel="cycles of the run, by pass and by what they wait for")
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.xaxis.set_major_formatter(EngFormatter())


def plot_compared_bytes(ax: Axes, traffic: pd.DataFrame) -> None:
    """Stacked bars of DDR bytes; bars are schedules, colours are tensor classes."""
    plot_stacked_bars(ax, traffic, bar="schedule", stack="class", length="bytes")
    ax.set(xlabel="bytes over the run, read and written")
    ax.xaxis.set_major_formatter(EngFormatter("B"))


def plot_spread(ax: Axes, found: pd.DataFrame, measure: str) -> None:
    """Points of the column `measure` by `value`, bars of its ``_std``; a colour a `line`."""
    values = list(found["value"].unique())
    for place, (line, points) in enumerate(found.groupby("line", sort=False)):
        at, spread = [values.index(value) for value in points["value"]], points[f"{measure}_std"]
        ax.errorbar(at, points[measure], spread.fillna(0.0), color=f"C{place % PALETTE}",
                    marker="o", capsize=3, label=words(line))  # fmt: skip
    rotation = 45 if len("".join(values)) > ACROSS else 0
    ax.set_xticks(range(len(values)), labels=values, rotation=rotation)
    ax.set(xlabel=words(found["choice"].iloc[0]))


def plot_bars(ax: Axes, rows: pd.DataFrame, length: str, color: str) -> None:
    """Horizontal bars of column `length`, a schedule each, top to bottom."""
    ax.barh(range(len(rows)), rows[length], height=0.7, color=color)
    name_bars(ax, rows["schedule"])
    ax.xaxis.set_major_locator(MaxNLocator(3))


def plot_points(ax: Axes, rows: pd.DataFrame, measure: str) -> None:
    """Points of column `measure` with bars of its ``_std``, a schedule each, top to bottom."""
    spread = rows[f"{measure}_std"].astype("float64").fillna(0.0)
    ax.errorbar(rows[measure], range(len(rows)), xerr=spread, fmt="o", color="C3", capsize=3)
    name_bars(ax, rows["schedule"])
    ax.xaxis.set_major_locator(MaxNLocator(3))
    ax.xaxis.set_major_formatter(PercentFormatter(1.0))


def name_bars(ax: Axes, names: Iterable[object]) -> None:
    """Label horizontal bars 0, 1, 2 ... from top to bottom; of long names two lines."""
    labels = [words(name) for name in names]
    labels = [text.replace("(", "\n(", 1) if len(text) > LONGEST else text for text in labels]
    ax.set_yticks(range(len(labels)), labels=labels)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)


def plot_stacked_bars(
    ax: Axes, table: pd.DataFrame, bar: str, stack: str, length: str, grey: str = ""
) -> None:
    """Horizontal bars named by column `bar`, top to bottom as they first appear in `table`.

    Every value of column `stack` is one colour, in order of appearance (hatched when the palette
    begins anew, light grey for the value `grey`); column `length` says how long its piece is.
    """
    bars = {name: place for place, name in enumerate(table[bar].unique())}
    values = [value for value in table[stack].unique() if value != grey]
    ends = dict.fromkeys(bars, 0.0)
    for value, pieces in table.groupby(stack, sort=False):
        at = values.index(value) if value != grey else 0
        ax.barh(
            [bars[name] for name in pieces[bar]],
            pieces[length],
            left=[ends[name] for name in pieces[bar]],
            height=0.7,
            color=GREY if value == grey else f"C{at}",
            hatch="////" if at >= PALETTE else "",
            edgecolor="white",
            linewidth=0.4,
            label=words(value),
        )
        for name, piece in zip(pieces[bar], pieces[length], strict=True):
            ends[name] += piece
    name_bars(ax, bars)


def words(name: object) -> str:
    """A name as a reader writes it."""
    return str(name).replace("_", " ")


def save_figure(
    path: Path,
    table: pd.DataFrame,
    panels: Sequence[Panel],
    share_y: bool = True,
    rows: int = 1,
    height_inches: float = HEIGHT_INCHES,
    legend_below: bool = False,
) -> None:
    """Draw `panels` of one table side by side, in so many rows, into the PNG at `path`.

    With `share_y` they have one vertical axis, labelled on the left. The legend, that of the first
    panel, stands on the right unless `legend_below`.

    Only this figure sees accsim's style: neither pyplot nor the caller's settings are touched.
    """
    with matplotlib.style.context("accsim.report.accsim"):
        figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
        axes = figure.subplots(rows, len(panels) // rows, sharey=share_y, squeeze=False).ravel()
        for ax, panel in zip(axes, panels, strict=True):
            panel(ax, table)
            if share_y and not ax.get_subplotspec().is_first_col():
                ax.set_ylabel("")
                ax.tick_params(axis="y", labelleft=False)
        handles, labels = axes[0].get_legend_handles_labels()
        if any(labels):
            if legend_below:
                figure.legend(handles, labels, loc="outside lower center", ncols=2)
            else:
                figure.legend(handles, labels, loc="outside right upper")
        figure.savefig(path, metadata={"Software": None})
