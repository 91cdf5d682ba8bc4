"""Hosts and advertisements for the election fuzzer: orderly ones, random ones, captured ones.

Must not know how they are judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from tests.fuzz.cases import Document
from tests.fuzz.counter_rules import Counters
from tests.fuzz.election_rules import SECOND_NS, Host
from tests.fuzz.wire_rules import Key
from tests.support.segment import GROUP, GROUP6, carp_header, ipv4_frame, ipv6_frame

OWN, LOWER, HIGHER = b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x00", b"\x02\0\0\0\0\x77"
NEVER_SIGNED = (bytes(4), b"\xff" * 4)


def ipv4(random: Random) -> bytes:
    return bytes((10, random.randrange(4), random.randrange(4), random.randrange(1, 255)))


def link_local(random: Random) -> bytes:
    return b"\xfe\x80" + bytes(13) + bytes((random.randrange(1, 256),))


def ipv6(random: Random) -> bytes:
    if random.random() < 0.5:
        scope = random.randrange(3)
        return b"\xfe\x80" + bytes((scope, 0)) + bytes(11) + random.randbytes(1)
    return b"\x20\x01\x0d\xb8" + random.randbytes(12)


def draw_addresses(random: Random, families: Sequence[int]) -> list[str]:
    addresses = []
    if 4 in families:
        for _ in range(random.choice((1, 1, 2, 5, 11, 12, 13, 20, 40))):
            never = random.random() < 0.3
            addresses.append(random.choice(NEVER_SIGNED) if never else ipv4(random))
    if 6 in families:
        addresses += [ipv6(random) for _ in range(random.choice((1, 2, 3, 4, 7, 12)))]
    random.shuffle(addresses)
    return [each.hex() for each in addresses]


def draw_setup(random: Random) -> Document:
    """A virtual host. `orderly`: its neighbours ascend from what they hear, as real hosts do."""
    dialect = random.choice(("ucarp", "freebsd", "openbsd"))
    families = random.choice(((4,), (4,), (6,), (4, 6)))
    advbase = random.choice((0, 1, 1, 1, 1, 2, 3, 10, 255))
    advskew = random.choice((0, 1, 50, 100, 200, 239, 240, 241, 254))
    if advbase == advskew == 0 and dialect != "openbsd":
        advskew = 1
    start = random.choice((1_000 * SECOND_NS, 7 * SECOND_NS, 2**62, 10**17 + 12_345))
    secret = bytes(random.randrange(1, 256) for _ in range(random.randrange(1, 20)))
    return {
        "seed": random.randrange(2**32),
        "at": start + random.randrange(SECOND_NS),
        "dialect": dialect,
        "addresses": draw_addresses(random, families),
        "advbase": advbase,
        "advskew": advskew,
        "dead_ratio": random.choice((1, 2, 3, 3, 3, 4, 255)),
        "preempt": random.choice((True, False, "demoted")),
        "replay": random.choice(("off", "learn", "learn", "strict")),
        "source": ipv4(random).hex(),
        "source6": link_local(random).hex(),
        "neighbours": [each(random).hex() for each in (ipv4, ipv4, link_local, link_local)],
        "lladdr": "020000000009" if dialect == "openbsd" and random.random() < 0.3 else None,
        "passphrase": secret.hex(),
        "vhid": random.randrange(1, 256),
        "counter": random.randrange(2**63),
        "advertise_mac": random.choice(("interface", "interface", "interface", "ucarp", "bsd")),
        "orderly": random.random() < 0.6,
    }


class Wire:
    """The neighbours of a host, and their counters."""

    def __init__(self, random: Random, setup: Document, keys: Sequence[Key]) -> None:
        self.random = random
        self.setup = setup
        self.keys = keys
        self.families = sorted({4 if len(each) == 8 else 6 for each in setup["addresses"]})
        every = [bytes.fromhex(each) for each in setup["neighbours"]]
        self.sources = {
            4: [*every[:2], bytes.fromhex(setup["source"])],
            6: [*every[2:], bytes.fromhex(setup["source6"])],
        }
        if len(self.families) == 2:  # a host remembers four sources
            self.sources = {family: some[1:] for family, some in self.sources.items()}
        self.counter = random.randrange(2**63)

    def draw(self, host: Host, counters: Counters) -> bytes:
        """A frame as it may arrive now."""
        random = self.random
        family = random.choice(self.families)
        source = random.choice(self.sources[family])
        own = source == host.settings.sources[family]
        mac = random.choice((host.settings.mac, host.settings.mac, LOWER, HIGHER))
        frame: dict[str, Any] = {"source": source, "source_mac": mac if own else HIGHER}
        carp = self.draw_carp(host, self.draw_counter(counters))
        frame["destination"] = GROUP if family == 4 else GROUP6
        payload = self.damage(carp, frame, family)
        trail = bytes(random.choice((0, 0, 12, 46)))
        return (ipv4_frame if family == 4 else ipv6_frame)(payload, **frame) + trail

    def draw_counter(self, counters: Counters) -> int:
        random, before = self.random, self.counter
        pick = random.random()
        if counters.order and random.random() < 0.04:
            return random.choice(counters.order[-30:])
        if not self.setup["orderly"]:
            steps = (before + 1, before + 1, before + 1, before, before - 5)
            self.counter = random.choice((*steps, random.randrange(2**63))) % 2**64
            return self.counter
        used = counters.used
        if used and pick >= 0.8 and pick < 0.98:
            return random.choice(used if pick < 0.9 else used[-8:])
        if used and pick < 0.4:
            self.counter = max(before, *used[-1:], *counters.order[-1:]) + 1
        elif not used or pick < 0.8:
            self.counter = before + 1
        else:
            self.counter = random.randrange(2**63)
        return self.counter

    def draw_carp(self, host: Host, counter: int) -> dict[str, Any]:
        random, advbase, advskew = self.random, self.setup["advbase"], self.setup["advskew"]
        base = random.choice((advbase, advbase, advbase, 0, 1, 2, 255, random.randrange(256)))
        skews = (host.advskew, host.advskew, host.advskew, advskew, 0, 1, 240, 254, 255)
        skew = random.choice((*skews, random.randrange(256)))
        if random.random() < 0.05:
            base = skew = 255
        return {
            "vhid": self.setup["vhid"],
            "advbase": base,
            "advskew": skew,
            "demote": random.choice((0, 0, 0, host.demote, 1, 255)),
            "counter": counter,
            "authlen": random.choice((7, 7, 7, 0, 255)),
            "digest": random.choice(self.keys).digest(counter.to_bytes(8, "big")),
        }

    def damage(self, carp: dict[str, Any], frame: dict[str, Any], family: int) -> bytes:
        """The payload; in one of four cases something is not right in it or in the frame."""
        random, pick = self.random, self.random.random()
        if pick < 0.05:
            carp["digest"] = bytes((carp["digest"][0] ^ 1,)) + carp["digest"][1:]
        elif pick < 0.07:
            frame["ttl" if family == 4 else "hop_limit"] = random.choice((254, 1, 0))
        elif pick < 0.09:
            carp["version"] = random.choice((1, 3))
        elif pick < 0.11:
            carp["kind"] = 2
        elif pick < 0.13:
            carp["vhid"] = carp["vhid"] % 255 + 1
        elif pick < 0.15:
            group = frame["destination"]
            frame["destination"] = group[:-1] + b"\x13"
        elif pick < 0.17:
            carp["checksum_error"] = 1
        elif pick < 0.19:
            return carp_header(**carp)[: random.randrange(36)]
        elif family == 4 and pick < 0.21:
            frame["flags"] = random.choice((0x2000, 1, 0x1FFF))
        elif family == 4 and pick < 0.23:
            frame["checksum_error"] = 1
        elif family == 4 and pick < 0.28:
            frame["options"] = bytes([1]) * (4 * random.randrange(1, 11))
        return carp_header(**carp)
