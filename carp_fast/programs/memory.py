"""Memory that is passed to another process: written once, sealed, and read there.

Holds `created`, `sealed` and `filled`, which make it, and `Sealed`, which reads it. The kernel
keeps the seals, so nothing can change, shrink or enlarge what the receiver has checked. Must not
know what is in it.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Callable, Iterable

from carp_fast.closing import Closing
from carp_fast.errors import CarpFastError

MFD_NOEXEC_SEAL = 0x0008  # not in the module os; Linux 6.3 has it, and logs that it is missing
_FLAGS = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class SealError(CarpFastError):
    """Raised when received memory is not sealed, or larger than allowed; one line says why."""


def sealed(
    name: str, parts: Iterable[bytes | bytearray | memoryview], *, exactly: bool = False
) -> int:
    """A file descriptor of sealed memory with these parts, one after the other. Raises OSError.

    `exactly`: with SEALS and no other, for receivers that compare; older journalds do.
    """
    descriptor = os.memfd_create(name, _FLAGS) if exactly else created(name)
    try:
        for part in parts:
            rest = memoryview(part).cast("B")
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def filled(name: str, size: int, fill: Callable[[memoryview], object]) -> int:
    """A file descriptor of `size` bytes of sealed memory, written by `fill` in place.

    `fill` must keep no view of it. Raises OSError.
    """
    descriptor = created(name)
    try:
        os.ftruncate(descriptor, size)
        if size:
            with mmap.mmap(descriptor, size) as memory, memoryview(memory) as view:
                fill(view)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


class Sealed(Closing):
    """Received memory: `view` is its content, read-only.

    Takes the descriptor, and closes it. `most`: how many bytes are allowed. Raises SealError.
    """

    def __init__(self, descriptor: int, most: int) -> None:
        self.view = memoryview(b"")
        self._memory: mmap.mmap | None = None
        try:
            size = self._checked(descriptor, most)
            if size:
                self._memory = mmap.mmap(descriptor, size, mmap.MAP_SHARED, mmap.PROT_READ)
                self.view = memoryview(self._memory)
        except OSError as error:
            raise SealError(f"memory cannot be mapped: {error.strerror}") from error
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Unmaps it. No view of it may be in use any more."""
        self.view.release()
        if self._memory is not None:
            self._memory.close()

    @staticmethod
    def _checked(descriptor: int, most: int) -> int:
        try:
            seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
        except OSError as error:
            raise SealError(f"not memory that can be sealed: {error.strerror}") from error
        if seals & SEALS != SEALS:
            raise SealError(f"memory whose seals are {seals:#x}, not {SEALS:#x}: refused")
        size = os.fstat(descriptor).st_size
        if size > most:
            raise SealError(f"memory of {size:,} bytes: allowed: {most:,}")
        return size


def created(name: str) -> int:
    """A file descriptor of empty memory that can be sealed. Raises OSError."""
    try:
        return os.memfd_create(name, _FLAGS | MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:  # of an older kernel
            raise
        return os.memfd_create(name, _FLAGS)
