"""The loader: a process that lives as long as it takes to read the configuration and its secrets.

The helper starts it with two memory files for what it finds, and gives it the path of the
configuration on its standard input once that is known; until then it imports what it needs. So
no passphrase is ever in the memory of the daemon. Must not know who gets its outcome.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path

from carp_fast.config.load import load_settled
from carp_fast.config.model import Configuration, ConfigurationError
from carp_fast.privileged import outcome, rows, table
from carp_fast.privileged.outcome import Line

PATH_BYTES = 4096  # PATH_MAX


class _Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[Line] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(Line(record.name, record.levelno, os.fsencode(record.getMessage())))


def main(outcome_fd: int, table_fd: int) -> int:
    """Reads the path from standard input, then the configuration; returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback
    logger, kept = logging.getLogger("carp_fast"), _Lines()
    logger.addHandler(kept)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    with open(sys.stdin.fileno(), "rb", closefd=False) as stdin:
        path = stdin.read(PATH_BYTES + 1)
    if not path:
        return 0  # nobody wants a configuration any more
    result: Configuration | ConfigurationError
    try:
        result = load_settled(Path(os.fsdecode(path)))
    except ConfigurationError as error:
        result = error
    else:
        _write(table_fd, rows.encode(table.rows(result)))
    _write(outcome_fd, outcome.encode(result, kept.lines))
    return 0


def _write(descriptor: int, content: bytes) -> None:
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
