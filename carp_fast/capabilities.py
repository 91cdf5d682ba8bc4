"""Capabilities of this process: which it has, and how it gives up all others for good.

The kernel keeps them for each thread, so that what gives up any must run before the second thread
starts. Must not know what a capability is needed for. Numbers: linux/capability.h.
"""

from __future__ import annotations

import ctypes
import enum
import os
import struct
from collections.abc import Iterable
from pathlib import Path

LAST = Path("/proc/sys/kernel/cap_last_cap")
LAST_USUAL = 40  # CAP_CHECKPOINT_RESTORE, of Linux 5.9
PR_CAPBSET_DROP, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 24, 47, 4
_VERSION = 0x20080522  # of _HEADER and _SETS
_HEADER = struct.Struct("=Ii")  # version, thread (0: this one)
_SETS = struct.Struct("=6I")  # effective, permitted, inheritable, each of 0 to 31, then of 32 to 63

_libc = ctypes.CDLL(None, use_errno=True)


class Capability(enum.IntEnum):
    """The capabilities that anything here asks for, by their numbers."""

    CHOWN = 0
    SETGID = 6
    SETUID = 7
    SETPCAP = 8
    NET_ADMIN = 12
    NET_RAW = 13
    SYS_ADMIN = 21
    SYS_NICE = 23
    BPF = 39

    @property
    def text(self) -> str:
        """The name that people know: "CAP_NET_RAW"."""
        return f"CAP_{self.name}"


def has_capability(capability: int) -> bool:
    """Whether this thread has a capability, effectively."""
    return bool(_sets()[0] >> capability & 1)


def permitted() -> frozenset[int]:
    """The capabilities that this thread has or may make effective, by their numbers."""
    bits = _sets()[1]
    return frozenset(number for number in range(bits.bit_length()) if bits >> number & 1)


def keep_only(capabilities: Iterable[int]) -> None:
    """Makes these the permitted and the effective ones of this thread; none is inheritable.

    Raises OSError if it lacks one of them.
    """
    bits = sum(1 << number for number in set(capabilities))
    low, high = bits & 0xFFFFFFFF, bits >> 32
    header = ctypes.create_string_buffer(_HEADER.pack(_VERSION, 0))
    if _libc.capset(header, _SETS.pack(low, low, 0, high, high, 0)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def bound_to(capabilities: Iterable[int]) -> None:
    """Takes all others from the bounding set, and all from the ambient one, of this thread.

    Without CAP_SETPCAP the bounding set stays as it is. Raises OSError.
    """
    _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    if not has_capability(Capability.SETPCAP):
        return
    for number in set(range(highest() + 1)).difference(capabilities):
        _prctl(PR_CAPBSET_DROP, number)


def _prctl(option: int, argument: int) -> None:
    if _libc.prctl(option, argument, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def highest() -> int:
    """The highest capability of this kernel."""
    try:
        return int(LAST.read_text())
    except (OSError, ValueError):
        return LAST_USUAL


def _sets() -> tuple[int, int]:
    """The effective and the permitted capabilities of this thread, as bits."""
    header = ctypes.create_string_buffer(_HEADER.pack(_VERSION, 0))
    sets = ctypes.create_string_buffer(_SETS.size)
    if _libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    low_effective, low_permitted, _, effective, high_permitted, _ = _SETS.unpack(sets.raw)
    return effective << 32 | low_effective, high_permitted << 32 | low_permitted
