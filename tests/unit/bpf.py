"""A machine for classic BPF programs, as the kernel has one for the filters of sockets.

Must not know what a filter is for.
"""

from __future__ import annotations

from carp_fast.sockets import Instruction

AD_IFINDEX, AD_VLAN_TAG, AD_VLAN_TAG_PRESENT = 0xFFFFF008, 0xFFFFF02C, 0xFFFFF030


def run(
    program: list[Instruction], frame: bytes, ifindex: int = 1, tagged: bool = False, tag: int = 0
) -> tuple[int, int]:
    """A classic BPF machine, as far as our filters go: (bytes accepted, instructions run)."""
    a = at = count = 0
    while True:
        code, if_true, if_false, k = program[at]
        at, count = at + 1, count + 1
        if code == 0x06:
            return k, count
        if code == 0x05:
            at += k
        elif code == 0x15:
            at += if_true if a == k else if_false
        elif code == 0x35:
            at += if_true if a >= k else if_false
        elif code == 0x54:
            a &= k
        else:
            special = {AD_IFINDEX: ifindex, AD_VLAN_TAG: tag, AD_VLAN_TAG_PRESENT: int(tagged)}
            size = {0x20: 4, 0x28: 2, 0x30: 1}[code]
            if k in special:
                a = special[k]
            elif k + size > len(frame):
                return 0, count  # a load beyond the end drops the frame
            else:
                a = int.from_bytes(frame[k : k + size], "big")
