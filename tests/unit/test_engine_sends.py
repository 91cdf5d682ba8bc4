"""Advertisements that the kernel refuses: tried again soon, in turn, and when they demote."""

from __future__ import annotations

import errno
from itertools import pairwise
from typing import Any

import pytest

from carp_fast.engine._engine import Engine
from carp_fast.engine.actions import Advertise, Resign
from carp_fast.engine.reports import Released, SendsFailing, SendsRecovered, Undemoted
from tests.support.segment import ADDRESS, SECOND_NS, START_NS, Node, advertisement, ip, prepared

TURN_NS = 10_000_000
MASTER_NS = START_NS + 10 * SECOND_NS
REFUSED = (errno.ENOBUFS, errno.EAGAIN, errno.ENOMEM)  # a full queue: it passes by itself
LASTING = (errno.ENETDOWN, errno.EPERM, errno.EMSGSIZE, errno.ENODEV, errno.ENETUNREACH)


class Sender:
    """A host whose advertisements fail while `error` is set, a MASTER unless told otherwise; notes
    each attempt.
    """

    def __init__(self, begin_ns: int = MASTER_NS, state: str = "MASTER", **settings: Any) -> None:
        self.node = Node("10.77.0.2", **settings)
        self.node.run(begin_ns)
        assert self.node.state == state
        self.node.forget()
        self.error = 0
        self.now_ns = begin_ns
        self.attempts: list[tuple[int, int]] = []  # (at, errno)

    def run(self, seconds: float) -> Sender:
        engine, until_ns = self.node.engine, self.now_ns + int(seconds * SECOND_NS)
        while True:
            engine.expire(self.now_ns)
            errors = {(0, None): self.error} if self.error else None
            for action in engine.take_actions(self.now_ns, errors):
                if isinstance(action, Advertise | Resign):
                    self.attempts.append((self.now_ns, self.error))
            self.node.reports += engine.take_reports()
            due_ns = engine.next_deadline_ns()
            if due_ns is None or due_ns > until_ns:
                self.now_ns = until_ns
                return self
            self.now_ns = max(due_ns, self.now_ns)

    def at(self) -> list[int]:
        """When it tried to send, in turns since the first attempt."""
        first_ns = self.attempts[0][0]
        return [(at_ns - first_ns) // TURN_NS for at_ns, _ in self.attempts]


@pytest.mark.parametrize("error", REFUSED)
def test_what_a_full_queue_refuses_is_tried_again_in_the_next_tick(error: int) -> None:
    sender = Sender()
    sender.error = error
    while not sender.attempts:
        sender.run(0.01)
    sender.error = 0
    sender.run(2.5)
    assert sender.at() == [0, 1, 100, 200]
    host = sender.node.engine.host(0)
    assert not host.sends_failing
    assert host.counters["send_errors"] == 1


@pytest.mark.parametrize("refused", [0, 1, 3])
def test_what_ends_an_election_is_sent_twice_however_often_it_was_refused(refused: int) -> None:
    sender = Sender(START_NS + SECOND_NS, "BACKUP")
    sender.error = errno.ENOBUFS if refused else 0
    while len(sender.attempts) < max(refused, 1):
        sender.run(0.001)
    sender.error = 0
    sender.run(2.5)
    sent = [at_ns for at_ns, error in sender.attempts if not error]
    first, _, *waits = [after - before for before, after in pairwise(sent)]
    assert sender.node.state == "MASTER"
    assert SECOND_NS // 16 <= first <= SECOND_NS // 16 + 2 * TURN_NS
    assert abs(sent[2] - sender.attempts[0][0] - SECOND_NS) <= TURN_NS
    assert all(SECOND_NS - TURN_NS <= wait <= SECOND_NS + TURN_NS for wait in waits)


def test_the_wait_doubles_while_it_is_refused_and_no_interval_is_longer() -> None:
    sender = Sender()
    sender.error = errno.ENOBUFS
    sender.run(2)
    assert sender.at() == [0, 1, 3, 7, 15, 31, 63, 100]


@pytest.mark.parametrize("error", LASTING)
def test_what_does_not_pass_by_itself_is_tried_again_an_interval_later(error: int) -> None:
    sender = Sender()
    sender.error = error
    sender.run(2.5)
    assert sender.at()[:2] == [0, 100]


@pytest.mark.parametrize("error", [*REFUSED, *LASTING])
def test_only_an_interval_of_failures_demotes(error: int) -> None:
    sender = Sender()
    sender.error = error
    while not sender.node.reported(SendsFailing):
        assert sender.now_ns < MASTER_NS + 5 * SECOND_NS
        sender.run(0.01)
    failing_ns = sender.attempts[0][0]
    (report,) = sender.node.reported(SendsFailing)
    assert report.error == error
    assert SECOND_NS <= report.at_ns - failing_ns <= 2 * SECOND_NS + TURN_NS
    assert len(sender.attempts) >= 3
    assert sender.node.engine.host(0).effective_advskew == 240


def test_a_send_in_between_begins_the_interval_of_failures_anew() -> None:
    sender = Sender()
    for _ in range(20):
        sender.error = errno.ENOBUFS
        sender.run(0.9)
        sender.error = 0
        sender.run(0.3)
    assert not sender.node.reported(SendsFailing)
    assert sender.node.engine.host(0).counters["send_errors"] > 20


def test_three_sends_end_the_demotion() -> None:
    sender = Sender()
    sender.error = errno.ENOBUFS
    sender.run(3)
    assert sender.node.engine.host(0).sends_failing
    sender.error = 0
    sent = len(sender.attempts)
    while not sender.node.reported(SendsRecovered):
        assert sender.now_ns < MASTER_NS + 12 * SECOND_NS
        sender.run(0.01)
    assert len(sender.attempts) - sent == 3
    assert sender.node.engine.host(0).effective_advskew == 0


def test_one_of_two_families_refused_is_tried_again_once() -> None:
    node = Node("10.77.0.2", on6="fe80::2", addresses=[(ADDRESS, 24), (ip("2001:db8::100"), 64)])
    node.run(MASTER_NS)
    node.forget()
    engine, now_ns, attempts = node.engine, MASTER_NS, []
    while now_ns <= MASTER_NS + 3 * SECOND_NS:
        now_ns += TURN_NS
        engine.expire(now_ns)
        actions = engine.take_actions(now_ns, {(0, 6): errno.ENOBUFS})
        attempts += [now_ns] * any(isinstance(each, Advertise) for each in actions)
    apart = [(after - before) // TURN_NS for before, after in pairwise(attempts)]
    assert apart == [1, 99, 1, 99, 1]
    host = engine.host(0)
    assert host.counters["send_errors"] == len(attempts)
    assert not host.sends_failing


def test_what_ends_an_election_is_sent_twice_although_one_family_was_refused() -> None:
    node = Node("10.77.0.2", on6="fe80::2", addresses=[(ADDRESS, 24), (ip("2001:db8::100"), 64)])
    node.run(START_NS + SECOND_NS)
    assert node.state == "BACKUP"
    engine, now_ns, refused = node.engine, START_NS + SECOND_NS, {(0, 6): errno.ENOBUFS}
    attempts: list[int] = []
    while now_ns <= MASTER_NS:
        now_ns += TURN_NS
        engine.expire(now_ns)
        actions = engine.take_actions(now_ns, {} if attempts else refused)
        attempts += [now_ns] * any(isinstance(each, Advertise) for each in actions)
    apart = [(after - before) // TURN_NS for before, after in pairwise(attempts)]
    once = SECOND_NS // 16 // TURN_NS
    assert apart[0] == 1
    assert apart[1] in (once, once + 1)
    assert abs(sum(apart[:3]) - 100) <= 1
    assert all(abs(wait - 100) <= 1 for wait in apart[3:])
    assert len(apart) > 4


class Allowance(dict[tuple[int, None], int]):
    """The errnos of a queue with room for some frames: it refuses the others."""

    left = 0.0

    def get(self, key: object, default: object = None) -> int:
        assert isinstance(key, tuple)
        if key[1] is not None:
            return 0
        if self.left < 1:
            return errno.ENOBUFS
        self.left -= 1
        return 0


@pytest.mark.parametrize("room", [2, 5, 20])
def test_a_queue_for_two_thirds_of_the_hosts_serves_all_in_turn(room: int) -> None:
    hosts, a_second = 30, 20
    engine = Engine()
    engine.set_interface(0, START_NS, source=ip("10.77.0.2"))
    for slot in range(hosts):
        engine.add(slot, prepared(vhid=slot + 1), START_NS)
    now_ns, queue = START_NS, Allowance()

    def run(seconds: int) -> list[int]:
        nonlocal now_ns
        for _ in range(seconds * SECOND_NS // TURN_NS):
            now_ns += TURN_NS
            queue.left = min(queue.left + a_second * TURN_NS / SECOND_NS, room)
            engine.expire(now_ns)
            engine.take_actions(now_ns, queue)
        return [engine.host(slot).counters["advertisements_sent"] for slot in range(hosts)]

    before = run(10)
    sent = [after - first for after, first in zip(run(60), before, strict=True)]
    assert all(engine.host(slot).state == "MASTER" for slot in range(hosts))
    assert min(sent) >= 0.8 * max(sent)  # each has its share, whatever its place in the burst
    assert sum(sent) >= 0.9 * 60 * a_second
    assert not any(isinstance(each, SendsFailing) for each in engine.take_reports())


# ---------------------------------------------------------------------------- the last of a MASTER


@pytest.mark.parametrize("error", REFUSED)
def test_a_refused_resignation_is_tried_again_in_the_next_tick(error: int) -> None:
    sender = Sender()
    sender.error = error
    sender.node.engine.resign_all(sender.now_ns)
    sender.run(0.055)
    assert sender.at() == [0, 1, 2, 3, 4, 5]
    sender.error = 0
    sender.run(3)
    assert sender.at() == [0, 1, 2, 3, 4, 5, 6]


def test_a_resignation_is_tried_for_two_seconds_at_most() -> None:
    sender = Sender()
    sender.error = errno.ENOBUFS
    sender.node.engine.remove(0, sender.now_ns)
    sender.run(3)
    assert 199 <= sender.at()[-1] <= 201
    assert len(sender.node.reported(Released)) == 1  # it does not stay for ever


def test_a_refused_last_advertisement_is_tried_again_in_the_next_tick() -> None:
    sender = Sender(advskew=100)
    faster = advertisement(source="10.77.0.1", advskew=0)
    assert sender.node.engine.receive(0, faster, sender.now_ns) == "ok"
    sender.error = errno.ENOBUFS
    sender.run(0.015)
    sender.error = 0
    sender.run(1)
    assert sender.at() == [0, 1, 2]
    assert sender.node.state == "BACKUP"


def test_what_a_master_owed_is_void_when_it_rises_again() -> None:
    sender = Sender(advskew=100, preempt=True)
    engine = sender.node.engine
    assert engine.receive(0, advertisement(source="10.77.0.1", advskew=0), sender.now_ns) == "ok"
    sender.error = errno.ENOBUFS
    sender.run(0.001)
    assert sender.node.state == "BACKUP"
    slower = advertisement(source="10.77.0.1", advskew=200, counter=2)
    assert engine.receive(0, slower, sender.now_ns) == "ok"
    sender.error = 0
    sender.run(0.5)
    assert sender.node.state == "MASTER"
    assert sender.at()[:2] == [0, 1]  # as MASTER, at the next tick


# ------------------------------------------------------------- a demoted host that sends nothing


def demoted_backup(sender: Sender, counter: int = 1) -> None:
    """Lets its sends fail for so long that another host takes over."""
    sender.error = errno.ENETDOWN
    while not sender.node.engine.host(0).sends_failing:
        sender.run(0.05)
    heard(sender, counter)
    assert sender.node.state == "BACKUP"
    sender.node.forget()


def heard(sender: Sender, counter: int, **carp: Any) -> None:
    frame = advertisement(source="10.77.0.1", counter=counter, **({"advskew": 100} | carp))
    assert sender.node.engine.receive(0, frame, sender.now_ns) == "ok"
    sender.run(0)


def keep_backup(sender: Sender, counter: int, seconds: int) -> int:
    """A master is heard every second; returns the next counter."""
    for _ in range(seconds):
        heard(sender, counter)
        sender.run(1)
        counter += 1
    return counter


def test_the_demotion_of_a_backup_for_its_sends_ends_after_a_minute_then_later() -> None:
    sender = Sender(preempt=False)
    counter = 2
    for minutes in (1, 2, 4):
        demoted_backup(sender, counter)
        fell_ns = sender.now_ns
        counter = keep_backup(sender, counter + 1, 60 * minutes - 1)
        assert sender.node.engine.host(0).effective_advskew == 240
        counter = keep_backup(sender, counter, 2)
        assert sender.node.engine.host(0).effective_advskew == 0
        (ended,) = sender.node.reported(Undemoted)
        assert 0 <= ended.at_ns - fell_ns - 60 * minutes * SECOND_NS <= SECOND_NS // 2
        while sender.node.state == "BACKUP":
            sender.run(0.5)
        # Its first failure shows that nothing has changed.
        assert len(sender.node.reported(SendsFailing)) == 1


def test_an_advertisement_that_is_sent_shortens_the_next_demotion_for_sends() -> None:
    sender = Sender(preempt=False)
    demoted_backup(sender, 2)
    counter = keep_backup(sender, 3, 62)
    sender.error = 0
    sender.run(10)
    assert sender.node.state == "MASTER"
    demoted_backup(sender, counter)
    keep_backup(sender, counter + 1, 62)
    assert sender.node.engine.host(0).effective_advskew == 0


def test_the_demotion_of_a_master_for_its_sends_ends_by_sends_alone() -> None:
    sender = Sender()
    sender.error = errno.ENETDOWN
    sender.run(3600)
    assert sender.node.state == "MASTER"
    assert sender.node.engine.host(0).sends_failing
    assert sender.node.reported(Undemoted) == []


def test_a_last_advertisement_that_fails_demotes_nobody() -> None:
    sender = Sender(advbase=0, advskew=64, preempt=False)
    sender.error = errno.ENOBUFS
    for counter in range(1, 16):
        heard(sender, counter, advbase=0, advskew=10)
        sender.run(0.1)
    assert sender.node.state == "BACKUP"
    assert len(sender.attempts) > 50
    assert sender.node.reported(SendsFailing) == []
    assert not sender.node.engine.host(0).sends_failing
