"""The kinds of receivers, as a state names them."""

from carp_fast.engine._lanes import LANE_WORDS as LANE_WORDS

RECEIVER_WORDS: tuple[str, ...]
