"""Orders to the engine: interfaces that come and go, delays, changes in place."""

from __future__ import annotations

from errno import EEXIST
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from carp_fast.engine.reports import AddressesChanged, StateChanged
from tests.support.segment import (
    ADDRESS,
    SECOND_NS,
    START_NS,
    TICK_NS,
    Node,
    Segment,
    advertisement,
    internet_checksum,
    ip,
    last_frame,
    prepared,
    risen,
)

ONE = [(ADDRESS, 24)]
TWO = [*ONE, (ip("10.77.0.101"), 24)]
MASTER_NS = START_NS + 10 * SECOND_NS
master = partial(risen, MASTER_NS)
GRACE_NS = 300 * SECOND_NS


# -------------------------------------------------------------------------------------- interfaces

LACKING: dict[str, tuple[dict[str, Any], str, str]] = {
    "link": ({"up": False}, "link_down", "link_up"),
    "interface": ({"ifindex": 0, "up": False}, "interface_missing", "interface_found"),
}


@pytest.mark.parametrize("lacking", LACKING)
@pytest.mark.parametrize("state", ["BACKUP", "MASTER"])
def test_what_an_interface_lacks_and_finds_again(lacking: str, state: str) -> None:
    interface, lost, found = LACKING[lacking]
    node = master() if state == "MASTER" else Node("10.77.0.2")
    now_ns = MASTER_NS if state == "MASTER" else START_NS
    node.take(now_ns)
    node.forget()
    node.attach(now_ns, **interface)
    node.take(now_ns)
    assert node.changes() == [(state, "INIT", lost)]
    assert node.engine.next_deadline_ns() is None
    # The kernel dropped the addresses together with the interface; else they are removed.
    removed = ["REMOVE_ADDRESSES"] * (state == "MASTER" and lacking != "interface")
    assert node.words() == removed
    assert node.engine.host(0).held == 0
    node.attach(now_ns + SECOND_NS)
    node.run(now_ns + 4 * SECOND_NS - 1)
    assert node.changes()[1:] == [("INIT", "BACKUP", found)]
    node.run(now_ns + 4 * SECOND_NS + TICK_NS)
    assert node.state == "MASTER"
    assert node.words()[len(removed) :][:2] == ["ADVERTISE", "ADD_ADDRESSES"]


def test_what_another_process_has_takes_no_part_until_it_is_free() -> None:
    node = Node("10.77.0.2", barred=True)
    node.run(MASTER_NS)
    assert (node.state, node.reason, node.words()) == ("INIT", "in_use", [])
    node.engine.bar(0, True, MASTER_NS)  # said twice: nothing new
    node.take(MASTER_NS)
    assert node.changes() == [("INIT", "INIT", "in_use")]
    node.engine.bar(0, False, MASTER_NS)
    node.take(MASTER_NS)
    assert (node.state, node.reason) == ("BACKUP", "freed")
    assert node.engine.checkpoint(0, MASTER_NS)["state"].get("flags") is None


def test_whether_it_is_in_use_outlives_a_change_and_a_replay() -> None:
    node = master()
    node.engine.bar(0, True, MASTER_NS)
    node.take(MASTER_NS)
    assert node.changes() == [("MASTER", "INIT", "in_use")]
    assert node.words() == ["REMOVE_ADDRESSES"], "without a resignation: the other one has it"
    node.engine.replace(0, prepared(advskew=50), MASTER_NS)
    node.run(2 * MASTER_NS)
    assert (node.state, node.reason) == ("INIT", "in_use")
    state = node.engine.checkpoint(0, 2 * MASTER_NS)["state"]
    assert state["flags"] == ["barred"]
    other = Node("10.77.0.2")
    other.engine.assume(0, state, 2 * MASTER_NS)
    other.run(3 * MASTER_NS)
    assert (other.state, other.reason) == ("INIT", "in_use")


def test_an_interface_recreated_between_two_looks() -> None:
    node = master()
    node.attach(MASTER_NS, ifindex=8)
    node.take(MASTER_NS)
    assert node.changes() == [
        ("MASTER", "INIT", "interface_missing"),
        ("INIT", "BACKUP", "interface_found"),
    ]
    assert node.words() == []
    node.run(MASTER_NS + 4 * SECOND_NS)
    # Nothing of the old interface is left: the addresses are added to the new one.
    assert node.words()[:3] == ["ADVERTISE", "ADD_ADDRESSES", "ANNOUNCE"]
    assert node.engine.host(0).held == 1


