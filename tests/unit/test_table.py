"""The table of slots and interface numbers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carp_fast.config.load import Settings, VirtualHost
from carp_fast.daemon import table as hosts_module
from carp_fast.daemon.groups import LimitReached
from carp_fast.daemon.table import BACKUP, INIT, Hosts, by_interface, every_address
from carp_fast.inet import address_bytes
from tests.support.segment import SECOND_NS, START_NS, Node

SETTINGS = Settings(passphrase=b"secret")


def host(
    interface: str = "eth0",
    vhid: int = 1,
    unsigned: tuple[str, ...] = (),
    addresses: tuple[str, ...] = (),
    **settings: Any,
) -> VirtualHost:
    return VirtualHost(
        interface,
        vhid,
        addresses or (f"192.0.2.{vhid}/24",),
        unsigned,
        Settings(passphrase=b"secret", **settings) if settings else SETTINGS,
    )


def test_the_lowest_free_slot_is_taken() -> None:
    hosts = Hosts()
    assert [hosts.take(host(vhid=vhid)) for vhid in (1, 2, 3, 4)] == [0, 1, 2, 3]
    hosts.states[2] = BACKUP
    for slot in (2, 0):
        hosts.give_back(slot)
    assert [slot for slot, _ in hosts.used()] == [1, 3]
    assert hosts.take(host("eth1", 9)) == 0
    assert hosts.take(host("eth0", 5)) == 2
    assert hosts.states[2] == INIT
    assert hosts.take(host(vhid=6)) == 4
    assert list(hosts.slots[0]) == [1, 3, 2, 4]
    assert list(hosts.slots[1]) == [0]
    assert (hosts.name(0), hosts.name(2)) == ("eth1/9", "eth0/5")


def test_a_slot_given_back_twice_is_free_once() -> None:
    hosts = Hosts()
    hosts.take(host())
    hosts.give_back(0)
    hosts.give_back(0)
    assert [hosts.take(host(vhid=2)), hosts.take(host(vhid=3))] == [0, 1]


@given(st.lists(st.integers(0, 30), max_size=200))
def test_no_slot_is_ever_taken_twice(choices: list[int]) -> None:
    hosts = Hosts()
    taken: list[int] = []
    for choice in choices:
        if choice < len(taken):
            hosts.give_back(taken.pop(choice))
        else:
            slot = hosts.take(host(f"eth{choice % 3}", 1 + choice))
            assert slot not in taken
            taken.append(slot)
    assert sorted(taken) == [slot for slot, _ in hosts.used()]
    assert sorted(slot for slots in hosts.slots for slot in slots) == sorted(taken)
    assert all(
        slots
        for name, slots in zip(hosts.names, hosts.slots, strict=True)
        if name in hosts.used_names()
    )


def test_an_interface_keeps_its_number_when_its_last_virtual_host_goes() -> None:
    hosts = Hosts()
    hosts.take(host("eth0"))
    hosts.take(host("eth1"))
    hosts.give_back(0)
    assert hosts.used_names() == ["eth1"]
    assert (hosts.known("eth0"), hosts.known("eth1"), hosts.known("eth2")) == (0, 1, None)
    assert hosts.number("eth0") == 0


def test_limits_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts_module, "MAX_VIRTUAL_HOSTS", 3)
    monkeypatch.setattr(hosts_module, "MAX_INTERFACES", 2)
    hosts = Hosts()
    for vhid in (1, 2, 3):
        hosts.take(host(vhid=vhid))
    with pytest.raises(LimitReached, match="more than 3 virtual hosts"):
        hosts.take(host(vhid=4))
    with pytest.raises(LimitReached, match="more than 3 virtual hosts"):
        hosts.check_room([host(vhid=4), host(vhid=5)], removed=1)
    hosts.check_room([host(vhid=4)], removed=1)
    hosts.number("eth1")
    with pytest.raises(LimitReached, match="more than 2 interfaces"):
        hosts.number("eth2")
    with pytest.raises(LimitReached, match="more than 2 interfaces"):
        hosts.check_room([host("eth2")], removed=3)
    assert hosts.known("eth2") is None, "asking reserves nothing"


def test_addresses_are_named_as_the_engine_counts_them() -> None:
    hosts = Hosts()
    slot = hosts.take(host(vhid=1, unsigned=("192.0.2.50/32", "192.0.2.51/32")))
    assert [hosts.address(slot, number, 0) for number in range(4)] == [
        "192.0.2.1/24",
        "192.0.2.50/32",
        "192.0.2.51/32",
        "of a former configuration",
    ]
    new = host(vhid=1, unsigned=("192.0.2.51/32",))
    hosts.replace(slot, new, ("192.0.2.50/32",))
    assert hosts.address(slot, 2, 1) == "192.0.2.50/32"
    hosts.replace(slot, new, ("192.0.2.50/32", "2001:db8::1/64"))
    assert [hosts.address(slot, number, 2) for number in range(4)] == [
        "2001:db8::1/64",
        "192.0.2.1/24",
        "192.0.2.51/32",
        "192.0.2.50/32",
    ]
    hosts.replace(slot, new)
    assert hosts.address(slot, 2, 3) == "of a former configuration"
    hosts.give_back(slot)
    assert hosts.address(slot, 0, 3) == "of a removed virtual host"
    assert hosts.name(slot) == "slot 0"


def test_addresses_are_named_as_the_configuration_of_a_report_counts_them() -> None:
    hosts = Hosts()
    slot = hosts.take(host(vhid=1, unsigned=("192.0.2.50/32",)))
    hosts.replace(slot, host(vhid=1), ("192.0.2.50/32",))
    hosts.replace(slot, host(vhid=1, addresses=("192.0.2.7/24",)), ("192.0.2.1/24",))
    assert [hosts.address(slot, 0, each) for each in range(4)] == [
        "192.0.2.1/24",
        "192.0.2.1/24",
        "192.0.2.7/24",
        "of a former configuration",
    ]
    assert [hosts.address(slot, 1, each) for each in range(3)] == [
        "192.0.2.50/32",
        "192.0.2.50/32",
        "192.0.2.1/24",
    ]
    hosts.forget_former()
    assert [hosts.address(slot, 0, each) for each in (1, 2)] == [
        "of a former configuration",
        "192.0.2.7/24",
    ]
    hosts.replace(slot, host(vhid=1))
    hosts.give_back(slot)
    assert hosts.take(host(vhid=2)) == slot
    assert [hosts.address(slot, 0, each) for each in (0, 2, 3)] == [
        "192.0.2.2/24",
        "of a former configuration",
        "of a former configuration",
    ]


def test_the_configurations_of_a_slot_are_counted_in_a_byte_as_by_the_engine() -> None:
    hosts = Hosts()
    slot = hosts.take(host(vhid=1))
    for _ in range(257):
        hosts.replace(slot, host(vhid=1))
        hosts.forget_former()
    assert hosts.configurations[slot] == 1
    assert hosts.address(slot, 0, 1) == "192.0.2.1/24"


def test_a_virtual_host_that_is_added_again_goes_on_above_its_former_counters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another group or peer makes it another one; others have heard the counters of the first."""
    now_ns = 1 << 60
    monkeypatch.setattr("time.time_ns", lambda: now_ns)
    hosts = Hosts()
    counters = []
    for _ in range(2):
        node = Node("10.77.0.2")
        node.engine.add(1, hosts.prepare(host(vhid=9)), START_NS)
        counters.append(node.engine.host(1).counter)
        now_ns += 3600 * SECOND_NS
    assert counters[1] - counters[0] >= 3600 * SECOND_NS
    now_ns -= 7200 * SECOND_NS  # the wall clock was set back: these are not
    node.engine.add(2, hosts.prepare(host(vhid=10)), START_NS)
    assert node.engine.host(2).counter > counters[1]


