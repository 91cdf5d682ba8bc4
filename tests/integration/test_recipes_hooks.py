"""Recipes of docs/recipes.md whose hooks call other programs, played as they are written.

These programs are stand-ins that record how they are called.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from carp_fast.lab.lab import Lab, wait_for
from tests.support.recipes import Scene

pytestmark = pytest.mark.root

FAILED_S = 3 + 200 / 256 + 2  # a master-down time, on a busy machine
RECORD = 'echo "${0##*/} $*" >> /run/calls'


def calls(scene: Scene, host: str) -> list[str]:
    """The command lines of the stand-ins on a host, oldest first."""
    path = scene.file(host, "/run/calls")
    return path.read_text().splitlines() if path.exists() else []


def wait_calls(scene: Scene, host: str, expected: list[str]) -> None:
    try:
        wait_for(lambda: calls(scene, host) == expected, 10, f"calls on host {host}")
    finally:
        print(f"calls on host {host}: {calls(scene, host)}")


def test_conntrackd_by_hooks_in_place_of_pfsync(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    lab = lab_factory(hosts=("a", "b"), segments=2, medium="bridge")
    title = "conntrackd by hooks in place of pfsync"
    scene = Scene(lab, tmp_path, title, programs={"conntrackd": RECORD})
    committed = [f"conntrackd -{option}" for option in "cfRB"]
    requested = [f"conntrackd -{option}" for option in "tn"]
    a, b = scene.started("a", "b")
    a.wait_state("MASTER", FAILED_S)
    b.wait_state("BACKUP", FAILED_S)
    wait_calls(scene, "a", committed)
    scene.play(1)
    wait_calls(scene, "b", committed)
    wait_calls(scene, "a", committed + requested)
    scene.play(2)
    a.wait_state("MASTER", FAILED_S)
    wait_calls(scene, "b", committed + requested)
    wait_calls(scene, "a", committed + requested + committed)


def test_unicast_in_a_cloud(lab_factory: Callable[..., Lab], tmp_path: Path) -> None:
    lab = lab_factory(hosts=("a", "b"), segments=1, medium="bridge")
    for port in ("a-1", "b-1"):
        lab.switch.run(["bridge", "link", "set", "dev", port, "mcast_flood", "off"])
    scene = Scene(lab, tmp_path, "Unicast in a cloud", programs={"aws": RECORD})
    call = (
        "aws ec2 assign-private-ip-addresses --allow-reassignment --network-interface-id {} "
        "--private-ip-addresses 192.0.2.10"
    )
    a, b = scene.started("a", "b")
    a.wait_state("MASTER", FAILED_S)
    wait_calls(scene, "a", [call.format("eni-0a")])
    scene.play(1)
    assert b.states() == {("eth0", 1): "BACKUP"}
    assert calls(scene, "b") == []
    a.kill()
    b.wait_state("MASTER", FAILED_S)
    wait_calls(scene, "b", [call.format("eni-0b")])
    assert ("eth0", "192.0.2.10") in lab["b"].addresses()
