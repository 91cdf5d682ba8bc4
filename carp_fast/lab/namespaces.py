"""Network namespaces with an owner: created, entered, and removed with all that runs in them.

Holds the records by which the remains of a killed run are found, and the ways into a namespace.
Must not know what the namespaces are for: no hosts, no segments, no interfaces.

A record is a file in RECORDS that names the namespaces of one owner, which keeps it locked. The
lock ends with the process that holds it, so an unlocked record is the remains of a dead owner. A
namespace without a record belongs to another program and is never touched. Next to the record is
the owner's directory, for logs and sockets; it is removed with the record.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import logging
import os
import select
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from carp_fast.errors import CarpFastError
from carp_fast.net.kernel import CLONE_NEWNET

RECORDS = Path("/run/carp-fast-lab")
NAMESPACES = Path("/run/netns")  # where ip(8) binds the namespaces that it names
MARK = "CARP_FAST_LAB"  # environment variable by which an owner recognizes its processes
KILL_DEADLINE_S = 5.0

_libc = ctypes.CDLL(None, use_errno=True)
_log = logging.getLogger("carp_fast.namespaces")


class LabError(CarpFastError):
    """Raised when something that the lab needs is missing or refused; one line names it."""


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Puts the calling thread, and what it starts, into the namespace within the `with`."""
    home_fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            there_fd = os.open(NAMESPACES / namespace, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise LabError(f"there is no network namespace {namespace}") from None
        try:
            _enter(there_fd, namespace)
            yield
        finally:
            os.close(there_fd)
            _enter(home_fd, "the namespace it came from")
    finally:
        os.close(home_fd)


def _enter(namespace_fd: int, name: str) -> None:
    if _libc.setns(namespace_fd, CLONE_NEWNET):
        raise LabError(f"cannot enter {name}: {os.strerror(ctypes.get_errno())}")


def require_privilege() -> None:
    """Raises LabError naming what is missing."""
    if os.geteuid() != 0:
        raise LabError("network namespaces need root")
    if shutil.which("ip") is None:
        raise LabError("the program ip is missing (Debian package iproute2)")


def ip_batch(lines: Sequence[str], namespace: str | None = None) -> None:
    """Runs these lines as one `ip -batch`; raises LabError with ip's own message if one fails."""
    if not lines:
        return
    where = ["-n", namespace] if namespace else []
    done = subprocess.run(
        ["ip", *where, "-batch", "-"],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,  # Ctrl-C at the terminal must not interrupt a batch
    )
    if done.returncode:
        message = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise LabError(
            f"ip {' '.join(where)} -batch ({lines[0]} ...): {message}".replace("  ", " ")
        )


@contextlib.contextmanager
def signals_deferred() -> Iterator[None]:
    """Defers signals that would interrupt the removal until it is done; only in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {int(n): signal.signal(n, lambda number, _: came.append(number)) for n in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        for number in dict.fromkeys(came):
            signal.raise_signal(number)


_serials = iter(range(1, 1_000_000))


def new_identity(name: str) -> str:
    return f"{name}-{os.getpid()}-{next(_serials)}"


def directory(identity: str) -> Path:
    return RECORDS / identity


def claim(identity: str, namespaces: list[str]) -> IO[str]:
    """Removes what dead owners left, then writes and locks the record of a new one.

    The record is valid as long as the returned file is open; `release` ends it.
    """
    RECORDS.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(RECORDS / "lock", "w") as door:
        fcntl.flock(door, fcntl.LOCK_EX)  # also between creating a record and locking it
        for path in sorted(RECORDS.glob("*.json")):
            _sweep(path)
        record = open(RECORDS / f"{identity}.json", "w")  # noqa: SIM115 (held while we live)
        fcntl.flock(record, fcntl.LOCK_EX)
        json.dump({"namespaces": namespaces}, record)
        record.flush()
        directory(identity).mkdir(mode=0o700)
        return record


def release(record: IO[str], identity: str, namespaces: Sequence[str]) -> None:
    """Removes everything and then the record; namespaces that cannot be removed stay recorded."""
    if _remove(identity, namespaces):
        _forget(Path(record.name), identity)
    record.close()


def _sweep(path: Path) -> None:
    try:
        record = open(path)  # noqa: SIM115 (in the with below)
    except FileNotFoundError:
        return  # its owner has just removed it
    with record:
        try:
            fcntl.flock(record, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # its owner is alive
        try:
            left = json.load(record)
            identity, namespaces = path.stem, [str(name) for name in left["namespaces"]]
        except (ValueError, KeyError, TypeError):
            # Its owner was killed while writing it, so before the first namespace was created.
            path.unlink(missing_ok=True)
            return
        _log.warning("removing what %s left behind: %s", identity, ", ".join(namespaces))
        if _remove(identity, namespaces):
            _forget(path, identity)


def _forget(record: Path, identity: str) -> None:
    shutil.rmtree(directory(identity), ignore_errors=True)
    record.unlink(missing_ok=True)


def _remove(identity: str, namespaces: Iterable[str]) -> bool:
    """Kills the owner's processes in these namespaces and removes the names that exist."""
    existing = [name for name in namespaces if (NAMESPACES / name).exists()]
    complete = True
    # A process may start another while the list is read, so this repeats until none is found.
    end_at = time.monotonic() + KILL_DEADLINE_S
    while found := _marked_processes(identity, existing):
        for pid_fd in found:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pid_fd, signal.SIGKILL)
        for pid_fd in found:
            select.select([pid_fd], [], [], max(0.0, end_at - time.monotonic()))
            os.close(pid_fd)
        if time.monotonic() > end_at:
            _log.error("%s: a process does not die within %g s", identity, KILL_DEADLINE_S)
            complete = False
            break
    for name in existing:
        try:
            ip_batch([f"netns del {name}"])
        except LabError as reason:
            _log.error("namespace %s remains: %s", name, reason)
            complete = False
    return complete


def _marked_processes(identity: str, namespaces: Iterable[str]) -> list[int]:
    """pidfds of the processes that have the owner's mark and are in one of its namespaces.

    Both are required: a shell that a user opened in a namespace is left alone.
    """
    places = {_identity_of(NAMESPACES / name) for name in namespaces}
    mark = f"{MARK}={identity}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if _identity_of(entry / "ns/net") not in places:
                continue
            pid_fd = os.pidfd_open(int(entry.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        try:  # read again after opening the pidfd: the number cannot be reused any more
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(pid_fd)
                continue
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            pass
        os.close(pid_fd)
    return found


def _identity_of(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
