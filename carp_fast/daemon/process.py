"""What the daemon's process needs of the machine: capabilities, memory that it returns, and that
other processes cannot read it.

Also holds StartError, which everything that starts a daemon may raise. Must not know what the
daemon does with either.
"""

from __future__ import annotations

import contextlib
import ctypes
import resource
from pathlib import Path

from carp_fast.capabilities import Capability, has_capability
from carp_fast.errors import CarpFastError

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # of mallopt(3)
PR_SET_DUMPABLE = 4
CORE_CONTENT = Path("/proc/self/coredump_filter")
MAPPED_BYTES = 1 << 17  # larger blocks go back to the kernel as soon as they are freed


class StartError(CarpFastError):
    """Raised when the daemon cannot start; one line says why."""


def require_capabilities(*, managing: bool) -> None:
    """Raises StartError naming the capabilities that this process lacks.

    `managing`: it adds and removes addresses, which needs one more.
    """
    needed = [Capability.NET_RAW, *[Capability.NET_ADMIN] * managing]
    missing = [each.text for each in needed if not has_capability(each)]
    if missing:
        raise StartError(f"missing {' and '.join(missing)}: run as root, or grant it")


def forbid_tracing() -> None:
    """Disables core files and debuggers of the same user: both would show passphrases and keys.

    Only a process with CAP_SYS_PTRACE can still read the memory. The files in /proc that need such
    a right, as those about open descriptors, can be read by this process itself, and the others by
    everybody.
    """
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def forbid_core_files() -> None:
    """Sets RLIMIT_CORE to 0, for this process and the programs that it starts.

    Should somebody raise it, a core file holds no memory. Takes effect before forbid_tracing(),
    after which only root may write to the file.
    """
    with contextlib.suppress(OSError):
        CORE_CONTENT.write_text("0")  # nothing of core(5)
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


def share_memory() -> None:
    """Has all threads allocate from one arena, so that a reload in a worker reuses what is free
    there.

    Large blocks are mapped instead: the C library would learn to keep them, with small ones in
    between.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's; musl has only one arena
    if mallopt is not None:
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)


def give_back_memory() -> None:
    """Returns memory that a start or a reload needed, and that is free now, to the kernel."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's; musl returns it by itself
    if trim is not None:
        trim(0)
