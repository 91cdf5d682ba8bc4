"""The pump on real sockets: what it hears through raw ones, and what unicast makes of them.

A pump without a thread and without a daemon, run turn by turn in a host's namespace; frames come
from, and are read by, sockets of the test. Must not know configuration or the daemon.
"""

from __future__ import annotations

import json
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from errno import EADDRNOTAVAIL
from typing import Any

import pytest

from carp_fast.engine.reports import AddressesChanged, SendsFailing, SocketDropped
from carp_fast.inet import address_text
from carp_fast.lab.lab import Host, Lab
from carp_fast.net import sockets
from carp_fast.net.kernel import PROTOCOL_CARP
from tests.support.pump_stage import (
    BOTH,
    DEADLINE_S,
    FAST,
    SOURCE6,
    Stage,
    frames_of,
    mac_of,
)
from tests.support.segment import (
    ADDRESS,
    ADDRESS6,
    GROUP,
    VHID,
    carp_header,
    ip,
    ipv4_frame,
    ipv6_frame,
)

pytestmark = pytest.mark.root

ETH_P_ARP = 0x0806
PEER6 = ip("fe80::b")


@pytest.fixture
def lab(lab_factory: Callable[..., Lab]) -> Lab:
    """Hosts a and b on one segment, with fe80::a and fe80::b."""
    made = lab_factory(segments=1, ipv6=True)
    for host in made.hosts:
        host.run(f"ip -6 addr add fe80::{host.name}/64 dev s1 nodad".split())
    return made


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def send(host: Host, *frames: bytes) -> None:
    with host.inside():
        sender = sockets.open_sender()
    with sender:
        for frame in frames:
            sender.sendto(frame, ("s1", 0))


def frame4(**keys: Any) -> bytes:
    both: dict[str, Any] = {"addresses": (ADDRESS, ADDRESS6)}
    names = ("ttl", "source", "destination", "options")
    outer = {key: keys.pop(key) for key in names if key in keys}
    return ipv4_frame(carp_header(**both, **keys), **{"source": ip("10.1.0.2"), **outer})


def frame6(**keys: Any) -> bytes:
    both: dict[str, Any] = {"addresses": (ADDRESS, ADDRESS6)}
    outer = {key: keys.pop(key) for key in ("hop_limit", "source", "destination") if key in keys}
    return ipv6_frame(carp_header(**both, **keys), **{"source": PEER6, **outer})


# ---------------------------------------------------------------------------------------- receiving


@pytest.mark.parametrize("path", ["packet", "ring", "raw"])
def test_all_paths_hear_the_same_and_judge_it_alike(lab: Lab, opened: ExitStack, path: str) -> None:
    a, b = lab.hosts
    stage = Stage(a, path, opened)
    stage.add(advskew=100)
    stage.turn()
    send(
        b,
        frame4(counter=1),
        frame6(counter=2),
        frame4(counter=3, ttl=254),
        frame6(counter=4, hop_limit=254),
        frame6(counter=5, passphrase=b"other"),
        frame4(counter=6, vhid=VHID + 1),
        frame4(counter=7, checksum_error=1),
    )
    arrived_by_ns = time.monotonic_ns()
    stage.run_until(lambda: stage.pump.facts.frames == 7, "seven frames")
    counters = stage.counters()
    wanted = {
        "advertisements_heard": 2,
        "bad_ttl": 2,
        "bad_auth": 1,
        "bad_vhid": 1,
        "bad_checksum": 1,
    }
    assert {word: count for word, count in counters.items() if count} == wanted
    heard = {peer.source: peer for peer in stage.host().peers}
    assert set(heard) == {ip("10.1.0.2"), PEER6}
    for peer in heard.values():
        assert peer.heard_ns < arrived_by_ns, "the kernel's time, not when it was read"
        assert any(peer.mac) is (path != "raw")


