"""What the axes show is what the table says, and drawing leaves no trace."""

import matplotlib
import pandas as pd
import pytest
from matplotlib.figure import Figure

from accsim.report import figures, tables

NONE = float("nan")


@pytest.fixture
def ax():
    return Figure().subplots()


def pieces(ax):
    """(bar, label, start, length) of every piece of a stacked bar chart."""
    bars = [tick.get_text() for tick in ax.get_yticklabels()]
    return [
        (bars[round(p.get_y() + p.get_height() / 2)], group.get_label(), p.get_x(), p.get_width())
        for group in ax.containers
        for p in group
    ]


def test_accuracy_lines_are_the_curves(ax, run):
    figures.plot_accuracy_over_energy(ax, tables.accuracy_curves(run.tables))
    lines = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    assert lines == {
        "student": [[1.0, 0.5], [2.0, 0.75]],
        "teacher": [[1.0, 0.25], [2.0, 0.8125]],
    }


def test_accepted_line_is_the_shares(ax, run):
    figures.plot_accepted(ax, tables.accepted_shares(run.tables))
    assert ax.lines[0].get_xydata().tolist() == [[1, 0], [2, 0.25], [3, 0.5], [4, 1]]


def test_shares_of_classes_are_stacked_over_their_stretch(ax, run):
    figures.plot_pseudo_labels(ax, tables.pseudo_label_shares(run.tables))
    boxes = [bar.get_bbox().bounds for bar in ax.patches]  # left, bottom, width, height
    assert boxes == [
        (0, 0, 2, 0.75), (2, 0, 2, 0.5),
        (0, 0.75, 2, 0.25), (2, 0.5, 2, 0.25),
        (0, 1, 2, 0), (2, 0.75, 2, 0.25),
    ]  # fmt: skip
    assert ax.get_legend_handles_labels()[1] == ["zero"]


def test_every_kind_of_frame_has_a_line(ax, run):
    figures.plot_accepted_by_kind(ax, tables.accepted_by_kind(run.tables))
    lines = {line.get_label(): line.get_ydata().tolist() for line in ax.lines}
    assert lines == {
        "clean": [0, 20 / 60, 48 / 60, 1],
        "out of distribution": [0, 4 / 36, 0, 1],
    }


def test_pieces_of_a_bar_stand_end_to_end(ax, run):
    figures.plot_energy(ax, tables.energy_shares(run.tables))
    assert pieces(ax) == [
        ("ddr", "student forward", 0.0, 0.5),
        ("pe array", "student forward", 0.0, 0.75),
        ("ddr", "update", 0.5, 0.25),
        ("ddr", "ema", 0.75, 0.5),
    ]


def test_reads_and_writes_share_bars_and_scale(run):
    left, right = Figure().subplots(1, 2)
    traffic = tables.ddr_traffic(run.tables)
    figures.plot_ddr_reads(left, traffic)
    figures.plot_ddr_writes(right, traffic)
    assert left.get_xlim() == right.get_xlim() == (0, 126)  # 5 % more than 120 bytes
    assert pieces(left)[1] == ("student forward", "weights", 100.0, 20.0)
    assert pieces(right)[0] == ("student forward", "activations", 0.0, 16.0)


def test_units_fill_the_makespan_and_idle_is_grey(ax, run):
    figures.plot_cycles(ax, tables.cycle_shares(run.tables))
    ends: dict[str, float] = {}
    for bar, _, start, length in pieces(ax):
        assert start == ends.get(bar, 0.0)
        ends[bar] = start + length
    assert ends == {"vector unit": 1.0, "pe array": 1.0}
    idle = next(group for group in ax.containers if group.get_label() == "idle")
    assert matplotlib.colors.to_hex(idle[0].get_facecolor()) == figures.GREY.lower()


