"""What is on the host already: addresses, ends of prefixes, interfaces that are not Ethernet."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from carp_fast.cli.main import main
from carp_fast.daemon import present
from carp_fast.inet import prefix_bytes
from carp_fast.net import interfaces
from carp_fast.net.interfaces import OWN_PROTOCOL, Interface, InterfaceAddress, LinkError, absent
from tests.support.configurations import HOST, TABLE, host, read, warning_lines, write

MAC = b"\x02\0\0\0\0\x01"
TUNNEL, LOOPBACK = 65534, 772  # ARPHRD_NONE, ARPHRD_LOOPBACK


def there(name: str, *addresses: str, protocol: int = 0) -> Interface:
    found = []
    for each in addresses:
        data, prefixlen = prefix_bytes(each)
        found.append(InterfaceAddress(6 if ":" in each else 4, data, prefixlen, 0, 0, protocol))
    return Interface(name, 7, MAC, True, tuple(found))


def lines(
    directory: Path, text: str, *present_ones: Interface, followed: tuple[str, ...] = ()
) -> list[str]:
    configuration = read(directory, text)
    by_name = {each.name: each for each in present_ones}
    found = present.warnings(configuration, by_name, followed=followed)
    return warning_lines(configuration.path, found)


def foreign(shown: str, where: str) -> str:
    return (
        f"{TABLE}{shown} is on this host already, and carp-fast did not add it: {where}; it is left"
        " alone (address_foreign), also while another host is MASTER; allowed: an address that"
        " no other program adds"
    )


@pytest.mark.parametrize(
    ("address", "on_host", "interface"),
    [
        ("192.0.2.10/24", "192.0.2.10/24", "eth0"),
        ("192.0.2.10/24", "192.0.2.10/32", "eth0"),  # the prefix length makes no difference
        ("192.0.2.10/24", "192.0.2.10/24", "eth1"),
        ("192.0.2.10/24", "192.0.2.10/32", "lo"),
        ("2001:db8::10/64", "2001:db8::10/64", "eth0"),
        ("2001:db8::10/64", "2001:db8::10/128", "lo"),
        ("fe80::10/64", "fe80::10/64", "eth0"),
    ],
)
@pytest.mark.parametrize("key", ["addresses", "unsigned_addresses"])
def test_an_address_of_the_host_itself(
    tmp_path: Path, address: str, on_host: str, interface: str, key: str
) -> None:
    text = host(**{"addresses": '"192.0.2.77/24"', "dialect": '"freebsd"', key: f'"{address}"'})
    assert lines(tmp_path, text, there(interface, on_host)) == [
        foreign(f'{key} = "{address}": of eth0/7', f"{interface} ({on_host})")
    ]
    assert lines(tmp_path, text, there(interface, on_host), followed=(interface,)) == []
    # What carries our mark was added by a daemon of ours.
    assert lines(tmp_path, text, there(interface, on_host, protocol=OWN_PROTOCOL)) == []


def test_what_scripts_add_is_not_foreign(tmp_path: Path) -> None:
    text = host(manage_addresses="false")
    assert lines(tmp_path, text, there("eth0", "192.0.2.10/24")) == []


def test_addresses_are_told_once_a_table(tmp_path: Path) -> None:
    text = host(vhid='"7-9"', addresses='"192.0.2.{vhid}/24"')
    every = [f"192.0.2.{vhid}/32" for vhid in (7, 8, 9)]
    (line,) = lines(tmp_path, text, there("eth0", *every), there("eth1", every[0]))
    assert "of eth0/7 is on this host already" in line
    assert "eth0 (192.0.2.7/32), eth1 (192.0.2.7/32);" in line
    assert line.endswith(" (and 2 more in this table)")


@pytest.mark.parametrize(
    ("address", "which"), [("192.0.2.0", "network"), ("192.0.2.255", "broadcast")]
)
def test_an_end_of_a_prefix_of_its_interface(tmp_path: Path, address: str, which: str) -> None:
    text = host(addresses=f'"{address}"')
    for own in ("192.0.2.1/24", "192.0.2.200/24"):
        for followed in ((), ("eth0",)):
            assert lines(tmp_path, text, there("eth0", own), followed=followed) == [
                f'{TABLE}addresses = "{address}/32": of eth0/7 is the {which} address of {own} on'
                " eth0; allowed: an address of a host"
            ]
    # Elsewhere, in other prefixes, or where every address is a host's, there is nothing to say.
    assert lines(tmp_path, text, there("eth1", "192.0.2.1/24")) == []
    assert lines(tmp_path, text, there("eth0", "192.0.2.1/16", "192.0.2.254/31")) == []
    assert lines(tmp_path, text, there("eth0", "192.0.2.77/24", protocol=OWN_PROTOCOL)) == []


@pytest.mark.parametrize(
    ("mac", "kind"), [(b"", TUNNEL), (bytes(6), LOOPBACK), (bytes(20), 32), (MAC, 803)]
)
def test_an_interface_that_is_not_ethernet(tmp_path: Path, mac: bytes, kind: int) -> None:
    text = host(interface='["eth0", "wg0"]', vhid='"1-9"')
    odd = Interface("wg0", 9, mac, True, (), kind=kind)
    assert not odd.is_ethernet
    assert lines(tmp_path, text, there("eth0"), odd) == [
        f'{TABLE}interface = "wg0": is not Ethernet (hardware type {kind}): CARP needs a MAC, and'
        " the virtual hosts there stay INIT; allowed: an Ethernet interface"
    ]


def test_interfaces_that_do_not_exist_are_waited_for(tmp_path: Path) -> None:
    assert lines(tmp_path, HOST) == []
    assert lines(tmp_path, HOST, absent("eth0")) == []


def test_check_warns_of_what_is_on_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, HOST)
    odd = Interface("eth0", 7, MAC, True, there("eth0", "192.0.2.10/32").addresses, kind=TUNNEL)
    monkeypatch.setattr(interfaces, "read_interfaces", lambda: {"eth0": odd})
    result = CliRunner().invoke(main, ["check", "-c", str(path)])
    assert result.exit_code == 0
    first, second = result.stderr.splitlines()
    assert first.startswith(f"warning: {path}:3: virtual_host[1]: interface = ")
    assert "192.0.2.10/24" in second

    def refuse() -> dict[str, Interface]:
        raise LinkError("no answer")

    monkeypatch.setattr(interfaces, "read_interfaces", refuse)
    result = CliRunner().invoke(main, ["check", "-c", str(path)])
    assert result.exit_code == 0
    assert result.stderr == ("warning: the interfaces of this host could not be read: no answer\n")


def test_what_a_daemon_follows_itself_is_not_told_of_this_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = read(tmp_path, HOST)
    followed = there("eth0", "192.0.2.10/24", "192.0.2.9/29")
    monkeypatch.setattr(present, "read_interfaces", lambda: {"eth0": followed})
    assert present.of_this_host(configuration) == []
    both = {"eth0": followed, "lo": there("lo", "192.0.2.10/32")}
    monkeypatch.setattr(present, "read_interfaces", lambda: both)
    (line,) = present.of_this_host(configuration)
    assert "did not add it: lo (192.0.2.10/32); it is left alone" in line

    def refuse() -> dict[str, Interface]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(present, "read_interfaces", refuse)
    (line,) = present.of_this_host(configuration)
    assert line.startswith("could not read the interfaces of this host: ")


def test_every_interface_of_the_host_is_read_where_none_is_named() -> None:
    found = interfaces.read_interfaces()
    assert set(found) == {name for _, name in socket.if_nameindex()}
    assert found["lo"].kind == LOOPBACK
    assert not found["lo"].is_ethernet
