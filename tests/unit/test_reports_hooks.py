"""Hooks that follow reports of the pump: when they run, in what order, and what they announce."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from carp_fast.daemon.hooks import HookResult
from carp_fast.engine.reports import AddressesChanged, Released
from tests.support.desk import Desk


def test_up_comes_with_the_addresses_and_down_on_leaving_master() -> None:
    desk = Desk(xparam="word")
    desk.change("BACKUP", "started")
    assert desk.hooks.words == []
    desk.change("MASTER", "master_down")
    assert desk.hooks.words == []
    desk.tell(AddressesChanged, reason="master_down")
    assert desk.hooks.words == ["eth0/1 up /bin/up"]
    desk.tell(AddressesChanged)  # by a reload: not again
    desk.change("INIT", "resigned")
    assert desk.hooks.words == ["eth0/1 up /bin/up", "eth0/1 down /bin/down"]
    (key, _, up, _), (other_key, _, down, _) = desk.hooks.submitted
    assert key == other_key == desk.hosts.generations[0]
    assert (up.interface, up.address, up.xparam) == ("eth0", "192.0.2.1", "word")
    assert up.environment == {
        "CARP_INTERFACE": "eth0",
        "CARP_VHID": "1",
        "CARP_STATE": "MASTER",
        "CARP_PREVIOUS": "BACKUP",
        "CARP_REASON": "master_down",
        "CARP_DEMOTION": "0",
        "CARP_DEMOTION_REASONS": "",
        "CARP_GROUP": "",
        "CARP_GROUP_DEMOTED_BY": "",
        "CARP_ADDRESSES": "192.0.2.1/24 192.0.2.51/32",
        "CARP_NAME": "",
        "CARP_DESCRIPTION": "",
        "CARP_SEGMENT": "",
    }
    assert down.environment["CARP_PREVIOUS"] == "MASTER"


def test_hooks_and_events_get_the_demotion_at_the_change_by_reasons() -> None:
    desk = Desk()
    desk.change("MASTER", "master_down", demotions=(("operator", 100), ("track", 20)))
    desk.tell(AddressesChanged, reason="master_down")
    desk.change("BACKUP", "faster_master", demotions=(("operator", 100), ("send_errors", 240)))
    (_, _, up, _), (_, _, down, _) = desk.hooks.submitted
    assert up.environment["CARP_DEMOTION"] == "120"
    assert up.environment["CARP_DEMOTION_REASONS"] == "operator=100 track=20"
    assert down.environment["CARP_DEMOTION"] == "340"
    assert down.environment["CARP_DEMOTION_REASONS"] == "operator=100 send_errors=240"
    assert [event["demotion"] for event in desk.events] == [
        {"total": 120, "reasons": {"operator": 100, "track": 20}},
        {"total": 340, "reasons": {"operator": 100, "send_errors": 240}},
    ]


def test_a_master_that_leaves_before_its_addresses_were_there_has_no_up() -> None:
    desk = Desk()
    desk.change("MASTER", "master_down")
    desk.change("BACKUP", "faster_master")
    desk.tell(AddressesChanged)
    assert desk.hooks.words == ["eth0/1 down /bin/down"]


@pytest.mark.parametrize("superseded", [False, True])
def test_without_addresses_of_ours_the_announcement_waits_for_up(superseded: bool) -> None:
    desk = Desk(manage_addresses=False)
    desk.change("MASTER", "master_down", slot=1)
    desk.tell(AddressesChanged, 1)
    _, _, _, done = desk.hooks.submitted[0]
    assert desk.orders.pump.announced == []
    done(HookResult("up", None, timed_out=not superseded, superseded=superseded))
    assert desk.orders.pump.announced == ([] if superseded else [1])


def test_hooks_stay_in_order_when_a_reload_changes_the_identity() -> None:
    desk = Desk()
    desk.change("MASTER", "master_down")
    desk.tell(AddressesChanged)
    before = desk.hosts.hosts[0]
    assert before is not None
    after = msgspec.structs.replace(before, addresses=(*before.addresses, "2001:db8::1/64"))
    assert after.identity != before.identity
    desk.hosts.replace(0, after)
    desk.change("BACKUP", "faster_master")
    up, down = [key for key, *_ in desk.hooks.submitted]
    assert up == down


def test_up_runs_for_what_a_former_configuration_added() -> None:
    desk = Desk()
    desk.change("MASTER", "master_down")
    host = desk.hosts.hosts[0]
    assert host is not None
    desk.hosts.replace(0, msgspec.structs.replace(host, unsigned_addresses=()))
    desk.tell(AddressesChanged, reason="master_down", configuration=0)
    assert desk.hooks.words == ["eth0/1 up /bin/up"]


def test_the_next_virtual_host_of_a_slot_has_another_key() -> None:
    desk = Desk()
    desk.change("MASTER", "master_down")
    host = desk.hosts.hosts[0]
    assert host is not None
    desk.change("INIT", "removed")
    desk.tell(Released)
    desk.hosts.give_back(0)
    assert desk.hosts.take(host) == 0
    desk.change("MASTER", "master_down")
    desk.tell(AddressesChanged)
    down, up = [key for key, *_ in desk.hooks.submitted]
    assert down != up


def test_an_up_announces_nothing_for_the_next_virtual_host_of_the_slot() -> None:
    desk = Desk(manage_addresses=False)
    host = desk.hosts.hosts[0]
    assert host is not None
    desk.change("MASTER", "master_down")
    desk.tell(AddressesChanged)
    desk.change("INIT", "removed")
    desk.tell(Released)
    desk.hosts.give_back(0)
    desk.hosts.take(host)
    desk.change("MASTER", "master_down")
    desk.hooks.submitted[0][3](HookResult("up", 0))
    assert desk.orders.pump.announced == [], "before its own up was submitted"
    desk.tell(AddressesChanged)
    first, _, second = [done for *_, done in desk.hooks.submitted]
    first(HookResult("up", 0))
    assert desk.orders.pump.announced == []
    second(HookResult("up", 0))
    assert desk.orders.pump.announced == [0]


def test_an_up_announces_nothing_once_its_master_has_left() -> None:
    desk = Desk(manage_addresses=False)
    desk.change("MASTER", "master_down")
    desk.tell(AddressesChanged)
    desk.change("BACKUP", "faster_master")
    first = desk.hooks.submitted[0][3]
    first(HookResult("up", 0))
    desk.change("MASTER", "master_down")
    first(HookResult("up", 0))  # the down that waits would remove what it has added
    assert desk.orders.pump.announced == []
    desk.tell(AddressesChanged)
    first(HookResult("up", 0))
    assert desk.orders.pump.announced == []
    desk.hooks.submitted[-1][3](HookResult("up", 0))
    assert desk.orders.pump.announced == [0]


def test_an_announcement_that_waits_for_room_is_not_given_to_the_next_virtual_host() -> None:
    desk = Desk(manage_addresses=False)
    posted: list[Any] = []
    desk.orders.post = posted.append  # type: ignore[method-assign, assignment]
    desk.change("MASTER", "master_down")
    desk.tell(AddressesChanged)
    desk.hooks.submitted[0][3](HookResult("up", 0))
    desk.change("INIT", "removed")
    desk.tell(Released)
    (order,) = posted
    order()
    assert desk.orders.pump.announced == []
