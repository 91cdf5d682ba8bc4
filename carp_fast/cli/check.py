"""The command `check`: the faults of a configuration, its doubts on this host, and the plan.

Must not know how a configuration is read, nor how a plan is made (daemon/plan.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from carp_fast.cli.tables import columns
from carp_fast.cli.terminal import (
    DEFAULT_CONFIGURATION,
    Failure,
    config_option,
    print_prose,
    print_table,
    report,
)

if TYPE_CHECKING:
    from carp_fast.config.load import Configuration

# Columns that a narrow terminal may lack, the most important first; how far cells are shortened.
IMPORTANCE = ("ADVERTS/S", "RECEIVE", "GROUPS", "PEERS", "FAMILIES", "MACS", "WHY")
SHORTENED = {"GROUPS": 12, "PEERS": 12, "WHY": 24}


@click.command()
@config_option
@click.option(
    "-q", "--quiet", is_flag=True, help="Print only errors and warnings; for a service's start."
)
def check(config: Path | None, quiet: bool) -> None:
    """Checks the configuration. Prints what `run` would do; changes nothing.

    A passphrase that is a systemd credential is checked only where systemd gives it.
    """
    from carp_fast.config.load import ConfigurationError, load
    from carp_fast.control.client import daemon_pid
    from carp_fast.daemon.plan import plan, taken
    from carp_fast.daemon.user import faults_of, plan_of
    from carp_fast.replay.recording import budget

    try:
        configuration = load(config or DEFAULT_CONFIGURATION, without_credentials=True)
    except ConfigurationError as error:
        raise Failure(*str(error).splitlines()) from error
    for warning in (*configuration.warnings, *_doubts(configuration)):
        report(f"warning: {warning}")
    for line in taken(configuration, daemon_pid(configuration.daemon.control_socket)):
        report(f"warning: {line}")
    if found := list(faults_of(configuration)):
        raise Failure(*found)
    planned = plan(configuration)
    if quiet:
        for limit in planned.limits:
            report(f"warning: limit: {limit}")
        return
    header, *rows = planned.rows()
    print_table(columns(map(str.upper, header), IMPORTANCE, SHORTENED), rows)
    if planned.ring_bytes:
        print_prose(f"memory: {planned.ring_bytes / (1 << 20):,.1f} MiB for frames received")
    record, rate = configuration.daemon.record, planned.advertisements_per_s
    print_prose(f"recording: {budget(record, planned.virtual_hosts, rate)}")
    print_prose(f"sent by: {planned.send}: {planned.send_reason}")
    if user := plan_of(configuration):
        print_prose(f"user: {user}")
    print_prose(f"not counted: {planned.uncounted}")
    for limit in planned.limits:
        print_prose(f"limit: {limit}")


def _doubts(configuration: Configuration) -> Iterator[str]:
    """What would not work as configured: on the interfaces of this host, and by a limit."""
    from carp_fast.daemon import control_group, present, surroundings
    from carp_fast.net.interfaces import LinkError, read_interfaces

    yield from control_group.doubts(configuration)
    try:
        interfaces = read_interfaces()
    except (OSError, LinkError) as error:
        yield f"the interfaces of this host could not be read: {error}"
        return
    yield from present.warnings(configuration, interfaces)
    yield from surroundings.differences(configuration.virtual_hosts, interfaces)
