"""What a host may say of the counter of a genuine advertisement: a second reading of security.md.

The host remembers ranges, of few sequences, and it is not told how exactly: so what comes out is
the set of verdicts that are right. Times are in ns. It must not use the engine.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator

from tests.fuzz.election_rules import in_ns

MS = 1_000_000
NONE, RECENT, LONG = "none", "recent", "long"
SMALL = 64  # steps within a sequence, for certain
PERHAPS = 1 << 16  # the same, perhaps
NEAR = 70  # what lies between two known counters so near may be known, too
ORDERED = 3  # small steps in a row after which a source has an order
OK, REPLAY = frozenset(("ok",)), frozenset(("replay",))
EITHER = OK | REPLAY

Key = tuple[int, bytes]  # family, source


class Source:
    """What a host may know of another. `genuine`, `ordered`: None is perhaps."""

    def __init__(self) -> None:
        self.genuine: bool | None = False
        self.ordered: bool | None = False
        self.last: int | None = None
        self.heard: list[int] = []
        self.at_ns = self.interval = 0
        self.steps = self.perhaps = 0
        self.run: list[int] = []
        self.run_at_ns = 0
        # Since it was accepted: (counter, what was known of it, whether from our own MAC).
        self.refused: list[tuple[int, frozenset[str], bool]] = []
        self.constant = True

    def ascends(self, counter: int) -> bool:
        """Whether it is perhaps the third in a row: of some nobody knows whether they count."""
        states = {(0, -1)}
        for refused, known, ours in self.refused[-12:]:
            counted = {(count + 1 if refused > last else 1, refused) for count, last in states}
            states = states | counted if ours or LONG in known else counted
        return any(count >= 2 and last < counter for count, last in states)

    def is_third(self, counter: int) -> bool:
        """Whether it is the third in a row that ascends, for certain."""
        if not self.ascends(counter) or len(self.refused) < 2:
            return False
        (first, *_), (second, *_) = self.refused[-2:]
        return first < second < counter <= first + SMALL and all(
            LONG not in known and not ours for _, known, ours in self.refused[-2:]
        )


class Counters:
    """The counters that a host has sent and heard. `spans_ns`: its master-down times so far."""

    def __init__(self, replay: str) -> None:
        self.replay = replay
        self.sent_ns: dict[int, int] = {}
        self.order: list[int] = []  # sent, as they were
        self.noted: dict[int, tuple[int, bool]] = {}  # heard in order: first at, certainly
        self.late_ns: dict[int, int] = {}  # the last of the run that it was in
        self.first_ns: dict[int, int] = {}
        self.taken_ns: dict[tuple[int, int], int] = {}  # known, of strangers: (counter, family)
        self.sources: dict[Key, Source] = {}
        self.spans_ns: list[int] = []
        self.least_ns = 0  # the shortest interval
        self.latest_ns = 0  # of all that was sent or heard
        self.used: list[int] = []
        self.sorted: list[int] = []

    # ------------------------------------------------------------------------------------- known

    def send(self, counter: int, at_ns: int) -> None:
        if counter not in self.sent_ns:
            self.sent_ns[counter] = at_ns
            self.order.append(counter)
            self.insert(counter)
            self.latest_ns = max(self.latest_ns, at_ns)

    def insert(self, counter: int) -> None:
        at = bisect.bisect_left(self.sorted, counter)
        if at == len(self.sorted) or self.sorted[at] != counter:
            self.used.append(counter)
            self.sorted.insert(at, counter)

    def sequences(self) -> int:
        """How many sequences there are: a host has places for few."""
        return 1 + sum(b - a > SMALL // 2 for a, b in itertools.pairwise(self.sorted))

    def is_between(self, counter: int) -> bool:
        """Whether it lies in a gap of a sequence, which a range covers."""
        at = bisect.bisect(self.sorted, counter)
        return 0 < at < len(self.sorted) and self.sorted[at] - self.sorted[at - 1] <= NEAR

    def sent_lately(self, counter: int, at_ns: int, interval_ns: int) -> bool | None:
        """Whether it was sent within the last interval; None: at its end, or nobody can tell."""
        if counter not in self.sent_ns:
            return None if self.is_between(counter) and self.order else False
        age_ns = at_ns - self.sent_ns[counter]
        if age_ns < -MS or abs(age_ns - interval_ns) <= 2 * MS:
            return None
        # Those sent twice may share the later one's time, and so may others as soon after.
        later = self.order[bisect.bisect(self.order, counter) :][:8]
        if interval_ns < age_ns <= interval_ns + interval_ns // 4 + 2 * MS and any(
            0 < self.sent_ns[each] - self.sent_ns[counter] <= interval_ns // 4 + 2 * MS
            for each in later
        ):
            return None
        if age_ns < interval_ns and self.sent_since(counter) > 4:
            return None
        return age_ns < interval_ns

    def sent_since(self, counter: int) -> int:
        """How many advertisements followed; of those sent twice both count as one."""
        groups, before = 0, None
        for each in self.order[bisect.bisect_left(self.order, counter) :]:
            at_ns = self.sent_ns[each]
            if at_ns <= self.sent_ns[counter] and each < counter:
                continue
            if before is None or (
                at_ns > before[1]
                and (each != before[0] + 1 or at_ns - before[1] > self.least_ns // 8 - 2 * MS)
            ):
                groups += 1
            before = each, at_ns
        return groups

    def known(self, counter: int, at_ns: int, key: Key) -> frozenset[str]:
        """What may be known of it: nothing, that it was in use recently, or for long."""
        span_ns = 2 * min(self.spans_ns) - 2 * MS
        is_late = self.latest_ns - at_ns > min(self.spans_ns) // 2 - 2 * MS
        times = [self.sent_ns.get(counter), self.noted.get(counter, (None,))[0]]
        first_ns = min((each for each in times if each is not None), default=None)
        if first_ns is None:
            if self.is_between(counter):
                return frozenset((NONE, RECENT, LONG))
            # The last of another source is known, too, as OpenBSD's constant is.
            lasts = [
                each.at_ns
                for other, each in self.sources.items()
                if other != key and each.last == counter
            ]
            if not lasts:
                return frozenset((NONE,))
            return frozenset((NONE, RECENT, LONG if at_ns - min(lasts) > span_ns else RECENT))
        certain = self.sequences() <= 2 and (counter in self.sent_ns or self.noted[counter][1])
        if at_ns - first_ns <= span_ns:
            may = {RECENT}
        elif self.is_long(counter, first_ns, at_ns):
            may = {LONG}
        else:
            may = {RECENT, LONG}
        if not certain and counter not in self.sent_ns and self.in_old_run(counter, at_ns, span_ns):
            may |= {LONG}
        if self.passed_over(counter, at_ns, span_ns):
            may |= {RECENT, LONG}
        if not certain or is_late:
            may |= {NONE, RECENT} if LONG in may else {NONE}
        return frozenset(may)

    def went_past(self, counter: int) -> bool:
        """Whether it is none before our first one or after our last: it counts as ours, if it comes
        from our own source and MAC.
        """
        return bool(self.order) and self.order[0] <= counter <= self.order[-1]

    def known_from(self, counter: int, at_ns: int, key: Key, *, own_mac: bool) -> frozenset[str]:
        """What may be known of it, as from its sender; `own_mac`: from our source and MAC."""
        known = self.known(counter, at_ns, key)
        if own_mac and self.went_past(counter):
            return frozenset(RECENT if each == NONE else each for each in known)
        return known

    def passed_over(self, counter: int, at_ns: int, span_ns: int) -> bool:
        """Whether it lies in a gap of what was in use long ago, which a range covers."""
        at = bisect.bisect_left(self.sorted, counter)
        after = at + (self.sorted[at : at + 1] == [counter])
        around = self.sorted[max(0, at - 1) : at] + self.sorted[after : after + 1]
        return (
            len(around) == 2
            and around[1] - around[0] <= NEAR
            and all(at_ns - self.used_ns(each) > span_ns for each in around)
        )

    def used_ns(self, counter: int) -> int:
        """When a counter that was sent or heard was first in use."""
        times = (self.sent_ns.get(counter), self.first_ns.get(counter))
        return min(each for each in times if each is not None)

    def in_old_run(self, counter: int, at_ns: int, span_ns: int) -> bool:
        """Whether it is within what came in order of a source that was heard long ago."""
        return any(
            each.perhaps
            and each.last is not None
            and 0 <= each.last - counter <= 4096
            and at_ns - each.at_ns > span_ns
            for each in self.sources.values()
        )

    def is_long(self, counter: int, first_ns: int, at_ns: int) -> bool:
        """Whether it must be known for more than two master-down times.

        Ranges are of half a one; where there are two sequences at once, of fewer, and later.
        """
        span_ns = max(self.spans_ns)
        used_ns = max(first_ns, self.late_ns.get(counter, first_ns))
        if at_ns - used_ns <= 5 * span_ns // 2 + 4 * MS:
            return False
        return all(b - a <= SMALL for a, b in itertools.pairwise(self.lately(at_ns, 4 * span_ns)))

    def lately(self, at_ns: int, within_ns: int) -> list[int]:
        """The counters that were in use lately, ascending."""
        sent = itertools.takewhile(
            lambda each: at_ns - self.sent_ns[each] <= within_ns, reversed(self.order)
        )
        noted = (
            each
            for each, (first_ns, _) in self.noted.items()
            if at_ns - self.late_ns.get(each, first_ns) <= within_ns
        )
        return sorted({*sent, *noted})

    # ------------------------------------------------------------------------------------ judged

    def may(
        self,
        key: Key,
        counter: int,
        at_ns: int,
        own: bool,
        interval_ns: int,
        *,
        own_mac: bool = False,
    ) -> set[str]:
        """The verdicts that are right, for what is no loop."""
        if self.replay == "off":
            return {"ok"}
        source = self.sources.get(key) or Source()
        every: set[str] = set()
        every_known = self.known_from(counter, at_ns, key, own_mac=own_mac)
        for known, genuine, ordered in self.readings(source, every_known):
            if own:
                every |= self.of_own(source, counter, known, ordered, at_ns)
            else:
                stranger = self.of_stranger(key, counter, known, at_ns, interval_ns)
                every |= (
                    stranger
                    if not genuine and known != NONE
                    else self.of_source(source, counter, known, ordered, at_ns)
                )
        return every

    def readings(self, source: Source, known: frozenset[str]) -> Iterator[tuple[str, bool, bool]]:
        """Everything that the host may have noted of a counter and its source."""
        genuine = (True, False) if source.genuine is None else (source.genuine,)
        ordered = (True, False) if source.ordered is None else (source.ordered,)
        return itertools.product(known, genuine, ordered)

    def goes_on(self, source: Source, counter: int, at_ns: int) -> bool | None:
        """Whether one just below was accepted of it within a master-down time; None: perhaps."""
        if source.last is None or not 0 < counter - source.last <= NEAR:
            return False
        age_ns, span_ns = at_ns - source.at_ns, self.spans_ns[-1]
        if counter - source.last > SMALL or abs(age_ns - span_ns) <= MS:
            return None
        return age_ns <= span_ns

    def of_own(
        self, source: Source, counter: int, known: str, ordered: bool, at_ns: int
    ) -> frozenset[str]:
        """From another host with our own source."""
        back = source.last is not None and counter <= source.last
        if known == LONG:
            return REPLAY
        if known == RECENT:
            if self.replay == "strict":
                return REPLAY if source.last is None or back else EITHER
            if source.is_third(counter):
                return OK
            taken = source.last is not None and not back
            return EITHER if taken or source.ascends(counter) else REPLAY
        return self.in_order(source, counter, known, ordered, at_ns)

    def of_stranger(
        self, key: Key, counter: int, known: str, at_ns: int, interval_ns: int
    ) -> frozenset[str]:
        """From a source that never sent a new counter: each known one once, in ascending order.

        Several, which may be in step, within half an interval. For how long a later one that was
        accepted keeps this one out is not told.
        """
        source = self.sources.get(key) or Source()
        goes_on = self.goes_on(source, counter, at_ns)
        if known == LONG and goes_on is False:
            return REPLAY
        if source.last is not None and counter <= source.last:
            return REPLAY
        family = key[0]
        later = [
            taken_ns
            for (taken, its), taken_ns in self.taken_ns.items()
            if taken >= counter and its == family
        ]
        if not later:
            return EITHER if known == LONG and goes_on is None else OK
        again = (counter, family) in self.taken_ns and all(
            2 * MS + interval_ns // 2 < at_ns - taken_ns <= 2 * min(self.spans_ns) - 2 * MS
            for taken_ns in later
        )
        return REPLAY if again else EITHER

    def of_source(
        self, source: Source, counter: int, known: str, ordered: bool, at_ns: int
    ) -> frozenset[str]:
        """From a source that has sent a new counter, or sends one now."""
        back = source.last is not None and counter <= source.last
        strict = self.replay == "strict"
        if strict and back:
            return REPLAY
        if known == LONG:
            if strict and not back:
                goes_on = self.goes_on(source, counter, at_ns)
                return EITHER if goes_on is None else OK if goes_on else REPLAY
            if not back:
                return OK
            return EITHER if counter == source.last and source.constant else REPLAY
        return self.in_order(source, counter, known, ordered, at_ns)

    def in_order(
        self, source: Source, counter: int, known: str, ordered: bool, at_ns: int
    ) -> frozenset[str]:
        """Whether it is in the source's own order, or that is learned again."""
        if source.last is None or counter > source.last:
            return OK
        if self.replay == "strict":
            return REPLAY
        if counter == source.last and source.constant:
            return OK
        if not ordered:
            return OK if counter not in source.heard else EITHER
        if known == RECENT:
            return EITHER if source.ascends(counter) else REPLAY
        silent = self.is_silent(source, at_ns)
        if silent:
            return EITHER if counter in source.heard else OK
        if source.is_third(counter):
            return OK
        return EITHER if silent is None or source.ascends(counter) else REPLAY

    def is_silent(self, source: Source, at_ns: int) -> bool | None:
        """Whether it was silent for so long that it may have been restarted; None: at the end."""
        interval_ns = in_ns(source.interval)
        limit_ns = max(0, min(2 * interval_ns, self.spans_ns[-1] - interval_ns))
        age_ns = at_ns - source.at_ns
        return None if abs(age_ns - limit_ns) <= 2 * MS else age_ns > limit_ns

    # ----------------------------------------------------------------------------------- learned

    def refuse(self, key: Key, counter: int, at_ns: int, *, ours: bool) -> None:
        known = self.known(counter, at_ns, key)
        self.sources.setdefault(key, Source()).refused.append((counter, known, ours))

    def accept(
        self, key: Key, counter: int, at_ns: int, interval: int, *, own_mac: bool = False
    ) -> None:
        known = self.known_from(counter, at_ns, key, own_mac=own_mac)
        source = self.sources.setdefault(key, Source())
        self.latest_ns = max(self.latest_ns, at_ns)
        if counter not in self.first_ns:
            self.first_ns[counter] = at_ns
            self.used.append(counter)
        if self.replay != "off" and known != {NONE} and not source.genuine:
            self.taken_ns[counter, key[0]] = at_ns
        if known == {NONE}:
            source.genuine = True
        elif NONE in known and not source.genuine:
            source.genuine = None
        small, perhaps = self.follow(source, counter)
        perhaps = perhaps and self.replay != "off"  # nothing of others is refused, nor kept
        self.note_run(source, counter, at_ns, perhaps=perhaps)
        for each in [counter] + (source.heard[-3:] if perhaps else []):
            if perhaps:
                first_ns, certainly = self.noted.get(each, (self.first_ns[each], False))
                sure = each == counter and source.ordered is True and small
                certainly = certainly or (sure and source.genuine is True)
                self.noted[each] = first_ns, certainly
                self.insert(each)
        source.heard.append(counter)
        source.last, source.at_ns, source.interval = counter, at_ns, interval
        source.refused = []

    @staticmethod
    def follow(source: Source, counter: int) -> tuple[bool, bool]:
        """Notes the step from its last counter; whether it was small, and whether perhaps."""
        if source.last is None:
            return False, False
        step = counter - source.last
        source.constant = source.constant and step == 0
        small, perhaps = 0 < step <= SMALL, 0 < step <= PERHAPS
        source.steps = source.steps + 1 if small else 0
        source.perhaps = source.perhaps + 1 if perhaps else 0
        if source.steps >= ORDERED:
            source.ordered = True
        elif source.perhaps >= ORDERED and not source.ordered:
            source.ordered = None
        elif source.ordered and step == 0:
            source.ordered = None  # the page does not tell
        elif source.ordered is not False and step < 0:
            source.ordered = False
        elif source.ordered and not perhaps:
            source.ordered = None
        return small, perhaps

    def note_run(self, source: Source, counter: int, at_ns: int, *, perhaps: bool) -> None:
        """What came in order is noted by halves of a master-down time, as of the last of it."""
        if not perhaps:
            source.run, source.run_at_ns = [counter], at_ns
            return
        source.run.append(counter)
        for each in source.run:
            self.late_ns[each] = max(at_ns, self.late_ns.get(each, at_ns))
        if at_ns - source.run_at_ns >= max(self.spans_ns) // 2 + 2 * MS:
            source.run, source.run_at_ns = [counter], at_ns
