"""A program at the ingress of interfaces that takes advertisements before the network stack does.

It puts what is certainly an advertisement for a virtual host of ours into a ring (rings.py), and
ends its way there: the kernel spends no more time on it, and no packet socket costs other packets
anything. All else passes, unchanged: VRRP, frames of other virtual hosts, and whatever has IP
options, extension headers, fragments, a VLAN, another TTL or length. Raw sockets hear what of it is
of protocol 112. Sources that were genuine have the genuine ring.

On an interface that devices above it share, what is ours passes, too, for their sake. The program
writes a number into its hash, by which the filters of our raw sockets know that we have it already.

A link holds the program at an interface until its file descriptor is closed, by the end of the
process at the latest: nothing is left, however that ends. Linux 6.6 has it; that is found by
trying. Must not know the engine, or virtual hosts beyond what the pump tells (ring_filter.py).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import struct
from collections.abc import Iterable, Mapping

from carp_fast.bpf import programs
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
    Size,
    add,
    big_endian,
    bit_and,
    bit_xor,
    call,
    jump,
    jump_if,
    label,
    leave,
    load,
    load_map_value,
    move,
    multiply,
    shift_left,
    shift_right,
    store,
)
from carp_fast.bpf.maps import Array
from carp_fast.bpf.programs import Attach, Kind
from carp_fast.closing import Closing
from carp_fast.net.filters import PROTOCOL4_AT
from carp_fast.net.kernel import ETH_P_IP, ETH_P_IPV6, LOOPBACK, PROTOCOL_CARP
from carp_fast.net.lane_filters import SPREAD, VERSION_AND_TYPE, source_key
from carp_fast.net.ring_filter import (
    CARP_BYTES,
    ETHERNET_BYTES,
    FRAGMENT,
    GROUPS,
    HEARD_GROUPS4_AT,
    HEARD_GROUPS6_AT,
    HOP_LIMIT,
    IFINDEX_PLACES,
    IPV4_BYTES,
    IPV6_BYTES,
    SKB_DATA,
    SKB_DATA_END,
    SKB_LENGTH,
    SKB_PROTOCOL,
    SKB_TYPE,
    STACK_CARP,
    STACK_IPV4,
    STACK_IPV6,
    STACK_USED,
    has_vhid,
    interface_of,
    load_bytes,
    of_no_vlan,
)
from carp_fast.net.rings import FRAME_BYTES, RingError, Rings, keeping, may_reserve

NAME = "carp_fast_tcx"
TCX_NEXT, TCX_DROP = -1, 2  # the next program, or the stack; nobody
PACKET_MULTICAST = 2

RINGS = ("genuine", "common")
AUTHLEN = 7
_NEXT_HEADER_AT = ETHERNET_BYTES + 6

# Keys of genuine sources: buckets of so many, found by the upper bits of the key times SPREAD.
BUCKET, BUCKETS_SHIFT = 8, 20
BUCKETS = 1 << 32 - BUCKETS_SHIFT
SOURCES_BYTES = 4 * BUCKET * BUCKETS

OUTCOME = -STACK_USED - 16  # on the stack, with room for what keeping() uses


class TcxError(RingError):
    """Raised when no program can be put at the ingress of interfaces: the reason, in a line."""


def tcx_program(
    rings: Rings, sources: Array, shared: Array, most: Mapping[str, int], mark: int
) -> list[Line]:
    """The program: TCX_DROP for a frame that it put into the ring "genuine" or "common", or that
    found it full: `most` is how many it takes in, by lane. TCX_NEXT for it on an interface that is
    `shared`, a byte by ifindex modulo IFINDEX_PLACES; its hash is `mark` XOR ifindex then.
    """
    return [
        *_protocol_112(),
        *_ipv4(rings.known),
        *_ipv6(rings.known),
        *_ours(),
        *_outcome(shared, mark),
        *_lane(rings, sources, most),
    ]


def _protocol_112() -> list[Line]:
    """Continues with frames of protocol 112; all others pass after a few instructions."""
    return [
        move(R6, R1),
        load(R0, R6, SKB_PROTOCOL, WORD),
        load(R2, R6, SKB_DATA, WORD),
        load(R3, R6, SKB_DATA_END, WORD),
        move(R4, R2),
        add(R4, PROTOCOL4_AT + 1),
        jump_if(R0, "==", socket.htons(ETH_P_IP), "ipv4"),
        jump_if(R0, "==", socket.htons(ETH_P_IPV6), "ipv6"),
        label("drop"),
        label("next"),
        move(R0, TCX_NEXT),
        leave(),
        label("ipv4"),
        jump_if(R4, ">", R3, "apart"),
        load(R0, R2, PROTOCOL4_AT, BYTE),
        jump_if(R0, "==", PROTOCOL_CARP, "carp"),
        jump("next"),
        label("ipv6"),
        jump_if(R4, ">", R3, "apart"),
        load(R0, R2, _NEXT_HEADER_AT, BYTE),
        jump_if(R0, "!=", PROTOCOL_CARP, "next"),
        jump("carp"),
        # A driver left the headers in memory of their own: read as all that is ours is.
        label("apart"),
        label("carp"),
        load(R0, R6, SKB_TYPE, WORD),
        jump_if(R0, ">", PACKET_MULTICAST, "next"),  # to another host, or from this one
        load(R0, R6, SKB_LENGTH, WORD),
        jump_if(R0, ">", FRAME_BYTES, "next"),
        *of_no_vlan("next"),
        load(R0, R6, SKB_PROTOCOL, WORD),
        jump_if(R0, "==", socket.htons(ETH_P_IPV6), "whole_ipv6"),
    ]


def _ipv4(known: Array) -> list[Line]:
    """Continues at "ours" with the key of the source in R9, as far as the address makes it."""
    return [
        *load_bytes(ETHERNET_BYTES, STACK_IPV4, IPV4_BYTES + CARP_BYTES, "next"),
        load(R0, R10, STACK_IPV4, BYTE),
        jump_if(R0, "!=", 0x45, "next"),
        load(R0, R10, STACK_IPV4 + 2, HALF),
        jump_if(R0, "!=", socket.htons(IPV4_BYTES + CARP_BYTES), "next"),
        load(R0, R10, STACK_IPV4 + 6, HALF),
        jump_if(R0, "&", socket.htons(FRAGMENT), "next"),
        load(R0, R10, STACK_IPV4 + 8, BYTE),
        jump_if(R0, "!=", HOP_LIMIT, "next"),
        load(R0, R10, STACK_IPV4 + 9, BYTE),
        jump_if(R0, "!=", PROTOCOL_CARP, "next"),
        *interface_of(known, "next"),
        load(R0, R10, STACK_IPV4 + 16, WORD),
        jump_if(R0, "==", 0, "next"),  # as a group that is not in use
        *_among_groups(HEARD_GROUPS4_AT, WORD, "group4"),
        load(R9, R10, STACK_IPV4 + 12, WORD),
        jump("ours"),
    ]


def _ipv6(known: Array) -> list[Line]:
    return [
        label("whole_ipv6"),
        *load_bytes(ETHERNET_BYTES, STACK_IPV6, IPV6_BYTES + CARP_BYTES, "next"),
        load(R0, R10, STACK_IPV6, BYTE),
        shift_right(R0, 4),
        jump_if(R0, "!=", 6, "next"),
        load(R0, R10, STACK_IPV6 + 4, HALF),
        jump_if(R0, "!=", socket.htons(CARP_BYTES), "next"),
        load(R0, R10, STACK_IPV6 + 6, BYTE),
        jump_if(R0, "!=", PROTOCOL_CARP, "next"),
        load(R0, R10, STACK_IPV6 + 7, BYTE),
        jump_if(R0, "!=", HOP_LIMIT, "next"),
        *interface_of(known, "next"),
        load(R0, R10, STACK_IPV6 + 24, HALF),
        jump_if(R0, "!=", socket.htons(0xFF02), "next"),
        load(R0, R10, STACK_IPV6 + 26, HALF),
        jump_if(R0, "!=", 0, "next"),
        load(R0, R10, STACK_IPV6 + 28, WORD),
        jump_if(R0, "!=", 0, "next"),
        load(R0, R10, STACK_IPV6 + 32, DOUBLE),
        jump_if(R0, "==", 0, "next"),
        *_among_groups(HEARD_GROUPS6_AT, DOUBLE, "group6"),
        load(R9, R10, STACK_IPV6 + 8, WORD),
        *(
            each
            for at in (12, 16, 20)
            for each in (load(R0, R10, STACK_IPV6 + at, WORD), bit_xor(R9, R0))
        ),
    ]


def _among_groups(at: int, size: Size, found: str) -> list[Line]:
    """Continues if R0 is one of the interface's groups."""
    return [
        *(
            each
            for number in range(GROUPS)
            for each in (load(R1, R8, at + size * number, size), jump_if(R0, "==", R1, found))
        ),
        jump("next"),
        label(found),
    ]


