"""The words of the engine's reports."""

REPORT_WORDS: tuple[str, ...]
