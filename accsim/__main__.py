"""The command line: arguments in, path of the report out."""

import ast
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, replace
from math import prod
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from accsim import __version__, ablation, fit, gemm, layers, memory, step_trace
from accsim.comparison import compare, told
from accsim.data import DataError, available
from accsim.hardware import boards as board_presets
from accsim.hardware.accelerator import AcceleratorSpec
from accsim.ledger import LedgerError
from accsim.replaced_file import replaced_file
from accsim.report import online
from accsim.report.ablation import ablation_table
from accsim.report.answer import summary_table
from accsim.report.comparison import compare_table
from accsim.report.rows import rows_table
from accsim.report.twin import twin_table
from accsim.rows import different_runs, read_rows, tabulate
from accsim.run import Status, open_dataset, run
from accsim.schedule import SCHEDULES, DeferredWriteback, LayerwiseEma, SeparateEma
from accsim.schedule.base import Schedule
from accsim.setting import with_settings
from accsim.twin import twin
from accsim.workload import Workload, WorkloadError, read_file, read_workload

console = Console(width=None if sys.stdout.isatty() else 120)
wide = Console(width=None if sys.stdout.isatty() else 160)  # for tables of many columns
RIVALS = (SeparateEma(), LayerwiseEma(), DeferredWriteback())  # where a file names no others
DATA_OPTION = click.option(
    "--data", type=click.Path(path_type=Path), help="Folder that holds the data sets."
)
SET_OPTION = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="A field of the workload to replace, such as data.labels=4000; may be repeated.",
)
JOBS_OPTION = click.option(
    "--jobs",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Runs at a time, each in a process with its share of the threads.",
)
MISTAKES = (
    WorkloadError,
    DataError,
    LedgerError,
    memory.MemoryChoiceError,
    gemm.GemmChoiceError,
)


class UserError(click.ClickException):
    """Something that the user can mend: one sentence, exit status 2."""

    exit_code = 2


@contextmanager
def told_in_one_sentence() -> Iterator[None]:
    """Turn the errors that users make into one sentence each."""
    try:
        yield
    except MISTAKES as error:
        raise UserError(str(error)) from error
    except click.UsageError as error:
        raise UserError(error.format_message()) from error
    except FileExistsError as error:
        raise UserError(f"--out {error}") from error
    except OSError as error:
        place = f" {error.filename!r}" if error.filename else ""
        raise UserError(
            f"cannot write or read{place}: {error.strerror or error}; choose another place"
        ) from error


def experiment(command):
    """The argument and the options that every command on a workload has."""
    for decorate in (
        click.option("--quiet", is_flag=True, help="Print the report's path and nothing else."),
        DATA_OPTION,
        click.option(
            "--out", type=click.Path(path_type=Path), help="Folder of the report to write."
        ),
        click.option("--seed", type=int, help="Seed of every random choice."),
        click.option("--steps", type=int, help="Training steps, in place of the workload's."),
        SET_OPTION,
        click.argument("workload", type=click.Path(path_type=Path)),
    ):
        command = decorate(command)
    return command


def experiments(command):
    """The same for commands that run a workload many times."""
    resume = click.option(
        "--resume", is_flag=True, help="Go on with the runs that are missing after a stop."
    )
    return experiment(JOBS_OPTION(resume(command)))


class Command(click.Command):
    """A command that tells a wrong option in one sentence, as it does any other mistake."""

    def parse_args(self, ctx, args):
        with told_in_one_sentence():
            return super().parse_args(ctx, args)


class Group(click.Group):
    """A group of such commands, and of groups of them."""

    command_class = Command
    group_class = type


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main():
    """Simulate accelerators whose student and teacher learn in fixed point."""


@main.command("run")
@experiment
@click.option("--resume", is_flag=True, help="Go on from the last evaluation of a stopped run.")
def run_command(workload, settings, steps, seed, out, data, quiet, resume):
    """Train WORKLOAD on its simulated machine and write a report."""
    with told_in_one_sentence():
        chosen = overridden(read_workload(workload), settings, steps, seed)
        out = out or Path("reports") / workload.stem
        dataset = announced(chosen, data)
        with progress(chosen.steps, quiet) as on_step:
            result = run(chosen, out, dataset, on_step, resume)
    if not quiet:
        console.print(summary_table(result.summary))
    click.echo(out / "README.md")


