"""What hosts on the segment and beyond it, users of the host and tenants can do to a daemon.

docs/security.md names these tests.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from carp_fast.control.protocol import ControlTimeout
from carp_fast.daemon.locks import LOCK_FILE
from carp_fast.lab.lab import Host, Lab, wait_for
from carp_fast.net.kernel import PROTOCOL_CARP
from tests.support.daemons import RunningDaemon, start_daemon, write_configuration
from tests.support.pairs import Wire
from tests.support.segment import carp_header, ip, ipv4_frame
from tests.support.users import MALLORY, as_user, connected_as, public_directory

pytestmark = pytest.mark.root

ALONE = {"dead_ratio": 1}  # where no other host advertises: MASTER after 1 s
KEYS = {7: "tenant-7-9wLq2", 8: "tenant-8-Vx41b"}
COUNTER = 1 << 40
FIREWALL = """
add table ip attacks
add chain ip attacks input { type filter hook input priority 0; policy accept; }
add rule ip attacks input ip protocol 112 counter drop
"""
FRAMES = 5  # of each kind, before the verdict
FLOODED = 10_000  # frames of a flood, before the verdict
DEADLINE_S = 60.0


def tables(**keys: Any) -> list[dict[str, Any]]:
    """Virtual hosts of two tenants, each with the passphrase of its own."""
    return [
        {
            "interface": "s1",
            "vhid": vhid,
            "addresses": [f"10.1.1.{vhid}/32"],
            "passphrase": passphrase,
            **keys,
        }
        for vhid, passphrase in KEYS.items()
    ]


def started_master(host: Host, directory: Path) -> RunningDaemon:
    """A daemon that is the master of both virtual hosts, and slower than those who attack it."""
    path = write_configuration(directory, "a", tables(advskew=50), defaults=ALONE)
    daemon = start_daemon(host, path)
    daemon.wait_state("MASTER", DEADLINE_S)
    return daemon


def better(vhid: int, number: int, key: int) -> bytes:
    """An advertisement that this master yields to if it has the right key: 36 bytes of CARP."""
    return carp_header(
        vhid=vhid,
        advskew=0,
        counter=COUNTER + number,
        passphrase=KEYS[key].encode(),
        addresses=[ip(f"10.1.1.{vhid}")],
    )


def rejected(daemon: RunningDaemon, word: str, vhid: int | None = None) -> int:
    """How many advertisements were refused for this reason, by the interface or a virtual host."""
    counters = daemon.interface("s1")["counters"] if vhid is None else daemon.counters("s1", vhid)
    return int(counters[word])


def wait_rejected(daemon: RunningDaemon, word: str, count: int, vhid: int | None = None) -> None:
    wait_for(lambda: rejected(daemon, word, vhid) >= count, DEADLINE_S, f"{count} x {word}")


def test_a_routed_advertisement_is_refused_and_counted(
    lab_factory: Callable[..., Lab],
) -> None:
    """Its sender even knows the passphrase.

    Routers pass it on to the address of the host, and those that route multicast to the group;
    either way its TTL is no longer 255.
    """
    lab = lab_factory(hosts=("a", "b", "c"), segments=2, medium="bridge")
    a, b, c = lab.hosts
    lab.set_link("a", 2, up=False)
    lab.set_link("b", 1, up=False)
    c.run(["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])
    a.run(["ip", "route", "add", "default", "via", c.address(1)])
    b.run(["ip", "route", "add", "default", "via", c.address(2)])
    daemon = started_master(a, lab.directory)
    with b.inside():
        sender = socket.socket(socket.AF_INET, socket.SOCK_RAW, PROTOCOL_CARP)
    with sender, Wire(c, 1) as router, daemon.events() as events:
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 255)
        for number in range(FRAMES):
            sender.sendto(better(7, number, 7), (a.address(1), 0))
            payload = better(7, FRAMES + number, 7)
            router.send(
                ipv4_frame(payload, source=ip(b.address(2)), ttl=254, source_mac=router.mac)
            )
        for word in ("bad_destination", "bad_ttl"):
            wait_rejected(daemon, word, FRAMES)
        with pytest.raises(ControlTimeout):
            print(events.next_event(0.05))
        # The same advertisement from the segment itself is obeyed.
        payload = better(7, 2 * FRAMES, 7)
        router.send(ipv4_frame(payload, source=ip(c.address(1)), source_mac=router.mac))
        event = events.next_event(DEADLINE_S)
        assert (event["vhid"], event["state"]) == (7, "BACKUP")


def test_a_tenant_with_one_passphrase_disturbs_its_own_virtual_host_alone(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, b = lab_factory(segments=1).hosts
    daemon = started_master(a, tmp_path)
    with Wire(b, 1) as wire, daemon.events() as events:

        def send(vhid: int, number: int) -> None:
            payload = better(vhid, number, key=7)
            wire.send(ipv4_frame(payload, source=ip(b.address(1)), source_mac=wire.mac))

        for number in range(FRAMES):
            send(8, number)
        wait_rejected(daemon, "bad_auth", FRAMES, 8)
        send(7, FRAMES)
        event = events.next_event(DEADLINE_S)
        assert (event["vhid"], event["state"]) == (7, "BACKUP")
    assert daemon.states()["s1", 8] == "MASTER"
    assert daemon.counters("s1", 8)["became_master"] == 1
    assert ("s1", "10.1.1.8") in a.addresses()


@pytest.mark.own_paths("receive", reason="it decides what a firewall of the host sees")
@pytest.mark.parametrize("receive", ["ring", "packet", "raw"])
def test_a_firewall_of_the_host_keeps_frames_from_the_raw_path_alone(
    lab_factory: Callable[..., Lab],
    tmp_path: Path,
    program: Callable[[str], str],
    receive: str,
) -> None:
    nft = program("nft")
    a, b = lab_factory(segments=1).hosts
    path = write_configuration(
        tmp_path,
        "a",
        tables(advskew=50, peers=[b.address(1)]),
        defaults=ALONE,
        daemon={"receive": receive},
    )
    daemon = start_daemon(a, path)
    daemon.wait_state("MASTER", DEADLINE_S)
    a.run([nft, FIREWALL])
    with b.inside():
        sender = socket.socket(socket.AF_INET, socket.SOCK_RAW, PROTOCOL_CARP)
    with sender, daemon.events() as events:
        for number in range(FRAMES):
            sender.sendto(better(7, number, 7), (a.address(1), 0))
        wait_for(
            lambda: f"counter packets {FRAMES} " in a.run([nft, "list", "ruleset"]).stdout,
            DEADLINE_S,
            "every frame at the firewall",
        )
        if receive == "raw":
            with pytest.raises(ControlTimeout):
                print(events.next_event(0.05))
            assert daemon.counters("s1", 7)["advertisements_heard"] == 0
        else:
            event = events.next_event(DEADLINE_S)
            assert (event["vhid"], event["state"]) == (7, "BACKUP")


@pytest.mark.alone
def test_a_flood_of_strangers_takes_no_mastership(lab_factory: Callable[..., Lab]) -> None:
    lab = lab_factory(hosts=("a", "b", "c"), segments=1, medium="bridge")
    a, b, c = lab.hosts
    master = started_master(a, lab.directory)
    backup = start_daemon(b, write_configuration(lab.directory, "b", tables(advskew=100)))
    wait_for(
        lambda: backup.counters("s1", 7)["advertisements_heard"] >= 3, DEADLINE_S, "heard thrice"
    )
    with master.events() as at_master, backup.events() as at_backup:
        command = "-m carp_fast flood -i s1 --vhid 7-8 --mix bad_auth=1 --rate max --duration 60"
        flood = c.start([sys.executable, *command.split(), "--backend", "sendmmsg"])
        for daemon in (master, backup):
            wait_rejected(daemon, "bad_auth", FLOODED, 7)
        heard = backup.counters("s1", 7)["advertisements_heard"]
        wait_for(
            lambda: backup.counters("s1", 7)["advertisements_heard"] > heard + 2,
            DEADLINE_S,
            "the master is heard through the flood",
        )
        assert flood.alive()
        for stream in (at_master, at_backup):
            with pytest.raises(ControlTimeout):
                print(stream.next_event(0.05))
    assert set(master.states().values()) == {"MASTER"}
    assert set(backup.states().values()) == {"BACKUP"}


def test_a_user_without_rights_reaches_neither_socket_nor_memory_nor_locks(
    lab_factory: Callable[..., Lab],
) -> None:
    a, _ = lab_factory(segments=1).hosts
    with public_directory() as directory:
        daemon = started_master(a, directory)
        process = Path(f"/proc/{daemon.process.pid}")
        attempts: dict[str, Callable[[], object]] = {
            "the control socket": lambda: connected_as(MALLORY, daemon.control_socket),
            "the configuration": lambda: as_user(MALLORY, daemon.configuration.read_bytes),
            "the locks": lambda: as_user(MALLORY, lambda: os.open(LOCK_FILE, os.O_RDWR)),
            "the locks, to read": lambda: as_user(MALLORY, LOCK_FILE.read_bytes),
            "a packet socket": lambda: as_user(MALLORY, packet_socket),
            "a signal": lambda: as_user(
                MALLORY, lambda: os.kill(daemon.process.pid, signal.SIGTERM)
            ),
            **{
                f"its {part}": partial(as_user, MALLORY, (process / part).read_bytes)
                for part in ("mem", "environ", "maps")
            },
            "its descriptors": lambda: as_user(MALLORY, lambda: list((process / "fd").iterdir())),
        }
        for what, attempt in attempts.items():
            with pytest.raises(PermissionError):
                print(what, attempt())
        assert set(daemon.states().values()) == {"MASTER"}
        assert daemon.status()["daemon"]["control"]["clients"] == 1


def packet_socket() -> socket.socket:
    return socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
