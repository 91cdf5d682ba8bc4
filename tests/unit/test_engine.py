"""Elections: two and three engines on a segment, timing, preemption, resignation, partitions."""

from __future__ import annotations

import time
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carp_fast.engine._engine import MAX_VIRTUAL_HOSTS, Engine
from carp_fast.engine.actions import Advertise
from tests.support.segment import (
    SECOND_NS,
    START_NS,
    TICK_NS,
    Node,
    Segment,
    advertisement,
    ip,
    next_deadline,
    prepared,
    read_advertisement,
)

WAKE_TICK_NS = 10 * TICK_NS


def units(count: int) -> int:
    """So many 1/256 s in ns."""
    return count * SECOND_NS // 256


def master_down(advbase: int, advskew: int, dead_ratio: int) -> int:
    """Dialect ucarp; with advbase 0 the ratio multiplies the interval."""
    if advbase == 0:
        return units(dead_ratio * advskew)
    return units(dead_ratio * advbase * 256 + advskew)


# ------------------------------------------------------------------------------------------ timing

TIMINGS = [
    *((advbase, advskew, 3) for advbase in (1, 2, 5) for advskew in (0, 100, 254)),
    *((1, 0, ratio) for ratio in (2, 4, 10)),
    *((2, 200, 4), (255, 254, 3), (0, 1, 3), (0, 20, 3), (0, 254, 5)),
]


@pytest.mark.parametrize(("advbase", "advskew", "dead_ratio"), TIMINGS)
def test_master_down_at_start(advbase: int, advskew: int, dead_ratio: int) -> None:
    node = Node("10.77.0.2", advbase=advbase, advskew=advskew, dead_ratio=dead_ratio)
    due_ns = START_NS + master_down(advbase, advskew, dead_ratio)
    node.run(due_ns - 1)
    assert node.state == "BACKUP"
    assert node.done == []
    node.run(due_ns + TICK_NS)
    assert (node.state, node.reason) == ("MASTER", "master_down")


@pytest.mark.parametrize(("advbase", "advskew", "dead_ratio"), TIMINGS)
def test_master_down_runs_from_when_the_frame_arrived(
    advbase: int, advskew: int, dead_ratio: int
) -> None:
    node = Node("10.77.0.2", advbase=advbase, advskew=advskew, dead_ratio=dead_ratio)
    wait_ns = master_down(advbase, advskew, dead_ratio)
    arrived_ns = START_NS + wait_ns // 2 + 12_345
    assert node.engine.receive(0, advertisement(advbase=0, advskew=1), arrived_ns) == "ok"
    node.run(arrived_ns + wait_ns - 1)
    assert node.state == "BACKUP"
    node.run(arrived_ns + wait_ns + TICK_NS)
    assert node.state == "MASTER"


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 4), st.integers(0, 254), st.integers(0, 400), st.integers(0, 10**9))
def test_a_master_is_never_silent_for_longer_than_its_interval(
    advbase: int, advskew: int, slot: int, offset_ns: int
) -> None:
    interval = advbase * 256 + advskew
    if interval == 0:
        return
    engine, now_ns = Engine(), START_NS + offset_ns
    engine.set_interface(0, now_ns, source=ip("10.77.0.2"))
    engine.add(slot, prepared(advbase=advbase, advskew=advskew, preempt=True), now_ns)
    slower = advertisement(advbase=advbase + 1, advskew=255)
    # MASTER by preemption at once or, where the peer counts as leaving, by silence.
    engine.receive(0, slower, now_ns)
    sent = []
    for _ in range(40):
        sent += [now_ns for act in engine.take_actions(now_ns) if isinstance(act, Advertise)]
        now_ns = max(next_deadline(engine), now_ns)
        engine.expire(now_ns)
    assert len(sent) > 10
    gaps = [later - earlier for earlier, later in pairwise(sent)]
    # Where the interval is only some ticks long the wheel, whose tick is 1 ms, rounds up once.
    assert max(gaps) <= units(interval) + (TICK_NS if interval < 82 else 0)
    # Nor much faster once the phase is reached: within two wake ticks of the interval.
    # The first is repeated a sixteenth of an interval later, and the phase begins then.
    assert min(gaps[2:]) >= units(interval) - 2 * max(engine.wake_tick_ns, TICK_NS)


