"""Groups of virtual hosts as the daemon knows them: their numbers in the engine, and their state.

Must not decide whether a group is demoted: the engine does, and reports it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from carp_fast.config.model import GROUPS_MAX, VirtualHost
from carp_fast.engine.reports import GroupChanged
from carp_fast.errors import CarpFastError


class LimitReached(CarpFastError):
    """Raised when a limit of the engine would be exceeded; the text names it."""


class GroupState(NamedTuple):
    """Whether a group is demoted; `impeded` of its `members` cannot be MASTER here.

    `because`: the names of the first of these.
    """

    demoted: bool = False
    members: int = 0
    impeded: int = 0
    because: tuple[str, ...] = ()

    def __str__(self) -> str:
        """ "2 of 8 members cannot be MASTER here: eth0/1, eth0/2"."""
        more = self.impeded - len(self.because)
        others = f" and {more:,} more" if more > 0 else ""
        named = f": {', '.join(self.because)}{others}" if self.because else ""
        return f"{self.impeded:,} of {self.members:,} members cannot be MASTER here{named}"


NOT_REPORTED = GroupState()


class Groups:
    """The groups of one run by name; a name keeps its number."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._names = [""]  # by number; 0 is none
        self._states: dict[str, GroupState] = {}

    def number(self, name: str) -> int:
        """The group's number, assigned at the first call. Raises LimitReached."""
        number = self._numbers.get(name)
        if number is None:
            number = len(self._names)
            if number > GROUPS_MAX:
                raise LimitReached(f"more than {GROUPS_MAX:,} groups in one run")
            self._numbers[name] = number
            self._names.append(name)
        return number

    def number_all(self, hosts: Iterable[VirtualHost]) -> None:
        """Assigns numbers to the groups of virtual hosts to come. Raises LimitReached."""
        for host in hosts:
            if host.settings.group is not None:
                self.number(host.settings.group.name)

    def name(self, number: int) -> str:
        """The name of a number that number() has assigned."""
        return self._names[number]

    def state(self, name: str) -> GroupState:
        """The state of a group as it was last reported; one that never was is not demoted."""
        return self._states.get(name, NOT_REPORTED)

    def on_changed(self, report: GroupChanged, because: tuple[str, ...]) -> bool:
        """Takes a report; returns whether the group is demoted now and was not, or the reverse.

        `because`: the names of the members that the report has.
        """
        name = self._names[report.group]
        was = self.state(name).demoted
        now = GroupState(report.demoted, report.members, report.impeded, because)
        self._states[name] = now
        if not now.members:
            del self._states[name]
        return was != now.demoted
