"""Sending by clones: the program and the memory through which the pump sends 64 frames in one call.

The pump puts frames and interfaces into the memory of a map and runs the program (BPF_PROG_RUN). It
writes each frame into its packet and redirects a clone of that to the frame's interface, through
its queueing discipline, past every tap, as any other packet. Nothing is attached, so nothing is
left when the process ends. Must not know what the frames are.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path

from carp_fast.bpf import programs
from carp_fast.bpf.assembly import (
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    WORD,
    Helper,
    Line,
    add,
    call,
    jump,
    jump_if,
    label,
    leave,
    load,
    load_map_value,
    move,
    store,
)
from carp_fast.bpf.maps import Array
from carp_fast.bpf.programs import Kind, Loaded
from carp_fast.closing import Closing
from carp_fast.errors import CarpFastError

NAME = "carp_fast_send"
# As in pump/_clones.pxd: the number of frames, then slots of interface, result and frame. More
# frames in a run would overflow the queue of a veth, which is not emptied meanwhile.
FRAMES_A_RUN, FRAMES_AT = 64, 64
SLOT_BYTES, INTERFACE_AT, RESULT_AT, FRAME_AT = 128, 0, 4, 16
SHORTEST, LONGEST = 14, SLOT_BYTES - FRAME_AT
LENGTH_AT = 0  # struct __sk_buff
INTERFACES, DIRECTORY = Path("/sys/class/net"), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432  # the same on every architecture
_FSOPEN_CLOEXEC, _FSCONFIG_CMD_CREATE, _FSMOUNT_CLOEXEC = 1, 6, 1
_READ_ONLY_NOSUID_NODEV_NOEXEC = 0xF
_libc = ctypes.CDLL(None, use_errno=True)


class ClonesError(CarpFastError):
    """Raised when clones cannot be sent: the reason, with the verifier's last words, in a line."""


class Clones(Closing):
    """The loaded program, its memory, and the directory of the interfaces' counters.

    `interfaces_fd`: that directory, opened before; negative: it is opened here. Raises ClonesError.
    """

    def __init__(self, interfaces_fd: int = -1) -> None:
        self._resources = contextlib.ExitStack()
        with contextlib.ExitStack() as opened, programs.refused_as(ClonesError):
            # A few bytes more: without CAP_PERFMON the address behind the last slot, which is
            # not used, must be within the value, too.
            size = FRAMES_AT + FRAMES_A_RUN * SLOT_BYTES + 8
            frames = opened.enter_context(Array(1, size, NAME))
            program = opened.enter_context(
                programs.load(Kind.SCHED_CLS, clones_program(frames), NAME)
            )
            _try(program)
            given = interfaces_fd >= 0
            self.directory_fd = os.dup(interfaces_fd) if given else interfaces_directory()
            opened.callback(os.close, self.directory_fd)
            self.program_fd, self.address = program.fd, frames.address
            self._resources = opened.pop_all()

    def close(self) -> None:
        """Closes all of it; the pump must have stopped."""
        self._resources.close()


def _try(program: Loaded) -> None:
    """Runs it without a frame: another policy than that for loading may forbid it. Raises
    OSError.
    """
    program.run(bytes(SHORTEST))


def clones_program(frames: Array) -> list[Line]:
    """The program; it returns how many frames it has seen to. Every frame has the packet's length.

    A frame's result is 0, a positive NET_XMIT_* of its interface's queue, or minus an errno.
    """
    context, slot, number, count = R6, R7, R8, R9
    return [
        move(context, R1),
        load_map_value(slot, frames),
        load(count, slot, 0, WORD),
        add(slot, FRAMES_AT),
        move(number, 0),
        jump_if(count, ">", FRAMES_A_RUN, "out"),
        label("next"),
        jump_if(number, ">=", count, "out"),
        load(R4, context, LENGTH_AT, WORD),
        jump_if(R4, "<", SHORTEST, "out"),
        jump_if(R4, ">", LONGEST, "out"),
        move(R1, context),
        move(R2, 0),
        move(R3, slot),
        add(R3, FRAME_AT),
        move(R5, 0),
        call(Helper.SKB_STORE_BYTES),
        jump_if(R0, "!=", 0, "sent"),
        move(R1, context),
        load(R2, slot, INTERFACE_AT, WORD),
        move(R3, 0),
        call(Helper.CLONE_REDIRECT),
        label("sent"),
        store(slot, RESULT_AT, R0, WORD),
        add(slot, SLOT_BYTES),
        add(number, 1),
        jump("next"),
        label("out"),
        move(R0, number),
        leave(),
    ]


def interfaces_directory() -> int:
    """A file descriptor of /sys/class/net as this thread's network namespace has it.

    A sysfs of its own, mounted nowhere, needs CAP_SYS_ADMIN; without it this is /sys. Should that
    show another namespace, the counters of ours are missing there. Raises OSError.
    """
    sysfs_fd = _own_sysfs()
    if sysfs_fd >= 0:
        try:
            return os.open("class/net", DIRECTORY, dir_fd=sysfs_fd)
        finally:
            os.close(sysfs_fd)
    return os.open(INTERFACES, DIRECTORY)


def _own_sysfs() -> int:
    context_fd = _libc.syscall(_FSOPEN, b"sysfs", _FSOPEN_CLOEXEC)
    if context_fd < 0:
        return -1
    try:
        if _libc.syscall(_FSCONFIG, context_fd, _FSCONFIG_CMD_CREATE, None, None, 0) < 0:
            return -1
        return int(
            _libc.syscall(_FSMOUNT, context_fd, _FSMOUNT_CLOEXEC, _READ_ONLY_NOSUID_NODEV_NOEXEC)
        )
    finally:
        os.close(context_fd)
