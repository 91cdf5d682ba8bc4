"""A tiny Ethernet segment on which engines meet, and frames written by hand.

The frames come from `struct`, `hmac` and `hashlib` alone, so that what the engine parses and
builds is judged by something that shares no code with it. The segment carries frames at once and
without loss, except between nodes that were set apart. Must not know a socket or a real clock.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from carp_fast.engine._engine import Engine
from carp_fast.engine._prepared import PreparedHost
from carp_fast.engine.actions import Advertise, Resign
from carp_fast.engine.reports import Report, StateChanged

Kind = TypeVar("Kind", bound=Report)
SECOND_NS = 1_000_000_000
TICK_NS = 1_000_000
START_NS = 1_000 * SECOND_NS
GROUP = bytes((224, 0, 0, 18))
PASSPHRASE = b"secret"
VHID = 42
OUR_COUNTER = 1 << 50
ADDRESS = bytes((10, 77, 0, 100))


def ip(text: str) -> bytes:
    """The 4 or 16 bytes of an address."""
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)


GROUP6 = ip("ff02::12")
ADDRESS6 = ip("2001:db8::100")


def internet_checksum(data: bytes) -> int:
    """RFC 1071 as it reads: 16-bit words, carries folded in, complemented."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def carp_digest(passphrase: bytes, vhid: int, addresses: Iterable[bytes], counter: bytes) -> bytes:
    """HMAC-SHA1 over version, type, vhid, sorted addresses and counter, by the standard library."""
    ascending = sorted(set(addresses), key=lambda address: (len(address), address))
    message = bytes((2, 1, vhid)) + b"".join(ascending) + counter
    return hmac.new(passphrase.ljust(20, b"\0"), message, hashlib.sha1).digest()


def carp_header(
    *,
    vhid: int = VHID,
    advbase: int = 1,
    advskew: int = 0,
    counter: int = 1,
    passphrase: bytes = PASSPHRASE,
    addresses: Sequence[bytes] = (ADDRESS,),
    version: int = 2,
    kind: int = 1,
    authlen: int = 7,
    demote: int = 0,
    digest: bytes | None = None,
    checksum_error: int = 0,
) -> bytes:
    """36 bytes of CARP; what is not given is as a right advertisement has it."""
    number = counter.to_bytes(8, "big")
    if digest is None:
        digest = carp_digest(passphrase, vhid, addresses, number)
    first = bytes((version << 4 | kind, vhid, advskew, authlen, demote, advbase))
    whole = first + b"\0\0" + number + digest
    checksum = internet_checksum(whole) ^ checksum_error
    return first + checksum.to_bytes(2, "big") + number + digest


