"""Recipes of docs/recipes.md about what concerns a host as a whole, played as they are written."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from carp_fast.lab.lab import Lab
from tests.support.recipes import Scene

pytestmark = pytest.mark.root

STARTED_S = 10.0
VLANS = range(100, 120)


def test_maintenance_of_a_host(lab_factory: Callable[..., Lab], tmp_path: Path) -> None:
    lab = lab_factory(hosts=("a", "b"), segments=1, medium="bridge")
    scene = Scene(lab, tmp_path, "Maintenance of a host")
    a, b = scene.started("a", "b")
    a.wait_state("MASTER", STARTED_S)
    b.wait_state("BACKUP", STARTED_S)
    scene.play(1)
    b.wait_state("MASTER", STARTED_S)
    scene.play(2)
    b.wait_state("BACKUP", STARTED_S)


def test_many_interfaces(lab_factory: Callable[..., Lab], tmp_path: Path) -> None:
    interfaces = {f"vlan{number}": "192.0.2.{}/24" for number in VLANS}
    interfaces["eth1"] = "198.51.100.{}/24"
    lab = lab_factory(hosts=("a", "b"), segments=len(interfaces), medium="bridge")
    scene = Scene(lab, tmp_path, "Many interfaces", interfaces=interfaces)
    scene.play(1)
    scene.daemons["b"].wait_state("BACKUP", STARTED_S)
    lab.set_carrier("a", len(interfaces), up=False)
    scene.play(2)
    reasons = {each["reason"] for each in scene.daemons["a"].status()["virtual_hosts"]}
    assert reasons == {"track_failed"}
    assert ("vlan119", "203.0.113.200") in lab["b"].addresses() - lab["a"].addresses()


def test_a_service_check_that_moves_the_address(
    lab_factory: Callable[..., Lab], program: Callable[[str], str], tmp_path: Path
) -> None:
    program("curl")
    site = tmp_path / "site"
    site.mkdir()
    (site / "health").write_text("well\n")
    web = [
        sys.executable,
        "-m",
        "http.server",
        "--bind",
        "127.0.0.1",
        "--directory",
        str(site),
        "80",
    ]
    lab = lab_factory(hosts=("a", "b"), segments=1, medium="bridge")
    title = "A service check that moves the address"
    scene = Scene(lab, tmp_path, title, services={"web": web})
    scene.play(1)
    scene.play(2)
    scene.daemons["b"].wait_state("BACKUP", STARTED_S)
