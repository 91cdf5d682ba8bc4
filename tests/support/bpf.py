"""A machine for classic BPF programs, as the kernel has one for the filters of sockets.

Must not know what a filter is for.
"""

from __future__ import annotations

from carp_fast.net.filters import (
    AND,
    JA,
    JEQ,
    JEQ_X,
    JGE,
    JSET,
    LD_B_ABS,
    LD_B_IND,
    LD_H_ABS,
    LD_W_ABS,
    LDX_IP_LENGTH,
    MUL,
    RET,
    SKF_AD_IFINDEX,
    SKF_AD_OFF,
    SKF_AD_PKTTYPE,
    SKF_AD_PROTOCOL,
    SKF_AD_RXHASH,
    SKF_AD_VLAN_TAG,
    SKF_AD_VLAN_TAG_PRESENT,
    SKF_NET_OFF,
    TAX,
    XOR,
    XOR_X,
    Instruction,
)

SKF_AD_RANDOM = SKF_AD_OFF + 56
SIZES = {LD_W_ABS: 4, LD_H_ABS: 2, LD_B_ABS: 1, LD_B_IND: 1, LDX_IP_LENGTH: 1}


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
    rxhash: int = 0,
    header: bytes = b"",
) -> tuple[int, int]:
    """A classic BPF machine, as far as our filters go: (bytes accepted, instructions run).

    `frame`: the data of the socket; `header`: the network header, where that is not in the data.
    """
    a = x = at = count = 0
    while True:
        code, if_true, if_false, k = program[at]
        at, count = at + 1, count + 1
        if code == RET:
            return k, count
        if code == JA:
            at += k
        elif code == JEQ:
            at += if_true if a == k else if_false
        elif code == JGE:
            at += if_true if a >= k else if_false
        elif code == JSET:
            at += if_true if a & k else if_false
        elif code == AND:
            a &= k
        elif code == MUL:
            a = a * k & 0xFFFFFFFF
        elif code == JEQ_X:
            at += if_true if a == x else if_false
        elif code == XOR:
            a ^= k
        elif code == XOR_X:
            a ^= x
        elif code == TAX:
            x = a
        else:
            special = {
                SKF_AD_IFINDEX: ifindex,
                SKF_AD_RXHASH: rxhash,
                SKF_AD_VLAN_TAG: tag,
                SKF_AD_VLAN_TAG_PRESENT: int(tagged),
            }
            special |= {SKF_AD_PROTOCOL: protocol, SKF_AD_PKTTYPE: kind, SKF_AD_RANDOM: drawn}
            size = SIZES[code]
            data = frame
            if code == LD_B_IND:
                k += x
            if SKF_NET_OFF <= k < SKF_AD_OFF:
                data, k = header, k - SKF_NET_OFF
            if k in special:
                a = special[k]
            elif k + size > len(data):
                return 0, count  # a load beyond the end drops the frame
            elif code == LDX_IP_LENGTH:
                x = 4 * (data[k] & 0xF)
            else:
                a = int.from_bytes(data[k : k + size], "big")
