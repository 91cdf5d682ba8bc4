"""`carp-fast bench`: its options, tables and figure.

Must not know how a daemon is measured (bench/run.py).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

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

# Columns that a narrow terminal may lack, the most important first.
BENCH_IMPORTANCE = (
    *("CPU %", "TAKE-OVER S", "LONGEST GAP S", "PSS MIB", "LOST OF ONE", "LAG MS", "RATIO"),
    *("TAX NS", "FLOOR %", "ADOPTED", "LOST", "SETTLE S", "SILENCE S", "PINGS"),
    *("RSS MIB", "SPAN S", "ANNOUNCED S", "NOISE NS", "QUARTILES", "NS WITHOUT", "PACKETS"),
    *("SEGMENTS", "PROCESSES", "ADVERTS/S", "SWITCHES/S"),
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
@json_option
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.svg")
@click.option("--quick", is_flag=True, help="Three sizes, short windows, no pings: two minutes.")
@click.option("--force", is_flag=True, help="Also combinations that take minutes to start.")
def bench(
    *,
    daemons: str | None,
    instances: str | None,
    wires: str | None,
    window: float | None,
    as_json: bool,
    plot: Path | None,
    quick: bool,
    force: bool,
) -> None:
    """Compares carp-fast with ucarp and keepalived.

    Needs root: everything runs in network namespaces. docs/benchmarking.md explains what is
    measured and how.
    """
    import msgspec
    from rich.console import Console

    from carp_fast.bench import measurements
    from carp_fast.bench.run import Bars, Lines, planned, run_bench
    from carp_fast.lab.lab import LabError

    try:
        plan = planned(daemons, instances, window, wires=wires, quick=quick, force=force)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if daemons and plan.lacking():
        packages = ", ".join(daemon.package for daemon in plan.lacking())
        raise failure(f"bench: not installed: {packages} (Debian packages)")
    if plot and not os.access(plot.absolute().parent, os.W_OK):
        raise failure(f"bench: --plot {plot}: cannot write there")
    console = Console(stderr=True)
    lines = Lines(lambda line: click.echo(line, err=True))
    try:
        result = run_bench(plan, Bars(console) if console.is_terminal else lines)
    except LabError as error:
        raise failure(f"bench: {error}") from error
    if as_json:
        print_json(msgspec.json.encode(result))
    else:
        _print_bench(result)
    if plot:
        try:
            plot.write_text(measurements.figure(result))
        except (OSError, ValueError) as error:
            raise failure(f"bench: --plot {plot}: {error}") from error


def _print_bench(result: Report) -> None:
    from carp_fast.bench import measurements

    for title, header, rows in measurements.tables(result):
        print_prose(title)
        print_table(columns(header, BENCH_IMPORTANCE), rows)
        print_text("")
    for line in measurements.remarks(result):
        print_prose(line)
