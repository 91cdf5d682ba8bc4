"""The programs, maps and links of the kernel: which exist, and which a process holds.

Must not know what they are for.
"""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

from carp_fast.bpf.system import bpf

# Commands of bpf that look up what others made: by number, and the next number.
PROG_GET_FD_BY_ID, MAP_GET_FD_BY_ID, LINK_GET_FD_BY_ID = 13, 14, 30
NEXT_ID = {PROG_GET_FD_BY_ID: 11, MAP_GET_FD_BY_ID: 12, LINK_GET_FD_BY_ID: 31}
WORDS = (
    ("prog_id", PROG_GET_FD_BY_ID),
    ("map_id", MAP_GET_FD_BY_ID),
    ("link_id", LINK_GET_FD_BY_ID),
)

Object = tuple[int, int]
"""The command that looks it up, and its number."""


def objects_of(pid: int) -> set[Object]:
    """Each program, map and link that a process holds by a descriptor."""
    found = set()
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            text = info.read_text()
        except (FileNotFoundError, ProcessLookupError):  # it was closed meanwhile
            continue
        for word, command in WORDS:
            if line := re.search(rf"^{word}:\s*(\d+)", text, re.MULTILINE):
                found.add((command, int(line[1])))
    return found


def every_object() -> set[Object]:
    """Each program, map and link of this machine, whoever made it."""
    found = set()
    for command, next_id in NEXT_ID.items():
        attributes = bytearray(16)
        number = 0
        while True:
            struct.pack_into("=I", attributes, 0, number)
            try:
                bpf(next_id, attributes)  # type: ignore[arg-type]
            except FileNotFoundError:
                break
            (number,) = struct.unpack_from("=I", attributes, 4)
            found.add((command, number))
    return found


def held_objects() -> set[Object]:
    """What every process that runs now, and that we may look into, holds by a descriptor."""
    found: set[Object] = set()
    for each in Path("/proc").glob("[0-9]*"):
        try:
            found |= objects_of(int(each.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def exists(what: Object) -> bool:
    command, number = what
    try:
        fd = bpf(command, bytearray(struct.pack("=III", number, 0, 0)))  # type: ignore[arg-type]
    except FileNotFoundError:
        return False
    os.close(fd)
    return True
