"""A new configuration beside the running one: what differs, in words and in orders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from carp_fast.config.load import Announce, Configuration, Daemon, Origin, Settings, VirtualHost
from carp_fast.control.documents import counts_text
from carp_fast.daemon.reload import (
    Difference,
    additions,
    compare,
    daemon_changes,
    moved,
    orders,
    report,
)
from carp_fast.daemon.table import Hosts

PASSPHRASE = b"secret"


def host(
    vhid: int = 1, interface: str = "eth0", unsigned: tuple[str, ...] = (), **settings: Any
) -> VirtualHost:
    addresses = settings.pop("addresses", (f"192.0.2.{vhid}/24",))
    given = {"passphrase": PASSPHRASE, **settings}
    return VirtualHost(interface, vhid, addresses, unsigned, Settings(**given))


def configuration(*hosts: VirtualHost) -> Configuration:
    path = Path("/etc/carp-fast/carp-fast.toml")
    return Configuration(path, (path,), Daemon(), list(hosts), ())


def running(*hosts: VirtualHost) -> Hosts:
    table = Hosts()
    for each in hosts:
        table.take(each)
    return table


class RecordedPump:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def add(self, slot: int, prepared: object) -> None:
        self.told.append(("add", slot))

    def replace(self, slot: int, prepared: object, grace_ns: int) -> None:
        self.told.append(("replace", slot, grace_ns))

    def remove(self, slot: int) -> None:
        self.told.append(("remove", slot))


def apply(difference: Difference, hosts: Hosts) -> list[tuple[Any, ...]]:
    pump: Any = RecordedPump()
    for order in orders(difference, hosts, pump, hosts.prepare, 300):
        order()
    for slot in difference.removed:
        hosts.give_back(slot)
    for order in additions(difference, hosts, pump.add, hosts.prepare, lambda slot: True):
        order()
    return list(pump.told)


def test_what_is_equal_is_not_touched() -> None:
    hosts = running(*map(host, range(1, 6)))
    other_origin = host(3, origin=Origin("b.toml", "virtual_host[9]", 9))
    difference = compare(hosts, configuration(host(5), host(1), host(2), other_origin, host(4)))
    assert (len(difference.kept), difference[:5]) == (5, ([], [], [], [], {}))
    assert hosts.hosts[2] is not other_origin, "a comparison changes nothing"
    assert apply(difference, hosts) == []
    assert hosts.hosts[2] is other_origin, "the next message names where it stands now"


CHANGES: dict[str, tuple[VirtualHost, str]] = {
    "advskew": (host(advskew=100), "advskew 0 -> 100"),
    "preempt": (host(preempt=True), "preempt demoted -> true"),
    "passphrase": (host(passphrase=b"another"), "passphrase"),
    "unsigned": (
        host(unsigned=("192.0.2.51/32", "192.0.2.50/32")),
        "unsigned_addresses +192.0.2.50/32 +192.0.2.51/32",
    ),
    "addresses": (
        host(addresses=("192.0.2.9/24",)),
        "addresses -192.0.2.1/24 +192.0.2.9/24",
    ),
    "two": (host(advbase=2, advskew=7), "advbase 1 -> 2, advskew 0 -> 7"),
    "dialect": (host(dialect="freebsd"), "dialect ucarp -> freebsd"),
    "replay": (host(replay="strict"), "replay learn -> strict"),
    "lladdr": (
        host(dialect="openbsd", lladdr="02:00:00:00:00:0a"),
        "dialect ucarp -> openbsd, lladdr none -> 02:00:00:00:00:0a",
    ),
    "preferred": (host(preferred=True), "preferred false -> true"),
    "sources": (
        host(source="192.0.2.99", source6="fe80::99"),
        "source none -> 192.0.2.99, source6 none -> fe80::99",
    ),
    "a family comes": (
        host(addresses=("192.0.2.1/24", "2001:db8::1/64")),
        "addresses +2001:db8::1/64",
    ),
    "a group that it does not use": (
        host(destination6="ff02::13"),
        "destination6 ff02::12 -> ff02::13",
    ),
    "announce": (
        host(announce=Announce(2)),
        "announce {count = 1, interval_s = 0, refresh_s = 0} -> {count = 2, interval_s = 0,",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_in_place_is_said_and_ordered(change: str) -> None:
    new, words = CHANGES[change]
    hosts = running(host(), host(2))
    difference = compare(hosts, configuration(new, host(2)))
    (line,) = difference.lines
    assert line.startswith(f"eth0/1: {words}")
    assert "secret" not in line
    assert "another" not in line
    assert (difference.added, difference.removed, len(difference.kept)) == ([], [], 1)
    assert apply(difference, hosts) == [("replace", 0, 300)]
    assert hosts.hosts[0] is new


def test_addresses_in_another_order_are_a_change() -> None:
    both = ("192.0.2.1/24", "192.0.2.2/24")
    hosts = running(host(addresses=both))
    difference = compare(hosts, configuration(host(addresses=both[::-1])))
    assert difference.lines == ["eth0/1: addresses in another order"]
    assert [retired for _, _, retired in difference.replaced] == [()]


def test_retired_are_the_addresses_that_no_list_has_any_more() -> None:
    old = host(addresses=("192.0.2.1/24", "192.0.2.2/24"), unsigned=("192.0.2.3/24",))
    # One becomes unsigned, one becomes signed, one goes.
    new = host(addresses=("192.0.2.3/24",), unsigned=("192.0.2.1/24",))
    hosts = running(old)
    difference = compare(hosts, configuration(new))
    assert difference.replaced == [(0, new, ("192.0.2.2/24",))]
    apply(difference, hosts)
    assert hosts.address(0, 2, hosts.configurations[0]) == "192.0.2.2/24"


def test_hooks_alone_need_no_order() -> None:
    hosts = running(host(up="/bin/up", down="/bin/down"))
    new = host(up="/bin/other", down="/bin/down", xparam="word")
    difference = compare(hosts, configuration(new))
    assert difference.lines == ["eth0/1: up /bin/up -> /bin/other, xparam none -> word"]
    assert apply(difference, hosts) == []
    assert hosts.hosts[0] is new


@pytest.mark.parametrize("given", [("/bin/up", None), (None, "/bin/up")])
def test_an_up_hook_that_comes_or_goes_is_the_engines_concern(
    given: tuple[str | None, str | None],
) -> None:
    # With manage_addresses = false the announcement waits for it.
    before, after = given
    hosts = running(host(up=before))
    difference = compare(hosts, configuration(host(up=after)))
    assert apply(difference, hosts) == [("replace", 0, 300)]


def test_the_same_change_of_many_is_one_line() -> None:
    hosts = running(*map(host, range(1, 101)))
    new = [host(vhid, advskew=100) for vhid in range(1, 100)]
    difference = compare(hosts, configuration(*new, *(host(vhid) for vhid in range(101, 105))))
    assert difference.lines == [
        "eth0/1-99: advskew 0 -> 100",
        "eth0/101-104: added",
        "eth0/100: removed",
    ]


def test_the_same_change_of_hosts_far_apart_names_the_first_and_counts_the_others() -> None:
    hosts = running(*(host(vhid, f"v{n}") for n in range(5) for vhid in (1, 2, 4)))
    difference = compare(hosts, configuration())
    assert difference.lines == ["v0/1-2,4, v1/1-2,4, v2/1-2,4 and 6 more: removed"]
    difference = compare(hosts, configuration(*(host(2, f"v{n}", advskew=9) for n in range(5))))
    assert difference.lines[0] == "v0/2, v1/2, v2/2 and 2 more: advskew 0 -> 9"


def test_a_reload_reports_what_it_added_removed_changed_and_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hosts = running(*map(host, range(1, 7)))
    new = (host(1, advskew=100), host(2, passphrase=b"another"), host(3, up="/bin/true"), host(5))
    difference = compare(hosts, configuration(*new, host(4, advskew=7), host(8)))
    caplog.set_level("INFO")
    answer = report(difference, [], 0.1234)
    assert (answer.added, answer.removed, answer.altered, answer.kept) == (1, 1, 4, 1)
    assert answer.keys == ["advskew", "passphrase", "up"]
    counts = "1 added, 1 removed, 4 changed (advskew, passphrase, up), 1 kept"
    assert caplog.messages[-1] == f"reloaded in 0.12 s: {counts}"


def test_a_change_of_hooks_alone_is_counted_as_a_change() -> None:
    hosts = running(host(up="/bin/up"))
    difference = compare(hosts, configuration(host(up="/bin/other")))
    assert difference.without_order
    assert difference.summary == "0 added, 0 removed, 1 changed (up), 0 kept"


def test_many_keys_are_counted() -> None:
    every = [f"key{n}" for n in range(7)]
    assert counts_text(0, 0, 65_280, every, 1_000) == (
        "0 added, 0 removed, 65,280 changed (key0, key1, key2, key3, key4 and 2 more), 1,000 kept"
    )


def test_values_are_shown_as_a_configuration_has_them() -> None:
    hosts = running(host(preempt=False, source=None, peers=()))
    difference = compare(hosts, configuration(host(preempt=True, source="192.0.2.9", peers=())))
    assert difference.lines == ["eth0/1: preempt false -> true, source none -> 192.0.2.9"]


def test_another_interface_vhid_or_destination_is_another_virtual_host() -> None:
    hosts = running(host(1), host(2), host(3), host(4))
    new = configuration(host(1), host(2, "eth1"), host(13), host(4, destination="239.0.0.4"))
    difference = compare(hosts, new)
    assert len(difference.kept) == 1
    assert difference.removed == [1, 2, 3]
    assert difference.lines == [
        "eth1/2: added",
        "eth0/4,13: added",
        "eth0/2-4: removed",
    ]
    removals = [("remove", 1), ("remove", 2), ("remove", 3)]
    # The slots of those removed are free when the new ones come.
    assert apply(difference, hosts) == [*removals, ("add", 1), ("add", 2), ("add", 3)]
    assert hosts.used_names() == ["eth0", "eth1"]


IPV4, IPV6 = ("192.0.2.1/24",), ("2001:db8::1/64",)


@pytest.mark.parametrize(
    ("before", "after", "goes_on"),
    [
        ({"addresses": IPV4 + IPV6}, {"addresses": IPV4}, True),
        ({"addresses": IPV4 + IPV6}, {"addresses": IPV6}, True),
        ({"addresses": IPV6}, {"addresses": IPV4 + IPV6}, True),
        # Nothing would be left of what others heard.
        ({"addresses": IPV4}, {"addresses": IPV6}, False),
        ({"addresses": IPV6}, {"addresses": IPV6, "destination6": "ff02::13"}, False),
        ({"addresses": IPV4 + IPV6}, {"addresses": IPV4 + IPV6, "destination": "239.0.0.1"}, False),
        ({"peers": ("192.0.2.8",)}, {"peers": ("192.0.2.8",), "advskew": 1}, True),
        ({"peers": ("192.0.2.8",)}, {"peers": ("192.0.2.8", "192.0.2.9")}, False),
        ({"peers": ("192.0.2.8",)}, {}, False),
        ({}, {"peers": ("192.0.2.8",)}, False),
    ],
)
def test_which_destinations_make_it_another_virtual_host(
    before: dict[str, Any], after: dict[str, Any], goes_on: bool
) -> None:
    hosts = running(host(**before), host(2))
    difference = compare(hosts, configuration(host(**after), host(2)))
    assert len(difference.kept) == 1
    if goes_on:
        assert [slot for slot, _, _ in difference.replaced] == [0]
        assert (difference.added, difference.removed) == ([], [])
    else:
        assert difference.lines == ["eth0/1: added", "eth0/1: removed"]
        assert difference.replaced == []


def test_two_families_that_become_one_virtual_host_and_part_again() -> None:
    ipv4, ipv6, both = host(addresses=IPV4), host(addresses=IPV6), host(addresses=IPV4 + IPV6)
    difference = compare(running(ipv4, ipv6), configuration(both))
    assert [(slot, new) for slot, new, _ in difference.replaced] == [(0, both)]
    assert difference.removed == [1]
    difference = compare(running(both), configuration(ipv6, ipv4))
    assert [(slot, new) for slot, new, _ in difference.replaced] == [(0, ipv6)]
    assert difference.added == [ipv4]


def test_who_gains_what_another_gave_up_looks_again() -> None:
    moving = ("192.0.2.50/32",)
    hosts = running(host(1), host(2, unsigned=moving), host(3), host(4, "eth1"))
    new = configuration(
        host(1, unsigned=moving),
        host(2),
        host(3, unsigned=("192.0.2.60/32",)),
        host(4, "eth1", unsigned=moving),  # the same address elsewhere is another one
    )
    difference = compare(hosts, new)
    assert len(difference.replaced) == 4
    assert moved(difference) == [0]


def test_what_differs_in_the_daemon_table_is_said() -> None:
    old = Daemon()
    new = Daemon(hook_concurrency=4, pump="loop", notify="/bin/notify")
    assert daemon_changes(old, old) == []
    assert sorted(daemon_changes(old, new)) == [
        "daemon.hook_concurrency 16 -> 4",
        "daemon.notify none -> /bin/notify",
        "daemon.pump thread -> loop (takes effect at the next start)",
    ]


def test_an_address_that_could_not_be_removed_is_taken_along_by_the_next_reload() -> None:
    hosts = running(host(1, addresses=("192.0.2.1/24", "192.0.2.9/24")))
    apply(compare(hosts, configuration(host(1))), hosts)
    assert hosts.retired(0) == ("192.0.2.9/24",)
    # Nothing has said that it is gone: the kernel may have refused to remove it.
    difference = compare(hosts, configuration(host(1, unsigned=("192.0.2.8/24",))))
    assert [retired for _, _, retired in difference.replaced] == [("192.0.2.9/24",)]
    hosts.unsettled[0].clear()
    difference = compare(hosts, configuration(host(1, unsigned=("192.0.2.8/24",))))
    assert [retired for _, _, retired in difference.replaced] == [()]


def test_an_address_that_comes_back_before_it_was_gone_is_not_retired() -> None:
    both = host(1, addresses=("192.0.2.1/24", "192.0.2.9/24"))
    hosts = running(both)
    apply(compare(hosts, configuration(host(1))), hosts)
    difference = compare(hosts, configuration(both))
    assert [retired for _, _, retired in difference.replaced] == [()]


def test_a_virtual_host_that_is_still_leaving_is_no_running_one() -> None:
    hosts = running(host(1))
    pump: Any = RecordedPump()
    for order in orders(compare(hosts, configuration()), hosts, pump, hosts.prepare, 300):
        order()
    assert hosts.leaving == {0}
    assert hosts.going() == {"eth0": ["192.0.2.1/24"]}
    difference = compare(hosts, configuration(host(1)))
    assert ([each.vhid for each in difference.added], difference.removed) == ([1], [])
    hosts.give_back(0)
    assert (hosts.leaving, hosts.going()) == (set(), {})


def test_hooks_alone_leave_what_is_to_go_as_it_is() -> None:
    hosts = running(host(1, addresses=("192.0.2.1/24", "192.0.2.9/24"), up="/a"))
    apply(compare(hosts, configuration(host(1, up="/a"))), hosts)
    apply(compare(hosts, configuration(host(1, up="/b"))), hosts)
    assert hosts.retired(0) == ("192.0.2.9/24",)
    assert hosts.unsettled == {0: {"192.0.2.9/24"}}
