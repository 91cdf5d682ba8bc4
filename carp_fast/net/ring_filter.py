"""The part of a ring's program that accepts frames, and refuses those that no virtual host accepts.

A frame of protocol 112 on an interface of ours is accepted if its vhid is in use there, over
whichever family: the engine judges it. Of the others the program finds the verdict that the engine
would, by the same checks in the same order, which the digest ends for no one; it counts the frame
by interface and verdict. One frame of each verdict and interface is accepted every SHOWN_NS in
place of being counted here, so that the engine, which counts it, remembers from whom such frames
come. What is rare (IPv4 options) is left to the engine. Must not know a ring, a passphrase or a
peer.

The pump writes which interfaces and vhids are in use to memory that is shared with all programs
(pump/_refusals.pyx); nothing needs a system call after the start.
"""

from __future__ import annotations

import socket

from carp_fast.bpf.assembly import (
    BYTE,
    DOUBLE,
    HALF,
    R0,
    R1,
    R2,
    R3,
    R4,
    R6,
    R7,
    R8,
    R9,
    R10,
    WORD,
    Helper,
    Line,
    add,
    atomic,
    big_endian,
    bit_and,
    call,
    jump,
    jump_if,
    label,
    leave,
    load,
    load_map_value,
    modulo,
    move,
    shift_left,
    shift_right,
    store,
    subtract,
)
from carp_fast.bpf.maps import Array
from carp_fast.engine._wire import VERDICT_WORDS
from carp_fast.net.filters import (
    ETHERTYPE_AT,
    EXTENSION_HEADERS,
    IPV6_AT,
    NEXT_HEADER,
    PROTOCOL4_AT,
    VLAN_ID,
)
from carp_fast.net.kernel import ETH_P_IP, ETH_P_IPV6, PACKET_OUTGOING, PROTOCOL_CARP

# As in pump/_refusals.pxd: numbers of interfaces by ifindex, then what is known of each interface.
IFINDEX_PLACES, INTERFACES = 1 << 16, 4096
HEARD_AT, HEARD_BYTES = 2 * IFINDEX_PLACES, 256
HEARD_IFINDEX_AT, HEARD_VHIDS_AT, HEARD_REFUSED_AT = 0, 8, 40
HEARD_SHOWN_AT = HEARD_REFUSED_AT + 8 * len(VERDICT_WORDS)
HEARD_GROUPS4_AT = HEARD_SHOWN_AT + 8 * (VERDICT_WORDS.index("bad_vhid") + 1)
GROUPS = 2  # of each family
HEARD_GROUPS6_AT = HEARD_GROUPS4_AT + 4 * GROUPS
FILTER_BYTES = HEARD_AT + INTERFACES * HEARD_BYTES

SHOWN_NS = 100_000_000

# struct __sk_buff
SKB_LENGTH, SKB_TYPE, SKB_PROTOCOL, SKB_VLAN, SKB_TAG, SKB_IFINDEX = 0, 4, 16, 20, 24, 40
SKB_DATA, SKB_DATA_END = 76, 80

IPV4_BYTES, IPV6_BYTES, CARP_BYTES = 20, 40, 36
ETHERNET_BYTES = 14
HOP_LIMIT = 255
FRAGMENT = 0x3FFF
_VRRP2_BYTES, _VRRP3_BYTES = 16, 8  # of a VRRP advertisement without addresses

# The stack: 12 bytes from the EtherType on; CARP, with the IP header right before it.
_HEADER = -16
_HEADER_BYTES = PROTOCOL4_AT + 1 - ETHERTYPE_AT
_NEXT_HEADER = _HEADER + IPV6_AT + NEXT_HEADER - ETHERTYPE_AT
STACK_CARP = _HEADER - CARP_BYTES - 4  # aligned to 8 bytes with either header
STACK_IPV4, STACK_IPV6 = STACK_CARP - IPV4_BYTES, STACK_CARP - IPV6_BYTES
STACK_USED = -STACK_IPV6


