"""daemon.announce_rate: how fast a new master announces its addresses, seen from another host."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from carp_fast.lab.lab import Lab, interface_name, virtual_address, wait_for
from carp_fast.lab.witness import AddressWatch, Identity, WireWatch
from tests.support.daemons import RunningDaemon, start_daemon, write_configuration

pytestmark = [pytest.mark.root, pytest.mark.own_paths("receive", reason="nothing is heard")]

SEGMENTS, VHIDS = (1, 2), 30
KEYS = [(segment, vhid) for segment in SEGMENTS for vhid in range(1, VHIDS + 1)]
IDENTITIES: dict[bytes, Identity] = {
    bytes(map(int, virtual_address(*key).split("."))): key for key in KEYS
}
ALL_WITHIN_S = 20.0
STAMPED_S = 0.05  # the kernel of the other host stamps a frame when it gets to it


class Announced:
    """When host b heard the first announcement of each address, and when host a held it."""

    def __init__(self, lab: Lab, directory: Path, rate: Any) -> None:
        tables = [
            {
                "interface": interface_name(segment),
                "vhid": f"1-{VHIDS}",
                "addresses": [virtual_address(segment, 1).rpartition(".")[0] + ".{vhid}/32"],
            }
            for segment in SEGMENTS
        ]
        keys = {} if rate is None else {"announce_rate": rate}
        path = write_configuration(directory, "a", tables, defaults={"dead_ratio": 1}, daemon=keys)
        a, b = lab.hosts
        with (
            AddressWatch([a], IDENTITIES) as addresses,
            WireWatch(b, a, IDENTITIES, incoming_only=True) as wire,
        ):
            daemon = start_daemon(a, path)
            wait_for(
                lambda: wire.announced().keys() >= set(KEYS), ALL_WITHIN_S, "all are announced"
            )
            self.at_ns, self.held_at_ns = wire.announced(), addresses.held(a)
        self.paced = sum(paced(daemon, segment) for segment in SEGMENTS)

    def fastest(self, segments: tuple[int, ...], at_once: int, rate: int) -> int:
        """By how many announcements of these segments `at_once` and then `rate` a second were
        exceeded at most; not positive: not at all.
        """
        times = sorted(at for key, at in self.at_ns.items() if key[0] in segments)
        return max(
            int(count - at_once - rate * ((last - first) / 1e9 + STAMPED_S))
            for number, first in enumerate(times)
            for count, last in enumerate(times[number:], 1)
        )


def paced(daemon: RunningDaemon, segment: int) -> int:
    counted: int = daemon.interface(interface_name(segment))["counters"]["announcements_paced"]
    return counted


def test_each_interface_has_its_pace_and_addresses_do_not_wait_for_it(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    lab = lab_factory(segments=2)
    seen = Announced(lab, tmp_path, {"interface": 10, "at_once": 10})
    for segment in SEGMENTS:
        assert seen.fastest((segment,), 10, 10) <= 0
    assert seen.paced > 0
    # 20 of the 30 wait, for two seconds; the addresses are there before the first of them goes.
    assert max(seen.at_ns.values()) - min(seen.at_ns.values()) > 1.8e9
    assert max(seen.held_at_ns.values()) < sorted(seen.at_ns.values())[-10]


def test_all_interfaces_together_have_a_pace(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    seen = Announced(
        lab_factory(segments=2), tmp_path, {"interface": 1_000, "at_once": 20, "all": 20}
    )
    assert seen.fastest(SEGMENTS, 20, 20) <= 0
    assert max(seen.at_ns.values()) - min(seen.at_ns.values()) > 1.8e9


def test_without_a_pace_few_addresses_are_announced_at_once(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    assert Announced(lab_factory(segments=2), tmp_path, None).paced == 0
