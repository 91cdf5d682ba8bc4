"""Which virtual hosts are not as configured: a byte of marks for each slot, from one pass.

The engine marks what it knows; wrong digests and addresses come from the reports that the loop has
kept. Must not know who asks, nor how a problem is shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from carp_fast.daemon.status import SECOND_NS, WRONG_DIGEST_LASTS_NS
from carp_fast.daemon.table import MASTER
from carp_fast.engine._tallies import PROBLEM_WORDS

if TYPE_CHECKING:
    from carp_fast.config.load import VirtualHost

BITS = {word: bit for bit, word in PROBLEM_WORDS.items()}
WRONG_DIGEST, ADDRESSES = 16, 32  # bits beside those of the engine
WORST_FIRST = (
    BITS["second_master"],
    WRONG_DIGEST,
    BITS["duplicate_source"],
    ADDRESSES,
    BITS["init"],
    BITS["demoted"],
)
ANY = sum(WORST_FIRST)


def marks_of(
    engine: bytes,
    hosts: Sequence[VirtualHost | None],
    wrong_digests: Mapping[int, int],
    address_problems: Iterable[int],
    now_ns: int,
) -> bytes:
    """By slot of a pass: the bits of what is wrong with its virtual host.

    `engine`: the bits that it has marked; `hosts`: by slot, as they are now; `wrong_digests`: by
    slot, when one was last reported; `address_problems`: slots.
    """
    marks = bytearray(engine)
    for slot, at_ns in wrong_digests.items():
        host = hosts[slot] if slot < len(marks) else None
        if host is None:
            continue
        intervals_ns = int(3 * (host.settings.advbase + 1) * SECOND_NS)
        if now_ns - at_ns < max(WRONG_DIGEST_LASTS_NS, intervals_ns):
            marks[slot] |= WRONG_DIGEST
    for slot in address_problems:
        if slot < len(marks):
            marks[slot] |= ADDRESSES
    return bytes(marks)


def words_of(mark: int, state: int) -> list[str]:
    """The words of a slot's marks, the worst first; `state`: of its virtual host."""
    return [word_of(bit, state) for bit in WORST_FIRST if mark & bit]


def word_of(bit: int, state: int) -> str:
    """The word of one mark."""
    if bit == WRONG_DIGEST:
        return "other_master" if state == MASTER else "bad_auth"
    return "addresses" if bit == ADDRESSES else PROBLEM_WORDS[bit]


def marked(marks: bytes, mask: int = ANY) -> Iterator[int]:
    """The slots that have at least one of these bits."""
    chosen = having(marks, mask)
    slot = chosen.find(1)
    while slot >= 0:
        yield slot
        slot = chosen.find(1, slot + 1)


def having(marks: bytes, mask: int = ANY) -> bytes:
    """By slot: 1 if it has one of these bits, otherwise 0."""
    return marks.translate(_table(mask))


@lru_cache
def _table(mask: int) -> bytes:
    return bytes(bool(value & mask) for value in range(256))


def worst(marks: bytes, most: int) -> list[int]:
    """At most so many slots, those with the worst problems first."""
    found: dict[int, None] = {}
    for bit in WORST_FIRST:
        for slot in marked(marks, bit):
            if len(found) == most:
                return list(found)
            found[slot] = None
    return list(found)


def counted(marks: bytes, states: Sequence[int]) -> dict[str, int]:
    """How many virtual hosts have each problem, by its word, the worst first."""
    found: Counter[str] = Counter()
    for bit in WORST_FIRST:
        if bit == WRONG_DIGEST:
            found.update(word_of(bit, states[slot]) for slot in marked(marks, bit))
        elif count := having(marks, bit).count(1):
            found[word_of(bit, 0)] = count
    return dict(found)
