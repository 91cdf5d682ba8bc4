"""What a daemon and its successor send one another during an upgrade, in this order.

`Prepare`, `Ready`, `Transfer`, `Assumed`, `Commit`; the successor may send `Failed` in place of its
own. Fields that are missing have defaults, those that this version does not know are refused by
their names. A change that an older version must not ignore takes another PROTOCOL. Must not know
how any of it is carried out.
"""

from __future__ import annotations

from typing import ClassVar

from carp_fast.errors import CarpFastError
from carp_fast.programs.channel import Message

PROTOCOL = 1
"""The version of the messages and of the documents in memory that they carry."""

PREPARE_S = 60.0  # from the start of the successor's process until it is ready
FREEZE_S = 1.0  # until the pump stands still, besides waiting for hooks
TRANSFER_S = 1.0  # until the successor has assumed everything
# A successor waits for this long after it is ready, since hooks may run, and hooks have a limit of
# their own; and for the commit after it has assumed everything.
WAITING_S, COMMIT_S = 3_700.0, 10.0

FAULTS_MAX = 100  # lines of Failed; the others are counted
FAULT_LENGTH_MAX = 500
STATE_BYTES_MAX = 1 << 30  # of each memory that is passed on

CONTROL, LOCKS, PID_FILE = "control socket", "lock file", "pid file"
HEAD, HOSTS = "head", "virtual hosts"


class UpgradeError(CarpFastError):
    """Raised when an upgrade cannot go on; `faults` has a line for each fault if there are many."""

    def __init__(self, text: str, faults: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.faults = faults


class Prepare(Message, frozen=True):
    """Old to new: who it succeeds, and what runs. The memory has a `Running` (upgrade_state)."""

    carries: ClassVar[tuple[str, ...]] = ("running",)
    protocol: int
    version: str
    pid: int


class Ready(Message, frozen=True):
    """New to old: it has read and checked everything, and built its virtual hosts."""

    version: str


class Failed(Message, frozen=True):
    """New to old: it ends, since something is wrong: `faults` has at least one line."""

    faults: list[str]


class Transfer(Message, frozen=True):
    """Old to new: its state, while its pump stands still.

    `names`: what each of the descriptors is, HEAD and HOSTS among them.
    """

    names: tuple[str, ...] = ()

    @property
    def carried(self) -> tuple[str, ...]:
        """What each of the descriptors is."""
        return self.names


class Assumed(Message, frozen=True):
    """New to old: it has assumed everything, and begins as soon as it gets `Commit`."""


class Commit(Message, frozen=True):
    """Old to new: the old one will never send again. Its last message."""


FROM_OLD = Prepare | Transfer | Commit
FROM_NEW = Ready | Failed | Assumed


def failed(lines: list[str]) -> Failed:
    """The message about these faults, as far as they fit into one."""
    kept = [line[:FAULT_LENGTH_MAX] for line in lines[:FAULTS_MAX]]
    more = len(lines) - len(kept)
    return Failed([*kept, f"... and {more} more"] if more > 0 else kept or ["it failed"])
