"""Replays a captured election with our engine in the place of one of its hosts.

The other hosts are heard as captured, whatever ours does. The times at which ours starts and stops
advertising are compared with those of the replaced host. Must not know configurations or the
command line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from carp_fast.capture import pcap
from carp_fast.engine import _wire
from carp_fast.inet import address_text
from carp_fast.replay.player import Output, Player, prepared
from carp_fast.replay.scenario import SECOND_NS, Line, Scenario, ScenarioError, named

INTERFACE = "eth0"
# Advertisements further apart than this many intervals belong to different periods.
SILENT_INTERVALS = 2


class Period(NamedTuple):
    """A period of advertising: the times of its first and last advertisement, and their number."""

    start_ns: int
    stop_ns: int
    sent: int


class Pair(NamedTuple):
    """A period of the replaced host and the one of ours, either of which may be None.

    `apart_ns`: how much later ours starts and stops; `near`: both differ by at most an interval.
    """

    theirs: Period | None
    ours: Period | None
    apart_ns: tuple[int, int] | None
    near: bool


class Heard(NamedTuple):
    """An advertisement of the capture; `at_ns`: since its first frame."""

    at_ns: int
    frame: bytes
    source: str
    fields: dict[str, Any]


class Election(NamedTuple):
    """The result: pairs of periods, the number of advertisements of both, our engine's outputs."""

    interval_ns: int
    pairs: list[Pair]
    theirs: int
    ours: int
    outputs: list[Output]

    @property
    def same(self) -> bool:
        """True if ours started and stopped as the replaced host did."""
        return all(pair.near for pair in self.pairs)


def read_frames(path: Path) -> Iterator[tuple[int, bytes]]:
    """(ns, Ethernet frame) of each record of a pcap file. Raises ScenarioError, OSError."""
    with path.open("rb") as file:
        try:
            reader = pcap.Reader(file, str(path))
            for record in reader:
                yield record.at_ns, pcap.as_ethernet(reader.link, record.data)
        except pcap.PcapError as error:
            raise ScenarioError(str(error)) from error


def advertisements(frames: Iterable[tuple[int, bytes]], vhid: int | None) -> list[Heard]:
    """The advertisements for `vhid` (None: for any) among frames; their times start at 0."""
    found: list[Heard] = []
    first_ns: int | None = None
    for at_ns, frame in frames:
        first_ns = at_ns if first_ns is None else first_ns
        fields = _wire.parse(frame)
        if fields["verdict"] == "ok" and vhid in (None, fields["vhid"]):
            found.append(Heard(at_ns - first_ns, frame, address_text(fields["source"]), fields))
    return found


def periods(times: Sequence[int], silent_ns: int) -> list[Period]:
    """Periods of advertising, each ended by a silence of more than `silent_ns`."""
    found: list[Period] = []
    for at_ns in times:
        if found and at_ns - found[-1].stop_ns <= silent_ns:
            found[-1] = Period(found[-1].start_ns, at_ns, found[-1].sent + 1)
        else:
            found.append(Period(at_ns, at_ns, 1))
    return found


def pairs_of(theirs: list[Period], ours: list[Period], interval_ns: int) -> list[Pair]:
    """Pairs of periods in order: the first of both, the second of both, and so on."""
    pairs = []
    for number in range(max(len(theirs), len(ours))):
        their = theirs[number] if number < len(theirs) else None
        our = ours[number] if number < len(ours) else None
        apart_ns, near = None, False
        if their is not None and our is not None:
            apart_ns = our.start_ns - their.start_ns, our.stop_ns - their.stop_ns
            near = max(map(abs, apart_ns)) <= interval_ns
        pairs.append(Pair(their, our, apart_ns, near))
    return pairs


def take_place(
    heard: Sequence[Heard], source: str, host: dict[str, Any], orders: Sequence[Line] = ()
) -> Election:
    """Runs our engine with the settings `host` (see scenarios.HOST_KEYS) in the place of `source`.

    advbase, advskew and vhid default to those of the host's first advertisement. Ours starts early
    enough to advertise at that time, but not later than the capture. `orders`: what was done to the
    host, as lines of a scenario, in order. Raises ScenarioError.
    """
    own = [each for each in heard if each.source == source]
    if not own:
        known = ", ".join(sorted({each.source for each in heard})) or "none"
        raise ScenarioError(f"{source} does not advertise in this capture; sources: {known}")
    first = own[0].fields
    settings = {key: first[key] for key in ("vhid", "advbase", "advskew")} | host
    table = named({"interface": INTERFACE, "passphrase": "", **settings})
    vhids = {each.fields["vhid"] for each in own}
    if table["vhid"] not in vhids:
        raise ScenarioError(f"{source} does not advertise vhid {table['vhid']}")
    key = "source" if first["family"] == 4 else "source6"
    begin_ns = min(0, own[0].at_ns - _master_down_ns(table))
    scenario = Scenario(
        hosts=[table], interfaces={table["interface"]: {key: source}}, lines=list(orders)
    )
    player = Player(scenario)
    player.start(begin_ns)
    events: list[tuple[int, Line | Heard]] = [
        *((line.at_ns, line) for line in orders),
        *((each.at_ns, each) for each in heard if each.source != source),
    ]
    for at_ns, event in sorted(events, key=lambda event: event[0]):
        if isinstance(event, Line):
            player.give(event)
        else:
            player.hear_as_it_came(at_ns, table["interface"], event.frame, table["name"])
    player.run(heard[-1].at_ns)
    times = [
        output.at_ns for output in player.outputs if output.text.startswith(("ADVERTISE", "RESIGN"))
    ]
    interval_ns = max(_interval_ns(each.fields) for each in own if not _resigns(each.fields))
    silent_ns = SILENT_INTERVALS * interval_ns
    theirs = periods([each.at_ns for each in own], silent_ns)
    pairs = pairs_of(theirs, periods(times, silent_ns), interval_ns)
    return Election(interval_ns, pairs, len(own), len(times), player.outputs)


def _resigns(fields: dict[str, Any]) -> bool:
    return bool(fields["advbase"] == fields["advskew"] == 255)


def _interval_ns(fields: dict[str, Any]) -> int:
    return int(fields["advbase"] * 256 + fields["advskew"]) * SECOND_NS // 256


def _master_down_ns(table: dict[str, Any]) -> int:
    """Time from the start of a host that hears no master to its first advertisement."""
    from carp_fast.engine._engine import Engine

    engine = Engine()
    engine.set_interface(0, 0, source=b"\x0a\0\0\1", source6=b"\xfe\x80" + b"\0" * 13 + b"\1")
    engine.add(0, prepared(table, 0, own_source=False), 0)
    down_ns: int = engine.host(0).master_down_ns
    return down_ns
