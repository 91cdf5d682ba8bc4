"""Groups of virtual hosts as the daemon knows them: their numbers in the engine, and their state.

Must not decide whether a group is demoted: the engine does, and reports it.
"""

from __future__ import annotations

from collections.abc import Iterable

from carp_fast.config.model import GROUPS_MAX, Group, VirtualHost
from carp_fast.control.documents import GroupStatus
from carp_fast.engine.reports import GroupChanged
from carp_fast.errors import CarpFastError

Reported = tuple[GroupChanged, tuple[str, ...]]


class LimitReached(CarpFastError):
    """Raised when a limit of the engine would be exceeded; the text names it."""


class Groups:
    """The groups of one run by name; a name keeps its number."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._names = [""]  # by number; 0 is none
        self._reported: dict[str, Reported] = {}

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

    @property
    def names(self) -> list[str]:
        """The names that have numbers, by number from 1."""
        return self._names[1:]

    @property
    def reported(self) -> dict[str, Reported]:
        """The last report about each group by name, and the names of the members that it has."""
        return dict(self._reported)

    def go_on(self, reported: dict[str, Reported]) -> None:
        """Takes what another process had in `reported`; the numbers are the same."""
        self._reported = dict(reported)

    def name(self, number: int) -> str:
        """The name of a number that number() has assigned."""
        return self._names[number]

    def status(self, group: Group) -> GroupStatus:
        """A group as it was last reported; one that never was is not demoted."""
        if group.name not in self._reported:
            return GroupStatus(group.name, group.demote_when, False, 0, 0, ())
        last, because = self._reported[group.name]
        return GroupStatus(
            group.name, group.demote_when, last.demoted, last.members, last.impeded, because
        )

    def demoted(self) -> list[str]:
        """The names of the groups that are demoted."""
        return [name for name, (last, _) in self._reported.items() if last.demoted]

    def on_changed(self, report: GroupChanged, because: tuple[str, ...]) -> bool:
        """Takes a report; returns whether the group is demoted now and was not, or the reverse.

        `because`: the names of the members that the report has.
        """
        name = self._names[report.group]
        was = name in self._reported and self._reported[name][0].demoted
        self._reported[name] = report, because
        if not report.members:
            del self._reported[name]
        return was != report.demoted
