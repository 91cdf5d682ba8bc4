"""The ways to send the frames of a flood: a packet socket, or live frames of an XDP program.

Holds the kernel resources of each until `close`, and the reasons why one is not available. Must not
know what the frames are, nor how they are paced (_flood.pyx). Live frames: BPF_PROG_RUN with
BPF_F_TEST_XDP_LIVE_FRAMES, Documentation/bpf/bpf_prog_run.rst of Linux.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import platform
import socket
import struct
from typing import Protocol

from carp_fast.bpf.assembly import (
    DOUBLE,
    R0,
    R1,
    R2,
    R3,
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
    bit_and,
    call,
    copy,
    jump_if,
    label,
    leave,
    load,
    load_map,
    load_map_value,
    move,
    store,
)
from carp_fast.bpf.maps import Array
from carp_fast.bpf.programs import TEST_XDP_LIVE_FRAMES, BpfError, Kind, Loaded
from carp_fast.bpf.programs import load as load_program
from carp_fast.bpf.system import refusal
from carp_fast.errors import CarpFastError
from carp_fast.loadtest.held import Held
from carp_fast.net.drivers import CAN_TAKE_REDIRECTED, features_of
from carp_fast.net.kernel import PACKET_QDISC_BYPASS, SO_SNDBUFFORCE, SOL_PACKET

logger = logging.getLogger(__name__)

SLOTS = 1 << 16
"""Size of the ring of live frames."""
LONGEST_LIVE = 1518
"""Bytes of a frame; the kernel has a page for each, which also holds its own data."""
XDP_DROP = 1
LIVE_TRIAL_BYTES = 64
REPEAT_MAX = 1 << 31
BATCH_PACED, BATCH_UNPACED = 8, 64
"""Runs of the program after which redirected frames are sent. In a paced flood most runs are idle;
with fewer runs a frame is sent sooner after it was due."""
SLOT_HEAD, HEAD_AT, TAIL_AT, CONTROL_BYTES = 16, 0, 64, 128  # as in _flood.pyx
SEND_BUFFER_BYTES = 4 << 20
START_NS, START_HELD_NS = 50_000_000, 5_000_000
"""Delay of a paced flood's first frame, in which the kernel prepares the run of the program."""

_CONTEXT, _SCRATCH, _CONTROL, _TAKEN, _SLOT = R6, R2, R7, R8, R9


class BackendError(CarpFastError):
    """Raised when a backend cannot be used: one line, or the answer of the kernel's verifier."""


class Backend(Protocol):
    """The backend that _flood.Flood needs: a way to send, and a socket to check the link."""

    name: str
    ifindex: int
    control_fd: int

    def close(self) -> None: ...


class Sendmmsg:
    """A packet socket bound to an interface, available in every kernel. Raises BackendError."""

    name = "sendmmsg"

    def __init__(self, interface: str) -> None:
        self.ifindex = _ifindex(interface)
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        except PermissionError:
            raise BackendError("sendmmsg: needs root, or the capability CAP_NET_RAW") from None
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, SEND_BUFFER_BYTES)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        # Bypasses the interface's queueing discipline: we repeat a frame that finds no room.
        self._socket.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        self._socket.bind((interface, 0))
        self._control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self.fd, self.control_fd = self._socket.fileno(), self._control.fileno()

    def close(self) -> None:
        self._socket.close()
        self._control.close()