def test_a_frame_wakes_a_pump_that_reads_a_ring(lab: Lab, opened: ExitStack) -> None:
    """Without virtual hosts no timer wakes it; after the first frame it reads every tick.

    The filter does not judge a frame with IP options, and refuses none that the engine may accept.
    """
    a, b = lab.hosts
    stage = Stage(a, "ring", opened)

    def sleeps() -> bool:
        return select.select([stage.pump.epoll_fd], [], [], 0)[0] == []

    for count in (1, 2, 3):
        stage.turn()
        stage.run_until(sleeps, "nothing is due")
        send(b, frame4(counter=count, options=b"\x01" * 4))
        assert select.select([stage.pump.epoll_fd], [], [], DEADLINE_S)[0], "it wakes"
        stage.run_until(lambda: stage.pump.facts.frames == count, "it is read")  # noqa: B023
    assert stage.counters()["bad_vhid"] == 3


def test_silence_counts_only_as_far_as_a_socket_was_read(lab: Lab, opened: ExitStack) -> None:
    """A turn reads 16 batches of 256: the master's frame waits behind more when its time is up."""
    a, b = lab.hosts
    stage = Stage(a, "packet", opened)
    sockets.enlarge(stage.receivers["packet"], 16 << 20)
    stage.add(advskew=100)
    stage.turn()
    due_ns = stage.host().deadline_ns
    stage.run_until(lambda: time.monotonic_ns() > due_ns - 400_000_000, "it is soon due")
    send(b, *[frame4(counter=1, passphrase=b"other")] * 6_000, frame4(counter=2))
    # Less than the interval of a second since the last turn: longer ones are waited for anyway.
    while time.monotonic_ns() < due_ns + 400_000_000:
        os.sched_yield()
    stage.run_until(lambda: stage.counters()["advertisements_heard"] == 1, "it is read at last")
    assert stage.host().state == "BACKUP"
    assert stage.host().counters["became_master"] == 0


def test_a_former_ifindex_of_an_interface_is_not_heard(lab: Lab, opened: ExitStack) -> None:
    a, b = lab.hosts
    stage = Stage(a, "packet", opened)
    stage.add(advskew=100)
    stage.turn()
    send(b, frame4(counter=1))
    stage.run_until(lambda: stage.counters()["advertisements_heard"] == 1, "heard")
    # The name is another interface's now; frames of this one are of none of ours.
    stage.pump.set_interface(
        0, ifindex=stage.ifindex + 1000, up=True, mac=stage.mac, source=ip(a.address(1))
    )
    stage.pump.mark()
    stage.turn()
    frames = stage.pump.facts.frames
    send(b, frame4(counter=2))
    stage.run_until(lambda: stage.pump.facts.frames == frames + 1, "it has come")
    assert stage.counters()["advertisements_heard"] == 1


@pytest.mark.parametrize("kind", ["packet", "raw4", "raw6"])
def test_what_the_kernel_drops_is_counted_and_every_backup_waits_anew(
    lab: Lab, opened: ExitStack, kind: str
) -> None:
    a, b = lab.hosts
    stage = Stage(a, kind[:3].replace("pac", "packet"), opened)
    stage.add(advskew=100)
    stage.turn()
    before_ns = stage.host().deadline_ns
    stage.receivers[kind].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)  # the least there is
    make = frame6 if kind == "raw6" else frame4
    send(b, *(make(counter=counter, passphrase=b"other") for counter in range(1, 101)))
    stage.run_until(lambda: SocketDropped in stage.kinds(), "the drops are told")
    facts = stage.pump.facts
    assert facts.frames + facts.dropped == 100
    (told,) = [report for report in stage.reports if isinstance(report, SocketDropped)]
    assert told.frames == facts.dropped > 0
    assert stage.host().deadline_ns > before_ns
    # Told once: the same drops are not found again with the next frame.
    send(b, make(counter=101, passphrase=b"other"))
    stage.run_until(lambda: stage.pump.facts.frames == facts.frames + 1, "one more")
    assert stage.kinds().count(SocketDropped) == 1


