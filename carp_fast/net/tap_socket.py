"""The socket that hears what this machine sends, for as long as somebody listens.

What comes from our own MACs is nearly always ours, and of tens of thousands of virtual hosts it is
far too much to look at: of it the filter lets only some vhids through, chosen by who listens. Must
not know the engine, virtual hosts, or what a frame means beyond its addresses and its vhid.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable

from carp_fast.net.sockets import (
    ETH_P_ALL,
    ETH_P_IPV6,
    JA,
    JEQ,
    JGE,
    LD_B_ABS,
    LD_H_ABS,
    LD_W_ABS,
    NOTHING,
    PACKET_OUTGOING,
    RET,
    SKF_AD_PKTTYPE,
    Instruction,
    attach_filter,
    drain,
    enlarge,
    packet_filter,
)

ROOM = 4 << 20  # 5,400 frames, see FRAME_TRUESIZE
VHID4_AT, VHID6_AT = 35, 55  # in a frame whose IPv4 header has no options
MAC_END_AT = 8
ALL_VHIDS = 256
OWN_MACS_MAX = 1000  # a filter has at most 4,096 instructions; what is beyond is looked at


def mac_end(mac: bytes) -> int:
    """What a MAC is told by: its last four bytes."""
    return int.from_bytes(mac[-4:], "big")


def tap_filter(
    ifindexes: list[int] | None, own_mac_ends: Iterable[int], vhids: range
) -> list[Instruction]:
    """A classic BPF program: advertisements that this machine sends, on these interfaces where
    given; those that come from one of our MACs for these vhids only.
    """
    sent_here: list[Instruction] = [
        (LD_W_ABS, 0, 0, SKF_AD_PKTTYPE),
        (JEQ, 1, 0, PACKET_OUTGOING),
        (RET, 0, 0, 0),
    ]
    among_vhids: list[Instruction] = [
        (LD_H_ABS, 0, 0, 12),
        (JEQ, 0, 2, ETH_P_IPV6),
        (LD_B_ABS, 0, 0, VHID6_AT),
        (JA, 0, 0, 1),
        (LD_B_ABS, 0, 0, VHID4_AT),
        (JGE, 1, 0, vhids.start),
        (RET, 0, 0, 0),
        (JGE, 0, 1, vhids.stop),
        (RET, 0, 0, 0),
    ]
    ends = sorted(set(own_mac_ends))[:OWN_MACS_MAX]
    if len(vhids) == ALL_VHIDS or not ends:
        return sent_here + packet_filter(ifindexes)
    ours: list[Instruction] = [(LD_W_ABS, 0, 0, MAC_END_AT)]
    for left in range(len(ends), 0, -1):
        ours += [(JEQ, 0, 1, ends[-left]), (JA, 0, 0, 2 * left - 1)]
    ours.append((JA, 0, 0, len(among_vhids)))
    return sent_here + ours + among_vhids + packet_filter(ifindexes)


def open_tap(ifindexes: list[int], own_mac_ends: Iterable[int], vhids: range) -> socket.socket:
    """A packet socket that hears what tap_filter() lets through. Raises OSError."""
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    sock = socket.socket(socket.AF_PACKET, kind, socket.htons(ETH_P_ALL))
    try:
        sock.setblocking(False)
        attach_filter(sock, NOTHING)
        drain(sock)
        enlarge(sock, ROOM)
        try:
            attach_filter(sock, tap_filter(ifindexes, own_mac_ends, vhids))
        except OSError:  # more interfaces than a filter has room for: who reads looks at them
            attach_filter(sock, tap_filter(None, own_mac_ends, vhids))
    except OSError:
        sock.close()
        raise
    return sock
