"""The election of one virtual host, as the rules of CARP and ours tell it: a second reading.

State, deadline and ties of one host from what it hears, and when. Where the rules leave open what
happens, `open` is set, and nothing can be told from then on. Times are in ns, intervals in 1/256 s.
It must not use the engine.
"""

from __future__ import annotations

from typing import NamedTuple

SECOND_NS = 1_000_000_000
MOST_DEMOTED = 240
REMEMBERED = 4  # sources of a host
RESIGNATION = 255 * 256 + 255  # an interval: the longest
NO_MAC = bytes(6)


def in_ns(interval: int) -> int:
    return interval * SECOND_NS // 256


def interval_of(advbase: int, advskew: int) -> int:
    """OpenBSD sends 0/0 every 1/256 s."""
    return advbase * 256 + advskew or 1


class Settings(NamedTuple):
    """What a host is configured to be. `virtual_mac`: every host with its vhid has its MAC."""

    dialect: str
    families: tuple[int, ...]
    advbase: int
    advskew: int
    dead_ratio: int
    preempt: bool | str
    replay: str
    sources: dict[int, bytes]
    mac: bytes
    virtual_mac: bool


class Heard(NamedTuple):
    """A genuine advertisement, as it is judged."""

    family: int
    source: bytes
    mac: bytes
    advbase: int
    advskew: int
    demote: int
    at_ns: int

    @property
    def interval(self) -> int:
        return interval_of(self.advbase, self.advskew)


class Absence(NamedTuple):
    """A time in which frames may have been missed: by the clock, and asleep besides."""

    since_ns: int
    until_ns: int
    asleep_ns: int
    dropped: bool


class Said(NamedTuple):
    """What a source said last."""

    interval: int
    demote: int
    at_ns: int


class Run:
    """Ties that follow each other within two intervals count as one that lasts."""

    def __init__(self) -> None:
        self.since_ns = self.last_ns = 0

    def lasts_ns(self, at_ns: int, interval_ns: int) -> int:
        """For how long it has lasted with the tie at this time."""
        if not self.since_ns or at_ns - self.last_ns > 2 * interval_ns:
            self.since_ns = at_ns
        self.last_ns = at_ns
        return at_ns - self.since_ns

    def end(self) -> None:
        self.since_ns = 0


