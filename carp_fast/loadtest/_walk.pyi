"""A field that changes from frame to frame: the words of its order."""

ORDER_WORDS: tuple[str, ...]
