"""Searches for the highest rate that a network carries without loss.

Holds the bisection over trials, what a trial proves about the network, and when it proves nothing.
Must not know how trials are made or printed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from carp_fast.errors import CarpFastError
from carp_fast.loadtest.trial import Trial

RESOLUTION = 0.005
"""The search ends when the rates with and without loss are this close, as a fraction."""
STEPS_MAX = 80
REPEATS_MAX = 5
"""Trials of one rate in which the sender may be held up, before the search gives up."""
REACHED = 0.98
"""A sender that reaches less than this fraction of the requested rate limits the search."""
KEPT = 0.995
"""The fraction of a rate that the sender has to reach for a trial to prove that rate..."""
KEPT_LONG = 0.97
"""The same in the confirmation of a rate that a step has proved: the kernel stops a real-time
thread that never sleeps for up to a twentieth of each second, if others wait."""
HELD_UP = 0.9
"""... and from which on it is tried again, since the sender was held up."""
QUEUED = 0.005
"""The fraction of the frames that may be in queues when the last one is sent. A rate that the
network does not carry at length loses nothing until its queues are full."""
QUEUED_CONFIRMED = 0.0025
"""The same in the confirmation, which takes longer: what is due to chance is a smaller part."""
CONFIRM_STEPS = 5.0
"""How many times as long as a step the confirmation takes."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a search.

    `rate_per_s` None: even the lowest rate lost more than `loss_allowed`, or none was completed.
    `above_per_s`: the lowest rate that lost more, or None. `converged`: the two are at most
    RESOLUTION apart, or there is only one, and both were confirmed for `confirm_s`. `limited_by`:
    "network", "sender" (it could not send faster), "range" (the highest rate lost no more than
    allowed), "stalls" (the sender was held up again and again) or "interrupted". `discarded`:
    trials that prove nothing, because the sender was held up.
    """

    rate_per_s: float | None
    above_per_s: float | None
    loss_allowed: float
    resolution: float
    confirm_s: float
    converged: bool
    limited_by: str
    interrupted: bool
    steps: list[Trial]
    discarded: list[Trial]


class _Ended(CarpFastError):
    """Raised when a search ends before its result; the text is what limited it."""


@dataclass
class Search:
    """Searches for the highest rate from `low` to `high` frames/s that loses at most `loss`.

    `loss` is a fraction; `attempt` makes a trial at a rate for so many seconds; `show` is called
    with each trial and whether it passed, None: it is discarded. Once `stopped` says True, the
    search ends with the trials that were completed.

    A bisection: first the highest rate, then the lowest, then the middle of the remaining range,
    until the lowest rate that lost too much is at most RESOLUTION above the highest that did not.
    Both are then confirmed for `confirm_s`; what is not confirmed is searched again.
    """

    attempt: Callable[[float, float], Trial]
    low: float
    high: float
    loss: float = 0.0
    show: Callable[[Trial, bool | None], None] = lambda trial, passed: None
    step_s: float = 1.0
    confirm_s: float = CONFIRM_STEPS
    stopped: Callable[[], bool] = lambda: False
    _steps: list[Trial] = field(default_factory=list)
    _discarded: list[Trial] = field(default_factory=list)
    # Rates that passed, the highest last, and rates that lost too much, the lowest last.
    _passed: list[float] = field(default_factory=list)
    _lost: list[float] = field(default_factory=list)
    _confirmed: set[float] = field(default_factory=set)

    def run(self) -> Found:
        try:
            return self._found(self._run())
        except _Ended as ended:
            return self._found(str(ended), early=True)

    def _run(self) -> str:
        """Searches until both bounds are confirmed; returns what limits the rate."""
        limited_by = self._bound()
        while True:
            if not self._lost and limited_by == "network":
                limited_by = self._bound()
            if self._lost:
                if not self._passed and not self._bound_below():
                    return "network"
                limited_by = self._narrow()
            if not self._confirm_passed():
                limited_by = "network"
            elif limited_by != "network" or self._confirm_lost():
                return limited_by

    def _bound(self) -> str:
        """Tries the highest rate; returns what limits the rate if that passes, or "network"."""
        trial = self._try(self.high, self.step_s)
        if not self._passes(trial):
            # Frames were lost at the rate that the sender reached, so no higher rate is tried.
            self._lost.append(min(self.high, trial.sent_per_s))
            return "network"
        self._passed.append(_proven(trial, self.high))
        return "range" if trial.sent_per_s >= REACHED * self.high else "sender"

    def _bound_below(self) -> bool:
        """Tries the lowest rate; False: not even that passes."""
        if self._lost[-1] <= self.low:
            return False
        passes = self._passes(self._try(self.low, self.step_s))
        (self._passed if passes else self._lost).append(self.low)
        return passes

    def _narrow(self) -> str:
        """Tries rates between the bounds until they are close; returns what limits the rate."""
        while not self._close():
            passed, lost = self._passed[-1], self._lost[-1]
            middle = (passed + lost) / 2
            trial = self._try(middle, self.step_s)
            if not self._passes(trial):
                reached = trial.sent_per_s >= REACHED * middle
                self._lost.append(middle if reached else max(trial.sent_per_s, passed))
            elif _proven(trial, middle) > passed + (lost - passed) / 8:
                self._passed.append(_proven(trial, middle))
            else:
                return "sender"
        return "network"

    def _confirm_passed(self) -> bool:
        """Tries the highest rate that passed for longer; if that loses, it is a bound above."""
        rate = self._passed[-1]
        if rate in self._confirmed:
            return True
        trial = self._try(rate, self.confirm_s)
        if not self._passes(trial):
            self._lost.append(self._passed.pop())
            return False
        if trial.sent_per_s < KEPT_LONG * rate:
            self._passed[-1] = trial.sent_per_s
        self._confirmed.add(self._passed[-1])
        return True

    def _confirm_lost(self) -> bool:
        """Tries the lowest rate that lost for longer; if that passes, it is a bound below."""
        rate = self._lost[-1]
        if rate in self._confirmed:
            return True
        trial = self._try(rate, self.confirm_s)
        self._confirmed.add(rate)
        if not self._passes(trial) or _proven(trial, rate) < rate:
            return True
        self._passed.append(self._lost.pop())
        return False

    def _close(self) -> bool:
        """The bounds are close, or there is only one."""
        if not self._passed or not self._lost:
            return True
        return self._lost[-1] - self._passed[-1] <= RESOLUTION * self._lost[-1]

    def _try(self, rate: float, seconds: float) -> Trial:
        """A trial that proves something. Raises _Ended if there is none.

        Of trials that passed while the sender was held up, the one with most frames has to do.
        """
        slow: list[Trial] = []
        for _ in range(REPEATS_MAX):
            if self.stopped():
                raise _Ended("interrupted")
            if len(self._steps) >= STEPS_MAX:
                raise _Ended("network")
            trial = self.attempt(rate, seconds)
            if trial.interrupted:
                raise _Ended("interrupted")
            passes = self._passes(trial)
            held_up = HELD_UP * rate < trial.sent_per_s < KEPT * rate
            if not (held_up if passes else self._is_excused(trial)):
                self._steps.append(trial)
                self.show(trial, passes)
                return trial
            self._discarded.append(trial)
            self.show(trial, None)
            slow += [trial] * passes
        if not slow:
            raise _Ended("stalls")
        best = max(slow, key=lambda each: each.sent_per_s)
        self._discarded.remove(best)
        self._steps.append(best)
        return best

    def _passes(self, trial: Trial) -> bool:
        """What is in queues counts as lost: the network did not carry it in time."""
        most = QUEUED if trial.seconds < 0.9 * self.confirm_s else QUEUED_CONFIRMED
        return trial.loss + max(0.0, trial.queued - most) <= self.loss

    def _is_excused(self, trial: Trial) -> bool:
        """Whether a sender that was held up explains what was lost.

        Frames that are due meanwhile follow in a burst, which fills queues that the rate does not.
        A steady flood puts them off instead, but one of live frames cannot.
        """
        return trial.sent_late > 0 and trial.lost_on_the_way <= 2 * trial.sent_late

    def _found(self, limited_by: str, *, early: bool = False) -> Found:
        passed = self._passed[-1] if self._passed else None
        above = self._lost[-1] if self._lost else None
        return Found(
            rate_per_s=None if passed is None else round(passed, 1),
            above_per_s=None if above is None else round(above, 1),
            loss_allowed=self.loss,
            resolution=RESOLUTION,
            confirm_s=self.confirm_s,
            converged=self._close() and not early,
            limited_by=limited_by,
            interrupted=limited_by == "interrupted",
            steps=self._steps,
            discarded=self._discarded,
        )


def _proven(trial: Trial, rate: float) -> float:
    """The rate that a trial which passed proves: the one requested, or what the sender reached."""
    return rate if trial.sent_per_s >= KEPT * rate else trial.sent_per_s
