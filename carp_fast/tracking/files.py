"""Tracks by files: the number in a file is the demotion.

Must not know how changes are noticed, nor what becomes of a result.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable

from carp_fast.config.tracks import FileTrack, Track
from carp_fast.inotify import Paths
from carp_fast.tracking.judging import Result

READ_BYTES = 64  # a number and some space
NUMBER_MAX = 255
WHOLE = re.compile(rb"\s*\+?([0-9]{1,20})\s*")

Take = Callable[[Result], None]


def number_in(path: str) -> Result:
    """What a file says. A number above NUMBER_MAX counts as that; anything else is a failure."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        return Result(False, f"{path}: {error.strerror}")
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return Result(False, f"{path}: not a regular file")
        content = os.read(fd, READ_BYTES)
    except OSError as error:
        return Result(False, f"{path}: {error.strerror}")
    finally:
        os.close(fd)
    whole = WHOLE.fullmatch(content)
    if whole is None:
        shown = content.decode("utf-8", "backslashreplace")[:READ_BYTES]
        what = "is empty" if not content.strip() else f"holds {shown!r}"
        return Result(False, f"{path}: {what}, not a number from 0 to {NUMBER_MAX}")
    number = int(whole[1])
    if number > NUMBER_MAX:
        return Result(True, f"{number} counts as {NUMBER_MAX}", NUMBER_MAX)
    return Result(True, str(number), number)


class Files:
    """Follows the files of tracks."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    def watch(self, track: Track, take: Take) -> Callable[[], None]:
        """Follows a track's file; `take` gets what it says, now and whenever that may have changed.

        With `initial` "ok" a file that does not exist yet says nothing. Returns what ends that.
        """
        assert isinstance(track, FileTrack)
        path, waits = track.path, track.initial == "ok"

        def look() -> None:
            nonlocal waits
            if waits and not os.path.lexists(path):
                return
            waits = False
            take(number_in(path))

        stop = self._paths.follow(path, look)
        look()
        return stop
