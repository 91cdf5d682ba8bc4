"""What the virtual hosts of an interface add up to, and the engine's own figures."""

from __future__ import annotations

import asyncio
from errno import EACCES, EEXIST
from functools import partial

import pytest

from carp_fast.control.requests import StatusRequest
from carp_fast.daemon.explain_text import problem_kinds
from carp_fast.engine._engine import MAX_INTERFACES, MAX_VIRTUAL_HOSTS, Engine
from carp_fast.engine._figures import LATENESS_BOUNDS_NS, TAKEOVER_BOUNDS_NS
from carp_fast.engine._tallies import PROBLEM_WORDS, Tallies
from carp_fast.engine.tallied import Durations, Tallied
from tests.support.addressed import EVERY, LATER_NS, SIGNED, master, step_down
from tests.support.pumped import pump_with_orders
from tests.support.scene import NOW_NS, Scene
from tests.support.segment import SECOND_NS, START_NS, Node, Segment, advertisement, ip, prepared

MAC = b"\x02\0\0\0\0\x99"


def tallies_of(engine: Engine, now_ns: int, slots: int = 8) -> Tallies:
    tallies = Tallies(1, slots)
    engine.tally(tallies, now_ns)
    return tallies


def tallied(engine: Engine, now_ns: int, slots: int = 8) -> Tallied:
    (interface,) = tallies_of(engine, now_ns, slots).interfaces()
    return interface


def problems(tallies: Tallies) -> dict[int, list[str]]:
    """The words of every slot that has some."""
    return {
        slot: [word for bit, word in PROBLEM_WORDS.items() if bits & bit]
        for slot, bits in enumerate(tallies.problems())
        if bits
    }


def counted(durations: Durations, bounds: tuple[int, ...], ns: int) -> list[int]:
    """The counts that one duration of `ns` makes."""
    place = next((i for i, bound in enumerate(bounds) if ns <= bound), len(bounds))
    return [int(i == place) for i in range(len(bounds) + 1)]


# --- the virtual hosts ----------------------------------------------------------------------------


def test_states_and_addresses_of_an_interface_add_up() -> None:
    node = master({EVERY[1]: EEXIST})
    node.engine.add(1, prepared(vhid=7), LATER_NS)
    node.engine.add(2, prepared(vhid=8, barred=True), LATER_NS)
    found = tallied(node.engine, LATER_NS)
    assert found.states == {"INIT": 1, "BACKUP": 1, "MASTER": 1}
    assert (found.held, found.wanted) == (2, 3)
    assert (found.second_masters, found.families) == (0, [4])


def test_families_are_those_that_need_the_interfaces_own_source() -> None:
    both = [(bytes((10, 77, 0, 100)), 24), (ip("2001:db8::100"), 64)]
    engine = Engine()
    engine.add(0, prepared(addresses=both, source=ip("10.77.0.9")), START_NS)
    assert tallied(engine, START_NS).families == [6]
    engine.add(1, prepared(vhid=7), START_NS)
    assert tallied(engine, START_NS).families == [4, 6]


def test_addresses_that_others_manage_are_not_wanted() -> None:
    node = master(manage_addresses=False)
    assert tallied(node.engine, LATER_NS).wanted == 0


def test_a_backup_wants_no_address_and_holds_what_cannot_be_removed() -> None:
    node = master()
    node.errors = {EVERY[2]: EACCES}
    step_down(node, LATER_NS)
    found = tallied(node.engine, LATER_NS)
    assert (found.held, found.wanted) == (1, 0)


def test_virtual_hosts_are_added_slice_by_slice() -> None:
    engine = Engine()
    engine.set_interface(0, START_NS, source=b"\x0a\0\0\x01")
    for slot in range(5):
        engine.add(slot, prepared(vhid=slot + 1), START_NS)
    tallies = Tallies(1, 4)
    engine.tally(tallies, START_NS, 0, 3)
    engine.tally(tallies, START_NS, 3, 3)  # there is no room for the fifth
    (interface,) = tallies.interfaces()
    assert interface.states == {"INIT": 0, "BACKUP": 4, "MASTER": 0}
    assert tallies.hosts(0, 99) == [(slot, slot + 1, 1, 1) for slot in range(4)]
    assert tallies.hosts(2, 1) == [(2, 3, 1, 1)]


