"""Equal advskew on both sides: one master, and both name the same, whatever the addresses.

ucarp lets the lower source address stay and compares it in host byte order, on little-endian
machines the last octet first; a daemon that ordered addresses otherwise would leave two masters.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from carp_fast.lab.lab import Lab, interface_name, segment_network, wait_for
from carp_fast.lab.observer import Key, Observer
from tests.support.daemons import RunningDaemon, start_daemon, write_configuration
from tests.support.pairs import start_ucarp, wait_ucarps

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(sys.byteorder == "big", reason="ucarp orders addresses otherwise here"),
]


class Pair(NamedTuple):
    """The last two octets of both hosts' own addresses, and who stays master: host a or b."""

    a: str
    b: str
    stays: str


# By segment, from 1.  Comments: where the order as numbers would say otherwise.
PAIRS = (
    Pair("0.11", "0.12", "a"),
    Pair("0.12", "0.11", "b"),
    Pair("2.1", "1.2", "a"),  # 10.x.2.1 is the greater number
    Pair("1.2", "2.1", "b"),  # 10.x.1.2 is the lower number
    Pair("0.200", "1.100", "b"),  # 10.x.0.200 is the lower number
    Pair("1.100", "0.200", "a"),  # 10.x.1.100 is the greater number
    Pair("1.5", "2.5", "a"),
    Pair("128.7", "127.7", "b"),
)
SEGMENTS = range(1, len(PAIRS) + 1)
WITH_UCARP, AMONG_OURS = 1, 2  # vhids
KEYS = {Key(segment, vhid) for segment in SEGMENTS for vhid in (WITH_UCARP, AMONG_OURS)}
ELECTED_WITHIN_S = 10
SILENT_S = 2.5  # who was not heard for this long is no master


def shared_address(segment: int) -> str:
    """The virtual address with ucarp; the lab's own choice is a host's address here."""
    return f"{segment_network(segment)}.250.{WITH_UCARP}"


class Sides:
    """carp-fast on both hosts, ucarp besides on host b."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        for segment, pair in zip(SEGMENTS, PAIRS, strict=True):
            lab["a"].set_address(segment, f"{segment_network(segment)}.{pair.a}")
            lab["b"].set_address(segment, f"{segment_network(segment)}.{pair.b}")

    def start(self) -> None:
        """All at once; returns when they have been started."""
        self.ours_a = self._start_ours("a", (WITH_UCARP, AMONG_OURS))
        self.ours_b = self._start_ours("b", (AMONG_OURS,))
        self.ucarps = {
            segment: start_ucarp(
                self.lab["b"],
                self.lab.directory,
                segment,
                WITH_UCARP,
                address=shared_address(segment),
            )
            for segment in SEGMENTS
        }
        self.ours_a.wait_ready()
        self.ours_b.wait_ready()

    def wait_all_masters(self) -> None:
        self.ours_a.wait_state("MASTER", 10)
        self.ours_b.wait_state("MASTER", 10)
        every = self.ucarps.values()
        wait_ucarps(every, lambda ucarp: ucarp.state == "MASTER", 8, "ucarp MASTER")

    def require_agreement(self) -> None:
        """Both sides see it alike, and the addresses are where the master is."""
        states_a, states_b = self.ours_a.states(), self.ours_b.states()
        held = {host.name: host.addresses() for host in self.lab.hosts}
        for segment, pair in zip(SEGMENTS, PAIRS, strict=True):
            interface = interface_name(segment)
            expected = ("MASTER", "BACKUP") if pair.stays == "a" else ("BACKUP", "MASTER")
            assert (states_a[interface, WITH_UCARP], self.ucarps[segment].state) == expected
            assert (states_a[interface, AMONG_OURS], states_b[interface, AMONG_OURS]) == expected
            shared = (interface, shared_address(segment))
            assert [name for name in ("a", "b") if shared in held[name]] == [pair.stays]

    def _start_ours(self, name: str, vhids: tuple[int, ...]) -> RunningDaemon:
        table = {
            "interface": f"s[1-{len(PAIRS)}]",
            "vhid": list(vhids),
            "addresses": ["10.{number}.250.{vhid}/16"],
        }
        path = write_configuration(self.lab.directory, name, [table])
        return start_daemon(self.lab[name], path, ready=False)


def test_one_master_at_the_start_and_after_a_partition(
    lab_factory: Callable[..., Lab], program: Callable[[str], str]
) -> None:
    """Eight address pairs, each with carp-fast against ucarp and carp-fast against carp-fast.

    Started at once there is one master within 10 s.  Cut apart both sides master; joined again
    there is one within 10 s, and it is the one that ucarp's order names.
    """
    program("ucarp")
    lab = lab_factory("carp-fast-ties", hosts=("a", "b", "c"), segments=len(PAIRS), medium="bridge")
    sides = Sides(lab)
    with Observer(lab["c"]) as observer:

        def one_master() -> bool:
            masters = observer.masters(SILENT_S)
            return masters.keys() == KEYS and all(len(of) == 1 for of in masters.values())

        sides.start()
        observer.wait_until(one_master, ELECTED_WITHIN_S, "one master each")

        for segment in SEGMENTS:
            lab.partition(segment, ["b"])
        sides.wait_all_masters()
        for segment in SEGMENTS:
            lab.heal(segment, ["b"])

        right = {
            Key(segment, vhid): frozenset({lab[pair.stays].address(segment)})
            for segment, pair in zip(SEGMENTS, PAIRS, strict=True)
            for vhid in (WITH_UCARP, AMONG_OURS)
        }
        healed_at_ns = observer.mark()
        observer.wait_until(
            lambda: (
                observer.masters(SILENT_S) == right and observer.first_since_mark().keys() == KEYS
            ),
            ELECTED_WITHIN_S,
            "the right master each",
        )
        for vhid, what in ((WITH_UCARP, "carp-fast and ucarp"), (AMONG_OURS, "carp-fast alone")):
            settled_s = settling_times_s(lab, observer, vhid, healed_at_ns)
            print(f"{what}: loser heard for up to {max(settled_s):.3f} s after the heal")
        wait_for(lambda: scripts_run(sides), 10, "scripts run")
    sides.require_agreement()


def scripts_run(sides: Sides) -> bool:
    """Whether ucarp's scripts, which it runs after its switch, have come to their end."""
    return all(
        ucarp.scripts[-1:] == [ucarp.up if ucarp.state == "MASTER" else ucarp.down]
        for ucarp in sides.ucarps.values()
    )


def settling_times_s(lab: Lab, observer: Observer, vhid: int, healed_at_ns: int) -> list[float]:
    """By segment, how long after the partition the one that yields was still heard."""
    times_s = []
    for segment, pair in zip(SEGMENTS, PAIRS, strict=True):
        loser = observer.advertisements(lab["b" if pair.stays == "a" else "a"])
        heard = loser.get(Key(segment, vhid))
        times_s.append(max(0.0, (heard.last_at_ns - healed_at_ns) / 1e9) if heard else 0.0)
    return times_s
