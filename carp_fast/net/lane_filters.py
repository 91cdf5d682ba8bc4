"""Which lane a frame is for, as classic BPF programs: from its header and what is known, no digest.

Built for the kernel, and judged by it: nothing here opens a socket. What the lanes are, lanes.py
says.
"""

from __future__ import annotations

from collections.abc import Iterable

from carp_fast.engine._lanes import LANE_WORDS
from carp_fast.net.filters import (
    DROP,
    JA,
    JEQ,
    JGE,
    JSET,
    LD_B_ABS,
    LD_B_IND,
    LD_H_ABS,
    LD_W_ABS,
    LDX_IP_LENGTH,
    MUL,
    PASS,
    RET,
    SKF_AD_IFINDEX,
    SKF_AD_PKTTYPE,
    SKF_AD_PROTOCOL,
    SKF_AD_VLAN_TAG_PRESENT,
    SKF_NET_OFF,
    TAX,
    XOR_X,
    Instruction,
)
from carp_fast.net.kernel import ETH_P_IP, ETH_P_IPV6, PACKET_OUTGOING, PROTOCOL_CARP

GENUINE, COMMON, STRAY = LANE_WORDS

# By INSTRUCTIONS_MAX: a source takes one and a quarter.
SOURCES_MAX = 2_000
GROUPS_MAX, PEERS_MAX = 250, 250  # of a family; more are not told from others
RAW_INTERFACES_MAX = 250

LEAF = 16  # numbers that are looked at one after another at the end of a search

CARP_BYTES, IPV4_BYTES, IPV6_BYTES = 36, 20, 40
VERSION_AND_TYPE = 0x21
HOP_LIMIT = 255
FRAGMENT = 0x3FFF
MULTICAST = 0xE0000000
SPREAD = 2654435761  # of interface indexes over 32 bits, so that few keys are the same

# The sockets of a fanout group by their places; a load beyond the end of a packet gives 0.
PLACES = {STRAY: 0, COMMON: 1, GENUINE: 2}
ARRIVING: list[Instruction] = [
    (LD_W_ABS, 0, 0, SKF_AD_PKTTYPE),
    (JEQ, 0, 1, PACKET_OUTGOING),
    DROP,
]


# Of the genuine lane, whose interfaces and protocol the program of the group has looked at.
UNTAGGED: list[Instruction] = [
    *ARRIVING,
    (LD_W_ABS, 0, 0, SKF_AD_VLAN_TAG_PRESENT),
    (JEQ, 1, 0, 0),
    DROP,
    PASS,
]


class Known:
    """What the lanes are told by: interfaces, groups, peers, and sources that were genuine."""

    def __init__(self) -> None:
        self.ifindexes: list[int] = []
        self.groups: set[bytes] = set()
        self.peers: set[bytes] = set()
        self.sources: dict[int, set[bytes]] = {}  # by ifindex


def _low(address: bytes) -> int:
    """The last 32 bits of an address."""
    return int.from_bytes(address[-4:], "big")


def source_key(ifindex: int, source: bytes) -> int:
    """What a source is told by: its address folded to 32 bits, with its interface.

    A stranger whose key is the same shares the lane, as one that forges the source does.
    """
    key = ifindex * SPREAD & 0xFFFFFFFF
    for at in range(0, len(source), 4):
        key ^= int.from_bytes(source[at : at + 4], "big")
    return key


def _search(numbers: list[int], found: int, otherwise: int) -> list[Instruction]:
    """Returns `found` where A is one of the ascending `numbers`, else `otherwise`."""
    return _find(numbers, [(RET, 0, 0, found)], [(RET, 0, 0, otherwise)])


def _find(
    numbers: list[int], found: list[Instruction], missing: list[Instruction]
) -> list[Instruction]:
    """Runs `found` where A is one of the ascending `numbers`, else `missing`, both of which end."""
    if len(numbers) <= LEAF:
        count = len(numbers)
        tests = [(JEQ, count - i - 1 + len(missing), 0, each) for i, each in enumerate(numbers)]
        return [*tests, *missing, *(found if numbers else [])]
    middle = len(numbers) // 2
    lower = _find(numbers[:middle], found, missing)
    upper = _find(numbers[middle:], found, missing)
    return [(JGE, 0, 1, numbers[middle]), (JA, 0, 0, len(lower)), *lower, *upper]


def _require(condition: int, value: int, otherwise: int) -> list[Instruction]:
    """Returns `otherwise` unless A meets the condition."""
    return [(condition, 1, 0, value), (RET, 0, 0, otherwise)]


def _members(addresses: Iterable[bytes], length: int, most: int) -> list[int] | None:
    """The addresses of a family as ascending numbers; None: too many to be told from others."""
    numbers = sorted({_low(each) for each in addresses if len(each) == length})
    return numbers if len(numbers) <= most else None


def _among(numbers: list[int] | None, otherwise: int) -> list[Instruction]:
    """Goes on where A is one of the numbers, which are few or not known; else `otherwise`."""
    if numbers is None:
        return []
    count = len(numbers)
    tests = [(JEQ, count - i, 0, each) for i, each in enumerate(numbers)]
    return [*tests, (RET, 0, 0, otherwise)]