def test_a_late_turn_advertises_once_and_goes_on() -> None:
    node = Node("10.77.0.2")
    node.run(START_NS + 5 * SECOND_NS)
    node.forget()
    late_ns = START_NS + 15 * SECOND_NS + 7
    node.carry_out(late_ns)
    assert node.times("ADVERTISE") == [late_ns]
    node.run(late_ns + 10 * SECOND_NS)
    gaps = [later - earlier for earlier, later in pairwise(node.times("ADVERTISE"))]
    assert len(gaps) in (10, 11)
    assert max(gaps) <= SECOND_NS


def test_the_deadline_is_held_back_until_all_frames_before_it_were_heard() -> None:
    node = Node("10.77.0.2")
    due_ns = START_NS + 3 * SECOND_NS
    late_ns = due_ns + 2 * SECOND_NS
    node.engine.expire(late_ns, due_ns - 1)
    assert node.state == "BACKUP"
    assert next_deadline(node.engine) <= late_ns + TICK_NS
    # The advertisement was waiting in the socket all the time: no take-over.
    assert node.engine.receive(0, advertisement(), due_ns - 10) == "ok"
    node.engine.expire(late_ns + TICK_NS, late_ns + TICK_NS)
    assert node.state == "BACKUP"
    # And with nothing in the socket the next look decides.
    silent = Node("10.77.0.2")
    silent.engine.expire(late_ns, due_ns - 1)
    silent.engine.expire(late_ns + TICK_NS, due_ns)
    assert silent.state == "MASTER"


def test_a_stall_gives_every_backup_a_whole_master_down_time() -> None:
    node = Node("10.77.0.2", advskew=100)
    back_ns = START_NS + 60 * SECOND_NS
    node.engine.stall(back_ns)
    node.run(back_ns + master_down(1, 100, 3) - 1)
    assert node.state == "BACKUP"
    node.run(back_ns + master_down(1, 100, 3) + TICK_NS)
    assert node.state == "MASTER"


def test_a_stall_shortens_no_deadline_and_does_not_touch_a_master() -> None:
    node = Node("10.77.0.2")
    node.engine.receive(0, advertisement(), START_NS + SECOND_NS)
    node.engine.stall(START_NS)
    assert node.engine.host(0).deadline_ns == START_NS + 4 * SECOND_NS
    node.run(START_NS + 5 * SECOND_NS)
    before = node.engine.host(0)
    node.engine.stall(START_NS + 5 * SECOND_NS)
    assert before.state == "MASTER"
    assert node.engine.host(0) == before


def test_hosts_with_an_interval_below_a_second_advertise_before_all_others() -> None:
    """What 31 ms are too long for does not wait behind thousands that have a second."""
    engine = Engine()
    engine.set_interface(0, START_NS, source=ip("10.77.0.2"))
    for slot in range(250):
        engine.add(slot, prepared(vhid=slot + 1), START_NS)
    engine.add(250, prepared(vhid=251, advbase=0, advskew=8), START_NS)
    now_ns = START_NS + 10 * SECOND_NS
    engine.expire(now_ns)
    engine.take_actions(now_ns)
    for slot in range(251):  # each answers a slower master at once, the fast one last
        frame = advertisement(vhid=slot + 1, advbase=2)
        assert engine.receive(0, frame, now_ns) == "ok"
    sent = [act.slot for act in engine.take_actions(now_ns) if isinstance(act, Advertise)]
    assert sent[0] == 250
    assert sorted(sent) == list(range(251))


