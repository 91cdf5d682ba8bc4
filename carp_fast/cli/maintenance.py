"""The command `maintenance`: gives every master of this host to others, and keeps the host out.

Must not know how a daemon does that (daemon/maintenance.py).
"""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from carp_fast.cli.tables import columns
from carp_fast.cli.terminal import (
    control_path,
    daemon_options,
    failure,
    print_prose,
    print_table,
    progress,
    report,
)

if TYPE_CHECKING:
    from carp_fast.control.client import ControlClient
    from carp_fast.control.documents import Maintenance, MaintenanceProgress, PlannedUnit

ASKED_EVERY_S = 0.25
UNITS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
PHASES = {
    "demoting": "demoting, addresses kept",
    "waiting": "waiting for peers that preempt",
    "canaries": "giving one of each segment up",
    "giving_up": "giving the rest up",
    "returning": "no longer demoting",
    "done": "done",
}
FAILED = {
    "on": "the host is in maintenance all the same; carp-fast maintenance off ends it",
    "off": "some virtual hosts may still be demoted; another off tries again",
}
STAYS = {
    "on": "the daemon goes on with it; carp-fast status shows how far it is, and carp-fast"
    " maintenance off ends it",
    "off": "the daemon goes on with it",
}


def _duration(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> float | None:
    """The seconds of a time such as "2h", "90m" or "1h30m". Raises BadParameter."""
    if value is None:
        return None
    parts = re.findall(r"(\d+)([dhms])", value)
    if not parts or "".join(number + unit for number, unit in parts) != value:
        raise click.BadParameter(f"{value!r}: must be a time such as 2h, 90m or 1h30m")
    return float(sum(int(number) * UNITS[unit] for number, unit in parts))


@click.command()
@click.argument("what", type=click.Choice(["on", "off"]))
@click.option("--reason", default="", metavar="TEXT", help="Why; shown by status and explain.")
@click.option(
    "--force",
    is_flag=True,
    help="Give up what no other host adopts, too: no virtual host takes part until off.",
)
@click.option(
    "--for",
    "for_s",
    callback=_duration,
    metavar="T",
    help="End by itself after this time: 2h, 90m.",
)
@click.option(
    "--until-stop",
    is_flag=True,
    help="Do not write it down: it ends with the daemon. For ExecStop= of a unit.",
)
@click.option("--dry-run", is_flag=True, help="Only print what would be given up.")
@daemon_options
def maintenance(
    what: str,
    reason: str,
    for_s: float | None,
    config: Path | None,
    control_socket: Path | None,
    *,
    force: bool,
    until_stop: bool,
    dry_run: bool,
) -> None:
    """Gives every master of this host to others, and keeps the host out until "off".

    "on" demotes every virtual host and keeps its addresses, so that peers that preempt take over
    without a gap. What is still MASTER then resigns: one canary of each interface first. What no
    other host adopts is taken back and named, the rest of that interface is not tried, and the
    exit code is 1. The host stays out across restarts, as long as it hears another host.

    "off" ends it; whether this host takes over again is up to preempt.
    """
    from carp_fast.control.client import ControlClient
    from carp_fast.control.protocol import ControlError
    from carp_fast.control.requests import MaintenanceRequest

    if what == "off" and (reason or force or for_s or until_stop or dry_run):
        raise click.UsageError("off takes no such option")
    client = ControlClient(control_path(config, control_socket))
    try:
        if dry_run:
            _print_plan(client.maintenance(MaintenanceRequest("plan")))
            return
        if what == "off":
            request = MaintenanceRequest("off")
        else:
            request = MaintenanceRequest(
                "on", reason, force=force, for_s=for_s, until_stop=until_stop
            )
        client.maintenance(request)
        made = _awaited(client, what)
    except ControlError as error:
        raise failure(error) from error
    if what == "off":
        print_prose(f"no longer in maintenance ({made.seconds:.1f} s)")
        return
    print_prose(
        f"in maintenance: {made.given:,} of {made.masters:,} MASTER given up ({made.seconds:.1f} s)"
    )
    if made.failed:
        raise failure(unadopted(made))


def unadopted(made: MaintenanceProgress) -> str:
    """What is still MASTER here because no other host adopted it."""
    more = made.taken_back_count - len(made.taken_back)
    named = ", ".join(made.taken_back) + (f" and {more:,} more" if more else "")
    rest = f"; {made.not_tried:,} more of their interfaces not tried" if made.not_tried else ""
    return f"maintenance: taken back, no other host adopted {named}{rest} (--force gives them up)"


def _awaited(client: ControlClient, what: str) -> MaintenanceProgress:
    """Shows progress until the daemon is done. Ctrl-C ends only this.

    Raises ControlError if the daemon failed, or if it was undone.
    """
    from carp_fast.control.protocol import ControlError
    from carp_fast.control.requests import MaintenanceRequest

    shown = ""
    try:
        with progress(quiet=not sys.stderr.isatty()) as show:
            while True:
                answer = client.maintenance(MaintenanceRequest("show"))
                made = answer.progress
                if made is None or (answer.state is None) != (what == "off"):
                    raise ControlError(f"maintenance: {what} was undone by someone else meanwhile")
                if made.phase == "done":
                    return made
                if made.phase == "failed":
                    why = f"{made.reason}; {FAILED[what]}"
                    raise ControlError(f"maintenance: {what} failed: {why}")
                if (line := _line(made)) != shown:
                    show(line)
                    shown = line
                time.sleep(ASKED_EVERY_S)
    except KeyboardInterrupt:
        report(f"carp-fast: maintenance {what}: {STAYS[what]}")
        raise


def _line(made: MaintenanceProgress) -> str:
    back = f", {made.taken_back_count:,} taken back" if made.taken_back_count else ""
    count = f"{made.given:,} of {made.masters:,} given up" if made.masters else ""
    return f"{PHASES[made.phase]}: {count}{back}" if count else PHASES[made.phase]


def _print_plan(answer: Maintenance) -> None:
    units: list[PlannedUnit] = answer.plan or []
    if answer.state is not None:
        print_prose(f"in maintenance since {answer.state.since} already; on would be refused")
    masters = sum(unit.masters for unit in units)
    heard = sum(unit.heard for unit in units)
    print_prose(
        f"{masters:,} MASTER would be given up; another host has been heard for {heard:,} of them,"
        f" for {masters - heard:,} none. A BACKUP is not heard: whether one is there shows only"
        " when its canary is given up"
    )
    if units:
        header = ["INTERFACE", "GROUP", "MASTER", "HEARD", "CANARY"]
        rows = [
            (unit.interface, unit.group or "-", f"{unit.masters:,}", f"{unit.heard:,}", unit.canary)
            for unit in units
        ]
        print_table(columns(header, ()), rows)
