"""The search for the highest rate without loss, on wires that are made up."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carp_fast.loadtest.search import REPEATS_MAX, RESOLUTION, STEPS_MAX, Search
from carp_fast.loadtest.trial import Sent, Trial, compare
from tests.support.transfers import A, Wire, flow, received


@given(st.floats(1_000, 999_000))
def test_the_search_closes_in_on_the_capacity(capacity: float) -> None:
    wire = Wire(capacity)
    found = Search(wire.attempt, 1_000, 1_000_000).run()
    assert found.converged
    assert found.limited_by == "network"
    assert found.rate_per_s is not None
    assert found.above_per_s is not None
    assert found.rate_per_s <= capacity + 1 <= found.above_per_s + 2
    assert found.above_per_s - found.rate_per_s <= RESOLUTION * found.above_per_s + 1
    assert len(found.steps) < 26


@pytest.mark.parametrize(
    ("wire", "rate", "above", "limited_by"),
    [
        (Wire(2e6), 1_000_000, None, "range"),
        (Wire(2e6, most=500_000), 500_000, None, "sender"),
        (Wire(500), None, 1_000, "network"),
        (Wire(400, most=800), None, 800, "network"),
    ],
)
def test_where_there_is_nothing_to_close_in_on(
    wire: Wire, rate: float | None, above: float | None, limited_by: str
) -> None:
    found = Search(wire.attempt, 1_000, 1_000_000).run()
    assert (found.rate_per_s, found.above_per_s, found.limited_by) == (rate, above, limited_by)
    assert found.converged


def test_a_sender_that_is_slower_than_the_wire_seems() -> None:
    # It lost at what it reached: rates beyond that are not asked for again.
    wire = Wire(300_000, most=400_000)
    found = Search(wire.attempt, 1_000, 1_000_000).run()
    assert found.rate_per_s == pytest.approx(300_000, rel=0.011)
    assert max(wire.asked[1:]) <= 400_000


def test_a_sender_that_cannot_reach_what_the_network_carries() -> None:
    # At first it lost, in a burst; later it does not, and stays below what it was asked for.
    wires = iter([Wire(1), *[Wire(1e9, most=50_000)] * STEPS_MAX])
    found = Search(lambda rate, seconds: next(wires).attempt(rate, seconds), 1_000, 200_000).run()
    assert (found.rate_per_s, found.limited_by) == (50_000, "sender")
    assert not found.converged


def test_some_loss_may_be_allowed_and_each_step_is_told() -> None:
    told: list[tuple[float, bool | None]] = []
    wire = Wire(100_000)
    found = Search(
        wire.attempt,
        1_000,
        1_000_000,
        loss=0.5,
        show=lambda trial, passed: told.append((trial.sent_per_s, passed)),
    ).run()
    assert found.rate_per_s == pytest.approx(200_000, rel=0.011)
    assert [passed for _, passed in told[:2]] == [False, True]
    assert len(told) == len(found.steps)


def test_a_wire_that_makes_up_its_mind_anew_each_time_ends_the_search() -> None:
    outcomes = iter([0, 10**9, *[10**9] * STEPS_MAX])
    found = Search(lambda rate, seconds: Wire(next(outcomes)).attempt(rate, seconds), 1, 1e6).run()
    assert len(found.steps) <= STEPS_MAX


class Queueing(Wire):
    """A wire in front of which `room` frames wait; a sender that is held up at some attempts.

    At those, `burst` frames follow late and at once, and what has no room in the queue is lost.
    """

    def __init__(self, capacity: float, room: int, held_up: set[int], burst: int = 500) -> None:
        super().__init__(capacity)
        self.room, self.held_up, self.burst = room, held_up, burst

    def attempt(self, rate: float, seconds: float = 1.0) -> Trial:
        self.asked.append(rate)
        sent = round(rate * seconds)
        late = self.burst if len(self.asked) in self.held_up else 0
        waiting = max(0.0, rate - self.capacity) * seconds
        lost = round(max(0.0, waiting - self.room)) + max(0, late - self.room)
        arrived_s = max(seconds, (sent - lost) / self.capacity)
        row = flow(*A, sent - lost, first_at_ns=1, last_at_ns=1 + int(arrived_s * 1e9))
        span_ns = int(seconds * 1e9)
        return compare(
            Sent(sent, seconds, {A: sent}, asked_per_s=rate, span_ns=span_ns, late=late),
            received(by_source=[row]),
        )


@pytest.mark.parametrize("room", [20, 428, 3_000])
@pytest.mark.parametrize("held_up", [set(), {3}, {1, 2, 9}, set(range(2, 60, 2))])
def test_neither_queues_nor_a_sender_that_is_held_up_change_what_is_found(
    room: int, held_up: set[int]
) -> None:
    wire = Queueing(7_143, room, held_up)
    found = Search(wire.attempt, 1_000, 40_000).run()
    assert (found.converged, found.limited_by) == (True, "network")
    assert found.rate_per_s == pytest.approx(7_143, rel=0.01)
    assert found.above_per_s is not None
    assert found.above_per_s > 7_143


def test_a_sender_that_is_always_held_up_ends_the_search() -> None:
    wire = Queueing(7_143, 20, set(range(1_000)), burst=10**6)
    found = Search(wire.attempt, 1_000, 40_000).run()
    assert (found.rate_per_s, found.limited_by, found.converged) == (None, "stalls", False)
    assert len(found.discarded) == REPEATS_MAX


def test_a_sender_that_is_somewhat_slow_is_tried_again_and_proves_what_it_sent() -> None:
    slow = {5, 6, 8}
    wire = Wire(7_143)

    def attempt(rate: float, seconds: float) -> Trial:
        wire.most = 0.98 * rate if len(wire.asked) in slow else 1e9
        return wire.attempt(rate, seconds)

    found = Search(attempt, 1_000, 40_000).run()
    assert found.converged
    assert found.rate_per_s == pytest.approx(7_143, rel=0.01)
    assert len(found.discarded) >= 1
    always = Wire(7_143)

    def never_whole(rate: float, seconds: float) -> Trial:
        always.most = 0.98 * rate
        return always.attempt(rate, seconds)

    found = Search(never_whole, 1_000, 40_000).run()
    assert found.rate_per_s is not None
    assert found.rate_per_s <= 7_143
    assert max(trial.sent_per_s for trial in found.steps if not trial.lost) >= found.rate_per_s


def test_a_bound_that_chance_made_is_taken_back() -> None:
    # The first trial between the bounds loses although the wire is wide enough, and once more.
    wire, lost = Wire(7_143), {3, 6}

    def attempt(rate: float, seconds: float) -> Trial:
        return (Wire(1) if len(wire.asked) + 1 in lost else wire).attempt(rate, seconds)

    def counted(rate: float, seconds: float) -> Trial:
        trial = attempt(rate, seconds)
        if len(wire.asked) + 1 in lost:
            wire.asked.append(rate)
        return trial

    found = Search(counted, 1_000, 40_000).run()
    assert found.converged
    assert found.rate_per_s == pytest.approx(7_143, rel=0.01)


def test_an_interrupted_search_keeps_what_it_has() -> None:
    wire = Wire(7_143)
    found = Search(wire.attempt, 1_000, 40_000, stopped=lambda: len(wire.asked) == 4).run()
    assert (len(found.steps), found.interrupted, found.converged) == (4, True, False)
    assert found.rate_per_s is not None
    wire = Wire(7_143)

    def cut(rate: float, seconds: float) -> Trial:
        trial = wire.attempt(rate, seconds)
        return msgspec.structs.replace(trial, interrupted=len(wire.asked) == 3)

    found = Search(cut, 1_000, 40_000).run()
    assert (len(found.steps), found.limited_by, found.rate_per_s) == (2, "interrupted", 1_000)