def accepting() -> list[Line]:
    """Continues with R6 = the context for a frame of protocol 112 that arrives without a VLAN;
    others continue at the label "drop" of refusing().
    """
    return [
        move(R6, R1),
        load(R0, R6, SKB_TYPE, WORD),
        jump_if(R0, "==", PACKET_OUTGOING, "drop"),
        *of_no_vlan("drop"),
        *load_bytes(ETHERTYPE_AT, _HEADER, _HEADER_BYTES, "drop"),
        load(R0, R10, _HEADER, HALF),
        jump_if(R0, "==", socket.htons(ETH_P_IPV6), "ipv6"),
        jump_if(R0, "!=", socket.htons(ETH_P_IP), "drop"),
        load(R0, R10, _HEADER + PROTOCOL4_AT - ETHERTYPE_AT, BYTE),
        jump_if(R0, "==", PROTOCOL_CARP, "carp"),
        move(R0, 0),
        leave(),
        label("ipv6"),
        load(R0, R10, _NEXT_HEADER, BYTE),
        jump_if(R0, "==", PROTOCOL_CARP, "carp"),
        *(jump_if(R0, "==", each, "extended") for each in EXTENSION_HEADERS),
        label("drop"),
        move(R0, 0),
        leave(),
        label("extended"),
        *load_bytes(IPV6_AT + IPV6_BYTES, STACK_CARP, 1, "drop"),
        load(R0, R10, STACK_CARP, BYTE),
        jump_if(R0, "!=", PROTOCOL_CARP, "drop"),
        label("carp"),
    ]


def of_no_vlan(otherwise: str) -> list[Line]:
    """Continues with a frame without a VLAN. VLAN 0 is only a priority."""
    return [
        load(R0, R6, SKB_VLAN, WORD),
        jump_if(R0, "==", 0, "untagged"),
        load(R0, R6, SKB_TAG, WORD),
        bit_and(R0, VLAN_ID),
        jump_if(R0, "!=", 0, otherwise),
        label("untagged"),
    ]


def load_bytes(at: int, to: int, length: int, otherwise: str) -> list[Line]:
    """Copies bytes of the frame, from its Ethernet header on, to the stack."""
    return [
        move(R1, R6),
        move(R2, at),
        move(R3, R10),
        add(R3, to),
        move(R4, length),
        call(Helper.SKB_LOAD_BYTES),
        jump_if(R0, "!=", 0, otherwise),
    ]


def refusing(known: Array) -> list[Line]:
    """Continues with R7 = the interface of a frame that is accepted. `known`: of FILTER_BYTES."""
    return [
        *interface_of(known),
        load(R0, R10, _HEADER, HALF),
        jump_if(R0, "==", socket.htons(ETH_P_IPV6), "in_ipv6"),
        *_of_ipv4(),
        *_of_ipv6(),
        *_of_short(),
        *_of_carp(),
        label("accepted"),
    ]


def interface_of(known: Array, otherwise: str = "accepted") -> list[Line]:
    """R7 = the interface, R8 = what is known of it; drops frames of others, uncounted."""
    return [
        load(R7, R6, SKB_IFINDEX, WORD),
        move(R2, R7),
        bit_and(R2, IFINDEX_PLACES - 1),
        shift_left(R2, 1),
        load_map_value(R1, known),
        add(R1, R2),
        load(R2, R1, 0, HALF),
        jump_if(R2, "==", 0, "drop"),
        subtract(R2, 1),
        bit_and(R2, INTERFACES - 1),
        shift_left(R2, HEARD_BYTES.bit_length() - 1),
        load_map_value(R8, known, HEARD_AT),
        add(R8, R2),
        load(R0, R8, HEARD_IFINDEX_AT, WORD),
        # An interface with the same place as one of ours: the pump knows whether it is ours, too.
        jump_if(R0, "!=", R7, otherwise),
    ]


def _verdict(word: str) -> list[Line]:
    """Counts the frame with this verdict, or passes it on as a sample."""
    at = 8 * VERDICT_WORDS.index(word)
    return [
        label(word),
        call(Helper.KTIME_GET_COARSE_NS),
        load(R1, R8, HEARD_SHOWN_AT + at, DOUBLE),
        move(R2, R0),
        subtract(R2, R1),
        jump_if(R2, "s<", SHOWN_NS, f"count_{word}"),
        store(R8, HEARD_SHOWN_AT + at, R0, DOUBLE),
        jump("accepted"),
        label(f"count_{word}"),
        move(R1, 1),
        atomic(R8, HEARD_REFUSED_AT + at, "+=", R1),
        jump("drop"),
    ]


