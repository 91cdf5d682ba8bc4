"""Compares what was sent with what arrived.

A trial is one flood and its reception. Holds the comparison of the two, flow by flow, and the chart
of several. Must not know how frames are sent, the command line, or how results are
printed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import msgspec

from carp_fast.bench.plot import Line, Panel, draw
from carp_fast.inet import address_bytes, mac_bytes
from carp_fast.loadtest import sender as flood
from carp_fast.loadtest._mix import Mix
from carp_fast.loadtest.receiver import Flow, Latency, Received, Receiver, SinkError

ANNOUNCED = ("arp", "na")
"""Kinds of frames that announce an address."""


class Key(NamedTuple):
    """What tells a flow apart; `vlan` is None without a tag, or with a mere priority."""

    source: str
    vhid: int
    destination: str
    vlan: int | None


What = tuple[str, Key | None]  # a kind of frames without a counter, and their flow


@dataclass(frozen=True)
class Sent:
    """Frames that left the sender, by flow.

    `by_source`: frames with a counter of their own; `replayed`: frames that repeat a counter;
    `uncounted`: frames without one, by kind ("bad_length", "vrrp") and flow, or by kind alone
    (ANNOUNCED); `frames`: the sum of all. `announces`: whether an announcement (MAC, address, VLAN)
    may be one of them.
    `stamped`: they contain the time of sending. `interrupted`: stopped before their end. `span_ns`:
    from the first frame to the last, 0 if unknown. `late`: frames that left more than LATE_NS late.
    """

    frames: int
    seconds: float
    by_source: Mapping[Key, int]
    replayed: Mapping[Key, int] = field(default_factory=dict)
    uncounted: Mapping[What, int] = field(default_factory=dict)
    announces: Callable[[bytes, bytes, int | None], bool] = lambda mac, address, vlan: False
    asked_per_s: float | None = None
    stamped: bool = False
    interrupted: bool = False
    span_ns: int = 0
    late: int = 0

    @property
    def per_s(self) -> float:
        return self.frames / self.seconds if self.seconds > 0 else 0.0


def sent_of(flooded: flood.Sent, source: Mix, *, stamped: bool) -> Sent:
    """The result of a flood of `source` in the form of a trial."""
    fresh: Counter[Key] = Counter()
    replayed: Counter[Key] = Counter()
    uncounted: Counter[What] = Counter()
    for row in flooded.by_source:
        key = Key(row.source, row.vhid, row.destination, row.vlan or None)
        fresh[key] += row.sent
        replayed[key] += row.replayed
        uncounted["bad_length", key] += row.bad_length
        uncounted["vrrp", key] += row.vrrp
    for kind in ANNOUNCED:
        uncounted[kind, None] = flooded.kinds.get(kind, 0)
    return Sent(
        frames=flooded.sent,
        seconds=flooded.seconds,
        by_source=fresh,
        replayed=replayed,
        uncounted={what: count for what, count in uncounted.items() if count},
        announces=source.announces,
        asked_per_s=flooded.asked_rate,
        stamped=stamped,
        interrupted=flooded.interrupted,
        span_ns=flooded.gaps.span_ns if flooded.gaps else 0,
        late=(flooded.gaps.late or 0) if flooded.gaps else 0,
    )


class Crossing(msgspec.Struct, frozen=True):
    """One flow: frames that were sent, that arrived, and that were lost.

    `duplicates`: frames that arrived more often than they were sent, not included in `arrived`.
    `source` None: the frames without a counter (short ones, VRRP, announcements). Of those a frame
    that arrives twice makes up for one that is lost, if both have sender and content in common.
    """

    source: str | None
    vhid: int | None
    destination: str | None
    vlan: int | None
    sent: int
    arrived: int
    lost: int
    duplicates: int
    reordered: int


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a trial.

    `arrived` and `lost` add up to `sent`: sums over `by_source`, where the frames that arrived but
    found no room in the receiver's table, `left_out`, count as arrived. `duplicates`: frames that
    arrived more often than they were sent. `lost_on_the_way`: those not dropped by the receiving
    socket (`kernel_dropped`) or interface; `loss`: its fraction of the frames sent. `foreign`:
    frames from other sources. `latency` is None with `stamped` if something on the way cuts frames
    to their IP length. `sent_per_s`: the rate reached; `asked_per_s`: the rate requested, None: the
    fastest. `sent_late`: frames that left more than a millisecond late (LATE_NS), since the sender
    was held up. `queued`: the fraction of the frames that were on their way when the last one was
    sent, by how much longer they took to arrive than to be sent. `interrupted`: the sending was
    stopped before its end.
    """

    asked_per_s: float | None
    sent_per_s: float
    seconds: float
    sent: int
    arrived: int
    lost: int
    duplicates: int
    lost_on_the_way: int
    loss: float
    kernel_dropped: int
    interface_dropped: int
    foreign: int
    left_out: int
    stamped: bool
    latency: Latency | None
    sent_late: int
    queued: float
    by_source: list[Crossing]
    interrupted: bool = False


