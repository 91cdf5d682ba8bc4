"""The command `events`: every change of a virtual host's state, and of a track's, as it happens.

Must not know how the daemon notices them.
"""

from __future__ import annotations

import time
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
    from carp_fast.control.client import ControlClient, ControlStream
    from carp_fast.control.documents import EventsGap, StateEvent, TrackEvent
    from carp_fast.control.protocol import ControlError

RETRY_S = 0.25  # between attempts to find the daemon again


@click.command()
@daemon_options
@json_option
@click.option(
    "--reconnect",
    is_flag=True,
    help="Go on when the daemon has been restarted, too. A line tells for which time events are"
    " missing.",
)
def events(
    config: Path | None, control_socket: Path | None, *, as_json: bool, reconnect: bool
) -> None:
    """Prints state changes as they happen. One per line, until Ctrl-C.

    Goes on when the daemon is upgraded.
    """
    from carp_fast.control.client import ControlClient
    from carp_fast.control.protocol import UPGRADED, ControlError

    client = ControlClient(control_path(config, control_socket))
    while True:
        try:
            if reconnect:
                _print_with_gaps(client, as_json)
            _print_events(_begun(client), as_json)
        except ControlError as error:
            if error.code != UPGRADED:
                raise failure(error) from error
            report(str(error))


def _begun(client: ControlClient) -> ControlStream[dict[str, Any]]:
    return client.stream("events", tracks=True)


def _print_events(begun: ControlStream[dict[str, Any]], as_json: bool) -> NoReturn:
    with begun as stream:
        while True:
            _print_next(stream, as_json)


def _print_next(stream: ControlStream[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_text(stream.next_line().decode(), flush=True)
    else:
        print_prose(line_of(stream.next_event()), flush=True)


def _print_with_gaps(client: ControlClient, as_json: bool) -> NoReturn:
    """Goes on with whichever daemon serves the socket. Raises ControlError if there is none at
    first, or one that does not permit it.
    """
    from carp_fast.control.protocol import BEHIND, ControlError

    stream = _begun(client)
    while True:
        complete_ns = time.time_ns()  # nothing was missed until then
        try:
            while True:
                _print_next(stream, as_json)
                complete_ns = time.time_ns()
        except ControlError as error:
            stream.close()
            if error.code != BEHIND:  # whose events were lost while it read
                complete_ns = time.time_ns()
            stream = _found_again(client, error, complete_ns, as_json)


def _found_again(
    client: ControlClient, lost: ControlError, complete_ns: int, as_json: bool
) -> ControlStream[dict[str, Any]]:
    """Waits until a daemon serves the socket again, and prints the gap, which begins at
    `complete_ns`. Raises ControlError if the daemon does not permit it.
    """
    from carp_fast.control.documents import EventsGap
    from carp_fast.control.protocol import NOT_PERMITTED, ControlError

    lost_s = time.monotonic()
    why = str(lost)
    report(f"lost: {why}; connecting again")
    while True:
        try:
            stream = _begun(client)
            break
        except ControlError as error:
            if error.code == NOT_PERMITTED:
                raise
            if str(error) != why:  # each once, not with every attempt
                why = str(error)
                report(f"waiting: {why}")
        time.sleep(RETRY_S)
    _print_gap(EventsGap(_rfc3339(time.time_ns()), _rfc3339(complete_ns), str(lost)), as_json)
    report(f"connected again after {time.monotonic() - lost_s:.1f} s")
    return stream


def _rfc3339(at_ns: int) -> str:
    from carp_fast.daemon.systemd import rfc3339

    return rfc3339(at_ns // 1_000_000)


def _print_gap(gap: EventsGap, as_json: bool) -> None:
    import msgspec

    if as_json:
        print_text(msgspec.json.encode(gap).decode(), flush=True)
    else:
        print_prose(f"{gap.at} gap: events since {gap.since} are missing: {gap.gap}", flush=True)


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
