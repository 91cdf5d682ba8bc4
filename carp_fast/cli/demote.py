"""The commands `demote` and `undemote`: give the masters of this host away, and take them back.

Must not know how a daemon demotes (daemon/demotions.py).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from carp_fast.cli.terminal import control_path, daemon_options, failure, print_prose

if TYPE_CHECKING:
    from carp_fast.control.client import ControlClient
    from carp_fast.control.documents import Demoted

DEMOTION_MAX = 255
"""The daemon itself refuses amounts that the dialects of its virtual hosts do not have."""


@click.command()
@click.argument("amount", type=click.IntRange(1, DEMOTION_MAX), metavar="N")
@click.option("--reason", required=True, metavar="TEXT", help="Why; the same reason replaces N.")
@click.option("--group", metavar="G", help="Only the virtual hosts of this group.")
@daemon_options
def demote(
    amount: int, reason: str, group: str | None, config: Path | None, control_socket: Path | None
) -> None:
    """Demotes every virtual host of this daemon, or those of a group. Survives a restart.

    N, 1 to 240, is added to each advskew, to at most 240; with dialect = "openbsd" in all of them
    N may be 255, and goes to the demote byte. Several reasons add up. A host that hears no other
    still becomes MASTER.
    """
    path = control_path(config, control_socket)
    _order(lambda daemon: daemon.demote(amount, reason, group), path, group)


@click.command()
@click.option("--reason", required=True, metavar="TEXT", help="The reason given to demote.")
@click.option("--group", metavar="G", help="The group given to demote.")
@daemon_options
def undemote(
    reason: str, group: str | None, config: Path | None, control_socket: Path | None
) -> None:
    """Ends a demotion by its reason; those by other reasons stay."""
    path = control_path(config, control_socket)
    _order(lambda daemon: daemon.undemote(reason, group), path, group)


def _order(order: Callable[[ControlClient], Demoted], path: Path, group: str | None) -> None:
    """Gives the order to the daemon, and prints the demotion that results."""
    from carp_fast.control.client import ControlClient
    from carp_fast.control.protocol import ControlError

    try:
        done = order(ControlClient(path))
    except ControlError as error:
        raise failure(error) from error
    reasons = "; ".join(f"{reason}: {amount}" for reason, amount in done.reasons.items())
    how = f"demoted by {done.total} ({reasons})" if reasons else "not demoted by the operator"
    whose = "" if group is None else f" of group {group}"
    print_prose(f"virtual hosts{whose}: {done.virtual_hosts:,}, {how}")
