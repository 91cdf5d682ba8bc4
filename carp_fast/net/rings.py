"""Rings of received frames: programs that copy frames into memory which the pump reads.

The filter of a packet socket copies each frame that it accepts into a ring, with its interface and
its time of arrival (CLOCK_MONOTONIC), and queues nothing: the pump needs no system call for a
frame, and the kernel no socket buffer. It accepts what packet_filter() does, so both receive paths
hear the same. After the start only mapped memory is written to. Must not know the engine, virtual
hosts, or what a frame means beyond protocol 112.

Any number of CPUs write. A frame reserves its slot by adding 1 to `head`, and publishes it by
writing the slot's sequence last, which is `head` as it was, plus 1. The time is taken between the
two: a frame that a reader does not find reserved arrives after that. The newest frames are dropped,
and counted in `full`, if the reader's `tail` is too far behind.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct

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
    Register,
    add,
    atomic,
    bit_and,
    call,
    exchange,
    jump_if,
    label,
    leave,
    load,
    load_map,
    load_map_value,
    move,
    shift_right,
    store,
    subtract,
)
from carp_fast.bpf.maps import Array
from carp_fast.bpf.programs import Kind
from carp_fast.bpf.system import refusal
from carp_fast.closing import Closing
from carp_fast.engine._lanes import LANE_WORDS
from carp_fast.engine._wheel import power_of_two
from carp_fast.errors import CarpFastError
from carp_fast.net.filters import ETHERTYPE_AT, EXTENSION_HEADERS, IPV6_AT, PROTOCOL4_AT, VLAN_ID
from carp_fast.net.kernel import ETH_P_IP, ETH_P_IPV6, PACKET_OUTGOING, PROTOCOL_CARP

NAME = "carp_fast_ring"

# As in pump/_ring.pxd. The control: each number in a cache line of its own.
CONTROL_BYTES, HEAD_AT, TAIL_AT, FULL_AT, WATCHING_AT = 256, 0, 64, 128, 192
SLOT_BYTES, SEQUENCE_AT, IFINDEX_AT, ARRIVED_AT, LENGTH_AT, FRAME_AT = 128, 0, 4, 8, 16, 18
FRAME_BYTES = SLOT_BYTES - FRAME_AT
"""What is kept of a frame: all headers with the longest IPv4 options, and the advertisement."""

# Several CPUs may find the last free slot at the same time.
FREE_MIN = 64

# Interfaces are bits, by ifindex modulo their number: the pump ignores those of another one.
INTERFACE_BITS, INTERFACES_A_WORD = 1 << 16, 64

# Room by rate for twice the longest pause of the pump that changes nothing else: for known sources
# an interval (of a second), after which silence proves nothing in any case; for others, which are
# all sources after the start, a turn, which is a quarter of it. At least what a flood brings while
# the pump is delayed.
SECONDS = {"genuine": 2.0, "common": 0.5, "stray": 0.0}
SLOTS_MIN = {"genuine": 1 << 12, "common": 1 << 14, "stray": 1 << 10}
SLOTS_MAX = 1 << 18
MEMORY_SHARE = 16

# struct __sk_buff
_SKB_LENGTH, _SKB_TYPE, _SKB_VLAN, _SKB_TAG, _SKB_IFINDEX = 0, 4, 20, 24, 40
# The stack: 12 bytes from the EtherType on; the key of a map.
_HEADER, _KEY = -16, -24
_HEADER_BYTES = PROTOCOL4_AT + 1 - ETHERTYPE_AT
_NEXT_HEADER = _HEADER + IPV6_AT + 6 - ETHERTYPE_AT
_EXTENSION_NEXT_AT = IPV6_AT + 40


class RingError(CarpFastError):
    """Raised when frames cannot be received through rings: the reason, in a line."""


def ring_slots(lane: str, advertisements_per_s: float) -> int:
    """How many frames the ring of a lane holds, a power of two, at most SLOTS_MAX.

    At most 1/MEMORY_SHARE of all memory is used.
    """
    wanted = max(int(SECONDS[lane] * advertisements_per_s), SLOTS_MIN[lane])
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    most = power_of_two(memory // MEMORY_SHARE // SLOT_BYTES + 1) // 2
    return min(int(power_of_two(wanted)), SLOTS_MAX, most)


def slots_by_lane(advertisements_per_s: float) -> dict[str, int]:
    """How many frames each ring holds, by lane."""
    return {lane: ring_slots(lane, advertisements_per_s) for lane in LANE_WORDS}


def ring_bytes(advertisements_per_s: float) -> int:
    """The memory of the rings of all lanes."""
    return sum(slots_by_lane(advertisements_per_s).values()) * SLOT_BYTES


def may_reserve(slots: int) -> int:
    """How many frames a ring takes in before it is full: half of its slots at least."""
    return slots - min(max(FREE_MIN, os.sysconf("SC_NPROCESSORS_CONF")), slots // 2)


def ring_program(control: Array, slots: Array, interfaces: Array, most: int) -> list[Line]:
    """The filter of a packet socket: 0 for each frame, but 1, which is queued, for one that comes
    while the reader watches. `most`: the frames that the ring takes in before it is full.
    """
    return [*_acceptance(interfaces), *_reservation(control, slots, most), *_copy(), *_waking()]


def _acceptance(interfaces: Array) -> list[Line]:
    """Continues with frames of protocol 112 that arrive, without a VLAN, on our interfaces."""
    return [
        move(R6, R1),
        load(R0, R6, _SKB_TYPE, WORD),
        jump_if(R0, "==", PACKET_OUTGOING, "drop"),
        load(R0, R6, _SKB_VLAN, WORD),
        jump_if(R0, "==", 0, "untagged"),
        load(R0, R6, _SKB_TAG, WORD),
        bit_and(R0, VLAN_ID),  # VLAN 0 is only a priority
        jump_if(R0, "!=", 0, "drop"),
        label("untagged"),
        *_load_bytes(ETHERTYPE_AT, _HEADER_BYTES),
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
        *_load_bytes(_EXTENSION_NEXT_AT, 1),
        load(R0, R10, _HEADER, BYTE),
        jump_if(R0, "!=", PROTOCOL_CARP, "drop"),
        label("carp"),
        load(R7, R6, _SKB_IFINDEX, WORD),
        move(R2, R7),
        bit_and(R2, INTERFACE_BITS - 1),
        shift_right(R2, INTERFACES_A_WORD.bit_length() - 1),
        *_lookup(interfaces, R2),
        load(R0, R0, 0, DOUBLE),
        move(R2, R7),
        bit_and(R2, INTERFACES_A_WORD - 1),
        shift_right(R0, R2),
        bit_and(R0, 1),
        jump_if(R0, "==", 0, "drop"),
    ]


def _load_bytes(at: int, length: int) -> list[Line]:
    """Copies bytes of the frame to the stack, from its Ethernet header on."""
    return [
        move(R1, R6),
        move(R2, at),
        move(R3, R10),
        add(R3, _HEADER),
        move(R4, length),
        call(Helper.SKB_LOAD_BYTES),
        jump_if(R0, "!=", 0, "drop"),
    ]


def _lookup(of: Array, index: Register) -> list[Line]:
    """R0 = the address of a value of a map, whose index is in a register."""
    return [
        store(R10, _KEY, index, WORD),
        move(R2, R10),
        add(R2, _KEY),
        load_map(R1, of),
        call(Helper.MAP_LOOKUP_ELEM),
        jump_if(R0, "==", 0, "drop"),
    ]


def _reservation(control: Array, slots: Array, most: int) -> list[Line]:
    """R7 = the control, R8 = the number of a slot that is this frame's alone, R9 = the slot.

    R7 was the interface, which the slot gets.
    """
    return [
        move(R9, R7),
        load_map_value(R7, control),
        load(R8, R7, HEAD_AT, DOUBLE),
        load(R0, R7, TAIL_AT, DOUBLE),
        subtract(R8, R0),
        jump_if(R8, "<", most, "free"),
        move(R1, 1),
        atomic(R7, FULL_AT, "+=", R1),
        move(R0, 0),
        leave(),
        label("free"),
        move(R8, 1),
        atomic(R7, HEAD_AT, "+=", R8, fetch=True),
        move(R2, R8),
        bit_and(R2, slots.entries - 1),
        *_lookup(slots, R2),
        store(R0, IFINDEX_AT, R9, WORD),
        move(R9, R0),
    ]


def _copy() -> list[Line]:
    """Fills the slot and publishes it."""
    return [
        call(Helper.KTIME_GET_NS),
        store(R9, ARRIVED_AT, R0, DOUBLE),
        load(R4, R6, _SKB_LENGTH, WORD),
        jump_if(R4, "<=", 0xFFFF, "length"),
        move(R4, 0xFFFF),
        label("length"),
        store(R9, LENGTH_AT, R4, HALF),
        jump_if(R4, "<=", FRAME_BYTES, "kept"),
        move(R4, FRAME_BYTES),
        label("kept"),
        jump_if(R4, "==", 0, "unread"),
        move(R1, R6),
        move(R2, 0),
        move(R3, R9),
        add(R3, FRAME_AT),
        call(Helper.SKB_LOAD_BYTES),
        jump_if(R0, "==", 0, "publish"),
        label("unread"),
        store(R9, LENGTH_AT, 0, HALF),  # memory that the CPU cannot read: as good as dropped
        label("publish"),
        add(R8, 1),
        exchange(R9, SEQUENCE_AT, R8, WORD),
    ]


def _waking() -> list[Line]:
    """Returns 1 if the reader watches, and ends that: one frame wakes it."""
    return [
        load(R0, R7, WATCHING_AT, WORD),
        jump_if(R0, "==", 0, "leave"),
        move(R0, 0),
        exchange(R7, WATCHING_AT, R0, WORD),
        label("leave"),
        leave(),
    ]


class Rings(Closing):
    """A ring for each lane, whose frames the filters of its packet sockets write.

    They accept nothing before use(). `slots`: by lane. Raises RingError.
    """

    def __init__(self, slots: dict[str, int]) -> None:
        self._resources = contextlib.ExitStack()
        self._programs: dict[str, programs.Loaded] = {}
        self._maps: dict[str, tuple[Array, Array, Array]] = {}
        with contextlib.ExitStack() as opened, programs.refused_as(RingError):
            words = INTERFACE_BITS // INTERFACES_A_WORD
            self._interfaces = opened.enter_context(Array(words, 8, NAME))
            for lane, count in slots.items():
                control = opened.enter_context(Array(1, CONTROL_BYTES, NAME))
                ring = opened.enter_context(Array(count, SLOT_BYTES, NAME))
                program = ring_program(control, ring, self._interfaces, may_reserve(count))
                loaded = programs.load(Kind.SOCKET_FILTER, program, NAME)
                self._programs[lane] = opened.enter_context(loaded)
                self._maps[lane] = control, ring, self._interfaces
            self._resources = opened.pop_all()

    def maps(self, lane: str) -> tuple[Array, Array, Array]:
        """A ring's control and its slots, and the interfaces whose frames it accepts."""
        return self._maps[lane]

    def memory(self, lane: str) -> tuple[int, int, int]:
        """The addresses of a ring's control and of its slots, and their number, for the pump."""
        control, slots, _ = self._maps[lane]
        return control.address, slots.address, slots.entries

    def attach(self, lane: str, sock: socket.socket) -> None:
        """Lets a packet socket write its frames into the ring of a lane. Raises RingError."""
        try:
            self._programs[lane].attach_to_socket(sock)
        except OSError as error:
            raise RingError(f"the filter of a socket: {refusal(error)}") from error

    def use(self, ifindexes: list[int]) -> None:
        """Accepts frames on these interfaces only."""
        words = [0] * self._interfaces.entries
        for ifindex in ifindexes:
            word, bit = divmod(ifindex % INTERFACE_BITS, INTERFACES_A_WORD)
            words[word] |= 1 << bit
        bits = struct.pack(f"={len(words)}Q", *words)
        self._interfaces.memory[: len(bits)] = bits

    def close(self) -> None:
        """Frees the rings; the pump must have stopped, and the sockets be closed."""
        self._resources.close()
