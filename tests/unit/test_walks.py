"""Walks as people write them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from carp_fast.loadtest.walks import WalkError, ipv4, ipv6, mac, numbers, walk_of

BYTE = numbers(0, 255)


@pytest.mark.parametrize(
    ("text", "reader", "expected"),
    [
        ("5", BYTE, ("increment", range(5, 6))),
        ("0x10", BYTE, ("increment", range(16, 17))),
        ("1-9", BYTE, ("increment", range(1, 10))),
        ("1-9/4", BYTE, ("increment", range(1, 10, 4))),
        ("1, 5,20-22,5", BYTE, ("increment", [1, 5, 20, 21, 22])),
        ("random:1-9", BYTE, ("random", range(1, 10))),
        ("random:1,7", BYTE, ("random", [1, 7])),
        ("fixed:7", BYTE, ("increment", [7])),
        ("10.0.0.255-10.0.1.1", ipv4, ("increment", range(0x0A0000FF, 0x0A000102))),
        ("fe80::1", ipv6, ("increment", range((0xFE80 << 112) + 1, (0xFE80 << 112) + 2))),
        (
            "02:00:00:00:00:fe-02:00:00:00:01:00",
            mac,
            ("increment", range(2 << 40 | 254, 2 << 40 | 257)),
        ),
    ],
)
def test_what_is_written_and_what_it_means(
    text: str, reader: Callable[[str], int], expected: tuple[str, Sequence[int]]
) -> None:
    assert walk_of(text, reader) == expected


@pytest.mark.parametrize(
    ("text", "reader", "said"),
    [
        ("", BYTE, "'' is not a whole number"),
        ("256", BYTE, "256: must be from 0 to 255"),
        ("9-1", BYTE, "must be FIRST-LAST or FIRST-LAST/STEP"),
        ("1-9/0", BYTE, "must be FIRST-LAST or FIRST-LAST/STEP"),
        ("1-9/x", BYTE, "a step is a whole number"),
        ("random:", BYTE, "not a whole number"),
        ("10.0.0.256", ipv4, "'10.0.0.256' is not an IPv4 address"),
        ("fe80::1", ipv4, "fe80::1 is not an IPv4 address"),
        ("10.0.0.1", ipv6, "is not an IPv6 address"),
        ("02:00", mac, "is not a MAC"),
        ("02:00:00:00:00:0g", mac, "is not a MAC"),
        ("0-1999999,5", numbers(0, 1 << 32), "2,000,001 values in a list; allowed: 1,000,000"),
    ],
)
def test_what_is_no_walk(text: str, reader: Callable[[str], int], said: str) -> None:
    with pytest.raises(WalkError, match=said):
        walk_of(text, reader)
