"""Fields that change from frame to frame, as people write them: values, ranges, lists, at random.

    5            always            1-9          one after the other, again and again
    1-9/2        in steps          1,5,20-29    a list
    random:1-9   drawn, from the seed
    fixed:5      always, also where a value alone is only the first one

Holds that text; must not know what fields there are.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence

from carp_fast.errors import CarpFastError
from carp_fast.inet import mac_bytes

LISTED_MAX = 1_000_000
"""Values of a list; a range alone may have 4,294,967,295 (_mix.VALUES_MAX)."""

Walk = tuple[str, Sequence[int]]
"""Order and values, as _mix.Mix takes them."""

RANDOM, FIXED = "random:", "fixed:"


class WalkError(CarpFastError, ValueError):
    """Raised when a text is not a walk; one line says why."""


def walk_of(text: str, number_of: Callable[[str], int]) -> Walk:
    """The walk that is written in `text`; `number_of` reads one value, or raises ValueError."""
    if text.startswith(FIXED):
        return "increment", list(_range_of(text.removeprefix(FIXED), number_of))
    order = "random" if text.startswith(RANDOM) else "increment"
    parts = text.removeprefix(RANDOM).split(",")
    ranges = [_range_of(part.strip(), number_of) for part in parts]
    if len(ranges) == 1:
        return order, ranges[0]
    count = sum(map(len, ranges))
    if count > LISTED_MAX:
        raise WalkError(f"{count:,} values in a list, at most {LISTED_MAX:,} (LISTED_MAX)")
    return order, list(dict.fromkeys(value for each in ranges for value in each))


def _range_of(text: str, number_of: Callable[[str], int]) -> range:
    first_text, dash, rest = text.partition("-")
    last_text, slash, step_text = rest.partition("/")
    try:
        first = number_of(first_text)
        last = number_of(last_text) if dash else first
        step = int(step_text) if slash else 1
    except ValueError as error:
        raise WalkError(str(error)) from error
    if last < first or step < 1:
        raise WalkError(f"{text}: a range ascends, FIRST-LAST or FIRST-LAST/STEP")
    return range(first, last + 1, step)


def numbers(lowest: int, highest: int) -> Callable[[str], int]:
    """Reads whole numbers between these, "0x" for hexadecimal ones."""

    def number_of(text: str) -> int:
        try:
            number = int(text, 0)
        except ValueError:
            raise ValueError(f"{text!r} is no whole number") from None
        if not lowest <= number <= highest:
            raise ValueError(f"{text}: from {lowest} to {highest}")
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
        raise ValueError(f"{text!r} is no IPv{family} address") from None
    if address.version != family:
        raise ValueError(f"{text} is no IPv{family} address")
    return int(address)


def mac(text: str) -> int:
    try:
        return int.from_bytes(mac_bytes(text))
    except ValueError:
        raise ValueError(f"{text!r} is no MAC, six pairs of hex digits with colons") from None
