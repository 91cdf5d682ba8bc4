"""The pace of announcements: a share of each interface at once, the rest as time goes on."""

from __future__ import annotations

import errno

import pytest

from carp_fast.config.model import AnnounceRate
from carp_fast.engine._engine import Engine
from carp_fast.engine.actions import Announce
from tests.support.segment import SECOND_NS, START_NS, ip, prepared

AT_ONCE = 512
EACH_NS = 100_000
TAKEN_NS = START_NS + 3 * SECOND_NS


def addresses(number: int, count: int) -> list[tuple[bytes, int]]:
    return [(bytes((10, number, i // 250, i % 250 + 1)), 24) for i in range(count)]


def masters(held: dict[tuple[int, int], int]) -> Engine:
    """An engine that is MASTER of (interface, vhid): so many addresses; nothing carried out yet."""
    engine = Engine()
    for number in {interface for interface, _ in held}:
        engine.set_interface(number, START_NS, source=ip("10.77.0.2"))
    for slot, ((interface, vhid), count) in enumerate(held.items()):
        wanted = prepared(interface=interface, vhid=vhid, addresses=addresses(vhid, count))
        engine.add(slot, wanted, START_NS)
    engine.expire(TAKEN_NS)
    return engine


def announced(engine: Engine, now_ns: int) -> list[int]:
    """Slots, in the order of their announcements."""
    return [act.slot for act in engine.take_actions(now_ns) if isinstance(act, Announce)]


def test_an_interface_waits_and_another_does_not() -> None:
    engine = masters({(0, vhid): 100 for vhid in range(1, 11)} | {(1, 1): 100})
    # A host's addresses go together: the sixth begins within the share of 512.
    assert announced(engine, TAKEN_NS) == [0, 1, 2, 3, 4, 5, 10]
    due_ns = TAKEN_NS + (600 - AT_ONCE) * EACH_NS
    assert engine.next_deadline_ns() == due_ns
    assert announced(engine, due_ns - 1) == []
    for slot in (6, 7, 8, 9):
        assert announced(engine, due_ns) == [slot]
        due_ns += 100 * EACH_NS
    assert announced(engine, due_ns) == []
    counters = engine.interface_counters(0)
    assert (counters["announcements_sent"], engine.interface_counters(1)["announcements_sent"]) == (
        10,
        1,
    )
    assert counters["announcements_paced"] > 0
    assert engine.interface_counters(1)["announcements_paced"] == 0


def test_the_share_comes_back_with_time() -> None:
    engine = masters({(0, vhid): 256 for vhid in range(1, 8)})
    assert announced(engine, TAKEN_NS) == [0, 1, 2]
    now_ns = TAKEN_NS + 256 * EACH_NS
    assert announced(engine, now_ns - 1) == []
    assert announced(engine, now_ns) == [3]
    # A long pause gives no more than the share.
    assert announced(engine, now_ns + SECOND_NS) == [4, 5, 6]


def test_what_is_announced_first_goes_before_repeats() -> None:
    engine = masters({(0, 1): AT_ONCE, (0, 2): 88, (0, 3): 1})
    assert announced(engine, TAKEN_NS) == [0, 1]
    now_ns = TAKEN_NS
    first: list[int] = []
    for _ in range(3):  # two advertisements later the long one is repeated
        now_ns += SECOND_NS // 2
        engine.expire(now_ns)
        first += announced(engine, now_ns)
    assert first[0] == 2
    # The repeat owes much time: a host that rises meanwhile is served before the next repeats.
    late = prepared(interface=0, vhid=4, addresses=addresses(4, 1))
    engine.add(3, late, now_ns)
    seen: list[int] = []
    while now_ns < TAKEN_NS + 8 * SECOND_NS:
        now_ns = max(engine.next_deadline_ns() or 0, now_ns + 1)
        engine.expire(now_ns)
        seen += announced(engine, now_ns)
    assert (first + seen).count(0) == 1
    assert (first + seen).count(2) == 2
    assert seen.count(3) == 2


def test_who_steps_down_while_it_waits_is_not_announced() -> None:
    engine = masters({(0, 1): AT_ONCE, (0, 2): 88, (0, 3): 1})
    assert announced(engine, TAKEN_NS) == [0, 1]
    engine.set_interface(0, TAKEN_NS, source=ip("10.77.0.2"), up=False)
    assert announced(engine, TAKEN_NS + SECOND_NS) == []
    engine.set_interface(0, TAKEN_NS + SECOND_NS, source=ip("10.77.0.2"))
    assert announced(engine, TAKEN_NS + SECOND_NS) == []


def test_who_is_found_elsewhere_is_announced_anew_and_once_more_later() -> None:
    engine = masters({(0, vhid): 100 for vhid in range(1, 8)} | {(1, 1): 1})
    now_ns = TAKEN_NS
    while now_ns < TAKEN_NS + 4 * SECOND_NS:  # first announcements and their repeats are over
        now_ns = max(engine.next_deadline_ns() or 0, now_ns + 1)
        engine.expire(now_ns)
        announced(engine, now_ns)
    engine.set_interface(0, now_ns, source=ip("10.77.0.2"), mac=b"\2\0\0\0\0\x55")
    assert announced(engine, now_ns) == []
    engine.set_interface(0, now_ns, source=ip("10.77.0.2"), announce=True)
    assert announced(engine, now_ns) == [0, 1, 2, 3, 4, 5], "paced as all announcements"
    seen: list[int] = []
    began_ns = now_ns
    while now_ns < began_ns + 4 * SECOND_NS:
        now_ns = max(engine.next_deadline_ns() or 0, now_ns + 1)
        engine.expire(now_ns)
        seen += announced(engine, now_ns)
    assert seen[0] == 6
    assert sorted(seen) == [0, 1, 2, 3, 4, 5, 6, 6]


def test_a_backup_and_who_has_not_announced_yet_announce_nothing_for_that() -> None:
    engine = masters({(0, 1): 1})
    engine.add(1, prepared(interface=0, vhid=2, addresses=addresses(2, 1)), TAKEN_NS)
    script = prepared(interface=0, vhid=3, addresses=addresses(3, 1), announce_on_order=True)
    engine.add(2, script, START_NS)
    engine.expire(TAKEN_NS)
    assert announced(engine, TAKEN_NS) == [0]
    engine.set_interface(0, TAKEN_NS, source=ip("10.77.0.2"), announce=True)
    assert announced(engine, TAKEN_NS) == [0], "the up script of the third has not run"


# --------------------------------------------------------------------- what the kernel refuses


def counted(engine: Engine, slot: int = 0) -> tuple[int, int]:
    """Announcements that were sent, and frames that could not be."""
    counters = engine.host(slot).counters
    return counters["announcements_sent"], counters["announcement_errors"]


@pytest.mark.parametrize("error", [errno.ENOBUFS, errno.EAGAIN, errno.ENOMEM])
def test_what_a_full_queue_refuses_is_announced_in_the_next_tick(error: int) -> None:
    engine = masters({(0, 1): 3, (1, 2): 1})
    refused = {(0, "announce"): error}
    taken = engine.take_actions(TAKEN_NS, refused)
    assert [each.slot for each in taken if isinstance(each, Announce)] == [1]
    assert (counted(engine), counted(engine, 1)) == ((0, 1), (1, 0))
    assert engine.interface_counters(0)["announcement_errors"] == 1
    assert engine.interface_counters(0)["announcements_paced"] == 0
    tick_ns = TAKEN_NS + engine.wake_tick_ns
    assert engine.next_deadline_ns() == tick_ns
    assert announced(engine, tick_ns - 1) == []
    engine.take_actions(tick_ns, refused)
    assert counted(engine) == (0, 2)
    assert announced(engine, tick_ns + engine.wake_tick_ns) == [0]
    assert counted(engine) == (1, 2)


@pytest.mark.parametrize("error", [errno.ENETDOWN, errno.EMSGSIZE, errno.EPERM])
def test_what_does_not_pass_by_itself_is_not_counted_and_waits_for_the_repeat(error: int) -> None:
    engine = masters({(0, 1): 3})
    engine.take_actions(TAKEN_NS, {(0, "announce"): error})
    assert counted(engine) == (0, 1)
    for tenth in range(1, 10):
        assert announced(engine, TAKEN_NS + tenth * SECOND_NS // 100) == []
    sent = []
    for tenth in range(1, 40):
        engine.expire(TAKEN_NS + tenth * SECOND_NS // 10)
        sent += announced(engine, TAKEN_NS + tenth * SECOND_NS // 10)
    assert sent == [0]
    assert counted(engine) == (1, 1)


def test_a_refused_announcement_is_dropped_with_its_role() -> None:
    engine = masters({(0, 1): 3})
    engine.take_actions(TAKEN_NS, {(0, "announce"): errno.ENOBUFS})
    engine.resign_all(TAKEN_NS)
    assert announced(engine, TAKEN_NS + SECOND_NS) == []
    assert engine.next_deadline_ns() is None


# ------------------------------------------------------------------------------- another pace


def test_the_usual_pace_is_that_of_a_configuration() -> None:
    usual = AnnounceRate()
    engine = masters({(0, 1): 1})
    assert engine.checkpoint(0, TAKEN_NS)["pace"] == [usual.interface, usual.at_once, usual.all]
    assert (usual.interface, usual.at_once) == (SECOND_NS // EACH_NS, AT_ONCE)


def test_an_interface_keeps_a_slower_pace() -> None:
    engine = masters({(0, vhid): 1 for vhid in range(1, 41)})
    engine.set_pace(10, 5)
    assert announced(engine, TAKEN_NS) == [0, 1, 2, 3, 4, 5]
    tenths = [announced(engine, TAKEN_NS + SECOND_NS * tenth // 10) for tenth in range(1, 35)]
    assert tenths == [[slot] for slot in range(6, 40)]


def test_a_host_with_more_addresses_than_go_at_once_pauses_between() -> None:
    engine = masters({(0, 1): 25, (0, 2): 1})
    engine.set_pace(100, 10)
    sent: list[tuple[int, int]] = []
    for hundredth in range(60):
        now_ns = TAKEN_NS + hundredth * SECOND_NS // 100
        for act in engine.take_actions(now_ns):
            if isinstance(act, Announce):
                sent.append((hundredth, act.slot))
                assert len(act.frames) == (25 if act.slot == 0 else 1)
    # Ten at once and one more share after it; the other host has its turn between.
    assert [slot for _, slot in sent] == [1, 0]
    assert 5 <= sent[1][0] <= 30


def test_all_interfaces_together_keep_a_pace() -> None:
    engine = masters({(number, 1): 1 for number in range(40)})
    engine.set_pace(10_000, 5, 10)
    assert announced(engine, TAKEN_NS) == [0, 1, 2, 3, 4, 5]
    assert (engine.next_deadline_ns() or 0) <= TAKEN_NS + SECOND_NS // 10
    tenths = [announced(engine, TAKEN_NS + SECOND_NS * tenth // 10) for tenth in range(1, 35)]
    assert tenths == [[slot] for slot in range(6, 40)]
    assert engine.interface_counters(7)["announcements_paced"] > 0


@pytest.mark.parametrize(("rate", "at_once"), [(0, 1), (1, 0)])
def test_a_pace_is_never_none(rate: int, at_once: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Engine().set_pace(rate, at_once)
