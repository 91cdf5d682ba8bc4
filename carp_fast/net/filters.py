"""Classic BPF: named instructions, the programs of our sockets, and how one is attached.

A program decides for each frame how many bytes of it a socket gets, none or all. The two that sort
frames into lanes are in lane_filters.py. Must not know the engine, virtual hosts, or what a frame
means beyond its addresses, its protocol and its vhid. Encoding and extensions: linux/filter.h and
Documentation/networking/filter.rst of Linux.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import sys
from collections.abc import Iterable

from carp_fast.net.interfaces import ADDRESS_BODY, ATTRIBUTE, HEADER, OWN_PROTOCOL
from carp_fast.net.kernel import (
    ETH_P_ARP,
    ETH_P_IP,
    ETH_P_IPV6,
    IFA_PROTO,
    NEIGHBOUR_ADVERTISEMENT,
    PACKET_OUTGOING,
    PROTOCOL_CARP,
    PROTOCOL_ICMPV6,
    RTM_DELADDR,
    RTM_DELROUTE,
    RTM_NEWADDR,
    RTM_NEWROUTE,
    RTN_LOCAL,
    SO_ATTACH_FILTER,
)

Instruction = tuple[int, int, int, int]
"""(code, instructions to skip if true, instructions to skip if false, operand k)."""
INSTRUCTIONS_MAX = 4096  # the kernel's limit for one program

# Loads into A, big-endian: the word, half-word or byte at k; the byte at X + k; k itself.
LD_W_ABS, LD_H_ABS, LD_B_ABS, LD_B_IND, LD_IMM = 0x20, 0x28, 0x30, 0x50, 0x00
# Loads into X: k; four times the low half of the byte at k (an IPv4 header's length); A.
LDX_IMM, LDX_IP_LENGTH, TAX = 0x01, 0xB1, 0x07
# A = A & k, A * k, A ^ k, A ^ X.
AND, MUL, XOR, XOR_X = 0x54, 0x24, 0xA4, 0xAC
# Jumps: unconditional; if A = k, A >= k, A & k, A = X.
JA, JEQ, JGE, JSET, JEQ_X = 0x05, 0x15, 0x35, 0x45, 0x1D
RET = 0x06  # accepts k bytes of the frame

# Offsets beyond the frame, at which loads return what the kernel knows about it.
SKF_AD_OFF, SKF_NET_OFF = 0xFFFFF000, 0xFFF00000  # SKF_NET_OFF: relative to the IP header
SKF_AD_PROTOCOL, SKF_AD_PKTTYPE, SKF_AD_IFINDEX = SKF_AD_OFF, SKF_AD_OFF + 4, SKF_AD_OFF + 8
SKF_AD_NLATTR = SKF_AD_OFF + 12  # offset of the first netlink attribute of type X from A on, or 0
SKF_AD_RXHASH = SKF_AD_OFF + 32
SKF_AD_VLAN_TAG, SKF_AD_VLAN_TAG_PRESENT = SKF_AD_OFF + 44, SKF_AD_OFF + 48

VLAN_ID = 0xFFF  # the bits of a tag that number its VLAN; the others are a priority
# Hop-by-hop options, routing, fragment, destination options: an advertisement has none of them.
EXTENSION_HEADERS = (0, 43, 44, 60)

# Offsets of the fields that the programs read; IPv4 is assumed to have no options.
ETHERTYPE_AT, IPV6_AT, PROTOCOL4_AT, ICMPV6_TYPE_AT = 12, 14, 23, 54
NEXT_HEADER, EXTENSION_NEXT = 6, 40  # from the IPv6 header on: its field, that of an extension
VHID4_AT, VHID6_AT = 35, 55
MAC_END_AT = 8  # last four bytes of the source MAC
ROUTE_PROTOCOL_AT, ROUTE_TYPE_AT = 5, 7  # in the body of a netlink message about a route

DROP: Instruction = (RET, 0, 0, 0)
PASS: Instruction = (RET, 0, 0, 0xFFFF)
NOTHING: list[Instruction] = [DROP]
# Drops frames with a VLAN tag. VLAN 0 continues: such a tag is only a priority (802.1p), and the
# frame belongs to the interface itself.
OF_NO_VLAN: list[Instruction] = [
    (LD_W_ABS, 0, 0, SKF_AD_VLAN_TAG_PRESENT),
    (JEQ, 4, 0, 0),
    (LD_W_ABS, 0, 0, SKF_AD_VLAN_TAG),
    (AND, 0, 0, VLAN_ID),
    (JEQ, 1, 0, 0),
    DROP,
]

FILTERED_INTERFACES_MAX = 1500  # limited by INSTRUCTIONS_MAX; with more, all pass
OWN_MACS_MAX = 1000  # limited by INSTRUCTIONS_MAX; frames from further MACs pass
ALL_VHIDS = 256


def attach_filter(
    sock: socket.socket,
    program: list[Instruction],
    option: tuple[int, int] = (socket.SOL_SOCKET, SO_ATTACH_FILTER),
) -> None:
    """Attaches a program to a socket, replacing an earlier one. Raises OSError.

    ENOMEM: the program is longer than net.core.optmem_max allows. `option`: (level, name) of the
    socket option that takes it.
    """
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code)  # the kernel copies it within the call
    sock.setsockopt(*option, struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer)))


def extension_tests(found: int, otherwise: int) -> list[Instruction]:
    """Instructions that skip `found` further ones if A is one of EXTENSION_HEADERS, otherwise
    `otherwise`.
    """
    last = len(EXTENSION_HEADERS) - 1
    return [
        (JEQ, last - i + found, otherwise if i == last else 0, number)
        for i, number in enumerate(EXTENSION_HEADERS)
    ]


# Drops all but IPv4 and IPv6 of protocol 112. IPv6 continues also if protocol 112 is behind one
# extension header, as in a fragment: it is counted, as a fragment of IPv4 is.
OF_CARP: list[Instruction] = [
    (LD_H_ABS, 0, 0, ETHERTYPE_AT),
    (JEQ, 3, 0, ETH_P_IPV6),
    (JEQ, 0, 10, ETH_P_IP),
    (LD_B_ABS, 0, 0, PROTOCOL4_AT),
    (JA, 0, 0, 7),
    (LD_B_ABS, 0, 0, IPV6_AT + NEXT_HEADER),
    (JEQ, 7, 0, PROTOCOL_CARP),
    *extension_tests(0, 2),
    (LD_B_ABS, 0, 0, IPV6_AT + EXTENSION_NEXT),
    (JEQ, 1, 0, PROTOCOL_CARP),
    DROP,
]


def packet_filter(ifindexes: list[int] | None) -> list[Instruction]:
    """Passes IPv4 and IPv6 of protocol 112 without a VLAN, on these interfaces; None: on all.

    A frame of an interface without virtual hosts must be dropped here, uncounted: a port of a
    bridge or bond delivers each frame twice on an unbound socket.
    """
    return [*OF_NO_VLAN, *OF_CARP, *raw_filter(ifindexes)]


def raw_filter(ifindexes: list[int] | None) -> list[Instruction]:
    """The same for a raw socket, which gets only protocol 112, without Ethernet headers."""
    if ifindexes is None or len(ifindexes) > FILTERED_INTERFACES_MAX:
        return [PASS]
    return [(LD_W_ABS, 0, 0, SKF_AD_IFINDEX), *_is_one_of(sorted(ifindexes))]


def _is_one_of(numbers: list[int]) -> list[Instruction]:
    """Instructions that accept if A is one of the ascending `numbers`, and drop otherwise."""
    if len(numbers) <= 4:
        count = len(numbers)
        tests = [(JEQ, count - i, 0, number) for i, number in enumerate(numbers)]
        return [*tests, DROP, PASS]
    middle = len(numbers) // 2
    lower, upper = _is_one_of(numbers[:middle]), _is_one_of(numbers[middle:])
    return [(JGE, 0, 1, numbers[middle]), (JA, 0, 0, len(lower)), *lower, *upper]


def mac_end(mac: bytes) -> int:
    """The last four bytes of a MAC, by which tap_filter() distinguishes MACs."""
    return int.from_bytes(mac[-4:], "big")


def tap_filter(
    ifindexes: list[int] | None, own_mac_ends: Iterable[int], vhids: range
) -> list[Instruction]:
    """Passes advertisements that this machine sends, on these interfaces; None: on all.

    Frames from one of our own MACs pass only if their vhid is in `vhids`.
    """
    sent_here: list[Instruction] = [
        (LD_W_ABS, 0, 0, SKF_AD_PKTTYPE),
        (JEQ, 1, 0, PACKET_OUTGOING),
        DROP,
    ]
    among_vhids: list[Instruction] = [
        (LD_H_ABS, 0, 0, ETHERTYPE_AT),
        (JEQ, 0, 2, ETH_P_IPV6),
        (LD_B_ABS, 0, 0, VHID6_AT),
        (JA, 0, 0, 1),
        (LD_B_ABS, 0, 0, VHID4_AT),
        (JGE, 1, 0, vhids.start),
        DROP,
        (JGE, 0, 1, vhids.stop),
        DROP,
    ]
    ends = sorted(set(own_mac_ends))[:OWN_MACS_MAX]
    if len(vhids) == ALL_VHIDS or not ends:
        return sent_here + packet_filter(ifindexes)
    ours: list[Instruction] = [(LD_W_ABS, 0, 0, MAC_END_AT)]
    for left in range(len(ends), 0, -1):
        ours += [(JEQ, 0, 1, ends[-left]), (JA, 0, 0, 2 * left - 1)]
    ours.append((JA, 0, 0, len(among_vhids)))
    return sent_here + ours + among_vhids + packet_filter(ifindexes)


def sink_filter(*, announcements: bool = False) -> list[Instruction]:
    """Passes protocol 112, and with `announcements` also ARP and neighbour advertisements.

    In every VLAN: frames of those that are not counted are to be named.
    """
    announcing: list[Instruction] = []
    if announcements:
        announcing = [
            (LD_H_ABS, 0, 0, ETHERTYPE_AT),
            (JEQ, 0, 1, ETH_P_ARP),
            PASS,
            (JEQ, 0, 5, ETH_P_IPV6),
            (LD_B_ABS, 0, 0, IPV6_AT + NEXT_HEADER),
            (JEQ, 0, 3, PROTOCOL_ICMPV6),
            (LD_B_ABS, 0, 0, ICMPV6_TYPE_AT),
            (JEQ, 0, 1, NEIGHBOUR_ADVERTISEMENT),
            PASS,
        ]
    return [*announcing, *OF_CARP, PASS]


def observer_filter(snap_bytes: int) -> list[Instruction]:
    """Passes the first bytes of ARP and of IPv4 of protocol 112, which CARP and VRRP share."""
    return [
        (LD_H_ABS, 0, 0, ETHERTYPE_AT),
        (JEQ, 3, 0, ETH_P_ARP),
        (JEQ, 0, 3, ETH_P_IP),
        (LD_B_ABS, 0, 0, PROTOCOL4_AT),
        (JEQ, 0, 1, PROTOCOL_CARP),
        (RET, 0, 0, snap_bytes),
        DROP,
    ]


def holding_filter() -> list[Instruction]:
    """Passes netlink notifications, one per packet, except those about routes without our mark."""
    return [
        (LD_H_ABS, 0, 0, 4),  # nlmsg_type
        (JEQ, 1, 0, _as_loaded(RTM_NEWROUTE, 2)),
        (JEQ, 0, 2, _as_loaded(RTM_DELROUTE, 2)),
        (LD_B_ABS, 0, 0, HEADER.size + ROUTE_PROTOCOL_AT),
        (JEQ, 0, 1, OWN_PROTOCOL),
        (RET, 0, 0, 0xFFFFFFFF),
        DROP,
    ]


def _as_loaded(value: int, size: int) -> int:
    """A number of a netlink header, in the host's byte order, as a load of a filter gives it."""
    return int.from_bytes(value.to_bytes(size, sys.byteorder), "big")


