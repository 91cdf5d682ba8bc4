"""Array maps that are shared with programs through memory, and maps that wake who waits for them.

Must not know what the values are. Layout: the values follow one another, each beginning at a
multiple of 8 bytes, as kernel/bpf/arraymap.c of Linux has them.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import struct

from carp_fast.bpf.system import NAME, Command, bpf, name_of
from carp_fast.closing import Closing

MAP_TYPE_ARRAY, MAP_TYPE_RINGBUF, MAP_MMAPABLE = 2, 27, 1 << 10

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
)  # fmt: skip
_libc.munmap.argtypes = ctypes.c_void_p, ctypes.c_size_t
_MAP_FAILED = ctypes.c_void_p(-1).value


class Array(Closing):
    """An array map whose values are mapped into the memory of this process (Linux 5.5).

    `entries`: their number; `value_bytes`: of each. `memory` has them `stride` bytes apart. Closing
    it frees everything, once no program uses it. Raises OSError.
    """

    def __init__(self, entries: int, value_bytes: int, name: str = NAME) -> None:
        head = (MAP_TYPE_ARRAY, 4, value_bytes, entries, MAP_MMAPABLE, 0, 0)
        attributes = bytearray(struct.pack("=IIIIIII16s", *head, name_of(name)))
        self.entries, self.value_bytes = entries, value_bytes
        self.stride = -(-value_bytes // 8) * 8
        self.fd = bpf(Command.MAP_CREATE, attributes)
        length = -(-entries * self.stride // mmap.PAGESIZE) * mmap.PAGESIZE
        try:
            self.memory = mmap.mmap(self.fd, length)
        except (OSError, ValueError):
            os.close(self.fd)
            raise

    @property
    def address(self) -> int:
        """Where the memory begins, for native code; valid until close()."""
        return ctypes.addressof(ctypes.c_char.from_buffer(self.memory))

    def __len__(self) -> int:
        return self.entries

    def __getitem__(self, index: int) -> bytes:
        """A copy of a value. Raises IndexError."""
        at = self._at(index)
        return self.memory[at : at + self.value_bytes]

    def __setitem__(self, index: int, value: bytes) -> None:
        """Writes a whole value. Raises IndexError, ValueError."""
        at = self._at(index)
        if len(value) != self.value_bytes:
            raise ValueError(f"{len(value)} bytes for a value of {self.value_bytes}")
        self.memory[at : at + self.value_bytes] = value

    def _at(self, index: int) -> int:
        if not 0 <= index < self.entries:
            raise IndexError(f"value {index} of {self.entries}")
        return index * self.stride

    def close(self) -> None:
        self.memory.close()
        os.close(self.fd)


class Waker(Closing):
    """A ring buffer map of one page, by which a program wakes who waits for `fd` (Linux 5.8).

    It is readable while the position of the reader differs from that of the programs: two numbers
    of 8 bytes at the addresses in `positions`, of which the reader sets the first one. Raises
    OSError.
    """

    def __init__(self, name: str = NAME) -> None:
        head = (MAP_TYPE_RINGBUF, 0, 0, mmap.PAGESIZE, 0, 0, 0)
        attributes = bytearray(struct.pack("=IIIIIII16s", *head, name_of(name)))
        with contextlib.ExitStack() as opened:
            self.fd = bpf(Command.MAP_CREATE, attributes)
            opened.callback(os.close, self.fd)
            pages = ((mmap.PROT_READ | mmap.PROT_WRITE, 0), (mmap.PROT_READ, mmap.PAGESIZE))
            reader, programs = (_map_page(self.fd, *page, opened) for page in pages)
            self.positions = reader, programs
            self._opened = opened.pop_all()

    def take(self) -> bool:
        """Makes it unreadable until a program wakes again; whether it was readable."""
        reader, programs = (ctypes.c_uint64.from_address(each) for each in self.positions)
        given = programs.value
        was_readable = reader.value != given
        reader.value = given
        return was_readable

    def close(self) -> None:
        self._opened.close()


def _map_page(fd: int, protection: int, at: int, opened: contextlib.ExitStack) -> int:
    """Maps a page until `opened` ends, and returns its address: Python's mmap has none of memory
    that only the kernel writes.
    """
    address = _libc.mmap(None, mmap.PAGESIZE, protection, mmap.MAP_SHARED, fd, at)
    if address == _MAP_FAILED:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    opened.callback(_libc.munmap, address, mmap.PAGESIZE)
    return int(address)