def _ours() -> list[Line]:
    """Continues with advertisements of CARP for a vhid in use, by all but their digest.

    One of VRRP begins with the same byte, but with 36 bytes its fourth is 5.
    """
    return [
        label("ours"),
        load(R0, R10, STACK_CARP, BYTE),
        jump_if(R0, "!=", VERSION_AND_TYPE, "next"),
        load(R0, R10, STACK_CARP + 3, BYTE),
        jump_if(R0, "!=", AUTHLEN, "next"),
        *has_vhid(),
        jump_if(R2, "==", 0, "next"),
    ]


def _outcome(shared: Array, mark: int) -> list[Line]:
    """Keeps what the program will return for this frame."""
    return [
        store(R10, OUTCOME, TCX_DROP, DOUBLE),
        move(R0, R7),
        bit_and(R0, IFINDEX_PLACES - 1),
        load_map_value(R1, shared),
        add(R1, R0),
        load(R0, R1, 0, BYTE),
        jump_if(R0, "==", 0, "alone"),
        store(R10, OUTCOME, TCX_NEXT, DOUBLE),
        move(R1, R6),
        move(R2, R7),
        bit_xor(R2, mark, 32),
        call(Helper.SET_HASH),
        label("alone"),
    ]


def _lane(rings: Rings, sources: Array, most: Mapping[str, int]) -> list[Line]:
    """Puts the frame into the ring for its source, of which R9 has the folded address."""
    return [
        big_endian(R9, 32),
        move(R0, R7),
        multiply(R0, SPREAD, 32),
        bit_xor(R9, R0, 32),
        jump_if(R9, "==", 0, "unknown"),  # free places have this key
        move(R0, R9),
        multiply(R0, SPREAD, 32),
        shift_right(R0, BUCKETS_SHIFT, 32),
        shift_left(R0, (4 * BUCKET).bit_length() - 1),
        load_map_value(R1, sources),
        add(R1, R0),
        *(
            each
            for place in range(BUCKET)
            for each in (load(R0, R1, 4 * place, WORD), jump_if(R0, "==", R9, "known"))
        ),
        label("unknown"),
        *_into(rings, "common", most),
        label("known"),
        *_into(rings, "genuine", most),
    ]