def test_a_renamed_interface_is_left_by_a_master_and_a_backup() -> None:
    node = master()
    node.attach(MASTER_NS, renamed=True)
    node.take(MASTER_NS)
    assert node.changes() == [("MASTER", "INIT", "interface_missing")]
    assert node.words() == ["REMOVE_ADDRESSES", "RESIGN"]
    # Whatever is heard of it meanwhile, nobody takes part there; what is added does not, either.
    node.attach(MASTER_NS, renamed=True, up=False)
    node.attach(MASTER_NS, renamed=True)
    node.engine.add(1, prepared(vhid=9), MASTER_NS)
    assert [node.engine.host(slot).reason for slot in (0, 1)] == ["interface_missing"] * 2
    node.attach(MASTER_NS, ifindex=0)
    node.attach(MASTER_NS, ifindex=9)
    assert [node.engine.host(slot).reason for slot in (0, 1)] == ["interface_found"] * 2
    node.engine.remove(1, MASTER_NS)
    node.take(MASTER_NS)
    node.forget()
    node.attach(MASTER_NS, renamed=True)
    node.attach(MASTER_NS)  # the name is back before it was left
    node.take(MASTER_NS)
    assert node.changes() == [
        ("BACKUP", "INIT", "interface_missing"),
        ("INIT", "BACKUP", "interface_found"),
    ]
    assert node.words() == []


def test_a_configured_source_that_the_machine_lacks_is_waited_for() -> None:
    # The interface has none of its own, and needs none.
    node = Node("10.77.0.2", source=ip("10.77.0.9"), source_missing=True)
    node.attach(START_NS, source=None)
    node.run(MASTER_NS)
    assert (node.state, node.reason) == ("INIT", "no_source")
    node.engine.set_own_source(0, MASTER_NS)
    assert (node.state, node.reason) == ("BACKUP", "source_found")
    node.run(2 * MASTER_NS)
    assert node.state == "MASTER"
    assert last_frame(node)[26:30] == ip("10.77.0.9")
    node.forget()
    # A source of the other family is not missed.
    node.engine.set_own_source(0, 2 * MASTER_NS, missing6=True)
    assert node.state == "MASTER"
    node.engine.set_own_source(0, 2 * MASTER_NS, missing=True)
    node.run(2 * MASTER_NS + SECOND_NS)
    assert node.changes() == [("MASTER", "INIT", "no_source")]
    assert node.words()[-2:] == ["REMOVE_ADDRESSES", "RESIGN"]
    # A change in place brings what is known of the source then.
    wanted = prepared(source=ip("10.77.0.8"))
    node.engine.replace(0, wanted, 2 * MASTER_NS)
    assert (node.state, node.reason) == ("BACKUP", "source_found")
    wanted = prepared(source=ip("10.77.0.9"), source_missing=True)
    node.engine.replace(0, wanted, 2 * MASTER_NS)
    assert (node.state, node.reason) == ("INIT", "no_source")
    # The interface's own source does not stand in for it; where it is to be used, it counts.
    node.attach(2 * MASTER_NS)
    assert node.reason == "no_source"
    node.engine.replace(0, prepared(), 2 * MASTER_NS)
    assert node.state == "BACKUP"


def test_an_address_with_our_mark_is_taken_for_ours_in_every_state() -> None:
    node = Node("10.77.0.2", addresses=ONE)
    node.engine.adopt(0, ADDRESS, 24, START_NS)
    node.engine.adopt(0, ADDRESS, 32, START_NS)  # another prefix length: another address
    node.take(START_NS)
    assert node.words() == ["REMOVE_ADDRESSES"]
    assert node.engine.host(0).held == 0
    # A MASTER that found it there, and took it for another's, keeps it and gives it up in the end.
    node.errors[ADDRESS] = EEXIST
    node.run(MASTER_NS)
    assert (node.state, node.engine.host(0).held) == ("MASTER", 0)
    node.errors.clear()
    node.forget()
    for _ in range(2):
        node.engine.adopt(0, ADDRESS, 24, MASTER_NS)
        node.take(MASTER_NS)
    assert (node.words(), node.engine.host(0).held) == ([], 1)
    node.engine.resign_all(MASTER_NS)
    node.take(MASTER_NS)
    assert node.words() == ["REMOVE_ADDRESSES", "RESIGN"]


