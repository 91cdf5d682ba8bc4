"""The command `explain`: asks the daemon for the reasons for the state of a virtual host.

Must not know how the daemon finds out (daemon/explain.py), nor the sentences
(daemon/explain_text.py).
"""

from __future__ import annotations

from pathlib import Path

import click

from carp_fast.cli.terminal import (
    control_path,
    daemon_options,
    failure,
    json_option,
    print_json,
    print_prose,
)


@click.command()
@click.argument("interface", metavar="IF")
@click.argument("vhid", type=click.IntRange(1, 255), metavar="VHID")
@daemon_options
@json_option
def explain(
    interface: str, vhid: int, config: Path | None, control_socket: Path | None, as_json: bool
) -> None:
    """Explains the state of a virtual host. Prints its reasons and what would change it."""
    from carp_fast.control.client import ControlClient
    from carp_fast.control.protocol import ControlError
    from carp_fast.daemon.explain_text import text

    client = ControlClient(control_path(config, control_socket))
    try:
        if as_json:
            print_json(client.explain_json(interface, vhid))
        else:
            print_prose(text(client.explain(interface, vhid)))
    except ControlError as error:
        raise failure(error) from error
