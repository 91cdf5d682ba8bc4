"""A ring of received frames in plain memory, written by a test as the kernel's program writes it.

The layout is written here a second time, by struct. Must not know the reader.
"""

from __future__ import annotations

import ctypes
import struct
import time

SLOT = struct.Struct("=IiqH110s")
HEAD_AT, TAIL_AT, FULL_AT, WATCHING_AT = 0, 64, 128, 192


class PlainRing:
    """A ring of `count` slots, whose first one has the number `first`."""

    def __init__(self, count: int, first: int = 0) -> None:
        self.count = count
        self.control = ctypes.create_string_buffer(256)
        self.slots = ctypes.create_string_buffer(count * SLOT.size)
        self.head = self.tail = first

    @property
    def memory(self) -> tuple[int, int, int]:
        """What the reader gets."""
        return ctypes.addressof(self.control), ctypes.addressof(self.slots), self.count

    def _get(self, at: int) -> int:
        return int(struct.unpack_from("=Q", self.control, at)[0])

    @property
    def head(self) -> int:
        return self._get(HEAD_AT)

    @head.setter
    def head(self, number: int) -> None:
        struct.pack_into("=Q", self.control, HEAD_AT, number)

    @property
    def tail(self) -> int:
        return self._get(TAIL_AT)

    @tail.setter
    def tail(self, number: int) -> None:
        struct.pack_into("=Q", self.control, TAIL_AT, number)

    @property
    def watching(self) -> int:
        return int(struct.unpack_from("=I", self.control, WATCHING_AT)[0])

    @watching.setter
    def watching(self, word: int) -> None:
        struct.pack_into("=I", self.control, WATCHING_AT, word)

    def drop(self, frames: int) -> None:
        """Counts frames that found the ring full."""
        struct.pack_into("=Q", self.control, FULL_AT, self._get(FULL_AT) + frames)

    def reserve(self) -> int:
        """The number of a slot that is not published yet."""
        self.head += 1
        return self.head - 1

    def publish(
        self,
        number: int,
        frame: bytes,
        *,
        ifindex: int = 1,
        arrived_ns: int | None = None,
        length: int | None = None,
    ) -> None:
        """Fills a slot; `length`: of a frame of which only the beginning is kept."""
        at_ns = time.monotonic_ns() if arrived_ns is None else arrived_ns
        whole = len(frame) if length is None else length
        place = number % self.count * SLOT.size
        sequence = number + 1 & 0xFFFFFFFF
        SLOT.pack_into(self.slots, place, sequence, ifindex, at_ns, whole, frame)

    def put(self, frame: bytes, *, ifindex: int = 1, arrived_ns: int | None = None) -> None:
        """Reserves a slot and publishes a frame."""
        self.publish(self.reserve(), frame, ifindex=ifindex, arrived_ns=arrived_ns)