def compare(sent: Sent, received: Received) -> Trial:
    """Compares the frames sent with those received."""
    rows, foreign = [], 0
    uncounted, strangers = _without_counter(sent, received)
    heard = {
        Key(flow.source, flow.vhid, flow.destination, flow.vlan): flow
        for flow in received.by_source
    }
    for key, flow in heard.items():
        foreign += 0 if key in sent.by_source else flow.received
    for key, count in sent.by_source.items():
        if count or key in sent.replayed:
            rows.append(_crossing(key, count, sent.replayed.get(key, 0), heard.get(key)))
    if uncounted.sent:
        rows.append(uncounted)
    lost = max(0, sum(row.lost for row in rows) - received.left_out)
    here = received.kernel_dropped + received.interface_dropped
    lost_on_the_way = max(0, lost - here)
    return Trial(
        asked_per_s=sent.asked_per_s,
        sent_per_s=round(sent.per_s, 1),
        seconds=round(sent.seconds, 3),
        sent=sent.frames,
        arrived=sent.frames - lost,
        lost=lost,
        duplicates=sum(row.duplicates for row in rows),
        lost_on_the_way=lost_on_the_way,
        loss=lost_on_the_way / sent.frames if sent.frames else 0.0,
        kernel_dropped=received.kernel_dropped,
        interface_dropped=received.interface_dropped,
        foreign=foreign + strangers + received.other,
        left_out=received.left_out,
        stamped=sent.stamped,
        latency=received.latency,
        sent_late=sent.late,
        queued=_queued(sent, [flow for key, flow in heard.items() if key in sent.by_source]),
        by_source=rows,
        interrupted=sent.interrupted,
    )


def _queued(sent: Sent, flows: Sequence[Flow]) -> float:
    """The fraction of the frames that arrived after so much time as they took to be sent."""
    if not flows or not sent.span_ns:
        return 0.0
    first = min(flow.first_at_ns for flow in flows)
    span_ns = max(flow.last_at_ns for flow in flows) - first
    return max(0.0, 1 - sent.span_ns / span_ns) if span_ns > 0 else 0.0


def _without_counter(sent: Sent, received: Received) -> tuple[Crossing, int]:
    """The row of the frames without a counter, and how many such frames came from others."""
    arrived: Counter[What] = Counter()
    foreign = 0
    for row in received.uncounted:
        if row.vhid is None:
            what: What = row.kind, None
            addresses = mac_bytes(row.source), address_bytes(row.destination)
            ours = sent.announces(*addresses, row.vlan)
        else:
            what = row.kind, Key(row.source, row.vhid, row.destination, row.vlan)
            ours = True
        if ours and what in sent.uncounted:
            arrived[what] += row.received
        else:
            foreign += row.received
    count = sum(sent.uncounted.values())
    there = sum(min(each, arrived[what]) for what, each in sent.uncounted.items())
    more = arrived.total() - there
    return Crossing(None, None, None, None, count, there, count - there, more, 0), foreign


def _crossing(key: Key, fresh: int, replayed: int, found: Flow | None) -> Crossing:
    sent = fresh + replayed
    if found is None:
        return Crossing(*key, sent, 0, sent, 0, 0)
    repeated = min(found.duplicates, replayed)
    arrived = found.received - found.duplicates + repeated
    more = found.duplicates - repeated
    return Crossing(*key, sent, arrived, max(0, sent - arrived), more, found.reordered)


def cross(send: Callable[[], Sent], receiver: Receiver) -> Trial:
    """Sends while the receiver counts, and compares when no more frames arrive.

    Raises SinkError if the receiver's interface is lost meanwhile, and what `send` raises.
    """
    receiver.start()
    sent = send()
    receiver.drain(lambda: _ours(compare(sent, receiver.so_far())))
    received = receiver.stop()
    if receiver.trouble is not None:
        raise SinkError(receiver.trouble)
    return compare(sent, received)


def _ours(trial: Trial) -> int:
    """Frames of the sender that arrived, as often as they did: those of others do not count."""
    return trial.arrived + trial.duplicates


def figure(steps: Sequence[Trial], caption: str) -> str:
    """An SVG chart of loss and, for stamped frames, latency by rate.

    The axes are logarithmic: a trial without loss is a mark, where one lost frame would be.
    """
    ordered = sorted((trial for trial in steps if trial.sent), key=lambda trial: trial.sent_per_s)
    lines = [
        Line("loss", [(trial.sent_per_s, 100 * trial.loss) for trial in run])
        for losing, run in groupby(ordered, lambda trial: trial.lost_on_the_way > 0)
        if losing
    ]
    clean = [(t.sent_per_s, 100 / t.sent) for t in ordered if not t.lost_on_the_way]
    lines.append(Line("no loss (drawn as one frame)", clean, joined=False))
    panels = [
        Panel(
            "Loss against rate",
            "sent, frames/s",
            "lost on the way, % of frames",
            [line for line in lines if line.points],
        )
    ]
    stamped = [(t.sent_per_s, t.latency) for t in ordered if t.latency]
    if stamped:
        panels.append(
            Panel(
                "Latency against rate",
                "sent, frames/s",
                "latency, microseconds",
                [
                    Line(name, [(rate, max(1, getattr(lat, key)) / 1e3) for rate, lat in stamped])
                    for name, key in (("p50", "p50_ns"), ("p99", "p99_ns"), ("max", "max_ns"))
                ],
            )
        )
    return draw(panels, caption)
