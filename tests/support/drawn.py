"""Frames drawn by seed: vectors with changes to what a judgement reads."""

from __future__ import annotations

import functools
import json
import random

from tests.support.segment import VHID, internet_checksum
from tests.support.vectors import NOBODYS, VARIANTS, VECTORS


@functools.cache
def all_vectors() -> list[bytes]:
    golden = json.loads((VECTORS / "golden.json").read_text())
    golden += json.loads((VECTORS / "golden-2.json").read_text())
    made = [frame for _, frame in (*VARIANTS.values(), *NOBODYS.values())]
    return [*made, *(bytes.fromhex(each["frame"]) for each in golden)]


def drawn(seed: int) -> bytes:
    """A vector with changes to what a judgement reads, with right checksums or not."""
    rng = random.Random(seed)
    frame = bytearray(rng.choice(all_vectors()))
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        at = rng.choice((14, *range(16, 25), 30, 33, 34, 35, 36, 37, 38, 40, 54, 55, 57))
        if at < len(frame):
            frame[at] = rng.choice((0, 1, 7, 0x21, 0x31, 0x45, 0x46, 0x60, 70, 224, 255, VHID))
    if rng.random() < 0.5 and frame[12:14] == b"\x08\0" and len(frame) >= 70:
        frame[24:26] = frame[40:42] = b"\0\0"
        frame[24:26] = internet_checksum(bytes(frame[14:34])).to_bytes(2, "big")
        frame[40:42] = internet_checksum(bytes(frame[34:70])).to_bytes(2, "big")
    elif rng.random() < 0.5 and frame[12:14] == b"\x86\xdd" and len(frame) >= 90:
        frame[60:62] = b"\0\0"
        frame[60:62] = internet_checksum(bytes(frame[54:90])).to_bytes(2, "big")
    length = rng.choice((len(frame),) * 20 + (33, 34, 37, 38, 53, 54, 57, 58, 69, 70, 89, 90))
    return bytes(frame[:length]).ljust(rng.choice((0, 0, 60, 1_400)), b"\0")
