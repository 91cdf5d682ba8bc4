"""What is an incident: which reports begin one, and which belong to one that has begun.

A failure that moves thousands of virtual hosts is one incident, and one that comes and goes is one
a minute of each kind. Pure: must not know a loop, a file, or how an incident is recorded.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from carp_fast.engine import reports

HOSTS_MAX = 64  # virtual hosts that an incident names, the first; the others are counted
SAME_NS = 60_000_000_000  # reports of one kind within this belong to one incident

SECOND_MASTER, ADDRESS_LOST = "second_master", "address_lost"
STALL, TAKE_OVER = "stall", "take_over"
KINDS = (SECOND_MASTER, ADDRESS_LOST, STALL, TAKE_OVER)

# Reasons of a MASTER that is one no longer. `faster_master` is also that of a preferred host that
# takes back what is its own: this host cannot tell it from a network that was in two parts.
_LEFT = {
    "faster_master": SECOND_MASTER,
    "tie_lost": SECOND_MASTER,
    "address_lost": ADDRESS_LOST,
    "address_deadline": ADDRESS_LOST,
}
# Reasons of a BACKUP that becomes MASTER in the place of one it has heard.
_TAKEN = frozenset({"master_down", "master_too_slow"})


def kind_of(report: reports.Report) -> str | None:
    """The kind of the incident that a report is about, one of KINDS; None: of none."""
    if isinstance(report, reports.StateChanged):
        if report.previous == "MASTER" and report.state == "BACKUP":
            return _LEFT.get(report.reason)
        taken = report.previous == "BACKUP" and report.state == "MASTER"
        # Without a master heard before, this is a start.
        return TAKE_OVER if taken and report.reason in _TAKEN and report.peer else None
    if isinstance(report, reports.OtherMaster | reports.Reasserted | reports.DuplicateSource):
        return SECOND_MASTER
    if isinstance(report, reports.AddressRestored):
        return ADDRESS_LOST if report.why in ("removed", "route") else None
    return STALL if isinstance(report, reports.Stalled) else None


class Incident(NamedTuple):
    """An incident: its first kind, and how many reports of each kind there were.

    `slots`: of the first HOSTS_MAX virtual hosts, in order; none for a stall. `hosts`: how many.
    `earlier`: reports that belonged to the last incident, but came after its end.
    """

    at_ns: int
    kind: str
    kinds: dict[str, int]
    slots: tuple[int, ...]
    hosts: int
    earlier: int


class Incidents:
    """Puts reports together to incidents."""

    def __init__(self) -> None:
        self._begun_ns: dict[str, int] = {}  # by kind: when an incident with it was first seen
        self._at_ns, self._kind = 0, ""  # of the one that has begun
        self._kinds: Counter[str] = Counter()
        self._slots: dict[int, None] = {}
        self._open = False
        self._after_end = self._earlier = 0

    def take(self, report: reports.Report) -> bool:
        """Handles a report; whether an incident begins with it, of which end() is due."""
        kind = kind_of(report)
        if kind is None:
            return False
        last_ns = self._begun_ns.get(kind)
        new = last_ns is None or report.at_ns - last_ns >= SAME_NS
        if not self._open and not new:
            self._after_end += 1
            return False
        begins = not self._open
        if begins:
            self._at_ns, self._kind, self._open = report.at_ns, kind, True
            self._earlier, self._after_end = self._after_end, 0
            self._kinds.clear()
        if new:
            self._begun_ns[kind] = report.at_ns
        self._kinds[kind] += 1
        if isinstance(report, reports.HostReport):
            self._slots[report.slot] = None
        return begins

    def end(self) -> Incident:
        """The incident that has begun; what still follows belongs to it, but is not in it."""
        self._open = False
        slots = tuple(self._slots)
        self._slots = {}
        return Incident(
            self._at_ns,
            self._kind,
            dict(self._kinds),
            slots[:HOSTS_MAX],
            len(slots),
            self._earlier,
        )
