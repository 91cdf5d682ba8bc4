"""Files that a running daemon leaves: its process id, and the addresses that it may have added.

Must not know how others use them.
"""

from __future__ import annotations

import os
from pathlib import Path

from carp_fast.closing import Closing
from carp_fast.daemon.process import StartError
from carp_fast.net.addresses import StateFile


class PidFile(Closing):
    """The file of `--pid-file`; without a path, none. Closing removes the file."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._written = False

    def write(self) -> None:
        """Writes the process id. Raises StartError."""
        if self._path is None:
            return
        try:
            self._path.write_text(f"{os.getpid()}\n")
        except OSError as error:
            raise StartError(f"pid file {self._path}: {error.strerror}") from error
        self._written = True

    def close(self) -> None:
        """Removes the file if it was written."""
        if self._written and self._path is not None:
            self._path.unlink(missing_ok=True)


class Held:
    """The addresses that may have been added, by interface, for the next run to find.

    `file`: where they are recorded; None: nowhere.
    """

    def __init__(self, file: StateFile | None) -> None:
        self._file = file

    def read(self) -> dict[str, list[str]]:
        """What the last run wrote."""
        return {} if self._file is None else self._file.read()

    def write(self, *held: dict[str, list[str]]) -> None:
        """Records all of these, before the first is added. Raises StartError."""
        if self._file is None:
            return
        every: dict[str, set[str]] = {}
        for part in held:
            for name, texts in part.items():
                every.setdefault(name, set()).update(texts)
        try:
            self._file.record(every)
        except OSError as error:
            raise StartError(f"state file {self._file.path}: {error.strerror}") from error