def test_interfaces_without_room_and_free_slots_are_left_out() -> None:
    engine = Engine()
    engine.set_interface(1, START_NS, source=b"\x0a\0\0\x01")
    engine.add(2, prepared(interface=1), START_NS)
    tallies = tallies_of(engine, START_NS)
    assert tallies.hosts(0, 8) == []
    assert tallies.interfaces()[0].states == {"INIT": 0, "BACKUP": 0, "MASTER": 0}


@pytest.mark.parametrize(
    ("interfaces", "slots"), [(MAX_INTERFACES + 1, 1), (1, MAX_VIRTUAL_HOSTS + 1)]
)
def test_there_is_no_more_room_than_the_engine_has(interfaces: int, slots: int) -> None:
    with pytest.raises(IndexError):
        Tallies(interfaces, slots)


# --- problems -------------------------------------------------------------------------------------


def test_problems_are_those_of_the_status_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.monotonic_ns", lambda: NOW_NS)
    scene = Scene()
    found = problems(tallies_of(scene.engine, NOW_NS))
    words = set(PROBLEM_WORDS.values())
    expected = {}
    for slot in range(6):
        copied = [(slot, scene.engine.host(slot))]
        (entry,) = scene.status.virtual_hosts(copied, StatusRequest())
        kinds = {kind.lower() for kind in problem_kinds(entry)} & words
        if kinds:
            expected[slot] = kinds
    assert {slot: set(each) for slot, each in found.items()} == expected
    assert {word for each in expected.values() for word in each} >= {"init", "demoted"}


def test_a_master_that_hears_another_one_is_counted() -> None:
    node = Node("10.77.0.2")
    node.run(LATER_NS)
    heard = advertisement(source="10.77.0.9", source_mac=MAC, advskew=200, counter=5)
    assert node.engine.receive(0, heard, LATER_NS) == "ok"
    assert tallied(node.engine, LATER_NS + SECOND_NS).second_masters == 1
    assert problems(tallies_of(node.engine, LATER_NS)) == {0: ["second_master"]}
    assert tallied(node.engine, LATER_NS + 6 * SECOND_NS).second_masters == 0, "long silent"


def test_a_master_that_resigns_is_no_second_one() -> None:
    node = Node("10.77.0.2")
    node.run(LATER_NS)
    heard = advertisement(source="10.77.0.9", source_mac=MAC, advbase=255, advskew=255, counter=5)
    assert node.engine.receive(0, heard, LATER_NS) == "ok"
    assert tallied(node.engine, LATER_NS).second_masters == 0


def test_a_backup_that_hears_two_masters_has_a_problem_and_is_not_counted() -> None:
    node = Node("10.77.0.2", advskew=200)
    for source, skew in (("10.77.0.8", 0), ("10.77.0.9", 10)):
        heard = advertisement(source=source, source_mac=MAC, advskew=skew, counter=skew + 5)
        assert node.engine.receive(0, heard, START_NS + 1) == "ok"
    assert node.state == "BACKUP"
    tallies = tallies_of(node.engine, START_NS + 2)
    assert problems(tallies) == {0: ["second_master"]}
    assert tallies.interfaces()[0].second_masters == 0


# --- what only grows ------------------------------------------------------------------------------


def test_transitions_are_counted_by_state_and_reason_and_outlive_the_virtual_host() -> None:
    node = master()
    step_down(node, LATER_NS)
    expected = {("BACKUP", "started"): 1, ("MASTER", "master_down"): 1}
    expected["BACKUP", "faster_master"] = 1
    assert tallied(node.engine, LATER_NS).transitions == expected
    assert tallies_of(node.engine, LATER_NS).hosts(0, 1) == [(0, 42, 1, 3)]
    node.engine.remove(0, LATER_NS)
    node.take(LATER_NS)
    expected["INIT", "resigned"] = 1
    assert tallied(node.engine, LATER_NS).transitions == expected
    assert tallies_of(node.engine, LATER_NS).hosts(0, 1) == []


def test_a_reason_that_changes_alone_is_no_transition() -> None:
    node = Node("10.77.0.2", barred=True)
    before = tallied(node.engine, START_NS).transitions
    node.attach(START_NS + 1, up=False)
    assert tallied(node.engine, START_NS + 1).transitions == before


