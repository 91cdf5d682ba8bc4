"""`carp-fast` that gets a signal at a named point of an upgrade: by the line that it would log.

    python -m tests.support.upgrade_points run -c FILE

ARMED in the environment names a file, which is looked at whenever such a line is due: the number of
a signal, and the line, such as "9 upgrade: phase commit". The lines of a successor begin with
"successor: ", those of the former process with "upgrade: ". PATIENT, if it is set: the phases have
no short limits, since the test does something while a process stands still.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from carp_fast.__main__ import main

ARMED, PATIENT = "UPGRADE_ARMED", "UPGRADE_PATIENT"
PATIENCE_S = 60.0


class _Signals(logging.Handler):
    def __init__(self, armed: Path) -> None:
        super().__init__(logging.DEBUG)
        self._armed = armed

    def emit(self, record: logging.LogRecord) -> None:
        try:
            number, _, point = self._armed.read_text().partition(" ")
        except FileNotFoundError:
            return
        if record.getMessage() == point:
            os.kill(os.getpid(), int(number))


def armed() -> None:
    handler = _Signals(Path(os.environ[ARMED]))
    for name in ("upgrading", "succeeding", "inheriting", "passing_on"):
        logger = logging.getLogger(f"carp_fast.daemon.{name}")
        logger.setLevel(logging.DEBUG)
        logger.addHandler(handler)
    if PATIENT in os.environ:
        from carp_fast.daemon import upgrade_messages

        upgrade_messages.FREEZE_S = upgrade_messages.TRANSFER_S = PATIENCE_S
        upgrade_messages.COMMIT_S = PATIENCE_S


if __name__ == "__main__":
    armed()
    main()