def _into(rings: Rings, lane: str, most: Mapping[str, int]) -> list[Line]:
    control, slots, _ = rings.maps(lane)
    waker = rings.wakers[lane]
    leaving = (load(R0, R10, OUTCOME, DOUBLE), leave())
    return keeping(control, slots, most[lane], waker, leaving=leaving, prefix=f"{lane}_")


class Tcx(Closing):
    """The program at the ingress of the interfaces that attach() names.

    `rings`: with wakers, of the lanes "genuine" and "common". `mark`: see tcx_program(), another in
    each process. Raises TcxError where the kernel takes no such program.
    """

    def __init__(self, rings: Rings) -> None:
        self._links: dict[int, int] = {}  # file descriptors, by ifindex
        self._filled: set[int] = set()  # buckets of sources
        self._shared_places: set[int] = set()
        self.mark = secrets.randbits(32)
        with contextlib.ExitStack() as opened, programs.refused_as(TcxError):
            self.sources = opened.enter_context(Array(1, SOURCES_BYTES, NAME))
            self.shared = opened.enter_context(Array(1, IFINDEX_PLACES, NAME))
            most = {lane: may_reserve(rings.maps(lane)[1].entries) for lane in RINGS}
            program = tcx_program(rings, self.sources, self.shared, most, self.mark)
            self.program = opened.enter_context(programs.load(Kind.SCHED_CLS, program, NAME))
            os.close(self.program.attach(LOOPBACK, Attach.TCX_INGRESS))
            self._opened = opened.pop_all()

    @property
    def ifindexes(self) -> set[int]:
        """The interfaces whose advertisements it takes."""
        return set(self._links)

    def attach(self, ifindex: int) -> None:
        """Takes the advertisements of an interface. Raises TcxError."""
        if ifindex not in self._links:
            with programs.refused_as(TcxError):
                self._links[ifindex] = self.program.attach(ifindex, Attach.TCX_INGRESS)

    def detach(self, ifindex: int) -> None:
        """Lets the advertisements of an interface pass; it may not exist any more."""
        if (fd := self._links.pop(ifindex, None)) is not None:
            os.close(fd)

    def share(self, ifindexes: Iterable[int]) -> None:
        """Lets the advertisements of these interfaces pass, too, and those of no others."""
        places = {ifindex % IFINDEX_PLACES for ifindex in ifindexes}
        for place in self._shared_places | places:
            self.shared.memory[place] = place in places
        self._shared_places = places

    def know(self, sources: Iterable[tuple[int, bytes]]) -> bool:
        """Sets which sources have the ring "genuine": (ifindex, 4 or 16 bytes) each.

        Returns whether there was room for all. A source that stays keeps its place meanwhile.
        """
        buckets: dict[int, set[int]] = {}
        for ifindex, source in sources:
            if key := source_key(ifindex, source):
                buckets.setdefault((key * SPREAD & 0xFFFFFFFF) >> BUCKETS_SHIFT, set()).add(key)
        size = 4 * BUCKET
        for number in self._filled | buckets.keys():
            keys = sorted(buckets.get(number, ()))[:BUCKET]
            at = number * size
            before = struct.unpack_from(f"={BUCKET}I", self.sources.memory, at)
            if set(before) - {0} != set(keys):
                places = [key if key in keys else 0 for key in before]
                for key in keys:
                    if key not in places:
                        places[places.index(0)] = key
                struct.pack_into(f"={BUCKET}I", self.sources.memory, at, *places)
        self._filled = set(buckets)
        return all(len(keys) <= BUCKET for keys in buckets.values())

    def close(self) -> None:
        for ifindex in list(self._links):
            self.detach(ifindex)
        self._opened.close()
