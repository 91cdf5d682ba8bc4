"""Who, besides root and the daemon's user, may change a file that the daemon trusts.

A configuration and a hook decide what runs as root, so that whoever may write them, or exchange
them in a directory on the way to them, is root. Must not know TOML, keys or what a file is for.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

UID_MAP = Path("/proc/self/uid_map")
OVERFLOW_UID = Path("/proc/sys/kernel/overflowuid")
INITIAL_USER_NAMESPACE = ["0", "0", "4294967295"]
USUAL_OVERFLOW_UID = 65534
LINKS_MAX = 40  # the kernel follows as many


class Exposure(NamedTuple):
    """One way in which others can change a file. `to_all`: everybody can."""

    to_all: bool
    text: str  # what they may do, and what is allowed instead
    place: str = ""  # a directory or link on the way to the file; empty for the file itself


def in_initial_user_namespace() -> bool:
    """Whether this process is in the initial user namespace; True if that cannot be read."""
    try:
        return UID_MAP.read_text().split() == INITIAL_USER_NAMESPACE
    except OSError:
        return True


def trusted_owners() -> frozenset[int]:
    """The uids that may own what the daemon trusts: root, and who runs this process.

    A user namespace shows root, if it is not mapped, as the overflow uid, like everybody else.
    """
    owners = {0, os.geteuid()}
    if not in_initial_user_namespace():
        try:
            owners.add(int(OVERFLOW_UID.read_text()))
        except (OSError, ValueError):
            owners.add(USUAL_OVERFLOW_UID)
    return frozenset(owners)


class Writers:
    """Finds who may change files; looks at each directory once."""

    def __init__(self) -> None:
        self._owners = trusted_owners()
        self._known: dict[str, os.stat_result | None] = {}

    def of(self, path: Path, status: os.stat_result | None = None) -> list[Exposure]:
        """How others may change a file; `status`: of the open file, if it was opened.

        Includes every directory and symbolic link on the way to it. What cannot be looked at is
        left out.
        """
        *way, last = self._way(path)
        status = status or self._status(last)
        found = [] if status is None else list(self._of_file(status))
        for place in way:
            on_the_way = self._status(place)
            if on_the_way is not None:
                found += self._of_place(place, on_the_way)
        return found

    def of_folder(self, folder: Path) -> list[Exposure]:
        """How others may add files to a directory, which the sticky bit does not prevent."""
        status = self._status(os.path.realpath(folder))
        if status is None or not stat.S_ISDIR(status.st_mode):
            return []
        return list(_written(status, f"add files to {folder}", str(folder)))

    def _of_file(self, status: os.stat_result) -> Iterator[Exposure]:
        if stat.S_ISCHR(status.st_mode) or stat.S_ISLNK(status.st_mode):
            return  # a terminal, or links in a circle
        yield from _written(status, "write it")
        yield from self._owned(status, "it")

    def _of_place(self, place: str, status: os.stat_result) -> Iterator[Exposure]:
        """How others may exchange what is below a directory, or where a link points to."""
        mode = stat.S_IMODE(status.st_mode)
        if stat.S_ISDIR(status.st_mode) and mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            text = f"everybody may exchange it in {place} (mode {mode:04o})"
            yield Exposure(True, f"{text}; allowed: mode 0755, or 1777", place)
        yield from self._owned(status, place, place)

    def _owned(self, status: os.stat_result, what: str, place: str = "") -> Iterator[Exposure]:
        if status.st_uid not in self._owners:
            allowed = " or ".join(f"uid {uid}" for uid in sorted(self._owners))
            text = f"uid {status.st_uid} owns {what} and may change it; allowed: {allowed}"
            yield Exposure(False, text, place)

    def _status(self, place: str) -> os.stat_result | None:
        if place not in self._known:
            try:
                self._known[place] = os.lstat(place)
            except OSError:
                self._known[place] = None
        return self._known[place]

    def _way(self, path: Path) -> Iterable[str]:
        """The directories and symbolic links on the way to a file, each once, then the file."""
        left = list(reversed(path.absolute().parts[1:]))
        here, seen, links = "/", {"/": None}, 0
        while left:
            part = left.pop()
            if part == "..":
                here = os.path.dirname(here)  # noqa: PTH120 (pathlib is slow here)
                continue
            there = os.path.join(here, part)  # noqa: PTH118
            status = self._status(there)
            if status is not None and stat.S_ISLNK(status.st_mode) and links < LINKS_MAX:
                links += 1
                target = Path(_target(there))
                left += reversed(target.parts[1:] if target.is_absolute() else target.parts)
                here = "/" if target.is_absolute() else here
            else:
                here = there
            seen.setdefault(there)
        last = here
        seen.pop(last, None)
        return [*seen, last]


def _written(status: os.stat_result, done: str, place: str = "") -> Iterator[Exposure]:
    """Who may do this with a file or directory, according to its mode."""
    mode = stat.S_IMODE(status.st_mode)
    text = f"may {done} (mode {mode:04o}); allowed: mode {mode & 0o755:04o}"
    if mode & stat.S_IWOTH:
        yield Exposure(True, f"everybody {text}", place)
    elif mode & stat.S_IWGRP:
        yield Exposure(False, f"group {status.st_gid} {text}", place)


def _target(link: str) -> str:
    try:
        return os.readlink(link)  # noqa: PTH115
    except OSError:  # it has changed meanwhile
        return "."