def test_a_colour_that_comes_again_is_hatched():
    names = [f"class{at:02}" for at in range(figures.PALETTE + 1)]
    table = pd.DataFrame({"pass": "update", "class": names, "bytes": 1})
    with matplotlib.style.context("accsim.report.accsim"):
        ax = Figure().subplots()
        figures.plot_stacked_bars(ax, table, bar="pass", stack="class", length="bytes")
    first, last = ax.containers[0][0], ax.containers[-1][0]
    assert first.get_facecolor() == last.get_facecolor()
    assert (first.get_hatch(), last.get_hatch()) == ("", "////")


def test_every_line_of_an_ablation_holds_its_values_in_their_order(ax):
    found = pd.DataFrame(
        {
            "choice": "labels",
            "value": ["20", "10", "10"],  # the second line has only the second value
            "line": ["share 0", "share 0", "share 1"],
            "cycles": [5, 6, 7],
            "cycles_std": [1, NONE, NONE],
        }
    )
    figures.plot_ablated_cycles(ax, found)
    lines = {c.get_label(): c.lines[0].get_xydata().tolist() for c in ax.containers}
    assert lines == {"share 0": [[0, 5], [1, 6]], "share 1": [[1, 7]]}
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["20", "10"]
    assert ax.get_xlabel() == "labels"


def test_schedules_stand_side_by_side_in_their_order():
    rows = pd.DataFrame(
        {
            "schedule": ["SeparateEma", "GradientAccumulation(SeparateEma)"],
            "joules": [3.0, 2.0],
            "accuracy": [0.5, 0.75],
            "accuracy_std": [0.125, None],
        }
    )
    energy, accuracy = Figure().subplots(1, 2, sharey=True)
    figures.plot_compared_joules(energy, rows)
    figures.plot_compared_last(accuracy, rows)
    assert [bar.get_width() for bar in energy.patches] == [3.0, 2.0]
    assert [tick.get_text() for tick in energy.get_yticklabels()] == [
        "SeparateEma",
        "GradientAccumulation\n(SeparateEma)",
    ]
    points, _, (spread,) = accuracy.containers[0]
    assert points.get_xydata().tolist() == [[0.5, 0], [0.75, 1]]
    (low, high), none = (segment[:, 0] for segment in spread.get_segments())
    assert (low, high) == (0.375, 0.625)
    assert set(none) == {0.75}


def test_cycles_waited_stand_end_to_end_by_pass_and_unit(ax):
    cycles = pd.DataFrame(
        [
            ("Old", "update", "dma_read", 3.0),
            ("Old", "update", "pe_array", 1.0),
            ("Old", "idle", "idle", 2.0),
            ("New", "update", "pe_array", 1.0),
        ],
        columns=["schedule", "pass", "unit", "cycles"],
    )
    figures.plot_compared_cycles(ax, cycles)
    drawn = [(p.get_y() + 0.35, p.get_x(), p.get_width(), p.get_hatch()) for p in ax.patches]
    assert drawn[:4] == [
        (0.0, 0.0, 3.0, "////"),
        (0.0, 3.0, 1.0, ""),
        (0.0, 4.0, 2.0, ""),
        (1.0, 0.0, 1.0, ""),
    ]
    labels = ax.get_legend_handles_labels()[1]
    assert labels == [
        "update",
        "waiting for pe array",
        "waiting for dma read",
        "waiting for frames",
    ]


def test_palette_is_that_of_the_style():
    with matplotlib.style.context("accsim.report.accsim"):
        assert len(matplotlib.rcParams["axes.prop_cycle"]) == figures.PALETTE


def test_drawing_leaves_no_trace_and_gives_the_same_bytes(tmp_path, run):
    before = dict(matplotlib.rcParams)
    curves = tables.accuracy_curves(run.tables)
    panels = (figures.plot_accuracy_over_time, figures.plot_accuracy_over_energy)
    figures.save_figure(tmp_path / "a.png", curves, panels)
    figures.save_figure(tmp_path / "b.png", curves, panels)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert dict(matplotlib.rcParams) == before
