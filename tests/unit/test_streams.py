"""The virtual hosts of a flood: from a configuration, and made up."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from carp_fast.config.load import load
from carp_fast.engine._auth import Key
from carp_fast.loadtest.streams import (
    Place,
    StreamError,
    Streams,
    from_configuration,
    groups_of,
    made_up,
    named,
)
from tests.support.segment import carp_digest, ip

PLACE = Place(b"\2\0\0\0\0\5", ip("10.0.0.5"), ip("fe80::5"), True)
CONFIGURATION = """
[defaults]
passphrase = "secret"
[[virtual_host]]
interface = "eth0"
vhid = 7
addresses = ["10.0.0.100/24", "2001:db8::100/64", "fe80::100/64"]
advbase = 2
advskew = 128
unsigned_addresses = ["10.0.0.200/24"]
[[virtual_host]]
interface = "eth0"
vhid = 8
addresses = "10.0.0.101/24"
source = "10.0.0.9"
advertise_mac = "bsd"
destination = "239.1.2.3"
[[virtual_host]]
interface = "eth1"
vhid = 9
addresses = "10.0.1.100/24"
peers = ["10.0.1.7"]
"""


@pytest.fixture
def configured(tmp_path: Path) -> Path:
    file = tmp_path / "carp-fast.toml"
    file.touch(mode=0o600)
    file.write_text(CONFIGURATION)
    return file


def right(streams: Streams, number: int, addresses: list[str]) -> bool:
    """Whether a stream signs as the standard library does, over these addresses."""
    stream = streams.streams[number]
    counter = (77).to_bytes(8, "big")
    expected = carp_digest(stream.passphrase, stream.vhid, map(ip, addresses), counter)
    return Key(stream.passphrase, stream.message).sign(counter) == expected


def test_a_configuration_of_both_families(configured: Path) -> None:
    found = from_configuration(load(configured), "eth0", PLACE)
    assert [(each.vhid, each.source, each.destination) for each in found.streams] == [
        (7, ip("10.0.0.5"), ip("224.0.0.18")),
        (7, ip("fe80::5"), ip("ff02::12")),
        (8, ip("10.0.0.9"), ip("239.1.2.3")),
    ]
    assert [each.destination_mac.hex() for each in found.streams] == [
        "01005e000012",
        "333300000012",
        "01005e010203",
    ]
    assert [each.source_mac for each in found.streams] == [
        PLACE.mac,
        PLACE.mac,
        bytes.fromhex("00005e000108"),
    ]
    first = found.streams[0]
    assert (first.advbase, first.advskew, first.interval_s) == (2, 128, 2.5)
    signed = ["10.0.0.100", "2001:db8::100", "fe80::100"]
    assert right(found, 0, signed)
    assert right(found, 1, signed)
    assert right(found, 2, ["10.0.0.101"])
    announced = ["10.0.0.100", "2001:db8::100", "fe80::100", "10.0.0.200", "10.0.0.101"]
    assert [(each.mac, each.address, each.router) for each in found.announcements] == [
        (PLACE.mac, ip(address), True) for address in announced
    ]


def test_only_some_and_all_where_the_interface_is_unknown(configured: Path) -> None:
    configuration = load(configured)
    assert [
        s.vhid for s in from_configuration(configuration, "eth0", PLACE, vhids=[8]).streams
    ] == [8]
    with pytest.raises(StreamError, match="eth1/9 advertises to peers: give their MAC with"):
        from_configuration(configuration, "s1", PLACE)
    mac = b"\2\0\0\0\0\7"
    found = from_configuration(configuration, None, PLACE, peer_mac=mac)
    assert [each.vhid for each in found.streams] == [7, 7, 8, 9]
    assert (found.streams[3].destination, found.streams[3].destination_mac) == (ip("10.0.1.7"), mac)
    with pytest.raises(StreamError, match="has none of the 2 chosen vhids"):
        from_configuration(configuration, "eth0", PLACE, vhids=[1, 2])


def test_made_up_ones() -> None:
    alone = made_up([1, 200], [], b"x", PLACE)
    assert right(alone, 0, ["198.51.100.1"])
    assert right(alone, 1, ["198.51.100.200"])
    addresses = [ip("10.0.0.1"), ip("2001:db8::1")]
    one_each = made_up([1, 2], addresses, b"x", PLACE)
    assert right(one_each, 0, ["10.0.0.1"])
    assert right(one_each, 1, ["2001:db8::1"])
    assert [len(each.source) for each in one_each.streams] == [4, 16]
    shared = made_up([1, 2, 3], addresses, b"x", PLACE)
    assert len(shared.streams) == 6
    assert all(right(shared, number, ["10.0.0.1", "2001:db8::1"]) for number in range(6))
    for vhids in ([], [0], [256]):
        with pytest.raises(StreamError, match="from 1 to 255"):
            made_up(vhids, [], b"x", PLACE)


def test_what_was_sent_is_named() -> None:
    found = named([(7, ip("fe80::5"), ip("ff02::12"), 5, 3, 1, 4, 2)])
    uncounted = {"bad_length": 4, "vrrp": 2}
    place = {"source": "fe80::5", "destination": "ff02::12", "vlan": 5}
    assert msgspec.to_builtins(found) == [
        {"vhid": 7, **place, "sent": 3, "replayed": 1, **uncounted}
    ]


def test_groups_are_those_of_the_frames() -> None:
    four, six = ip("224.0.0.18"), ip("ff02::12")
    streams = made_up([1, 2], [ip("10.0.0.1"), ip("2001:db8::1")], b"x", PLACE).streams
    assert sorted(groups_of(streams, {})) == [four, six]
    walk = ("increment", range(0xEF000001, 0xEF000003))
    assert sorted(groups_of(streams, {"destination": walk})) == [
        ip("239.0.0.1"),
        ip("239.0.0.2"),
        six,
    ]
    peers = [each._replace(destination=ip("10.0.0.7")) for each in streams if len(each.source) == 4]
    assert list(groups_of(peers, {})) == []
