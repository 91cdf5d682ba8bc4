"""Recipes of docs/recipes.md that replace other programs, played as they are written.

A third host pings the address all the while.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from carp_fast.lab.lab import Lab, wait_for
from tests.support.pinger import Pinger
from tests.support.recipes import Scene

pytestmark = pytest.mark.root

ADDRESS = "192.0.2.10"
GAP_S = 0.5
"""The longest time that the address may not answer; a master-down time is 3 s and more."""
STARTED_S = 15.0


def wait_holder(lab: Lab, name: str) -> None:
    """Returns when the address is on this host and on no other."""

    def alone() -> bool:
        holders = {host.name for host in lab.hosts if ("eth0", ADDRESS) in host.addresses()}
        return holders == {name}

    wait_for(alone, STARTED_S, f"{ADDRESS} on host {name} alone")


def check_gap(pinger: Pinger, since_ns: int) -> None:
    """The address has answered all the time, but for the pinger's own hold-ups."""
    wait_for(lambda: time.monotonic_ns() - since_ns > 10**9, 10, "answers to the last requests")
    gap_s, held_up_s = pinger.unanswered_s(since_ns)[ADDRESS], pinger.held_up_s(since_ns)
    print(f"longest gap {gap_s * 1e3:.0f} ms, the pinger held up {held_up_s * 1e3:.0f} ms")
    assert gap_s < GAP_S + held_up_s


def test_migration_from_keepalived(
    lab_factory: Callable[..., Lab], program: Callable[[str], str], tmp_path: Path
) -> None:
    keepalived = [program("keepalived"), "--dont-fork", "--log-console", "--vrrp"]
    lab = lab_factory(hosts=("a", "b", "c"), segments=1, medium="bridge")
    scene = Scene(lab, tmp_path, "Migration from keepalived", services={"keepalived": keepalived})
    scene.control("a", "start", "keepalived")
    scene.control("b", "start", "keepalived")
    wait_holder(lab, "a")
    with Pinger(lab["c"], [ADDRESS]) as pinger:
        begun_ns = time.monotonic_ns()
        scene.play(1)
        wait_holder(lab, "a")
        check_gap(pinger, begun_ns)


def test_migration_from_ucarp(
    lab_factory: Callable[..., Lab], program: Callable[[str], str], tmp_path: Path
) -> None:
    program("ucarp")
    lab = lab_factory(hosts=("a", "b", "c"), segments=1, medium="bridge")
    services = {"ucarp": ["/etc/ucarp/start"]}
    scene = Scene(lab, tmp_path, "Migration from ucarp", services=services)
    scene.control("a", "start", "ucarp")
    scene.control("b", "start", "ucarp")
    wait_holder(lab, "a")
    with Pinger(lab["c"], [ADDRESS]) as pinger:
        begun_ns = time.monotonic_ns()
        scene.play(1)
        scene.play(2)
        wait_holder(lab, "b")
        scene.play(3)
        scene.play(4)
        wait_holder(lab, "a")
        check_gap(pinger, begun_ns)
