"""What the kernel answers to changes of addresses, and what is made of answers that are not there.

A socket of the test stands in for the kernel: its answers wait there before they are asked for.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EAGAIN, EPERM
from typing import Any

import pytest

from carp_fast.engine._prepared import PreparedHost
from carp_fast.engine.reports import Done, Released, Report, StateChanged
from carp_fast.net import addresses, filters
from carp_fast.net.interfaces import ADDRESS_BODY, ATTRIBUTE, HEADER, OWN_PROTOCOL
from carp_fast.net.kernel import (
    IFA_LOCAL,
    IFA_PROTO,
    NLM_F_ACK,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    RTM_DELADDR,
    RTM_GETADDR,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWROUTE,
)
from carp_fast.pump._pump import Pump
from tests.support.segment import ip

NOOP, DONE, RTM_SETLINK = 1, 3, 19
IFLA_AF_SPEC, IFLA_INET_CONF, CONF_ENTRIES = 26, 1, 33
ADDRESS_AT = HEADER.size + ADDRESS_BODY.size + ATTRIBUTE.size
NUMBERS = 128  # that each message or batch has; the first begins there
IFINDEX, NOWHERE = 7, 1 << 30
OURS, OTHER = ip("10.9.1.50"), ip("10.9.1.51")
OURS6, OTHER6 = ip("2001:db8::50"), ip("2001:db8::51")
DEADLINE_S = 60.0


def message(kind: int, number: int, body: bytes, flags: int = 0) -> bytes:
    return HEADER.pack(HEADER.size + len(body), kind, flags, number, 0) + body


def attribute(kind: int, value: bytes) -> bytes:
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


class Kernel:
    """The other end of the pump's netlink socket: answers put there wait to be read."""

    def __init__(self) -> None:
        self.end, self.pumps_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.heard: list[tuple[int, bytes]] = []

    def answer(self, number: int, error: int = 0) -> None:
        request = HEADER.pack(HEADER.size, 0, 0, number, 0)
        self.end.send(message(NLMSG_ERROR, number, struct.pack("=i", -error) + request))

    def find(self, number: int, address: bytes, prefixlen: int) -> None:
        """One address of a dump, with our mark."""
        body = ADDRESS_BODY.pack(socket.AF_INET, prefixlen, 0, 0, IFINDEX)
        body += attribute(IFA_LOCAL, address) + attribute(IFA_PROTO, bytes((OWN_PROTOCOL,)))
        self.end.send(message(RTM_NEWADDR, number, body))

    def end_dump(self, number: int) -> None:
        self.end.send(message(DONE, number, bytes(4)))

    def tell_promotion(self, number: int) -> None:
        """A RTM_NEWLINK: promote_secondaries is 0, as all of the interface's settings."""
        settings = attribute(IFLA_INET_CONF, bytes(4 * CONF_ENTRIES))
        body = bytes(16) + attribute(IFLA_AF_SPEC, attribute(socket.AF_INET, settings))
        self.end.send(message(RTM_NEWLINK, number, body))

    def asked(self) -> list[int]:
        """The types of all messages so far, in order."""
        try:
            while True:
                datagram, at = self.end.recv(1 << 20, socket.MSG_DONTWAIT), 0
                while at < len(datagram):
                    length, kind, *_ = HEADER.unpack_from(datagram, at)
                    self.heard.append((kind, datagram[at : at + length]))
                    at += (length + 3) & ~3
        except BlockingIOError:
            return [kind for kind, _ in self.heard]

    def added(self) -> list[bytes]:
        """The IPv4 addresses that it was asked to add so far."""
        self.asked()
        return [
            each[ADDRESS_AT : ADDRESS_AT + 4] for kind, each in self.heard if kind == RTM_NEWADDR
        ]

    def fill(self) -> None:
        """Let the next request wait until what is here is read."""
        junk = message(NOOP, 0, bytes(4096))
        try:
            while True:
                self.pumps_end.send(junk, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return


@contextmanager
def pump_on(netlink: socket.socket) -> Iterator[Pump]:
    """A pump that has the socket for netlink, without a wire and without a thread."""
    silent_fd = os.eventfd(0)
    pump = Pump([("packet", silent_fd)], silent_fd, netlink.fileno(), addresses.templates())
    try:
        yield pump
    finally:
        pump.stop()
        os.close(silent_fd)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    made = Kernel()
    with made.end, made.pumps_end:
        yield made


@pytest.fixture
def pump(kernel: Kernel) -> Iterator[Pump]:
    with pump_on(kernel.pumps_end) as made:
        yield made
        kernel.end.close()  # a request that waits ends


def remove(pump: Pump, *which: bytes, ifindex: int = IFINDEX) -> list[int]:
    """The outcomes of removing these addresses, in one batch."""
    return list(pump.remove_addresses([(ifindex, each, 24) for each in which]))


# ------------------------------------------------------------------------------ answers to changes


def test_only_the_last_answer_shows_that_a_batch_was_carried_out(
    kernel: Kernel, pump: Pump
) -> None:
    kernel.answer(NUMBERS + 1)
    assert remove(pump, OURS6, OTHER6) == [0, 0]
    kernel.answer(2 * NUMBERS)
    assert remove(pump, OURS6, OTHER6) == [0, EAGAIN]


def test_a_refused_change_is_known_by_its_number(kernel: Kernel, pump: Pump) -> None:
    kernel.answer(NUMBERS, EPERM)
    kernel.answer(NUMBERS + 1)
    assert remove(pump, OURS6, OTHER6)[1] == 0
    assert kernel.asked().count(RTM_GETADDR) == 3, "it was looked what became of the first"


@pytest.mark.parametrize("address", [OURS, OURS6], ids=["4", "6"])
def test_a_socket_that_was_closed_leaves_the_outcome_open(
    kernel: Kernel, pump: Pump, address: bytes
) -> None:
    """Each read returns without a message, as often as it is tried."""
    kernel.end.shutdown(socket.SHUT_WR)
    assert remove(pump, address) == [EAGAIN]


def only_answers(netlink: socket.socket) -> None:
    """Let no address that the kernel finds reach the socket."""
    (kind,) = struct.unpack(">H", struct.pack("=H", NLMSG_ERROR))
    filters.attach_filter(
        netlink,
        [
            (filters.LD_H_ABS, 0, 0, 4),
            (filters.JEQ, 0, 1, kind),
            (filters.RET, 0, 0, 1 << 16),
            (filters.RET, 0, 0, 0),
        ],
    )


def test_a_lost_answer_leaves_what_became_of_its_change_open() -> None:
    """The last one is there, and the kernel reports that others are not: its true way of doing so.

    The changes are of no interface that exists, and their own answers find no room.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.bind((0, 0))
        netlink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        only_answers(netlink)
        with pump_on(netlink) as pump:
            netlink.send(message(NOOP, NUMBERS + 1, b"", NLM_F_REQUEST | NLM_F_ACK))
            netlink.send(200 * message(NOOP, 0, b"", NLM_F_REQUEST | NLM_F_ACK))
            assert remove(pump, OURS6, OTHER6, ifindex=NOWHERE) == [EAGAIN, 0]


def test_an_answer_to_an_older_batch_is_none_to_this_one(kernel: Kernel, pump: Pump) -> None:
    kernel.answer(NUMBERS)
    assert remove(pump, OURS6) == [0]
    kernel.answer(NUMBERS)
    assert remove(pump, OTHER6) == [EAGAIN]


def test_an_answer_to_another_message_is_none_to_a_change(kernel: Kernel, pump: Pump) -> None:
    kernel.tell_promotion(NUMBERS)
    kernel.answer(2 * NUMBERS)
    kernel.answer(2 * NUMBERS)
    assert remove(pump, OURS) == [EAGAIN]
    assert RTM_SETLINK in kernel.asked()


def test_an_answer_to_a_change_is_none_about_promote_secondaries(
    kernel: Kernel, pump: Pump
) -> None:
    kernel.answer(1, EPERM)
    kernel.tell_promotion(NUMBERS)
    kernel.answer(2 * NUMBERS)
    remove(pump, OURS)
    assert RTM_SETLINK in kernel.asked()


# ------------------------------------------------------------------------------ the pump and a look


def host(*which: bytes, advbase: int = 0, advskew: int = 1, **keys: Any) -> PreparedHost:
    """A virtual host that is MASTER in a moment, unless its interval is long."""
    every = [(each, 24) for each in which]
    return PreparedHost(
        interface=0,
        vhid=1,
        addresses=every[:1],
        unsigned_addresses=every[1:],
        passphrase=b"x",
        advbase=advbase,
        advskew=advskew,
        dead_ratio=1,
        **keys,
    )


def is_master(report: Report) -> bool:
    return isinstance(report, StateChanged) and report.state == "MASTER"


def attach(pump: Pump, ifindex: int) -> None:
    pump.set_interface(0, ifindex=ifindex, up=True, mac=bytes(6), source=ip("10.9.0.2"))
    pump.mark()


def begin(pump: Pump, first: PreparedHost) -> None:
    attach(pump, IFINDEX)
    pump.add(0, first)
    pump.mark()


@pytest.mark.parametrize(("number", "removed"), [(NUMBERS, True), (NUMBERS - 1, False)])
def test_a_look_takes_only_what_is_its_own(
    kernel: Kernel, pump: Pump, number: int, removed: bool
) -> None:
    """An address of ours on a BACKUP is removed, if this look found it."""
    kernel.find(number, OURS, 24)
    kernel.end_dump(NUMBERS)
    begin(pump, host(OURS, advbase=200))
    for _ in range(5):
        pump.run_due()
    assert (RTM_DELADDR in kernel.asked()) is removed


def wait_for(holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline
        os.sched_yield()


def run_until(pump: Pump, found: list[Report], holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline
        pump.run_due()
        found += pump.take_reports()


def test_an_outcome_on_an_interface_that_is_gone_does_not_count(kernel: Kernel, pump: Pump) -> None:
    """Another one has its place by the time that the kernel's answer is taken."""
    kernel.end_dump(NUMBERS)
    begin(pump, host(OURS, advskew=64))
    pump.run_due()
    assert kernel.asked() == [RTM_GETADDR]
    kernel.fill()
    kernel.answer(2 * NUMBERS)
    pump.start_netlink("normal")
    found: list[Report] = []
    run_until(pump, found, lambda: any(is_master(each) for each in found))
    wait_for(lambda: OURS in kernel.added())
    found.clear()
    attach(pump, IFINDEX + 1)
    run_until(pump, found, lambda: any(is_master(each) for each in found))
    pump.run_due()
    wait_for(lambda: kernel.added() == [OURS, OURS])
    assert RTM_DELADDR not in kernel.asked()


@pytest.mark.parametrize("order", ["remove", "replace"])
def test_a_change_that_no_longer_applies_is_not_sent(
    kernel: Kernel, pump: Pump, order: str
) -> None:
    """The kernel is busy with the look before them when the host changes."""
    former = [bytes((10, 9, 2, number)) for number in range(1, 101)]
    found: list[Report] = []
    begin(pump, host(*former))
    kernel.fill()
    pump.start_netlink("normal")
    run_until(pump, found, lambda: any(is_master(each) for each in found))
    pump.run_due()
    if order == "remove":
        pump.remove(0)
    else:
        pump.replace(0, host(OURS), 0)
    mark = pump.mark()
    run_until(pump, found, lambda: any(isinstance(e, Done) and e.mark == mark for e in found))
    if order == "remove":
        run_until(
            pump, found, lambda: kernel.asked() and any(isinstance(e, Released) for e in found)
        )
    else:
        run_until(pump, found, lambda: OURS in kernel.added())
    assert set(kernel.added()) <= {OURS}


# ------------------------------------------------------------------------------------ how many


def batches(kernel: Kernel, kind: int) -> list[int]:
    """How many messages of a kind each datagram so far has, in order."""
    found: list[int] = []
    try:
        while True:
            datagram, at, count = kernel.end.recv(1 << 20, socket.MSG_DONTWAIT), 0, 0
            while at < len(datagram):
                length, this, *_ = HEADER.unpack_from(datagram, at)
                count += this == kind
                at += (length + 3) & ~3
            found += [count] if count else []
    except BlockingIOError:
        return found


def batches_of(kernel: Kernel, pump: Pump, first: PreparedHost, kind: int, count: int) -> list[int]:
    """The batches in which a virtual host's `count` changes are sent."""
    sent: list[int] = []

    def has_all() -> bool:
        sent.extend(batches(kernel, kind))
        return sum(sent) >= count

    pump.start_netlink("normal")
    begin(pump, first)
    run_until(pump, [], has_all)
    return sent


def test_a_batch_has_eight_ipv6_addresses_at_most_and_few_at_first(
    kernel: Kernel, pump: Pump
) -> None:
    """One may take milliseconds, and the kernel's lock is held meanwhile."""
    texts = [ip(f"2001:db8::{n:x}") for n in range(1, 61)]
    first = host(*texts, source6=ip("fe80::9"))
    sent = batches_of(kernel, pump, first, RTM_NEWADDR, len(texts))
    assert sent[0] == 3
    assert max(sent) <= 8


def test_a_batch_has_many_routes_from_the_first(kernel: Kernel, pump: Pump) -> None:
    texts = [bytes((10, 9, 2, n)) for n in range(1, 201)]
    sent = batches_of(kernel, pump, host(*texts, by_route=True), RTM_NEWROUTE, len(texts))
    assert sent[0] == 64
    assert max(sent) <= 128