def ipv4_frame(
    payload: bytes,
    *,
    source: bytes = ip("10.77.0.1"),
    destination: bytes = GROUP,
    source_mac: bytes = b"\x02\0\0\0\0\x99",
    protocol: int = 112,
    ttl: int = 255,
    tos: int = 0x10,
    flags: int = 0x4000,
    options: bytes = b"",
    total_length: int | None = None,
    checksum_error: int = 0,
    ethertype: int = 0x0800,
) -> bytes:
    """An Ethernet frame of an IPv4 packet around `payload`."""
    length = 20 + len(options) + len(payload) if total_length is None else total_length
    start = struct.pack(">BBHHHBB", 0x45 + len(options) // 4, tos, length, 0, flags, ttl, protocol)
    addresses = source + destination + options
    checksum = internet_checksum(start + b"\0\0" + addresses) ^ checksum_error
    mac = bytes((1, 0, 0x5E, destination[1] & 0x7F, destination[2], destination[3]))
    ethernet = mac + source_mac + ethertype.to_bytes(2, "big")
    return ethernet + start + checksum.to_bytes(2, "big") + addresses + payload


def ipv6_frame(
    payload: bytes,
    *,
    source: bytes = ip("fe80::1"),
    destination: bytes = GROUP6,
    source_mac: bytes = b"\x02\0\0\0\0\x99",
    next_header: int = 112,
    hop_limit: int = 255,
    payload_length: int | None = None,
    ethertype: int = 0x86DD,
) -> bytes:
    """An Ethernet frame of an IPv6 packet around `payload`."""
    length = len(payload) if payload_length is None else payload_length
    start = struct.pack(">IHBB", 6 << 28, length, next_header, hop_limit)
    ethernet = b"\x33\x33" + destination[12:] + source_mac + ethertype.to_bytes(2, "big")
    return ethernet + start + source + destination + payload


def with_tag(frame: bytes, tag: int) -> bytes:
    """The frame with an 802.1Q tag: VLAN in the low 12 bits, priority in the high ones."""
    return frame[:12] + b"\x81\x00" + tag.to_bytes(2, "big") + frame[12:]


def in_fragments4(payload: bytes, **outer: Any) -> tuple[bytes, bytes]:
    """An IPv4 packet in two fragments, the first with 24 bytes of the payload."""
    return (
        ipv4_frame(payload[:24], flags=0x2000, **outer),
        ipv4_frame(payload[24:], flags=24 // 8, **outer),
    )


def in_fragments6(payload: bytes, **outer: Any) -> tuple[bytes, bytes]:
    """An IPv6 packet in two fragments, the first with 24 bytes of the payload."""
    first, second = (struct.pack(">BBHI", 112, 0, offset, 7) for offset in (1, 24))
    return (
        ipv6_frame(first + payload[:24], next_header=44, **outer),
        ipv6_frame(second + payload[24:], next_header=44, **outer),
    )


def behind_extension(payload: bytes, kind: int, *, following: int = 112, **outer: Any) -> bytes:
    """An IPv6 packet with an extension header of 8 bytes: hop-by-hop (0) or destination options
    (60), all padding, or a routing header (43) that is used up.
    """
    body = bytes(6) if kind == 43 else b"\x01\x04" + bytes(4)
    return ipv6_frame(bytes((following, 0)) + body + payload, next_header=kind, **outer)


def advertisement(
    *,
    source: str = "10.77.0.1",
    destination: str | None = None,
    source_mac: bytes = b"\x02\0\0\0\0\x99",
    **carp: Any,
) -> bytes:
    """The frame of a right advertisement from `source`, in its family, to the usual group."""
    frame = ipv6_frame if ":" in source else ipv4_frame
    where: dict[str, Any] = {} if destination is None else {"destination": ip(destination)}
    return frame(carp_header(**carp), source=ip(source), source_mac=source_mac, **where)


def next_deadline(engine: Engine) -> int:
    """When the engine has something to do next; it must have."""
    at_ns = engine.next_deadline_ns()
    assert at_ns is not None
    return at_ns


class Heard(NamedTuple):
    """What an advertisement frame of ours says."""

    vhid: int
    advbase: int
    advskew: int
    counter: int
    source: bytes
    demote: int


def read_advertisement(frame: bytes) -> Heard:
    """Take apart a frame built by the engine, which has neither IP options nor a trailer."""
    four = frame[12:14] == b"\x08\0"
    carp, source = (frame[34:], frame[26:30]) if four else (frame[54:], frame[22:38])
    return Heard(carp[1], carp[5], carp[2], int.from_bytes(carp[8:16], "big"), source, carp[4])


def prepared(**settings: Any) -> PreparedHost:
    """A prepared host with VHID 42, 10.77.0.100/24 and the passphrase `secret` unless told.

    What it sends is far from the low counters of advertisement(), which nobody sent before.
    """
    wanted: dict[str, Any] = {
        "interface": 0,
        "vhid": VHID,
        "addresses": [(ADDRESS, 24)],
        "passphrase": PASSPHRASE,
        "counter": OUR_COUNTER,
    }
    return PreparedHost(**(wanted | settings))


class Done(NamedTuple):
    """One action of an engine: when, what, for which slot, with what."""

    at_ns: int
    action: str
    slot: int
    content: Any


class Node:
    """One engine, its interface 0 up with the address `on`; keeps its actions and reports.

    `on6`: its IPv6 address, none unless given. `seed`: of the engine, made of `on` unless given.
    """

    def __init__(
        self,
        on: str,
        /,
        *,
        on6: str | None = None,
        now_ns: int = START_NS,
        seed: int | None = None,
        **settings: Any,
    ) -> None:
        self.engine = Engine(seed=int.from_bytes(ip(on)) if seed is None else seed)
        self.source, self.source6 = on, on6
        self.mac = b"\x02\0" + ip(on)
        self.errors: dict[bytes, int] = {}
        self.busy = False  # the kernel does not answer: see answer()
        self.done: list[Done] = []
        self.reports: list[Report] = []
        self.attach(now_ns)
        self.engine.add(0, prepared(**settings), now_ns)

    def attach(self, now_ns: int, **interface: Any) -> None:
        """Tell the engine that the interface is there and up, or as `interface` has it."""
        wanted: dict[str, Any] = {"mac": self.mac, "source": ip(self.source)}
        wanted["source6"] = None if self.source6 is None else ip(self.source6)
        self.engine.set_interface(0, now_ns, **(wanted | interface))

    def carry_out(self, now_ns: int) -> list[bytes]:
        """Expire, take the actions, return the advertisement frames among them."""
        self.engine.expire(now_ns)
        return self.take(now_ns)

    def take(self, now_ns: int) -> list[bytes]:
        """Take the actions without expiring; return the advertisement frames among them."""
        frames = []
        for action in self.engine.take_actions(now_ns, self.errors, busy=self.busy):
            _, content = msgspec.structs.astuple(action)
            self.done.append(Done(now_ns, action.word, action.slot, content))
            if isinstance(action, Advertise | Resign):
                frames.append(action.frame)
        self.reports += self.engine.take_reports()
        return frames

    def answer(self, now_ns: int) -> None:
        """The kernel is no longer busy: it answers all, and what follows is carried out."""
        self.busy = False
        self.engine.answer(now_ns, self.errors)
        self.carry_out(now_ns)

    def run(self, until_ns: int) -> None:
        """Let time pass for this node alone, nobody hearing it."""
        while (deadline_ns := self.engine.next_deadline_ns()) is not None:
            if deadline_ns > until_ns:
                break
            self.carry_out(deadline_ns)
        self.carry_out(until_ns)

    @property
    def state(self) -> str:
        state: str = self.engine.host(0).state
        return state

    @property
    def reason(self) -> str:
        reason: str = self.engine.host(0).reason
        return reason

    def times(self, *actions: str) -> list[int]:
        """When one of `actions` was carried out."""
        return [done.at_ns for done in self.done if done.action in actions]

    def words(self) -> list[str]:
        """The actions so far, in order."""
        return [done.action for done in self.done]

    def changes(self) -> list[tuple[str, str, str]]:
        """(previous, state, reason) of each reported state change."""
        return [(r.previous, r.state, r.reason) for r in self.reported(StateChanged)]

    def reported(self, kind: type[Kind]) -> list[Kind]:
        return [report for report in self.reports if isinstance(report, kind)]

    def forget(self) -> None:
        """Start a new record of actions and reports."""
        self.done.clear()
        self.reports.clear()


def risen(at_ns: int, **settings: Any) -> Node:
    """A node that has become MASTER by itself until `at_ns`; what it did is forgotten."""
    node = Node("10.77.0.2", **settings)
    node.run(at_ns)
    assert node.state == "MASTER"
    node.forget()
    return node


def last_frame(node: Node) -> bytes:
    """The last advertisement of a node."""
    frame: bytes = [done.content for done in node.done if done.action == "ADVERTISE"][-1]
    return frame


class Segment:
    """Nodes on one wire, in simulated time. A node set apart neither hears nor is heard."""

    def __init__(self, *nodes: Node, now_ns: int = START_NS) -> None:
        self.nodes = list(nodes)
        self.now_ns = now_ns
        self.apart: set[Node] = set()
        self.verdicts: list[str] = []
        # Whether a frame passes from one node to another.
        self.passes: Callable[[Node, Node, bytes], bool] = lambda sender, receiver, frame: True

    def settle(self) -> None:
        """Carry out and deliver at this instant until nobody has anything more to send."""
        waiting = list(self.nodes)
        while waiting:
            sent = [(node, node.carry_out(self.now_ns)) for node in waiting]
            waiting = []
            for sender, frames in sent:
                for node in self.nodes if frames and sender not in self.apart else ():
                    if node is sender or node in self.apart:
                        continue
                    for frame in frames:
                        if not self.passes(sender, node, frame):
                            continue
                        self.verdicts.append(node.engine.receive(0, frame, self.now_ns))
                    if node not in waiting:
                        waiting.append(node)

    def run(self, seconds: float) -> None:
        """Let `seconds` pass, deadline by deadline."""
        end_ns = self.now_ns + int(seconds * SECOND_NS)
        self.settle()
        while True:
            deadlines = [node.engine.next_deadline_ns() for node in self.nodes]
            next_ns = min((at for at in deadlines if at is not None), default=end_ns)
            if next_ns > end_ns:
                break
            self.now_ns = max(next_ns, self.now_ns)
            self.settle()
            if self.now_ns >= end_ns:
                break
        self.now_ns = end_ns
        self.settle()

    def leave(self, node: Node) -> None:
        """A node is killed: it says nothing and hears nothing from now on."""
        self.nodes.remove(node)

    def masters(self) -> list[Node]:
        return [node for node in self.nodes if node.state == "MASTER"]
