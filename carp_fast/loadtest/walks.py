"""Parses walks, the text for a field that changes from frame to frame.

    5            always 5          1-9          one after another, repeated
    1-9/2        in steps of 2     1,5,20-29    a list
    random:1-9   at random, from the seed
    fixed:5      always 5, also for a field where a single value is only the first one

Must not know the fields.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence

from carp_fast.errors import CarpFastError
from carp_fast.inet import mac_bytes
from carp_fast.loadtest._mix import VALUES_MAX

LISTED_MAX = 1_000_000
"""Most values of a list, or after "fixed:"; a single range may have VALUES_MAX."""

Walk = tuple[str, Sequence[int]]
"""Order and values, as _mix.Mix takes them."""

RANDOM, FIXED = "random:", "fixed:"


class WalkError(CarpFastError, ValueError):
    """Raised when a text is not a walk; the text is one line."""


def walk_of(text: str, number_of: Callable[[str], int]) -> Walk:
    """Parses a walk. `number_of` parses one value or raises ValueError. Raises WalkError."""
    if text.startswith(FIXED):
        return "increment", _listed([_range_of(text.removeprefix(FIXED), number_of)])
    order = "random" if text.startswith(RANDOM) else "increment"
    parts = text.removeprefix(RANDOM).split(",")
    ranges = [_range_of(part.strip(), number_of) for part in parts]
    if len(ranges) == 1:
        return order, ranges[0]
    return order, _listed(ranges)


def _listed(ranges: Sequence[range]) -> list[int]:
    """The values of all, each once. Raises WalkError."""
    count = sum(map(len, ranges))
    if count > LISTED_MAX:
        raise WalkError(f"{count:,} values in a list; allowed: {LISTED_MAX:,} (LISTED_MAX)")
    return list(dict.fromkeys(value for each in ranges for value in each))


def _range_of(text: str, number_of: Callable[[str], int]) -> range:
    first_text, dash, rest = text.partition("-")
    last_text, slash, step_text = rest.partition("/")
    try:
        first = number_of(first_text)
        last = number_of(last_text) if dash else first
        step = _step_of(step_text) if slash else 1
    except ValueError as error:
        raise WalkError(str(error)) from error
    if last < first or step < 1:
        raise WalkError(f"{text}: must be FIRST-LAST or FIRST-LAST/STEP, ascending")
    count = (last - first) // step + 1
    if count > VALUES_MAX:
        raise WalkError(f"{text}: {count:,} values; allowed: {VALUES_MAX:,} (VALUES_MAX)")
    return range(first, last + 1, step)


def _step_of(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{text!r}: a step is a whole number")
    return int(text)


def numbers(lowest: int, highest: int) -> Callable[[str], int]:
    """A parser of whole numbers from `lowest` to `highest`, hexadecimal ones with "0x"."""

    def number_of(text: str) -> int:
        try:
            number = int(text, 0)
        except ValueError:
            raise ValueError(f"{text!r} is not a whole number") from None
        if not lowest <= number <= highest:
            raise ValueError(f"{text}: must be from {lowest} to {highest}")
        return number

    return number_of


def ipv4(text: str) -> int:
    return _address(text, 4)


def ipv6(text: str) -> int:
    return _address(text, 6)


def _address(text: str, family: int) -> int:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an IPv{family} address") from None
    if address.version != family:
        raise ValueError(f"{text} is not an IPv{family} address")
    return int(address)


def mac(text: str) -> int:
    try:
        return int.from_bytes(mac_bytes(text))
    except ValueError:
        raise ValueError(f"{text!r} is not a MAC: six pairs of hex digits with colons") from None


def source_mac(text: str) -> int:
    """A MAC that a host may have."""
    number = mac(text)
    if number >> 40 & 1:
        raise ValueError(f"{text} is the MAC of a group, which no host sends from")
    if not number:
        raise ValueError(f"{text} is not the MAC of a host")
    return number
