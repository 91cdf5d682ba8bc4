"""Parses ranges and address templates: "1,3,5-9", "vlan[100-163]", "{2001:db8::1+index}/64".

The text of one item becomes names, numbers, or a template that makes an address for each virtual
host. Must not know tables, files, or the other keys.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from carp_fast.config.model import MAX_INTERFACES, as_shown
from carp_fast.config.rules import (
    FAMILIES,
    INTERFACE_NAME_BYTES,
    LOOPBACK_INTERFACE,
    Family,
    Refused,
    address_bytes,
    check_host_bits,
    host_bits,
    plain_text,
)
from carp_fast.inet import address_text

Interfaces = list[tuple[str, int | None]]  # name, and its number from the range in brackets
RANGE = re.compile(r" *([0-9]{1,9}) *(?:- *([0-9]{1,9}) *)?")
BRACKETS = re.compile(r"([^\[\]]*)\[([^\[\]]*)\]([^\[\]]*)")
IN_BRACES = re.compile(r"\{([^{}]*)\}")
FIELDS = ("vhid", "number", "index")
SUM = re.compile(r"([^+]*)\+(vhid|number|index)")
TEMPLATES_ALLOWED = "{vhid}, {number}, {index} or {ADDRESS+vhid}, {ADDRESS+number}, {ADDRESS+index}"


def _ranges(text: str, lowest: int, highest: int, most: int) -> list[tuple[int, str]]:
    """The numbers of "1,3,5-9", each with its digits: "01-16" keeps the width of its start.

    Raises Refused.
    """
    allowed = f'a range such as "1,3,5-9" of numbers from {lowest} to {highest}'
    numbers: list[tuple[int, str]] = []
    for part in text.split(","):
        match = RANGE.fullmatch(part)
        if match is None:
            raise Refused(f"{as_shown(part)} is not a number or range; must be {allowed}")
        start, end = match[1], match[2] or match[1]
        if int(start) > int(end):
            raise Refused(f"{as_shown(part)} makes no virtual host; must be {allowed}")
        if int(start) < lowest or int(end) > highest:
            raise Refused(f"{as_shown(part)} is out of bounds; must be {allowed}")
        if len(numbers) + int(end) - int(start) >= most:
            raise Refused(f"makes more than {most} numbers; must be {allowed}")
        width = len(start) if start.startswith("0") else 0
        numbers += ((n, str(n).zfill(width)) for n in range(int(start), int(end) + 1))
    return numbers


def named_interfaces(value: Any) -> Interfaces:
    """The interfaces that "eth0" or "vlan[100-163]" names. Raises Refused."""
    allowed = f'1 to {INTERFACE_NAME_BYTES} bytes without "/", ":" or space'
    if not isinstance(value, str):
        raise Refused('must be an interface name such as "eth0" or "vlan[100-163]"')
    before, after = value, ""
    numbers: Sequence[tuple[int | None, str]] = [(None, "")]
    if "[" in value or "]" in value:
        match = BRACKETS.fullmatch(value)
        if match is None:
            raise Refused('must hold one number range in brackets, such as "vlan[100-163]"')
        before, after = match[1], match[3]
        numbers = _ranges(match[2], 0, 999_999_999, MAX_INTERFACES)
    named: Interfaces = []
    for number, digits in numbers:
        name = before + digits + after
        if not 1 <= len(name.encode()) <= INTERFACE_NAME_BYTES:
            raise Refused(f"{as_shown(name)} has {len(name.encode())} bytes; allowed: {allowed}")
        if name in {".", ".."} or any(c in "/: " or not c.isprintable() for c in name):
            raise Refused(f"{as_shown(name)} is not an interface name; allowed: {allowed}")
        if name == LOOPBACK_INTERFACE:
            raise Refused("is the loopback interface, with no other host; allowed: Ethernet")
        named.append((name, number))
    return named


def vhid_numbers(value: Any) -> list[int]:
    if isinstance(value, str):
        return [number for number, _ in _ranges(value, 1, 255, 255)]
    if type(value) is not int or not 1 <= value <= 255:
        raise Refused('must be an integer from 1 to 255, or a range such as "1,3,5-9"')
    return [value]


def _family(text: str) -> Family:
    """The family of an address or a template: fields are numbers, so only IPv6 has colons."""
    return FAMILIES[6] if ":" in text else FAMILIES[4]


@functools.lru_cache(maxsize=256)  # many addresses have few different prefix lengths
def _prefix(text: str, family: Family) -> str:
    """The checked prefix length: "/24" for "/24", "/32" or "/128" for "". Raises Refused."""
    most = family.size * 8
    digits = text.removeprefix("/") if text else str(most)
    if text == digits or not re.fullmatch("[0-9]{1,3}", digits) or not 1 <= int(digits) <= most:
        example = f"must be one such as {family.example}"
        raise Refused(f"has no prefix length from 1 to {most}; {example}")
    return f"/{int(digits)}"


def _address(text: str) -> str:
    family = _family(text)
    host, slash, prefix = text.partition("/")
    address = address_bytes(host, f"one such as {family.example}")
    if not family.may_hold(address):
        raise Refused(family.not_held)
    if family.size == 16:
        host = address_text(address)  # IPv6 may be written in many ways, IPv4 only in one
    suffix = _prefix(slash + prefix, family)
    check_host_bits(int.from_bytes(address), host_bits(family, int(suffix[1:])))
    return host + suffix


def fields_of(text: str, numbered: bool, allowed: str) -> list[str]:
    """The fields of a template, without their braces: "vhid", or "192.0.2.1+index".

    `numbered`: every interface has a number. Raises Refused, where `allowed` is.
    """
    fields = IN_BRACES.findall(text)
    rest = IN_BRACES.sub("", text)
    if "{" in rest or "}" in rest:
        raise Refused(f"a brace has no partner; allowed {allowed}")
    if not numbered and any(field.rpartition("+")[2] == "number" for field in fields):
        raise Refused('{number} needs an interface with a range, such as "vlan[100-163]"')
    return fields


class Template:
    """One item of `addresses`: a constant, or a text with fields that vary by virtual host."""

    __slots__ = ("base", "bits", "constant", "failed", "family", "field", "suffix", "text")

    def __init__(self, text: str, numbered: bool) -> None:
        self.text = text
        self.failed = False  # reported once, however many virtual hosts it fails for
        self.constant = ""
        self.field = self.suffix = ""
        self.base = self.bits = 0
        self.family = FAMILIES[4]
        fields = fields_of(text, numbered, f"in an address: {TEMPLATES_ALLOWED}")
        if not fields:
            self.constant = _address(text)
        elif any(field not in FIELDS for field in fields):
            self._set_sum(fields)

    def _set_sum(self, fields: list[str]) -> None:
        for field in fields:
            if field not in FIELDS and SUM.fullmatch(field) is None:
                shown = as_shown("{" + field + "}")
                raise Refused(f"{shown} is unknown; allowed in an address: {TEMPLATES_ALLOWED}")
        first = "{" + fields[0] + "}"
        match = SUM.fullmatch(fields[0])
        if match is None or len(fields) > 1 or not self.text.startswith(first):
            raise Refused("must have {ADDRESS+...} first, followed by /PREFIX or nothing")
        self.base = int.from_bytes(address_bytes(match[1], f"an address in {as_shown(first)}"))
        self.family = _family(match[1])
        self.field = match[2]
        self.suffix = _prefix(self.text[len(first) :], self.family)
        self.bits = host_bits(self.family, int(self.suffix[1:]))

    def at(self, vhid: int, number: int | None, index: int) -> str:
        """The address of one virtual host: "192.0.2.10/24", "2001:db8::10/64". Raises Refused."""
        if self.constant:
            return self.constant
        if not self.field:
            filled = self.text.format(vhid=vhid, number=number, index=index)
            try:
                return _address(filled)
            except Refused as refused:
                raise Refused(f"{as_shown(filled)} {refused}") from None
        added = index if self.field == "index" else vhid if self.field == "vhid" else number
        value = self.base + (added or 0)
        text = self.family.text(value) + self.suffix
        if self.bits and value & self.bits in (0, self.bits):
            try:
                check_host_bits(value, self.bits)
            except Refused as refused:
                raise Refused(f"{text} {refused}") from None
        return text


def item_parsers(numbered: bool) -> dict[str, Callable[[Any], Sequence[Any]]]:
    """A parser for each key of HOST_KEYS, which makes a list of one item.

    `numbered`: every interface has a number.
    """

    def template(value: Any) -> list[Template]:
        return [Template(plain_text(value, "an address, or a list of them"), numbered)]

    return {
        "interface": named_interfaces,
        "vhid": vhid_numbers,
        "addresses": template,
        "unsigned_addresses": template,
    }


def in_ranges(numbers: Iterable[int]) -> str:
    """ "1-5, 8"."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)
