"""The labels of virtual hosts, `name`, `description` and `segment`, with the fields of addresses.

Must not know files, or what labels are for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from carp_fast.config.documents import Findings, Table
from carp_fast.config.model import NO_LABELS, Labels, as_shown
from carp_fast.config.ranges import FIELDS, fields_of
from carp_fast.config.rules import LABEL_KEYS, Refused, plain_text, printable

ALLOWED = "in a label: {vhid}, {number}, {index}"


class LabelTemplate:
    """The text of a label: a constant, or one with fields that vary by virtual host."""

    __slots__ = ("_most", "_text", "constant")

    def __init__(self, value: Any, most: int, numbered: bool) -> None:
        """`most`: characters that it may have; `numbered`: every interface has a number.

        Raises Refused.
        """
        text = plain_text(value, f"a text of at most {most} printable characters")
        fields = fields_of(text, numbered, ALLOWED)
        for field in fields:
            if field not in FIELDS:
                shown = as_shown("{" + field + "}")
                raise Refused(f"{shown} is unknown; allowed {ALLOWED}")
        self.constant = not fields
        self._text, self._most = text, most
        if text and self.constant:
            printable(text, most)

    def at(self, vhid: int, number: int | None, index: int) -> str:
        """The label of one virtual host; "": none. Raises Refused."""
        if self.constant:
            return self._text
        filled = self._text.format(vhid=vhid, number=number, index=index)
        try:
            return printable(filled, self._most)
        except Refused as refused:
            raise Refused(f"{as_shown(filled)} {refused}") from None


class TableLabels:
    """The labels of the virtual hosts of one table."""

    def __init__(
        self, templates: Mapping[str, LabelTemplate], fault: Callable[[str, str], None]
    ) -> None:
        """`fault` reports the text of a fault in a key."""
        self._templates = dict(templates)
        self._fault = fault
        self._shared: Labels | None = None
        if all(template.constant for template in templates.values()):
            self._shared = self._made("", 0, None, 0) if templates else NO_LABELS

    def at(self, interface: str, vhid: int, number: int | None, index: int) -> Labels:
        """The labels of one virtual host; one that does not fit is reported once, and left out."""
        if self._shared is not None:
            return self._shared
        return self._made(interface, vhid, number, index)

    def _made(self, interface: str, vhid: int, number: int | None, index: int) -> Labels:
        found = {}
        for key, template in list(self._templates.items()):
            try:
                found[key] = template.at(vhid, number, index)
            except Refused as refused:
                del self._templates[key]
                self._fault(key, f"for {interface}/{vhid}: {refused}")
        return Labels(**found)


class LabelKeys:
    """Reads the labels of tables; `owner` returns the table that has a key, or [defaults]."""

    def __init__(self, findings: Findings, owner: Callable[[Table, str], Table]) -> None:
        self._findings = findings
        self._owner = owner

    def check(self, defaults: Table) -> None:
        """Checks the labels of [defaults], which no table may inherit."""
        self.of(defaults, numbered=True)

    def of(self, table: Table, *, numbered: bool) -> TableLabels:
        """The labels of a table's virtual hosts; `numbered`: every interface has a number."""
        found = {}
        for key, most in LABEL_KEYS.items():
            owner = self._owner(table, key)
            if key not in owner.raw:
                continue
            value = owner.raw[key]
            try:
                found[key] = LabelTemplate(value, most, numbered)
            except Refused as refused:
                self._findings.fault(owner.origin, key, as_shown(value), str(refused))

        def fault(key: str, text: str) -> None:
            shown = as_shown(self._owner(table, key).raw[key])
            self._findings.fault(table.origin, key, shown, text)

        return TableLabels(found, fault)
