"""When a MASTER advertises: every interval, at once when it answers, twice what ends an election.

Must not use the engine.
"""

from __future__ import annotations

import msgspec

from tests.fuzz.cases import Failure

MS = 1_000_000
# Advertisements keep to a phase, hosts in step: one may be earlier by this.
PHASE_NS = 15 * MS
LATE_NS = 11 * MS


class Repetition(msgspec.Struct):
    """A second advertisement is due between two times; `optional`: another may stand for it."""

    from_ns: int
    until_ns: int
    optional: bool = False


class Schedule:
    """What a MASTER has sent and owes. `tell()` takes each moment at which it could have sent."""

    def __init__(self) -> None:
        self.repetitions: list[Repetition] = []
        self.regular_ns: int | None = None
        self.sent_ns: int | None = None
        self.may_be_early = False
        self.repeated = 0

    def end(self) -> None:
        """It is not MASTER any more."""
        self.repetitions.clear()
        self.regular_ns = self.sent_ns = None

    def begin(self, at_ns: int) -> None:
        """It becomes MASTER, or its interval changes: the phase is a new one.

        The next one comes when it was promised, and the one after that reaches the phase.
        """
        self.may_be_early = True
        self.regular_ns = None
        self.sent_ns = at_ns

    def excuse(self) -> None:
        """The repetitions that are due may stay out: a newer one repeats the same."""
        for each in self.repetitions:
            each.optional = True

    def twice(self, base_ns: int, at_ns: int, interval_ns: int) -> None:
        """What was sent now, because of something at `base_ns`, ends an election."""
        self.excuse()
        soon_ns = interval_ns // 16
        self.repetitions.append(Repetition(base_ns + soon_ns - MS, at_ns + soon_ns + 3 * MS))

    def ticks(self, after_ns: int, before_ns: int) -> list[int]:
        """The ticks at which a repetition may be sent."""
        return [
            tick
            for each in self.repetitions
            for tick in range(-(-each.from_ns // MS) * MS, each.until_ns + 2 * MS, MS)
            if after_ns < tick < before_ns
        ]

    def tell(self, at_ns: int, interval_ns: int, *, sent: bool, asked: bool) -> None:
        """What was sent at this time; `asked`: because of what was heard, or of a rise."""
        if sent and not asked:
            self.on_time(at_ns, interval_ns)
        for each in [each for each in self.repetitions if at_ns > each.until_ns]:
            if not each.optional:
                raise Failure(f"not sent a second time: due until {each.until_ns}, now {at_ns}")
            self.repetitions.remove(each)
        if sent:
            self.sent_ns = at_ns

    def on_time(self, at_ns: int, interval_ns: int) -> None:
        if self.sent_ns is not None and at_ns - self.sent_ns > interval_ns + LATE_NS:
            raise Failure(f"advertised late: {at_ns - self.sent_ns} ns, interval {interval_ns}")
        met = [each for each in self.repetitions if each.from_ns <= at_ns <= each.until_ns]
        if met:
            # That of a rise after an answer is an answer's second one, too.
            self.repetitions = [each for each in self.repetitions if each not in met]
            self.repeated += 1
        elif self.regular_ns is not None and at_ns - self.regular_ns < interval_ns - PHASE_NS:
            if not self.may_be_early:
                raise Failure(f"advertised needlessly: {at_ns - self.regular_ns} ns after the last")
            self.may_be_early = False
            self.regular_ns = at_ns
        else:
            self.regular_ns = at_ns
        # One of the phase before a repetition may be in its place.
        self.excuse()
