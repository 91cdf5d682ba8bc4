"""What a successor does in each phase of an upgrade.

It opens sockets of its own, builds the virtual hosts as they run, and changes nothing on this host;
then it goes on where the other daemon was. Must not know the order of the phases (succeeding), nor
how the other daemon came to its state.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from carp_fast import __version__
from carp_fast.closing import Closing
from carp_fast.control.protocol import ControlError
from carp_fast.daemon import upgrade_state
from carp_fast.daemon.locks import Locks
from carp_fast.daemon.process import StartError
from carp_fast.daemon.start import Known
from carp_fast.daemon.succeeding import Heir
from carp_fast.daemon.upgrade_messages import (
    CONTROL,
    HEAD,
    HOSTS,
    LOCKS,
    PID_FILE,
    STATE_BYTES_MAX,
    UpgradeError,
)
from carp_fast.daemon.upgrade_state import Head
from carp_fast.net.interfaces import absent, read_interfaces, without_marked
from carp_fast.programs.channel import close_all
from carp_fast.programs.memory import Sealed, SealError

if TYPE_CHECKING:
    from carp_fast.config.model import Configuration
    from carp_fast.control.server import ControlServer
    from carp_fast.daemon.hooks import Hooks
    from carp_fast.daemon.notify import Notify
    from carp_fast.daemon.opened import Opened
    from carp_fast.daemon.privileges import Privileges
    from carp_fast.daemon.table import Places

logger = logging.getLogger(__name__)

MS = 1_000_000


class Inheriting(Heir, Closing):
    """A daemon that succeeds another one. `configuration`: the one that runs.

    prepare() comes first, begin() after the commit. Before that the pump does not run, and what is
    posted to it waits.
    """

    def __init__(
        self,
        opened: Opened,
        configuration: Configuration,
        *,
        hooks: Hooks,
        notify: Notify,
        control: ControlServer,
        privileges: Privileges,
    ) -> None:
        self._opened = opened
        self._configuration = configuration
        self._hooks = hooks
        self._notify = notify
        self._control = control
        self._privileges = privileges
        self._locks: Locks | None = None
        self._pid_descriptor = -1
        self._head = Head()
        self._listener: socket.socket | None = None
        self._there: Known = {}

    def prepare(self, places: Places) -> None:
        """Builds the virtual hosts in these places, and follows their interfaces.

        Raises UpgradeError, StartError, HookError, LimitReached and LinkError.
        """
        opened = self._opened
        hosts, network = opened.hosts, opened.network
        opened.orders.hold()
        opened.load_functions(self._configuration)
        try:
            hosts.take_places(self._configuration.virtual_hosts, places)
        except ValueError as error:
            raise UpgradeError(str(error)) from error
        self._there = read_interfaces()
        # Our addresses there are not left from a crash: the engine will know of them.
        known = {
            name: without_marked(self._there.get(name) or absent(name))
            for name in hosts.used_names()
        }
        for name in hosts.used_names():
            network.on_interface(known[name])
        opened.orders.carry_out(opened.adder(slot, host) for slot, host in hosts.used())
        network.holding.on_hosts()
        opened.follow(hosts.used_names())
        try:
            opened.links.start(known)
        except OSError as error:
            raise StartError(f"cannot follow links: {error.strerror}") from error

    async def assume(self, state: Mapping[str, int]) -> None:
        """Goes on where the other daemon was; only the pump does not run yet. Raises UpgradeError,
        and the errors of what does not fit.
        """
        left = dict(state)
        try:
            with Sealed(left.pop(HEAD), STATE_BYTES_MAX) as memory:
                self._head = head = upgrade_state.decode(memory.view, Head)
            with Sealed(left.pop(HOSTS), STATE_BYTES_MAX) as memory:
                self._assume_engine(memory.view, head)
            if CONTROL in left:
                self._listener = socket.socket(fileno=left.pop(CONTROL))
            if LOCKS in left:
                self._take_locks(left.pop(LOCKS))
            self._pid_descriptor = left.pop(PID_FILE, -1)
        except (SealError, ValueError, OSError) as error:
            raise UpgradeError(str(error)) from error
        finally:
            close_all(left.values())
        self._go_on(head)

    def _take_locks(self, descriptor: int) -> None:
        """They last as long as one of both processes has the file open. Raises OSError."""
        privileges = self._privileges
        if privileges.locks is None:
            privileges.locks = Locks(descriptor=descriptor)
        else:
            privileges.locks.adopt(descriptor)
        self._locks = privileges.locks

    def close(self) -> None:
        """Closes what was passed on and not used, if it comes to no commit."""
        if self._listener is not None:
            self._listener.close()
        close_all([self._pid_descriptor])

    def _assume_engine(self, view: memoryview, head: Head) -> None:
        """Raises ValueError and UpgradeError."""
        opened = self._opened
        every = range(len(opened.hosts.hosts))
        if head.engine_bytes > len(view):
            raise UpgradeError(
                f"{len(view):,} bytes of {head.engine_bytes:,} of the engine's state"
            )
        with view[: head.engine_bytes] as part:
            placed = opened.pump.assume_state(part, slots=every)
        count = sum(host is not None for host in opened.hosts.hosts)
        if placed.hosts != count or placed.gone or placed.unheld or placed.added:
            raise UpgradeError(
                f"the engine's state has {placed.hosts:,} of {count:,} virtual hosts"
            )

    def _go_on(self, head: Head) -> None:
        """Goes on with what Python knows."""
        opened = self._opened
        opened.hosts.go_on(head.table)
        opened.in_use.go_on(head.in_use, self._locks)
        opened.reports.noted = head.noted
        opened.lost.go_on(head.lost)
        opened.demotions.go_on(head.demotions)
        opened.maintenance.go_on(head.maintenance)
        opened.status.started_at_ns = head.started_at_ns
        opened.receive.fallbacks = head.receive_fallbacks
        opened.upgrades = head.upgrades
        self._hooks.count_on(head.hooks)

    async def begin(self) -> None:
        """Begins, after the commit: the pump first, then all that others see of the daemon."""
        opened, head = self._opened, self._head
        opened.start_pump(self._configuration.daemon.pump)
        opened.upgrades.still_s = (time.monotonic_ns() - head.still_since_ns) / 1e9
        opened.orders.release()
        opened.network.inform_all()
        opened.lanes.go_on(head.sources)
        if self._pid_descriptor >= 0:
            self._privileges.pid.adopt(self._pid_descriptor)
            self._privileges.pid.rewrite()
            self._pid_descriptor = -1
        listener, self._listener = self._listener, None
        if listener is not None and head.control is not None:
            try:
                await self._control.adopt(head.control, listener)
            except ControlError as error:  # the daemon is not ended for that
                logger.error("%s", error)
        self._notify.go_on(self._configuration.daemon.notify, head.notify)
        opened.tracked.go_on(head.tracks, self._configuration, self._there)
        opened.follow(opened.hosts.used_names())
        await opened.tracked.apply()
        opened.maintenance.begin()
        opened.tap.start()
        logger.info(
            "carp-fast %s goes on for %s with %d virtual hosts; nothing was sent for %.1f ms",
            __version__,
            head.upgrades.from_version,
            sum(host is not None for host in opened.hosts.hosts),
            opened.upgrades.still_s * 1e3,
        )
