"""The tcx path of a daemon: what it takes, whom it leaves alone, and how it falls back."""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from carp_fast.bpf.system import Command
from carp_fast.lab.lab import Host, Lab, wait_for
from tests.support.bpf_objects import LINK_GET_FD_BY_ID, every_object, objects_of
from tests.support.bpf_refused import shim
from tests.support.daemons import RunningDaemon, start_daemon, write_configuration
from tests.support.pairs import start_keepalived, start_ucarp

pytestmark = [
    pytest.mark.root,
    pytest.mark.own_paths("send", "receive", "hold", reason="all are about one receive path"),
]

HOSTS = 20
TABLE = {"vhid": f"1-{HOSTS}", "addresses": "{10.1.1.1+index}/16"}
STATE_S = 15
PYTHON = (sys.executable, "-m", "carp_fast")


def start(
    host: Host,
    directory: Path,
    *,
    receive: str = "tcx",
    program: Sequence[str] = PYTHON,
    pump: str = "thread",
    advskew: int = 0,
) -> RunningDaemon:
    keys = {"dead_ratio": 1, "advskew": advskew}
    path = write_configuration(
        directory,
        host.name,
        [{**TABLE, "interface": "s1"}],
        defaults=keys,
        daemon={"receive": receive, "pump": pump},
    )
    return start_daemon(host, path, program=program)


def pair(
    lab_factory: Callable[..., Lab], directory: Path, medium: str = "veth", pump: str = "thread"
) -> tuple[tuple[Host, Host], RunningDaemon, RunningDaemon]:
    a, b = lab_factory(hosts=("a", "b"), segments=1, medium=medium).hosts
    master = start(a, directory, pump=pump)
    master.wait_state("MASTER", STATE_S)
    backup = start(b, directory, advskew=100, pump=pump)
    wait_for(lambda: heard(backup) >= 2, STATE_S, "two advertisements")
    return (a, b), master, backup


def heard(daemon: RunningDaemon) -> int:
    return min(daemon.counters("s1", vhid)["advertisements_heard"] for vhid in (1, HOSTS))


def advertisements_heard(daemon: RunningDaemon) -> int:
    return int(daemon.interface("s1")["counters"]["advertisements_heard"])


def waiting(sock: socket.socket) -> list[bytes]:
    """What a socket has received."""
    sock.setblocking(False)
    frames = []
    with contextlib.suppress(BlockingIOError):
        while True:
            frames.append(sock.recv(2048))
    return frames


def links_of(daemon: RunningDaemon) -> set[int]:
    held = objects_of(daemon.process.pid)
    return {number for command, number in held if command == LINK_GET_FD_BY_ID}


def fallen_back(daemon: RunningDaemon) -> tuple[str, int]:
    told = daemon.status()["daemon"]
    return told["receive"], told["receive_fallbacks"]


@pytest.mark.parametrize("pump", ["thread", "loop"])
def test_a_pair_hears_through_tcx_and_takes_over(
    lab_factory: Callable[..., Lab], tmp_path: Path, pump: str
) -> None:
    (_, b), master, backup = pair(lab_factory, tmp_path, pump=pump)
    assert fallen_back(backup) == ("tcx", 0)
    assert len(links_of(backup)) == 1
    assert set(backup.states().values()) == {"BACKUP"}
    counters = backup.interface("s1")["counters"]
    assert [counters[word] for word in ("bad_checksum", "bad_auth", "replay", "loop")] == [0] * 4
    # A tap sees what is taken, a socket behind the program does not: nobody else spends time on it.
    with b.inside():
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        behind = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, 112)
    with tap, behind, raw:
        seen = 0
        tap.settimeout(STATE_S)
        while seen < 2 * HOSTS:
            frame, (_, _, kind, *_) = tap.recvfrom(2048)
            seen += kind != 4 and frame[23:24] == b"\x70"
        passed = [frame for frame in waiting(behind) if frame[23:24] == b"\x70"]
        assert (passed, waiting(raw)) == ([], [])
    master.kill()
    backup.wait_state("MASTER", STATE_S)


