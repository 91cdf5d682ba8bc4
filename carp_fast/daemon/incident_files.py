"""The files of incidents in the state directory: written whole, and the oldest removed.

Must not know what an incident is. Everything here may block: it is called in the worker's thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from carp_fast.config.state import replace_file

FILES_MAX = 20
BYTES_MAX = 64 << 20
NAME = re.compile(r"incident-[0-9a-f]{16}-[0-9]{8}T[0-9]{6}Z-[a-z_]+\.(scenario|new)")


class Written(NamedTuple):
    """A file that was written, and the older ones that were removed for it."""

    path: Path
    size: int
    removed: tuple[str, ...]
    trouble: str = ""  # why older ones could not be removed


class IncidentFiles:
    """The files of one configuration's incidents: at most `files` of them, with `size` bytes."""

    def __init__(
        self,
        directory: Path,
        configuration: Path,
        files: int = FILES_MAX,
        size: int = BYTES_MAX,
    ) -> None:
        # abspath() does not follow links, as for the other files of the state directory.
        path = os.path.abspath(configuration)  # noqa: PTH100
        self._prefix = f"incident-{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}-"
        self._directory = directory
        self._files = files
        self.size = size

    def write(self, time: str, kind: str, content: bytes) -> Written:
        """Writes a file, then removes the oldest beyond the limits, never the new one.

        `time`: "20261130T204500Z". `content`: at most `size` bytes. Raises OSError; then the older
        files are as they were.
        """
        path = self._directory / f"{self._prefix}{time}-{kind}.scenario"
        replace_file(path, content)
        try:
            return Written(path, len(content), tuple(self._prune(path.name)))
        except OSError as error:
            return Written(path, len(content), (), error.strerror or str(error))

    def _prune(self, newest: str) -> Iterator[str]:
        count = total = 0
        for name in (newest, *sorted(self._others(newest), reverse=True)):
            path = self._directory / name
            with contextlib.suppress(FileNotFoundError):
                count, total = count + 1, total + path.stat().st_size
                unfinished = name.endswith(".new")  # an earlier process ended while it wrote
                if unfinished or count > self._files or total > self.size:
                    path.unlink()
                    yield name

    def _others(self, newest: str) -> list[str]:
        with os.scandir(self._directory) as entries:
            return [
                each.name
                for each in entries
                if each.name.startswith(self._prefix)
                and each.name != newest
                and NAME.fullmatch(each.name)
            ]