@main.command("compare")
@experiments
@click.option(
    "--schedules",
    help="Schedules to compare, such as 'LayerwiseEma,DeferredWriteback(every=16)'.  [default: the "
    f"file's `schedules`, else {','.join(map(told, RIVALS))}]",
)
@click.option(
    "--seeds", type=click.IntRange(1), default=1, show_default=True, help="Runs a schedule."
)
def compare_command(
    workload, settings, steps, seed, out, data, quiet, resume, jobs, schedules, seeds
):
    """Run WORKLOAD under several schedules and set them side by side."""
    with told_in_one_sentence():
        names = read_file(workload)
        chosen = overridden(names["workload"], settings, steps, seed)
        rivals = parsed_schedules(schedules) if schedules else asked_schedules(names)
        out = out or Path("reports") / f"{workload.stem}_compare"
        dataset = announced(chosen, data)
        with progress(chosen.steps * len(rivals) * seeds, quiet) as on_step:
            rows = compare(chosen, rivals, out, dataset, on_step, seeds, resume, jobs)
    if not quiet:
        wide.print(compare_table(rows))
        for row in rows:
            click.echo(f"{row['schedule']}: {row['explanation']}")
    click.echo(out / "README.md")


@main.command("ablate")
@experiments
@click.option(
    "--over",
    multiple=True,
    help="A choice and its values: confidence_threshold=0,0.5,0.8; several make a grid.  "
    "[default: the file's `over`]",
)
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="Runs a value.")
def ablate_command(workload, settings, steps, seed, out, data, quiet, resume, jobs, over, seeds):
    """Run WORKLOAD with several values of a choice; show accuracy, skipped work and cost."""
    with told_in_one_sentence():
        names = read_file(workload)
        chosen = overridden(names["workload"], settings, steps, seed)
        wanted = dict(map(ablation.parsed, over)) if over else asked_values(names)
        choices = [ablation.choice(chosen, name, values) for name, values in wanted.items()]
        out = out or Path("reports") / f"{workload.stem}_ablate"
        dataset = announced(chosen, data)
        runs = seeds * prod(len(choice.values) for choice in choices)
        with progress(chosen.steps * runs, quiet) as on_step:
            rows = ablation.ablate(chosen, choices, seeds, out, dataset, on_step, resume, jobs)
    if not quiet:
        over_names = [choice.name for choice in choices]
        wide.print(ablation_table(over_names, rows))
        if online.WORST in rows[0]:
            wide.print(online.online_table(over_names, rows))
    click.echo(out / "README.md")


@main.command("twin")
@experiments
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="Runs of each.")
def twin_command(workload, settings, steps, seed, out, data, quiet, resume, jobs, seeds):
    """Run WORKLOAD in fixed point and in torch's float32; show what rounding costs in accuracy."""
    with told_in_one_sentence():
        chosen = overridden(read_workload(workload), settings, steps, seed)
        out = out or Path("reports") / f"{workload.stem}_twin"
        dataset = announced(chosen, data)
        with progress(2 * chosen.steps * seeds, quiet) as on_step:
            runs = twin(chosen, out, dataset, on_step, seeds, resume, jobs)
    if not quiet:
        console.print(twin_table(runs))
    click.echo(out / "README.md")


