"""The file of a Unix socket of the daemon: bound under a lock, looked for, removed.

Holds the rules for taking over a path that another daemon, or one that has crashed, has used. Must
not know what is served on the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import socket
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from carp_fast.config.model import ControlGroup
from carp_fast.control.protocol import ControlError, ControlInUse, peer_of

logger = logging.getLogger(__name__)

START_LOCK_S = 2.0  # bind() waits this long for another start with the same path
LOCK_RETRY_S = 0.02
PRIVATE, SHARED = 0o600, 0o660  # modes of the socket: without a group, and with one
SOCKET_PATH_BYTES_MAX = 107  # the kernel's limit of sun_path, without its NUL


class SocketFile:
    """The path at which this process listens, or will listen.

    Its socket has mode 0600, with a `group` 0660 and that group. `what` and `key`: its name in
    messages, and the key that has its path.
    """

    def __init__(
        self,
        path: Path,
        group: ControlGroup | None = None,
        what: str = "control socket",
        key: str = "daemon.control_socket",
    ) -> None:
        self.path = path
        self.group = group
        self._name = f"{what} {path}"
        self._key = key
        self._identity: tuple[int, int] | None = None  # device and inode of the bound file

    async def bind(self, backlog: int) -> socket.socket:
        """A socket that listens at the path.

        A stale socket file is replaced and a missing directory is created (0755). Raises
        ControlInUse if a daemon listens there, ControlError if the path cannot be used.
        """
        if len(os.fsencode(self.path)) > SOCKET_PATH_BYTES_MAX:
            limit = f"longer than {SOCKET_PATH_BYTES_MAX} bytes, the kernel's limit"
            raise ControlError(f"{self._name}: the path is {limit}")
        try:
            with _umask(0o022):
                self.path.parent.mkdir(parents=True, exist_ok=True)
            # Another start must not do the same between the probe and the bind.
            async with _locked(self.path, self._name):
                _remove_stale(self.path, self._name, self._key)
                return self._listener(backlog)
        except OSError as error:
            where = "" if error.filename is None else f" {os.fsdecode(error.filename)}:"
            raise ControlError(f"{self._name}:{where} {error.strerror}") from error

    @property
    def identity(self) -> tuple[int, int] | None:
        """Device and inode of the file that was bound last; None: none was."""
        return self._identity

    def adopt(self, listener: socket.socket, identity: tuple[int, int] | None) -> None:
        """Goes on with the socket that another process bound, and its `identity` there.

        Raises ControlError unless it listens at the path.
        """
        wanted = (socket.AF_UNIX, socket.SOCK_STREAM)
        kind = listener.family, listener.type & ~socket.SOCK_NONBLOCK
        listens = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if kind != wanted or not listens or listener.getsockname() != os.fspath(self.path):
            text = "what was passed on does not listen there"
            raise ControlError(f"{self._name}: {text}")
        listener.setblocking(False)
        self._identity = identity

    def is_ours(self) -> bool:
        """Whether the file at the path is still the one that was bound last."""
        try:
            status = os.lstat(self.path)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._identity

    def use_group(self, group: ControlGroup | None) -> None:
        """Gives the file to this group, or to none."""
        self.group = group
        if self.is_ours():
            self._give()

    def remove(self) -> None:
        """Removes the file; one that another program has created there meanwhile is left alone."""
        if self.is_ours():
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()

    def _listener(self, backlog: int) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            # The file is created with its final mode: a chmod afterwards would leave a gap.
            with _umask(0o177):
                listener.bind(os.fspath(self.path))
            listener.listen(backlog)
            listener.setblocking(False)
            status = os.lstat(self.path)
        except OSError:
            listener.close()
            raise
        self._identity = (status.st_dev, status.st_ino)
        if self.group is not None:
            self._give()
        return listener

    def _give(self) -> None:
        """Gives the bound file to the group. Where that is not permitted it keeps mode 0600, which
        is logged.
        """
        gid = os.getegid() if self.group is None else self.group.gid
        assert gid is not None
        try:
            # By a descriptor: whatever is at the path meanwhile, only our file changes.
            file = os.open(self.path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                status = os.fstat(file)
                if (status.st_dev, status.st_ino) != self._identity:
                    return
                ours = Path(f"/proc/self/fd/{file}")
                ours.chmod(PRIVATE)
                os.chown(ours, -1, gid)
                if self.group is not None:
                    ours.chmod(SHARED)
            finally:
                os.close(file)
        except OSError as error:
            text = "it stays with the daemon's user (mode 0600); allowed: a group that the daemon"
            logger.warning(
                "%s: cannot be given to %s, daemon.control_group: %s; %s is a member of,"
                " or CAP_CHOWN",
                self._name,
                self.group or f"gid {gid}",
                error.strerror,
                text,
            )


@contextlib.contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextlib.asynccontextmanager
async def _locked(path: Path, name: str) -> AsyncIterator[None]:
    """Holds the lock file of a socket, PATH.lock, which is removed afterwards.

    The file has mode 0600: a user who can open a file, or a directory in its place, can lock it and
    keep the daemon from starting.
    """
    lock = path.with_name(path.name + ".lock")
    deadline_at = asyncio.get_running_loop().time() + START_LOCK_S
    while (file := _try_lock(name, lock)) is None:
        if asyncio.get_running_loop().time() > deadline_at:
            raise ControlError(f"{name}: {lock} stays locked by another process")
        await asyncio.sleep(LOCK_RETRY_S)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            lock.unlink()  # before the lock ends: a start that waits for it sees that it is gone
        os.close(file)


def _try_lock(name: str, lock: Path) -> int | None:
    """The descriptor of the locked lock file; None: another process has it. Raises ControlError
    for a file that other users can open, and OSError.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    file = os.open(lock, flags, 0o600)
    try:
        status = os.fstat(file)
        if status.st_uid not in (os.geteuid(), 0) or status.st_mode & 0o077:
            owner = f"uid {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o}"
            text = f"{name}: {lock}: other users can lock this file ({owner})"
            raise ControlError(f"{text}; remove it")
        with contextlib.suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another start may have removed it between open and flock.
            if os.path.samestat(status, os.lstat(lock)):
                return file
    except BaseException:
        os.close(file)
        raise
    os.close(file)
    return None


def _remove_stale(path: Path, name: str, key: str) -> None:
    """Removes a socket file that no process listens on; raises if it is anything else."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        what = f"not a socket; remove it or choose another {key}"
        raise ControlError(f"{name}: there is a file that is {what}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            logger.info("%s: stale, replaced", name)
            return
        except BlockingIOError:
            # A full queue of connections: a process listens, though slowly.
            raise ControlInUse(f"{name} is in use by a running daemon") from None
        pid = peer_of(probe).pid
    raise ControlInUse(f"{name} is in use by a running daemon (pid {pid})")