def test_an_interface_that_does_not_exist_yet_is_waited_for_and_said_once() -> None:
    node = Node("10.77.0.2")
    node.engine.add(1, prepared(interface=3), START_NS)
    for second in range(5):
        node.engine.set_interface(3, START_NS + second * SECOND_NS, ifindex=0)
    node.take(START_NS)
    told = [r.reason for r in node.reported(StateChanged) if r.slot == 1]
    assert told == ["interface_missing"]


def test_link_state_can_be_ignored() -> None:
    node = master(ignore_link_state=True)
    node.attach(MASTER_NS, up=False)
    node.run(MASTER_NS + 5 * SECOND_NS)
    assert node.state == "MASTER"
    node.attach(MASTER_NS + 5 * SECOND_NS, ifindex=0)
    assert (node.state, node.reason) == ("INIT", "interface_missing")


def test_a_changed_source_and_mac_are_in_the_next_advertisement() -> None:
    node = master()
    node.mac, node.source = b"\x02\0\0\0\0\x55", "10.77.0.55"
    node.attach(MASTER_NS)
    node.run(MASTER_NS + 2 * SECOND_NS)
    frame = last_frame(node)
    assert (frame[6:12], frame[26:30]) == (node.mac, ip("10.77.0.55"))
    assert (internet_checksum(frame[14:34]), internet_checksum(frame[34:70])) == (0, 0)
    assert node.changes() == []


@pytest.mark.parametrize(
    ("advertise_mac", "mac"),
    [
        ("interface", b"\x02\0\x0a\x4d\0\x02"),
        ("ucarp", b"\0\0\x5e\0\0\x2a"),
        ("bsd", b"\0\0\x5e\0\x01\x2a"),
        (b"\x02\0\x5e\0\x07\x2a", b"\x02\0\x5e\0\x07\x2a"),
    ],
)
def test_the_mac_that_advertisements_come_from(advertise_mac: str | bytes, mac: bytes) -> None:
    node = master(advertise_mac=advertise_mac)
    node.run(MASTER_NS + 2 * SECOND_NS)
    assert last_frame(node)[6:12] == mac
    other = b"\x02\0\0\0\0\x55"
    node.attach(MASTER_NS + 2 * SECOND_NS, mac=other)
    node.run(MASTER_NS + 4 * SECOND_NS)
    assert last_frame(node)[6:12] == (other if advertise_mac == "interface" else mac)


def test_a_mac_has_six_bytes() -> None:
    with pytest.raises(ValueError, match="a MAC has 6 bytes, not 5"):
        prepared(advertise_mac=bytes(5))


def test_startup_delay_counts_at_start_and_again_after_link_up() -> None:
    node = Node("10.77.0.2", startup_delay_ns=5 * SECOND_NS)
    assert node.engine.receive(0, advertisement(advbase=9), START_NS) == "ok"
    node.run(START_NS + 5 * SECOND_NS - 1)
    assert (node.state, node.reason) == ("INIT", "startup_delay")
    node.run(START_NS + 5 * SECOND_NS)
    assert node.state == "BACKUP"
    node.run(START_NS + 8 * SECOND_NS)
    assert node.state == "MASTER"
    node.attach(START_NS + 9 * SECOND_NS, up=False)
    node.attach(START_NS + 10 * SECOND_NS)
    node.run(START_NS + 15 * SECOND_NS - 1)
    assert (node.state, node.reason) == ("INIT", "startup_delay")
    node.run(START_NS + 15 * SECOND_NS)
    assert node.state == "BACKUP"


def test_link_down_ends_the_startup_delay() -> None:
    node = Node("10.77.0.2", startup_delay_ns=5 * SECOND_NS)
    node.attach(START_NS + SECOND_NS, up=False)
    node.run(START_NS + 60 * SECOND_NS)
    assert (node.state, node.reason) == ("INIT", "link_down")
    assert node.done == []


# ------------------------------------------------------------------------------- changes in place


