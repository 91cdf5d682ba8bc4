"""The ways to send the frames of a flood: a packet socket, or live frames of an XDP program.

Holds the kernel resources of each until `close`, and the reasons why one is not available. Must not
know what the frames are, nor how they are paced (_flood.pyx). Live frames: BPF_PROG_RUN with
BPF_F_TEST_XDP_LIVE_FRAMES, Documentation/bpf/bpf_prog_run.rst of Linux.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
from typing import Protocol

from carp_fast.bpf import assembly as bpf
from carp_fast.errors import CarpFastError
from carp_fast.net.drivers import CAN_TAKE_REDIRECTED, features_of
from carp_fast.net.kernel import PACKET_QDISC_BYPASS, SO_SNDBUFFORCE, SOL_PACKET

SLOTS = 1 << 16
"""Size of the ring of live frames."""
LONGEST_LIVE = 1518
"""Bytes of a frame; the kernel has a page for each, which also holds its own data."""
TEST_XDP_LIVE_FRAMES = 2
REPEAT_MAX = 1 << 31
BATCH_PACED, BATCH_UNPACED = 8, 64
"""Runs of the program after which redirected frames are sent. In a paced flood most runs are idle;
with fewer runs a frame is sent sooner after it was due."""
SLOT_HEAD, HEAD_AT, TAIL_AT, CONTROL_BYTES = 16, 0, 64, 128  # as in _flood.pyx
SEND_BUFFER_BYTES = 4 << 20

_CONTEXT, _SCRATCH, _CONTROL, _TAKEN, _SLOT, _STACK = 6, 2, 7, 8, 9, 10  # registers


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
    `slots`: a power of two. Raises BackendError.
    """

    name = "live"

    def __init__(self, interface: str, longest: int, *, paced: bool, slots: int = SLOTS) -> None:
        self.ifindex = _ifindex(interface)
        reason = live_missing(interface, longest)
        if reason:
            raise BackendError(f"live: {reason}")
        self.slot_count, self.slot_bytes = slots, SLOT_HEAD + -(-longest // 8) * 8
        self._control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self.control_fd = self._control.fileno()
        self._maps: list[bpf.SharedArray] = []
        self._program_fd = -1
        try:
            self._maps.append(bpf.SharedArray(1, CONTROL_BYTES))
            self._maps.append(bpf.SharedArray(slots, self.slot_bytes))
            control, ring = self._maps
            self.control, self.slots = control.memory, ring.memory
            program = live_program(control.fd, ring, self.ifindex, longest, paced=paced)
            self._program_fd = bpf.load_xdp(program)
        except bpf.BpfError as error:
            self.close()
            raise BackendError(f"live: {error}") from error
        except OSError as error:
            self.close()
            raise BackendError(f"live: {error.strerror}") from error
        self._frame = ctypes.create_string_buffer(longest)
        self.attributes = struct.pack(
            "=IIIIQQIIIIQQIII4x",
            self._program_fd, 0, longest, 0, ctypes.addressof(self._frame), 0, REPEAT_MAX, 0,
            0, 0, 0, 0, TEST_XDP_LIVE_FRAMES, 0, BATCH_PACED if paced else BATCH_UNPACED,
        )  # fmt: skip

    def close(self) -> None:
        """Closes program and maps; the kernel frees them with their last file descriptor."""
        if self._program_fd >= 0:
            os.close(self._program_fd)
        for each in self._maps:
            each.close()
        self._control.close()


def live_program(
    control_fd: int,
    ring: bpf.SharedArray,
    ifindex: int,
    longest: int,
    *,
    paced: bool,
    ordered: bool = platform.machine() not in ("x86_64", "i686"),
) -> list[bpf.Instruction]:
    """The program that redirects the next due frame of the ring, and drops its own without one.

    `ordered`: for a CPU that reorders loads or stores: a slot is read after the tail that covers
    it, and released after it was read.
    """
    return [
        bpf.move(_CONTEXT, 1),
        bpf.put_map(_CONTROL, control_fd, value=True),
        *_next_slot(ring, ordered),
        *(_when_due() if paced else ()),
        bpf.load(1, _CONTEXT, 0, 4),  # data, data_end of struct xdp_md
        bpf.load(_SCRATCH, _CONTEXT, 4, 4),
        bpf.move(3, 1),
        bpf.add(3, longest),
        bpf.jump_if(">", 3, _SCRATCH, "drop"),
        *_copy_frame(longest),
        bpf.load(_SLOT, _SLOT, 8, 8),
        *_release_slot(ordered),
        bpf.jump_if_zero(_SLOT, "send"),
        bpf.move(1, _CONTEXT),
        bpf.move(2, _SLOT),
        bpf.call(bpf.XDP_ADJUST_TAIL),
        "send:",
        bpf.put(1, ifindex),
        bpf.put(2, 0),
        bpf.call(bpf.REDIRECT),
        bpf.leave(),
        "drop:",
        bpf.put(0, bpf.XDP_DROP),
        bpf.leave(),
    ]


def _next_slot(ring: bpf.SharedArray, ordered: bool) -> list[bpf.Instruction]:
    """Finds the next slot of the ring, or drops."""
    head: list[bpf.Instruction] = [bpf.load(_TAKEN, _CONTROL, HEAD_AT, 8)]
    if ordered:
        head = [bpf.put(_TAKEN, 0), bpf.fetch_add(_CONTROL, HEAD_AT, _TAKEN)]
    return [
        bpf.load(_SCRATCH, _CONTROL, TAIL_AT, 8),
        *head,
        bpf.jump_if(">=", _TAKEN, _SCRATCH, "drop"),
        bpf.move(_SCRATCH, _TAKEN),
        bpf.mask(_SCRATCH, ring.entries - 1),
        bpf.store(_STACK, -4, _SCRATCH, 4),
        bpf.put_map(1, ring.fd),
        bpf.move(2, _STACK),
        bpf.add(2, -4),
        bpf.call(bpf.MAP_LOOKUP_ELEM),
        bpf.jump_if_zero(0, "drop"),
        bpf.move(_SLOT, 0),
    ]


def _when_due() -> list[bpf.Instruction]:
    """Drops unless the frame is due, and otherwise stores the time of sending in the slot."""
    return [
        bpf.call(bpf.KTIME_GET_NS),
        bpf.load(1, _SLOT, 0, 8),
        bpf.jump_if("<", 0, 1, "drop"),
        bpf.store(_SLOT, 0, 0, 8),
    ]


def _release_slot(ordered: bool) -> list[bpf.Instruction]:
    if ordered:
        return [bpf.put(_SCRATCH, 1), bpf.fetch_add(_CONTROL, HEAD_AT, _SCRATCH)]
    return [bpf.add(_TAKEN, 1), bpf.store(_CONTROL, HEAD_AT, _TAKEN, 8)]


def _copy_frame(length: int) -> list[bpf.Instruction]:
    """Copies `length` bytes from the slot to the address in register 1."""
    copy: list[bpf.Instruction] = []
    at = 0
    for size in (8, 4, 2, 1):
        while length - at >= size:
            copy += [bpf.load(2, _SLOT, SLOT_HEAD + at, size), bpf.store(1, at, 2, size)]
            at += size
    return copy


def live_missing(interface: str, longest: int) -> str | None:
    """The reason why live frames cannot be sent to an interface; None if none is known."""
    release = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])
    if release < (5, 18):
        return f"Linux {platform.release()} has no live frames; needs 5.18 or later"
    if platform.machine() not in bpf.SYSCALLS:
        return f"the bpf system call of {platform.machine()} is not known"
    if longest > LONGEST_LIVE:
        return f"a frame has {longest:,} bytes; allowed: {LONGEST_LIVE:,} (LONGEST_LIVE)"
    try:
        bpf.SharedArray(1, 8).close()
    except PermissionError:
        return "needs root, or the capabilities CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return "this kernel was built without the bpf system call"
        return f"the kernel refuses a map: {error.strerror}"
    features = features_of(socket.if_nametoindex(interface))
    if features is not None and not features & CAN_TAKE_REDIRECTED:
        return (
            f"{interface} takes no redirected frames: its driver does not support them, or the"
            " other end of a veth has neither GRO nor an XDP program"
        )
    return None


def _ifindex(interface: str) -> int:
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        raise BackendError(f"{interface}: no such interface") from None
