"""Digests that hold link-local addresses, or leave them out: which form each implementation signs.

golden-2.json: 16 advertisements of NetBSD, OpenBSD and FreeBSD, made again here. The recordings:
OpenBSD's carp interface always has an automatic link-local address, so what it accepts is a digest
without link-local addresses, or one with the configured ones and that one.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections import Counter
from typing import Any

import pytest

from carp_fast.capture.pcap import Reader
from carp_fast.engine import _wire
from carp_fast.engine._engine import Engine
from carp_fast.engine._prepared import automatic_link_local, signed_forms
from tests.support.segment import (
    SECOND_NS,
    START_NS,
    Node,
    Segment,
    advertisement,
    carp_digest,
    ip,
    prepared,
)
from tests.support.vectors import VECTORS, engine_advertisement

GOLDEN: list[dict[str, Any]] = json.loads((VECTORS / "golden-2.json").read_text())
FOUR, LOCAL, GLOBAL = ip("10.77.0.100"), ip("fe80::100"), ip("fd77::100")
AUTOMATIC = ip("fe80::200:5eff:fe00:12a")  # that of VHID 42
LLADDR = bytes.fromhex("021122334455")
DIALECTS = ("ucarp", "freebsd", "openbsd")


def of_openbsd(addresses: list[bytes], counter: bytes) -> list[bytes]:
    """The two digests that an OpenBSD with these addresses accepts; it sends the first."""
    without = [each for each in addresses if not each.startswith(b"\xfe\x80")]
    return [
        carp_digest(b"secret", 42, chosen, counter) for chosen in (without, [*addresses, AUTOMATIC])
    ]


def with_prefix(addresses: list[bytes]) -> list[tuple[bytes, int]]:
    return [(each, 24 if len(each) == 4 else 64) for each in addresses]


def sent_by(node: Node) -> bytes:
    """The counter and digest of an advertisement of the node."""
    node.run(START_NS + 10 * SECOND_NS)
    content: bytes = next(done.content for done in node.done if done.action == "ADVERTISE")
    return content[-28:]


# ---------------------------------------------------------------------------------- golden-2.json


def name(vector: dict[str, Any]) -> str:
    return f"{vector['implementation'].split()[0]}-{vector['pcap'].removesuffix('.pcap')}"


def dialect_of(vector: dict[str, Any]) -> str:
    return "openbsd" if vector["implementation"].startswith("OpenBSD") else "freebsd"


def as_in_golden(vector: dict[str, Any]) -> dict[str, Any]:
    """A vector of golden-2.json with the fields that engine_advertisement() reads."""
    families: dict[bool, list[str]] = {False: [], True: []}
    for address in vector["addresses"]:
        families[":" in address].append(address)
    return vector | {
        "case": vector["pcap"],
        "ip_version": vector["family"],
        "ipv4": families[False],
        "ipv6": families[True],
        "lladdr": vector["lladdr"],
    }


def settings_of(vector: dict[str, Any]) -> dict[str, Any]:
    lladdr = vector["lladdr"]
    return {
        "vhid": vector["vhid"],
        "passphrase": bytes.fromhex(vector["key"]),
        "addresses": with_prefix([ip(address) for address in vector["addresses"]]),
        "dialect": dialect_of(vector),
        "lladdr": lladdr and bytes.fromhex(lladdr),
        "peers": [] if vector["frame"].startswith(("01005e", "3333")) else [ip("10.77.0.1")],
    }


def test_there_are_16_more_vectors() -> None:
    made_by = Counter(vector["implementation"].split()[0] for vector in GOLDEN)
    assert made_by == {"FreeBSD": 6, "OpenBSD": 7, "NetBSD": 3}


@pytest.mark.parametrize("vector", GOLDEN, ids=name)
def test_the_digest_is_the_first_form_of_its_dialect(vector: dict[str, Any]) -> None:
    addresses = [ip(address) for address in vector["addresses"]]
    lladdr = bytes.fromhex(vector["lladdr"] or "")
    forms = signed_forms(
        vector["vhid"], addresses, dialect=dialect_of(vector), lladdr=lladdr or None
    )
    counter = bytes.fromhex(vector["counter"])
    key = bytes.fromhex(vector["key"]).ljust(20, b"\0")
    (_, message), *_ = forms
    assert hmac.new(key, message + counter, hashlib.sha1).hexdigest() == vector["digest"]


@pytest.mark.parametrize("vector", GOLDEN, ids=name)
def test_every_byte_of_the_carp_header_is_made_again_by_the_engine(vector: dict[str, Any]) -> None:
    frame = engine_advertisement(as_in_golden(vector), **settings_of(vector))
    assert frame[-36:].hex() == vector["frame"][-72:]
    assert vector["frame"][-72:] == vector["header"] + vector["counter"] + vector["digest"]


def test_whole_frames_of_netbsd_and_of_openbsd_over_ipv6_are_made_again() -> None:
    # FreeBSD has another TOS, and flow labels; OpenBSD numbers its IPv4 packets.
    alike = [
        vector
        for vector in GOLDEN
        if vector["implementation"].startswith("NetBSD")
        or (dialect_of(vector) == "openbsd" and vector["family"] == 6)
    ]
    for vector in alike:
        frame = engine_advertisement(as_in_golden(vector), **settings_of(vector))
        assert frame.hex() == vector["frame"], name(vector)
    assert len(alike) == 4


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("vector", GOLDEN, ids=name)
def test_every_dialect_accepts_it(vector: dict[str, Any], dialect: str) -> None:
    engine = Engine()
    engine.set_interface(0, START_NS, source=ip("10.77.0.2"), source6=ip("fe80::2"))
    engine.add(0, prepared(**settings_of(vector) | {"dialect": dialect}), START_NS)
    assert engine.receive(0, bytes.fromhex(vector["frame"]), START_NS) == "ok"


# --------------------------------------------------------------------------------- the recordings


# Of each recording the addresses configured on both hosts, and how many advertisements it holds.
RECORDINGS: dict[str, tuple[list[bytes], bytes | None, int]] = {
    "ob-link-local-not-signed": ([FOUR, LOCAL, GLOBAL], None, 20),
    "ours-link-local-unsigned-accepted-by-ob": ([FOUR, LOCAL, GLOBAL], None, 22),
    "ob-lladdr-signed": ([FOUR], LLADDR, 15),
    "fb-link-local": ([FOUR, LOCAL, GLOBAL], None, 22),
    "fb-seven-addresses-unsorted": (
        [
            *map(ip, ("10.77.0.120", "10.77.0.9", "10.77.0.200", "10.77.0.100")),
            *map(ip, ("fd77::f", "fd77::2:1", "fd77::100")),
        ],
        None,
        24,
    ),
    "2a-openbsd-linklocal-only": ([LOCAL], None, 32),
    "2b-openbsd-linklocal-dual": ([FOUR, LOCAL, GLOBAL], None, 62),
}


def advertisements_of(recording: str) -> list[bytes]:
    with open(VECTORS / f"{recording}.pcap", "rb") as file:
        frames = [record.data for record in Reader(file, recording)]
    return [frame for frame in frames if _wire.parse(frame)["verdict"] == "ok"]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("recording", RECORDINGS)
def test_every_recorded_form_is_accepted_in_every_dialect(recording: str, dialect: str) -> None:
    addresses, lladdr, count = RECORDINGS[recording]
    node = Node(
        "10.77.0.99",
        on6="fe80::99",
        addresses=with_prefix(addresses),
        dialect=dialect,
        lladdr=lladdr,
    )
    frames = advertisements_of(recording)
    verdicts = Counter(
        node.engine.receive(0, frame, START_NS + number) for number, frame in enumerate(frames)
    )
    assert verdicts == {"ok": count}


@pytest.mark.parametrize("recording", ["2a-openbsd-linklocal-only", "2b-openbsd-linklocal-dual"])
def test_openbsd_refused_what_was_sent_there_and_accepts_what_is_sent_now(recording: str) -> None:
    addresses, _, _ = RECORDINGS[recording]
    refused = accepted = 0
    for frame in advertisements_of(recording):
        heard = _wire.parse(frame)
        digests = of_openbsd(addresses, heard["counter"])
        if heard["source_mac"] == bytes.fromhex("00005e00012a"):
            assert heard["digest"] == digests[0]
            accepted += 1
        else:
            assert heard["digest"] not in digests
            refused += 1
    assert accepted >= 8
    assert refused >= 24
    node = Node("10.77.0.2", on6="fe80::2", addresses=with_prefix(addresses), dialect="openbsd")
    sent = sent_by(node)
    assert sent[8:] in of_openbsd(addresses, sent[:8])


def test_a_faster_host_of_ours_becomes_the_one_master_beside_an_openbsd() -> None:
    # What 2b shows, from the start: OpenBSD takes what fits one of its two digests, no more.
    addresses = [FOUR, LOCAL, GLOBAL]
    node = Node("10.77.0.2", on6="fe80::2", addresses=with_prefix(addresses), dialect="openbsd")
    openbsd = Node(
        "10.77.0.1",
        on6="fe80::b:1",
        addresses=with_prefix([FOUR, GLOBAL]),  # its first form; it knows no configured ones
        dialect="freebsd",
        advskew=100,
    )
    segment = Segment(openbsd)
    segment.run(10)
    assert segment.masters() == [openbsd]
    node.attach(segment.now_ns)
    segment.nodes.append(node)
    segment.run(30)
    assert segment.masters() == [node]
    assert "bad_auth" not in segment.verdicts


# ------------------------------------------------------------------------------ what is sent, when


CHOICES: list[tuple[str, list[bytes], bytes | None, str, list[bytes]]] = [
    # dialect, addresses, lladdr: form, and the addresses that are signed
    ("openbsd", [FOUR], None, "plain", [FOUR]),
    ("openbsd", [FOUR, LOCAL], None, "without", [FOUR]),
    ("openbsd", [LOCAL, GLOBAL], None, "without", [GLOBAL]),
    ("openbsd", [LOCAL], None, "automatic", [LOCAL, AUTOMATIC]),
    ("openbsd", [AUTOMATIC, LOCAL], None, "plain", [LOCAL, AUTOMATIC]),
    ("openbsd", [AUTOMATIC], None, "plain", [AUTOMATIC]),
    ("openbsd", [LOCAL], LLADDR, "without", []),
    ("openbsd", [FOUR, LOCAL], LLADDR, "without", [FOUR]),
    ("openbsd", [ip("fe80:7::100")], None, "automatic", [LOCAL, AUTOMATIC]),
    ("ucarp", [FOUR, LOCAL], None, "with", [FOUR, LOCAL]),
    ("freebsd", [LOCAL], None, "with", [LOCAL]),
    ("freebsd", [LOCAL, AUTOMATIC], None, "plain", [LOCAL, AUTOMATIC]),
    ("freebsd", [FOUR, GLOBAL], None, "plain", [FOUR, GLOBAL]),
]


@pytest.mark.parametrize(("dialect", "addresses", "lladdr", "form", "signed"), CHOICES)
def test_the_form_that_is_sent(
    dialect: str, addresses: list[bytes], lladdr: bytes | None, form: str, signed: list[bytes]
) -> None:
    forms = signed_forms(42, addresses, dialect=dialect, lladdr=lladdr)
    order = sorted(signed, key=lambda each: (len(each), each))
    assert forms[0] == (form, b"\2\1" + (lladdr or b"") + b"\x2a" + b"".join(order))
    assert len({message for _, message in forms}) == len(forms)
    node = Node(
        "10.77.0.2",
        on6="fe80::2",
        addresses=with_prefix(addresses),
        dialect=dialect,
        lladdr=lladdr,
    )
    sent = sent_by(node)
    message = forms[0][1] + sent[:8]
    assert sent[8:] == hmac.new(b"secret".ljust(20, b"\0"), message, hashlib.sha1).digest()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_each_form_is_accepted_and_no_other(dialect: str) -> None:
    verdicts = {}
    forms = {
        "without": [FOUR],
        "with": [FOUR, LOCAL],
        "automatic": [FOUR, LOCAL, AUTOMATIC],
        "automatic alone": [FOUR, AUTOMATIC],
        "of another vhid": [FOUR, LOCAL, ip("fe80::200:5eff:fe00:12b")],
        "none": [],
    }
    ours: dict[str, Any] = {"addresses": with_prefix([FOUR, LOCAL]), "dialect": dialect}
    for form, addresses in forms.items():
        node = Node("10.77.0.2", on6="fe80::2", **ours)
        frame = advertisement(addresses=addresses)
        verdicts[form] = node.engine.receive(0, frame, START_NS)
    assert {form for form, verdict in verdicts.items() if verdict == "ok"} == {
        "without",
        "with",
        "automatic",
    }


def test_without_link_local_addresses_only_an_openbsd_has_the_automatic_one() -> None:
    frame = advertisement(addresses=[FOUR, AUTOMATIC])
    verdicts = [
        Node("10.77.0.2", dialect=dialect).engine.receive(0, frame, START_NS)
        for dialect in DIALECTS
    ]
    assert verdicts == ["bad_auth", "bad_auth", "ok"]


def test_the_automatic_address_comes_from_the_mac() -> None:
    assert automatic_link_local(bytes.fromhex("00005e00012a")) == AUTOMATIC
    assert automatic_link_local(LLADDR) == ip("fe80::11:22ff:fe33:4455")


def test_of_an_lladdr_both_macs_may_have_made_the_automatic_address() -> None:
    own = ip("fe80::11:22ff:fe33:4455")
    for more in ([AUTOMATIC], [own], [AUTOMATIC, own]):
        node = Node(
            "10.77.0.2",
            on6="fe80::2",
            addresses=with_prefix([FOUR, LOCAL]),
            dialect="openbsd",
            lladdr=LLADDR,
        )
        signed = b"".join((FOUR, *sorted([LOCAL, *more])))
        message = b"\2\1" + LLADDR + b"\x2a" + signed + (5).to_bytes(8)
        digest = hmac.new(b"secret".ljust(20, b"\0"), message, hashlib.sha1).digest()
        frame = advertisement(counter=5, digest=digest)
        assert node.engine.receive(0, frame, START_NS) == "ok"


# ----------------------------------------------------------------------------------------- reload


GRACE_NS = 10 * SECOND_NS
OTHER_LOCAL = ip("fe80::101")
CHANGES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"dialect": "freebsd"}, {"dialect": "openbsd"}),
    ({"dialect": "openbsd"}, {"dialect": "ucarp"}),
    ({}, {"addresses": with_prefix([FOUR, OTHER_LOCAL])}),
    # What is sent stays the same, and what others send does not.
    ({"dialect": "openbsd"}, {"dialect": "openbsd", "addresses": with_prefix([FOUR, OTHER_LOCAL])}),
    ({"dialect": "openbsd"}, {"dialect": "openbsd", "addresses": with_prefix([FOUR])}),
    ({"dialect": "openbsd"}, {"dialect": "ucarp", "addresses": with_prefix([FOUR])}),
    ({"dialect": "openbsd"}, {"dialect": "openbsd", "lladdr": LLADDR}),
    ({"dialect": "openbsd", "lladdr": LLADDR}, {"dialect": "openbsd"}),
    ({"dialect": "openbsd", "lladdr": LLADDR}, {"addresses": with_prefix([FOUR])}),
    ({}, {"passphrase": b"changed"}),
    ({"dialect": "openbsd"}, {"dialect": "openbsd", "passphrase": b"changed"}),
]


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_a_reload_keeps_every_former_form_for_the_grace_time(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    base: dict[str, Any] = {"addresses": with_prefix([FOUR, LOCAL]), "alternates": True}
    counter = 0

    def verdict(node: Node, message: bytes, passphrase: bytes, now_ns: int) -> str:
        nonlocal counter
        counter += 1
        number = counter.to_bytes(8)
        digest = hmac.new(passphrase.ljust(20, b"\0"), message + number, hashlib.sha1).digest()
        frame = advertisement(counter=counter, digest=digest)
        word: str = node.engine.receive(0, frame, now_ns)
        return word

    def forms(settings: dict[str, Any]) -> set[tuple[bytes, bytes]]:
        chosen = {"dialect": "ucarp", "lladdr": None, "passphrase": b"secret"} | base | settings
        signed = [address for address, _ in chosen["addresses"]]
        made = signed_forms(42, signed, dialect=chosen["dialect"], lladdr=chosen["lladdr"])
        return {(message, chosen["passphrase"]) for _, message in made}

    node = Node("10.77.0.2", on6="fe80::2", replay="off", **(base | before))
    node.engine.replace(0, prepared(**(base | after)), START_NS, grace_ns=GRACE_NS)
    old, new = forms(before), forms(after)
    kept = sorted(old - new)
    (_, sent), *_ = signed_forms(
        42, [FOUR, LOCAL], dialect=before.get("dialect", "ucarp"), lladdr=before.get("lladdr")
    )
    assert {verdict(node, *each, START_NS + GRACE_NS - 1) for each in new} == {"ok"}
    heard = {each: verdict(node, *each, START_NS + GRACE_NS - 1) for each in kept}
    # There is room for at least four of them; what was sent is always among those kept.
    assert Counter(heard.values())["ok"] >= min(4, len(kept))
    assert heard.get((sent, b"secret"), "ok") == "ok"
    assert {verdict(node, *each, START_NS + GRACE_NS) for each in kept} <= {"bad_auth"}
    assert {verdict(node, *each, START_NS + GRACE_NS) for each in new} == {"ok"}
