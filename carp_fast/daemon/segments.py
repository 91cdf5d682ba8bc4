"""Counts virtual hosts by segment: those of an interface may belong to several.

The pump's tallies are by interface, which is enough where an interface has one segment. Must not
know metrics, or what a segment is for.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from carp_fast.daemon.problems import BITS, marked
from carp_fast.daemon.table import STATES
from carp_fast.metrics.measured import SegmentMeasured

if TYPE_CHECKING:
    from carp_fast.config.model import VirtualHost
    from carp_fast.engine._tallies import Tallies
    from carp_fast.engine.tallied import Tallied


def by_segment(
    hosts: Sequence[VirtualHost | None], tallies: Tallies, interfaces: Mapping[str, Tallied]
) -> dict[str, dict[str, SegmentMeasured]]:
    """By interface and segment. `hosts`: by slot; `interfaces`: the tallies of each, by name.

    A slot whose virtual host has changed since the tallies were made is left out.
    """
    segments: defaultdict[str, set[str]] = defaultdict(set)
    for host in hosts:
        if host is not None:
            segments[host.interface].add(host.labels.segment)
    found: dict[str, dict[str, SegmentMeasured]] = {}
    for name, of_interface in segments.items():
        tallied = interfaces.get(name)
        if tallied is not None and len(of_interface) == 1:
            (segment,) = of_interface
            whole = SegmentMeasured(tallied.states, tallied.second_masters)
            found[name] = {segment or name: whole}
    mixed = segments.keys() & interfaces.keys() - found.keys()
    return found | _counted(hosts, tallies, mixed) if mixed else found


def _counted(
    hosts: Sequence[VirtualHost | None], tallies: Tallies, interfaces: Collection[str]
) -> dict[str, dict[str, SegmentMeasured]]:
    """The virtual hosts of these interfaces, counted one by one."""
    states: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    seconds: Counter[tuple[str, str]] = Counter()
    hearing = set(marked(tallies.problems(), BITS["second_master"]))
    for slot, vhid, state, _ in tallies.hosts(0, tallies.slots):
        host = hosts[slot]
        if host is None or host.vhid != vhid or host.interface not in interfaces:
            continue
        key = host.interface, host.segment
        states[key][STATES[state]] += 1
        seconds[key] += slot in hearing and STATES[state] == "MASTER"
    found: dict[str, dict[str, SegmentMeasured]] = {}
    for (interface, segment), counts in states.items():
        measured = SegmentMeasured(counts, seconds[interface, segment])
        found.setdefault(interface, {})[segment] = measured
    return found
