"""Addresses of virtual hosts that their interface has by other hands: found in every state."""

from __future__ import annotations

from typing import Any

import pytest

from carp_fast.config.load import Settings, VirtualHost
from carp_fast.daemon import foreign
from carp_fast.daemon.foreign import Foreign
from carp_fast.daemon.table import Hosts
from carp_fast.inet import prefix_bytes
from carp_fast.net.interfaces import OWN_PROTOCOL, Interface, InterfaceAddress, absent

MAC = b"\x02\0\0\0\0\x01"
OWN = "192.0.2.99/24"


def there(*addresses: str, name: str = "eth0", protocol: int = 0) -> Interface:
    found = []
    for each in (OWN, *addresses):
        data, prefixlen = prefix_bytes(each)
        mark = protocol if each != OWN else 0
        found.append(InterfaceAddress(6 if ":" in each else 4, data, prefixlen, 0, 0, mark))
    return Interface(name, 7, MAC, True, tuple(found))


class Stage:
    """eth0/1 in slot 0, eth0/2 in slot 1, and eth1/1 in slot 2; what was told last of each slot."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, marks: bool = True) -> None:
        monkeypatch.setattr(foreign, "kernel_keeps_marks", lambda: marks)
        self.hosts = Hosts()
        for interface, vhid in (("eth0", 1), ("eth0", 2), ("eth1", 1)):
            self.take(interface, vhid)
        self.told: dict[int, dict[str, str]] = {}
        self.foreign = Foreign(self.hosts, self.told.update)

    def take(self, interface: str, vhid: int, **settings: Any) -> int:
        signed = (f"192.0.2.{vhid}/24", f"2001:db8::{vhid}/64")
        unsigned = (f"198.51.100.{vhid}/32",)
        given = Settings(passphrase=b"secret", **settings)
        return self.hosts.take(VirtualHost(interface, vhid, signed, unsigned, given))


@pytest.mark.parametrize(
    ("on_host", "address"),
    [
        ("192.0.2.1/24", "192.0.2.1/24"),
        ("192.0.2.1/32", "192.0.2.1/24"),
        ("192.0.2.1/16", "192.0.2.1/24"),
        ("2001:db8::1/64", "2001:db8::1/64"),
        ("2001:db8::1/128", "2001:db8::1/64"),
        ("198.51.100.1/32", "198.51.100.1/32"),
    ],
)
def test_a_foreign_address_is_found_whatever_its_prefix_length(
    monkeypatch: pytest.MonkeyPatch, on_host: str, address: str
) -> None:
    stage = Stage(monkeypatch)
    stage.foreign.on_interface(there(on_host))
    assert stage.told == {0: {address: on_host}, 1: {}}
    stage.foreign.on_interface(there())
    assert stage.told == {0: {}, 1: {}}


def test_of_several_prefix_lengths_ours_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    stage.foreign.on_interface(there("192.0.2.1/32", "192.0.2.1/24"))
    assert stage.told[0] == {"192.0.2.1/24": "192.0.2.1/24"}
    stage.foreign.on_interface(there("192.0.2.1/32", "192.0.2.1/16"))
    assert stage.told[0] == {"192.0.2.1/24": "192.0.2.1/32"}


def test_what_carries_our_mark_is_not_foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    stage.foreign.on_interface(there("192.0.2.1/24", "2001:db8::1/64", protocol=OWN_PROTOCOL))
    assert stage.told == {0: {}, 1: {}}


def test_without_marks_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, marks=False)
    stage.foreign.on_interface(there("192.0.2.1/24"))
    assert stage.told == {}


def test_each_interface_is_looked_at_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    stage.foreign.on_interface(there("192.0.2.1/24", name="eth1"))
    assert stage.told == {2: {"192.0.2.1/24": "192.0.2.1/24"}}
    stage.foreign.on_interface(absent("eth1"))
    assert stage.told == {2: {}}
    stage.foreign.on_interface(there("192.0.2.1/24", name="eth2"))  # has no virtual host
    assert set(stage.told) == {2}


def test_what_scripts_add_is_not_foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    slot = stage.take("eth0", 3, manage_addresses=False)
    stage.foreign.on_interface(there("192.0.2.3/24"))
    assert stage.told[slot] == {}


def test_a_virtual_host_that_comes_later_is_found_at_the_next_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = Stage(monkeypatch)
    interface = there("192.0.2.3/24")
    stage.foreign.on_interface(interface)
    assert stage.told == {0: {}, 1: {}}
    slot = stage.take("eth0", 3)
    stage.foreign.on_interface(interface)
    assert stage.told[slot] == {"192.0.2.3/24": "192.0.2.3/24"}
