"""`flood --hosts`: runs many well-behaved virtual hosts; its options, progress line and result.

Must not know how they are numbered or run (loadtest/masters.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from carp_fast.cli.interrupts import Interrupts, marked
from carp_fast.cli.terminal import failure, print_json, print_prose, progress, together

if TYPE_CHECKING:
    from carp_fast.loadtest.masters import Held


_OPTIONS = (
    click.option(
        "--hosts",
        type=click.IntRange(1),
        metavar="N",
        help="Run N well-behaved virtual hosts instead of sending a mix of frames. Each has a"
        " source address and a virtual MAC of its own; they resign at the end.",
    ),
    click.option(
        "--election",
        is_flag=True,
        help="With --hosts: make half of them backups of the others, which take over for the middle"
        " third of the duration.",
    ),
)

# A command gets the parameters `hosts` and `election`.
masters_options = together(*_OPTIONS)


def run_masters(
    interface: str,
    count: int,
    *,
    election: bool,
    families: tuple[int, ...] = (4,),
    duration_s: float,
    as_json: bool,
) -> None:
    """Runs `count` virtual hosts for `duration_s` and prints the result. Raises Failure."""
    import msgspec

    from carp_fast.loadtest.masters import Masters, MastersError

    try:
        with (
            Interrupts() as interrupts,
            Masters(interface, count, election=election, families=families) as masters,
        ):
            with progress(quiet=as_json) as show:
                held = masters.run(
                    duration_s, lambda held: show(line_of(held)), stopped=lambda: interrupts.came
                )
            if as_json:
                print_json(msgspec.json.encode(held))
            else:
                for line in result_lines(held):
                    print_prose(line)
            interrupts.exit()
    except MastersError as error:
        raise failure(error) from error


def result_lines(held: Held) -> Iterator[str]:
    yield line_of(held)
    yield (
        f"became MASTER {held.became_master:,} times; {held.send_errors:,} advertisements not sent;"
        f" {held.socket_dropped:,} frames dropped by the socket; all have resigned"
    )
    if not held.advertisements_sent:
        yield (
            "nothing was sent: a virtual host becomes MASTER after three advertisement intervals"
            " and more without a master (--duration)"
        )
    if held.interrupted:
        yield marked(held.seconds)


def line_of(held: Held) -> str:
    """States and counters in one line."""
    return (
        f"{held.seconds:.0f} s  {held.master:,} MASTER  {held.backup:,} BACKUP  {held.init:,} INIT"
        f"  {held.advertisements_sent:,} advertisements sent, {held.advertisements_heard:,} heard"
    )
