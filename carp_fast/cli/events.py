"""The command `events`: every change of a virtual host's state, and of a track's, as it happens.

Must not know how the daemon notices them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from carp_fast.cli.terminal import (
    control_path,
    daemon_options,
    failure,
    json_option,
    print_prose,
    print_text,
    report,
)

if TYPE_CHECKING:
    from carp_fast.control.client import ControlClient
    from carp_fast.control.documents import StateEvent, TrackEvent


@click.command()
@daemon_options
@json_option
def events(config: Path | None, control_socket: Path | None, as_json: bool) -> None:
    """Prints state changes as they happen. One per line, until Ctrl-C.

    Goes on when the daemon is upgraded.
    """
    from carp_fast.control.client import ControlClient
    from carp_fast.control.protocol import UPGRADED, ControlError

    client = ControlClient(control_path(config, control_socket))
    while True:
        try:
            _print_events(client, as_json)
        except ControlError as error:
            if error.code != UPGRADED:
                raise failure(error) from error
            report(str(error))


def _print_events(client: ControlClient, as_json: bool) -> NoReturn:
    with client.stream("events", tracks=True) as stream:
        while True:
            if as_json:
                print_text(stream.next_line().decode(), flush=True)
            else:
                print_prose(line_of(stream.next_event()), flush=True)


def line_of(event: dict[str, Any]) -> str:
    """An event for people: a change of a virtual host's state, or of a track's."""
    from msgspec import convert

    from carp_fast.control.documents import StateEvent, TrackEvent

    if "track" in event:
        return _track_line(convert(event, TrackEvent))
    return state_line(convert(event, StateEvent))


def _track_line(event: TrackEvent) -> str:
    does = ", cannot be MASTER" if event.hard else ""
    does += f", demoted by {event.demotion}" if event.demotion else ""
    change = f"{event.previous} -> {event.state}"
    return f"{event.at} track {event.track}: {change}{does}: {event.last}"


def state_line(event: StateEvent) -> str:
    """A change of a virtual host's state."""
    change = f"{event.previous} -> {event.state} ({event.reason})"
    reasons = ", ".join(f"{word} {amount}" for word, amount in event.demotion.reasons.items())
    demoted = f", demoted by {event.demotion.total} ({reasons})" if reasons else ""
    if event.group is not None and event.group.demoted:
        demoted += f", group {event.group.name} is demoted: {event.group.why}"
    name = f" ({event.name})" if event.name else ""
    return f"{event.at} {event.interface}/{event.vhid}{name}: {change}{demoted}"
