"""Requests and answers of the metrics' listener, without HTTP's wire format.

For handlers, which must not know connections; importing it costs nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import NamedTuple

from carp_fast.errors import CarpFastError


class Request(NamedTuple):
    """What a client asks for: a path, what follows its "?", and headers by lower-case names."""

    path: str
    headers: Mapping[str, str]
    query: str = ""


class Answer(NamedTuple):
    """What a client gets: a body of bytes, or of parts that are made as it takes them.

    `endless`: of parts for as long as the client listens. It sends nothing more then.
    """

    status: int
    headers: list[tuple[str, str]]
    body: bytes | AsyncIterator[bytes]
    endless: bool = False


Handler = Callable[[Request], Awaitable[Answer]]


class Refused(CarpFastError):
    """Raised by a handler that cannot answer: a status, and one line for the client."""

    def __init__(self, status: int, line: str) -> None:
        super().__init__(line)
        self.status = status


def line_answer(status: int, line: str) -> Answer:
    """An answer of one line of text."""
    return Answer(status, [("Content-Type", "text/plain; charset=utf-8")], f"{line}\n".encode())
