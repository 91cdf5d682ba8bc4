"""The oracles: verdicts about advertisements and addresses, from the tape and the holdings alone.

    two_advertise   two hosts advertise one virtual host at the same time
    two_hold        two hosts have its address at the same time
    silence         no host advertises it
    nobody_holds    no living host has its address
    held_alone      a host has its address and does not advertise
    not_held        a host advertises and does not have its address
    late            an advertisement comes after its interval is over, with no other host between
    take_overs      the virtual host goes to another host more often than the case allows
    left_behind     a virtual address is on a host after its daemon ended
    foreign         an address that the daemon does not own went away

Each names the worst instance and compares it with a limit. What a case makes unavoidable is
excused: a span of time, for some oracles, on some hosts. All times are ns of CLOCK_REALTIME.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from typing import NamedTuple

from carp_fast.lab.observer import Key
from tests.chaos.holdings import Change
from tests.chaos.spans import Span, common, length_s, longest, union, without
from tests.chaos.tape import Advertisement

EVERY_HOST = "*"


@dataclass
class Limits:
    """What is allowed, in seconds. None: not judged."""

    two_advertise_s: float | None = 0.1
    two_hold_s: float | None = 0.25
    silence_s: float | None = None  # World sets it to the slowest master-down time
    nobody_holds_s: float | None = None
    held_alone_s: float | None = 0.5
    not_held_s: float | None = 0.5
    late_s: float | None = 0.05
    take_overs: int | None = 0  # of each virtual host


@dataclass(frozen=True)
class Excuse:
    """Violations that cannot be avoided: of these oracles, on this host, in this time."""

    oracles: frozenset[str]
    host: str
    span: Span


@dataclass(frozen=True)
class Verdict:
    """One oracle's: the worst it found, and where."""

    oracle: str
    worst: float
    limit: float
    what: str
    key: Key | None
    span: Span

    @property
    def passed(self) -> bool:
        return self.worst <= self.limit

    def __str__(self) -> str:
        unit = "" if self.oracle in ("take_overs", "left_behind", "foreign") else " s"
        worst, limit = f"{self.worst:.6g}"[:8], f"{self.limit:.4g}"
        text = f"{self.oracle}: {worst}{unit}, at most {limit}{unit} allowed"
        return text if self.passed else f"{text}: {self.what}"


