"""The state of an engine as one flat array, as another process reads it."""

from typing import Any

from typing_extensions import Buffer, disjoint_base

from carp_fast.engine._tables import SECTION_WORDS as SECTION_WORDS
from carp_fast.engine._tables import WORDS as WORDS

@disjoint_base
class State:
    """A state in a buffer, its head and table checked. Keep the buffer as it is meanwhile.

    Raises ValueError for what is not a state or is cut off, and where a field of it is unknown
    here, has another width or more elements, or a word has another number: with its name.
    """

    def __init__(self, buffer: Buffer) -> None: ...
    @property
    def table(self) -> list[tuple[str, str, int, int, int]]:
        """(part, name, place, width, count) of each field; "words" has the numbers of words."""

    def count(self, part: str) -> int:
        """How many records of a kind there are."""

    def records(self, part: str) -> list[dict[str, Any]]:
        """The records of a kind, each a dict of its fields: a number, or bytes of an array."""
