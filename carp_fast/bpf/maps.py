"""Array maps that are shared with programs through memory.

Must not know what the values are. Layout: the values follow one another, each beginning at a
multiple of 8 bytes, as kernel/bpf/arraymap.c of Linux has them.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct

from carp_fast.bpf.system import NAME, Command, bpf, name_of
from carp_fast.closing import Closing

MAP_TYPE_ARRAY, MAP_MMAPABLE = 2, 1 << 10


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
