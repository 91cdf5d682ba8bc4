"""The timer wheel against a heap, whatever is armed, moved, disarmed and popped, and when."""

from __future__ import annotations

import heapq
import itertools
from functools import partial

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from carp_fast.engine._wheel import TimerWheel, power_of_two

CAPACITY = 24
REVOLUTION = 4096
timers = st.integers(0, CAPACITY - 1)
# Near, around one revolution, on the same slot of later revolutions, and far away.
delays = st.one_of(
    st.integers(-3, 20),
    st.integers(REVOLUTION - 2, REVOLUTION + 2),
    st.sampled_from([REVOLUTION * n for n in (1, 2, 3, 10)]),
    st.integers(0, 50 * REVOLUTION),
)
steps = st.one_of(st.integers(0, 20), delays.filter(lambda delay: delay >= 0))


class Heap:
    """The model: (tick, sequence of arming, timer); what was disarmed is left out when popped."""

    def __init__(self) -> None:
        self.tick = 0
        self.armed: dict[int, tuple[int, int]] = {}
        self.heap: list[tuple[int, int, int]] = []
        self.sequence = itertools.count()

    def arm(self, timer: int, tick: int) -> None:
        entry = (max(tick, self.tick + 1), next(self.sequence))
        self.armed[timer] = entry
        heapq.heappush(self.heap, (*entry, timer))

    def earliest(self) -> tuple[int, int] | None:
        while self.heap and self.armed.get(self.heap[0][2]) != self.heap[0][:2]:
            heapq.heappop(self.heap)
        return (self.heap[0][0], self.heap[0][2]) if self.heap else None

    def pop(self, tick: int) -> int | None:
        earliest = self.earliest()
        if earliest is None or earliest[0] > tick:
            self.tick = max(self.tick, tick)
            return None
        self.tick, timer = earliest
        del self.armed[timer]
        return timer


class WheelAgainstHeap(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.wheel = TimerWheel(CAPACITY)
        self.heap = Heap()
        self.now = 0  # the tick that pops have asked for so far
        self.popping = False  # the last pop found a timer: there may be more of that tick

    def pop_both(self) -> int | None:
        timer, wanted = self.wheel.pop(self.now), self.heap.pop(self.now)
        assert timer == wanted
        self.popping = wanted is not None
        return wanted

    @rule(timer=timers, delay=delays)
    def arm(self, timer: int, delay: int) -> None:
        self.wheel.arm(timer, self.now + delay)
        self.heap.arm(timer, self.now + delay)

    @rule(timer=timers)
    def disarm(self, timer: int) -> None:
        self.wheel.disarm(timer)
        self.heap.armed.pop(timer, None)

    @rule(step=steps)
    def pop_all(self, step: int) -> None:
        self.now += step
        while self.pop_both() is not None:
            pass

    @rule(step=steps)
    def pop_one(self, step: int) -> None:
        self.now += step
        self.pop_both()

    @rule(step=steps, changes=st.lists(st.tuples(timers, st.none() | delays), max_size=6))
    def change_while_popping(self, step: int, changes: list[tuple[int, int | None]]) -> None:
        self.now += step
        for timer, delay in changes:
            self.pop_both()
            if delay is None:
                self.disarm(timer)
            else:
                self.arm(timer, delay)
        self.pop_all(0)

    @invariant()
    def as_many_are_armed(self) -> None:
        assert len(self.wheel) == len(self.heap.armed)

    @invariant()
    def next_is_a_lower_bound_within_a_revolution(self) -> None:
        if self.popping:
            return
        bound, earliest = self.wheel.next(), self.heap.earliest()
        if earliest is None:
            assert bound is None
            return
        assert bound is not None
        assert self.heap.tick < bound <= min(earliest[0], self.heap.tick + REVOLUTION)
        if earliest[0] <= self.heap.tick + REVOLUTION and all(
            tick <= self.heap.tick + REVOLUTION for tick, _ in self.heap.armed.values()
        ):
            assert bound == earliest[0]


WheelAgainstHeap.TestCase.settings = settings(
    deadline=None, max_examples=200, stateful_step_count=40
)
TestWheelAgainstHeap = WheelAgainstHeap.TestCase


def drain(wheel: TimerWheel, tick: int) -> list[int]:
    return list(iter(lambda: wheel.pop(tick), None))


def test_power_of_two_is_the_lowest_that_is_not_below() -> None:
    assert [power_of_two(least) for least in (0, 1, 2, 3, 4, 5)] == [1, 1, 2, 4, 4, 8]
    assert [power_of_two((1 << 31) + more) for more in (-1, 0, 1)] == [1 << 31, 1 << 31, 1 << 32]


def test_timers_of_one_tick_come_in_the_order_of_arming() -> None:
    wheel = TimerWheel(8)
    for timer in (5, 2, 7, 2, 0):
        wheel.arm(timer, 10)
    assert drain(wheel, 10) == [5, 7, 2, 0]


def test_a_timer_armed_for_the_tick_being_popped_waits_for_the_next() -> None:
    wheel = TimerWheel(4)
    wheel.arm(0, 5)
    assert wheel.pop(5) == 0
    wheel.arm(1, 5)
    assert wheel.pop(5) is None
    assert wheel.pop(6) == 1


def test_a_timer_of_a_later_revolution_stays_when_its_slot_is_popped() -> None:
    wheel = TimerWheel(4)
    wheel.arm(0, 100 + REVOLUTION)
    wheel.arm(1, 100)
    assert wheel.next() == 100
    assert drain(wheel, 99 + REVOLUTION) == [1]
    assert drain(wheel, 100 + REVOLUTION) == [0]


def test_disarming_the_next_timer_of_the_slot_while_it_is_popped() -> None:
    wheel = TimerWheel(4)
    for timer in range(4):
        wheel.arm(timer, 3)
    assert wheel.pop(3) == 0
    wheel.disarm(1)
    wheel.arm(2, 9)
    assert drain(wheel, 3) == [3]
    assert drain(wheel, 9) == [2]
    assert len(wheel) == 0
    assert wheel.next() is None


def test_next_while_a_tick_is_being_popped_sees_the_rest_of_that_tick() -> None:
    wheel = TimerWheel(4)
    for timer in range(2):
        wheel.arm(timer, 3)
    assert wheel.pop(3) == 0
    bound = wheel.next()
    assert bound is not None
    assert bound <= 3


def test_numbers_beyond_the_capacity_are_refused() -> None:
    wheel = TimerWheel(4)
    for call in (partial(wheel.arm, 4, 1), partial(wheel.disarm, 4)):
        with pytest.raises(IndexError, match="timer 4 of 4"):
            call()
