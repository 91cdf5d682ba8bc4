"""A directory that the daemon writes to: given to its user, with what earlier runs left there.

One that holds anything else, such as /run, is never given. Must not know which directories there
are.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from carp_fast.capabilities import Capability, has_capability
from carp_fast.daemon.incident_files import NAME

if TYPE_CHECKING:
    from carp_fast.config.model import User

MODE = 0o755  # of one that is created; the files in it have modes of their own
STATE_FILE = re.compile(
    rf"(addresses|demotions|maintenance)-[0-9a-f]{{16}}\.(json|new)|{NAME.pattern}"
)
OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Directory:
    """A directory. `names`: of the files that a daemon has there, besides those of its state."""

    def __init__(self, path: Path, names: Iterable[str] = ()) -> None:
        self.path = path
        self._names = frozenset(names)

    def is_usable(self) -> bool:
        """Whether this process, by its effective user, may use it and what earlier runs left."""
        if not os.access(self.path, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
            return False
        place = os.open(self.path, OPEN)
        try:
            return all(
                os.access(name, os.R_OK, dir_fd=place, effective_ids=True)
                for name in self._left(place)
            )
        finally:
            os.close(place)

    def not_given(self) -> str | None:
        """Why a start by root would not give the directory to a user; None: it would, or has."""
        if not has_capability(Capability.CHOWN):
            return "without CAP_CHOWN it is not given; allowed: one that belongs to that user"
        try:
            with os.scandir(self.path) as entries:
                strange = sorted(each.name for each in entries if not self._is_ours(each))
        except FileNotFoundError:
            return None  # it is created
        except OSError as error:
            return f"it cannot be given: {error.strerror}"
        if strange:
            return (
                f"it holds other files, such as {strange[0]}, so that it is not given; allowed: a"
                " directory of carp-fast alone, or one that belongs to that user"
            )
        return None

    def give(self, user: User) -> None:
        """Gives the directory and what earlier runs left in it to a user, if that is allowed.

        A missing one is created. A file that has several names is left alone: it could be anything.
        Raises OSError.
        """
        try:
            os.makedirs(self.path, MODE)  # noqa: PTH103 (its parents with their usual mode)
        except FileExistsError:
            if self.not_given() is not None:
                return
        place = os.open(self.path, OPEN)
        try:
            for name in self._left(place):
                _give(name, place, user)
            _give(".", place, user)
        finally:
            os.close(place)

    def _left(self, place: int) -> Iterator[str]:
        with os.scandir(place) as entries:
            for each in entries:
                if self._is_ours(each):
                    yield each.name

    def _is_ours(self, entry: os.DirEntry[str]) -> bool:
        if entry.is_symlink() or entry.is_dir(follow_symlinks=False):
            return False
        return entry.name in self._names or STATE_FILE.fullmatch(entry.name) is not None


def _give(name: str, place: int, user: User) -> None:
    """Gives a file in a directory to a user, whatever is at its name meanwhile."""
    file = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place)
    try:
        status = os.fstat(file)
        alone = stat.S_ISDIR(status.st_mode) or status.st_nlink == 1
        if status.st_uid != user.uid and alone and not stat.S_ISLNK(status.st_mode):
            os.chown(f"/proc/self/fd/{file}", user.uid, user.gid)
    finally:
        os.close(file)