def has_vhid() -> list[Line]:
    """R2 = whether a virtual host of the interface has the vhid of the frame on the stack."""
    return [
        load(R0, R10, STACK_CARP + 1, BYTE),
        move(R1, R0),
        shift_right(R0, 6),
        shift_left(R0, 3),
        move(R2, R8),
        add(R2, R0),
        load(R2, R2, HEARD_VHIDS_AT, DOUBLE),
        bit_and(R1, 63),
        shift_right(R2, R1),
        bit_and(R2, 1),
    ]


def _accept_if_in_use() -> list[Line]:
    """Continues if no virtual host has the vhid."""
    return [*has_vhid(), jump_if(R2, "!=", 0, "accepted")]


def _of_ipv4() -> list[Line]:
    """Continues at "carp_read" with R9 = the bytes of a payload that is long enough for CARP."""
    whole = IPV4_BYTES + CARP_BYTES
    return [
        *load_bytes(ETHERNET_BYTES, STACK_IPV4, whole, "short_ipv4"),
        load(R0, R10, STACK_IPV4, BYTE),
        jump_if(R0, "!=", 0x45, "accepted"),
        *_accept_if_in_use(),
        label("ipv4_length"),
        load(R9, R10, STACK_IPV4 + 2, HALF),
        big_endian(R9, 16),
        load(R1, R6, SKB_LENGTH, WORD),
        subtract(R1, ETHERNET_BYTES),
        jump_if(R9, ">", R1, "bad_length"),
        jump_if(R9, "<", IPV4_BYTES, "bad_length"),
        load(R0, R10, STACK_IPV4 + 6, HALF),
        jump_if(R0, "&", socket.htons(FRAGMENT), "bad_length"),
        subtract(R9, IPV4_BYTES),
        jump_if(R9, "<", CARP_BYTES, "short"),
        load(R0, R10, STACK_IPV4 + 8, BYTE),
        jump_if(R0, "==", HOP_LIMIT, "ipv4_checksum"),
        # To a group or to all: a unicast may have been forwarded.
        load(R0, R10, STACK_IPV4 + 16, BYTE),
        shift_right(R0, 4),
        jump_if(R0, "==", 0xE, "bad_ttl"),
        load(R0, R10, STACK_IPV4 + 16, WORD),
        jump_if(R0, "==", -1, "bad_ttl", 32),
        label("ipv4_checksum"),
        *_sum(STACK_IPV4, IPV4_BYTES),
        jump_if(R0, "!=", 0, "bad_checksum"),
        jump("carp_read"),
        label("short_ipv4"),
        *load_bytes(ETHERNET_BYTES, STACK_IPV4, IPV4_BYTES, "accepted"),
        load(R0, R10, STACK_IPV4, BYTE),
        jump_if(R0, "!=", 0x45, "accepted"),
        *_beginning_of_short(IPV4_BYTES),
        jump("ipv4_length"),
    ]


def _of_ipv6() -> list[Line]:
    """The same for IPv6; behind an extension header an advertisement has a wrong length."""
    whole = IPV6_BYTES + CARP_BYTES
    return [
        label("in_ipv6"),
        load(R0, R10, _NEXT_HEADER, BYTE),
        jump_if(R0, "!=", PROTOCOL_CARP, "behind_extension"),
        *load_bytes(ETHERNET_BYTES, STACK_IPV6, whole, "short_ipv6"),
        *_require_version_6(),
        *_accept_if_in_use(),
        label("ipv6_length"),
        load(R9, R10, STACK_IPV6 + 4, HALF),
        big_endian(R9, 16),
        load(R1, R6, SKB_LENGTH, WORD),
        subtract(R1, ETHERNET_BYTES + IPV6_BYTES),
        jump_if(R9, ">", R1, "bad_length"),
        jump_if(R9, "<", CARP_BYTES, "short"),
        load(R0, R10, STACK_IPV6 + 7, BYTE),
        jump_if(R0, "==", HOP_LIMIT, "carp_read"),
        load(R0, R10, STACK_IPV6 + 24, BYTE),
        jump_if(R0, "==", 0xFF, "bad_ttl"),
        jump("carp_read"),
        label("short_ipv6"),
        *load_bytes(ETHERNET_BYTES, STACK_IPV6, IPV6_BYTES, "accepted"),
        *_require_version_6(),
        *_beginning_of_short(IPV6_BYTES),
        jump("ipv6_length"),
        label("behind_extension"),
        *load_bytes(ETHERNET_BYTES, STACK_IPV6, 1, "accepted"),
        *_require_version_6(),
        jump("bad_length"),
    ]