def _of_source(known: Known, at: int, length: int, found: int, otherwise: int) -> list[Instruction]:
    """Genuine or common, by the interface and the source, which is `at` and so long."""
    keys = sorted(
        {
            source_key(ifindex, source)
            for ifindex, sources in known.sources.items()
            for source in sources
            if len(source) == length
        }
    )
    if not keys:
        return [(RET, 0, 0, otherwise)]
    return [
        (LD_W_ABS, 0, 0, SKF_AD_IFINDEX),
        (MUL, 0, 0, SPREAD),
        *(
            each
            for word in range(at, at + length, 4)
            for each in ((TAX, 0, 0, 0), (LD_W_ABS, 0, 0, word), (XOR_X, 0, 0, 0))
        ),
        *_search(keys, found, otherwise),
    ]


def lane_of_ipv4(known: Known, genuine: int, common: int, stray: int) -> list[Instruction]:
    """A classic BPF program on a packet of protocol 112 from its IPv4 header on: its lane.

    Stray is what no virtual host of ours takes, whatever its digest: by length, fragments, version
    and type, TTL and destination of a group, or a source that no virtual host has as a peer.
    """
    groups = _members(known.groups, 4, GROUPS_MAX)
    peers = _members(known.peers, 4, PEERS_MAX)
    to_a_group = [
        (LD_B_ABS, 0, 0, 8),
        *_require(JEQ, HOP_LIMIT, stray),
        (LD_W_ABS, 0, 0, 16),
        *_among(groups, stray),
    ]
    to_us = [(LD_W_ABS, 0, 0, 12), *_among(peers, stray), (JA, 0, 0, len(to_a_group))]
    return [
        (LD_H_ABS, 0, 0, 2),
        *_require(JGE, IPV4_BYTES + CARP_BYTES, stray),
        (LD_H_ABS, 0, 0, 6),
        (JSET, 0, 1, FRAGMENT),
        (RET, 0, 0, stray),
        (LDX_IP_LENGTH, 0, 0, 0),
        (LD_B_IND, 0, 0, 0),
        *_require(JEQ, VERSION_AND_TYPE, stray),
        (LD_W_ABS, 0, 0, 16),
        (JGE, 0, 1, MULTICAST),
        (JA, 0, 0, len(to_us)),
        *to_us,
        *to_a_group,
        *_of_source(known, 12, 4, genuine, common),
    ]


def lane_of_ipv6(
    known: Known, genuine: int, common: int, stray: int, *, header: int = 0
) -> list[Instruction]:
    """The same for IPv6; `header`: where its header is, in a socket whose data begins behind it."""
    payload = 0 if header else IPV6_BYTES
    groups = _members(known.groups, 16, GROUPS_MAX)
    peers = _members(known.peers, 16, PEERS_MAX)
    to_a_group = [
        (LD_B_ABS, 0, 0, header + 7),
        *_require(JEQ, HOP_LIMIT, stray),
        (LD_W_ABS, 0, 0, header + 36),
        *_among(groups, stray),
    ]
    to_us = [(LD_W_ABS, 0, 0, header + 20), *_among(peers, stray), (JA, 0, 0, len(to_a_group))]
    return [
        (LD_H_ABS, 0, 0, header + 4),
        *_require(JGE, CARP_BYTES, stray),
        (LD_B_ABS, 0, 0, payload),
        *_require(JEQ, VERSION_AND_TYPE, stray),
        (LD_B_ABS, 0, 0, header + 24),
        (JEQ, 0, 1, 0xFF),
        (JA, 0, 0, len(to_us)),
        *to_us,
        *to_a_group,
        *_of_source(known, header + 8, 16, genuine, common),
    ]


def fanout_program(known: Known) -> list[Instruction]:
    """Which socket of the group gets a packet; what is not protocol 112, its filter drops."""
    places = PLACES[GENUINE], PLACES[COMMON], PLACES[STRAY]
    four, six = lane_of_ipv4(known, *places), lane_of_ipv6(known, *places)
    head = [
        (LD_W_ABS, 0, 0, SKF_AD_PROTOCOL),
        (JEQ, 4, 0, ETH_P_IPV6),
        (JEQ, 0, 2, ETH_P_IP),
        (LD_B_ABS, 0, 0, 9),
        (JEQ, 4, 0, PROTOCOL_CARP),
        (RET, 0, 0, PLACES[STRAY]),
        (LD_B_ABS, 0, 0, 6),
        (JEQ, 2, 0, PROTOCOL_CARP),
        (RET, 0, 0, PLACES[STRAY]),
        (JA, 0, 0, 1),
        (JA, 0, 0, len(four)),
    ]
    return [*head, *four, *six]


def raw_program(known: Known, kind: str, lane: str) -> list[Instruction]:
    """The filter of a lane's raw socket, "raw4" or "raw6", on the interfaces that are known."""
    program: list[Instruction] = []
    if len(known.ifindexes) <= RAW_INTERFACES_MAX:
        program = [(LD_W_ABS, 0, 0, SKF_AD_IFINDEX), *_among(sorted(known.ifindexes), 0)]
    genuine, common, stray = (0xFFFF if lane == each else 0 for each in LANE_WORDS)
    if kind == "raw4":
        return [*program, *lane_of_ipv4(known, genuine, common, stray)]
    six = lane_of_ipv6(known, genuine, common, stray, header=SKF_NET_OFF)
    return [*program, *six]
