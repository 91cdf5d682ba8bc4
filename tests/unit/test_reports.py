"""Reports of the pump, told in log lines, events and hooks."""

from __future__ import annotations

import asyncio
import errno
import logging
import re
import time
from collections.abc import AsyncIterator
from datetime import datetime

import msgspec
import pytest

from carp_fast.config.load import VirtualHost
from carp_fast.daemon.reports import (
    FOREIGN_LOGGED_MAX,
    rfc3339,
)
from carp_fast.daemon.table import STATES
from carp_fast.engine.copies import HostCopy
from carp_fast.engine.reports import (
    AddressesChanged,
    AddressFailed,
    AddressForeign,
    AddressGone,
    AddressRestored,
    ConfigurationReleased,
    CounterReset,
    DemoteHeard,
    Done,
    DuplicateEnded,
    DuplicateSource,
    FamilyHeard,
    FamilySilent,
    LostPriority,
    OtherMaster,
    Reasserted,
    Released,
    ResignedHolding,
    SecondariesNotPromoted,
    SendsFailing,
    SocketDropped,
    Stalled,
    StateChanged,
)
from tests.support.desk import Desk
from tests.support.segment import SECOND_NS, START_NS, Node

PEER = bytes((192, 0, 2, 99))


def test_an_instant_is_told_in_utc_to_the_millisecond() -> None:
    text = rfc3339(time.monotonic_ns())
    assert text.endswith("Z")
    assert len(text) == len("2026-01-01T00:00:00.000Z")
    assert abs(datetime.fromisoformat(text).timestamp() - time.time()) < 1


