"""The fields of a state that another process takes over, by kind of record, and its words."""

from carp_fast.engine._recorder import ADDRESS_WORDS as ADDRESS_WORDS
from carp_fast.engine._recorder import FLAG_WORDS as FLAG_WORDS
from carp_fast.engine._recorder import PENDING_WORDS as PENDING_WORDS
from carp_fast.engine._vhid import DEMOTION_WORDS as DEMOTION_WORDS
from carp_fast.engine._vhid import REASON_WORDS as REASON_WORDS
from carp_fast.engine._vhid import STATE_WORDS as STATE_WORDS
from carp_fast.engine._wire import VERDICT_WORDS as VERDICT_WORDS

SECTION_WORDS: tuple[str, ...]
QUEUE_WORDS: tuple[str, ...]
WORDS: dict[str, int]
FIELDS: dict[str, list[tuple[str, int, int, int, int | None]]]
REBUILT_OF_INTERFACES: dict[str, str]
REBUILT_OF_ENGINES: dict[str, str]
