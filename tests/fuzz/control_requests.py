"""Lines for the control socket: requests, and what programs with faults send in their place.

Must not know the server.
"""

from __future__ import annotations

import json
from random import Random
from typing import Any

COMMANDS = (
    *("status", "explain", "reload", "record", "events", "demote", "undemote", "maintenance"),
    *("stop", "", "status\0"),
)
KEYS = (
    *("interface", "vhid", "state", "problems", "force", "amount", "reason", "action", "command"),
    *("x", ""),
)
TOKENS = (
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b"\\",
    b"\\u",
    b'"\\ud800"',
    b":",
    b",",
    b"null",
    b"true",
    b"1e999",
    b"-",
    b"NaN",
    b"\0",
    b"\xff",
    b"\xc3\x28",
    b"\n",
    b"\r\n",
    b'"command"',
    b'"status"',
    b'"events"',
    b"9" * 40,
    b" " * 1_000,
)
DEEP = (b"[" * 2_000, b'{"a":' * 2_000, b"[" * 60_000)
LONG = (65_535, 65_536, 65_537, 200_000)


def value(random: Random) -> Any:
    """What may stand for an argument."""
    return random.choice(
        (
            "s1",
            1,
            2,
            "MASTER",
            None,
            True,
            False,
            -1,
            256,
            2**31,
            2**64,
            10**40,
            1.5,
            "",
            "s1\n",
            "s1\0",
            "\ud800",
            "é" * 300,
            "x" * 5_000,
            [],
            {},
            [[1]],
            {"command": "status"},
        )
    )


def right(random: Random) -> bytes:
    """A request as a client sends it."""
    requests: tuple[dict[str, Any], ...] = (
        {"command": "status"},
        {"command": "status", "interface": "s1", "vhid": 2},
        {"command": "status", "problems": True},
        {"command": "explain", "interface": "s1", "vhid": 1},
        {"command": "record", "interface": "s1", "vhid": 1},
        {"command": "reload"},
        {"command": "events"},
        {"command": "demote", "amount": 5, "reason": "fuzz\x1b[2J"},
        {"command": "demote", "amount": 5, "reason": "fuzz"},
        {"command": "undemote", "reason": "fuzz"},
        {"command": "maintenance", "action": "show"},
    )
    weights = (20, 10, 5, 10, 10, 1, 5, 1, 1, 1, 3)
    (request,) = random.choices(requests, weights)
    return json.dumps(request).encode() + b"\n"


def wrong(random: Random) -> bytes:
    """A request with other arguments than it has."""
    request: dict[str, Any] = {"command": random.choice(COMMANDS)}
    for _ in range(random.randrange(4)):
        request[random.choice(KEYS)] = value(random)
    text = json.dumps(request)
    if random.random() < 0.1:
        text = text.replace("}", f', "command": {json.dumps(value(random))}}}', 1)
    return text.encode() + random.choice((b"\n", b"\n", b"\r\n", b" \n", b"\n\n"))


def damaged(random: Random, line: bytes) -> bytes:
    """A line with a few bytes changed, taken away or put in between."""
    data = bytearray(line)
    for _ in range(random.randrange(1, 4)):
        at = random.randrange(len(data) + 1)
        pick = random.random()
        if pick < 0.4 and at < len(data):
            data[at] = random.randrange(256)
        elif pick < 0.7:
            del data[at : at + random.randrange(1, 9)]
        else:
            data[at:at] = random.choice(TOKENS)
    return bytes(data)


def drawn(random: Random) -> bytes:
    """What a client writes at a time, with an end of line or without."""
    pick = random.random()
    if pick < 0.35:
        return right(random)
    if pick < 0.6:
        return wrong(random)
    if pick < 0.8:
        return damaged(random, right(random))
    if pick < 0.84:
        return b"".join(random.choice(TOKENS) for _ in range(random.randrange(1, 30)))
    if pick < 0.88:
        return random.choice(DEEP) + random.choice((b"", b"\n"))
    if pick < 0.92:
        return b"x" * random.choice(LONG) + random.choice((b"", b"\n"))
    if pick < 0.96:
        return b"".join(right(random) for _ in range(random.randrange(2, 40)))
    return random.randbytes(random.randrange(1, 300))