def test_a_change_is_logged_published_and_remembered(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()
    with caplog.at_level(logging.INFO, "carp_fast.daemon"):
        desk.change("BACKUP", "started")
        desk.change("MASTER", "master_down", peer=PEER)
        desk.change("BACKUP", "faster_master", peer=PEER)
        desk.change("INIT", "link_down")
        desk.change("INIT", "interface_missing")
    assert caplog.messages == [
        "eth0/1: INIT -> BACKUP (started)",
        "eth0/1: BACKUP -> MASTER (master_down)",
        "eth0/1: MASTER -> BACKUP (faster_master from 192.0.2.99)",
        "eth0/1: BACKUP -> INIT (link_down)",
        "eth0/1: INIT (interface_missing)",
    ]
    assert [(each["previous"], each["state"], each["reason"]) for each in desk.events] == [
        ("INIT", "BACKUP", "started"),
        ("BACKUP", "MASTER", "master_down"),
        ("MASTER", "BACKUP", "faster_master"),
        ("BACKUP", "INIT", "link_down"),
        ("INIT", "INIT", "interface_missing"),
    ]
    assert [each["peer"] for each in desk.events] == [None, "192.0.2.99", "192.0.2.99", None, None]
    assert list(desk.hosts.states) == [0, 0]


def test_problems_with_addresses_are_known_by_the_address(
    caplog: pytest.LogCaptureFixture,
) -> None:
    desk = Desk()
    desk.change("MASTER", "master_down")
    with caplog.at_level(logging.INFO, "carp_fast.daemon"):
        desk.tell(AddressForeign, address=1)
        desk.tell(AddressFailed, address=0, error=errno.ENOBUFS)
    assert caplog.messages == [
        "eth0/1: address_foreign: 192.0.2.51/32 is on the interface and not ours, left alone",
        "eth0/1: adding address 192.0.2.1/24 failed: No buffer space available",
    ]
    assert desk.reports.address_problems == {
        0: {"192.0.2.51/32": "address_foreign", "192.0.2.1/24": "No buffer space available"}
    }
    desk.tell(AddressRestored, address=0)
    # A reload gives the virtual host other addresses: their numbers shift, the problem goes.
    old = desk.hosts.hosts[0]
    assert old is not None
    new = VirtualHost("eth0", 1, (*old.addresses, "192.0.2.7/24"), (), old.settings)
    desk.hosts.replace(0, new, old.unsigned_addresses)
    desk.reports.on_reload()
    assert desk.reports.address_problems == {}
    caplog.clear()
    desk.tell(AddressFailed, address=2, error=errno.EPERM)
    assert caplog.messages == [
        "eth0/1: removing address 192.0.2.51/32 failed: Operation not permitted"
    ]


@pytest.mark.parametrize("state", STATES)
def test_a_foreign_address_is_told_when_it_comes_and_when_it_goes(
    caplog: pytest.LogCaptureFixture, state: str
) -> None:
    desk = Desk()
    desk.hosts.states[0] = STATES.index(state)
    caplog.set_level(logging.INFO, "carp_fast.daemon")
    found = {0: {"192.0.2.1/24": "192.0.2.1/24", "192.0.2.51/32": "192.0.2.51/24"}, 1: {}}
    for _ in range(2):
        desk.reports.on_foreign(found)
        assert desk.reports.address_problems == {
            0: {
                "192.0.2.1/24": "address_foreign",
                "192.0.2.51/32": "address_foreign as 192.0.2.51/24",
            }
        }
    told = "on the interface and not ours, left alone"
    assert caplog.messages == [
        f"eth0/1: address_foreign: 192.0.2.1/24 is {told} (as 192.0.2.1/24)",
        f"eth0/1: address_foreign: 192.0.2.51/32 is {told} (as 192.0.2.51/24)",
    ]
    caplog.clear()
    # Another prefix length is another address; the other one has gone.
    desk.reports.on_foreign({0: {"192.0.2.1/24": "192.0.2.1/32"}, 1: {}})
    assert desk.reports.address_problems == {0: {"192.0.2.1/24": "address_foreign as 192.0.2.1/32"}}
    assert caplog.messages == [
        f"eth0/1: address_foreign: 192.0.2.1/24 is {told} (as 192.0.2.1/32)",
        "eth0/1: 192.0.2.51/32 is no longer foreign (as 192.0.2.51/24)",
    ]
    desk.reports.on_foreign({0: {}, 1: {}})
    assert desk.reports.address_problems == {}
    # The engine was never kept from adding one of them: that they go is nobody's loss.
    assert not desk.reports.is_foreign(0, "192.0.2.1/24")


def test_of_a_master_a_foreign_address_stays_a_problem_until_ours_is_there() -> None:
    desk = Desk()
    text = "192.0.2.51/32"
    desk.reports.on_foreign({0: {text: text}})
    desk.change("MASTER", "master_down")
    desk.tell(AddressForeign, address=1)
    desk.reports.on_foreign({0: {}})
    assert desk.reports.address_problems == {0: {text: "address_foreign"}}
    assert desk.reports.is_foreign(0, text)
    desk.tell(AddressRestored, address=1)
    assert desk.reports.address_problems == {}
    assert not desk.reports.is_foreign(0, text)
    assert desk.lost == []


def test_of_a_backup_an_address_that_was_foreign_is_no_problem_once_it_has_gone() -> None:
    desk = Desk()
    text = "192.0.2.51/32"
    desk.change("MASTER", "master_down")
    desk.reports.on_foreign({0: {text: text}})
    desk.tell(AddressForeign, address=1)
    desk.change("BACKUP", "faster_master")
    desk.reports.on_foreign({0: {}})
    assert desk.reports.address_problems == {}
    # As MASTER it adds its own where it had left another alone: not a loss either.
    desk.change("MASTER", "master_down")
    desk.tell(AddressRestored, address=1)
    assert desk.lost == []


def test_a_foreign_address_beside_ours_stays_a_problem_when_ours_comes_back() -> None:
    desk = Desk()
    desk.change("MASTER", "master_down")
    desk.reports.on_foreign({0: {"192.0.2.51/32": "192.0.2.51/24"}})
    desk.tell(AddressRestored, address=1)
    why = "address_foreign as 192.0.2.51/24"
    assert desk.reports.address_problems == {0: {"192.0.2.51/32": why}}


def test_a_failure_stands_whatever_is_foreign() -> None:
    desk = Desk()
    desk.change("MASTER", "master_down")
    desk.tell(AddressFailed, address=0, error=errno.EPERM)
    failed = {0: {"192.0.2.1/24": "Operation not permitted"}}
    for found in ({"192.0.2.1/24": "192.0.2.1/32"}, {}):
        desk.reports.on_foreign({0: found})
        assert desk.reports.address_problems == failed


def test_many_foreign_addresses_are_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()
    caplog.set_level(logging.INFO, "carp_fast.daemon")
    every = {f"10.0.0.{n}/32": f"10.0.0.{n}/32" for n in range(100)}
    desk.reports.on_foreign({0: every})
    assert len(caplog.messages) == FOREIGN_LOGGED_MAX + 1
    assert caplog.messages[-1] == "... and 80 more"
    assert len(desk.reports.address_problems[0]) == 100


def test_a_released_slot_forgets_everything() -> None:
    desk = Desk()
    desk.change("MASTER", "master_down")
    desk.tell(AddressForeign, address=0)
    desk.reports.on_foreign({0: {"192.0.2.51/32": "192.0.2.51/24"}})
    desk.tell(Released)
    desk.tell(ConfigurationReleased)  # only a block: a change in place
    assert desk.released == [0]
    assert desk.reports.address_problems == {}
    assert not desk.reports.is_foreign(0, "192.0.2.1/24")
    desk.reports.on_foreign({0: {}})
    assert desk.reports.address_problems == {}
    desk.tell(AddressesChanged)
    assert desk.hooks.words == []


def test_what_is_wrong_on_the_wire_is_said(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()
    desk.tell(DuplicateSource, mac=b"\x02\0\0\0\0\x09")
    with caplog.at_level("INFO"):
        desk.tell(DuplicateEnded, mac=b"\x02\0\0\0\0\x09")
    desk.tell(OtherMaster)
    desk.tell(DemoteHeard, demote=7)
    desk.tell(SendsFailing, error=errno.ENETDOWN)
    desk.tell(ResignedHolding, left=3)
    desk.tell(Stalled, away_ns=2_500_000_000)
    desk.tell(SocketDropped, frames=12, waits_anew=True)
    desk.tell(SocketDropped, frames=13, waits_anew=False)
    desk.tell(LostPriority)
    desk.tell(CounterReset, mac=b"\x02\0\0\0\0\x09")
    desk.tell(CounterReset, slot=1)
    desk.tell(FamilySilent, family=6)
    told = "\n".join(caplog.messages)
    for words in (
        "eth0/1: duplicate_source: another host (02:00:00:00:00:09)",
        "eth0/1: duplicate_source ended: another host (02:00:00:00:00:09) is no longer heard",
        "eth0/1: other_master",
        "eth0/1: the peer advertises demotion 7",
        "eth0/1: no advertisement was sent for an interval (Network is down)",
        "the pump did not run for 2.500 s",
        "the kernel dropped 12 frames: every BACKUP waits for its master-down time again",
        "the kernel dropped 13 frames of unknown sources",
        "eth0/1: resigned although the kernel, busy for a second, has not removed 3 of its",
        "without priority",
        "eth0/1: counter_reset: a host's (02:00:00:00:00:09) counters went back",
        "eth0/2: counter_reset: a host's counters went back",
        "eth0/1: family_silent: the master is heard only over IPv4, not over IPv6",
    ):
        assert words in told


def test_absences_in_quick_succession_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()
    for ms in range(0, 25_000, 100):
        desk.tell(Stalled, away_ns=5_000_000, at_ns=1 + ms * 1_000_000)
    told = [message for message in caplog.messages if "the pump did not run" in message]
    assert len(told) == 3
    assert "0.005 s: a BACKUP" in told[0]
    assert "(99 more times since it was last logged)" in told[1]


def test_peers_of_both_families_are_named(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk(dialect="openbsd")
    peer6 = bytes.fromhex("fe80") + bytes(13) + b"\x09"
    with caplog.at_level(logging.INFO, "carp_fast.daemon"):
        desk.change("MASTER", "master_demoted", peer=peer6)
        desk.change("BACKUP", "less_demoted_master", peer=PEER)
        desk.tell(Reasserted, peer=peer6)
        desk.tell(FamilyHeard, family=6)
    assert caplog.messages == [
        "eth0/1: INIT -> MASTER (master_demoted from fe80::9)",
        "eth0/1: MASTER -> BACKUP (less_demoted_master from 192.0.2.99)",
        "eth0/1: answered the slower master fe80::9, still MASTER",
        "eth0/1: the master is heard over IPv6 again",
    ]
    assert [event["peer"] for event in desk.events] == ["fe80::9", "192.0.2.99"]


def test_only_what_somebody_removed_is_told_as_lost(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()
    desk.change("MASTER", "master_down")
    desk.tell(AddressForeign, address=1)
    caplog.clear()
    with caplog.at_level(logging.INFO, "carp_fast.daemon"):
        desk.tell(AddressRestored, address=1, why="refused")
        desk.tell(AddressRestored, address=1, why="refused")
        desk.tell(AddressRestored, address=1, why="with_ours")
    assert desk.lost == []
    assert caplog.messages == [
        "eth0/1: address 192.0.2.51/32 is no longer foreign, added",
        "eth0/1: address 192.0.2.51/32 is added now",
        "eth0/1: the kernel removed 192.0.2.51/32 with another address of ours, added again",
    ]
    desk.tell(AddressRestored, address=1, why="removed")
    assert desk.lost == [(0, "192.0.2.51/32")]


def test_what_could_not_be_removed_is_no_problem_once_it_is_gone() -> None:
    desk = Desk()
    desk.change("MASTER", "master_down")
    old = desk.hosts.hosts[0]
    assert old is not None
    desk.hosts.replace(
        0, VirtualHost("eth0", 1, old.addresses, (), old.settings), ("192.0.2.51/32",)
    )
    desk.tell(AddressFailed, address=1, error=errno.EPERM)
    desk.tell(AddressesChanged)
    assert desk.hosts.unsettled == {0: {"192.0.2.51/32"}}
    assert desk.hosts.going() == {"eth0": ["192.0.2.51/32"]}
    desk.reports.on_reload()
    assert desk.reports.address_problems == {0: {"192.0.2.51/32": "Operation not permitted"}}
    desk.tell(AddressGone, address=1)
    assert desk.reports.address_problems == {}
    assert desk.hosts.unsettled == {0: set()}


def test_what_a_former_configuration_reports_settles_only_what_that_one_removed() -> None:
    """Two reloads while the kernel is busy; the engine has not read the orders of the second."""
    desk = Desk()
    desk.change("MASTER", "master_down")
    old = desk.hosts.hosts[0]
    assert old is not None
    first, second, third = "192.0.2.1/24", "192.0.2.51/32", "192.0.2.7/24"
    one = VirtualHost("eth0", 1, (first, third), (), old.settings)
    desk.hosts.replace(0, one, (second,))
    desk.tell(AddressesChanged, configuration=0)
    assert desk.hosts.unsettled == {0: {second}}
    desk.hosts.forget_former()
    two = VirtualHost("eth0", 1, (first,), (), old.settings)
    desk.hosts.replace(0, two, (third, second))
    desk.tell(AddressesChanged, configuration=1)
    assert desk.hosts.unsettled == {0: {third}}
    desk.hosts.forget_former()
    desk.tell(AddressesChanged, configuration=1)  # of none that is known
    assert desk.hosts.going() == {"eth0": [third]}
    desk.tell(AddressesChanged)
    assert desk.hosts.unsettled == {0: set()}


def test_an_address_that_a_former_configuration_could_not_remove_is_not_settled() -> None:
    desk = Desk()
    desk.change("MASTER", "master_down")
    old = desk.hosts.hosts[0]
    assert old is not None
    one = VirtualHost("eth0", 1, old.addresses, (), old.settings)
    desk.hosts.replace(0, one, old.unsigned_addresses)
    two = VirtualHost("eth0", 1, (*old.addresses, "192.0.2.7/24"), (), old.settings)
    desk.hosts.replace(0, two, old.unsigned_addresses)
    desk.tell(AddressFailed, address=1, configuration=1, error=errno.EPERM)
    desk.tell(AddressesChanged, configuration=1)
    assert desk.hosts.unsettled == {0: {"192.0.2.51/32"}}
    desk.tell(AddressGone, address=1, configuration=1)
    assert desk.hosts.unsettled == {0: set()}


def test_reports_of_a_former_configuration_are_named_by_its_addresses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    desk = Desk()
    desk.change("MASTER", "master_down")
    old = desk.hosts.hosts[0]
    assert old is not None
    new = VirtualHost("eth0", 1, ("2001:db8::7/64", "192.0.2.51/32"), (), old.settings)
    desk.hosts.replace(0, new, old.addresses)
    with caplog.at_level(logging.INFO, "carp_fast.daemon"):
        desk.tell(AddressFailed, address=0, configuration=0, error=errno.EPERM)
        desk.tell(AddressForeign, address=1, configuration=0)
        desk.tell(AddressRestored, address=1, configuration=0)
        desk.tell(AddressFailed, address=0, error=errno.EACCES)
    assert caplog.messages == [
        "eth0/1: adding address 192.0.2.1/24 failed: Operation not permitted",
        "eth0/1: address_foreign: 192.0.2.51/32 is on the interface and not ours, left alone",
        "eth0/1: address 192.0.2.51/32 is no longer foreign, added",
        "eth0/1: adding address 2001:db8::7/64 failed: IPv6 is disabled on the interface"
        " (disable_ipv6)",
    ]


def test_a_deadline_that_passed_is_logged_as_an_error(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()
    desk.change("MASTER", "master_down")
    desk.change("BACKUP", "address_deadline")
    assert caplog.messages == [
        "eth0/1: address_deadline: none of its addresses could be added for 10 s, given up"
    ]


def test_promote_secondaries_that_was_reset_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()
    desk.tell(SecondariesNotPromoted, interface=0)
    desk.tell(SecondariesNotPromoted, interface=0, error=errno.EPERM)
    desk.tell(SecondariesNotPromoted, interface=0, error=errno.EPERM)
    assert caplog.messages == [
        "eth0: promote_secondaries was no longer 1, set again",
        "eth0: promote_secondaries is not 1 and cannot be set (Operation not permitted): the kernel"
        " may remove addresses of this host with ours; ours are added again",
    ]


def test_an_interface_without_ipv6_is_named_as_what_is_wrong(
    caplog: pytest.LogCaptureFixture,
) -> None:
    desk = Desk()
    host = desk.hosts.hosts[0]
    assert host is not None
    six = VirtualHost("eth0", 1, host.addresses, ("2001:db8::1/64",), host.settings)
    desk.hosts.replace(0, six)
    desk.change("MASTER", "master_down")
    desk.tell(AddressFailed, address=0, error=errno.EACCES)
    desk.tell(AddressFailed, address=1, error=errno.EACCES)
    assert [message.rpartition(": ")[2] for message in caplog.messages] == [
        "Permission denied",
        "IPv6 is disabled on the interface (disable_ipv6)",
    ]


def test_lost_reports_are_said_once_and_answered_by_a_full_reading(
    caplog: pytest.LogCaptureFixture,
) -> None:
    desk = Desk()
    pump = desk.orders.pump
    pump.facts = msgspec.structs.replace(pump.facts, reports_lost=3)
    desk.tell(Done, mark=41)
    desk.tell(Done, mark=42)
    assert desk.orders.marks == [41, 42]
    assert desk.readings == 1
    assert caplog.messages == ["lost 3 reports of the pump, reading all states again"]


def test_one_report_that_fails_keeps_no_other_back(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk(publish=lambda event: 1 / 0)
    desk.change("BACKUP", "started")
    desk.tell(Done, mark=1)
    assert desk.orders.marks == [1]
    assert re.search(r"handling report StateChanged\(.*\bslot=0, .* failed", caplog.text)


def test_a_change_whose_report_was_lost_is_found_in_a_copy() -> None:
    desk, node = Desk(), Node("10.77.0.2")
    desk.change("BACKUP", "started")
    node.run(START_NS + 4 * SECOND_NS)

    async def copies() -> AsyncIterator[list[tuple[int, HostCopy]]]:
        yield [(0, node.engine.host(0))]

    asyncio.run(desk.reports.take_copies(copies()))
    assert STATES[desk.hosts.states[0]] == "MASTER"
    assert desk.hooks.words == ["eth0/1 up /bin/up"]
    assert desk.events[-1]["reason"] == "master_down"


def test_a_copy_that_is_older_than_a_reported_change_is_ignored() -> None:
    desk, node = Desk(), Node("10.77.0.2")
    desk.change("BACKUP", "started")
    backup = node.engine.host(0)
    taken_ns = START_NS + 3 * SECOND_NS

    async def copies() -> AsyncIterator[list[tuple[int, HostCopy]]]:
        # The loop is busy: it handles the take-over first, and then the copy made before.
        desk.tell(StateChanged, state="MASTER", reason="master_down", at_ns=taken_ns)
        desk.tell(AddressesChanged, state="MASTER", reason="master_down")
        yield [(0, backup)]

    asyncio.run(desk.reports.take_copies(copies()))
    assert STATES[desk.hosts.states[0]] == "MASTER"
    assert desk.hooks.words == ["eth0/1 up /bin/up"]
