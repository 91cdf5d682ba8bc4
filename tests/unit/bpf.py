"""A machine for classic BPF programs, as the kernel has one for the filters of sockets.

Must not know what a filter is for.
"""

from __future__ import annotations

from carp_fast.net.sockets import Instruction

AD_PROTOCOL, AD_PKTTYPE = 0xFFFFF000, 0xFFFFF004
AD_RANDOM = 0xFFFFF038
AD_IFINDEX, AD_VLAN_TAG, AD_VLAN_TAG_PRESENT = 0xFFFFF008, 0xFFFFF02C, 0xFFFFF030
NETWORK_HEADER = 0xFFF00000


def run(
    program: list[Instruction],
    frame: bytes,
    ifindex: int = 1,
    tagged: bool = False,
    tag: int = 0,
    *,
    protocol: int = 0x0800,
    kind: int = 0,
    drawn: int = 0,
    header: bytes = b"",
) -> tuple[int, int]:
    """A classic BPF machine, as far as our filters go: (bytes accepted, instructions run).

    `frame`: the data of the socket; `header`: the network header, where that is not in the data.
    """
    a = x = at = count = 0
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
        elif code == 0x45:
            at += if_true if a & k else if_false
        elif code == 0x54:
            a &= k
        elif code == 0x24:
            a = a * k & 0xFFFFFFFF
        elif code == 0xAC:
            a ^= x
        elif code == 0x07:
            x = a
        else:
            special = {AD_IFINDEX: ifindex, AD_VLAN_TAG: tag, AD_VLAN_TAG_PRESENT: int(tagged)}
            special |= {AD_PROTOCOL: protocol, AD_PKTTYPE: kind, AD_RANDOM: drawn}
            size = {0x20: 4, 0x28: 2, 0x30: 1, 0x50: 1, 0xB1: 1}[code]
            data = frame
            if code == 0x50:
                k += x
            if NETWORK_HEADER <= k < AD_PROTOCOL:
                data, k = header, k - NETWORK_HEADER
            if k in special:
                a = special[k]
            elif k + size > len(data):
                return 0, count  # a load beyond the end drops the frame
            elif code == 0xB1:
                x = 4 * (data[k] & 0xF)
            else:
                a = int.from_bytes(data[k : k + size], "big")
