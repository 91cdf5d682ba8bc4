"""The command `watch`: what the virtual hosts of a running daemon do, live.

Must not know how a daemon is followed (watching), nor what is shown of it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from carp_fast.cli.terminal import control_path, daemon_options, failure, writing

SORTS = ("problems", "name", "master", "backup", "init", "changed")


@click.command()
@daemon_options
@click.option("--filter", "words", default="", metavar="TEXT", help="Show what has these words.")
@click.option(
    "--sort",
    type=click.Choice(SORTS),
    default=SORTS[0],
    show_default=True,
    help="How interfaces are sorted on a terminal.",
)
@click.option("--lines", is_flag=True, help="Print lines, as in a pipe, on a terminal too.")
def watch(
    config: Path | None, control_socket: Path | None, *, words: str, sort: str, lines: bool
) -> None:
    """Shows what happens, live. Totals by interface, problems first, the last changes.

    On a terminal, q quits and ? lists the keys: to select, filter, sort and explain. In a pipe,
    each change is a line. When the daemon goes away, it waits for it to come back.
    """
    path = control_path(config, control_socket)

    import asyncio

    from carp_fast.cli import watching
    from carp_fast.control.protocol import ControlError

    whole = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    try:
        if lines or not whole:
            asyncio.run(watching.print_lines(path, words))
        with writing():
            code = asyncio.run(watching.show(path, words, sort))
    except ControlError as error:  # of the first request: there may be no such daemon
        raise failure(error) from error
    raise click.exceptions.Exit(code)
