"""Group memberships, as the kernel keeps them, and the receive socket on a real interface."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from carp_fast.engine._prepared import multicast_mac
from carp_fast.lab.lab import Host, Lab
from carp_fast.net.memberships import MEMBERSHIPS_MAX, Joins
from carp_fast.net.sockets import filter_interfaces, open_receiver, open_sender

pytestmark = pytest.mark.root

CARP_GROUP = socket.inet_aton("224.0.0.18")
OTHERS = {socket.inet_aton(f"239.1.1.{number}") for number in range(MEMBERSHIPS_MAX + 5)}


@contextmanager
def receiver_on(host: Host) -> Iterator[tuple[socket.socket, dict[str, int]]]:
    """The daemon's receive socket on a host, and the ifindexes there by name."""
    with host.inside():
        receiver = open_receiver(10)
        ifindexes = {name: ifindex for ifindex, name in socket.if_nameindex()}
    with receiver:
        yield receiver, ifindexes


def joined_macs(host: Host, interface: str) -> set[bytes]:
    with host.inside():
        lines = Path("/proc/thread-self/net/dev_mcast").read_text().splitlines()
    return {bytes.fromhex(line.split()[4]) for line in lines if line.split()[1] == interface}


def joined_groups(host: Host, interface: str) -> set[bytes]:
    """What IGMP tells the switches about."""
    with host.inside():
        lines = Path("/proc/thread-self/net/igmp").read_text().splitlines()
    found: set[bytes] = set()
    here = False
    for line in lines[1:]:
        if not line.startswith("\t"):
            here = line.split()[1] == interface
        elif here:
            found.add(struct.pack("=I", int(line.split()[0], 16)))
    return found


def test_groups_are_joined_by_mac_and_beyond_224_0_0_by_igmp(
    lab_factory: Callable[..., Lab],
) -> None:
    a, _ = lab_factory(segments=2).hosts
    before = joined_macs(a, "s1"), joined_groups(a, "s1")
    every = {CARP_GROUP, *OTHERS}
    with receiver_on(a) as (receiver, ifindexes):
        joins = Joins(receiver)
        with a.inside():
            for name in ("s1", "s2"):
                joins.join(name, ifindexes[name], every)
        for name in ("s1", "s2"):
            assert {multicast_mac(group) for group in every} <= joined_macs(a, name)
            # More than one socket may hold; 224.0.0.18 no switch may prune.
            assert joined_groups(a, name) & every == OTHERS
        with a.inside():
            joins.join("s1", ifindexes["s1"], {CARP_GROUP})
        assert joined_macs(a, "s1") == before[0] | {multicast_mac(CARP_GROUP)}
        assert joined_groups(a, "s1") & every == set()
        joins.leave(ifindexes["s1"])
        assert (joined_macs(a, "s1"), joined_groups(a, "s1")) == before
        joins.close()
        assert joined_groups(a, "s2") & every == set()
    assert joined_macs(a, "s2") & {multicast_mac(group) for group in every} == set()


def test_what_igmp_alone_refused_is_tried_again(
    lab_factory: Callable[..., Lab], caplog: pytest.LogCaptureFixture
) -> None:
    a, _ = lab_factory(segments=1).hosts
    group = socket.inet_aton("239.1.1.1")

    def allow(memberships: int) -> None:
        path = "/proc/sys/net/ipv4/igmp_max_memberships"
        assert a.run(["sh", "-c", f"echo {memberships} > {path}"]).returncode == 0

    with receiver_on(a) as (receiver, ifindexes):
        joins = Joins(receiver)
        allow(0)
        descriptors = len(list(Path("/proc/self/fd").iterdir()))
        with a.inside():
            for _ in range(5):
                joins.join("s1", ifindexes["s1"], {group})
        assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
        assert caplog.messages == ["s1: joining group 239.1.1.1 failed: No buffer space available"]
        assert multicast_mac(group) in joined_macs(a, "s1")
        assert group not in joined_groups(a, "s1")
        allow(20)
        with a.inside():
            joins.join("s1", ifindexes["s1"], {group})
        assert group in joined_groups(a, "s1")
        joins.leave(ifindexes["s1"])
        assert group not in joined_groups(a, "s1")
        assert multicast_mac(group) not in joined_macs(a, "s1")
        joins.close()
    assert len(caplog.messages) == 1


def test_an_interface_that_has_gone_is_left_without_a_word(
    lab_factory: Callable[..., Lab], caplog: pytest.LogCaptureFixture
) -> None:
    lab = lab_factory(segments=1)
    a, _ = lab.hosts
    with receiver_on(a) as (receiver, ifindexes):
        joins = Joins(receiver)
        groups = {CARP_GROUP, *OTHERS}
        with a.inside():
            joins.join("s1", ifindexes["s1"], groups)
            lab.delete_interface("a", 1)
            joins.join("s1", ifindexes["s1"], groups | {socket.inet_aton("239.2.2.2")})
            assert "s1: joining group 239.2.2.2 failed: No such device" in caplog.messages
            joins.leave(ifindexes["s1"])
        lab.recreate_interface(1)
        with a.inside():
            again = socket.if_nametoindex("s1")
            joins.join("s1", again, groups)
        assert multicast_mac(CARP_GROUP) in joined_macs(a, "s1")
        assert joined_groups(a, "s1") >= OTHERS
        joins.close()
    assert len(caplog.messages) == 1


def test_only_frames_of_used_interfaces_are_heard(lab_factory: Callable[..., Lab]) -> None:
    a, b = lab_factory(segments=2).hosts
    frame = multicast_mac(CARP_GROUP) + b"\x02\0\0\0\0\x01\x08\x00" + b"\x45" + bytes(8) + b"\x70"
    with receiver_on(a) as (receiver, ifindexes):
        with b.inside():
            sender = open_sender()
        with sender:

            def send(number: int) -> None:
                for segment in (1, 2):
                    sender.sendto(frame + bytes([number] * 40), (f"s{segment}", 0))

            send(1)  # nothing is heard before a filter by interface stands
            filter_interfaces({"packet": receiver}, [ifindexes["s2"]])
            send(2)
            filter_interfaces({"packet": receiver}, [ifindexes["s1"], ifindexes["s2"]])
            send(3)
            heard: list[tuple[str, int]] = []
            receiver.settimeout(2)
            while len(heard) < 3:
                data, origin = receiver.recvfrom(100)
                heard.append((origin[0], data[-1]))
        assert heard == [("s2", 2), ("s1", 3), ("s2", 3)]
        receiver.setblocking(False)
        with pytest.raises(BlockingIOError):
            receiver.recv(100)
