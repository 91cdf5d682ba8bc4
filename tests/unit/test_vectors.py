"""Advertisements and elections of other implementations: tests/vectors, read by ours.

golden.json: 50 advertisements made by NetBSD, OpenBSD and FreeBSD, six of them over IPv6;
golden-2.json and link-local addresses: test_vectors_link_local.py.
receive-rules.json: what those three accept. *.pcap: recorded elections.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from carp_fast.capture.pcap import Reader
from carp_fast.engine import _auth, _wire
from carp_fast.engine._engine import Engine
from carp_fast.engine._prepared import signed_message
from carp_fast.engine.reports import DemoteHeard
from tests.support.segment import (
    ADDRESS,
    SECOND_NS,
    START_NS,
    Node,
    carp_digest,
    ip,
    prepared,
)
from tests.support.vectors import (
    VARIANTS,
    VECTORS,
    addresses_of,
    dialect_of,
    engine_advertisement,
    key_of,
    settings_of,
)

GOLDEN: list[dict[str, Any]] = json.loads((VECTORS / "golden.json").read_text())
RULES: dict[str, list[tuple[str, str, dict[str, int]]]] = json.loads(
    (VECTORS / "receive-rules.json").read_text()
)


def name(vector: dict[str, Any]) -> str:
    implementation = vector["implementation"].split()[0]
    return f"{implementation}-{vector['case']}-v{vector['ip_version']}-{vector['counter']}"


def message_of(vector: dict[str, Any]) -> bytes:
    """Version, type, vhid, IPv4 and IPv6 addresses ascending: written out once more here."""
    addresses = {data for data, _ in addresses_of(vector)}
    ascending = sorted(addresses, key=lambda address: (len(address), address))
    return bytes((2, 1, vector["vhid"])) + b"".join(ascending)


def test_there_are_50_vectors() -> None:
    versions = [vector["ip_version"] for vector in GOLDEN]
    assert (len(GOLDEN), versions.count(4), versions.count(6)) == (50, 44, 6)


@pytest.mark.parametrize("form", ["sha-ni", "portable"])
def test_50_digests_of_50(form: str) -> None:
    if _auth.choose(accelerated=form == "sha-ni") != form:
        pytest.skip("this CPU lacks the SHA extensions")
    right = 0
    for vector in GOLDEN:
        message = message_of(vector)
        addresses = [data for data, _ in addresses_of(vector)]
        # OpenBSD hashes a carp lladdr only where the parent has another: not in the one vector.
        assert signed_message(vector["vhid"], addresses) == message
        key = _auth.Key(key_of(vector), message)
        digest, counter = bytes.fromhex(vector["hmac"]), bytes.fromhex(vector["counter"])
        right += key.sign(counter) == digest and key.verify(counter, digest)
    assert _auth.choose() == _auth.SHA1_FORM
    print(f"digests reproduced: {right} of {len(GOLDEN)}")
    assert right == 50


def test_50_headers_of_50_by_the_engine() -> None:
    # Byte for byte as recorded, demote byte and demoted advskew included.
    same = 0
    for vector in GOLDEN:
        assert engine_advertisement(vector)[-36:].hex() == vector["header"], name(vector)
        same += 1
    print(f"headers reproduced: {same} of {len(GOLDEN)}")
    assert same == 50


def test_whole_frames_of_netbsd_and_of_openbsd_over_ipv6() -> None:
    # NetBSD sends TOS 0x10 and IP identification 0 as we do, OpenBSD no traffic class over IPv6:
    # with their MACs, every byte is ours. FreeBSD has its own TOS, OpenBSD its identification.
    alike = [
        vector
        for vector in GOLDEN
        if vector["implementation"].startswith("NetBSD")
        or (dialect_of(vector) == "openbsd" and vector["ip_version"] == 6)
    ]
    for vector in alike:
        assert engine_advertisement(vector).hex() == vector["frame"], name(vector)
    assert len(alike) == 15


@pytest.mark.parametrize("vector", GOLDEN, ids=name)
def test_engine_accepts_each_as_sent(vector: dict[str, Any]) -> None:
    sources: dict[str, Any] = {"source": ip("10.77.0.2"), "source6": ip("2001:db8::2")}
    frame = bytes.fromhex(vector["frame"])
    for dialect in ("ucarp", dialect_of(vector)):
        engine = Engine()
        engine.set_interface(0, START_NS, **sources)
        engine.add(0, prepared(**(settings_of(vector) | {"dialect": dialect})), START_NS)
        assert engine.receive(0, frame, START_NS) == "ok"
        status = engine.host(0)
        assert (status.peer_advbase, status.peer_advskew) == (
            vector["advbase"],
            vector["advskew"],
        )
        assert status.peers[0].demote == vector["demote"]
        told = [report for report in engine.take_reports() if isinstance(report, DemoteHeard)]
        said = vector["demote"] and dialect != "openbsd"
        assert [report.demote for report in told] == [vector["demote"]] * bool(said)
    # And refuses each for a host with one more address, or another passphrase.
    for change in (
        {"addresses": [*addresses_of(vector), (ip("10.77.0.101"), 24), (ip("2001:db8::7"), 64)]},
        {"passphrase": b"another"},
    ):
        other = Engine()
        other.set_interface(0, START_NS, **sources)
        other.add(0, prepared(**(settings_of(vector) | change)), START_NS)
        assert other.receive(0, frame, START_NS) == "bad_auth"


WORDS = {
    "badttl": "bad_ttl",
    "badsum": "bad_checksum",
    "badauth": "bad_auth",
    "badver": "bad_version",
    "badlen": "bad_length",
    "badvhid": "bad_vhid",
}
# Where we differ from all three, and why.
STRICTER = {
    "type 2": "bad_type: only type 1 is an advertisement; the BSDs do not look",
    "type 0": "bad_type: only type 1 is an advertisement; the BSDs do not look",
}


@pytest.mark.parametrize("implementation", RULES)
def test_frames_are_judged_as_each_implementation_does_but_for_what_is_listed(
    implementation: str,
) -> None:
    rules = RULES[implementation]
    assert [case for case, *_ in rules] == list(VARIANTS)
    node = Node("10.77.0.2")
    differs = set()
    for step, (case, outcome, moved) in enumerate(rules):
        wanted, frame = VARIANTS[case]
        before = node.engine.interface_counters(0)
        verdict = node.engine.receive(0, frame, START_NS + step * SECOND_NS)
        assert verdict == wanted, case
        after = node.engine.interface_counters(0)
        counter = "advertisements_heard" if verdict == "ok" else verdict
        assert {word for word in after if after[word] != before[word]} == {counter}, case
        assert after[counter] == before[counter] + 1, case
        if (verdict == "ok") != (outcome == "ACCEPTED"):
            differs.add(case)
        else:
            assert {WORDS[word] for word in moved if word != "ipackets"} <= {verdict}, case
        print(f"{implementation:8s} {case:40s} {outcome:9s} {verdict:13s} {STRICTER.get(case, '')}")
    assert differs == set(STRICTER)


RECORDINGS = {
    "el1-bsd-master-killed-ucarp-takes-over": {"10.77.0.1": 21, "10.77.0.2": 9},
    "el4-freebsd13-vs-ucarp": {"10.77.0.1": 22, "10.77.0.2": 11},
    "el7-openbsd-demote-beats-skew": {"10.77.0.1": 10, "10.77.0.3": 7},
    "netbsd-one-v4": {"10.77.0.1": 4},
}


@pytest.mark.parametrize("recording", RECORDINGS)
def test_recorded_advertisements_verify(recording: str) -> None:
    key = _auth.Key(b"secret", bytes((2, 1, 42)) + ADDRESS)
    node = Node("10.77.0.99")
    heard: dict[str, int] = {}
    with open(VECTORS / f"{recording}.pcap", "rb") as file:
        frames = [record.data for record in Reader(file, recording)]
    for number, frame in enumerate(frames):
        fields = _wire.parse(frame)
        if fields["verdict"] == "not_carp":
            assert node.engine.receive(0, frame, START_NS + number) == "not_carp"
            continue
        assert fields["verdict"] == "ok"
        assert fields["vhid"] == 42
        assert key.verify(fields["counter"], fields["digest"])
        assert fields["digest"] == carp_digest(b"secret", 42, [ADDRESS], fields["counter"])
        assert node.engine.receive(0, frame, START_NS + number) == "ok"
        source = ".".join(str(byte) for byte in fields["source"])
        heard[source] = heard.get(source, 0) + 1
    assert heard == RECORDINGS[recording]
    counters = node.engine.interface_counters(0)
    assert counters.pop("advertisements_heard") == sum(heard.values())
    assert not any(counters.values())
