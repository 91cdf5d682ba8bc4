"""`carp-fast` that is killed, or stops, at a named point of an upgrade: by the line it would log.

    python -m tests.support.upgrade_points run -c FILE

POINT in the environment: the end of the log line at which it happens, such as "committed"; SIGNAL:
the number of the signal that the process sends itself. The lines of a successor begin with
"successor: ", those of the former process with "upgrade: ".
"""

from __future__ import annotations

import logging
import os

from carp_fast.__main__ import main

POINT, SIGNAL = "UPGRADE_POINT", "UPGRADE_SIGNAL"


class _Killer(logging.Handler):
    def __init__(self, point: str, number: int) -> None:
        super().__init__(logging.DEBUG)
        self._point = point
        self._number = number

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == self._point:
            os.kill(os.getpid(), self._number)


def armed() -> None:
    point = os.environ.get(POINT)
    for name in ("upgrading", "succeeding", "inheriting", "passing_on"):
        logger = logging.getLogger(f"carp_fast.daemon.{name}")
        logger.setLevel(logging.DEBUG)
        if point:
            logger.addHandler(_Killer(point, int(os.environ[SIGNAL])))


if __name__ == "__main__":
    armed()
    main()
