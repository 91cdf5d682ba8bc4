"""The bpf system call, and the reasons of the kernel for refusing it.

Must not know what programs and maps are made for. Commands and structs: linux/bpf.h.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import os
import platform

from carp_fast.capabilities import Capability, has_capability

SYSCALLS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}
NAME = "carp_fast"
TRIES = 5
"""A call that a signal interrupted, or whose verification gave way to another task, is repeated."""

_libc = ctypes.CDLL(None, use_errno=True)


class Command(enum.IntEnum):
    """What the system call does."""

    MAP_CREATE = 0
    PROG_LOAD = 5
    PROG_TEST_RUN = 10
    LINK_CREATE = 28


def bpf(command: Command, attributes: bytearray) -> int:
    """Calls the kernel, which may write to `attributes`. Returns a file descriptor, or 0. Raises
    OSError.
    """
    number = SYSCALLS.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    buffer = (ctypes.c_char * len(attributes)).from_buffer(attributes)
    for _ in range(TRIES):
        result: int = _libc.syscall(number, int(command), buffer, len(attributes))
        if result >= 0:
            return result
        if ctypes.get_errno() not in (errno.EINTR, errno.EAGAIN):
            break
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def name_of(name: str) -> bytes:
    """The name of a map or program, as bpftool shows it: 15 bytes."""
    return name.encode("ascii")[:15].ljust(16, b"\0")


def refusal(error: OSError) -> str:
    """The reason why a command failed, as far as its errno and our capabilities show it."""
    if platform.machine() not in SYSCALLS:
        return f"the bpf system call of {platform.machine()} is not known"
    if error.errno == errno.ENOSYS:
        return "the bpf system call does not exist: this kernel was built without it"
    if error.errno not in (errno.EPERM, errno.EACCES):
        return error.strerror or str(error)
    if not may_use_bpf():
        return "needs root, or the capabilities CAP_BPF and CAP_NET_ADMIN"
    return (
        f"{error.strerror}, in spite of the capabilities: a seccomp filter, a security module or"
        " a user namespace forbids it, or RLIMIT_MEMLOCK is too small (before Linux 5.11)"
    )


def may_use_bpf() -> bool:
    """Whether this process has CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN in their place."""
    return has_capability(Capability.SYS_ADMIN) or (
        has_capability(Capability.BPF) and has_capability(Capability.NET_ADMIN)
    )
