"""The group whose members may read by the control socket: the configured one, or the usual one.

Must not know the socket.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from carp_fast.capabilities import Capability, has_capability
from carp_fast.config.accounts import local_group
from carp_fast.config.model import ControlGroup

if TYPE_CHECKING:
    from carp_fast.config.load import Configuration, Daemon

USUAL_GROUP = "carp-fast"


def group_of(settings: Daemon) -> ControlGroup | None:
    """The group; None: nobody but root and the daemon's user may read."""
    group = settings.control_group
    if group is None:
        gid = local_group(USUAL_GROUP)
        return None if gid is None else ControlGroup(USUAL_GROUP, gid)
    return None if group.gid is None else group


def doubts(configuration: Configuration) -> Iterator[str]:
    """A warning if a daemon with the rights of this process cannot give its socket to the group."""
    group = group_of(configuration.daemon)
    # Run by another user, this process has not the rights that the daemon will have.
    if group is None or os.geteuid() != 0 or has_capability(Capability.CHOWN):
        return
    if group.gid not in (os.getegid(), *os.getgroups()):
        text = "allowed: a group that the daemon is a member of (SupplementaryGroups= in a unit)"
        yield (
            f"{configuration.path}: daemon: control_group: without CAP_CHOWN the control socket"
            f" cannot be given to {group}, and stays with root (mode 0600); {text}"
        )