def test_an_old_digest_is_accepted_for_the_grace_time_and_no_longer() -> None:
    node = Node("10.77.0.2", alternates=True)
    new = prepared(passphrase=b"changed", alternates=True)
    node.engine.replace(0, new, START_NS, grace_ns=GRACE_NS)

    def hear(passphrase: bytes, now_ns: int) -> str:
        word: str = node.engine.receive(0, advertisement(passphrase=passphrase), now_ns)
        return word

    assert hear(b"changed", START_NS) == "ok"
    assert hear(b"secret", START_NS + GRACE_NS - 1) == "ok"
    assert hear(b"secret", START_NS + GRACE_NS) == "bad_auth"
    assert hear(b"changed", START_NS + GRACE_NS) == "ok"


def test_without_grace_the_old_digest_is_refused_at_once() -> None:
    node = Node("10.77.0.2", alternates=True)
    node.engine.replace(0, prepared(passphrase=b"changed", alternates=True), START_NS)
    assert node.engine.receive(0, advertisement(), START_NS) == "bad_auth"


def test_a_change_without_grace_leaves_former_digests_their_time() -> None:
    node = Node("10.77.0.2", alternates=True)
    for number in range(4):
        former = prepared(passphrase=b"%d" % number, alternates=True)
        node.engine.replace(0, former, START_NS, grace_ns=GRACE_NS)
    node.engine.replace(0, prepared(passphrase=b"another", alternates=True), START_NS)
    heard = [
        node.engine.receive(0, advertisement(passphrase=each, counter=counter + 1), START_NS)
        for counter, each in enumerate((b"secret", b"0", b"1", b"2", b"3", b"another"))
    ]
    assert heard == ["ok", "ok", "ok", "ok", "bad_auth", "ok"]


def test_changes_within_the_grace_time_and_some_that_change_no_digest() -> None:
    node = Node("10.77.0.2", alternates=True)
    former = [b"secret", b"second", b"third", b"fourth"]
    for second, passphrase in enumerate((*former[1:], b"fifth", b"fifth", b"fifth")):
        node.engine.replace(
            0,
            prepared(passphrase=passphrase, alternates=True, advskew=second),
            START_NS + second * SECOND_NS,
            grace_ns=GRACE_NS,
        )
    now_ns = START_NS + 10 * SECOND_NS
    for passphrase in (*former, b"fifth"):
        assert node.engine.receive(0, advertisement(passphrase=passphrase), now_ns) == "ok"
    # A change more takes the place of the oldest.
    sixth = prepared(passphrase=b"sixth", alternates=True)
    node.engine.replace(0, sixth, now_ns, grace_ns=GRACE_NS)
    verdicts = {
        passphrase: node.engine.receive(0, advertisement(passphrase=passphrase), now_ns)
        for passphrase in (*former, b"fifth", b"sixth")
    }
    assert verdicts.pop(b"secret") == "bad_auth"
    assert set(verdicts.values()) == {"ok"}


def test_a_signed_address_added_on_both_backup_first_changes_no_state() -> None:
    nodes = [Node("10.77.0.1", alternates=True)]
    nodes.append(Node("10.77.0.2", advskew=100, alternates=True))
    segment = Segment(*nodes)
    segment.run(10)
    for node in nodes:
        node.forget()
    for node, advskew in ((nodes[1], 100), (nodes[0], 0)):
        change = prepared(addresses=TWO, advskew=advskew, alternates=True)
        node.engine.replace(0, change, segment.now_ns, grace_ns=GRACE_NS)
        segment.run(20)
    assert [node.changes() for node in nodes] == [[], []]
    assert set(segment.verdicts) == {"ok"}
    assert nodes[0].engine.host(0).held == 2


def test_unsigned_addresses_added_one_after_the_other_change_no_state() -> None:
    nodes = [Node("10.77.0.1"), Node("10.77.0.2", advskew=100)]
    segment = Segment(*nodes)
    segment.run(10)
    for node in nodes:
        node.forget()
    unsigned: list[tuple[bytes, int]] = []
    for number in range(100):
        unsigned.append((ip(f"10.78.0.{number}"), 32))
        for node, advskew in ((nodes[0], 0), (nodes[1], 100)):
            change = prepared(unsigned_addresses=unsigned, advskew=advskew)
            node.engine.replace(0, change, segment.now_ns)
            segment.run(0.25)
    segment.run(10)
    assert [node.changes() for node in nodes] == [[], []]
    assert set(segment.verdicts) == {"ok"}
    assert [node.engine.host(0).held for node in nodes] == [101, 0]
    added = [done.content for done in nodes[0].done if done.action == "ADD_ADDRESSES"]
    assert added == [[data] for data, _ in unsigned]
    # Each is announced as soon as it is there.
    assert len(nodes[0].times("ANNOUNCE")) >= 100


