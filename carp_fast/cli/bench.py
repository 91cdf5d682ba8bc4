"""`carp-fast bench`: its options, tables and figure.

Must not know how a daemon is measured (bench/run.py).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from carp_fast.cli.conflicts import Rule, check
from carp_fast.cli.interrupts import EXIT_CODE
from carp_fast.cli.tables import columns
from carp_fast.cli.terminal import (
    Finite,
    failure,
    json_option,
    print_json,
    print_prose,
    print_table,
    print_text,
)

if TYPE_CHECKING:
    from carp_fast.bench.measurements import Report
    from carp_fast.bench.run import Plan

_FILE = click.Path(dir_okay=False, path_type=Path)

# Columns that a narrow terminal may lack, the most important first.
BENCH_IMPORTANCE = (
    *("CPU %", "TAKE-OVER S", "LONGEST GAP S", "PSS MIB", "LOST OF ONE", "LAG MS", "RATIO"),
    *("TAX NS", "FLOOR %", "ADOPTED", "LOST", "SETTLE S", "SILENCE S", "PINGS", "KILLS"),
    *("RSS MIB", "PHASE S", "SPAN S", "ANNOUNCED S", "NOISE NS", "QUARTILES", "NS WITHOUT"),
    *("PACKETS", "SEGMENTS", "PROCESSES", "ADVERTS/S", "SWITCHES/S"),
)


_MEASURING = ("daemons", "instances", "wires", "window", "repeats", "quick", "force", "save")
_RULES = (
    Rule("saved", "{option} shows what was measured before; {other} is for measuring", _MEASURING),
)


@click.command()
@click.option("--daemon", "daemons", metavar="NAME,...", help="[default: all that are installed]")
@click.option("--instances", metavar="N,...", help="Virtual hosts, from 1 to 65280.")
@click.option("--wire", "wires", metavar="KIND,...", help="veth (default), macvlan or bridge.")
@click.option(
    "--window",
    type=Finite(1, 3600),
    metavar="S",
    help="Seconds of CPU time averaged.",
)
@click.option(
    "--repeats",
    type=click.IntRange(1, 100),
    metavar="N",
    help="Times that each master is killed.  [default: 3; with --quick 1]",
)
@json_option
@click.option("--plot", type=_FILE, metavar="FILE.svg", help="Also draw the figure.")
@click.option(
    "--save", type=_FILE, metavar="FILE", help="Also write the JSON document, after each row."
)
@click.option(
    "--from",
    "saved",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Show a saved document: measure nothing.",
)
@click.option("--quick", is_flag=True, help="Three sizes, short windows, no pings: two minutes.")
@click.option("--force", is_flag=True, help="Also combinations that take minutes to start.")
def bench(
    *,
    daemons: str | None,
    instances: str | None,
    wires: str | None,
    window: float | None,
    repeats: int | None,
    as_json: bool,
    plot: Path | None,
    save: Path | None,
    saved: Path | None,
    quick: bool,
    force: bool,
) -> None:
    """Compares carp-fast with ucarp and keepalived.

    Needs root: everything runs in network namespaces. Ctrl-C ends it, and what was measured is
    shown. docs/benchmarking.md explains what is measured and how.
    """
    check(_RULES)
    for option, path in (("--plot", plot), ("--save", save)):
        if path and not os.access(path.absolute().parent, os.W_OK):
            raise failure(f"bench: {option} {path}: cannot write there")
    if saved:
        result = _read(saved)
    else:
        from carp_fast.bench.run import planned

        try:
            plan = planned(
                daemons,
                instances,
                window,
                wires=wires,
                repeats=repeats,
                quick=quick,
                force=force,
            )
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        if daemons and plan.lacking():
            packages = ", ".join(daemon.package for daemon in plan.lacking())
            raise failure(f"bench: not installed: {packages} (Debian packages)")
        result = _run(plan, save)
    show(result, as_json, plot)
    if result.interrupted and not saved:
        raise click.exceptions.Exit(EXIT_CODE)


def _run(plan: Plan, save: Path | None) -> Report:
    """Measures; writes what there is to `save` after each row."""
    import msgspec
    from rich.console import Console

    from carp_fast.bench.run import Bars, Lines, run_bench
    from carp_fast.config.state import replace_file
    from carp_fast.lab.lab import LabError

    def keep(report: Report) -> None:
        if save:
            try:
                replace_file(save, msgspec.json.format(msgspec.json.encode(report)) + b"\n")
            except OSError as error:
                raise failure(f"bench: --save {save}: {error.strerror}") from error

    console = Console(stderr=True)
    lines = Lines(lambda line: click.echo(line, err=True))
    try:
        result = run_bench(plan, Bars(console) if console.is_terminal else lines, keep)
    except LabError as error:
        raise failure(f"bench: {error}") from error
    keep(result)
    return result


def _read(saved: Path) -> Report:
    """A saved document. Exits with an error that names the file and what is wrong with it."""
    import msgspec

    from carp_fast.bench.measurements import Report

    try:
        return msgspec.json.decode(saved.read_bytes(), type=Report)
    except OSError as error:
        raise failure(f"bench: --from {saved}: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise failure(f"bench: --from {saved}: not a document of --save: {error}") from error


def show(result: Report, as_json: bool, plot: Path | None) -> None:
    """Prints the tables or the document, and writes the figure to `plot`."""
    import msgspec

    from carp_fast.bench import measurements

    if as_json:
        print_json(msgspec.json.encode(result))
    else:
        for title, header, rows in measurements.tables(result):
            print_prose(title)
            print_table(columns(header, BENCH_IMPORTANCE), rows)
            print_text("")
        for line in measurements.remarks(result):
            print_prose(line)
    if plot:
        try:
            plot.write_text(measurements.figure(result))
        except (OSError, ValueError) as error:
            raise failure(f"bench: --plot {plot}: {error}") from error
