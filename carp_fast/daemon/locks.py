"""Locks on virtual hosts, so that only one process of this machine has each.

One lock file serves all daemons; each locks a byte for each virtual host and destination. A lock
ends with its process, however that ends. Must not know the engine, nor what a virtual host is
beyond its interface's number, its vhid and its destinations.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from carp_fast.closing import Closing

logger = logging.getLogger(__name__)

# In /run itself: a service's own directory is removed when that service ends.
LOCK_FILE = Path("/run/carp-fast.lock")
VHIDS = 256  # bytes of one interface and destination, adjacent so that the kernel joins them
STARTS_KEPT = 16_384
_HASH_BITS = 54  # of what precedes the vhid: an offset has 63
_FLOCK = struct.Struct("@hhqqi4x")
_RETRIED_NONE = frozenset({errno.EAGAIN, errno.EACCES})


class Locks(Closing):
    """The locks that this process holds.

    Locks through one open file do not exclude one another. `descriptor`: the file that another
    process opened and passed to this one, with the locks that it holds; they last as long as one of
    the two has it open. Raises OSError if the file cannot be opened.
    """

    def __init__(
        self, path: Path = LOCK_FILE, *, create: bool = True, descriptor: int | None = None
    ) -> None:
        self.path = path
        self._namespace = _network_namespace()
        self._starts: dict[tuple[int, str], int] = {}
        # 0600: a user who may open the file could keep a virtual host from every daemon.
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        self._file = os.open(path, flags, 0o600) if descriptor is None else descriptor
        self._status = os.fstat(self._file)

    def adopt(self, descriptor: int) -> None:
        """Goes on with the file that another process opened, in place of the one opened here."""
        os.close(self._file)
        self._file = descriptor
        self._status = os.fstat(descriptor)

    def fileno(self) -> int:
        """The file's descriptor; -1 once it is closed."""
        return self._file

    def close(self) -> None:
        """Releases every lock."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def take(self, ifindex: int, vhid: int, destinations: Iterable[str]) -> str | None:
        """Locks a virtual host, all of its destinations or none.

        Returns the destination that another process has locked, or None. Raises OSError.
        """
        taken: list[str] = []
        for destination in sorted(destinations):
            if not self._set(fcntl.F_WRLCK, self._offset(ifindex, destination) + vhid, 1):
                self.give_back(ifindex, vhid, taken)
                return destination
            taken.append(destination)
        return None

    def take_many(self, ifindex: int, wanted: Iterable[tuple[int, tuple[str, ...]]]) -> bool:
        """Locks (vhid, destinations) of an interface in few system calls; all, or none."""
        runs = list(self._runs(ifindex, wanted))
        for number, (start, length) in enumerate(runs):
            if not self._set(fcntl.F_WRLCK, start, length):
                for done, long in runs[:number]:
                    self._set(fcntl.F_UNLCK, done, long)
                return False
        return True

    def give_back(self, ifindex: int, vhid: int, destinations: Iterable[str]) -> None:
        """Unlocks a virtual host."""
        for destination in destinations:
            self._set(fcntl.F_UNLCK, self._offset(ifindex, destination) + vhid, 1)

    def conflict(self, ifindex: int, destination: str, first: int, last: int) -> range:
        """The first vhids from `first` to `last` that another process has; empty if none."""
        start = self._offset(ifindex, destination)
        request = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start + first, last - first + 1, 0)
        answer = fcntl.fcntl(self._file, fcntl.F_OFD_GETLK, request)
        kind, _, begin, length, _ = _FLOCK.unpack(answer)
        if kind == fcntl.F_UNLCK:
            return range(0)
        end = begin + length if length else start + VHIDS
        return range(max(begin - start, 0), min(end - start, VHIDS))

    def owner(self, ifindex: int, vhid: int, destination: str) -> int | None:
        """The other process that has a virtual host; None if it cannot be seen from here.

        The kernel does not report who holds a lock of this kind; the open files of each process do.
        """
        return _owner(self._status, self._offset(ifindex, destination) + vhid)

    def _set(self, kind: int, start: int, length: int) -> bool:
        request = _FLOCK.pack(kind, os.SEEK_SET, start, length, 0)
        try:
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, request)
        except OSError as error:
            if error.errno in _RETRIED_NONE:
                return False
            raise
        return True

    def _offset(self, ifindex: int, destination: str) -> int:
        """The first of the bytes of an interface and destination."""
        start = self._starts.get((ifindex, destination))
        if start is None:
            if len(self._starts) >= STARTS_KEPT:  # of interfaces that no longer exist
                self._starts.clear()
            text = f"{self._namespace} {ifindex} {destination}"
            digest = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
            start = self._starts[ifindex, destination] = (digest >> 64 - _HASH_BITS) * VHIDS
        return start

    def _runs(
        self, ifindex: int, wanted: Iterable[tuple[int, tuple[str, ...]]]
    ) -> Iterator[tuple[int, int]]:
        """(start, length) of the bytes; adjacent ones are joined."""
        by_destination: dict[str, list[int]] = {}
        for vhid, destinations in wanted:
            for destination in destinations:
                by_destination.setdefault(destination, []).append(vhid)
        for destination in sorted(by_destination):
            vhids = sorted(by_destination[destination])
            start = self._offset(ifindex, destination)
            first = before = vhids[0]
            for vhid in vhids[1:]:
                if vhid != before + 1:
                    yield start + first, before - first + 1
                    first = vhid
                before = vhid
            yield start + first, before - first + 1


def open_locks(path: Path = LOCK_FILE) -> Locks | None:
    """The locks; None, which is logged, if the file cannot be opened."""
    try:
        return Locks(path)
    except OSError as error:
        logger.warning(
            "lock file %s: %s: other processes of this machine may take the same virtual hosts",
            path,
            error.strerror,
        )
    return None


def named(pid: int | None) -> str:
    """A process as "pid 4711 (carp-fast)". Never its arguments: ucarp's contain its passphrase."""
    if pid is None:
        return "a process that cannot be seen from here"
    try:
        comm = Path(f"/proc/{pid}/comm").read_text().rstrip("\n")
    except OSError:
        comm = "?"
    return f"pid {pid} ({comm})"


def _network_namespace() -> int:
    return Path("/proc/thread-self/ns/net").stat().st_ino


def _owner(status: os.stat_result, offset: int) -> int | None:
    """The process that has the file open with a lock on this byte."""
    for process in _processes():
        try:
            descriptors = list((process / "fd").iterdir())
        except OSError:
            continue  # it has ended, or may not be read
        for descriptor in descriptors:
            try:
                opened = descriptor.stat()
                if (opened.st_dev, opened.st_ino) != (status.st_dev, status.st_ino):
                    continue
                text = (process / "fdinfo" / descriptor.name).read_text()
            except OSError:
                continue
            if any(offset in locked for locked in _locked(text)):
                return int(process.name)
    return None


def _processes() -> Iterator[Path]:
    for each in Path("/proc").iterdir():
        if each.name.isdigit() and int(each.name) != os.getpid():
            yield each


def _locked(text: str) -> Iterator[range]:
    """The bytes that fdinfo lists as locked: ``lock: 1: OFDLCK ADVISORY WRITE -1 DEV:INO A B``."""
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["lock:"] and "OFDLCK" in words:
            first, last = words[-2:]
            yield range(int(first), 1 << 63 if last == "EOF" else int(last) + 1)
