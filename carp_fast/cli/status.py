"""The command `status`: every virtual host of a running daemon, as a table or as JSON.

Must not know how the daemon makes the document (daemon/status.py).
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from carp_fast.cli.sorting import DEFAULT_KEY, KEYS, order, sorted_json
from carp_fast.cli.tables import columns
from carp_fast.cli.terminal import (
    control_path,
    daemon_options,
    failure,
    json_option,
    print_json,
    print_prose,
    print_table,
)
from carp_fast.cli.tracks import track_lines

if TYPE_CHECKING:
    from datetime import datetime

    from carp_fast.control.documents import Status, VirtualHostStatus

ADDRESSES_SHOWN = 2
"""Addresses of a virtual host in a terminal's table; a pipe gets all of them."""
GROUPS_SHOWN = 10  # demoted ones above the table; the others are counted

# Columns that a narrow terminal may lack, the most important first; how far cells are shortened.
IMPORTANCE = ("PROBLEMS", "NAME", "REASON", "ADDRESSES", "SINCE", "PEER", "ADVSKEW", "SEGMENT")
SHORTENED = {"ADDRESSES": 15, "PROBLEMS": 20, "NAME": 12, "SEGMENT": 8}

_STATES = ("INIT", "BACKUP", "MASTER")
_STATE_STYLES = {"MASTER": "green", "BACKUP": "cyan", "INIT": "yellow"}


@click.command()
@daemon_options
@json_option
@click.option("--interface", metavar="IF", help="Only virtual hosts on this interface.")
@click.option("--vhid", type=click.IntRange(1, 255), metavar="N", help="Only this vhid.")
@click.option("--state", type=click.Choice(_STATES, case_sensitive=False), help="Only this state.")
@click.option(
    "--problems",
    is_flag=True,
    help="Only those with a problem: INIT, demoted, addresses, other masters, wrong digests.",
)
@click.option(
    "--sort",
    type=click.Choice(tuple(KEYS), case_sensitive=False),
    metavar="KEY",
    help=f"Their order: by {', '.join(KEYS)}. since: the last change first; demotion and problems:"
    f" the largest number first.  [default: {DEFAULT_KEY}; with --json the daemon's order]",
)
def status(
    config: Path | None,
    control_socket: Path | None,
    *,
    as_json: bool,
    interface: str | None,
    vhid: int | None,
    state: str | None,
    problems: bool,
    sort: str | None,
) -> None:
    """Shows every virtual host. State, since when, reason, addresses, peer."""
    from carp_fast.control.client import ControlClient
    from carp_fast.control.protocol import ControlError
    from carp_fast.control.requests import StatusRequest

    client = ControlClient(control_path(config, control_socket))
    try:
        if as_json:
            request = StatusRequest(interface, vhid, state, problems or None)
            document = client.status_json(request)
            print_json(document if sort is None else sorted_json(document, sort, client.path))
        else:
            found = client.status(interface=interface, vhid=vhid, state=state, problems=problems)
            found.virtual_hosts.sort(key=order(sort or DEFAULT_KEY))
            _print_status(found, problems)
    except ControlError as error:
        raise failure(error) from error


def _print_status(document: Status, problems: bool) -> None:
    from datetime import UTC, datetime

    from carp_fast.control.documents import HELPER_RUNS
    from carp_fast.daemon import explain_text
    from carp_fast.daemon.explain_demotion import in_maintenance

    now = datetime.now(UTC)
    daemon, summary, hosts = document.daemon, document.summary, document.virtual_hosts
    counts = f"{summary.master:,} MASTER, {summary.backup:,} BACKUP, {summary.init:,} INIT"
    print_prose(
        f"{daemon.host}: {summary.virtual_hosts:,} virtual hosts: {counts} "
        f"(carp-fast {daemon.version}, pid {daemon.pid}, "
        f"running for {age(daemon.started_at, now)})"
    )
    if daemon.upgrades is not None:
        last = daemon.upgrades
        times = "once" if last.count == 1 else f"{last.count} times"
        ago = age(last.at, now)
        print_prose(f"upgraded {times}, last from carp-fast {last.from_version} {ago} ago")
    if daemon.maintenance_state is not None:
        print_prose(in_maintenance(daemon.maintenance_state))
    if daemon.helper not in (None, HELPER_RUNS):
        print_prose(f"the privileged helper has ended ({daemon.helper}): no hook can be run")
    kinds = Counter(kind for host in hosts for kind in explain_text.problem_kinds(host))
    if kinds:
        counted = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
        print_prose(f"problems: {counted}" + ("" if problems else "; see status --problems"))
    for group in [group for group in document.groups if group.demoted][:GROUPS_SHOWN]:
        print_prose(f"group {group.name} is demoted: {group.why}")
    more = sum(group.demoted for group in document.groups) - GROUPS_SHOWN
    if more > 0:
        print_prose(f"... and {more:,} more groups are demoted")
    for line in track_lines(document.tracks, lambda since: age(since, now)):
        print_prose(line)
    if not hosts:
        print_prose("no virtual host to show")
        return
    shown = ADDRESSES_SHOWN if sys.stdout.isatty() else None
    header = ["VIRTUAL HOST", "STATE", "SINCE", "REASON", "ADDRESSES", "ADVSKEW", "PEER"]
    rows = [_status_row(host, now, shown) for host in hosts]
    if any(host.name for host in hosts):
        header.insert(1, "NAME")
        pairs = zip(rows, hosts, strict=True)
        rows = [(row[0], host.name or "-", *row[1:]) for row, host in pairs]
    if any(host.segment for host in hosts):
        header.append("SEGMENT")
        rows = [(*row, host.segment or "-") for row, host in zip(rows, hosts, strict=True)]
    if problems or any(host.warnings for host in hosts):
        header.append("PROBLEMS")
        every = [explain_text.problems(host) for host in hosts]
        rows = [(*row, ", ".join(found)) for row, found in zip(rows, every, strict=True)]
    shown_as = columns(header, IMPORTANCE, SHORTENED, lists=["ADDRESSES"])
    state = header.index("STATE")
    print_table(shown_as, rows, lambda row: _STATE_STYLES.get(row[state], ""))


def _status_row(host: VirtualHostStatus, now: datetime, shown: int | None) -> tuple[str, ...]:
    addresses = host.addresses
    listed = ",".join(addresses[:shown])
    if shown is not None and len(addresses) > shown:
        listed += f" +{len(addresses) - shown}"
    advskew, effective = host.advskew, host.effective_advskew
    return (
        f"{host.interface}/{host.vhid}",
        host.state,
        age(host.since, now),
        host.reason or "-",
        listed or "-",
        str(advskew) if effective == advskew else f"{advskew} -> {effective}",
        host.peer.source if host.peer else "-",
    )


def age(since: str, now: datetime) -> str:
    """The time since an RFC 3339 instant, in its two largest units: "3h 12m"."""
    from datetime import datetime

    from carp_fast.daemon.explain_words import in_two_units

    return in_two_units((now - datetime.fromisoformat(since)).total_seconds())