@dataclass
class Evidence:
    """What happened in a world while it was judged."""

    span: Span
    hosts: Sequence[str]
    addresses: Mapping[Key, Sequence[str]]
    advertisements: Sequence[Advertisement]
    held: Mapping[tuple[str, str], list[Span]]  # by (host, address)
    absent: Mapping[str, list[Span]]  # when a host's daemon was dead or stopped
    excuses: Sequence[Excuse] = ()
    delay_s: float = 0.0  # the machine's own, added to every limit
    _by_key: dict[Key, list[Advertisement]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for each in self.advertisements:
            if each.key in self.addresses and each.at_ns <= self.span[1]:
                self._by_key.setdefault(each.key, []).append(each)

    def of(
        self, key: Key, host: str | None = None, *, earlier: bool = False
    ) -> list[Advertisement]:
        """The advertisements for a virtual host, by one host or by any; or `earlier` ones, too."""
        return [
            each
            for each in self._by_key.get(key, [])
            if (host == each.host or (host is None and each.host in self.hosts))
            and (earlier or each.at_ns >= self.span[0])
        ]

    def runs(
        self, key: Key, host: str, *, extended: bool = False, earlier: bool = False
    ) -> list[Span]:
        """When a host advertised: from first to last of each run, or an interval longer.

        A resignation ends a run at once. Runs may have begun before what is judged; `earlier`:
        they may also have ended before it.
        """
        found: list[list[int]] = []
        open_, interval_s = False, 0.0
        for each in self.of(key, host, earlier=True):
            if each.resigned:
                if open_:
                    found[-1][1] = each.at_ns
                open_ = False
                continue
            if open_ and each.at_ns - found[-1][1] <= (interval_s * 1.6 + 0.1) * 1e9:
                found[-1][1] = each.at_ns
            else:
                if open_ and extended:
                    found[-1][1] += int(interval_s * 1e9)
                found.append([each.at_ns, each.at_ns])
            open_, interval_s = True, each.interval_s
        if open_ and extended:
            found[-1][1] += int(interval_s * 1e9)
        if earlier:
            return [(start, end) for start, end in found]
        return [(max(start, self.span[0]), end) for start, end in found if end >= self.span[0]]

    def holds(self, key: Key, host: str) -> list[Span]:
        """When a host had every address of a virtual host."""
        spans = [self.span]
        for address in self.addresses[key]:
            spans = common(spans, self.held.get((host, address), []))
        return spans

    def has_any(self, key: Key, host: str) -> list[Span]:
        """When a host had at least one address of a virtual host."""
        every = [self.held.get((host, address), []) for address in self.addresses[key]]
        return common([self.span], union(*every))

    def excused(self, oracle: str, *hosts: str) -> list[Span]:
        """The time in which this oracle does not count on any of these hosts."""
        return union(
            [
                each.span
                for each in self.excuses
                if oracle in each.oracles and (each.host == EVERY_HOST or each.host in hosts)
            ],
            *(self.absent.get(host, []) for host in hosts),
        )


class Worst:
    """Keeps the longest span that an oracle found."""

    def __init__(self, oracle: str, limit_s: float, evidence: Evidence) -> None:
        self._found = Verdict(oracle, 0.0, limit_s + evidence.delay_s, "", None, (0, 0))

    def add(self, spans: list[Span], key: Key, what: str) -> None:
        span = longest(spans)
        if length_s(span) > self._found.worst:
            oracle, limit = self._found.oracle, self._found.limit
            text = f"segment {key.segment} vhid {key.vhid}: {what}"
            self._found = Verdict(oracle, length_s(span), limit, text, key, span)

    @property
    def verdict(self) -> Verdict:
        return self._found


def two_advertise(evidence: Evidence, limit_s: float) -> Verdict:
    worst = Worst("two_advertise", limit_s, evidence)
    for key in evidence.addresses:
        runs = {host: evidence.runs(key, host) for host in evidence.hosts}
        for one, other in combinations(evidence.hosts, 2):
            both = common(runs[one], runs[other])
            both = without(both, evidence.excused("two_advertise", one, other))
            worst.add(both, key, f"{one} and {other} both advertise")
    return worst.verdict


def two_hold(evidence: Evidence, limit_s: float) -> Verdict:
    worst = Worst("two_hold", limit_s, evidence)
    for key in evidence.addresses:
        has = {host: evidence.has_any(key, host) for host in evidence.hosts}
        for one, other in combinations(evidence.hosts, 2):
            both = without(common(has[one], has[other]), evidence.excused("two_hold", one, other))
            worst.add(both, key, f"{one} and {other} both have its address")
    return worst.verdict


def silence(evidence: Evidence, limit_s: float) -> Verdict:
    worst = Worst("silence", limit_s, evidence)
    start, end = evidence.span
    for key in evidence.addresses:
        heard = [each.at_ns for each in evidence.of(key, earlier=True) if not each.resigned]
        before = [at_ns for at_ns in heard if at_ns < start][-1:] or [start]
        after = [at_ns for at_ns in heard if at_ns >= start]
        gaps = [pair for pair in pairwise([*before, *after, end]) if pair[0] < pair[1]]
        excused = evidence.excused("silence")
        worst.add(
            [piece for gap in gaps for piece in without([gap], excused)],
            key,
            "no host advertises",
        )
    return worst.verdict


def nobody_holds(evidence: Evidence, limit_s: float) -> Verdict:
    worst = Worst("nobody_holds", limit_s, evidence)
    for key in evidence.addresses:
        living = [
            without(evidence.holds(key, host), evidence.absent.get(host, []))
            for host in evidence.hosts
        ]
        gaps = without([evidence.span], union(*living, evidence.excused("nobody_holds")))
        worst.add(gaps, key, "no living host has its addresses")
    return worst.verdict


def held_alone(evidence: Evidence, limit_s: float) -> Verdict:
    worst = Worst("held_alone", limit_s, evidence)
    for key in evidence.addresses:
        for host in evidence.hosts:
            alone = without(
                evidence.has_any(key, host),
                union(
                    evidence.runs(key, host, extended=True),
                    evidence.excused("held_alone", host),
                ),
            )
            worst.add(alone, key, f"{host} has its address and does not advertise")
    return worst.verdict


def not_held(evidence: Evidence, limit_s: float) -> Verdict:
    worst = Worst("not_held", limit_s, evidence)
    for key in evidence.addresses:
        for host in evidence.hosts:
            bare = without(
                evidence.runs(key, host),
                union(evidence.holds(key, host), evidence.excused("not_held", host)),
            )
            worst.add(bare, key, f"{host} advertises and does not have its addresses")
    return worst.verdict


def late(evidence: Evidence, limit_s: float) -> Verdict:
    worst = Worst("late", limit_s, evidence)
    for key in evidence.addresses:
        for one, next_ in pairwise(evidence.of(key)):
            if one.host != next_.host or one.resigned or next_.resigned:
                continue
            due_ns = one.at_ns + int(one.interval_s * 1e9)
            if due_ns >= next_.at_ns:
                continue
            if common([(one.at_ns, next_.at_ns)], evidence.absent.get(one.host, [])):
                continue  # it starts as a backup again
            overdue = without([(due_ns, next_.at_ns)], evidence.excused("late", one.host))
            worst.add(overdue, key, f"{one.host} advertises late")
    return worst.verdict


def take_overs(evidence: Evidence, limit: int) -> Verdict:
    worst = Verdict("take_overs", 0, limit, "", None, (0, 0))
    for key in evidence.addresses:
        changes = changes_of_master(evidence, key)
        if len(changes) > worst.worst:
            text = ", ".join(f"to {host}" for host, _ in changes[:6])
            what = f"segment {key.segment} vhid {key.vhid}: {text}"
            span = (changes[0][1], changes[-1][1])
            worst = Verdict("take_overs", len(changes), limit, what, key, span)
    return worst


def changes_of_master(evidence: Evidence, key: Key) -> list[tuple[str, int]]:
    """(host, when) of each run of advertisements that follows one of another host."""
    runs = sorted(
        (*run, host) for host in evidence.hosts for run in evidence.runs(key, host, earlier=True)
    )
    found: list[tuple[str, int]] = []
    for number, (start, _, host) in enumerate(runs[1:], 1):
        own_ends = [end for _, end, other in runs[:number] if other == host]
        since = max(own_ends, default=0)
        if any(other != host and end >= since for _, end, other in runs[:number]):
            found.append((host, start))
    return [(host, start) for host, start in found if start >= evidence.span[0]]


def left_behind(hosts: Sequence[str], there: Mapping[str, set[str]], virtual: set[str]) -> Verdict:
    """`there`: what each host has after its daemon ended."""
    left = {host: sorted(there[host] & virtual) for host in hosts}
    count = sum(map(len, left.values()))
    what = ", ".join(
        f"{host} still has {' '.join(each[:5])}" for host, each in left.items() if each
    )
    return Verdict("left_behind", count, 0, what, None, (0, 0))


class Foreign(NamedTuple):
    """An address of somebody else: its prefix length, and since when it must stay, ns."""

    prefixlen: int
    since_ns: int


def foreign(changes: Sequence[Change], owned: Mapping[tuple[str, str], Foreign]) -> Verdict:
    """`owned`: what must stay, by (host, address)."""
    gone = [
        change
        for change in changes
        if not change.there
        and (place := owned.get((change.host, change.address))) is not None
        and (place.prefixlen, True) == (change.prefixlen, change.at_ns >= place.since_ns)
    ]
    what = ", ".join(f"{each.address} went from {each.host}" for each in gone[:5])
    span = (gone[0].at_ns, gone[-1].at_ns) if gone else (0, 0)
    return Verdict("foreign", len(gone), 0, what, None, span)


JUDGES = {
    "two_advertise_s": two_advertise,
    "two_hold_s": two_hold,
    "silence_s": silence,
    "nobody_holds_s": nobody_holds,
    "held_alone_s": held_alone,
    "not_held_s": not_held,
    "late_s": late,
}


def judge(evidence: Evidence, limits: Limits) -> list[Verdict]:
    """The verdicts of all oracles over the time in which a world was judged."""
    verdicts = []
    for name, oracle in JUDGES.items():
        limit_s = getattr(limits, name)
        if limit_s is not None:
            verdicts.append(oracle(evidence, limit_s))
    if limits.take_overs is not None:
        verdicts.append(take_overs(evidence, limits.take_overs))
    return verdicts