@main.command("table")
@click.argument("rows", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the table to write.")
@DATA_OPTION
@JOBS_OPTION
@click.option("--kept", is_flag=True, help="Run nothing; leave rows out that miss a run.")
@click.option("--quiet", is_flag=True, help="Print the table's path and nothing else.")
def table_command(rows, out, data, jobs, kept, quiet):
    """Run what is missing of the rows of a file, in fixed point and in float32; write their table.

    Finished runs are kept in a folder beside the table's, named with .runs at its end.
    """
    with told_in_one_sentence():
        listed = read_rows(rows)
        out = out or Path("reports") / rows.stem
        steps = sum(run.steps for run in different_runs(listed))
        with progress(steps, quiet) as on_step:
            found = tabulate(listed, out, lambda one: announced(one, data), on_step, kept, jobs)
    if not quiet:
        wide.print(rows_table(found))
    click.echo(out / "README.md")


@main.command("boards")
def boards_command():
    """List the machines that workloads can start from."""
    table = Table()
    for heading in ("name", "board", "PE array", "clock", "DSP", "on chip", "memory", "GB/s"):
        table.add_column(heading, no_wrap=heading == "name")
    presets = {k: v for k, v in vars(board_presets).items() if isinstance(v, AcceleratorSpec)}
    for name, machine in presets.items():
        table.add_row(
            f"boards.{name}",
            machine.board.name,
            f"{machine.pe_array.rows}x{machine.pe_array.columns}",
            f"{machine.clock_mhz} MHz",
            f"{machine.board.dsp_slices:,}",
            f"{machine.board.memory_bytes / 2**20:.2f} MiB",
            machine.dram.name,
            f"{machine.dram.peak_bytes_per_second / 1e9:.1f}",
        )
    console.print(table)


@main.command("gemm")
@click.option("--m", type=int, required=True, help="Rows of the inputs and of the results.")
@click.option("--n", type=int, required=True, help="Columns of the weights and of the results.")
@click.option("--k", type=int, required=True, help="Products of each result.")
@click.option("--rows", type=int, required=True, help="Rows of the PE array.")
@click.option("--columns", type=int, required=True, help="Columns of the PE array.")
@click.option("--dataflow", required=True, help=f"One of {', '.join(gemm.DATAFLOWS)}.")
@click.option("--no-overlap", is_flag=True, help="Start a fold when the one before is out.")
@click.option("--multiplier-latency", type=int, default=1, show_default=True, help="Cycles.")
@click.option("--adder-latency", type=int, default=1, show_default=True, help="Cycles.")
@click.option(
    "--like",
    default="rtl",
    show_default=True,
    help="rtl: the machine of the RTL in tests/rtl; scalesim: SCALE-Sim's, without registers.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
def gemm_command(m, n, k, dataflow, no_overlap, as_json, **machine):
    """Count the cycles of one matrix product on one PE array, operands on chip."""
    with told_in_one_sentence():
        spent = gemm.usage(dataflow, m, n, k, overlap=not no_overlap, **machine)
    if as_json:
        click.echo(json.dumps(asdict(spent), indent=2))
    else:
        console.print(gemm.usage_table(spent))


@main.command("layers")
@click.argument("workload", type=click.Path(path_type=Path))
@SET_OPTION
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
def layers_command(workload, settings, as_json):
    """Show how each pass of WORKLOAD is tiled, what bounds it, and what a step waits for."""
    with told_in_one_sentence():
        found = layers.layers(with_settings(read_workload(workload), settings))
    if as_json:
        click.echo(json.dumps(layers.document(found), indent=2))
    else:
        wide.print(layers.layers_table(found.rows))
        wide.print(layers.path_table(found))
        wide.print(layers.memory_table(found.memory))


@main.command("fit")
@click.argument("machine", metavar="WORKLOAD|BOARD")
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
def fit_command(machine, as_json):
    """List the FPGA resources that the machine of WORKLOAD, or a preset, takes of its board."""
    with told_in_one_sentence():
        accelerator = fit.machine(machine)
    if as_json:
        click.echo(json.dumps(fit.document(accelerator), indent=2))
    else:
        console.print(fit.table(accelerator))


@main.command("data")
@DATA_OPTION
def data_command(data):
    """List the data sets that are found, and where."""
    with told_in_one_sentence():
        rows = available(data)
    table = Table()
    for heading in ("name", "found", "kind", "images", "where"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        found = "yes" if row.found else "no"
        table.add_row(row.name, found, row.kind, f"{row.images:,}" if row.images else "", row.where)
    console.print(table)


@main.group("dram")
def dram_group():
    """Memory parts, and requests replayed on one of them."""


@dram_group.command("parts")
def parts_command():
    """List the memory parts that --part knows by name."""
    console.print(memory.parts_table())


@dram_group.command("replay")
@click.argument("trace", type=click.Path(path_type=Path))
@click.option("--part", required=True, help="Name of a part, or a DRAMsim3 preset (.ini).")
@click.option(
    "--mapping",
    help="row_bank_column, row_column_bank, or an order of fields such as rochrababgco."
    "  [default: the preset's, else row_column_bank]",
)
@click.option(
    "--policy", default="frfcfs", show_default=True, help=f"One of {', '.join(memory.POLICIES)}."
)
@click.option("--ranks", type=int, help="Ranks on the channel.  [default: the preset's, else 1]")
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
@click.option(
    "--commands", type=click.Path(path_type=Path), help="File (.csv, .csv.gz) for every command."
)
def replay_command(trace, part, mapping, policy, ranks, as_json, commands):
    """Replay TRACE, a line `arrival address R|W` a request of 64 bytes, on one memory."""
    with told_in_one_sentence():
        spec, order = memory.chosen(part, mapping, ranks)
        controller = memory.policy(policy)
        with replaced_file(commands) if commands else nullcontext() as file:
            done = memory.replay(trace, spec, order, controller, record=file is not None)
            if file is not None:
                memory.write_commands(done.commands, file)
    if as_json:
        click.echo(json.dumps(memory.document(spec, done), indent=2))
    else:
        console.print(memory.replay_table(spec, done))


@dram_group.command("trace")
@click.argument("workload", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="File (.gz: compressed) to write."
)
def trace_command(workload, out):
    """Write the memory requests of WORKLOAD's largest training step, for `replay`."""
    with told_in_one_sentence():
        chosen = read_workload(workload)
        with replaced_file(out) as file:
            trace = step_trace.record(chosen)
            step_trace.write_requests(trace, file)
    click.echo(
        f"{len(trace.arrivals):,} requests of one step on {chosen.accelerator.name}, whose memory "
        f"is {chosen.accelerator.dram.name}, mapping row_column_bank"
    )
    click.echo(out)


def overridden(
    workload: Workload, settings: Sequence[str], steps: int | None, seed: int | None
) -> Workload:
    """The workload with the command line's choices."""
    workload = with_settings(workload, settings)
    try:
        return replace(
            workload,
            steps=workload.steps if steps is None else steps,
            seed=workload.seed if seed is None else seed,
        )
    except ValueError as error:
        raise WorkloadError(f"--{error}") from error


def parsed_schedules(text: str) -> list[Schedule]:
    """Schedules from their names, with settings in brackets where they have any."""
    known = {kind.__name__: kind for kind in SCHEDULES}
    wanted = f"--schedules must be a list of {', '.join(known)}"
    try:
        listed = ast.parse(f"[{text}]", mode="eval").body
    except SyntaxError as error:
        raise WorkloadError(f"{wanted}, not {text!r}") from error
    if not isinstance(listed, ast.List) or not listed.elts:
        raise WorkloadError(f"{wanted}, not {text!r}")

    def schedule(item: ast.expr) -> Schedule:
        call = item if isinstance(item, ast.Call) else ast.Call(item, [], [])
        name = ast.unparse(call.func)
        if name not in known:
            raise WorkloadError(f"{wanted}, not {ast.unparse(item)!r}")
        try:
            settings = {str(k.arg): setting(k.value) for k in call.keywords}
            return known[name](*map(setting, call.args), **settings)
        except (TypeError, ValueError) as error:
            raise WorkloadError(f"--schedules {ast.unparse(item)}: {error}") from error

    def setting(item: ast.expr):
        return schedule(item) if isinstance(item, ast.Name | ast.Call) else ast.literal_eval(item)

    return [schedule(item) for item in listed.elts]


def asked_schedules(names: dict[str, Any]) -> Sequence[Schedule]:
    """What a workload's file names as its `schedules`, or the usual ones."""
    asked = names.get("schedules", RIVALS)
    if not isinstance(asked, tuple) or not all(isinstance(rival, Schedule) for rival in asked):
        raise WorkloadError(
            f"schedules in the workload's file must be a tuple of Schedule objects, not {asked!r}"
        )
    return asked


def asked_values(names: dict[str, Any]) -> dict[str, Sequence[Any]]:
    """What a workload's file says to run `over`."""
    asked = names.get("over")
    if not isinstance(asked, dict) or not all(isinstance(v, tuple) for v in asked.values()):
        raise WorkloadError(
            "--over must name a choice, or the workload's file must define `over`, such as "
            f"{{'confidence_threshold': (0.0, 0.5)}}, not {asked!r}"
        )
    return asked


def announced(workload: Workload, folder: Path | None):
    """The workload's data; a stand-in announces itself before anything else is said."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = open_dataset(workload, folder)
    for warning in caught:
        standing_in = any(d.stand_in for d in (dataset, *dataset.others.values()))
        click.echo(f"STAND-IN DATA: {warning.message}" if standing_in else warning.message)
    return dataset


@contextmanager
def progress(steps: int, quiet: bool):
    """A bar with accuracy, simulated time and joules so far."""
    columns = (
        BarColumn(),
        TextColumn("step {task.completed} of {task.total}"),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=console, disable=quiet)
    task = bar.add_task("", total=steps, state="")
    with ExitStack() as shown:

        def on_step(status: Status) -> None:
            if not bar.live.is_started:  # nothing is drawn before the first step
                shown.enter_context(bar)
            accuracy = (
                "" if status.accuracy is None else f"accuracy {100 * status.accuracy:.1f} %, "
            )
            state = f"{accuracy}{status.simulated_seconds:.1f} s simulated, {status.joules:.1f} J"
            bar.update(task, advance=1, state=state)

        yield on_step


if __name__ == "__main__":
    main()
