"""Reads the [[group]] tables, and checks them against the virtual hosts that name them.

Must not know files, nor what a group does.
"""

from __future__ import annotations

from carp_fast.config.documents import Findings, Table
from carp_fast.config.model import GROUPS_MAX, Group, as_shown, nearest_to
from carp_fast.config.rules import GROUP_RULES
from carp_fast.config.track_tables import Parse


class GroupTables:
    """The groups of one configuration; `parse` reads the keys of a table, and reports faults."""

    def __init__(self, findings: Findings, parse: Parse) -> None:
        self._findings = findings
        self._parse = parse
        self._found: dict[str, Group] = {}
        self._tables: dict[str, Table] = {}  # by name, those with faults included
        self._named: list[Table] = []
        self._used: set[str] = set()

    def read(self, table: Table) -> None:
        """Reads one table."""
        values = self._parse(table, GROUP_RULES, ()).values
        if "name" not in table.raw:
            self._findings.fault(table.origin, "name", "(missing)", "must be given")
        name = values.get("name")
        if name is None:
            return
        if name in self._tables:
            text = f"exists in {self._tables[name].origin}; allowed: a name for each group"
            self._fault(table, "name", text)
            return
        self._tables[name] = table
        if len(self._tables) == GROUPS_MAX + 1:
            text = f"is one more than the groups allowed: {GROUPS_MAX:,} (GROUPS_MAX)"
            self._fault(table, "name", text)
        self._found[name] = Group(**values)

    def name(self, table: Table) -> None:
        """Notes that a table of virtual hosts, or [defaults], names a group in its key group."""
        self._named.append(table)

    def of(self, name: str) -> Group | None:
        """The group that virtual hosts name; None for "", which is none, and an unknown one."""
        self._used.add(name)
        return self._found.get(name)

    def check_uses(self) -> None:
        """Reports names that no group has, and groups that no virtual host names."""
        for table in self._named:
            name = table.raw["group"]
            if name and name not in self._tables:
                near = 'there is none; allowed: a table [[group]] with this name, or ""'
                if self._tables:
                    near = f"the nearest is {as_shown(nearest_to(name, self._tables))}"
                self._fault(table, "group", f"is the name of no [[group]]; {near}")
        for name, table in self._tables.items():
            if name not in self._used:
                text = "no virtual host names it in its key group, so it does nothing"
                self._findings.warn(table.origin, "name", as_shown(name), text)

    def _fault(self, table: Table, key: str, text: str) -> None:
        self._findings.fault(table.origin, key, as_shown(table.raw[key]), text)