# ------------------------------------------------------------------------------------------ unicast


def open_unicast(stage: Stage, host: Host, opened: ExitStack) -> None:
    with host.inside():
        four = sockets.open_raw_sender(socket.AF_INET)
        six = sockets.open_raw_sender(socket.AF_INET6)
    assert four is not None
    assert six is not None
    stage.pump.set_raw(opened.enter_context(four).fileno(), opened.enter_context(six).fileno())


def test_unicast_is_on_the_wire_what_a_group_would_get(lab: Lab, opened: ExitStack) -> None:
    a, b = lab.hosts
    stage = Stage(a, "packet", opened)
    open_unicast(stage, a, opened)
    with frames_of(b) as listener:
        stage.add(peers=(ip(b.address(1)), PEER6), **FAST)
        seen: dict[int, bytes] = {}

        def both() -> bool:
            listener.settimeout(0)
            try:
                while True:
                    frame = listener.recv(200)
                    seen[frame[14] >> 4] = frame
            except BlockingIOError:
                return len(seen) == 2

        stage.run_until(both, "an advertisement of each family")
    four, six = seen[4], seen[6]
    assert four[:12] == six[:12] == mac_of(b) + stage.mac
    # TOS 0x10, DF, TTL 255, no fragment.
    assert (four[15], four[20:22], four[22]) == (0x10, b"\x40\x00", 255)
    assert four[26:34] == ip(a.address(1)) + ip(b.address(1))
    assert (six[14:16], six[20:22]) == (b"\x60\x00", bytes((112, 255)))
    assert six[22:54] == SOURCE6 + PEER6
    assert four[34:36] == six[54:56] == bytes((0x21, VHID))
    assert (len(four), len(six)) == (70, 90)


def test_failures_are_counted_for_the_virtual_host_whose_they_are(
    lab: Lab, opened: ExitStack
) -> None:
    a, b = lab.hosts
    stage = Stage(a, "packet", opened)
    open_unicast(stage, a, opened)
    nowhere, nowhere6 = ip("198.51.100.9"), ip("2001:db8:9::9")
    stage.add(0, vhid=1, peers=(ip(b.address(1)), nowhere, nowhere6), **FAST)
    stage.add(1, vhid=2, peers=(nowhere, nowhere6), **FAST)
    stage.add(2, vhid=3, **FAST)
    stage.run_until(lambda: stage.kinds().count(SendsFailing), "no send succeeded for an interval")
    stage.run_until(lambda: stage.host(2).counters["advertisements_sent"] > 3, "some more")
    some, none, groups = (stage.host(slot) for slot in range(3))
    assert some.counters["send_errors"] == 2 * some.counters["advertisements_sent"] > 0
    assert none.counters["advertisements_sent"] == 0
    assert groups.counters["send_errors"] == 0
    assert [each.sends_failing for each in (some, none, groups)] == [False, True, False]
    (failing,) = [report for report in stage.reports if isinstance(report, SendsFailing)]
    assert failing.slot == 1
    assert os.strerror(failing.error) == "Network is unreachable"


