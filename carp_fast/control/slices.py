"""Answers that are too large for one turn of the loop: JSON, a slice of a long list at a time.

Must not know what the items are, nor which client gets them.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

import msgspec

SLICE_ITEMS = 2_000  # encoded in one turn of the loop


async def document_slices(
    name: str,
    head: msgspec.Struct | Mapping[str, object],
    list_name: str,
    slices: AsyncIterator[list[Any]],
) -> AsyncIterator[bytes]:
    """Encodes ``{"ok": true, NAME: {HEAD..., LIST_NAME: [ITEMS...]}}``, a slice of items each.

    For the answer of a handler: the server yields to the loop between slices, so tens of thousands
    of items never block it for long, nor are they ever all in memory.
    """
    encode = msgspec.json.encode
    fields = encode(head)
    opening = fields[:-1] + (b"," if fields != b"{}" else b"")
    yield b'{"ok":true,' + encode(name) + b":" + opening + encode(list_name) + b":["
    separator = b""
    async for items in slices:
        if items:
            yield separator + encode(items)[1:-1]
            separator = b","
    yield b"]}}"


async def in_slices(items: Iterable[Any]) -> AsyncIterator[list[Any]]:
    """Yields the items of an iterable in lists of SLICE_ITEMS."""
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, SLICE_ITEMS)):
        yield chunk