def _require_version_6() -> list[Line]:
    return [
        load(R0, R10, STACK_IPV6, BYTE),
        shift_right(R0, 4),
        jump_if(R0, "!=", 6, "accepted"),
    ]


def _beginning_of_short(header: int) -> list[Line]:
    """The first 4 bytes of a payload that ends before CARP would, as far as there are any."""
    return [
        store(R10, STACK_CARP, 0, WORD),
        move(R1, R6),
        move(R2, ETHERNET_BYTES + header),
        move(R3, R10),
        add(R3, STACK_CARP),
        move(R4, 4),
        call(Helper.SKB_LOAD_BYTES),
    ]


def _of_short() -> list[Line]:
    """A payload of R9 bytes is too short for CARP: a whole advertisement of VRRP, or nothing."""
    return [
        label("short"),
        jump_if(R9, "<", _VRRP3_BYTES, "bad_length"),
        load(R0, R10, STACK_CARP, BYTE),
        load(R1, R10, STACK_CARP + 3, BYTE),
        shift_left(R1, 2),
        jump_if(R0, "==", 0x21, "short_vrrp2"),
        jump_if(R0, "!=", 0x31, "bad_length"),
        subtract(R9, _VRRP3_BYTES),
        jump_if(R9, "==", R1, "vrrp"),
        shift_left(R1, 2),
        jump_if(R9, "==", R1, "vrrp"),
        jump("bad_length"),
        label("short_vrrp2"),
        add(R1, _VRRP2_BYTES),
        jump_if(R9, "==", R1, "vrrp"),
        *_verdict("bad_length"),
        *_verdict("bad_ttl"),
        *_verdict("bad_checksum"),
        *_verdict("vrrp"),
    ]


def _of_carp() -> list[Line]:
    """A payload of R9 bytes, of which CARP has the first: its checksum, version and type.

    One of VRRPv2 has the same beginning, and as many bytes as its addresses take.
    """
    return [
        label("carp_read"),
        load(R1, R10, STACK_CARP + 3, BYTE),
        shift_left(R1, 2),
        add(R1, _VRRP2_BYTES),
        subtract(R9, R1),  # 0: of VRRPv2
        *_sum(STACK_CARP, CARP_BYTES),
        load(R1, R10, STACK_CARP, BYTE),
        move(R2, R1),
        shift_right(R2, 4),
        jump_if(R2, "==", 3, "vrrp"),
        jump_if(R0, "==", 0, "right"),
        jump_if(R9, "==", 0, "vrrp"),
        jump("bad_checksum"),
        label("right"),
        jump_if(R2, "==", 2, "type"),
        *_verdict("bad_version"),
        label("type"),
        jump_if(R1, "==", 0x21, "vhid"),
        *_verdict("bad_type"),
        label("vhid"),
        jump_if(R9, "==", 0, "vrrp"),
        *_verdict("bad_vhid"),
    ]


def _sum(at: int, length: int) -> list[Line]:
    """R0 = 0 if the Internet checksum of the bytes on the stack is right (RFC 1071).

    The sum of their words is a multiple of 0xFFFF then; but that of zeros alone is wrong.
    """
    words = [
        each
        for place in range(at, at + length, 4)
        for each in (load(R1, R10, place, WORD), add(R0, R1))
    ]
    place = f"sum_{length}"
    return [
        move(R0, 0),
        *words,
        jump_if(R0, "!=", 0, place),
        move(R0, 1),
        label(place),
        modulo(R0, 0xFFFF),
    ]
