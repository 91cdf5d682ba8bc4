"""A ring of received frames in plain memory, written by a test as the kernel's program writes it,
and what the filters share with the pump.

The layouts are written here a second time, by struct. Must not know the reader.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
import sys
import time
from collections.abc import Iterable

from carp_fast.bpf.programs import Loaded
from carp_fast.engine._wire import VERDICT_WORDS
from tests.support.segment import SECOND_NS

SLOT = struct.Struct("=IiqH110s")
HEAD_AT, TAIL_AT, FULL_AT, WATCHING_AT = 0, 64, 128, 192


def run_filter(program: Loaded, frame: bytes, repeat: int = 1) -> int:
    """What a socket's filter returns for a frame that arrives on the loopback interface.

    A run sees a packet from its network header on; our filters from the Ethernet header.
    """
    context = bytearray(192)
    struct.pack_into("=I", context, 40, 1)
    return program.run(bytes(14) + frame, context=bytes(context), repeat=repeat).value


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


class Known:
    """What the filters share with the pump: interfaces and vhids in use, and frames refused.

    `memory`: a writable buffer of it, which a test may write in place of the pump.
    """

    PLACES, HEARD, BYTES = 1 << 16, struct.Struct("=I4x4Q13Q9q2I2Q16x"), 256

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory

    def _at(self, number: int) -> int:
        return 2 * self.PLACES + number * self.BYTES

    def hear(
        self,
        ifindex: int,
        number: int = 0,
        vhids: Iterable[int] = range(256),
        groups: Iterable[bytes] = (),
    ) -> None:
        """Lets an interface have a number, these vhids virtual hosts, and these groups."""
        at = self._at(number)
        _, _, _, _, _, *counted = self.HEARD.unpack_from(self._memory, at)
        words = [0] * 4
        for vhid in vhids:
            words[vhid // 64] |= 1 << vhid % 64
        four = [int.from_bytes(each, sys.byteorder) for each in groups if len(each) == 4]
        six = [int.from_bytes(each[8:], sys.byteorder) for each in groups if len(each) == 16]
        counted[22:24], counted[24:26] = [*four, 0, 0][:2], [*six, 0, 0][:2]
        self.HEARD.pack_into(self._memory, at, ifindex, *words, *counted)
        struct.pack_into("=H", self._memory, 2 * (ifindex % self.PLACES), number + 1)

    def unhear(self, ifindex: int) -> None:
        """Lets an interface have no number."""
        struct.pack_into("=H", self._memory, 2 * (ifindex % self.PLACES), 0)

    def number(self, ifindex: int) -> int | None:
        """The number that an interface has, or another one with the same place."""
        (number,) = struct.unpack_from("=H", self._memory, 2 * (ifindex % self.PLACES))
        return number - 1 if number else None

    def ifindex(self, number: int = 0) -> int:
        return int(self.HEARD.unpack_from(self._memory, self._at(number))[0])

    def groups(self, number: int = 0) -> set[bytes]:
        """The groups of an interface: four bytes, or the second half of one of IPv6."""
        *four, a, b = self.HEARD.unpack_from(self._memory, self._at(number))[27:31]
        of_ipv4 = {each.to_bytes(4, sys.byteorder) for each in four if each}
        return of_ipv4 | {each.to_bytes(8, sys.byteorder) for each in (a, b) if each}

    def vhids(self, number: int = 0) -> set[int]:
        words = self.HEARD.unpack_from(self._memory, self._at(number))[1:5]
        return {vhid for vhid in range(256) if words[vhid // 64] >> vhid % 64 & 1}

    def refused(self, number: int = 0) -> dict[str, int]:
        """The frames refused on an interface, by word."""
        counts = self.HEARD.unpack_from(self._memory, self._at(number))[5:18]
        return {word: count for word, count in zip(VERDICT_WORDS, counts, strict=True) if count}

    def refuse(self, word: str, frames: int, number: int = 0) -> None:
        """Counts frames as the filters do."""
        values = list(self.HEARD.unpack_from(self._memory, self._at(number)))
        values[5 + VERDICT_WORDS.index(word)] += frames
        self.HEARD.pack_into(self._memory, self._at(number), *values)

    @property
    def address(self) -> int:
        return ctypes.addressof(ctypes.c_char.from_buffer(self._memory))

    def forget(self, number: int = 0) -> None:
        """Counts from zero again."""
        values = list(self.HEARD.unpack_from(self._memory, self._at(number)))
        values[5:18] = [0] * 13
        self.HEARD.pack_into(self._memory, self._at(number), *values)

    def show_none(self, number: int = 0) -> None:
        """Passes on no samples for a long time."""
        values = list(self.HEARD.unpack_from(self._memory, self._at(number)))
        values[18:27] = [time.monotonic_ns() + 3_600 * SECOND_NS] * 9
        self.HEARD.pack_into(self._memory, self._at(number), *values)
