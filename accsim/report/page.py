"""The folder of one run: a page to read first, its figures with their data, and every table."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from accsim.report import figures, tables
from accsim.report.answer import answer, percent, quantity, stand_in_warnings
from accsim.report.folder import replaced_folder
from accsim.report.tables import COLUMNS, Tables
from accsim.training.deployed import Deployed


@dataclass(frozen=True)
class Drawing:
    """A figure of the report: the data it plots, its panels and what to see in it."""

    name: str
    caption: str
    data: Callable[[Tables], pd.DataFrame]
    panels: tuple[figures.Panel, ...]


DRAWINGS = (
    Drawing(
        "accuracy",
        "Test accuracy over simulated time and over energy.",
        tables.accuracy_curves,
        (figures.plot_accuracy_over_time, figures.plot_accuracy_over_energy),
    ),
    Drawing(
        "stream",
        "Accuracy on the frames of the stream as they came, each before anything was learned from "
        "it; deployed is the network that the device started with, frozen.",
        tables.stream_curves,
        (figures.plot_stream,),
    ),
    Drawing(
        "accepted",
        "Share of the unlabelled samples that the teacher was confident enough to teach; only "
        "these have a backward pass.",
        tables.accepted_shares,
        (figures.plot_accepted,),
    ),
    Drawing(
        "accepted_by_kind",
        "The same share of each kind of frame: what the confidence threshold let through.",
        tables.accepted_by_kind,
        (figures.plot_accepted_by_kind,),
    ),
    Drawing(
        "pseudo_labels",
        "Share of each class in the accepted samples: where one takes them all, the labels have "
        "collapsed.",
        tables.pseudo_label_shares,
        (figures.plot_pseudo_labels,),
    ),
    Drawing(
        "frames_waiting",
        "Frames in the camera's ring buffer as the steps began; what a full one has no room for is "
        "dropped.",
        tables.frames_waiting,
        (figures.plot_frames_waiting,),
    ),
    Drawing(
        "ddr_traffic",
        "Bytes moved by pass and tensor class.",
        tables.ddr_traffic,
        (figures.plot_ddr_reads, figures.plot_ddr_writes),
    ),
    Drawing(
        "cycles",
        "What every unit did with its time.",
        tables.cycle_shares,
        (figures.plot_cycles,),
    ),
    Drawing(
        "energy",
        "Energy by component and pass.",
        tables.energy_shares,
        (figures.plot_energy,),
    ),
)


def write_report(
    out: Path,
    result: Mapping[str, Any],
    run: Tables,
    host: Mapping[str, Any] | None = None,
    network: Deployed | None = None,
) -> Path:
    """Write the report of one run into folder `out`, all of it or nothing; return `out`.

    Parameters
    ----------
    out : folder; an earlier report there is replaced once the new one is complete
    result : the choices and totals of the run, with the keys of `accsim.report.answer.KEYS`;
        `command`, if there, is told as the way to repeat it
    run : the tables of the run
    host : times on this computer, into host.json; every other file is the same for the same run
    network : as it was trained, into network.npz

    Raises ValueError for a result that lacks a key or holds a number that is not finite, OSError
    for a place that cannot be written.
    """
    lines = answer(result)
    with replaced_folder(out, marker="result.json") as folder:
        write_json(folder / "result.json", result)
        for name in ("steps", "passes", "tensors", "critical_path"):
            write_csv(folder / f"{name}.csv", run.ordered(name))
        write_csv(folder / "counters.csv.gz", run.ordered("counters"))
        drawn = [drawing for drawing in DRAWINGS if write_drawing(folder, drawing, run)]
        if network is not None:
            with (folder / "network.npz").open("wb") as file:
                network.write(file)
        if host is not None:
            write_json(folder / "host.json", host)
        page = render(
            "page.md.j2",
            title=Path(out).name,
            result=result,
            answer=lines,
            warnings=stand_in_warnings(result["data"]),
            drawings=drawn,
            busiest=tables.busiest_passes(run).to_dict("records"),
            waits=tables.longest_waits(run).to_dict("records"),
            clipped=tables.clipped_tensors(run).to_dict("records"),
            still=tables.still_tensors(run).to_dict("records"),
            columns={
                file: COLUMNS[file.partition(".")[0]]
                for file in (
                    *("steps.csv", "counters.csv.gz", "passes.csv", "tensors.csv"),
                    "critical_path.csv",
                )
            },
            timed=host is not None,
            trained=network is not None,
        )
        (folder / "README.md").write_text(page, encoding="utf-8")
    return out


def write_drawing(folder: Path, drawing: Drawing, run: Tables) -> bool:
    """Write a figure and, beside it, exactly the data that it plots; False if there is none."""
    data = drawing.data(run)
    if data.empty:
        return False
    write_csv(folder / f"{drawing.name}.csv", data)
    figures.save_figure(folder / f"{drawing.name}.png", data, drawing.panels)
    return True


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """One header line, one line a row; floats in full so that reading gives the same bits.

    A name that ends in ``.gz`` is compressed, to the same bytes every time.
    """
    packed = {"method": "gzip", "compresslevel": 1, "mtime": 0} if path.suffix == ".gz" else None
    table.to_csv(path, index=False, lineterminator="\n", compression=packed)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Sorted keys and full floats, so that equal values give equal bytes."""
    path.write_text(json_text(value) + "\n", encoding="utf-8")


def json_text(value: Mapping[str, Any]) -> str:
    """JSON of plain values and numpy scalars; ValueError for a number that is not finite."""
    return json.dumps(
        value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False, default=plain
    )


def plain(value: object) -> Any:
    """A numpy scalar as the Python number it stands for."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a result must hold plain values, not {type(value).__name__}: {value!r}")


def render(template: str, **values: Any) -> str:
    """Fill one of the Markdown templates beside this file."""
    environment = Environment(
        loader=PackageLoader("accsim.report", "."),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=StrictUndefined,
    )
    environment.filters.update(
        cell=cell, json_text=json_text, percent=percent, quantity=quantity, words=figures.words
    )
    return environment.get_template(template).render(values)


def cell(value: object) -> str:
    """Text that stays in its cell of a Markdown table."""
    return str(value).replace("|", "\\|").replace("\n", " ")