def test_every_output_of_40_hosts_with_16_peers_leaves_once(lab: Lab, opened: ExitStack) -> None:
    a, b = lab.hosts
    peers = [ip(f"10.1.2.{number}") for number in range(1, 15)] + [PEER6, ip("fe80::c")]
    far = mac_of(b).hex(":")
    for peer in peers:  # resolved, or the kernel would hold some back and drop others
        text = address_text(peer)
        a.run(f"ip neigh replace {text} lladdr {far} dev s1 nud permanent".split())
    stage = Stage(a, "packet", opened)
    open_unicast(stage, a, opened)
    slow = {"advbase": 1, "dead_ratio": 1, "counter": 0}
    with frames_of(b) as listener:
        for vhid in range(1, 41):
            own = {"peers": peers} if vhid % 4 else {}
            stage.add(vhid, vhid=vhid, addresses=((ip(f"10.1.3.{vhid}"), 32),), **slow, **own)
        stage.run_until(lambda: stage.counters()["advertisements_sent"] >= 40, "all advertised")
        seen = []
        for _ in range(30 * 16 + 10):
            frame = listener.recv(200)
            if frame[14] >> 4 == 4:
                seen.append((frame[35], frame[30:34]))
            else:
                seen.append((frame[55], frame[38:54]))
    wanted = {(vhid, peer) for vhid in range(1, 41) if vhid % 4 for peer in peers}
    wanted |= {(vhid, GROUP) for vhid in range(4, 41, 4)}
    assert len(seen) == len(set(seen))
    assert set(seen) == wanted
    assert stage.counters()["send_errors"] == 0


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_peers_are_not_told_that_the_protocol_is_unreachable(lab: Lab, family: int) -> None:
    a, b = lab.hosts
    six = family == socket.AF_INET6
    with b.inside():
        icmp = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
        errors = socket.socket(family, socket.SOCK_RAW, icmp)
        peer = socket.socket(family, socket.SOCK_RAW, PROTOCOL_CARP)
        plain = socket.socket(family, socket.SOCK_DGRAM)
        where = ("fe80::a", 0, 0, socket.if_nametoindex("s1")) if six else (a.address(1), 0)
    with a.inside():
        quiet = sockets.open_raw_sender(family)
    assert quiet is not None
    errors.settimeout(DEADLINE_S)
    with errors, peer, plain:

        def error_about(payload: bytes) -> bytes:
            while payload not in (data := errors.recv(500)):
                assert b"quiet" not in data
            return data

        with quiet:
            peer.sendto(b"quiet".ljust(36), where)
            # An answer to the first would come before the one to this, which has no listener.
            plain.sendto(b"no such port".ljust(36), (where[0], 9, *where[2:]))
            error_about(b"no such port")
        peer.sendto(b"unreachable".ljust(36), where)
        error_about(b"unreachable")


# ---------------------------------------------------------------------------------------- addresses


def test_preferred_addresses_and_their_removal_in_both_families(
    lab: Lab, opened: ExitStack
) -> None:
    a, _ = lab.hosts
    stage = Stage(a, "packet", opened)
    stage.add(0, vhid=1, **FAST)
    other = ip("2001:db8::200")
    stage.add(1, vhid=2, addresses=((other, 128),), preferred=True, **FAST)
    stage.run_until(lambda: stage.kinds().count(AddressesChanged) == 2, "both are MASTER")
    shown = json.loads(a.run(["ip", "-j", "-6", "addr", "show", "dev", "s1"]).stdout)
    flags = {entry["local"]: entry for link in shown for entry in link["addr_info"]}
    assert flags["2001:db8::100"].get("deprecated") is True
    assert "deprecated" not in flags["2001:db8::200"]
    assert all(flags[text].get("nodad") for text in ("2001:db8::100", "2001:db8::200"))
    every = [(stage.ifindex, address, length) for address, length in (*BOTH, (other, 128))]
    assert stage.pump.remove_addresses(every) == [0, 0, 0]
    text = a.run(["ip", "addr", "show", "dev", "s1"]).stdout
    assert "2001:db8::" not in text
    assert "10.77.0.100" not in text


# ------------------------------------------------------------------------------- address batches

MANY = [ip(f"10.200.{number // 250}.{number % 250 + 1}") for number in range(300)]


def give_addresses(host: Host, wanted: list[bytes]) -> None:
    lines = [f"addr add {socket.inet_ntoa(address)}/32 dev s1" for address in wanted]
    done = host.run(["sh", "-c", "ip -batch - <<'EOF'\n" + "\n".join(lines) + "\nEOF"])
    assert done.returncode == 0, done.stderr


def held(host: Host) -> set[bytes]:
    [interface] = json.loads(host.run(["ip", "-j", "addr", "show", "dev", "s1"]).stdout)
    found = {ip(each["local"]) for each in interface["addr_info"] if each["family"] == "inet"}
    return found & set(MANY)


