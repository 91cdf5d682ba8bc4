"""Becoming another user for good: what root opens before, the drop itself, and what stays allowed.

Must run before the second thread starts: the kernel keeps credentials for each thread. Must not
know why a user was chosen; that is in user.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from carp_fast.capabilities import Capability, bound_to, has_capability, keep_only, permitted
from carp_fast.closing import Closing
from carp_fast.daemon import landlock
from carp_fast.daemon.locks import LOCK_FILE, Locks, open_locks
from carp_fast.daemon.process import StartError, forbid_tracing
from carp_fast.daemon.traces import PidFile
from carp_fast.net.clones import interfaces_directory

if TYPE_CHECKING:
    from carp_fast.config.model import User

logger = logging.getLogger(__name__)

# What the daemon does with each is in docs/operating.md.
KEPT = frozenset({Capability.NET_RAW, Capability.NET_ADMIN, Capability.SYS_NICE})
KEPT_FOR_BPF = frozenset({Capability.BPF})
NEEDED = (Capability.SETUID, Capability.SETGID)
PR_SET_KEEPCAPS, PR_SET_NO_NEW_PRIVS = 8, 38
TASKS = Path("/proc/self/task")
THREADS_END_S = 5.0  # a thread writes log lines for a reader that was slow

_libc = ctypes.CDLL(None, use_errno=True)


class Privileges(Closing):
    """What the process is allowed, and holds from the time when it was allowed more.

    `user`: the one that it has become; None: it has the user that it was started with. `locks`:
    the open lock file, None if it could not be opened. `pid`: the file of `--pid-file`.
    `succeeds`: another process passes on both of them.
    `interfaces_fd`: the interfaces of this network namespace in sysfs, -1 if it was not opened.
    """

    def __init__(
        self,
        pid_file: Path | None = None,
        lock_file: Path = LOCK_FILE,
        *,
        succeeds: bool = False,
    ) -> None:
        self.user: User | None = None
        self.confined = False  # by Landlock
        self.locks: Locks | None = open_locks(lock_file)
        self.pid = PidFile(pid_file, comes=succeeds)
        self.interfaces_fd = -1

    def close(self) -> None:
        """Removes the pid file and releases every lock."""
        self.pid.close()
        if self.interfaces_fd >= 0:
            os.close(self.interfaces_fd)
            self.interfaces_fd = -1
        if self.locks is not None:
            self.locks.close()

    def drop_to(self, user: User, *, groups: Iterable[int], bpf: bool) -> None:
        """Becomes a user, see drop_to(). Raises StartError."""
        self.pid.open()
        # A sysfs of this namespace, where /sys shows another one, is for CAP_SYS_ADMIN alone.
        with contextlib.suppress(OSError):
            self.interfaces_fd = interfaces_directory()
        drop_to(user, groups=groups, bpf=bpf)
        self.user = user

    def confine(self, directories: Iterable[Path]) -> None:
        """Writes only in these directories from now on and executes nothing, where the kernel has
        Landlock.
        """
        try:
            known = landlock.restrict(dict.fromkeys(directories, landlock.KEEP_FILES))
        except OSError as error:
            logger.info("not confined: %s", landlock.refusal(error))
        else:
            self.confined = True
            logger.info("confined by Landlock (version %d): executes nothing", known)


def missing_for_drop() -> list[str]:
    """The capabilities that this process lacks for becoming another user, by their names."""
    return [each.text for each in NEEDED if not has_capability(each)]


def drop_to(user: User, *, groups: Iterable[int], bpf: bool) -> None:
    """Becomes a user, with the capabilities that the daemon goes on needing and it has.

    They cannot be regained: neither by a program, which no longer may have more (no_new_privs), nor
    from the bounding set. Debuggers of the user and core files are disabled. Raises StartError.
    """
    if missing := missing_for_drop():
        raise StartError(f"cannot become {user}: missing {' and '.join(missing)}")
    _await_single_thread()
    kept = permitted() & (KEPT | KEPT_FOR_BPF if bpf else KEPT)
    try:
        bound_to(kept)
        _prctl(PR_SET_KEEPCAPS, 1)
        os.setgroups(sorted(set(groups)))
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
        keep_only(kept)
        _prctl(PR_SET_KEEPCAPS, 0)
        _prctl(PR_SET_NO_NEW_PRIVS, 1)
    except OSError as error:
        raise StartError(f"cannot become {user}: {error.strerror}") from error
    forbid_tracing()  # another user than before: the kernel has forgotten it


def _await_single_thread() -> None:
    """Returns once there is one thread. Raises StartError if others do not end."""
    end_at = time.monotonic() + THREADS_END_S
    while (count := len(list(TASKS.iterdir()))) > 1:
        if time.monotonic() > end_at:
            raise StartError(f"cannot become another user: {count} threads run already")
        time.sleep(0.001)


def _prctl(option: int, argument: int) -> None:
    if _libc.prctl(option, argument, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