class Live:
    """A ring, the XDP program that sends its frames to an interface, and the arguments of a run.

    `longest`: bytes of the longest frame; `paced`: the program waits until each frame is due;
    `slots`: a power of two. Floods may use it one after the other; it is held (held.py) meanwhile.
    `start_ns`: until a paced flood can send its first frame. Raises BackendError.
    """

    name = "live"

    def __init__(self, interface: str, longest: int, *, paced: bool, slots: int = SLOTS) -> None:
        self.ifindex = _ifindex(interface)
        reason = live_missing(interface, longest)
        if reason:
            raise BackendError(f"live: {reason}")
        self.longest, self.paced = longest, paced
        self.slot_count, self.slot_bytes = slots, SLOT_HEAD + -(-longest // 8) * 8
        self._control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self.control_fd = self._control.fileno()
        self._maps: list[Array] = []
        self._program: Loaded | None = None
        self._held: Held | None = None
        self.start_ns = START_NS
        try:
            self._maps.append(Array(1, CONTROL_BYTES))
            self._maps.append(Array(slots, self.slot_bytes))
            control, ring = self._maps
            self.control, self.slots = control.memory, ring.memory
            program = live_program(control, ring, self.ifindex, longest, paced=paced)
            self._program = load_program(Kind.XDP, program)
        except BpfError as error:
            self.close()
            raise BackendError(f"live: {error}") from error
        except OSError as error:
            self.close()
            raise BackendError(f"live: {refusal(error)}") from error
        try:
            self._held = Held(self._program)
            self.start_ns = START_HELD_NS
        except OSError as error:
            logger.info("live frames begin and end some 12 ms later: %s", refusal(error))
        self._frame = ctypes.create_string_buffer(longest)
        self.attributes = struct.pack(
            "=IIIIQQIIIIQQIII4x",
            self._program.fd, 0, longest, 0, ctypes.addressof(self._frame), 0, REPEAT_MAX, 0,
            0, 0, 0, 0, TEST_XDP_LIVE_FRAMES, 0, BATCH_PACED if paced else BATCH_UNPACED,
        )  # fmt: skip

    def close(self) -> None:
        """Closes program and maps; the kernel frees them with their last file descriptor."""
        for opened in (self._held, self._program):
            if opened is not None:
                opened.close()
        for each in self._maps:
            each.close()
        self._control.close()


def live_program(
    control: Array,
    ring: Array,
    ifindex: int,
    longest: int,
    *,
    paced: bool,
    ordered: bool = platform.machine() not in ("x86_64", "i686"),
) -> list[Line]:
    """The program that redirects the next due frame of the ring, and drops its own without one.

    `ordered`: for a CPU that reorders loads or stores: a slot is read after the tail that covers
    it, and released after it was read.
    """
    return [
        move(_CONTEXT, R1),
        load_map_value(_CONTROL, control),
        *_next_slot(ring, ordered),
        *(_when_due() if paced else ()),
        load(R1, _CONTEXT, 0, WORD),  # data, data_end of struct xdp_md
        load(_SCRATCH, _CONTEXT, 4, WORD),
        move(R3, R1),
        add(R3, longest),
        jump_if(R3, ">", _SCRATCH, "drop"),
        *copy(R1, 0, _SLOT, SLOT_HEAD, longest, scratch=R2),
        load(_SLOT, _SLOT, 8, DOUBLE),
        *_release_slot(ordered),
        jump_if(_SLOT, "==", 0, "send"),
        move(R1, _CONTEXT),
        move(R2, _SLOT),
        call(Helper.XDP_ADJUST_TAIL),
        label("send"),
        move(R1, ifindex),
        move(R2, 0),
        call(Helper.REDIRECT),
        leave(),
        label("drop"),
        move(R0, XDP_DROP),
        leave(),
    ]


def _next_slot(ring: Array, ordered: bool) -> list[Line]:
    """Finds the next slot of the ring, or drops."""
    head: list[Line] = [load(_TAKEN, _CONTROL, HEAD_AT, DOUBLE)]
    if ordered:
        head = [move(_TAKEN, 0), atomic(_CONTROL, HEAD_AT, "+=", _TAKEN, fetch=True)]
    return [
        load(_SCRATCH, _CONTROL, TAIL_AT, DOUBLE),
        *head,
        jump_if(_TAKEN, ">=", _SCRATCH, "drop"),
        move(_SCRATCH, _TAKEN),
        bit_and(_SCRATCH, ring.entries - 1),
        store(R10, -4, _SCRATCH, WORD),
        load_map(R1, ring),
        move(R2, R10),
        add(R2, -4),
        call(Helper.MAP_LOOKUP_ELEM),
        jump_if(R0, "==", 0, "drop"),
        move(_SLOT, R0),
    ]


def _when_due() -> list[Line]:
    """Drops unless the frame is due, and otherwise stores the time of sending in the slot."""
    return [
        call(Helper.KTIME_GET_NS),
        load(R1, _SLOT, 0, DOUBLE),
        jump_if(R0, "<", R1, "drop"),
        store(_SLOT, 0, R0, DOUBLE),
    ]


def _release_slot(ordered: bool) -> list[Line]:
    if ordered:
        return [move(_SCRATCH, 1), atomic(_CONTROL, HEAD_AT, "+=", _SCRATCH, fetch=True)]
    return [add(_TAKEN, 1), store(_CONTROL, HEAD_AT, _TAKEN, DOUBLE)]


def live_missing(interface: str, longest: int) -> str | None:
    """The reason why live frames cannot be sent to an interface; None if none is known."""
    if longest > LONGEST_LIVE:
        return f"a frame has {longest:,} bytes; allowed: {LONGEST_LIVE:,} (LONGEST_LIVE)"
    reason = live_refused()
    if reason is not None:
        return reason
    features = features_of(socket.if_nametoindex(interface))
    if features is not None and not features & CAN_TAKE_REDIRECTED:
        return (
            f"{interface} takes no redirected frames: its driver does not support them, or the"
            " other end of a veth has neither GRO nor an XDP program"
        )
    return None


def live_refused() -> str | None:
    """The reason why this kernel sends no live frames to anyone; None if it does, by trying one."""
    try:
        with load_program(Kind.XDP, [move(R0, XDP_DROP), leave()]) as program:
            program.run(bytes(LIVE_TRIAL_BYTES), flags=TEST_XDP_LIVE_FRAMES)
    except BpfError as error:
        return str(error)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.E2BIG):
            return "this kernel has no live frames; Linux 5.18 and later have them"
        return refusal(error)
    return None


def _ifindex(interface: str) -> int:
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        raise BackendError(f"{interface}: no such interface") from None
