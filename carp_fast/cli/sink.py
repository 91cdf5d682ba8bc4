"""The command `sink`: its options, its progress line, its tables.

Must not know how frames are received, judged or counted (loadtest/receiver.py).
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from carp_fast.cli.terminal import (
    Failure,
    ended_like_an_interrupt,
    failure,
    json_option,
    print_json,
    print_table,
    print_text,
    progress,
)

if TYPE_CHECKING:
    from carp_fast.loadtest.receiver import Flow, Received, Receiver

PROGRESS_S = 1.0
FLOWS_SHOWN = 50
"""Sources and vhids in a terminal's table, those with most loss first; a pipe gets all of them."""


@click.command()
@click.option("-i", "--interface", required=True, metavar="IF", help="Where frames arrive.")
@click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A configuration: digests are judged.",
)
@click.option(
    "--duration",
    type=click.FloatRange(0, min_open=True),
    metavar="S",
    help="Ends after so many seconds.  [default: at Ctrl-C]",
)
@click.option("--count", type=click.IntRange(1), metavar="N", help="Ends after so many frames.")
@click.option("--announcements", is_flag=True, help="Counts ARP and neighbour advertisements, too.")
@click.option(
    "--vlan",
    metavar="TAG",
    help='Frames with this 802.1Q tag; "any": whatever tag, or none.  [default: untagged ones]',
)
@json_option
def sink(
    *,
    interface: str,
    config: Path | None,
    duration: float | None,
    count: int | None,
    announcements: bool,
    vlan: str | None,
    as_json: bool,
) -> None:
    """Counts what arrives: the receiving end of `flood`.

    By verdict, and by source and vhid: first and last counter, frames received, counters lost,
    duplicates, frames out of order; latency where the sender stamps its frames (flood --stamp)
    and has the same clock. What the kernel dropped here is counted apart from what was lost on
    the way.

    Without -c, "ok" is what is well formed. With it the digest is right as well; interfaces of
    the configuration are ignored where FILE lacks the interface. A host that takes over counts on
    from what it heard: between real hosts such a step looks like loss.
    """
    from carp_fast.config.load import ConfigurationError, load
    from carp_fast.loadtest.receiver import Receiver, SinkError

    tag = vlan_of(vlan)
    try:
        configuration = load(config) if config else None
        with Receiver(interface, configuration, vlan=tag, announcements=announcements) as receiver:
            receiver.start(count or 0)
            click.echo(f"listening on {interface}", err=True)
            with ended_like_an_interrupt():
                _watch(receiver, duration, quiet=as_json)
            received, trouble = receiver.stop(), receiver.trouble
    except ConfigurationError as error:
        raise Failure(*str(error).splitlines()) from error
    except SinkError as error:
        raise failure(error) from error
    if as_json:
        import msgspec

        print_json(msgspec.json.encode(received))
    else:
        print_received(received)
    if trouble:
        raise failure(trouble)


def vlan_of(text: str | None) -> int | None:
    """The tag that `--vlan` names; 0 for any, None for none. Raises click.BadParameter."""
    if text is None or text == "any":
        return None if text is None else 0
    if not text.isdecimal() or not 1 <= int(text) <= 4094:
        raise click.BadParameter(f'{text!r}: 1 to 4094, or "any"', param_hint="--vlan")
    return int(text)


def _watch(receiver: Receiver, duration_s: float | None, *, quiet: bool) -> None:
    """Shows how it goes until the end, which Ctrl-C may bring."""
    begun_at = time.monotonic()
    before = 0
    with progress(quiet=quiet) as show, contextlib.suppress(KeyboardInterrupt):
        while True:
            elapsed_s = time.monotonic() - begun_at
            left_s = PROGRESS_S if duration_s is None else min(PROGRESS_S, duration_s - elapsed_s)
            if left_s <= 0 or receiver.wait(left_s):
                break
            frames = receiver.tally.frames
            elapsed_s = time.monotonic() - begun_at
            show(f"{elapsed_s:.0f} s  {frames:,} frames  {(frames - before) / left_s:,.0f}/s")
            before = frames


# --- the tables ---------------------------------------------------------------------------------


def print_received(received: Received) -> None:
    """Verdicts, the table by source and vhid, and what is to be said about them."""
    from carp_fast.engine._wire import VERDICT_WORDS

    counts = [
        (word, received.verdicts[word]) for word in VERDICT_WORDS if word in received.verdicts
    ]
    counts += [
        ("gratuitous ARP", received.gratuitous_arp),
        ("unsolicited NA", received.unsolicited_na),
        ("other", received.other),
    ]
    rows = [[word, f"{number:,}"] for word, number in counts if number]
    print_table(("verdict", "frames"), rows)
    print_flows(received.by_source)
    for line in said(received):
        print_text(line)


def print_flows(flows: Sequence[Flow]) -> None:
    """A row for each source and vhid; on a terminal not more than FLOWS_SHOWN."""
    if not flows:
        return
    shown = list(flows)
    if sys.stdout.isatty() and len(flows) > FLOWS_SHOWN:
        shown = sorted(flows, key=lambda flow: -flow.lost)[:FLOWS_SHOWN]
    header = ("source", "vhid", "first", "last", "received", "lost", "duplicates", "reordered")
    rows = [
        [flow.source, str(flow.vhid), flow.first, flow.last]
        + [f"{number:,}" for number in (flow.received, flow.lost, flow.duplicates, flow.reordered)]
        for flow in shown
    ]
    print_text("")
    print_table(header, rows, lambda row: "yellow" if row[5] != "0" else "")
    if len(shown) < len(flows):
        print_text(f"... and {len(flows) - len(shown):,} more (--json has all of them)")


def said(received: Received) -> Iterator[str]:
    """The sums, and each limit that was hit."""
    yield ""
    yield (
        f"{received.frames:,} frames in {received.seconds:.1f} s, {received.frames_per_s:,.0f}/s;"
        f" counters lost: {received.lost:,}"
    )
    if received.kernel_dropped or received.interface_dropped:
        yield (
            f"dropped here, not on the way, and among the lost: {received.kernel_dropped:,} by the"
            f" socket, {received.interface_dropped:,} by the interface"
        )
    if received.latency is not None:
        latency = received.latency
        yield (
            f"latency of {latency.frames:,} stamped frames: p50 {latency.p50_ns / 1e3:,.1f} us,"
            f" p99 {latency.p99_ns / 1e3:,.1f} us, max {latency.max_ns / 1e3:,.1f} us"
        )
    if received.before_sent:
        yield (
            f"{received.before_sent:,} frames arrived before they were sent: the ends have two"
            " clocks, and latency says nothing"
        )
    if received.strays:
        yield (
            f"{received.strays:,} frames with a counter too far from the others to be placed (more"
            f" than {received.counter_window:,} back, COUNTER_WINDOW, or 16,777,216 ahead)"
        )
    if received.restarts:
        yield f"{received.restarts:,} times a sender began with other counters"
    if received.left_out:
        yield (
            f"{received.left_out:,} frames are in no row: the table holds"
            f" {received.flows_max:,} sources and vhids (FLOW_LIMIT)"
        )
    if not received.judged:
        yield "digests were not judged: no configuration was given (-c FILE)"
