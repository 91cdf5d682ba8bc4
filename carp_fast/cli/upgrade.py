"""The command `upgrade`: the installed version takes over from the running process.

Must not know how (daemon/upgrading.py).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from carp_fast import __version__
from carp_fast.cli.terminal import (
    Failure,
    control_path,
    daemon_options,
    failure,
    print_prose,
    report,
)

if TYPE_CHECKING:
    from carp_fast.control.client import ControlClient
    from carp_fast.control.documents import UpgradesStatus

TIMEOUT_S = 180.0
"""The daemon's own limits are shorter: 60 s to prepare, hook_timeout_s for hooks, 1 s each for the
rest."""
LOOK_S = 0.1  # between two looks at what the reload has done
NO_VIRTUAL_HOST = ""  # no interface has this name: a status without virtual hosts


@click.command()
@daemon_options
@click.option(
    "--timeout",
    type=click.FloatRange(min=1.0),
    default=TIMEOUT_S,
    show_default=True,
    metavar="S",
    help="Wait for the answer for S seconds.",
)
def upgrade(config: Path | None, control_socket: Path | None, timeout: float) -> None:
    """Has the installed version take over from the running one. No role changes.

    No address is touched, no hook runs. The new process reads and checks everything before the old
    one stops; if anything is wrong, the old one goes on. A configuration that has changed is
    reloaded afterwards.
    """
    run_upgrade(control_path(config, control_socket), timeout)


def run_upgrade(path: Path, timeout_s: float) -> None:
    """Upgrades the daemon at a control socket, and prints what came of it. Raises Failure."""
    from carp_fast.control.client import ControlClient
    from carp_fast.control.protocol import ControlError

    client = ControlClient(path, timeout_s)
    try:
        done = client.upgrade()
    except ControlError as error:
        for fault in error.faults:
            report(fault)
        raise failure(error) from error
    print_prose(
        f"carp-fast {done.version} (pid {done.pid}) goes on for {done.from_version}, after"
        f" {done.seconds:.1f} s; the virtual hosts stood still for {done.still_s * 1000:.0f} ms"
    )
    try:
        last = _reloaded(client, time.monotonic() + timeout_s)
    except ControlError as error:
        raise failure(f"it was upgraded, but: {error}") from error
    if last is not None and last.reload is not None:
        print_prose(f"reload after it: {last.reload}")
        if last.reload.startswith("nothing was changed: "):
            raise Failure("carp-fast: the configuration is not the one that runs: see the log")


def _reloaded(client: ControlClient, until_s: float) -> UpgradesStatus | None:
    """The last upgrade, as soon as the reload after it is over."""
    while True:
        last = client.status(interface=NO_VIRTUAL_HOST).daemon.upgrades
        if last is None or last.reload is not None or time.monotonic() > until_s:
            return last
        time.sleep(LOOK_S)


def is_other_version(client: ControlClient) -> bool:
    """Whether the running daemon is not of the installed version."""
    return client.status(interface=NO_VIRTUAL_HOST).daemon.version != __version__