def test_nothing_is_left_of_a_daemon_that_was_killed(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    _, _, backup = pair(lab_factory, tmp_path)
    made = objects_of(backup.process.pid)
    assert links_of(backup)
    assert made <= every_object()
    backup.kill()
    wait_for(lambda: not made & every_object(), STATE_S, "links, programs and maps are gone")


def tap(host: Host, interface: str, protocol: int = 0x0800) -> socket.socket:
    """What arrives at an interface, behind the program there if not of all protocols (3)."""
    with host.inside():
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
        sock.setsockopt(263, 23, 1)  # PACKET_IGNORE_OUTGOING
        sock.bind((interface, protocol))
    return sock


def advertisements(sock: socket.socket) -> int:
    return sum(frame[23:24] == b"\x70" for frame in waiting(sock))


@pytest.mark.parametrize("from_the_start", [False, True])
def test_devices_above_the_interface_get_its_advertisements_and_we_hear_each_once(
    lab_factory: Callable[..., Lab], tmp_path: Path, from_the_start: bool
) -> None:
    a, b = lab_factory(hosts=("a", "b"), segments=1).hosts
    start(a, tmp_path).wait_state("MASTER", STATE_S)
    above = ["ip", "link", "add", "m1", "link", "s1", "type", "macvlan", "mode", "bridge"]
    if from_the_start:
        b.run(above)
    backup = start(b, tmp_path, advskew=100)
    wait_for(lambda: heard(backup) >= 2, STATE_S, "two advertisements")
    if not from_the_start:
        b.run(above)
    b.run(["ip", "link", "set", "m1", "up", "allmulticast", "on"])
    wait_for(lambda: backup.log_lines("copies advertisements"), STATE_S, "they are shared")
    (line,) = backup.log_lines("copies advertisements")
    assert line.endswith("s1 has upper devices: m1")
    with tap(b, "m1") as upper:
        wait_for(lambda: advertisements(upper) >= 1, STATE_S, "the macvlan hears")
    with tap(b, "s1") as passed, tap(b, "s1", 3) as arrived:
        before, all_before = heard(backup), advertisements_heard(backup)
        wait_for(lambda: heard(backup) >= before + 3, STATE_S, "the master is heard on")
        all_heard = advertisements_heard(backup) - all_before
        assert advertisements(passed) >= 2 * HOSTS, "the network stack has them as well"
        assert 2 * HOSTS < all_heard <= advertisements(arrived), "each is heard once"
    b.run(["ip", "link", "del", "m1"])
    wait_for(lambda: backup.log_lines("takes advertisements again"), STATE_S, "it is alone again")
    with tap(b, "s1") as passed:
        before = heard(backup)
        wait_for(lambda: heard(backup) >= before + 3, STATE_S, "the master is heard on")
        assert advertisements(passed) == 0
    assert fallen_back(backup) == ("tcx", 0)
    assert set(backup.states().values()) == {"BACKUP"}
    counters = backup.interface("s1")["counters"]
    assert [counters[word] for word in ("replay", "bad_auth", "bad_checksum", "loop")] == [0] * 4


def test_an_interface_that_becomes_a_port_is_heard_by_the_ring_path(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    (_, b), _, backup = pair(lab_factory, tmp_path)
    b.run(["ip", "link", "add", "br9", "type", "bridge"])
    assert fallen_back(backup) == ("tcx", 0)
    b.run(["ip", "link", "set", "s1", "master", "br9"])
    why = "s1 is a port of br9"
    wait_for(lambda: fallen_back(backup) == ("ring", 1), STATE_S, "the ring path")
    assert links_of(backup) == set()
    (line,) = backup.log_lines("from now on")
    assert f"receive path: ring from now on (no tcx: {why})" in line
    assert backup.status()["daemon"]["receive_reason"] == f"no tcx: {why}"
    before = heard(backup)
    wait_for(lambda: heard(backup) >= before + 3, STATE_S, "the master is heard on")
    assert set(backup.states().values()) == {"BACKUP"}
    assert backup.interface("s1")["counters"]["bad_auth"] == 0


def test_the_ring_path_is_used_where_the_interface_is_a_port_from_the_start(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, b = lab_factory(hosts=("a", "b"), segments=1).hosts
    b.run(["ip", "link", "add", "br9", "type", "bridge"])
    b.run(["ip", "link", "set", "s1", "master", "br9"])
    start(a, tmp_path).wait_state("MASTER", STATE_S)
    backup = start(b, tmp_path, advskew=100)
    wait_for(lambda: heard(backup) >= 2, STATE_S, "two advertisements")
    assert fallen_back(backup) == ("ring", 1)
    assert len(backup.log_lines("from now on")) == 1


@pytest.mark.parametrize("number", [errno.EPERM, errno.EINVAL])
def test_the_ring_path_is_used_where_the_kernel_refuses_links(
    lab_factory: Callable[..., Lab], tmp_path: Path, number: int
) -> None:
    a, b = lab_factory(hosts=("a", "b"), segments=1).hosts
    start(a, tmp_path).wait_state("MASTER", STATE_S)
    refused = shim(Command.LINK_CREATE.name, number)
    backup = start(b, tmp_path, program=(*refused, *PYTHON), advskew=100)
    (line,) = backup.log_lines("receive path: ")
    assert "ring (no tcx: " in line
    assert "WARNING" in line.upper()
    assert fallen_back(backup) == ("ring", 0)
    wait_for(lambda: heard(backup) >= 2, STATE_S, "two advertisements")


KEEPALIVED = """
vrrp_instance one {{
    interface s1
    virtual_router_id 1
    priority {priority}
    state BACKUP
    version 2
    advert_int 1
    virtual_ipaddress {{ {addresses} }}
}}
"""


@pytest.mark.parametrize("addresses", [1, 5, 7])
def test_keepalived_with_our_vhid_on_our_interface_goes_on_hearing(
    lab_factory: Callable[..., Lab],
    tmp_path: Path,
    program: Callable[[str], str],
    addresses: int,
) -> None:
    """Five addresses make it as long as ours, seven give it the byte of our authlen."""
    program("keepalived")
    (a, b), _, backup = pair(lab_factory, tmp_path)
    held = " ".join(f"10.1.2.{each}/32" for each in range(1, addresses + 1))
    for host, priority in ((a, 200), (b, 100)):
        start_keepalived(host, tmp_path, KEEPALIVED.format(priority=priority, addresses=held))
        if host is a:
            wait_for(lambda: ("s1", "10.1.2.1") in a.addresses(), STATE_S, "keepalived MASTER")
    vrrp = backup.interface("s1")["counters"]["vrrp"]

    def told() -> int:
        return int(backup.interface("s1")["counters"]["vrrp"])

    wait_for(lambda: told() >= vrrp + 6, 3 * STATE_S, "our own counter sees them, too")
    assert ("s1", "10.1.2.1") not in b.addresses(), "the other keepalived hears its master"
    assert fallen_back(backup) == ("tcx", 0)
    assert set(backup.states().values()) == {"BACKUP"}


def test_ucarp_beside_us_on_one_interface_goes_on_hearing(
    lab_factory: Callable[..., Lab], tmp_path: Path, program: Callable[[str], str]
) -> None:
    program("ucarp")
    (a, b), _, backup = pair(lab_factory, tmp_path)
    other = HOSTS + 1
    master = start_ucarp(a, tmp_path, 1, other, address="10.1.2.1")
    wait_for(lambda: master.state == "MASTER", STATE_S, "ucarp MASTER")
    beside = start_ucarp(b, tmp_path, 1, other, address="10.1.2.1", advskew=100)
    wait_for(lambda: heard(backup) >= 10, 3 * STATE_S, "ten advertisements")
    assert beside.state != "MASTER"
    assert fallen_back(backup) == ("tcx", 0)
