"""Classic BPF programs that choose the lane of a frame by its header and by known sources.

They verify no digest. The programs are built here and run by the kernel: no socket is opened here.
lanes.py explains what the lanes are.
"""

from __future__ import annotations

from collections.abc import Iterable

from carp_fast.engine._lanes import LANE_WORDS
from carp_fast.net.filters import (
    DROP,
    EXTENSION_NEXT,
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
    NEXT_HEADER,
    OF_NO_VLAN,
    PASS,
    RET,
    SKF_AD_IFINDEX,
    SKF_AD_PKTTYPE,
    SKF_AD_PROTOCOL,
    SKF_AD_RXHASH,
    SKF_NET_OFF,
    TAX,
    XOR,
    XOR_X,
    Instruction,
    extension_tests,
)
from carp_fast.net.kernel import ETH_P_IP, ETH_P_IPV6, PACKET_OUTGOING, PROTOCOL_CARP

GENUINE, COMMON, STRAY = LANE_WORDS

# Limited by INSTRUCTIONS_MAX: a source takes one and a quarter instructions.
SOURCES_MAX = 2_000
GROUPS_MAX, PEERS_MAX = 250, 250  # of each family; if there are more, all its addresses pass
RAW_INTERFACES_MAX = 250

LEAF = 16  # a search ends with a linear comparison of at most this many numbers

CARP_BYTES, IPV4_BYTES, IPV6_BYTES = 36, 20, 40
VERSION_AND_TYPE = 0x21
HOP_LIMIT = 255
FRAGMENT = 0x3FFF
MULTICAST = 0xE0000000
SPREAD = 2654435761  # spreads interface indexes over 32 bits, so that few keys collide

# The places of the sockets in a fanout group; a load beyond the end of a packet returns 0.
PLACES = {STRAY: 0, COMMON: 1, GENUINE: 2}
ARRIVING: list[Instruction] = [
    (LD_W_ABS, 0, 0, SKF_AD_PKTTYPE),
    (JEQ, 0, 1, PACKET_OUTGOING),
    DROP,
]


# For the genuine lane: the group's program has already checked interface and protocol.
UNTAGGED: list[Instruction] = [*ARRIVING, *OF_NO_VLAN, PASS]


class Known:
    """What the filters sort by: interfaces, groups, peers, and sources that were genuine."""

    def __init__(self) -> None:
        self.ifindexes: list[int] = []
        self.groups: set[bytes] = set()
        self.peers: set[bytes] = set()
        self.sources: dict[int, set[bytes]] = {}  # by ifindex
        self.mark: int | None = None  # the hash, but for the ifindex, of frames that tcx has taken


def _low(address: bytes) -> int:
    """The last 32 bits of an address."""
    return int.from_bytes(address[-4:], "big")


def source_key(ifindex: int, source: bytes) -> int:
    """The key of a source: its address folded to 32 bits and mixed with its interface.

    Another source with the same key shares the lane, as does a sender that forges the source.
    """
    key = ifindex * SPREAD & 0xFFFFFFFF
    for at in range(0, len(source), 4):
        key ^= int.from_bytes(source[at : at + 4], "big")
    return key


def _search(numbers: list[int], found: int, otherwise: int) -> list[Instruction]:
    """Instructions that return `found` if A is one of the ascending `numbers`, otherwise
    `otherwise`.
    """
    return _find(numbers, [(RET, 0, 0, found)], [(RET, 0, 0, otherwise)])


def _find(
    numbers: list[int], found: list[Instruction], missing: list[Instruction]
) -> list[Instruction]:
    """Instructions that run `found` if A is one of the ascending `numbers`, otherwise `missing`.

    Both must end with a return.
    """
    if len(numbers) <= LEAF:
        count = len(numbers)
        tests = [(JEQ, count - i - 1 + len(missing), 0, each) for i, each in enumerate(numbers)]
        return [*tests, *missing, *(found if numbers else [])]
    middle = len(numbers) // 2
    lower = _find(numbers[:middle], found, missing)
    upper = _find(numbers[middle:], found, missing)
    return [(JGE, 0, 1, numbers[middle]), (JA, 0, 0, len(lower)), *lower, *upper]


def _require(condition: int, value: int, otherwise: int) -> list[Instruction]:
    """Instructions that return `otherwise` unless A meets the condition."""
    return [(condition, 1, 0, value), (RET, 0, 0, otherwise)]


def _members(addresses: Iterable[bytes], length: int, most: int) -> list[int] | None:
    """The addresses of one family as ascending numbers; None if there are more than `most`."""
    numbers = sorted({_low(each) for each in addresses if len(each) == length})
    return numbers if len(numbers) <= most else None


def _among(numbers: list[int] | None, otherwise: int) -> list[Instruction]:
    """Instructions that continue if A is one of the numbers (None: always), else return
    `otherwise`.
    """
    if numbers is None:
        return []
    count = len(numbers)
    tests = [(JEQ, count - i, 0, each) for i, each in enumerate(numbers)]
    return [*tests, (RET, 0, 0, otherwise)]


def _of_source(known: Known, at: int, length: int, found: int, otherwise: int) -> list[Instruction]:
    """Instructions that return `found` if interface and source are known, otherwise `otherwise`.

    `at`, `length`: the place of the source address in the packet, in bytes.
    """
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
    """The part of a program that returns the lane of an IPv4 packet of protocol 112.

    The packet begins with the IPv4 header. It is stray if no virtual host of ours can accept it,
    whatever its digest: by its length, by being a fragment, by version and type, by TTL or
    destination if it was sent to a group, and otherwise by a source that no virtual host has as a
    peer.
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
    """The same for IPv6; `header`: offset of its header if the socket's data begins after it."""
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
    """The program that selects the socket of the fanout group for a packet.

    Packets of other protocols get any socket: its filter drops them.
    """
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
    """The filter of a lane's raw socket, `kind` "raw4" or "raw6", on the known interfaces."""
    program: list[Instruction] = []
    if len(known.ifindexes) <= RAW_INTERFACES_MAX:
        program = [(LD_W_ABS, 0, 0, SKF_AD_IFINDEX), *_among(sorted(known.ifindexes), 0)]
    if known.mark is not None:
        program += [
            (LD_W_ABS, 0, 0, SKF_AD_IFINDEX),
            (XOR, 0, 0, known.mark),
            (TAX, 0, 0, 0),
            (LD_W_ABS, 0, 0, SKF_AD_RXHASH),
            (JEQ_X, 0, 1, 0),
            DROP,
        ]
    genuine, common, stray = (0xFFFF if lane == each else 0 for each in LANE_WORDS)
    if kind == "raw4":
        return [*program, *lane_of_ipv4(known, genuine, common, stray)]
    # The data begins behind extension headers: only the IPv6 header shows that there are any.
    extended = [
        (LD_B_ABS, 0, 0, SKF_NET_OFF + NEXT_HEADER),
        (JEQ, 8, 0, PROTOCOL_CARP),
        *extension_tests(0, 2),
        (LD_B_ABS, 0, 0, SKF_NET_OFF + EXTENSION_NEXT),
        (JEQ, 1, 0, PROTOCOL_CARP),
        DROP,
        (RET, 0, 0, stray),
    ]
    six = lane_of_ipv6(known, genuine, common, stray, header=SKF_NET_OFF)
    return [*program, *extended, *six]
