"""The command `sink`: its options, progress line and tables.

Must not know how frames are received, judged or counted (loadtest/receiver.py).
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from carp_fast.cli.interrupts import LOOK_S, Interrupts, marked
from carp_fast.cli.tables import columns
from carp_fast.cli.terminal import (
    Failure,
    Finite,
    failure,
    json_option,
    print_json,
    print_prose,
    print_table,
    print_text,
    progress,
)

if TYPE_CHECKING:
    from carp_fast.loadtest.receiver import Flow, Received, Receiver

PROGRESS_S = 1.0
VLANS_NAMED = 5
"""VLANs whose skipped frames are named, those with the most first; the others are counted."""
WRONG = ("lost", "duplicates", "reordered")
FLOWS_SHOWN = 50
"""Rows in a terminal's table, those with the most loss first; a pipe gets all of them."""


@click.command()
@click.option("-i", "--interface", required=True, metavar="IF", help="Receive on this interface.")
@click.option(
    "-c",
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Verify digests with this configuration.",
)
@click.option(
    "--duration",
    type=Finite(0, min_open=True),
    metavar="S",
    help="Stop after S seconds.  [default: at Ctrl-C]",
)
@click.option("--count", type=click.IntRange(1), metavar="N", help="Stop after N frames.")
@click.option(
    "--announcements",
    is_flag=True,
    help="Also count gratuitous ARP and unsolicited neighbour advertisements.",
)
@click.option(
    "--vlan",
    metavar="TAG",
    help='Count frames with this 802.1Q tag; "any": with and without tags.  [default: untagged]',
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
    """Counts received frames. The receiving end of `carp-fast flood`.

    Frames are counted by verdict, and by flow (source, destination, vhid, VLAN): first and last
    counter, frames received, counters lost, duplicates, frames out of order. Latency is measured if
    the sender stamps its frames (flood --stamp) and has the same clock. Frames that the kernel
    dropped on this host are counted apart from those lost on the way.

    Without -c, "ok" means well formed. With -c, the digest is valid, too; the interfaces in the
    configuration are ignored if FILE does not name the interface. A real host that takes over
    continues from the counter that it received last, which looks like loss.
    """
    from carp_fast.config.load import ConfigurationError, load
    from carp_fast.loadtest.receiver import Receiver, SinkError

    tag = vlan_of(vlan)
    try:
        configuration = load(config) if config else None
        with (
            Interrupts() as interrupts,
            Receiver(interface, configuration, vlan=tag, announcements=announcements) as receiver,
        ):
            receiver.start(count or 0)
            click.echo(f"listening on {interface}", err=True)
            _watch(receiver, interrupts, duration, quiet=as_json)
            _print(receiver.stop(interrupted=interrupts.came), as_json)
            if receiver.trouble:
                raise failure(receiver.trouble)
            interrupts.exit()
    except ConfigurationError as error:
        raise Failure(*str(error).splitlines()) from error
    except SinkError as error:
        raise failure(error) from error


def vlan_of(text: str | None) -> int | None:
    """The tag given by `--vlan`; 0 for any, None for none. Raises click.BadParameter."""
    if text is None or text == "any":
        return None if text is None else 0
    if not text.isdecimal() or not 1 <= int(text) <= 4094:
        raise click.BadParameter(f'{text!r}: must be 1 to 4094 or "any"', param_hint="--vlan")
    return int(text)


def _watch(
    receiver: Receiver, interrupts: Interrupts, duration_s: float | None, *, quiet: bool
) -> None:
    """Shows progress until the duration is over, the receiver has ended, or a signal came."""
    begun_at = shown_at = time.monotonic()
    end_at = math.inf if duration_s is None else begun_at + duration_s
    before = 0
    with progress(quiet=quiet) as show:
        while not interrupts.came:
            now = time.monotonic()
            if now - shown_at >= PROGRESS_S:
                frames = receiver.tally.frames
                rate = (frames - before) / (now - shown_at)
                show(f"{now - begun_at:.0f} s  {frames:,} frames  {rate:,.0f}/s")
                before, shown_at = frames, now
            if end_at <= now or receiver.wait(min(LOOK_S, end_at - now)):
                return


# --- the tables ---------------------------------------------------------------------------------


def _print(received: Received, as_json: bool) -> None:
    if as_json:
        import msgspec

        print_json(msgspec.json.encode(received))
    else:
        print_received(received)


def print_received(received: Received) -> None:
    """Prints the verdicts, the table of flows, and the summary."""
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
    print_table(columns(("verdict", "frames")), rows)
    print_flows(received.by_source)
    for line in summary(received):
        print_prose(line)


def print_flows(flows: Sequence[Flow]) -> None:
    """Prints a row for each flow; on a terminal at most FLOWS_SHOWN."""
    if not flows:
        return
    shown = list(flows)
    if sys.stdout.isatty() and len(flows) > FLOWS_SHOWN:
        shown = sorted(flows, key=lambda flow: -flow.lost)[:FLOWS_SHOWN]
    header = ("source", "vhid", *("destination", "vlan", "first", "last", "received"), *WRONG)
    rows = [
        [flow.source, str(flow.vhid), flow.destination, vlan_text(flow.vlan), flow.first, flow.last]
        + [f"{number:,}" for number in (flow.received, flow.lost, flow.duplicates, flow.reordered)]
        for flow in shown
    ]
    print_text("")
    importance = ("received", "vlan", "duplicates", "reordered", "destination", "last", "first")
    every = columns(header, importance)
    lost = header.index("lost")
    print_table(every, rows, lambda row: "yellow" if row[lost] != "0" else "")
    if len(shown) < len(flows):
        print_prose(f"... and {len(flows) - len(shown):,} more (--json has all of them)")


def coarse_us(ns: int) -> str:
    """Microseconds of a percentile, which is known to within 3 %: two digits."""
    return f"{float(f'{ns / 1e3:.2g}'):,.10g}"


def vlan_text(vlan: int | None) -> str:
    return "-" if vlan is None else str(vlan)


def skipped_line(skipped: Mapping[int, int]) -> str:
    """How many frames were not counted because of their VLAN."""
    most = sorted(skipped.items(), key=lambda item: -item[1])
    named = [
        f"{count:,} " + (f"of VLAN {vlan}" if vlan else "without a tag")
        for vlan, count in most[:VLANS_NAMED]
    ]
    if len(most) > VLANS_NAMED:
        named.append(f"{len(most) - VLANS_NAMED:,} more VLANs")
    return f"{sum(skipped.values()):,} frames were skipped (--vlan): {', '.join(named)}"


def summary(received: Received) -> Iterator[str]:
    """Lines with the sums and each limit that was hit."""
    yield ""
    yield (
        f"{received.frames:,} frames in {received.seconds:.1f} s, {received.frames_per_s:,.0f}/s;"
        f" counters lost: {received.lost:,}"
    )
    if received.interrupted:
        yield marked(received.seconds)
    if received.kernel_dropped or received.interface_dropped:
        yield (
            f"dropped by this host and included in the lost: {received.kernel_dropped:,} by the"
            f" socket, {received.interface_dropped:,} by the interface"
        )
    if received.latency is not None:
        latency = received.latency
        yield (
            f"latency of {latency.frames:,} stamped frames: p50 {coarse_us(latency.p50_ns)} us,"
            f" p99 {coarse_us(latency.p99_ns)} us, max {latency.max_ns / 1e3:,.1f} us"
        )
    if received.before_sent:
        yield (
            f"{received.before_sent:,} frames arrived before they were sent: sender and receiver"
            " have different clocks, so latency is meaningless"
        )
    if received.strays:
        yield (
            f"{received.strays:,} frames with a counter too far from the others to be placed (more"
            f" than {received.counter_window:,} back, COUNTER_WINDOW, or 16,777,216 ahead)"
        )
    if received.restarts:
        yield f"a sender restarted with other counters {received.restarts:,} times"
    if received.left_out:
        yield (
            f"{received.left_out:,} frames are in no row: the table holds"
            f" {received.flows_max:,} flows (FLOW_LIMIT)"
        )
    if received.skipped:
        yield skipped_line(received.skipped)
    if not received.judged:
        yield "digests were not judged: no configuration was given (-c FILE)"
