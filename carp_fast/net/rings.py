"""Rings of received frames: programs that copy frames into memory which the pump reads.

The filter of a packet socket copies each frame that it accepts into a ring, with its interface and
its time of arrival (CLOCK_MONOTONIC), and queues nothing: the pump needs no system call for a
frame, and the kernel no socket buffer. It accepts what packet_filter() does, but for frames that no
virtual host accepts, which it counts (ring_filter.py): both receive paths hear and count the same.
After the start only mapped memory is written to. Must not know the engine, or what a frame means.

Any number of CPUs write. A frame reserves its slot by adding 1 to `head`, and publishes it by
writing the slot's sequence last, which is `head` as it was, plus 1. The time is taken between the
two: a frame that a reader does not find reserved arrives after that. The newest frames are dropped,
and counted in `full`, if the reader's `tail` is too far behind.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Sequence

from carp_fast.bpf import programs
from carp_fast.bpf.assembly import (
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
    store,
    subtract,
)
from carp_fast.bpf.maps import Array, Waker
from carp_fast.bpf.programs import Kind
from carp_fast.bpf.system import refusal
from carp_fast.closing import Closing
from carp_fast.engine._lanes import LANE_WORDS
from carp_fast.engine._wheel import power_of_two
from carp_fast.errors import CarpFastError
from carp_fast.net.ring_filter import (
    FILTER_BYTES,
    SKB_LENGTH,
    STACK_USED,
    accepting,
    refusing,
)

NAME = "carp_fast_ring"

# As in pump/_ring.pxd. The control: each number in a cache line of its own.
CONTROL_BYTES, HEAD_AT, TAIL_AT, FULL_AT, WATCHING_AT = 256, 0, 64, 128, 192
SLOT_BYTES, SEQUENCE_AT, IFINDEX_AT, ARRIVED_AT, LENGTH_AT, FRAME_AT = 128, 0, 4, 8, 16, 18
FRAME_BYTES = SLOT_BYTES - FRAME_AT
"""What is kept of a frame: all headers with the longest IPv4 options, and the advertisement."""

# Several CPUs may find the last free slot at the same time.
FREE_MIN = 64

# Room by rate for twice the longest pause of the pump that changes nothing else: for known sources
# an interval (of a second), after which silence proves nothing in any case; for others, which are
# all sources after the start, a turn, which is a quarter of it. At least what a flood brings while
# the pump is delayed.
SECONDS = {"genuine": 2.0, "common": 0.5, "stray": 0.0}
SLOTS_MIN = {"genuine": 1 << 12, "common": 1 << 14, "stray": 1 << 10}
SLOTS_MAX = 1 << 18
MEMORY_SHARE = 16

# The stack: the key of a map.
_KEY = -STACK_USED - 8
_FORCE_WAKEUP = 2  # BPF_RB_FORCE_WAKEUP
LEAVING: tuple[Line, ...] = (move(R0, 0), leave())


Memory = tuple[int, ...]
"""The addresses of a ring's control and of its slots, the number of slots, and the address of what
all filters share; then those of the positions of its waker, if it has one.
"""


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
    """The memory of the rings of all lanes, and of what their filters share."""
    return FILTER_BYTES + sum(slots_by_lane(advertisements_per_s).values()) * SLOT_BYTES


def may_reserve(slots: int) -> int:
    """How many frames a ring takes in before it is full: half of its slots at least."""
    return slots - min(max(FREE_MIN, os.sysconf("SC_NPROCESSORS_CONF")), slots // 2)


def ring_program(
    control: Array, slots: Array, known: Array, most: int, waker: Waker | None = None
) -> list[Line]:
    """The filter of a packet socket: 0 for each frame, but 1, which is queued, for one that comes
    while the reader watches. `known`: what all filters share (ring_filter.py); `most`: the frames
    that the ring takes in before it is full; with a waker nothing is ever queued.
    """
    accepted = [*accepting(), *refusing(known)]
    return [*accepted, *keeping(control, slots, most, waker)]


def keeping(
    control: Array,
    slots: Array,
    most: int,
    waker: Waker | None = None,
    *,
    leaving: Sequence[Line] = LEAVING,
    prefix: str = "",
) -> list[Line]:
    """The end of a program: puts a frame into a ring. R6 = the context, R7 = the interface.

    8 bytes of the stack below STACK_USED are lost. It ends with `leaving`; without a waker it
    returns 1 to wake the reader. `prefix`: of its labels, of which "drop" must exist.
    """
    return [
        *_reservation(control, slots, most, leaving, prefix),
        *_copy(prefix),
        *(_waking(prefix) if waker is None else _waking_by(waker, leaving, prefix)),
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


def _reservation(
    control: Array, slots: Array, most: int, leaving: Sequence[Line], prefix: str
) -> list[Line]:
    """R7 = the control, R8 = the number of a slot that is this frame's alone, R9 = the slot.

    R7 was the interface, which the slot gets.
    """
    return [
        move(R9, R7),
        load_map_value(R7, control),
        load(R8, R7, HEAD_AT, DOUBLE),
        load(R0, R7, TAIL_AT, DOUBLE),
        subtract(R8, R0),
        jump_if(R8, "<", most, f"{prefix}free"),
        move(R1, 1),
        atomic(R7, FULL_AT, "+=", R1),
        *leaving,
        label(f"{prefix}free"),
        move(R8, 1),
        atomic(R7, HEAD_AT, "+=", R8, fetch=True),
        move(R2, R8),
        bit_and(R2, slots.entries - 1),
        *_lookup(slots, R2),
        store(R0, IFINDEX_AT, R9, WORD),
        move(R9, R0),
    ]


def _copy(prefix: str) -> list[Line]:
    """Fills the slot and publishes it."""
    return [
        call(Helper.KTIME_GET_NS),
        store(R9, ARRIVED_AT, R0, DOUBLE),
        load(R4, R6, SKB_LENGTH, WORD),
        jump_if(R4, "<=", 0xFFFF, f"{prefix}length"),
        move(R4, 0xFFFF),
        label(f"{prefix}length"),
        store(R9, LENGTH_AT, R4, HALF),
        jump_if(R4, "<=", FRAME_BYTES, f"{prefix}kept"),
        move(R4, FRAME_BYTES),
        label(f"{prefix}kept"),
        jump_if(R4, "==", 0, f"{prefix}unread"),
        move(R1, R6),
        move(R2, 0),
        move(R3, R9),
        add(R3, FRAME_AT),
        call(Helper.SKB_LOAD_BYTES),
        jump_if(R0, "==", 0, f"{prefix}publish"),
        label(f"{prefix}unread"),
        store(R9, LENGTH_AT, 0, HALF),  # memory that the CPU cannot read: as good as dropped
        label(f"{prefix}publish"),
        add(R8, 1),
        exchange(R9, SEQUENCE_AT, R8, WORD),
    ]


def _watching(prefix: str) -> list[Line]:
    """R0 = 1 if the reader watches, and ends that, so that one frame wakes it; else it leaves."""
    return [
        load(R0, R7, WATCHING_AT, WORD),
        jump_if(R0, "==", 0, f"{prefix}leave"),
        move(R0, 0),
        exchange(R7, WATCHING_AT, R0, WORD),
    ]


def _waking(prefix: str) -> list[Line]:
    """Returns 1 if the reader watches."""
    return [
        *_watching(prefix),
        label(f"{prefix}leave"),
        leave(),
    ]


def _waking_by(waker: Waker, leaving: Sequence[Line], prefix: str) -> list[Line]:
    """Wakes the reader if it watches."""
    return [
        *_watching(prefix),
        jump_if(R0, "==", 0, f"{prefix}leave"),
        store(R10, _KEY, R0, DOUBLE),
        load_map(R1, waker),
        move(R2, R10),
        add(R2, _KEY),
        move(R3, 8),
        move(R4, _FORCE_WAKEUP),
        call(Helper.RINGBUF_OUTPUT),
        label(f"{prefix}leave"),
        *leaving,
    ]


class Rings(Closing):
    """A ring for each lane, whose frames the filters of its packet sockets write.

    They accept nothing before the pump knows an interface. `slots`: by lane; `wakers`: each ring
    has a map that wakes its reader, in place of the socket. Raises RingError.
    """

    def __init__(self, slots: dict[str, int], *, wakers: bool = False) -> None:
        self._resources = contextlib.ExitStack()
        self._programs: dict[str, programs.Loaded] = {}
        self._maps: dict[str, tuple[Array, Array, Array]] = {}
        self.wakers: dict[str, Waker] = {}
        with contextlib.ExitStack() as opened, programs.refused_as(RingError):
            self.known = opened.enter_context(Array(1, FILTER_BYTES, NAME))
            for lane, count in slots.items():
                control = opened.enter_context(Array(1, CONTROL_BYTES, NAME))
                ring = opened.enter_context(Array(count, SLOT_BYTES, NAME))
                if wakers:
                    self.wakers[lane] = opened.enter_context(Waker(NAME))
                program = ring_program(
                    control, ring, self.known, may_reserve(count), self.wakers.get(lane)
                )
                loaded = programs.load(Kind.SOCKET_FILTER, program, NAME)
                self._programs[lane] = opened.enter_context(loaded)
                self._maps[lane] = control, ring, self.known
            self._resources = opened.pop_all()

    def maps(self, lane: str) -> tuple[Array, Array, Array]:
        """A ring's control and its slots, and what all filters share."""
        return self._maps[lane]

    def loaded(self, lane: str) -> programs.Loaded:
        """The program of a ring."""
        return self._programs[lane]

    def memory(self, lane: str) -> Memory:
        """What the pump needs of a ring."""
        control, slots, known = self._maps[lane]
        memory = control.address, slots.address, slots.entries, known.address
        waker = self.wakers.get(lane)
        return memory if waker is None else (*memory, *waker.positions)

    def attach(self, lane: str, sock: socket.socket) -> None:
        """Lets a packet socket write its frames into the ring of a lane. Raises RingError."""
        try:
            self._programs[lane].attach_to_socket(sock)
        except OSError as error:
            raise RingError(f"the filter of a socket: {refusal(error)}") from error

    def close(self) -> None:
        """Frees the rings; the pump must have stopped, and the sockets be closed."""
        self._resources.close()
