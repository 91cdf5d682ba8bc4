"""The ring of reports: what Python waits for is never lost, and a larger ring loses nothing."""

from __future__ import annotations

import gc
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from carp_fast.engine._prepared import PreparedHost
from carp_fast.engine.reports import (
    AddressFailed,
    ConfigurationReleased,
    Done,
    Released,
    Report,
    StateChanged,
)
from carp_fast.net import addresses
from carp_fast.pump._pump import Pump

CAPACITY = 4096
DEADLINE_S = 60.0
MANY = 20_000
# On a busy machine one turn may take the outcomes of all addresses.
ROOM_FOR_ALL = pytest.mark.parametrize("pump", [1 << 16], indirect=True)


def host(number: int) -> PreparedHost:
    return PreparedHost(
        interface=number // 255,
        vhid=number % 255 + 1,
        addresses=[(b"\x0a" + number.to_bytes(3, "big"), 32)],
        passphrase=b"x",
        manage_addresses=False,
    )


@pytest.fixture
def pump(request: pytest.FixtureRequest) -> Iterator[Pump]:
    """A pump without a wire and without a thread, with the smallest ring unless told otherwise."""
    capacity = getattr(request, "param", CAPACITY)
    silent_fd = os.eventfd(0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.bind((0, 0))
        made = Pump(
            [("packet", silent_fd)], silent_fd, netlink.fileno(), addresses.templates(), capacity
        )
        yield made
        del made
        gc.collect()
    os.close(silent_fd)


def give(pump: Pump, orders: list[tuple[str, int]]) -> None:
    """Give the orders; nobody takes a report meanwhile."""
    empty = pump.room()
    for name, slot in orders:
        if pump.room() < 2:
            pump.run_due()
        if name == "add":
            pump.add(slot, host(slot))
        elif name == "replace":
            pump.replace(slot, host(slot), 0)
        else:
            pump.remove(slot)
    while pump.room() < empty:
        pump.run_due()


def taken(pump: Pump) -> list[Report]:
    """Every report, as they come in some turns."""
    found: list[Report] = []
    for _ in range(8):
        pump.run_due()
        while more := pump.take_reports():
            found += more
    return found


def up(pump: Pump, interfaces: int) -> None:
    for number in range(interfaces):
        pump.set_interface(
            number, ifindex=number + 1, up=True, mac=bytes(6), source=b"\x0a\0\0\x01"
        )


def test_every_slot_is_released_however_many_find_the_ring_full(pump: Pump) -> None:
    count = 6000
    up(pump, count // 255 + 1)
    give(pump, [("add", slot) for slot in range(count)])
    give(pump, [("remove", slot) for slot in range(count)])
    last = pump.mark(when_settled=True)
    assert pump.facts.reports_lost > 0, "changes of states, which are read again"
    found = taken(pump)
    released = [report.slot for report in found if isinstance(report, Released)]
    assert sorted(released) == list(range(count))
    assert done(found)[-1] == last
    # Nothing is left to carry out before all slots are free.
    assert isinstance(found[-1], Done)


def test_every_former_configuration_is_given_back_however_many_find_the_ring_full(
    pump: Pump,
) -> None:
    up(pump, 1)
    give(pump, [("add", 0)])
    give(pump, [("replace", 0)] * 5000)
    found = taken(pump)
    assert sum(isinstance(report, ConfigurationReleased) for report in found) == 5000


def test_the_last_of_more_marks_than_the_ring_holds_is_reported(pump: Pump) -> None:
    last = 0
    for _ in range(2 * CAPACITY):
        last = pump.mark()
        pump.run_due()
    found = done(taken(pump))
    assert found[-1] == last
    assert found == sorted(found)


def test_a_mark_is_reported_at_once_though_other_reports_fill_the_ring(pump: Pump) -> None:
    up(pump, 20)
    give(pump, [("add", slot) for slot in range(4000)])
    assert pump.facts.reports_lost > 0
    last = pump.mark()
    pump.run_due()
    found = pump.take_reports(2 * CAPACITY)
    assert done(found)[-1] == last


def with_many_addresses(first: int, manage_addresses: bool = True) -> PreparedHost:
    """A host whose MASTER has no time for all its addresses in one turn: a quarter of 4 ms."""
    many = [(bytes((first,)) + number.to_bytes(3, "big"), 32) for number in range(MANY)]
    return PreparedHost(
        interface=0,
        vhid=1,
        addresses=many[:1],
        unsigned_addresses=many[1:],
        passphrase=b"x",
        advbase=0,
        advskew=1,
        dead_ratio=1,
        manage_addresses=manage_addresses,
    )


def run_until(pump: Pump, found: list[Report], holds: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline
        pump.run_due()
        found += pump.take_reports(2 * MANY)


def done(found: list[Report]) -> list[int]:
    return [report.mark for report in found if isinstance(report, Done)]


def failed(found: list[Report]) -> set[int]:
    return {report.address for report in found if isinstance(report, AddressFailed)}


def refused(pump: Pump) -> int:
    """How many frames of announcements of the first host were not sent."""
    snapshot = pump.snapshot(0, 1)
    pump.mark()
    pump.run_due()
    return sum(int(copy.counters["announcement_errors"]) for _, copy in snapshot.hosts())


def changing(pump: Pump) -> list[Report]:
    """The reports until some of its addresses, on no interface, could not be added, and not all."""
    pump.set_interface(0, ifindex=1 << 30, up=True, mac=bytes(6), source=b"\x0a\0\0\x01")
    pump.add(0, with_many_addresses(11))
    pump.mark()
    found: list[Report] = []
    run_until(pump, found, lambda: failed(found))
    assert len(failed(found)) < MANY
    return found


@ROOM_FOR_ALL
def test_nothing_is_done_while_the_addresses_of_a_host_change(pump: Pump) -> None:
    found = changing(pump)
    mark = pump.mark(when_settled=True)
    run_until(pump, found, lambda: mark in done(found))
    assert failed(found) == set(range(MANY))


@ROOM_FOR_ALL
def test_addresses_of_a_host_that_is_replaced_while_they_change_are_all_added(pump: Pump) -> None:
    changing(pump)
    pump.replace(0, with_many_addresses(12), 0)
    mark = pump.mark(when_settled=True)
    found: list[Report] = []
    run_until(pump, found, lambda: mark in done(found))
    assert failed(found) == set(range(MANY))


@ROOM_FOR_ALL
def test_the_addresses_of_a_host_that_is_replaced_change_from_the_first_on(pump: Pump) -> None:
    changing(pump)
    pump.replace(0, with_many_addresses(12), 0)
    pump.mark()
    found: list[Report] = []
    run_until(pump, found, lambda: failed(found))
    assert next(each for each in found if isinstance(each, AddressFailed)).address == 0


def test_an_announcement_ends_with_the_role_of_its_host(pump: Pump) -> None:
    """Each of its frames is refused, and counted; one turn sends a part of them."""
    up(pump, 1)
    pump.add(0, with_many_addresses(11, manage_addresses=False))
    found: list[Report] = []
    run_until(pump, found, lambda: refused(pump) > 0)
    pump.bar(0, True)
    assert refused(pump) < MANY
    for _ in range(MANY // 64):
        pump.run_due()
    assert refused(pump) < MANY


def test_an_announcement_begins_anew_when_its_host_is_replaced(pump: Pump) -> None:
    """No advertisement can be sent, so no repeat follows in its place."""
    pump.set_pace(1_000_000, 1_000_000)
    up(pump, 1)
    pump.add(0, with_many_addresses(11, manage_addresses=False))
    found: list[Report] = []
    run_until(pump, found, lambda: refused(pump) > 0)
    before = refused(pump)
    assert before < MANY
    pump.replace(0, with_many_addresses(11, manage_addresses=False), 0)
    run_until(pump, found, lambda: refused(pump) >= before + MANY)


def test_the_memory_of_an_order_stays_until_a_mark_after_it_is_done(pump: Pump) -> None:
    pump.mark()
    snapshot = pump.snapshot(0, 1)
    held = sys.getrefcount(snapshot)
    pump.run_due()
    assert sum(isinstance(report, Done) for report in pump.take_reports()) == 1
    assert sys.getrefcount(snapshot) == held, "the order may not be carried out yet"
    pump.mark()
    pump.run_due()
    assert sum(isinstance(report, Done) for report in pump.take_reports()) == 1
    assert sys.getrefcount(snapshot) == held - 1


def test_a_larger_ring_takes_over_between_two_reports(pump: Pump) -> None:
    up(pump, 30)
    give(pump, [("add", slot) for slot in range(2000)])
    before = pump.take_reports(500)
    pump.grow_reports(4 * CAPACITY)
    assert pump.report_capacity == 4 * CAPACITY
    give(pump, [("add", slot) for slot in range(2000, 7500)])
    found = [*before, *taken(pump)]
    assert pump.facts.reports_lost == 0
    begun = [report.slot for report in found if isinstance(report, StateChanged)]
    assert begun == list(range(7500))
    assert done(found) == sorted(done(found))
    give(pump, [("remove", slot) for slot in range(7500)])
    assert sum(isinstance(report, Released) for report in taken(pump)) == 7500


def test_a_ring_grows_again_once_the_larger_one_is_read(pump: Pump) -> None:
    for factor in (2, 4, 8):
        pump.grow_reports(factor * CAPACITY)
        pump.mark()
        assert sum(isinstance(report, Done) for report in taken(pump)) == 1
    pump.grow_reports(CAPACITY)
    assert pump.report_capacity == 8 * CAPACITY
    pump.grow_reports(16 * CAPACITY)
    with pytest.raises(ValueError, match="no other on its way"):
        pump.grow_reports(32 * CAPACITY)
    with pytest.raises(ValueError, match="power of two"):
        pump.grow_reports(32 * CAPACITY + 1)


@pytest.mark.parametrize("turns", [0, 1])
def test_a_pump_that_ends_while_its_ring_grows_frees_both(pump: Pump, turns: int) -> None:
    up(pump, 1)
    give(pump, [("add", 0)])
    pump.grow_reports(2 * CAPACITY)
    for _ in range(turns):
        pump.run_due()