def test_what_an_interface_needs() -> None:
    hosts = Hosts()
    hosts.take(host("eth0", 1, unsigned=("198.51.100.1/24",), destination="239.1.1.1"))
    hosts.take(host("eth0", 2, manage_addresses=False, source="192.0.2.99"))
    hosts.take(host("eth1", 3, manage_addresses=False, source="192.0.2.99"))
    assert hosts.virtual_addresses(0) == {
        bytes((192, 0, 2, 1)),
        bytes((198, 51, 100, 1)),
        bytes((192, 0, 2, 2)),
    }
    assert hosts.groups(0) == {bytes((239, 1, 1, 1)), bytes((224, 0, 0, 18))}
    assert hosts.groups(1) == {bytes((224, 0, 0, 18))}
    assert (hosts.manages_addresses(0), hosts.manages_addresses(1)) == (True, False)
    assert (hosts.needs_source(0), hosts.needs_source(1)) == (True, False)
    every = [each for _, each in hosts.used()]
    assert by_interface(every) == {"eth0": ["192.0.2.1/24", "198.51.100.1/24"]}
    assert every_address(every[0]) == ("192.0.2.1/24", "198.51.100.1/24")


def test_the_peers_of_an_interface_are_those_of_its_virtual_hosts() -> None:
    hosts = Hosts()
    hosts.take(host())
    assert hosts.peers(0) == set()
    hosts.take(host(vhid=2, peers=("198.51.100.1", "2001:db8::1")))
    hosts.take(host(vhid=3, peers=("198.51.100.1",)))
    hosts.take(host("eth1", 2, peers=("198.51.100.2",)))
    wanted = {address_bytes("198.51.100.1"), address_bytes("2001:db8::1")}
    assert hosts.peers(0) == wanted
    hosts.give_back(1)
    assert hosts.peers(0) == {address_bytes("198.51.100.1")}


