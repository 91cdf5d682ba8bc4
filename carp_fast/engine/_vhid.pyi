"""The words and the table of the state machine: state, event, next state, effects, reason."""

STATE_WORDS: tuple[str, ...]
REASON_WORDS: tuple[str, ...]
DEMOTION_WORDS: tuple[str, ...]
EVENT_WORDS: tuple[str, ...]
EFFECT_WORDS: dict[str, int]
TRANSITIONS: tuple[tuple[str, str, str, str, str], ...]