def test_an_address_added_again_and_a_duplicate_are_counted() -> None:
    node = master()
    node.engine.found(0, EVERY[0], "none", LATER_NS)
    node.take(LATER_NS)
    twin = advertisement(
        source="10.77.0.2", counter=77, source_mac=MAC, addresses=[data for data, _ in SIGNED]
    )
    node.engine.receive(0, twin, LATER_NS)
    found = tallied(node.engine, LATER_NS)
    assert (found.addresses_restored, found.duplicate_source) == (1, 1)


# --- durations ------------------------------------------------------------------------------------


def test_a_take_over_lasts_from_the_last_advertisement_to_the_outcome_of_the_addresses() -> None:
    one, two = Node("10.77.0.2"), Node("10.77.0.3", advskew=100)
    segment = Segment(one, two)
    segment.run(10)
    heard_ns = segment.now_ns - segment.now_ns % SECOND_NS
    segment.leave(one)
    two.busy = True  # the kernel is slow
    segment.run(6)
    assert two.state == "MASTER"
    assert tallies_of(two.engine, segment.now_ns).takeover().sum_ns == 0
    two.answer(segment.now_ns)
    found = tallies_of(two.engine, segment.now_ns).takeover()
    assert found.sum_ns == pytest.approx(segment.now_ns - heard_ns, abs=SECOND_NS)
    assert found.counts == counted(found, TAKEOVER_BOUNDS_NS, found.sum_ns)


def test_a_master_whose_addresses_are_refused_has_not_taken_over_yet() -> None:
    node = Node("10.77.0.2", advskew=100)
    assert node.engine.receive(0, advertisement(counter=5), START_NS + 1) == "ok"
    node.errors = {bytes((10, 77, 0, 100)): EACCES}
    node.run(START_NS + 5 * SECOND_NS)
    assert node.state == "MASTER"
    assert sum(tallies_of(node.engine, START_NS).takeover().counts) == 0
    node.errors = {}
    node.run(START_NS + 9 * SECOND_NS)
    assert sum(tallies_of(node.engine, START_NS).takeover().counts) == 1


def test_a_first_master_took_over_from_nobody() -> None:
    node = master()
    assert sum(tallies_of(node.engine, LATER_NS).takeover().counts) == 0


def test_a_master_heard_before_the_link_was_lost_is_not_taken_over_from() -> None:
    node = Node("10.77.0.2", advskew=100)
    assert node.engine.receive(0, advertisement(counter=5), START_NS + 1) == "ok"
    node.attach(START_NS + SECOND_NS, up=False)
    node.attach(START_NS + 60 * SECOND_NS)
    node.run(START_NS + 70 * SECOND_NS)
    assert node.state == "MASTER"
    assert sum(tallies_of(node.engine, START_NS).takeover().counts) == 0


def test_bounds_ascend_and_nothing_is_late_without_a_pump() -> None:
    for bounds in (LATENESS_BOUNDS_NS, TAKEOVER_BOUNDS_NS):
        assert sorted(set(bounds)) == list(bounds)
    lateness = tallies_of(master().engine, LATER_NS).lateness()
    assert lateness == Durations([0] * (len(LATENESS_BOUNDS_NS) + 1), 0)


# --- the pump -------------------------------------------------------------------------------------


def test_the_pump_fills_tallies_and_counts_how_late_its_turns_begin() -> None:
    async def scenario() -> None:
        async with pump_with_orders() as orders:
            pump = orders.pump
            set_up = partial(pump.set_interface, 0, ifindex=7, up=True, mac=MAC)
            await orders.give([partial(set_up, source=b"\x0a\0\0\x01")])
            await orders.give([partial(pump.add, slot, prepared(vhid=slot + 1)) for slot in (0, 1)])
            late = 0
            while not late:  # the wait is bounded by pump_with_orders()
                tallies = Tallies(1, 2)
                pump.tally(tallies, 0, 2)
                pump.tally(tallies)
                await orders.done()
                late = sum(tallies.lateness().counts)
            (interface,) = tallies.interfaces()
            assert interface.states["INIT"] == 0
            assert [vhid for _, vhid, _, _ in tallies.hosts(0, 2)] == [1, 2]

    asyncio.run(scenario())