def notification_filter(ignore_port: int | None) -> list[Instruction]:
    """Passes netlink notifications, one per packet, except those about our own changes.

    It drops RTM_NEWADDR with our protocol mark, and both address messages that `ignore_port`
    caused. The mark is needed in addition to the port, because IPv6 notifications name no port.
    RTM_DELADDR with the mark passes: another program may have removed one of our addresses. Of
    routes only the removal of a local one with our mark passes: a router changes many others.
    """

    port = 0 if ignore_port is None else ignore_port
    return [
        (LD_H_ABS, 0, 0, 4),  # nlmsg_type
        (JEQ, 17, 0, _as_loaded(RTM_NEWROUTE, 2)),  # drop
        (JEQ, 2, 0, _as_loaded(RTM_DELROUTE, 2)),
        (JEQ, 5, 0, _as_loaded(RTM_NEWADDR, 2)),
        (JEQ, 11, 13, _as_loaded(RTM_DELADDR, 2)),  # to the check of the port, or accept
        (LD_B_ABS, 0, 0, HEADER.size + ROUTE_PROTOCOL_AT),
        (JEQ, 0, 12, OWN_PROTOCOL),
        (LD_B_ABS, 0, 0, HEADER.size + ROUTE_TYPE_AT),
        (JEQ, 7, 10, RTN_LOCAL),  # to the check of the port, or drop
        (LDX_IMM, 0, 0, IFA_PROTO),
        (LD_IMM, 0, 0, HEADER.size + ADDRESS_BODY.size),
        (LD_B_ABS, 0, 0, SKF_AD_NLATTR),
        (JEQ, 2, 0, 0),
        (TAX, 0, 0, 0),
        (LD_B_IND, 0, 0, ATTRIBUTE.size),
        (JEQ, 3, 0, OWN_PROTOCOL),
        (LD_W_ABS, 0, 0, 12),  # nlmsg_pid
        (JEQ, 0 if ignore_port is None else 1, 0, _as_loaded(port, 4)),
        (RET, 0, 0, 0xFFFFFFFF),
        DROP,
    ]