class Host:
    """A virtual host that began to wait at `now_ns`. `heard()` and `expire()` change its state."""

    def __init__(self, settings: Settings, now_ns: int) -> None:
        self.settings = settings
        self.state = "BACKUP"
        self.demotion = 0
        self.leaves = self.contested = self.preceded = self.open = False
        self.ties = self.jitter_ns = 0
        self.since_ns = self.alone_ns = now_ns
        self.deadline_ns = now_ns + self.master_down_ns
        self.master: dict[int, bytes] = {}
        self.said: dict[tuple[int, bytes], Said] = {}
        self.heard_ns = {4: 0, 6: 0}
        # A tie over IPv6, one with a host of our source, and either: whether these count together
        # is left open.
        self.over_ipv6, self.with_twin, self.either = Run(), Run(), Run()
        self.accounted_ns: int | None = None
        self.absences: list[Absence] = []

    # ------------------------------------------------------------------------------------- times

    @property
    def advskew(self) -> int:
        settings = self.settings
        if settings.dialect == "openbsd":
            return settings.advskew
        skew = min(settings.advskew + self.demotion, MOST_DEMOTED)
        return skew if settings.dialect == "freebsd" else max(skew, settings.advskew)

    @property
    def demote(self) -> int:
        return min(self.demotion, 255) if self.settings.dialect == "openbsd" else 0

    @property
    def interval(self) -> int:
        return interval_of(self.settings.advbase, self.advskew)

    @property
    def interval_ns(self) -> int:
        return in_ns(self.interval)

    @property
    def master_down(self) -> int:
        settings = self.settings
        if settings.advbase == 0 or settings.dialect == "openbsd":
            return settings.dead_ratio * self.interval
        return settings.dead_ratio * settings.advbase * 256 + self.advskew

    @property
    def master_down_ns(self) -> int:
        return in_ns(self.master_down)

    @property
    def part_ns(self) -> int:
        """A quarter of the jitter's range: a quarter interval, a half, then a whole one."""
        range_ns = self.interval_ns
        if self.ties <= 2:
            range_ns = range_ns // 4 << self.ties - 1
        return range_ns // 4

    @property
    def jitter_from_ns(self) -> int:
        """Where its jitter may begin after a tie; it ends a part later."""
        return 3 * self.part_ns if self.preceded or self.ties % 2 == 0 else 0

    # ----------------------------------------------------------------------------------- changes

    def arm(self, at_ns: int) -> None:
        """Waits for a master-down time."""
        if self.ties and at_ns - self.alone_ns > 2 * self.master_down_ns:
            self.ties, self.jitter_ns, self.preceded = 0, 0, False
        self.leaves = self.contested = False
        self.accounted_ns = None
        self.deadline_ns = at_ns + self.master_down_ns + self.jitter_ns

    def change(self, state: str, at_ns: int) -> None:
        self.state, self.since_ns, self.alone_ns = state, at_ns, at_ns
        for run in (self.over_ipv6, self.with_twin, self.either):
            run.end()

    def rise(self, at_ns: int) -> None:
        self.change("MASTER", at_ns)
        self.leaves = self.contested = self.preceded = False
        self.accounted_ns = None

    def fall(self, at_ns: int, *, tie: bool = False) -> None:
        if at_ns - self.since_ns > 2 * self.master_down_ns:
            self.ties = self.jitter_ns = 0
        self.change("BACKUP", at_ns)
        self.ties += tie
        self.arm(at_ns)

    def take_over(self, at_ns: int) -> str:
        """At once, or after ties when its jitter is over."""
        if not self.ties:
            self.rise(at_ns)
            return "took over"
        if not self.contested:
            self.contested, self.accounted_ns = True, None
            self.deadline_ns = at_ns + self.jitter_ns
        return "contested"

    # -------------------------------------------------------------------------------------- ties

    def follows(self, heard: Heard) -> bool:
        """Whether our source is behind the other one: an IPv4 one by its last octet first."""
        ours = self.settings.sources[heard.family]
        if heard.family == 4:
            return ours[::-1] > heard.source[::-1]
        return ours > heard.source

    def note_precedence(self, heard: Heard) -> None:
        """A lower source takes part in the ties; where both families are heard, IPv4's count."""
        if self.preceded or not self.follows(heard):
            return
        ipv4_ns = self.heard_ns[4]
        lately = ipv4_ns and heard.at_ns - ipv4_ns <= 2 * self.master_down_ns
        if heard.family == 6 and 4 in self.settings.families and lately:
            return
        self.preceded = True
        if self.state == "BACKUP" and self.ties % 2 and self.jitter_ns < self.part_ns:
            self.jitter_ns += 3 * self.part_ns // 1000 * 1000

    def loses_tie(self, heard: Heard) -> bool:
        self.note_precedence(heard)
        if heard.source == self.settings.sources[heard.family]:
            return self.loses_to_twin(heard)
        if self.settings.dialect != "ucarp":
            return True
        if heard.family == 4:
            return self.follows(heard)
        lasted_ns = self.over_ipv6.lasts_ns(heard.at_ns, self.interval_ns)
        lasted_either_ns = self.either.lasts_ns(heard.at_ns, self.interval_ns)
        if 4 not in self.settings.families:
            return self.follows(heard)
        lose = lasted_ns > self.interval_ns and self.follows(heard)
        self.open |= lose != (lasted_either_ns > self.interval_ns and self.follows(heard))
        return lose

    def loses_to_twin(self, heard: Heard) -> bool:
        """A tie with a host that has our source: the higher MAC stays, for two intervals.

        What came from our own MAC was sent before our restart. Of a virtual MAC nobody can tell.
        """
        ours = self.settings.mac
        if heard.mac in (ours, NO_MAC):
            return self.settings.virtual_mac or heard.mac == NO_MAC
        if heard.mac > ours:
            return True
        lasted_ns = self.with_twin.lasts_ns(heard.at_ns, self.interval_ns)
        lose = lasted_ns > 2 * self.interval_ns
        lasted_either_ns = self.either.lasts_ns(heard.at_ns, self.interval_ns)
        self.open |= lose != (lasted_either_ns > 2 * self.interval_ns)
        return lose

    # ------------------------------------------------------------------------------------- heard

    def hear(self, heard: Heard) -> str:
        """Takes a genuine advertisement; the word of what happens."""
        self.heard_ns[heard.family] = heard.at_ns
        word = self.as_master(heard) if self.state == "MASTER" else self.as_backup(heard)
        if word != "ignored":
            self.master[heard.family] = heard.source
        self.said[heard.family, heard.source] = Said(heard.interval, heard.demote, heard.at_ns)
        return word

    def as_master(self, heard: Heard) -> str:
        resigns = heard.advbase == heard.advskew == 255
        if self.settings.dialect == "openbsd" and not resigns and heard.demote != self.demote:
            if heard.demote > self.demote:
                return "stays"
            self.fall(heard.at_ns)
            return "less demoted"
        if heard.interval < self.interval:
            self.fall(heard.at_ns)
            return "faster"
        if heard.interval == self.interval and self.loses_tie(heard):
            self.fall(heard.at_ns, tie=True)
            return "tie"
        return "stays"

    def as_backup(self, heard: Heard) -> str:
        settings, at_ns = self.settings, heard.at_ns
        master = self.master.get(heard.family)
        if self.ties:
            before = self.said.get((heard.family, heard.source))
            if (
                master != heard.source
                or before is None
                or (at_ns - before.at_ns > 2 * in_ns(heard.interval))
            ):
                self.alone_ns = at_ns
            if heard.interval == self.interval:
                self.note_precedence(heard)
        openbsd = settings.dialect == "openbsd"
        if heard.interval > self.master_down and (settings.advbase or not openbsd):
            return self.on_leaving(heard, master)
        if openbsd and heard.demote != self.demote:
            if heard.demote > self.demote and not self.outdone(heard):
                return self.take_over(at_ns)
        elif (
            self.interval < heard.interval
            and (
                settings.preempt is True
                or (settings.preempt == "demoted" and heard.advskew >= MOST_DEMOTED)
            )
            and not self.outdone(heard)
        ):
            return self.take_over(at_ns)
        self.arm(at_ns)
        return "heard"

    def outdone(self, heard: Heard) -> bool:
        """Whether a host that stays MASTER against us was heard besides, within two intervals.

        Of more sources than a host remembers it may have forgotten any.
        """
        for (family, source), said in self.said.items():
            if family != heard.family or source == heard.source:
                continue
            resigned = said.interval == RESIGNATION
            openbsd = self.settings.dialect == "openbsd"
            if openbsd and not resigned and said.demote != self.demote:
                beaten = said.demote > self.demote
            else:
                beaten = said.interval > self.interval
            if not beaten and heard.at_ns - said.at_ns <= 2 * in_ns(said.interval):
                self.open |= len(self.said) > REMEMBERED
                return True
        return False

    def on_leaving(self, heard: Heard, master: bytes | None) -> str:
        """Who will be silent for longer than we wait leaves, if it is the master heard."""
        if master is not None and master != heard.source:
            return "ignored"
        if not self.leaves:
            self.leaves, self.accounted_ns = True, None
            self.deadline_ns = heard.at_ns + in_ns(self.advskew)
        return "leaving"

    # ----------------------------------------------------------------------------------- silence

    def miss(self, absence: Absence) -> None:
        """Frames may have been missed; losses that adjoin are one, and the same is noted once."""
        last = self.absences[-1] if self.absences else None
        if last and absence.dropped and last.dropped and absence.since_ns <= last.until_ns:
            self.absences[-1] = last._replace(until_ns=absence.until_ns)
        elif not (last and last._replace(asleep_ns=0) == absence._replace(asleep_ns=0)):
            self.absences.append(absence)

    def waits_from_ns(self) -> int:
        """When its wait began, as far as absences are not accounted for."""
        if self.accounted_ns is not None:
            return self.accounted_ns
        wait_ns = self.master_down_ns + self.jitter_ns
        if self.leaves:
            wait_ns = in_ns(self.advskew)
        elif self.contested:
            wait_ns = self.jitter_ns
        return min(self.deadline_ns - wait_ns, max(*self.heard_ns.values(), self.since_ns))

    def expire(self, at_ns: int) -> None:
        """Rises where its deadline is over, unless it missed too much to be sure."""
        while self.state == "BACKUP" and self.deadline_ns <= at_ns:
            from_ns = self.waits_from_ns()
            counted = sorted(
                each
                for each in self.absences
                if each.until_ns > from_ns
                and (
                    each.dropped
                    or each.until_ns - each.since_ns + each.asleep_ns > self.interval_ns
                )
            )
            if not counted:
                self.rise(at_ns)
                return
            self.extend(counted, from_ns)

    def extend(self, counted: list[Absence], from_ns: int) -> None:
        """Waits on by what was missed, and until a living master must have been heard again."""
        missed_ns, covered_ns = 0, from_ns
        for each in counted:
            missed_ns += max(0, each.until_ns - max(each.since_ns, covered_ns))
            covered_ns = max(covered_ns, each.until_ns)
        asleep_ns = sum(each.asleep_ns for each in counted)
        now_ns = max(self.deadline_ns, *(each.until_ns for each in counted))
        listen_ns = self.master_down_ns
        # Of two that came at the same time IPv4's counts.
        said = [self.said[key] for key in sorted(self.master.items()) if key in self.said]
        if missed_ns + asleep_ns < listen_ns and said:
            latest = max(said, key=lambda each: each.at_ns)
            listen_ns = min(listen_ns, in_ns(2 * latest.interval))
        self.deadline_ns = max(self.deadline_ns + missed_ns, now_ns + listen_ns + self.jitter_ns)
        self.accounted_ns = now_ns
