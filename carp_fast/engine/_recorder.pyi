"""The words of records: their kinds, and those of a host's state."""

from carp_fast.engine._vhid import REASON_WORDS as REASON_WORDS
from carp_fast.engine._vhid import STATE_WORDS as STATE_WORDS
from carp_fast.engine._wire import VERDICT_WORDS as VERDICT_WORDS
from carp_fast.engine.keys import ALL_KEYS as ALL_KEYS

RECORD_WORDS: tuple[str, ...]
ORDERED_WORDS: tuple[str, ...]
RECORD_BYTES: int
CHECKPOINT_RECORDS_MAX: int
FLAG_WORDS: dict[str, int]
PENDING_WORDS: dict[str, int]
ADDRESS_WORDS: dict[str, int]
THERE_WORDS: tuple[str, ...]
