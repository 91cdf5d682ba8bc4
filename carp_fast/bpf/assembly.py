"""Assembles small eBPF programs from instructions and loads them with the bpf system call.

Holds the encoding of the instructions, maps, and the kernel's answers; it needs no compiler and no
library. Must not know frames, interfaces or the purpose of a program. Encoding: RFC 9669; commands
and structs: linux/bpf.h.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import struct
from collections.abc import Sequence

from carp_fast.errors import CarpFastError

SYSCALLS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}
MAP_CREATE, PROG_LOAD, LINK_CREATE = 0, 5, 28
MAP_TYPE_ARRAY, MAP_MMAPABLE = 2, 1 << 10
PROG_TYPE_XDP, ATTACH_TYPE_XDP = 6, 37
LOG_BYTES, LOG_LINES = 1 << 20, 12
NAME = b"carp_fast"

# Numbers of the kernel's helpers.
MAP_LOOKUP_ELEM, KTIME_GET_NS, REDIRECT, XDP_ADJUST_TAIL = 1, 5, 23, 65
XDP_DROP = 1

# Size codes of loads and stores.
WORD, HALF, BYTE, DOUBLE = 0x00, 0x08, 0x10, 0x18
_SIZES = {8: DOUBLE, 4: WORD, 2: HALF, 1: BYTE}

Instruction = bytes | str
"""8 bytes, or a label: "name:" marks a place, and a Jump contains its name."""

_libc = ctypes.CDLL(None, use_errno=True)


class BpfError(CarpFastError):
    """Raised when the kernel refuses a program: the reason and the last lines of its log."""


class Jump(str):
    """A jump to a label; `code`: its 8 bytes, without the distance."""

    code: bytes


def load(target: int, source: int, offset: int, size: int) -> bytes:
    """target = *(source + offset); registers are given by number."""
    return struct.pack("=BBhi", 0x61 | _SIZES[size], source << 4 | target, offset, 0)


def store(target: int, offset: int, source: int, size: int) -> bytes:
    """*(target + offset) = source."""
    return struct.pack("=BBhi", 0x63 | _SIZES[size], source << 4 | target, offset, 0)


def move(target: int, source: int) -> bytes:
    return struct.pack("=BBhi", 0xBF, source << 4 | target, 0, 0)


def put(target: int, value: int) -> bytes:
    """target = value, sign-extended from 32 bits."""
    return struct.pack("=BBhi", 0xB7, target, 0, value)


def add(target: int, value: int) -> bytes:
    return struct.pack("=BBhi", 0x07, target, 0, value)


def mask(target: int, value: int) -> bytes:
    return struct.pack("=BBhi", 0x57, target, 0, value)


def fetch_add(target: int, offset: int, source: int) -> bytes:
    """Adds source to *(target + offset), whose old value it gets; orders memory (kernel 5.12)."""
    return struct.pack("=BBhi", 0xDB, source << 4 | target, offset, 0x01)


def put_map(target: int, map_fd: int, *, value: bool = False) -> bytes:
    """target = the map, or with `value` the address of its only value (kernel 5.5)."""
    kind = 2 if value else 1
    return struct.pack("=BBhiBBhi", 0x18, kind << 4 | target, 0, map_fd, 0, 0, 0, 0)


def call(helper: int) -> bytes:
    return struct.pack("=BBhi", 0x85, 0, 0, helper)


def leave() -> bytes:
    """Returns r0."""
    return struct.pack("=BBhi", 0x95, 0, 0, 0)


def jump_if(condition: str, left: int, right: int, place: str) -> Jump:
    """Jumps if `left condition right`, for two unsigned registers and ">", ">=" or "<"."""
    codes = {">": 0x2D, ">=": 0x3D, "<": 0xAD}
    return _jump(struct.pack("=BBhi", codes[condition], right << 4 | left, 0, 0), place)


def jump_if_zero(left: int, place: str) -> Jump:
    return _jump(struct.pack("=BBhi", 0x15, left, 0, 0), place)


def _jump(code: bytes, place: str) -> Jump:
    jump = Jump(place)
    jump.code = code
    return jump


def assemble(program: Sequence[Instruction]) -> bytes:
    """The bytes of a program, with the distances of its jumps; "name:" is a label."""
    places: dict[str, int] = {}
    at = 0
    for each in program:
        if isinstance(each, str) and not isinstance(each, Jump):
            places[each.removesuffix(":")] = at
        else:
            at += len(each.code if isinstance(each, Jump) else each) // 8
    code = b""
    for each in program:
        if isinstance(each, Jump):
            distance = places[each] - len(code) // 8 - 1
            code += each.code[:2] + struct.pack("=h", distance) + each.code[4:]
        elif isinstance(each, bytes):
            code += each
    return code


def _bpf(command: int, attributes: bytes) -> int:
    number = SYSCALLS.get(platform.machine())
    if number is None:
        raise OSError(errno.ENOSYS, f"the bpf call of {platform.machine()} is not known")
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result: int = _libc.syscall(number, command, buffer, len(attributes))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


class SharedArray:
    """An array map whose values are mapped into the memory of this process, one after another.

    `value_bytes` is a multiple of 8. Closing it frees everything. Raises OSError.
    """

    def __init__(self, entries: int, value_bytes: int) -> None:
        head = (MAP_TYPE_ARRAY, 4, value_bytes, entries, MAP_MMAPABLE, 0, 0)
        self.fd = _bpf(MAP_CREATE, struct.pack("=IIIIIII16s", *head, NAME))
        self.entries, self.value_bytes = entries, value_bytes
        try:
            self.memory = mmap.mmap(self.fd, self._whole(entries * value_bytes))
        except OSError:
            os.close(self.fd)
            raise

    @staticmethod
    def _whole(length: int) -> int:
        return -(-length // mmap.PAGESIZE) * mmap.PAGESIZE

    def close(self) -> None:
        self.memory.close()
        os.close(self.fd)


def load_xdp(program: Sequence[Instruction]) -> int:
    """Loads a program and returns its file descriptor. Raises BpfError with the verifier's log."""
    code = assemble(program)
    instructions = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"Dual BSD/GPL")
    addresses = ctypes.addressof(instructions), ctypes.addressof(licence)

    def attributes(log: ctypes.Array[ctypes.c_char] | None) -> bytes:
        level, size, at = (1, LOG_BYTES, ctypes.addressof(log)) if log else (0, 0, 0)
        return struct.pack(
            "=IIQQIIQII16s", PROG_TYPE_XDP, len(code) // 8, *addresses, level, size, at, 0, 0,
            NAME.ljust(16, b"\0"),
        )  # fmt: skip

    try:
        return _bpf(PROG_LOAD, attributes(None))
    except OSError as error:
        log = ctypes.create_string_buffer(LOG_BYTES)
        try:
            return _bpf(PROG_LOAD, attributes(log))
        except OSError:
            lines = log.value.decode(errors="replace").splitlines()
            first = f"the kernel refused the program: {error.strerror}"
            raise BpfError("\n".join([first, *lines[-LOG_LINES:]])) from error


def attach_xdp(program_fd: int, ifindex: int) -> int:
    """Attaches a program to an interface until the returned file descriptor is closed."""
    return _bpf(LINK_CREATE, struct.pack("=IIII", program_fd, ifindex, ATTACH_TYPE_XDP, 0))
