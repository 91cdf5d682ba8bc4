"""Who may give which command: reading for a group, changing for root and the daemon's user.

A peer is what the kernel says that it was when it connected. Must not know what a command does.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

import msgspec

from carp_fast.config import accounts
from carp_fast.config.model import ControlGroup
from carp_fast.control.protocol import NOT_PERMITTED, ControlError, Peer, peer_groups

ROOT = 0


class Access(msgspec.Struct, frozen=True):
    """Whether a command changes anything: always, never, or as one of its arguments says.

    `argument`: its name, "" for none; `reading`: its values with which the command only reads.
    """

    reads: bool
    argument: str = ""
    reading: tuple[str, ...] = ()

    def changes(self, request: object | None) -> bool:
        """Whether this request changes anything; None, one with wrong arguments, may do so."""
        if self.argument and request is not None:
            return getattr(request, self.argument) not in self.reading
        return not self.reads

    def readable(self, command: str) -> list[str]:
        """The forms of a command that only read."""
        return [command] if self.reads else [f"{command} {value}" for value in self.reading]


READS, CHANGES = Access(reads=True), Access(reads=False)


def reads_if(argument: str, *values: str) -> Access:
    """The access of a command that only reads where this argument is one of the values."""
    return Access(False, argument, values)


def user_text(uid: int) -> str:
    """A user as messages name it: "alice (uid 1000)"."""
    if uid == accounts.overflow("uid"):
        return f"uid {uid} (unknown in this user namespace, or nobody)"
    name = accounts.local_user(uid)
    return f"uid {uid}" if name is None else f"{name} (uid {uid})"


class Permissions:
    """Decides about commands. `group`: its members may read; None: of no group.

    `commands`: the access of each command.
    """

    def __init__(self, group: ControlGroup | None, commands: Mapping[str, Access]) -> None:
        self.group = group
        self._commands = dict(commands)

    def check(self, peer: Peer, connection: socket.socket, command: str, *, changes: bool) -> None:
        """Raises ControlError where the user of a peer may not give a command."""
        if self._may_change(peer):
            return
        reader = self._may_read(peer, connection)
        if reader and not changes:
            return
        owner = os.geteuid()
        owners = "root" if owner == ROOT else f"root and {user_text(owner)}, the daemon's user"
        who = f"{user_text(peer.uid)} may not give the command {command}"
        if reader:
            text = f"only {owners} may change anything; allowed: {', '.join(self._readable())}"
        elif self.group is None:
            text = f"allowed: {owners}; daemon.control_group may name a group that may read"
        else:
            text = f"allowed: {owners}, and to read members of {self.group}, daemon.control_group"
        raise ControlError(f"{who}: {text}", code=NOT_PERMITTED)

    def _may_change(self, peer: Peer) -> bool:
        # The overflow uid stands for every user that is not mapped here: it proves nothing.
        return peer.uid in (ROOT, os.geteuid()) and peer.uid != accounts.overflow("uid")

    def _may_read(self, peer: Peer, connection: socket.socket) -> bool:
        if self.group is None or self.group.gid == accounts.overflow("gid"):
            return False
        if self.group.gid == peer.gid:
            return True
        try:
            return self.group.gid in peer_groups(connection)
        except OSError:
            return False

    def _readable(self) -> list[str]:
        every = (access.readable(command) for command, access in self._commands.items())
        return sorted(form for forms in every for form in forms)
