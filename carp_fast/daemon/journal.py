"""Log records as journald takes them: lines with priorities on stderr, see sd-daemon(3).

Must not know what a record means.
"""

from __future__ import annotations

import logging

# The priorities of syslog(3).
_PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
    (logging.NOTSET, 7),
)


class JournalFormatter(logging.Formatter):
    """Formats ``<4>eth0/7: text``: a priority before each line; the journal adds the time."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as lines of sd-daemon(3)."""
        priority = next(number for level, number in _PRIORITIES if record.levelno >= level)
        lines = super().format(record).splitlines() or [""]
        return "\n".join(f"<{priority}>{line}" for line in lines)
