"""The programs and maps of the kernel that a process holds, and whether one still exists.

Must not know what they are for.
"""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path

from carp_fast.bpf.system import bpf

PROG_GET_FD_BY_ID, MAP_GET_FD_BY_ID = 13, 14  # commands of bpf that look up what others made


def objects_of(pid: int) -> set[tuple[int, int]]:
    """(command that looks it up, id) of each program and map that a process holds."""
    found = set()
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            text = info.read_text()
        except FileNotFoundError:  # it was closed meanwhile
            continue
        for word, command in (("prog_id", PROG_GET_FD_BY_ID), ("map_id", MAP_GET_FD_BY_ID)):
            if line := re.search(rf"^{word}:\s*(\d+)", text, re.MULTILINE):
                found.add((command, int(line[1])))
    return found


def exists(what: tuple[int, int]) -> bool:
    command, number = what
    try:
        fd = bpf(command, bytearray(struct.pack("=III", number, 0, 0)))  # type: ignore[arg-type]
    except FileNotFoundError:
        return False
    os.close(fd)
    return True
