"""carp-fast and ucarp back each other up: who masters stays master, who is left takes over.

In every scenario host a dies.  On segment 1 it runs carp-fast and host b ucarp, on segment 2 the
other way round.  Host c only listens.  The passphrase is as long as ucarp allows, and carp-fast
holds an unsigned address besides the one that ucarp knows, which leaves the digest as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from carp_fast.lab.lab import Lab, interface_name, segment_network, virtual_address, wait_for
from carp_fast.lab.observer import Key, Observer
from tests.support.daemons import start_daemon, write_configuration
from tests.support.pairs import (
    Ucarp,
    membership,
    start_ucarp,
    wait_advertisements,
    wait_ucarp_state,
)

pytestmark = pytest.mark.root

VHIDS = range(1, 21)
OURS_FIRST, UCARP_FIRST = 1, 2  # the segments, by who is master on host a
PASSPHRASE = "nineteen-bytes-long"
ADVSKEW = {"a": 0, "b": 100}
MASTER_DOWN_S = 3 + 100 / 256  # of host b

# ucarp looks at its clock only when its poll ends, after up to an interval.
UCARP_LATE_S = 3.0
OURS_LATE_S = 0.25


def keys(segment: int) -> set[Key]:
    return {Key(segment, vhid) for vhid in VHIDS}


class Sides:
    """carp-fast and ucarp on hosts a and b, crosswise."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.a, self.b, _ = lab.hosts

    def start_masters(self) -> None:
        """Host a: carp-fast on segment 1, ucarp on segment 2, MASTER of all."""
        self.ours_a = start_daemon(self.a, self._configuration("a", OURS_FIRST), ready=False)
        self.ucarps_a = self._ucarps("a", UCARP_FIRST)
        self.ours_a.wait_ready()
        self.ours_a.wait_state("MASTER", 10)
        wait_ucarp_state(self.ucarps_a, "MASTER", 10)

    def start_backups(self) -> None:
        """Host b: ucarp on segment 1, carp-fast on segment 2, BACKUP."""
        self.ours_b = start_daemon(self.b, self._configuration("b", UCARP_FIRST), ready=False)
        self.ucarps_b = self._ucarps("b", OURS_FIRST)
        self.ours_b.wait_ready()
        wait_ucarp_state(self.ucarps_b, "BACKUP", 10)

    def kill_masters(self) -> None:
        self.ours_a.kill()
        for ucarp in self.ucarps_a:
            ucarp.process.kill()

    def _configuration(self, name: str, segment: int) -> Path:
        network = segment_network(segment)
        table = {
            "interface": interface_name(segment),
            "vhid": f"{VHIDS[0]}-{VHIDS[-1]}",
            "addresses": [f"{network}.1.{{vhid}}/32"],
            "unsigned_addresses": [f"{network}.2.{{vhid}}/32"],
            "advskew": ADVSKEW[name],
        }
        return write_configuration(
            self.lab.directory, name, [table], defaults={"passphrase": PASSPHRASE}
        )

    def _ucarps(self, name: str, segment: int) -> list[Ucarp]:
        return [
            start_ucarp(
                self.lab[name],
                self.lab.directory,
                segment,
                vhid,
                passphrase=PASSPHRASE,
                advskew=ADVSKEW[name],
            )
            for vhid in VHIDS
        ]


@pytest.mark.parametrize(("medium", "held"), [("bridge", 15), ("macvlan", 5)])
def test_each_is_backup_of_the_other_and_takes_over_when_it_is_killed(
    lab_factory: Callable[..., Lab], program: Callable[[str], str], medium: str, held: int
) -> None:
    """Host a masters 2 x 20 virtual hosts for 15 advertisements each, and is killed with SIGKILL.

    Meanwhile host b says nothing and changes no state, then it takes over all of them: ucarp by its
    slow clock, carp-fast within its master-down time; addresses, scripts, announcements follow.
    Started again, carp-fast on host a removes what it held and stays backup of ucarp.
    """
    program("ucarp")
    lab = lab_factory("carp-fast-failover", hosts=("a", "b", "c"), segments=2, medium=medium)
    a, b, c = lab.hosts
    sides = Sides(lab)
    with membership(c, (OURS_FIRST, UCARP_FIRST)), Observer(c) as observer:
        sides.start_masters()
        sides.start_backups()
        everything = keys(OURS_FIRST) | keys(UCARP_FIRST)
        wait_advertisements(observer, a, everything, held, held + 5)
        require_backup(sides, observer, held)

        sides.kill_masters()
        observer.mark()
        observer.wait_until(
            lambda: observer.first_since_mark(b).keys() >= everything, 12, "host b master of all"
        )
        sides.ours_b.wait_state("MASTER", 10)
        wait_ucarp_state(sides.ucarps_b, "MASTER", 10)
        require_punctual(observer.silences_s(a, b), medium)
        require_moved(sides, observer)

        returned = start_daemon(a, sides.ours_a.configuration)
        wait_for(lambda: len(a.addresses()) == 2 + len(VHIDS), 10, "what ours left removed")
        wait_advertisements(observer, b, keys(OURS_FIRST), 5, 10)
        assert set(returned.states().values()) == {"BACKUP"}
        assert {ucarp.state for ucarp in sides.ucarps_b} == {"MASTER"}
        assert observer.dropped() == 0


def require_backup(sides: Sides, observer: Observer, held: int) -> None:
    """Host b has elected itself nowhere, and heard its master all the time."""
    assert observer.advertisements(sides.b) == {}
    assert {tuple(ucarp.states) for ucarp in sides.ucarps_b} == {("BACKUP",)}
    for host in sides.ours_b.status()["virtual_hosts"]:
        assert host["state"] == "BACKUP"
        assert host["peer"]["source"] == sides.a.address(UCARP_FIRST)
        assert host["counters"]["became_master"] == 0
        assert host["counters"]["advertisements_heard"] >= held - 1  # it reads a tick later


def require_punctual(silences_s: dict[Key, float], medium: str) -> None:
    """From the last advertisement of the killed master to the first of its successor."""
    by_ours = [silences_s[key] for key in keys(UCARP_FIRST)]
    by_ucarp = [silences_s[key] for key in keys(OURS_FIRST)]
    print(f"{medium}: carp-fast after {min(by_ours):.3f} to {max(by_ours):.3f} s,", end=" ")
    print(f"ucarp after {min(by_ucarp):.3f} to {max(by_ucarp):.3f} s")
    assert min(by_ours) >= MASTER_DOWN_S - 0.02
    assert max(by_ours) <= MASTER_DOWN_S + OURS_LATE_S
    assert max(by_ucarp) <= MASTER_DOWN_S + UCARP_LATE_S


def require_moved(sides: Sides, observer: Observer) -> None:
    """Every address is on host b and announced; ucarp has run its scripts once each."""
    moved = {(k, virtual_address(k, vhid)) for k in (OURS_FIRST, UCARP_FIRST) for vhid in VHIDS}
    moved |= {(UCARP_FIRST, f"{segment_network(UCARP_FIRST)}.2.{vhid}") for vhid in VHIDS}
    held = {(interface_name(segment), address) for segment, address in moved}
    wait_for(lambda: sides.b.addresses() >= held, 10, "every address on host b")
    observer.wait_until(lambda: observer.announced() >= moved, 10, "all announced")
    for ucarp in sides.ucarps_b:
        assert ucarp.scripts == [ucarp.down, ucarp.up]
