"""What a configuration says of the wire: addresses of both families, groups, peers, dialects.

In the tables of faults FILE stands for the path of the file and DIR for its directory.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carp_fast.config.load import VirtualHost
from tests.support.configurations import HOST, TABLE, fault_lines, host, read, write

NO_ADDRESS = "is not an IPv4 or IPv6 address; "
EXAMPLE = "must be one such as 192.0.2.10/24"
EXAMPLE6 = "must be one such as 2001:db8::10/64"
TEMPLATES = "{vhid}, {number}, {index} or {ADDRESS+vhid}, {ADDRESS+number}, {ADDRESS+index}"
GROUP = "must be an IPv4 multicast group (224.0.0.0/4)"
GROUP6 = 'must be an IPv6 multicast group (ff00::/8), preferably link-local: "ff02::12"'
SOURCE = "must be an address of a host, without prefix, or a list of one for each family"
PEERS = "must be a list of at most 16 addresses of other hosts, without prefix"
RESERVED = (
    "is not an address of a host; allowed: any but 0.0.0.0/8, 127.0.0.0/8, 224.0.0.0/4 and "
    "240.0.0.0/4"
)
ENDS, OR_31 = "address of its prefix; allowed: an address from", ", or the prefix length 31 or 32"
OF_24 = f"{ENDS} 192.0.2.1 to 192.0.2.254{OR_31}"
RESERVED6 = "is not an address of a host; allowed: any but ::, ::1, ff00::/8 and ::ffff:0:0/96"
NUMBER = '{number} needs an interface with a range, such as "vlan[100-163]"'
MAC = 'must be the MAC of a host such as "02:00:00:00:00:01"'
NOT_A_HOST = "is not the address of a host; "
SCOPE = "has a scope id, but the interface is the scope; "
HIGHEST = ":".join(["ffff"] * 8)
ONCE = "allowed: one virtual host for each interface, destination and vhid"

KEY_FAULTS = [
    ("addresses", '"192.0.2.300/24"', f"{NO_ADDRESS}{EXAMPLE}"),
    ("addresses", '"192.0.2.010"', f"{NO_ADDRESS}{EXAMPLE}"),
    ("addresses", '"192.0.2.1/33"', f"has no prefix length from 1 to 32; {EXAMPLE}"),
    ("addresses", '"192.0.2.1/0"', f"has no prefix length from 1 to 32; {EXAMPLE}"),
    ("addresses", '"192.0.2.1/255.255.255.0"', f"has no prefix length from 1 to 32; {EXAMPLE}"),
    ("addresses", '"{192.0.2.1+index}24"', f"has no prefix length from 1 to 32; {EXAMPLE}"),
    ("addresses", '"0.0.0.0/8"', RESERVED),
    ("addresses", '"0.1.2.3"', RESERVED),
    ("addresses", '"127.0.0.1"', RESERVED),
    ("addresses", '"127.255.255.254/8"', RESERVED),
    ("addresses", '"224.0.0.18"', RESERVED),
    ("addresses", '"239.255.255.255/32"', RESERVED),
    ("addresses", '"240.0.0.1"', RESERVED),
    ("addresses", '"255.255.255.255"', RESERVED),
    ("unsigned_addresses", '"127.0.0.1"', RESERVED),
    ("addresses", '"192.0.2.0/24"', f"is the network {OF_24}"),
    ("addresses", '"192.0.2.255/24"', f"is the broadcast {OF_24}"),
    ("unsigned_addresses", '"192.0.2.255/24"', f"is the broadcast {OF_24}"),
    ("addresses", '"10.0.0.0/8"', f"is the network {ENDS} 10.0.0.1 to 10.255.255.254{OR_31}"),
    ("addresses", '"192.0.2.7/30"', f"is the broadcast {ENDS} 192.0.2.5 to 192.0.2.6{OR_31}"),
    ("addresses", '"128.0.0.0/1"', f"is the network {ENDS} 128.0.0.1 to 255.255.255.254{OR_31}"),
    (
        "addresses",
        '"192.0.{vhid}.0/24"',
        f'for eth0/7: "192.0.7.0/24" is the network {ENDS} 192.0.7.1 to 192.0.7.254{OR_31}',
    ),
    (
        "addresses",
        '"{192.0.2.248+vhid}/24"',
        f"for eth0/7: 192.0.2.255/24 is the broadcast {OF_24}",
    ),
    ("addresses", '"{126.255.255.255+vhid}"', f"for eth0/7: 127.0.0.6 {RESERVED}"),
    ("addresses", '"2001:db8::g/64"', f"{NO_ADDRESS}{EXAMPLE6}"),
    ("addresses", '"2001:db8::10/129"', f"has no prefix length from 1 to 128; {EXAMPLE6}"),
    ("addresses", '"2001:db8::10/0"', f"has no prefix length from 1 to 128; {EXAMPLE6}"),
    ("addresses", '"2001:db8::10/1000"', f"has no prefix length from 1 to 128; {EXAMPLE6}"),
    ("addresses", '"{2001:db8::1+index}/"', f"has no prefix length from 1 to 128; {EXAMPLE6}"),
    ("addresses", '"fe80::1%eth0/64"', f"{SCOPE}{EXAMPLE6}"),
    ("addresses", '"::/64"', RESERVED6),
    ("addresses", '"::1"', RESERVED6),
    ("addresses", '"ff02::12"', RESERVED6),
    ("addresses", '"::ffff:192.0.2.1"', RESERVED6),
    ("addresses", "1", "must be an address, or a list of them"),
    ("addresses", '"10.0.0.{x}"', f'"{{x}}" is unknown; allowed in an address: {TEMPLATES}'),
    ("addresses", '"10.0.0.{vhid"', f"a brace has no partner; allowed in an address: {TEMPLATES}"),
    ("addresses", '"10.{number}.0.1"', NUMBER),
    ("addresses", '"{10.0.0.1+number}"', NUMBER),
    ("addresses", '"{2001:db8::+number}"', NUMBER),
    (
        "addresses",
        '"1{10.0.0.1+index}"',
        "must have {ADDRESS+...} first, followed by /PREFIX or nothing",
    ),
    ("addresses", '"{10.0.0+index}"', f'{NO_ADDRESS}must be an address in "{{10.0.0+index}}"'),
    ("addresses", '"{::g+index}"', f'{NO_ADDRESS}must be an address in "{{::g+index}}"'),
    (
        "addresses",
        '"{255.255.255.249+vhid}"',
        "for eth0/7: goes beyond 255.255.255.255; allowed: a lower ADDRESS or range",
    ),
    ("addresses", '"{255.255.255.248+vhid}"', f"for eth0/7: 255.255.255.255 {RESERVED}"),
    (
        "addresses",
        f'"{{{HIGHEST[:-1]}9+vhid}}"',
        f"for eth0/7: goes beyond {HIGHEST}; allowed: a lower ADDRESS or range",
    ),
    ("addresses", f'"{{fe{HIGHEST[2:-1]}a+vhid}}"', f"for eth0/7: ff00::1 {RESERVED6}"),
    ("addresses", '"10.0.0.25{vhid}"', f'for eth0/7: "10.0.0.257" {NO_ADDRESS}{EXAMPLE}'),
    (
        "addresses",
        '"2001:db8::1234{vhid}"',
        f'for eth0/7: "2001:db8::12347" {NO_ADDRESS}{EXAMPLE6}',
    ),
    ("addresses", '"ff02::{vhid}/64"', f'for eth0/7: "ff02::7/64" {RESERVED6}'),
    ("unsigned_addresses", '"x"', f"{NO_ADDRESS}{EXAMPLE}"),
    ("source", '"eth0"', f"{NO_ADDRESS}{SOURCE}"),
    ("source", '"192.0.2.1/24"', f"{NO_ADDRESS}{SOURCE}"),
    ("source", '"224.0.0.1"', f"{NOT_A_HOST}{SOURCE}"),
    ("source", '"0.0.0.0"', f"{NOT_A_HOST}{SOURCE}"),
    ("source", '"127.0.0.1"', f"{NOT_A_HOST}{SOURCE}"),
    ("source", '"0.0.0.1"', f"{NOT_A_HOST}{SOURCE}"),
    ("source", '"240.0.0.1"', f"{NOT_A_HOST}{SOURCE}"),
    ("source", '"ff02::1"', f"{NOT_A_HOST}{SOURCE}"),
    ("source", '"fe80::1%eth0"', f"{SCOPE}{SOURCE}"),
    ("source", '["192.0.2.1", "192.0.2.2"]', f"has two of one family; {SOURCE}"),
    ("source", '["fe80::1", "192.0.2.1", "fe80::2"]', f"has two of one family; {SOURCE}"),
    ("source", "1", SOURCE),
    ("source", '["192.0.2.1", 1]', SOURCE),
    ("source6", '"fe80::1"', "unknown key; the nearest known one is source"),
    ("destination", '"192.0.2.1"', f"is not multicast; {GROUP}"),
    ("destination", '"ff02::12"', f"is IPv6, as destination6 is; {GROUP}"),
    ("destination", '"all"', f"{NO_ADDRESS}{GROUP}"),
    ("destination6", '"2001:db8::1"', f"is not multicast; {GROUP6}"),
    ("destination6", '"224.0.0.18"', f"is IPv4, as destination is; {GROUP6}"),
    ("destination6", '"ff01::12"', f"has a scope that never leaves the host; {GROUP6}"),
    ("destination6", '"ff02::12%eth0"', f"{SCOPE}{GROUP6}"),
    ("broadcast", '"yes"', "must be true or false"),
    ("peers", '"192.0.2.2"', PEERS),
    ("peers", '["192.0.2.2", "x"]', f'"x" {NO_ADDRESS}{PEERS}'),
    ("peers", '["224.0.0.18"]', f'"224.0.0.18" {NOT_A_HOST}{PEERS}'),
    ("peers", '["::1"]', f'"::1" {NOT_A_HOST}{PEERS}'),
    ("peers", '["fe80::1%eth0"]', f'"fe80::1%eth0" {SCOPE}{PEERS}'),
    ("peers", '["2001:db8::2", "2001:DB8:0::2"]', f"holds 2001:db8::2 twice; {PEERS}"),
    ("advertise_mac", '"virtual"', 'must be "interface" or "ucarp" or "bsd"'),
    ("dialect", '"vrrp"', 'must be "ucarp" or "freebsd" or "openbsd"'),
    ("replay", '"on"', 'must be "off" or "learn" or "strict"'),
    ("lladdr", '"02:00:00:00:00"', MAC),
    ("lladdr", '"03:00:00:00:00:01"', f"is not the MAC of a host; {MAC}"),
    ("lladdr", '"00:00:00:00:00:00"', f"is not the MAC of a host; {MAC}"),
    (
        "lladdr",
        '"02:00:00:00:00:01"',
        'is used only in dialect "openbsd"; allowed: leave the key out',
    ),
    ("preferred", "0", "must be true or false"),
    (
        "address_mac",
        '"virtual"',
        'not available in this version; allowed: "interface", or leave the key out',
    ),
]


@pytest.mark.parametrize(("key", "value", "text"), KEY_FAULTS)
def test_a_fault_of_one_key(tmp_path: Path, key: str, value: str, text: str) -> None:
    (line,) = fault_lines(write(tmp_path, host(**{key: value})))
    assert line == f"{TABLE}{key} = {value}: {text}"


def only(directory: Path, text: str) -> VirtualHost:
    (made,) = read(directory, text).virtual_hosts
    return made


# ------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("2001:DB8:0:0:0::A/064", "2001:db8::a/64"),
        ("2001:db8:0:1:0:0:0:1", "2001:db8:0:1::1/128"),
        ("64:ff9b::192.0.2.1/96", "64:ff9b::c000:201/96"),
        ("fe80::1/64", "fe80::1/64"),
        ("FEC0::{vhid}/10", "fec0::7/10"),
        ("{2001:DB8:0:0::fff9+vhid}/112", "2001:db8::1:0/112"),
        ("{192.0.2.250+vhid}", "192.0.3.1/32"),
    ],
)
def test_an_address_has_one_form(tmp_path: Path, written: str, canonical: str) -> None:
    made = only(tmp_path, host(addresses=f'"{written}"'))
    assert made.addresses == (canonical,)


@pytest.mark.parametrize("template", ["{{2001:db8::1+{}}}/64", "{{fd00:ffff:ffff:ffff::+{}}}"])
@pytest.mark.parametrize("field", ["vhid", "number", "index"])
def test_ipv6_templates_count(tmp_path: Path, template: str, field: str) -> None:
    text = host(
        interface='"vlan[100-163]"', vhid='"1-255"', addresses=f'"{template.format(field)}"'
    )
    base = ipaddress.IPv6Address(template[2:].split("+", maxsplit=1)[0])
    prefix = "64" if template.endswith("/64") else "128"
    hosts = read(tmp_path, text).virtual_hosts
    assert len(hosts) == 64 * 255
    for index, each in enumerate(hosts):
        added = {"vhid": each.vhid, "number": int(each.interface[4:]), "index": index}[field]
        assert each.addresses == (f"{base + added}/{prefix}",)


ipv6_hosts = st.integers(2**32 * 0x10000, (0xFF << 120) - 1).map(ipaddress.IPv6Address)


@settings(deadline=None, max_examples=50)
@given(ipv6_hosts, st.integers(1, 128))
def test_every_way_to_write_an_address_is_the_same_one(
    address: ipaddress.IPv6Address, prefix: int
) -> None:
    with TemporaryDirectory() as name:
        for written in (str(address), address.exploded.upper()):
            made = only(Path(name), host(addresses=f'"{written}/{prefix}"'))
            assert made.addresses == (f"{address}/{prefix}",)


def test_both_families_in_one_list(tmp_path: Path) -> None:
    both = '["2001:db8::10/64", "192.0.2.10/24", "fe80::10/64"]'
    made = only(tmp_path, host(addresses=both, unsigned_addresses='["2001:db8::11"]'))
    assert made.addresses == ("2001:db8::10/64", "192.0.2.10/24", "fe80::10/64")
    assert made.families == (4, 6)
    assert made.destinations == ("224.0.0.18", "ff02::12")
    assert made.identity == ("eth0", ("224.0.0.18", "ff02::12"), 7)


@pytest.mark.parametrize(
    ("addresses", "families", "destinations"),
    [
        ('"192.0.2.10"', (4,), ("224.0.0.18",)),
        ('"2001:db8::10"', (6,), ("ff02::12",)),
    ],
)
def test_the_signed_addresses_decide_on_the_families(
    tmp_path: Path, addresses: str, families: tuple[int, ...], destinations: tuple[str, ...]
) -> None:
    unsigned = '["192.0.2.20", "2001:db8::20"]'
    made = only(tmp_path, host(addresses=addresses, unsigned_addresses=unsigned))
    assert (made.families, made.destinations) == (families, destinations)


def test_an_address_that_repeats_in_another_form(tmp_path: Path) -> None:
    text = host(addresses='["2001:db8::1/64", "2001:DB8:0::1"]')
    assert fault_lines(write(tmp_path, text)) == [
        f'{TABLE}addresses = "2001:db8::1/128": eth0/7 holds it twice; allowed: once, signed or '
        "unsigned"
    ]


HELD = (
    "192.0.2.0/31 192.0.2.255/31 192.0.2.0/32 192.0.2.255 10.0.1.0/16 1.0.0.1/8 126.255.255.254"
    " 223.255.255.254 128.0.0.1/1 2001:db8::/64 2001:db8::ff/120"
)


@pytest.mark.parametrize("address", HELD.split())
def test_an_address_that_a_host_can_have(tmp_path: Path, address: str) -> None:
    made = only(tmp_path, host(addresses=f'"{address}"'))
    assert made.addresses == (address if "/" in address else f"{address}/32",)


@pytest.mark.parametrize("interface", ['"lo"', '["eth0", "lo"]'])
def test_the_loopback_interface(tmp_path: Path, interface: str) -> None:
    assert fault_lines(write(tmp_path, host(interface=interface))) == [
        f'{TABLE}interface = "lo": is the loopback interface, with no other host; allowed: Ethernet'
    ]
    assert only(tmp_path, host(interface='"lo0"')).interface == "lo0"


def test_an_ipv6_address_that_two_virtual_hosts_hold(tmp_path: Path) -> None:
    text = host(addresses='"2001:db8::1/64"') + host(vhid="8", addresses='"2001:db8:0::1"')
    (line,) = read(tmp_path, text).warnings
    assert 'addresses = "2001:db8::1/128": held by both eth0/8 and eth0/7' in line


# ------------------------------------------------------------------------------ identities, groups


def test_one_vhid_in_two_families_is_two_virtual_hosts(tmp_path: Path) -> None:
    made = read(tmp_path, HOST + host(addresses='"2001:db8::1"')).virtual_hosts
    assert [each.identity for each in made] == [
        ("eth0", ("224.0.0.18",), 7),
        ("eth0", ("ff02::12",), 7),
    ]


BOTH = '["192.0.2.11", "2001:db8::11"]'
CLASHES = {
    "one family in common": (HOST + host(addresses=BOTH), "224.0.0.18"),
    "the other family in common": (
        host(addresses='"2001:db8::1"', destination='"239.0.0.1"')
        + host(addresses=BOTH, destination='"239.0.0.2"'),
        "ff02::12",
    ),
    "both families": (
        host(addresses=BOTH) + host(addresses=BOTH),
        "224.0.0.18 and ff02::12",
    ),
    "a group written in two ways": (
        host(addresses='"2001:db8::1"', destination6='"ff05::0:1"')
        + host(addresses='"2001:db8::2"', destination6='"FF05::1"'),
        "ff05::1",
    ),
    "peers that overlap": (
        host(peers='["192.0.2.2", "192.0.2.3"]') + host(peers='["192.0.2.4", "192.0.2.3"]'),
        "192.0.2.3",
    ),
}


@pytest.mark.parametrize(("text", "shared"), CLASHES.values(), ids=CLASHES)
def test_virtual_hosts_that_share_a_destination_clash(
    tmp_path: Path, text: str, shared: str
) -> None:
    (line,) = fault_lines(write(tmp_path, text))
    assert line == (
        f"FILE: virtual_host[2]: vhid = 7: eth0/7 with destination {shared} "
        f"exists in FILE:2: virtual_host[1]; {ONCE}"
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"destination": '"239.0.0.1"'}, {"destination": '"239.0.0.2"'}),
        ({"peers": '["192.0.2.2"]'}, {"peers": '["192.0.2.3"]'}),
        ({"peers": '["192.0.2.2"]'}, {}),
        ({"addresses": BOTH, "peers": '["192.0.2.2"]'}, {"addresses": '"2001:db8::1"'}),
    ],
)
def test_virtual_hosts_that_share_none_live_side_by_side(
    tmp_path: Path, one: dict[str, str], other: dict[str, str]
) -> None:
    first, second = read(tmp_path, host(**one) + host(**other)).virtual_hosts
    assert first.identity != second.identity


def test_more_than_255_vhids_on_a_segment(tmp_path: Path) -> None:
    text = "".join(
        host(
            vhid='"1-255"',
            addresses=f'["{{10.0.{number}.0+vhid}}", "{{2001:db8:0:{number}::+vhid}}/64"]',
            destination=f'"239.0.0.{number}"',
            destination6=f'"ff02::1:{number}"',
        )
        for number in range(1, 5)
    )
    made = read(tmp_path, text).virtual_hosts
    assert len({each.identity for each in made}) == len(made) == 4 * 255
    (line,) = fault_lines(write(tmp_path, text + host(vhid="9", destination='"239.0.0.3"')))
    assert "eth0/9 with destination 239.0.0.3 exists in FILE:18: virtual_host[3]" in line


# ----------------------------------------------------------------------------------------- sources


@pytest.mark.parametrize(
    ("value", "source", "source6"),
    [
        ('"192.0.2.1"', "192.0.2.1", None),
        ('"FE80::01"', None, "fe80::1"),
        ('["2001:db8::1", "192.0.2.1"]', "192.0.2.1", "2001:db8::1"),
        ("[]", None, None),
    ],
)
def test_a_source_for_each_family(
    tmp_path: Path, value: str, source: str | None, source6: str | None
) -> None:
    inherited = '[defaults]\nsource = ["192.0.2.99", "fe80::99"]\n'
    made = only(tmp_path, inherited + host(source=value))
    assert (made.settings.source, made.settings.source6) == (source, source6)
    made = only(tmp_path, inherited + HOST)
    assert (made.settings.source, made.settings.source6) == ("192.0.2.99", "fe80::99")


# ------------------------------------------------------------------------------------------- peers


def test_peers_are_in_one_order(tmp_path: Path) -> None:
    first = only(tmp_path, host(peers='["FE80::2", "192.0.2.11", "192.0.2.9"]', vhid="8"))
    assert first.settings.peers == ("192.0.2.9", "192.0.2.11", "fe80::2")
    assert first.destinations == first.settings.peers
    assert first.families == (4, 6)
    made = only(tmp_path, host(addresses=BOTH, peers='["fe80::2"]'))
    assert made.families == (6,)


def test_at_most_so_many_peers(tmp_path: Path) -> None:
    most = ", ".join(f'"192.0.2.{number}"' for number in range(100, 116))
    assert len(only(tmp_path, host(peers=f"[{most}]")).settings.peers) == 16
    (line,) = fault_lines(write(tmp_path, host(peers=f'[{most}, "192.0.2.1"]')))
    assert line.endswith(f"...: has 17 items; {PEERS} (PEERS_MAX)")


@pytest.mark.parametrize(
    ("key", "value"),
    [("destination", '"239.0.0.1"'), ("destination6", '"ff02::13"'), ("broadcast", "true")],
)
def test_groups_and_peers_in_one_table(tmp_path: Path, key: str, value: str) -> None:
    text = host(peers='["192.0.2.2"]', **{key: value})
    assert fault_lines(write(tmp_path, text)) == [
        f"{TABLE}{key} = {value}: cannot be combined with peers; remove one of them from this table"
    ]
    # [defaults] is a table, too; and a virtual host's own goes before what it inherits.
    lines = fault_lines(write(tmp_path, text.replace("[[virtual_host]]", "[defaults]") + HOST))
    assert f"FILE: defaults: {key} = {value}: cannot be combined" in "".join(lines)
    made = only(tmp_path, f'[defaults]\npeers = ["192.0.2.2"]\n{host(**{key: value})}')
    assert made.settings.peers == ()
    assert made.settings != only(tmp_path, HOST).settings
    made = only(tmp_path, f"[defaults]\n{key} = {value}\n" + host(peers='["192.0.2.2"]'))
    assert made.settings.peers == ("192.0.2.2",)
    untouched = only(tmp_path, HOST).settings
    assert getattr(made.settings, key) == getattr(untouched, key)


def test_what_asks_for_no_peers_or_no_broadcast(tmp_path: Path) -> None:
    made = only(tmp_path, host(peers="[]", destination='"239.0.0.1"', broadcast="true"))
    assert made.destinations == ("239.0.0.1",)
    made = only(tmp_path, '[defaults]\npeers = ["192.0.2.2"]\n' + host(broadcast="false"))
    assert made.destinations == ("192.0.2.2",)
    made = only(tmp_path, '[defaults]\npeers = ["192.0.2.2"]\n' + host(peers="[]"))
    assert made.destinations == ("224.0.0.18",)


def test_peers_are_other_hosts(tmp_path: Path) -> None:
    text = host(peers='["192.0.2.2"]', source='"192.0.2.2"') + host(
        vhid="8", peers='["192.0.2.10"]', advertise_mac='"bsd"'
    )
    assert fault_lines(write(tmp_path, text)) == [
        f'{TABLE}peers = ["192.0.2.2"]: holds 192.0.2.2, which is the source; allowed: addresses '
        "of other hosts",
        'FILE: virtual_host[2]: advertise_mac = "bsd": cannot be combined with '
        'peers, to which the kernel sends; allowed: "interface"',
        'FILE: virtual_host[2]: addresses = "192.0.2.10/24": eth0/8 also has it as a '
        "peer; allowed: peers that are other hosts",
    ]
    made = only(tmp_path, '[defaults]\nadvertise_mac = "bsd"\n' + host(peers='["192.0.2.2"]'))
    assert made.settings.advertise_mac == "interface"


def test_a_source_is_no_virtual_address(tmp_path: Path) -> None:
    taken = (
        'source = "192.0.2.10": is an address of eth0/7, which exists only while MASTER; allowed: '
        "an address of the machine itself"
    )
    assert fault_lines(write(tmp_path, host(source='"192.0.2.10"'))) == [f"{TABLE}{taken}"]
    # Of whichever virtual host, on whichever interface; not where scripts manage the addresses.
    other = host(interface='"eth1"', addresses='["192.0.2.77/24"]', source='"192.0.2.10"')
    assert fault_lines(write(tmp_path, host() + other)) == [f"FILE: virtual_host[2]: {taken}"]
    text = host(source='"192.0.2.10"', manage_addresses="false")
    assert only(tmp_path, text).settings.source == "192.0.2.10"


def test_an_ipv6_peer_that_cannot_list_our_source_is_refused(tmp_path: Path) -> None:
    assert fault_lines(write(tmp_path, host(peers='["192.0.2.2", "2001:db8::2"]'))) == [
        f'{TABLE}peers = ["192.0.2.2", "2001:db8::2"]: 2001:db8::2 would hear us from our '
        "link-local address, which it does not list, and both hosts would be MASTER; allowed: "
        "source given, too, or link-local peers"
    ]
    for peers, source in (
        ('["2001:db8::2"]', '"2001:db8::1"'),
        ('["fe80::2", "192.0.2.2"]', ""),
    ):
        assert only(tmp_path, host(peers=peers, source=source)).destinations


# ---------------------------------------------------------------------------------------- dialects


def test_an_interval_of_0_is_openbsds(tmp_path: Path) -> None:
    made = only(tmp_path, host(advbase="0", dialect='"openbsd"'))
    assert (made.settings.advbase, made.settings.advskew) == (0, 0)
    (line,) = fault_lines(write(tmp_path, host(advbase="0", dialect='"freebsd"')))
    assert "advskew = 0: must be from 1 to 254 where advbase is 0" in line
    # What it would be is not known.
    (line,) = fault_lines(write(tmp_path, host(advbase="0", dialect='"netbsd"')))
    assert "dialect" in line


def test_lladdr_belongs_to_openbsd(tmp_path: Path) -> None:
    lladdr = 'lladdr = "02:00:00:00:00:0A"\n'
    made = only(tmp_path, f"[defaults]\n{lladdr}" + host(dialect='"openbsd"'))
    assert made.settings.lladdr == "02:00:00:00:00:0a"
    both = f'[defaults]\n{lladdr}dialect = "openbsd"\n'
    made = only(tmp_path, both + host(dialect='"ucarp"'))
    assert made.settings.lladdr is None
    (line,) = fault_lines(write(tmp_path, f"[defaults]\n{lladdr}{HOST}"))
    assert line == (
        'FILE: defaults: lladdr = "02:00:00:00:00:0A": is used only in dialect "openbsd"; '
        "allowed: leave the key out"
    )
