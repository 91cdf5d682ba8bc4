"""The commands `yield` and `preempt`: one hand-over by hand, and no change of the configuration.

Must not know how a daemon hands over (daemon/hand_overs.py).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from carp_fast.cli.terminal import control_path, daemon_options, failure, print_prose

if TYPE_CHECKING:
    from carp_fast.control.client import ControlClient
    from carp_fast.control.documents import HandedOver


@click.command("yield")
@click.argument("interface", metavar="IF")
@click.argument("vhid", type=click.IntRange(1, 255))
@click.option(
    "--demote",
    is_flag=True,
    help="Demote it before, so that peers that preempt take over without a gap, and until undemote,"
    " so that it is not taken back.",
)
@click.option("--group", is_flag=True, help="All masters of its group.")
@daemon_options
def yields(
    interface: str,
    vhid: int,
    config: Path | None,
    control_socket: Path | None,
    *,
    demote: bool,
    group: bool,
) -> None:
    """Hands a virtual host over to another host, once.

    It removes its addresses and resigns; the next host takes over after its own advskew/256
    seconds. Refused where this host would take it back, or where no other host has been heard.
    If none takes it over, it is MASTER again after its master-down time, and the command fails.
    """
    _order(
        lambda daemon: daemon.hand_over(interface, vhid, demote=demote, group=group),
        control_path(config, control_socket),
    )


@click.command()
@click.argument("interface", metavar="IF")
@click.argument("vhid", type=click.IntRange(1, 255))
@daemon_options
def preempt(interface: str, vhid: int, config: Path | None, control_socket: Path | None) -> None:
    """Takes a virtual host over from a slower master, once, whatever `preempt` is.

    No preempt_delay_s is waited for. Refused where that master would take it back, because it is as
    fast or faster.
    """
    _order(lambda daemon: daemon.take_over(interface, vhid), control_path(config, control_socket))


def _order(order: Callable[[ControlClient], HandedOver], path: Path) -> None:
    from carp_fast.control.client import ControlClient
    from carp_fast.control.protocol import ControlError

    try:
        done = order(ControlClient(path))
    except ControlError as error:
        raise failure(error) from error
    for host in done.virtual_hosts:
        name = f"{host.interface}/{host.vhid}"
        if host.state == "MASTER":
            print_prose(f"{name}: MASTER, taken over from {host.peer}")
        elif host.peer is None:
            print_prose(f"{name}: handed over; no other host has been heard yet")
        else:
            print_prose(f"{name}: {host.state}, handed over to {host.peer}")
    if done.reason:
        of = f"--group {done.group} " if done.group else ""
        print_prose(f'demoted until: carp-fast undemote {of}--reason "{done.reason}"')