def test_retired_addresses_are_removed_and_the_others_stay() -> None:
    node = master(addresses=ONE, unsigned_addresses=TWO[1:])
    change = prepared(addresses=ONE, retired_addresses=TWO[1:])
    node.engine.replace(0, change, MASTER_NS)
    node.take(MASTER_NS)
    assert [(done.action, done.content) for done in node.done if "ADDR" in done.action] == [
        ("REMOVE_ADDRESSES", [TWO[1][0]])
    ]
    assert node.engine.host(0).held == 1
    announced = [done.content for done in node.done if done.action == "ANNOUNCE"]
    assert all(len(frames) == 1 for frames in announced)
    node.forget()
    node.engine.resign_all(MASTER_NS)
    node.take(MASTER_NS)
    assert node.done[0].content == [ADDRESS]


def test_a_retired_address_goes_even_when_its_host_is_removed_before() -> None:
    # Never an address left behind: the removal of both is carried out in one go.
    node = master(addresses=TWO)
    node.engine.replace(0, prepared(addresses=ONE, retired_addresses=TWO[1:]), MASTER_NS)
    node.engine.remove(0, MASTER_NS)
    node.take(MASTER_NS)
    removed = [done.content for done in node.done if done.action == "REMOVE_ADDRESSES"]
    assert sorted(data for batch in removed for data in batch) == [data for data, _ in TWO]


def test_the_interval_changes_in_place() -> None:
    node = master()
    node.engine.replace(0, prepared(advbase=2, advskew=128), MASTER_NS)
    node.run(MASTER_NS + 20 * SECOND_NS)
    times = node.times("ADVERTISE")
    assert times[0] <= MASTER_NS + 2.5 * SECOND_NS
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert min(gaps[1:]) == max(gaps[1:]) == 2.5 * SECOND_NS
    assert node.changes() == []
    node.forget()
    node.engine.replace(0, prepared(advbase=0, advskew=20), MASTER_NS + 20 * SECOND_NS)
    node.run(MASTER_NS + 21 * SECOND_NS)
    assert len(node.times("ADVERTISE")) >= 12


def test_master_down_changes_in_place() -> None:
    node = Node("10.77.0.2")
    now_ns = START_NS + SECOND_NS
    node.engine.replace(0, prepared(dead_ratio=10), now_ns)
    node.run(START_NS + 10 * SECOND_NS - 1)
    assert node.state == "BACKUP"
    node.run(START_NS + 10 * SECOND_NS)
    assert node.state == "MASTER"


def test_preempt_changes_in_place_and_state_and_counters_stay() -> None:
    node = Node("10.77.0.2", preempt=False)
    assert node.engine.receive(0, advertisement(advskew=9), START_NS) == "ok"
    before = node.engine.host(0)
    node.engine.replace(0, prepared(preempt=True), START_NS)
    assert node.engine.host(0) == before
    assert node.engine.receive(0, advertisement(advskew=9), START_NS) == "ok"
    assert (node.state, node.reason) == ("MASTER", "preempted")


def test_a_change_together_with_a_lost_address_is_announced() -> None:
    node = master()
    node.engine.found(0, ADDRESS, "none", MASTER_NS)
    node.engine.replace(0, prepared(unsigned_addresses=TWO[1:]), MASTER_NS)
    node.take(MASTER_NS)
    assert node.words() == ["ADD_ADDRESSES", "ANNOUNCE"]
    assert len(node.reported(AddressesChanged)) == 1


def test_orders_for_free_slots_change_nothing() -> None:
    node = Node("10.77.0.2")
    node.take(START_NS)
    node.forget()
    for order in ("remove", "announce", "lose_address"):
        getattr(node.engine, order)(5, START_NS)
    node.engine.demote(5, 10, START_NS)
    node.take(START_NS)
    assert (node.done, node.reports) == ([], [])