def test_the_first_expire_on_a_machine_up_for_sixty_days_is_quick() -> None:
    # A monotonic clock counts from boot, and hosts are added before the first expire: that must
    # not cost a visit of each timer for each of the wheel's 1.3 million revolutions since.
    now_ns = 60 * 86_400 * SECOND_NS
    engine = Engine()
    for number in range(4):
        engine.set_interface(number, now_ns, source=ip("10.77.0.2"))
    for slot in range(1_000):
        engine.add(slot, prepared(interface=slot // 255, vhid=slot % 255 + 1), now_ns)
    started = time.process_time()
    engine.expire(now_ns + SECOND_NS)
    assert time.process_time() - started < 0.5


# -------------------------------------------------------------------------------------- two, three


def test_one_of_two_becomes_master_and_the_other_takes_over_when_it_is_killed() -> None:
    fast, slow = Node("10.77.0.1"), Node("10.77.0.2", advskew=100)
    segment = Segment(fast, slow)
    segment.run(20)
    assert (fast.state, slow.state) == ("MASTER", "BACKUP")
    assert slow.done == []
    killed_ns = fast.times("ADVERTISE")[-1]
    segment.leave(fast)
    segment.run(10)
    assert slow.changes()[-1] == ("BACKUP", "MASTER", "master_down")
    taken_ns = slow.times("ADVERTISE")[0]
    assert 0 <= taken_ns - killed_ns - master_down(1, 100, 3) <= TICK_NS
    assert slow.words()[:3] == ["ADVERTISE", "ADD_ADDRESSES", "ANNOUNCE"]
    assert set(segment.verdicts) == {"ok"}


def test_the_announcement_is_repeated_two_intervals_later_and_never_again() -> None:
    node = Node("10.77.0.2")
    node.run(START_NS + 20 * SECOND_NS)
    advertised, announced = node.times("ADVERTISE"), node.times("ANNOUNCE")
    # The second advertisement repeats the first, and does not count.
    assert announced == [advertised[0], advertised[3]]


def test_the_first_advertisement_of_a_master_is_repeated_once() -> None:
    node = Node("10.77.0.2", advskew=100)
    node.run(START_NS + 20 * SECOND_NS)
    interval_ns = units(356)
    gaps = [later - earlier for earlier, later in pairwise(node.times("ADVERTISE"))]
    assert interval_ns // 16 <= gaps[0] <= interval_ns // 16 + TICK_NS
    assert min(gaps[2:]) >= interval_ns - WAKE_TICK_NS


def test_an_answer_is_repeated_once_however_much_is_heard() -> None:
    node = Node("10.77.0.2")
    node.run(START_NS + 6 * SECOND_NS + 100 * TICK_NS)
    node.forget()
    at_ns = START_NS + 6 * SECOND_NS + 200 * TICK_NS
    for i in range(20):
        slower = advertisement(advskew=100, counter=i)
        assert node.engine.receive(0, slower, at_ns + i * TICK_NS) == "ok"
        node.carry_out(at_ns + i * TICK_NS)
    node.run(at_ns + SECOND_NS // 2)
    times = node.times("ADVERTISE")
    assert len(times) == 2
    assert SECOND_NS // 16 <= times[1] - times[0] <= SECOND_NS // 16 + TICK_NS


def test_a_repeat_is_owed_no_more_where_the_host_steps_down() -> None:
    node = Node("10.77.0.2", advskew=100)
    node.run(START_NS + master_down(1, 100, 3) + 2 * TICK_NS)
    assert node.state == "MASTER"
    node.forget()
    now_ns = START_NS + master_down(1, 100, 3) + 10 * TICK_NS
    assert node.engine.receive(0, advertisement(), now_ns) == "ok"
    node.run(now_ns + SECOND_NS)
    assert (node.state, len(node.times("ADVERTISE"))) == ("BACKUP", 1)  # the last one


def test_a_repeat_is_not_sent_where_the_next_advertisement_is_sooner() -> None:
    node = Node("10.77.0.2")
    node.run(START_NS + 6 * SECOND_NS)
    last_ns = node.times("ADVERTISE")[-1]
    node.forget()
    at_ns = last_ns + SECOND_NS - 20 * TICK_NS
    assert node.engine.receive(0, advertisement(advskew=100), at_ns) == "ok"
    node.carry_out(at_ns)
    node.run(at_ns + SECOND_NS // 2)
    times = node.times("ADVERTISE")
    assert len(times) == 2
    assert times[1] <= last_ns + SECOND_NS


@pytest.mark.parametrize(
    ("preempt", "theirs", "takes_over"),
    [
        *((False, advskew, False) for advskew in (101, 239, 240, 254)),
        *((True, advskew, True) for advskew in (101, 239, 240, 254)),
        *(("demoted", advskew, False) for advskew in (101, 239)),
        *(("demoted", advskew, True) for advskew in (240, 254)),
        *((preempt, 100, False) for preempt in (False, True, "demoted")),
        *((preempt, 99, False) for preempt in (False, True, "demoted")),
    ],
)
def test_preempt_decides_who_may_take_over_from_a_master(
    preempt: bool | str, theirs: int, takes_over: bool
) -> None:
    node = Node("10.77.0.2", advskew=100, preempt=preempt)
    now_ns = START_NS + SECOND_NS // 2
    assert node.engine.receive(0, advertisement(advskew=theirs), now_ns) == "ok"
    frames = node.take(now_ns)
    if takes_over:
        assert (node.state, node.reason, len(frames)) == ("MASTER", "preempted", 1)
    else:
        assert (node.state, frames) == ("BACKUP", [])
        assert node.engine.host(0).deadline_ns == now_ns + master_down(1, 100, 3)


def hear_each_second(node: Node, advskews: list[int]) -> list[str]:
    """The state of `node` after each advertisement, one a second."""
    states = []
    for second, advskew in enumerate(advskews):
        now_ns = START_NS + second * SECOND_NS
        node.carry_out(now_ns)
        frame = advertisement(advskew=advskew, counter=second)
        assert node.engine.receive(0, frame, now_ns) == "ok"
        states.append(node.state)
    return states


@pytest.mark.parametrize("preempt", [True, "demoted"])
def test_preempt_delay_counts_from_the_first_slower_advertisement(preempt: bool | str) -> None:
    node = Node("10.77.0.2", preempt=preempt, preempt_delay_ns=3 * SECOND_NS)
    assert hear_each_second(node, [250] * 5) == ["BACKUP"] * 3 + ["MASTER"] * 2


def test_preempt_delay_counts_anew_after_a_faster_master() -> None:
    node = Node("10.77.0.2", advskew=9, preempt=True, preempt_delay_ns=3 * SECOND_NS)
    states = hear_each_second(node, [250, 250, 0, 250, 250, 250, 250])
    assert states == ["BACKUP"] * 6 + ["MASTER"]


def test_preempt_delay_counts_anew_after_the_master_was_not_demoted() -> None:
    # "demoted": there was nothing to preempt in between, as little as with a faster master.
    node = Node("10.77.0.2", preempt="demoted", preempt_delay_ns=3 * SECOND_NS)
    states = hear_each_second(node, [250, 100, 100, 100, 250, 250, 250, 250])
    assert states == ["BACKUP"] * 7 + ["MASTER"]


def test_preemption_moves_the_master_and_no_two_stay() -> None:
    slow = Node("10.77.0.2", advskew=100)
    segment = Segment(slow)
    segment.run(10)
    fast = Node("10.77.0.1", preempt=True, now_ns=segment.now_ns)
    segment.nodes.append(fast)
    segment.run(1.5)
    assert (fast.state, fast.reason) == ("MASTER", "preempted")
    assert (slow.state, slow.reason) == ("BACKUP", "faster_master")
    # Stepping down for a faster master: one last advertisement, addresses removed, silence.
    assert slow.words()[-2:] == ["ADVERTISE", "REMOVE_ADDRESSES"]
    slow.forget()
    segment.run(20)
    assert slow.done == []
    assert fast.changes() == [("INIT", "BACKUP", "started"), ("BACKUP", "MASTER", "preempted")]


PAIRS = [
    ("10.0.1.2", "10.0.2.1"),  # numeric and last-octet order disagree
    ("10.0.0.1", "10.0.0.2"),
    ("10.0.0.9", "10.0.0.10"),
    ("10.1.0.1", "10.0.1.1"),
    ("10.0.0.255", "10.255.0.1"),
    ("192.168.0.1", "10.0.0.1"),
    ("10.77.0.128", "10.77.0.127"),
]


@pytest.mark.parametrize("pair", PAIRS + [(b, a) for a, b in PAIRS])
def test_a_tie_is_won_by_the_lower_source_last_octet_first(pair: tuple[str, str]) -> None:
    nodes = [Node(source) for source in pair]
    segment = Segment(*nodes)
    segment.apart.add(nodes[0])
    segment.run(10)
    assert len(segment.masters()) == 2
    segment.apart.clear()
    for node in nodes:
        node.forget()
    segment.run(10)
    winner = min(nodes, key=lambda node: ip(node.source)[::-1])
    (loser,) = (node for node in nodes if node is not winner)
    assert segment.masters() == [winner]
    assert loser.changes() == [("MASTER", "BACKUP", "tie_lost")]
    assert winner.changes() == []
    # The loser says at most what was due before it heard the winner: no last advertisement.
    assert loser.words() in (["REMOVE_ADDRESSES"], ["ADVERTISE", "REMOVE_ADDRESSES"])


def test_a_split_is_healed_at_once_and_announced() -> None:
    fast, slow = Node("10.77.0.1"), Node("10.77.0.2", advskew=100)
    segment = Segment(fast, slow)
    segment.apart.add(slow)
    segment.run(10)
    assert len(segment.masters()) == 2
    segment.apart.clear()
    fast.forget()
    slow.forget()
    segment.run(5)
    assert segment.masters() == [fast]
    first_ns = min(fast.times("ADVERTISE") + slow.times("ADVERTISE"))
    assert slow.times("REMOVE_ADDRESSES") == [first_ns]
    # It heard the slower one, be it its last advertisement: hosts around learn our MAC again.
    assert fast.times("ANNOUNCE") == [first_ns]
    assert len(slow.times("ADVERTISE")) <= 2


def test_a_slower_master_is_answered_at_most_once_an_interval() -> None:
    node = Node("10.77.0.2")
    now_ns = START_NS + 10 * SECOND_NS
    node.run(now_ns)
    node.forget()
    for step in range(400):
        at_ns = now_ns + step * 10 * TICK_NS
        frame = advertisement(advskew=50, counter=step)
        assert node.engine.receive(0, frame, at_ns) == "ok"
        node.take(at_ns)
    assert node.words() == ["ADVERTISE", "ANNOUNCE"] * 4
    assert node.state == "MASTER"


# ------------------------------------------------------------------------------------ resignation


def test_resignation_hands_over_to_one_of_two_backups() -> None:
    first, second, third = (
        Node(f"10.77.0.{n}", advskew=advskew) for n, advskew in ((1, 0), (2, 50), (3, 100))
    )
    segment = Segment(first, second, third)
    segment.run(20)
    assert segment.masters() == [first]
    first.forget()
    first.engine.resign_all(segment.now_ns)
    resigned_ns = segment.now_ns
    segment.run(5)
    assert first.words() == ["REMOVE_ADDRESSES", "RESIGN"]
    resignation = read_advertisement(first.done[-1].content)
    assert (resignation.advbase, resignation.advskew) == (255, 255)
    assert (first.state, first.reason) == ("INIT", "resigned")
    assert segment.masters() == [second]
    assert second.reason == "master_resigned"
    assert 0 <= second.times("ADVERTISE")[0] - resigned_ns - units(50) <= TICK_NS
    assert third.changes() == [("INIT", "BACKUP", "started")]


def test_a_backup_that_resigns_says_nothing() -> None:
    node = Node("10.77.0.2")
    node.engine.resign_all(START_NS)
    node.run(START_NS + 20 * SECOND_NS)
    assert node.done == []
    assert (node.state, node.reason) == ("INIT", "resigned")


def test_who_resigned_stays_away_whatever_happens_to_its_interface() -> None:
    node = Node("10.77.0.2")
    node.run(START_NS + 5 * SECOND_NS)
    node.engine.resign_all(START_NS + 5 * SECOND_NS)
    changes: list[dict[str, Any]] = [{"up": False}, {}, {"ifindex": 0}, {"ifindex": 7}]
    for step, interface in enumerate(changes):
        node.attach(START_NS + (6 + step) * SECOND_NS, **interface)
    node.run(START_NS + 20 * SECOND_NS)
    assert (node.state, node.reason) == ("INIT", "resigned")


def test_only_the_master_that_was_heard_can_leave() -> None:
    node = Node("10.77.0.2")
    assert node.engine.receive(0, advertisement(source="10.77.0.1"), START_NS) == "ok"
    leaving = advertisement(source="10.77.0.3", advbase=255, advskew=255)
    before = node.engine.host(0)
    assert node.engine.receive(0, leaving, START_NS + SECOND_NS) == "ok"
    after = node.engine.host(0)
    before.counters["advertisements_heard"] += 1
    other = after.peers.pop()  # remembered, but it is not the master
    assert (other.source, other.current) == (ip("10.77.0.3"), False)
    assert after == before


def test_a_resignation_heard_again_and_again_does_not_put_off_the_take_over() -> None:
    node = Node("10.77.0.2", advskew=200)
    node.engine.receive(0, advertisement(), START_NS)
    leaving = advertisement(advbase=255, advskew=255)
    for step in range(10):
        node.engine.receive(0, leaving, START_NS + step * 10 * TICK_NS)
    node.run(START_NS + units(200) + TICK_NS)
    assert (node.state, node.reason) == ("MASTER", "master_resigned")


def test_a_new_master_after_a_resignation_is_followed() -> None:
    node = Node("10.77.0.3", advskew=200)
    node.engine.receive(0, advertisement(), START_NS)
    node.engine.receive(0, advertisement(advbase=255, advskew=255), START_NS + SECOND_NS)
    risen_ns = START_NS + SECOND_NS + units(50)
    frame = advertisement(source="10.77.0.2", advskew=50)
    assert node.engine.receive(0, frame, risen_ns) == "ok"
    assert node.engine.host(0).deadline_ns == risen_ns + master_down(1, 200, 3)
    node.run(risen_ns + master_down(1, 200, 3) + TICK_NS)
    assert node.reason == "master_down"


def test_a_host_with_advbase_255_advertises_and_does_not_resign() -> None:
    node = Node("10.77.0.2", advbase=255)
    node.run(START_NS + 800 * SECOND_NS)
    assert node.state == "MASTER"
    assert node.words()[0] == "ADVERTISE"


# --------------------------------------------------------------------------------- a thousand hosts


@pytest.fixture(scope="module")
def thousand() -> list[tuple[int, str, int]]:
    """(when, what, slot) of 1,000 hosts that lose their master together, for 7 s."""
    engine = Engine()
    for number in range(4):
        engine.set_interface(number, START_NS, source=ip("10.77.0.2"))
    for slot in range(1_000):
        engine.add(slot, prepared(interface=slot // 255, vhid=slot % 255 + 1), START_NS)
    now_ns, actions = START_NS, []
    while now_ns < START_NS + 10 * SECOND_NS:
        engine.expire(now_ns)
        actions += [(now_ns, act.word, act.slot) for act in engine.take_actions(now_ns)]
        now_ns = next_deadline(engine)
    assert engine.reports_lost == 0
    return actions


def test_take_over_of_a_thousand_advertises_first(thousand: list[tuple[int, str, int]]) -> None:
    taken_ns = START_NS + 3 * SECOND_NS
    first = [(action, slot) for at_ns, action, slot in thousand if at_ns == taken_ns]
    words = [action for action, _ in first]
    assert words == ["ADVERTISE"] * 1000 + ["ADD_ADDRESSES"] * 1000 + ["ANNOUNCE"] * 1000
    for start in (0, 1_000, 2_000):
        assert {slot for _, slot in first[start : start + 1_000]} == set(range(1_000))


@pytest.mark.parametrize(("hosts", "ticks"), [(255, 1), (655, 1), (656, 2), (4_080, 7)])
def test_phases_are_as_few_ticks_as_the_pace_allows(hosts: int, ticks: int) -> None:
    engine = Engine()
    for number in range(16):
        engine.set_interface(number, START_NS, source=ip("10.77.0.2"))
    for slot in range(hosts):
        engine.add(slot, prepared(interface=slot // 255, vhid=slot % 255 + 1), START_NS)
    now_ns, sent = START_NS, []
    while now_ns <= START_NS + 6 * SECOND_NS:
        engine.expire(now_ns)
        sent += [
            (now_ns, act.slot) for act in engine.take_actions(now_ns) if isinstance(act, Advertise)
        ]
        now_ns = next_deadline(engine)
    begin_ns = START_NS + 5 * SECOND_NS
    last = [each for each in sent if begin_ns <= each[0] < begin_ns + SECOND_NS]
    assert sorted(slot for _, slot in last) == list(range(hosts))
    at = sorted({at_ns for at_ns, _ in last})
    assert [at_ns - at[0] for at_ns in at] == [tick * WAKE_TICK_NS for tick in range(ticks)]


def test_no_host_of_a_thousand_is_late(thousand: list[tuple[int, str, int]]) -> None:
    sent: dict[int, list[int]] = {slot: [] for slot in range(1_000)}
    for at_ns, action, slot in thousand:
        if action == "ADVERTISE":
            sent[slot].append(at_ns)
    for times in sent.values():
        assert len(times) >= 7
        assert max(later - earlier for earlier, later in pairwise(times)) <= SECOND_NS


def test_as_many_hosts_as_there_is_room_for_take_over_together() -> None:
    engine = Engine()
    for number in range(MAX_VIRTUAL_HOSTS // 255 + 1):
        engine.set_interface(number, START_NS, source=ip("10.77.0.2"))
    engine.expire(START_NS)
    for slot in range(MAX_VIRTUAL_HOSTS):
        host = prepared(interface=slot // 255, vhid=slot % 255 + 1)
        engine.add(slot, host, START_NS)
    engine.expire(START_NS + 3 * SECOND_NS)
    actions = engine.take_actions(START_NS + 3 * SECOND_NS)
    assert Counter(act.word for act in actions) == dict.fromkeys(
        ("ADVERTISE", "ADD_ADDRESSES", "ANNOUNCE"), MAX_VIRTUAL_HOSTS
    )
