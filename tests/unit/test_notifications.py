"""Which netlink notifications pass the filter of the link monitor: the kernel runs it here."""

from __future__ import annotations

import socket
import struct

import pytest

from carp_fast.net.filters import attach_filter, notification_filter
from carp_fast.net.interfaces import ADDRESS_BODY, ATTRIBUTE, HEADER, OWN_PROTOCOL, ROUTE_BODY
from carp_fast.net.kernel import (
    IFA_ADDRESS,
    IFA_PROTO,
    RT_TABLE_LOCAL,
    RTA_DST,
    RTA_OIF,
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELROUTE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWROUTE,
    RTN_LOCAL,
)

OWN_PORT, OTHER_PORT = 4711, 4712
BGP, RTN_UNICAST = 186, 1


def attribute(kind: int, value: bytes) -> bytes:
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def address(kind: int, *, marked: bool = False, port: int = OTHER_PORT) -> bytes:
    body = ADDRESS_BODY.pack(socket.AF_INET, 24, 0, 0, 2) + attribute(IFA_ADDRESS, bytes(4))
    if marked:
        body += attribute(IFA_PROTO, bytes((OWN_PROTOCOL,)))
    return HEADER.pack(HEADER.size + len(body), kind, 0, 1, port) + body


def route(
    kind: int, *, protocol: int = OWN_PROTOCOL, of: int = RTN_LOCAL, port: int = OTHER_PORT
) -> bytes:
    body = ROUTE_BODY.pack(socket.AF_INET, 32, 0, 0, RT_TABLE_LOCAL, protocol, 254, of, 0)
    body += attribute(RTA_DST, bytes(4)) + attribute(RTA_OIF, struct.pack("=I", 2))
    return HEADER.pack(HEADER.size + len(body), kind, 0, 1, port) + body


def link(kind: int) -> bytes:
    return HEADER.pack(HEADER.size + 16, kind, 0, 1, OWN_PORT) + bytes(16)


def passes(message: bytes, ignored: int | None = OWN_PORT) -> bool:
    sending, hearing = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with sending, hearing:
        attach_filter(hearing, notification_filter(ignored))
        hearing.setblocking(False)
        sending.send(message)
        try:
            return hearing.recv(4096) == message
        except BlockingIOError:
            return False


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (link(RTM_NEWLINK), True),
        (link(RTM_DELLINK), True),
        (address(RTM_NEWADDR), True),
        (address(RTM_NEWADDR, port=OWN_PORT), False),
        (address(RTM_NEWADDR, marked=True), False),
        (address(RTM_DELADDR), True),
        (address(RTM_DELADDR, marked=True), True),
        (address(RTM_DELADDR, marked=True, port=OWN_PORT), False),
        (route(RTM_DELROUTE), True),
        (route(RTM_DELROUTE, port=OWN_PORT), False),
        (route(RTM_DELROUTE, protocol=BGP), False),
        (route(RTM_DELROUTE, of=RTN_UNICAST), False),
        (route(RTM_NEWROUTE), False),
        (route(RTM_NEWROUTE, protocol=BGP, of=RTN_UNICAST), False),
    ],
)
def test_only_what_may_concern_us_passes(message: bytes, expected: bool) -> None:
    assert passes(message) == expected


def test_without_a_port_to_ignore_every_removal_passes() -> None:
    assert passes(address(RTM_DELADDR, port=OWN_PORT), None)
    assert passes(route(RTM_DELROUTE, port=0), None)
    assert not passes(route(RTM_DELROUTE, protocol=BGP), None)
