"""Recipes of docs/recipes.md whose hooks call other programs, played as they are written.

These programs are stand-ins that record how they are called; conntrackd itself runs as well, where
it is installed, and a connection through the gateways has to survive.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from carp_fast.closing import Closing
from carp_fast.lab.lab import Lab, wait_for
from tests.support.recipes import Scene

pytestmark = pytest.mark.root

FAILED_S = 15.0  # a master-down time, on a busy machine
RULES = """
table ip filter {
    chain forward {
        type filter hook forward priority 0; policy drop;
        ct state established accept
        iifname "eth0" tcp dport 7777 ct state new accept
    }
}
"""
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


class Connection(Closing):
    """A TCP connection from host c to host d, through the gateways; d returns what c sends."""

    def __init__(self, lab: Lab) -> None:
        with lab["d"].inside():
            listening = socket.create_server(("198.51.100.4", 7777))
        with lab["c"].inside():
            self._client = socket.socket()
        self._client.settimeout(10)
        with listening:
            self._client.connect(("198.51.100.4", 7777))
            self._server, _ = listening.accept()
        self._server.settimeout(10)

    def close(self) -> None:
        self._client.close()
        self._server.close()

    def assert_works(self, word: bytes) -> None:
        """A word goes there and back, if need be by TCP's retransmissions."""
        for one, other in ((self._client, self._server), (self._server, self._client)):
            one.sendall(word)
            assert other.recv(100) == word


def guard(scene: Scene, lab: Lab) -> None:
    """Has hosts c and d route through the gateways, which pass only connections that they know."""
    for gateway in ("a", "b"):
        path = scene.file(gateway, "/run/rules")
        path.write_text(RULES)
        for knob in ("ip_forward=1", "netfilter.nf_conntrack_tcp_loose=0"):
            place = "ipv4." * (not knob.startswith("netfilter"))
            scene.run(gateway, f"sysctl -w net.{place}{knob}")
        scene.run(gateway, "nft -f /run/rules")
    scene.run("c", "ip link delete eth1 && ip route add default via 192.0.2.10")
    scene.run("d", "ip link delete eth0 && ip route add default via 198.51.100.10")


def test_conntrackd_by_hooks_in_place_of_pfsync(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    lab = lab_factory(hosts=("a", "b", "c", "d"), segments=2, medium="bridge")
    conntrackd = shutil.which("conntrackd")
    body = f'test -z "$1" || {RECORD}\n' + f'exec {conntrackd} "$@"' * bool(conntrackd)
    title = "conntrackd by hooks in place of pfsync"
    services = {"conntrackd": ["conntrackd"]}
    scene = Scene(lab, tmp_path, title, programs={"conntrackd": body}, services=services)
    committed = [f"conntrackd -{option}" for option in "cfRB"]
    requested = [f"conntrackd -{option}" for option in "tn"]
    guard(scene, lab)
    scene.play(1)
    a, b = scene.daemons["a"], scene.daemons["b"]
    a.wait_state("MASTER", FAILED_S)
    b.wait_state("BACKUP", FAILED_S)
    wait_calls(scene, "a", committed)
    with Connection(lab) as connection:
        connection.assert_works(b"by a")
        if conntrackd:
            wait_for(lambda: "7777" in scene.run("b", f"{conntrackd} -e"), 10, "it is known to b")
        scene.play(2)
        wait_calls(scene, "b", committed)
        wait_calls(scene, "a", committed + requested)
        if conntrackd:
            connection.assert_works(b"by b")
        scene.play(3)
        a.wait_state("MASTER", FAILED_S)
        wait_calls(scene, "b", committed + requested)
        wait_calls(scene, "a", committed + requested + committed)
        if conntrackd:
            connection.assert_works(b"by a again")
    for daemon in (a, b):
        assert daemon.log_lines("WARNING.*connections") == []


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