def test_what_an_interface_needs_of_each_family() -> None:
    both, ipv6 = ("192.0.2.1/24", "2001:db8::1/64"), ("2001:db8::2/64", "fe80::2/64")
    hosts = Hosts()
    hosts.take(host(addresses=both, unsigned=("fd00::1/64",), destination6="ff05::12"))
    hosts.take(host("eth1", addresses=ipv6, source="192.0.2.99"))
    hosts.take(host("eth2", addresses=both, source6="fe80::99"))
    hosts.take(host("eth3", addresses=both, peers=("192.0.2.8",)))
    hosts.take(host("eth4", addresses=("192.0.2.1/24",), peers=("2001:db8::8",)))
    assert hosts.virtual_addresses(0) == set(
        map(address_bytes, ("192.0.2.1", "2001:db8::1", "fd00::1"))
    )
    assert hosts.virtual_addresses(1) == set(map(address_bytes, ("2001:db8::2", "fe80::2")))
    assert hosts.groups(0) == {address_bytes("224.0.0.18"), address_bytes("ff05::12")}
    assert hosts.groups(1) == {address_bytes("ff02::12")}
    assert (hosts.groups(3), hosts.groups(4)) == (set(), set()), "peers need no group"
    needs = [[hosts.needs_source(number, family) for family in (4, 6)] for number in range(5)]
    assert needs == [[True, True], [False, True], [True, False], [True, False], [False, True]]


def test_a_virtual_host_as_the_engine_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts_module, "PreparedHost", lambda **given: given)
    hosts = Hosts()
    plain: Any = hosts.prepare(host(vhid=7))
    assert plain["addresses"] == [(address_bytes("192.0.2.7"), 24)]
    groups = address_bytes("224.0.0.18"), address_bytes("ff02::12")
    assert (plain["destination"], plain["destination6"]) == groups
    assert (plain["source"], plain["source6"], plain["lladdr"]) == (None, None, None)
    assert (plain["dialect"], plain["replay"], plain["preferred"]) == ("ucarp", "learn", False)
    assert (plain["peers"], plain["retired_addresses"], plain["alternates"]) == ([], [], False)
    assert (plain["advertise_mac"], plain["broadcast"]) == ("interface", False)
    wanted = host(
        addresses=("192.0.2.1/24", "2001:db8::1/64"),
        unsigned=("fe80::1/64",),
        source="192.0.2.99",
        source6="fe80::99",
        peers=("192.0.2.8", "2001:db8::8"),
        dialect="openbsd",
        replay="strict",
        lladdr="02:00:00:00:00:0a",
        preferred=True,
        startup_delay_s=1.5,
    )
    made: Any = hosts.prepare(wanted, retired=["2001:db8::2/64"], replacing=True)
    assert made["addresses"] == [
        (address_bytes("192.0.2.1"), 24),
        (address_bytes("2001:db8::1"), 64),
    ]
    assert made["unsigned_addresses"] == [(address_bytes("fe80::1"), 64)]
    assert made["retired_addresses"] == [(address_bytes("2001:db8::2"), 64)]
    assert (made["source"], made["source6"]) == (
        address_bytes("192.0.2.99"),
        address_bytes("fe80::99"),
    )
    assert made["peers"] == [address_bytes("192.0.2.8"), address_bytes("2001:db8::8")]
    assert (made["dialect"], made["replay"]) == ("openbsd", "strict")
    assert (made["lladdr"], made["preferred"]) == (bytes((2, 0, 0, 0, 0, 10)), True)
    assert (made["startup_delay_ns"], made["alternates"]) == (1_500_000_000, True)


def test_a_virtual_host_can_be_prepared_for_the_engine() -> None:
    hosts = Hosts()
    one = host(vhid=7, source="192.0.2.99", advbase=2, startup_delay_s=1.5)
    hosts.take(one)
    assert hosts.prepare(one) is not hosts.prepare(one, retired=["192.0.2.8/24"], replacing=True)


def test_no_two_virtual_hosts_of_a_run_have_the_same_generation() -> None:
    hosts = Hosts()
    seen = set()
    for vhid in (1, 2, 3):
        slot = hosts.take(host(vhid=vhid))
        seen.add(hosts.generations[slot])
        before = hosts.generations[slot]
        hosts.replace(slot, host(vhid=vhid, addresses=("192.0.2.99/24",)))
        assert hosts.generations[slot] == before
        hosts.give_back(slot)
        assert hosts.generations[slot] == 0
    assert len(seen) == 3
    assert 0 not in seen


def test_a_posted_order_has_no_effect_on_the_next_virtual_host_of_the_slot() -> None:
    hosts = Hosts()
    given: list[str] = []
    slot = hosts.take(host())
    order = hosts.only_now(slot, lambda: given.append("first"))
    order()
    hosts.replace(slot, host(addresses=("192.0.2.99/24",)))
    order()
    assert given == ["first", "first"]
    hosts.give_back(slot)
    order()
    hosts.take(host())
    order()
    assert given == ["first", "first"]
    hosts.only_now(slot, lambda: given.append("second"))()
    assert given == ["first", "first", "second"]
