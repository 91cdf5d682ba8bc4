"""Recipes of docs/recipes.md about pairs and rows of hosts, played as they are written."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from carp_fast.lab.lab import Lab, wait_for
from carp_fast.lab.pings import Pinger
from tests.support.recipes import Scene

pytestmark = pytest.mark.root

ONE, TWO = ("eth0", 1), ("eth0", 2)
FAILED_S = 15.0  # a master-down time, on a busy machine


def test_active_active_by_advskew(lab_factory: Callable[..., Lab], tmp_path: Path) -> None:
    lab = lab_factory(hosts=("a", "b"), segments=1, medium="bridge")
    scene = Scene(lab, tmp_path, "Active-active by advskew")
    scene.play(1)
    a, b = scene.daemons["a"], scene.daemons["b"]
    a.wait_state("MASTER", FAILED_S, [ONE])
    a.wait_state("BACKUP", FAILED_S, [TWO])
    a.kill()
    b.wait_state("MASTER", FAILED_S)
    scene.play(2)
    scene.play(3)
    b.wait_state("BACKUP", FAILED_S, [ONE])
    assert scene.daemons["a"].states() == {ONE: "MASTER", TWO: "BACKUP"}


def test_three_hosts(lab_factory: Callable[..., Lab], tmp_path: Path) -> None:
    lab = lab_factory(hosts=("a", "b", "c"), segments=1, medium="bridge", ipv6=True)
    scene = Scene(lab, tmp_path, "Three hosts")
    a, b, c = scene.started("a", "b", "c")
    a.wait_state("MASTER", FAILED_S)
    b.wait_state("BACKUP", FAILED_S)
    c.wait_state("BACKUP", FAILED_S)
    scene.play(1)
    assert c.counters("eth0", 1)["became_master"] == 0
    b.kill()
    c.wait_state("MASTER", FAILED_S)


def test_a_gateway_pair_with_both_sides_grouped(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    lab = lab_factory(hosts=("a", "b", "c", "d"), segments=2, medium="bridge")
    scene = Scene(lab, tmp_path, "A gateway pair with both sides grouped")
    for gateway in ("a", "b"):
        scene.run(gateway, "sysctl -w net.ipv4.ip_forward=1")
    scene.run("c", "ip link delete eth1")
    scene.run("d", "ip link delete eth0")
    scene.run("c", "ip route add default via 192.0.2.10")
    scene.run("d", "ip route add default via 198.51.100.10")
    a, b = scene.started("a", "b")
    a.wait_state("MASTER", FAILED_S)
    b.wait_state("BACKUP", FAILED_S)
    with Pinger(lab["c"], ["198.51.100.4"]) as pinger:
        wait_for(lambda: pinger.answered_since(0), 10, "answers through a")
        lab.set_carrier("a", 2, up=False)
        scene.play(1)
        moved_ns = time.monotonic_ns()
        wait_for(lambda: pinger.answered_since(moved_ns), 10, "answers through b")
    lab.set_carrier("a", 2, up=True)
    a.wait_state("MASTER", FAILED_S)
    b.wait_state("BACKUP", FAILED_S)