def test_which_changes_of_a_batch_failed_is_known(lab_factory: Callable[..., Lab]) -> None:
    a, _ = lab_factory(segments=1).hosts
    with ExitStack() as opened:
        stage = Stage(a, "packet", opened)
        # Every third is missing, the last of each batch of 128 among both kinds.
        there = [address for number, address in enumerate(MANY) if number % 3]
        give_addresses(a, there)
        errors = stage.pump.remove_addresses([(stage.ifindex, each, 32) for each in MANY])
        assert errors == [0 if number % 3 else EADDRNOTAVAIL for number in range(len(MANY))]
        assert held(a) == set()


def test_a_batch_whose_answers_are_lost_is_carried_out(lab_factory: Callable[..., Lab]) -> None:
    a, _ = lab_factory(segments=1).hosts
    with ExitStack() as opened:
        stage = Stage(a, "packet", opened)
        stage.netlink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # of two answers or so
        batch = [(stage.ifindex, each, 32) for each in MANY]
        give_addresses(a, MANY)
        # What succeeds needs one answer a batch.
        assert stage.pump.remove_addresses(batch) == [0] * len(MANY)
        assert held(a) == set()
        # Half of them fail, and most answers are lost: the kernel is asked what is there.
        first = stage.pump.remove_addresses([batch[0]])
        assert first == [EADDRNOTAVAIL]
        give_addresses(a, MANY[1::2])
        errors = stage.pump.remove_addresses(batch)
        assert held(a) == set()
        assert set(errors[1::2]) == {0}, "were there, and have gone"
        assert set(errors[::2]) == {0, EADDRNOTAVAIL}, "were not there: answered, or looked for"


# --------------------------------------------------------------------------- a queue that is full


def fill_queue_of(host: Host) -> None:
    """Gives s1 a queue for some thirty frames that sends four of them in 10 ms."""
    queue = "tbf rate 200kbit burst 1600 limit 2000"
    host.run(f"tc qdisc add dev s1 root {queue}".split())


def test_every_address_is_announced_through_a_short_queue(lab: Lab, opened: ExitStack) -> None:
    a, b = lab.hosts
    every = [bytes((10, 77, 1, number)) for number in range(1, 201)]
    stage = Stage(a, "packet", opened)
    with b.inside():
        listener = opened.enter_context(
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ARP))
        )
        listener.bind(("s1", ETH_P_ARP))
    listener.setblocking(False)
    fill_queue_of(a)
    stage.add(
        addresses=[(ADDRESS, 32)],
        unsigned_addresses=[(address, 32) for address in every],
        advskew=1,
        dead_ratio=1,
        manage_addresses=False,
    )
    stage.run_until(lambda: stage.host().counters["announcements_sent"] == 1, "an announcement")
    announced = set()
    while select.select([listener], [], [], 0.2)[0]:
        announced.add(listener.recv(100)[28:32])
    assert announced >= {ADDRESS, *every}
    counters = stage.host().counters
    assert counters["announcement_errors"] > 0
    assert not stage.host().sends_failing


def test_the_last_of_a_burst_advertise_through_a_short_queue(lab: Lab, opened: ExitStack) -> None:
    a, _ = lab.hosts
    hosts = 60
    stage = Stage(a, "packet", opened)
    fill_queue_of(a)
    for slot in range(hosts):
        stage.add(slot, vhid=slot + 1, addresses=[(ADDRESS, 32)], manage_addresses=False,
                  dead_ratio=1, announce_on_order=True)  # fmt: skip

    def sent() -> list[int]:
        return [stage.host(slot).counters["advertisements_sent"] for slot in range(hosts)]

    stage.run_until(lambda: min(sent()) >= 5, "five advertisements of each")
    assert max(sent()) <= 7
    assert stage.counters()["send_errors"] > 0
    assert SendsFailing not in stage.kinds()
