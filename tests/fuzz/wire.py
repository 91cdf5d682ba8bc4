"""The wire fuzzer: frames of every kind through the engine, right, damaged, and made right again.

Two engines hear the same, one frame by frame and one in batches, and must decide alike. Verdicts
are those of wire_rules; a frame whose digest is not right changes nothing; counters add up; frames
that are sent are read again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any, ClassVar

from carp_fast.engine._engine import Engine
from carp_fast.engine._prepared import PreparedHost
from carp_fast.engine._wire import VERDICT_WORDS
from carp_fast.engine.actions import Action, Advertise, Announce, Resign
from carp_fast.engine.copies import HostCopy
from carp_fast.engine.reports import Released
from tests.fuzz import wire_frames
from tests.fuzz.cases import Document, Failure
from tests.fuzz.wire_rules import (
    DIGEST_FITS,
    NOT_CARP,
    Key,
    Known,
    Packet,
    accepted,
    opened,
    verdict,
)
from tests.support.segment import internet_checksum

SECOND_NS = 1_000_000_000
GROUPS = {4: bytes((224, 0, 0, 18)), 6: b"\xff\x02" + bytes(13) + b"\x12"}
OTHER_GROUPS = {4: bytes((239, 1, 2, 3)), 6: b"\xff\x02" + bytes(13) + b"\x77"}
INTERFACES = (0, 1, 4095)
HEARD_ON = (*INTERFACES, 0, 0, 2, 4096, 65535)  # also where no virtual host is, or can be
INTERFACES_MAX = 4096
HEARD = "advertisements_heard"
MAC = b"\x02\0\0\0\0\x01"
SLOTS = 4
NO_SOURCES = {4: bytes(4), 6: bytes(16)}  # of a host that waits for them in INIT
FORMER = 4  # keys of former settings that a host has room for at least
KINDS = {b"\x08\0": "IPv4", b"\x86\xdd": "IPv6"}
SENT_KEPT = 60
# What a frame must not change unless its digest is right. What is left out: counters.
JUDGED = (
    "state",
    "reason",
    "since_ns",
    "deadline_ns",
    "demotions",
    "demote",
    "effective_advskew",
    "interval_ns",
    "master_down_ns",
    "held",
    "peer",
    "peer_advbase",
    "peer_advskew",
    "heard_ns",
    "duplicate_source",
    "counter",
)


def unhex(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


def is_other_hosts(drawn: Document, hosts: list[Document]) -> bool:
    """Whether a frame may be for it and for one of the hosts: where it is from cannot tell."""

    def identity(host: Document) -> tuple[Any, ...]:
        where = "peers" if host["peers"] else host["destination"]
        return host["interface"], host["vhid"], where

    return any(identity(each) == identity(drawn) for each in hosts)


class WireWorld:
    """Two engines with the same virtual hosts and the same past."""

    def __init__(self, setup: Document) -> None:
        self.one = Engine(4096, setup["seed"])
        self.many = Engine(4096, setup["seed"])
        self.now_ns: int = setup["at"]
        self.features: set[str] = set()
        self.sources: dict[int, dict[int, bytes]] = {}
        self.hosts: dict[int, Document] = {}
        self.keys: dict[int, tuple[Key, ...]] = {}
        self.leaving: set[int] = set()
        self.sent: list[bytes] = []
        self.used: list[int] = []
        self.last_sent: dict[int, int] = {}  # unless a counter was accepted since
        self.verdicts = {number: Counter[str]() for number in HEARD_ON if number < INTERFACES_MAX}
        if setup["record"]:
            self.one.record(1024)
            self.many.record(1024)
        for link in setup["links"]:
            self.take(link)
        for slot, host in enumerate(setup["hosts"]):
            self.take({"do": "add", "slot": slot, "host": host, "at": self.now_ns})

    # -------------------------------------------------------------------------------------- steps

    def take(self, step: Document) -> None:
        self.now_ns = step["at"]
        getattr(self, "do_" + step["do"])(step)
        self.follow()
        self.compare(step["do"])

    def both(self, verb: str, *given: Any, **named: Any) -> None:
        for engine in (self.one, self.many):
            getattr(engine, verb)(*given, **named)

    def do_link(self, step: Document) -> None:
        given = {"source": unhex(step["source"]), "source6": unhex(step["source6"])}
        self.both("set_interface", step["interface"], self.now_ns, up=step["up"], mac=MAC, **given)
        every = {4: given["source"], 6: given["source6"]}
        self.sources[step["interface"]] = {f: each for f, each in every.items() if each}

    def do_add(self, step: Document) -> None:
        if step["slot"] in self.hosts:
            return
        for engine in (self.one, self.many):
            engine.add(step["slot"], self.prepared(step["host"]), self.now_ns)
        self.hosts[step["slot"]] = step["host"]
        self.keys[step["slot"]] = self.keys_of(step["host"])
        self.last_sent.pop(step["slot"], None)

    def do_replace(self, step: Document) -> None:
        """Replaces the settings of a host; its identity stays."""
        slot = step["slot"]
        if slot not in self.hosts or slot in self.leaving:
            return
        kept = ("interface", "vhid", "peers", "destination", "destination6")
        host = step["host"] | {key: self.hosts[slot][key] for key in kept}
        for engine in (self.one, self.many):
            engine.replace(slot, self.prepared(host), self.now_ns, grace_ns=step["grace_ns"])
        until_ns = self.now_ns + step["grace_ns"]
        former = [
            key._replace(until_ns=key.until_ns or until_ns)
            for key in self.keys[slot]
            if (key.until_ns or until_ns) > self.now_ns
        ]
        self.hosts[slot], self.keys[slot] = host, (*self.keys_of(host), *former)

    def do_remove(self, step: Document) -> None:
        if step["slot"] in self.hosts:
            self.both("remove", step["slot"], self.now_ns)
            self.leaving.add(step["slot"])

    def do_demote(self, step: Document) -> None:
        if step["slot"] in self.hosts:
            self.both("demote", step["slot"], step["by"], self.now_ns)

    def do_bar(self, step: Document) -> None:
        if step["slot"] in self.hosts:
            self.both("bar", step["slot"], step["barred"], self.now_ns)

    def do_expire(self, step: Document) -> None:
        """A turn: deadlines, then what follows, with refusals of the kernel."""
        self.both("expire", self.now_ns, step.get("heard_until"))
        errors = {(slot, unhex(data)): number for slot, data, number in step["errors"]}
        actions = self.one.take_actions(self.now_ns, errors)
        others = self.many.take_actions(self.now_ns, errors)
        if actions != others:
            raise Failure(f"actions differ: {actions!r} and {others!r}")
        for action in actions:
            self.check_action(action)

    def do_receive(self, step: Document) -> None:
        """Frames that arrive together; the second engine takes them as a batch."""
        frames = [(number, bytes.fromhex(data)) for number, data in step["frames"]]
        words = [self.receive(number, frame) for number, frame in frames]
        good = self.many.receive_many(frames, self.now_ns)
        if good != words.count("ok"):
            raise Failure(f"a batch counts otherwise: {good} ok of {words}")

    # ------------------------------------------------------------------------------------- checks

    def receive(self, number: int, frame: bytes) -> str:
        before = self.judged()
        word = self.one.receive(number, frame, self.now_ns)
        known = self.known()
        expected = {verdict(frame, number, known, self.now_ns)}
        if self.leaving:
            expected.add(verdict(frame, number, self.known(leaving=False), self.now_ns))
        if number >= INTERFACES_MAX:
            expected = {NOT_CARP}
        if "ok" in expected:
            expected |= DIGEST_FITS
        if expected & {"ok", "bad_version"} and any(each.former > FORMER for each in known):
            expected |= {"bad_auth", "vrrp"}  # of several former keys it may keep the latest
        if word not in expected:
            raise Failure(f"verdict {word}, not {sorted(expected)}: {frame.hex()}")
        after = self.judged()
        if word != "ok" and before != after:
            raise Failure(f"changed by a frame that is {word}: {before} to {after}")
        if word != NOT_CARP:
            self.verdicts[number][word] += 1
        if word == "ok":
            self.last_sent.clear()  # hosts continue from what they hear, which may be anything
        if word in DIGEST_FITS:
            self.used.append(int.from_bytes(opened(frame).counter, "big"))  # type: ignore[union-attr]
        for slot in before.keys() if word == "ok" else ():
            host, states = self.hosts[slot], (before[slot]["state"], after[slot]["state"])
            if before[slot] != after[slot] and host["interface"] != number:
                raise Failure(f"changed by a frame of another interface: slot {slot}")
            self.features.add(f"{host['dialect']} {word} {states}")
        self.features.add(f"{word} {KINDS.get(frame[12:14])} {min(len(frame), 120) // 20}")
        return word

    def judged(self) -> dict[int, dict[str, Any]]:
        return {slot: self.fields(self.one.host(slot)) for slot in self.hosts}

    @staticmethod
    def fields(copy: HostCopy) -> dict[str, Any]:
        return {name: getattr(copy, name) for name in JUDGED}

    def known(self, *, leaving: bool = True) -> list[Known]:
        """The hosts as the rules know them."""
        found = []
        for slot, host in self.hosts.items():
            if slot in self.leaving and not leaving:
                continue
            families = {4 if len(data) == 8 else 6 for data, _ in host["addresses"]}
            groups = [bytes.fromhex(host["destination"]), bytes.fromhex(host["destination6"])]
            own = {4: unhex(host["source"]), 6: unhex(host["source6"])}
            sources = self.sources.get(host["interface"], {})
            found.append(
                Known(
                    host["interface"],
                    host["vhid"],
                    self.keys[slot],
                    tuple(groups[f == 6] for f in sorted(families) if not host["peers"]),
                    tuple(map(bytes.fromhex, host["peers"])),
                    NO_SOURCES | sources | {f: data for f, data in own.items() if data},
                )
            )
        return found

    def keys_of(self, host: Document) -> tuple[Key, ...]:
        signed = [bytes.fromhex(data) for data, _ in host["addresses"]]
        messages = accepted(host["vhid"], signed, host["dialect"], unhex(host["lladdr"]))
        return tuple(Key(bytes.fromhex(host["passphrase"]), each) for each in messages)

    @staticmethod
    def prepared(host: Document) -> PreparedHost:
        given = {key: value for key, value in host.items() if key not in ("addresses", "peers")}
        for key in ("passphrase", "source", "source6", "lladdr", "destination", "destination6"):
            given[key] = unhex(given[key])
        addresses = [(bytes.fromhex(data), length) for data, length in host["addresses"]]
        peers = [bytes.fromhex(data) for data in host["peers"]]
        return PreparedHost(addresses=addresses, peers=peers, alternates=True, **given)

    def check_action(self, action: Action) -> None:
        if isinstance(action, Announce):
            for frame in action.frames:
                check_announcement(frame, self.hosts[action.slot])
        elif isinstance(action, Advertise | Resign):
            packet = opened(action.frame)
            if isinstance(packet, str):
                raise Failure(f"what is sent is {packet}: {action.frame.hex()}")
            self.check_advertisement(action.slot, packet)
            self.sent = [*self.sent[-SENT_KEPT:], action.frame]

    def check_advertisement(self, slot: int, packet: Packet) -> None:
        host, key = self.hosts[slot], self.keys[slot][0]
        if packet.hop_limit != 255 or len(packet.payload) != 36 or packet.payload[0] != 0x21:
            raise Failure(f"no advertisement: {packet}")
        header = packet.header if packet.family == 4 else b"\xff\xff"
        if internet_checksum(packet.carp) or internet_checksum(header):
            raise Failure(f"a wrong checksum is sent: {packet}")
        if packet.payload[16:36] != key.digest(packet.counter):
            raise Failure(f"a wrong digest is sent: {packet} for {host}")
        if packet.payload[1] != host["vhid"] or packet.payload[3] != 7:
            raise Failure(f"wrong fields are sent: {packet} for {host}")
        counter = int.from_bytes(packet.counter, "big")
        self.used.append(counter)
        if counter == self.last_sent.get(slot):
            raise Failure(f"a counter is sent twice: {packet}")
        self.last_sent[slot] = counter

    def follow(self) -> None:
        """Forgets the hosts that are gone."""
        reports = self.one.take_reports()
        if reports != self.many.take_reports():
            raise Failure("reports differ")
        for report in reports:
            if isinstance(report, Released):
                del self.hosts[report.slot], self.keys[report.slot]
                self.leaving.discard(report.slot)

    def compare(self, what: str) -> None:
        for slot in self.hosts:
            if self.one.host(slot) != self.many.host(slot):
                raise Failure(
                    f"hosts differ after {what}: {self.one.host(slot)}, {self.many.host(slot)}"
                )

    def end(self) -> None:
        for number, heard in self.verdicts.items():
            counters = self.one.interface_counters(number)
            if counters != self.many.interface_counters(number):
                raise Failure(f"counters differ: interface {number}")
            told = {word: counters[HEARD if word == "ok" else word] for word in VERDICT_WORDS}
            if {word: count for word, count in told.items() if count} != heard:
                raise Failure(f"counters do not add up: {told}, not {heard}")
        for slot in self.hosts:
            self.one.explained(slot, self.now_ns)
            self.one.checkpoint(slot, self.now_ns)
        self.one.records()
        self.features |= {f"sent {len(frame)}" for frame in self.sent}


def check_announcement(frame: bytes, host: Document) -> None:
    """A gratuitous ARP or an unsolicited NA for an address of the host."""
    if frame[12:14] == b"\x08\x06":
        mac, address = frame[22:28], frame[28:32]
        if frame[:6] != b"\xff" * 6 or frame[14:22] != bytes.fromhex("0001080006040001"):
            raise Failure(f"no gratuitous ARP: {frame.hex()}")
        if frame[32:38] != mac or frame[38:42] != address:
            raise Failure(f"a gratuitous ARP with two owners: {frame.hex()}")
    else:
        address, icmp = frame[62:78], frame[54:]
        pseudo = frame[22:54] + len(icmp).to_bytes(4, "big") + b"\0\0\0\x3a"
        if frame[20:22] != b"\x3a\xff" or icmp[0] != 136 or internet_checksum(pseudo + icmp):
            raise Failure(f"no neighbour advertisement: {frame.hex()}")
    every = [data for data, _ in (*host["addresses"], *host["unsigned_addresses"])]
    if address.hex() not in every:
        raise Failure(f"an address of somebody else is announced: {frame.hex()}")


class WireFuzzer:
    """Draws hosts of every dialect, family and key, and what they hear."""

    name: ClassVar[str] = "wire"
    seeds: ClassVar[int] = 100_000
    shrinking_s: ClassVar[float] = 20.0

    def setup(self, random: Random) -> Document:
        links = [
            {
                "do": "link",
                "interface": number,
                "up": True,
                "source": "0a4d0001",
                "source6": "fe80" + "00" * 13 + "01",
                "at": 1_000 * SECOND_NS,
            }
            for number in INTERFACES
        ]
        hosts: list[Document] = []
        for _ in range(random.choice((1, 1, 2, 3))):
            host = draw_host(random)
            if not is_other_hosts(host, hosts):
                hosts.append(host)
        return {
            "seed": random.randrange(2**32),
            "at": 1_000 * SECOND_NS,
            "record": random.random() < 0.3,
            "links": links,
            "hosts": hosts,
        }

    def world(self, setup: Document) -> WireWorld:
        return WireWorld(setup)

    def steps(self, random: Random, setup: Document, world: WireWorld) -> Iterator[Document]:
        for _ in range(random.choice((20, 60, 150))):
            at = world.now_ns + random.choice((0, 0, 1, 10**6, 10**8, SECOND_NS, 3 * SECOND_NS))
            pick = random.random()
            if pick < 0.3:
                yield {"do": "expire", "errors": draw_errors(random, world), "at": at}
            elif pick < 0.4:
                yield draw_order(random, world, at)
            else:
                known = world.known()
                used = world.used[-40:]
                frames = [
                    [
                        random.choice(HEARD_ON),
                        wire_frames.frame(random, known, world.sent, used).hex(),
                    ]
                    for _ in range(random.choice((1, 1, 2, 3, 9, 20)))
                ]
                yield {"do": "receive", "frames": frames, "at": at}

    def close(self) -> None:
        """Nothing is shared."""


def draw_host(random: Random) -> Document:
    families = random.choice(((4,), (4,), (6,), (4, 6)))
    addresses: list[list[Any]] = []
    for family in families:
        for _ in range(random.choice((1, 1, 2, 12))):
            data = bytes((10, 77, 1, random.randrange(256)))
            if family == 6:
                prefix = random.choice((b"\xfe\x80\0\0", b"\xfe\x80\0\5", b"\x20\x01\x0d\xb8"))
                data = prefix + bytes(11) + random.randbytes(1)
            addresses.append([data.hex(), 32 if family == 4 else 128])
    groups = OTHER_GROUPS if random.random() < 0.15 else GROUPS
    peers: list[str] = []
    if random.random() < 0.15:
        every = [bytes((10, 77, 0, 2)), bytes((10, 77, 0, 3)), b"\xfe\x80" + bytes(13) + b"\2"]
        peers = [each.hex() for each in random.sample(every, random.randrange(1, 4))]
    dialect = random.choice(("ucarp", "freebsd", "openbsd"))
    return {
        "interface": random.choice((0, 0, 0, 1, 4095)),
        "vhid": random.choice((1, 1, 2, 255)),
        "addresses": addresses,
        "unsigned_addresses": [],
        "passphrase": random.randbytes(random.randrange(1, 21)).replace(b"\0", b"x").hex(),
        "advbase": random.choice((0, 1, 1, 1, 2, 255)),
        "advskew": random.choice((0, 1, 100, 254)),
        "dead_ratio": random.choice((1, 3, 3, 255)),
        "preempt": random.choice((True, False, "demoted")),
        "dialect": dialect,
        "replay": random.choice(("off", "learn", "strict")),
        "lladdr": "020000000009" if dialect == "openbsd" and random.random() < 0.3 else None,
        "advertise_mac": random.choice(("interface", "interface", "ucarp", "bsd")),
        "broadcast": random.random() < 0.2,
        "source": random.choice((None, None, "0a4d0005")),
        "source6": random.choice((None, None, "fe80" + "00" * 13 + "05")),
        "peers": peers,
        "destination": groups[4].hex(),
        "destination6": groups[6].hex(),
        "counter": random.choice((0, 2**64 - 5, 2**64 - 1, random.randrange(2**63))),
    }


def draw_errors(random: Random, world: WireWorld) -> list[list[Any]]:
    """Refusals of the kernel: of a host's advertisements, of an address."""
    errors: list[list[Any]] = []
    for slot, host in world.hosts.items():
        if random.random() < 0.05:
            errors.append([slot, None, 100])
        if random.random() < 0.1:
            data, _ = random.choice(host["addresses"])
            errors.append([slot, data, random.choice((17, 99, 1, 19))])
    return errors


def draw_order(random: Random, world: WireWorld, at: int) -> Document:
    slot = random.randrange(SLOTS)
    pick = random.random()
    order: Document = {"slot": slot, "at": at}
    if pick < 0.2:
        return order | {"do": "demote", "by": random.choice((0, 1, 240, 65535))}
    if pick < 0.3:
        return order | {"do": "bar", "barred": random.random() < 0.5}
    if pick < 0.5:
        return {
            "do": "link",
            "interface": random.choice(INTERFACES),
            "up": random.random() < 0.8,
            "source": random.choice(("0a4d0001", "0a4d0001", "0a4d0002", None)),
            "source6": random.choice(("fe80" + "00" * 13 + "01", None)),
            "at": at,
        }
    if pick < 0.6:
        return order | {"do": "remove"}
    host = draw_host(random)
    if slot in world.hosts:
        return order | {
            "do": "replace",
            "host": host,
            "grace_ns": random.choice((0, SECOND_NS, 10**12)),
        }
    if is_other_hosts(host, list(world.hosts.values())):
        return order | {"do": "remove"}
    return order | {"do": "add", "host": host}
