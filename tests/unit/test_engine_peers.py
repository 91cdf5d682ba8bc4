"""Unicast peers: one frame for each, and a list of sources in place of the TTL."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.segment import (
    ADDRESS,
    ADDRESS6,
    SECOND_NS,
    START_NS,
    Node,
    advertisement,
    carp_header,
    ip,
    ipv4_frame,
    ipv6_frame,
    prepared,
    read_advertisement,
)

PEERS = [ip("192.0.2.1"), ip("198.51.100.1")]
PEER6 = ip("2001:db8:1::1")


def unicast(node: Node, **frame: Any) -> str:
    """A right advertisement to the node's own address, or what `frame` changes about it."""
    wanted = {"source": PEERS[0], "destination": ip(node.source)}
    payload = frame.pop("payload", carp_header())
    verdict: str = node.engine.receive(0, ipv4_frame(payload, **(wanted | frame)), START_NS)
    return verdict


def test_each_peer_gets_a_frame_with_a_counter_of_its_own() -> None:
    node = Node("10.77.0.2", peers=PEERS, counter=5)
    node.run(START_NS + 3 * SECOND_NS)
    frames = [done.content for done in node.done if done.action == "ADVERTISE"]
    assert [frame[30:34] for frame in frames] == PEERS
    assert [read_advertisement(frame).counter for frame in frames] == [6, 7]
    assert {frame[22] for frame in frames} == {255}


@pytest.mark.parametrize("ttl", [1, 60, 255])
def test_a_listed_source_may_come_from_afar(ttl: int) -> None:
    assert unicast(Node("10.77.0.2", peers=PEERS), ttl=ttl) == "ok"


def test_what_is_refused() -> None:
    node = Node("10.77.0.2", peers=PEERS)
    assert unicast(node, source=ip("192.0.2.9")) == "bad_source"
    # In the order of the checks: the source before the checksum, the destination after.
    assert unicast(node, source=ip("192.0.2.9"), payload=carp_header(checksum_error=1)) == (
        "bad_source"
    )
    assert unicast(node, payload=carp_header(checksum_error=1)) == "bad_checksum"
    assert unicast(node, destination=ip("10.77.0.3")) == "bad_destination"
    assert unicast(node, payload=carp_header(vhid=7)) == "bad_vhid"
    assert unicast(node, payload=carp_header(passphrase=b"wrong")) == "bad_auth"
    # The group is not ours: nobody is joined to it.
    assert node.engine.receive(0, advertisement(), START_NS) == "bad_destination"
    assert node.engine.host(0).state == "BACKUP"


def test_a_host_of_a_group_takes_no_unicast() -> None:
    node = Node("10.77.0.2")
    assert unicast(node) == "bad_destination"
    assert unicast(node, ttl=7) == "bad_destination"


def test_ttl_is_looked_at_where_it_is_a_group_or_broadcast() -> None:
    node = Node("10.77.0.2", peers=PEERS)
    for destination in ("224.0.0.18", "239.1.1.1", "255.255.255.255"):
        assert unicast(node, destination=ip(destination), ttl=254) == "bad_ttl"
    frame = ipv6_frame(carp_header(), hop_limit=254)
    assert node.engine.receive(0, frame, START_NS) == "bad_ttl"


def test_two_hosts_of_one_vhid_with_other_peers() -> None:
    node = Node("10.77.0.2", peers=[PEERS[0]])
    node.engine.add(1, prepared(peers=[PEERS[1]]), START_NS)
    assert unicast(node, source=PEERS[1]) == "ok"
    heard = [node.engine.host(slot).counters["advertisements_heard"] for slot in (0, 1)]
    assert heard == [0, 1]
    assert unicast(node, source=ip("192.0.2.9")) == "bad_source"


def test_peers_of_both_families() -> None:
    both = [(ADDRESS, 24), (ADDRESS6, 64)]
    node = Node(
        "10.77.0.2",
        on6="fe80::2",
        source6=ip("2001:db8::2"),
        peers=[PEERS[0], PEER6],
        addresses=both,
    )
    assert node.engine.host(0).families == [4, 6]
    payload = carp_header(addresses=[ADDRESS, ADDRESS6])
    frame = ipv6_frame(payload, source=PEER6, destination=ip("2001:db8::2"), hop_limit=60)
    assert node.engine.receive(0, frame, START_NS) == "ok"
    frame = ipv6_frame(payload, source=PEER6, destination=ip("2001:db8::3"), hop_limit=60)
    assert node.engine.receive(0, frame, START_NS) == "bad_destination"
    frame = ipv6_frame(payload, source=ip("2001:db8:1::2"), destination=ip("2001:db8::2"))
    assert node.engine.receive(0, frame, START_NS) == "bad_source"


def test_ipv6_addresses_may_be_signed_for_peers_of_ipv4() -> None:
    node = Node("10.77.0.2", peers=PEERS, addresses=[(ADDRESS6, 64)])
    assert node.engine.host(0).families == [4]
    assert unicast(node, payload=carp_header(addresses=[ADDRESS6])) == "ok"


def test_sixteen_peers_and_no_more() -> None:
    peers = [bytes((192, 0, 2, n)) for n in range(1, 18)]
    node = Node("10.77.0.2", peers=peers[:16])
    node.run(START_NS + 3 * SECOND_NS)
    frames = [done.content for done in node.done if done.action == "ADVERTISE"]
    assert [frame[30:34] for frame in frames] == peers[:16]
    # All of them are known as ours when they come back.
    looped = [
        node.engine.receive(0, _to(node, frame), START_NS + 4 * SECOND_NS) for frame in frames
    ]
    assert set(looped) == {"bad_source"}
    with pytest.raises(ValueError, match="peers"):
        prepared(peers=peers)


def _to(node: Node, frame: bytes) -> bytes:
    """A frame of the node's turned round by somebody: to the node itself."""
    return ipv4_frame(frame[34:], source=ip(node.source), destination=ip(node.source))
