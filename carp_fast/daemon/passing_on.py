"""What the daemon that is succeeded does in each phase of an upgrade.

Before the pump stands still, all is ended that must not be cut in two: commands that change
something, hooks, ways into maintenance, reloads. Must not know the order of the phases (upgrading),
nor what the successor does with the state.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from carp_fast import __version__
from carp_fast.control.protocol import ControlError
from carp_fast.daemon import upgrade_messages as messages
from carp_fast.daemon import upgrade_state
from carp_fast.daemon.upgrade_messages import CONTROL, HEAD, HOSTS, LOCKS, PID_FILE, UpgradeError
from carp_fast.daemon.upgrade_room import shortage
from carp_fast.daemon.upgrade_state import Head
from carp_fast.daemon.upgrades import Upgrades
from carp_fast.daemon.upgrading import Predecessor
from carp_fast.programs.channel import close_all
from carp_fast.programs.memory import filled, sealed

if TYPE_CHECKING:
    from carp_fast.config.model import Configuration
    from carp_fast.control.server import ControlServer
    from carp_fast.daemon.hooks import Hooks
    from carp_fast.daemon.notify import Notify
    from carp_fast.daemon.opened import Opened
    from carp_fast.daemon.privileges import Privileges
    from carp_fast.daemon.systemd import Systemd

logger = logging.getLogger(__name__)

AGAIN_S = 0.02  # between attempts to find nothing under way
SHARED_WHY = "a successor listens, too"


class PassingOn(Predecessor):
    """The running daemon. `configuration` returns the running one, which stays until the end.

    `on_passed_on` is called once another process has everything.
    """

    def __init__(
        self,
        opened: Opened,
        *,
        configuration: Callable[[], Configuration],
        hooks: Hooks,
        notify: Notify,
        systemd: Systemd,
        control: ControlServer,
        privileges: Privileges,
        on_passed_on: Callable[[str], None],
    ) -> None:
        self._opened = opened
        self._configuration = configuration
        self._hooks = hooks
        self._notify = notify
        self._systemd = systemd
        self._control = control
        self._privileges = privileges
        self._on_passed_on = on_passed_on
        self._frozen = False
        self._still_since_ns = 0

    def check(self) -> None:
        """Raises UpgradeError where it is known that an upgrade cannot succeed."""
        if os.getpid() == 1:
            text = "this process is pid 1, and its end would end every process of its container"
            raise UpgradeError(f"{text}; restart the container instead")
        if why := shortage():
            raise UpgradeError(why)

    def running(self) -> int:
        """A descriptor of sealed memory with what runs."""
        hosts = self._opened.hosts
        if hosts.leaving:
            count = f"{len(hosts.leaving)} virtual hosts that a reload has removed"
            raise UpgradeError(f"{count} have not given up their addresses yet; try again")
        configuration = self._configuration()
        places = hosts.places(configuration.virtual_hosts)
        running = upgrade_state.running(configuration, places)
        return sealed("carp-fast-running", [upgrade_state.encode(running)])

    async def freeze(self) -> None:
        """Stands still once nothing is under way. Raises UpgradeError."""
        limit_s = self._hooks.timeout_s + messages.FREEZE_S
        loop = asyncio.get_running_loop()
        until = loop.time() + limit_s
        try:
            await self._control.pause(limit_s)
        except ControlError as error:
            raise UpgradeError(str(error)) from error
        await self._notify.pause()
        self._opened.lanes.share_all(SHARED_WHY)  # it gets what comes after our last look
        while True:
            if left := await self._hooks.drain(max(0.0, until - loop.time())):
                raise UpgradeError(f"{len(left)} hooks still run, the first is {left[0]}")
            under_way = self._under_way() or self._stand_still()
            if not under_way:
                return
            if loop.time() >= until:
                raise UpgradeError(f"{under_way}, still after {limit_s:g} s")
            await asyncio.sleep(AGAIN_S)

    def _under_way(self) -> str:
        """What must not be cut in two; "" if there is nothing."""
        opened = self._opened
        if opened.maintenance.moving:
            return "virtual hosts are on the way into maintenance, or back"
        if opened.tracked.ordering or opened.orders.backlog:
            return "orders are being given"
        if opened.network.leaving:
            return "an interface that was renamed is being left"
        if opened.reports.reading_states:
            return "the states are read again"
        return ""

    def _stand_still(self) -> str:
        """Freezes the pump and takes all that it has reported; why that is not the end, or ""."""
        opened = self._opened
        self._still_since_ns = time.monotonic_ns()
        try:
            opened.pump.freeze(messages.FREEZE_S)
        except (OSError, RuntimeError, TimeoutError) as error:
            raise UpgradeError(f"the pump does not stand still: {error}") from error
        self._frozen = True
        while opened.reports.on_readable():
            pass
        why = self._under_way() or ("" if self._hooks.idle else "a hook is due")
        if why:  # a report has asked for more
            self._go_on()
        return why

    def _go_on(self) -> None:
        self._frozen = False
        self._opened.pump.resume()

    def state(self) -> list[tuple[str, int]]:
        """(what it is, descriptor) of the whole state."""
        opened = self._opened
        found: list[tuple[str, int]] = []
        try:
            written = 0

            def fill(view: memoryview) -> None:
                nonlocal written
                written = opened.pump.export_state(view)

            try:
                hosts = filled("carp-fast-hosts", opened.pump.state_size(), fill)
            except ValueError as error:
                raise UpgradeError(f"the engine's state: {error}") from error
            found.append((HOSTS, hosts))
            passed_on = self._control.passed_on()
            head = self._head(written)
            if passed_on is not None:
                head.control, listener = passed_on
                found.append((CONTROL, os.dup(listener)))
            if opened.in_use.descriptor is not None:
                found.append((LOCKS, os.dup(opened.in_use.descriptor)))
            if self._privileges.pid.fileno() >= 0:
                found.append((PID_FILE, os.dup(self._privileges.pid.fileno())))
            found.append((HEAD, sealed("carp-fast-head", [upgrade_state.encode(head)])))
        except BaseException:
            close_all(descriptor for _, descriptor in found)
            raise
        return found

    def _head(self, engine_bytes: int) -> Head:
        opened, before = self._opened, self._opened.upgrades
        now_ns = time.monotonic_ns()
        return Head(
            still_since_ns=self._still_since_ns,
            engine_bytes=engine_bytes,
            started_at_ns=opened.status.started_at_ns,
            upgrades=Upgrades(before.count + 1, __version__, now_ns),
            table=opened.hosts.state,
            noted=opened.reports.noted,
            lost=opened.lost.state,
            sources=opened.lanes.sources,
            in_use=opened.in_use.state,
            demotions=opened.demotions.state,
            maintenance=opened.maintenance.kept_state,
            tracks=opened.tracked.state,
            hooks=self._hooks.counters,
            notify=self._notify.waiting,
            receive_fallbacks=opened.receive.fallbacks,
        )

    async def resume(self) -> None:
        """Goes on, as before freeze(), whatever of that was done."""
        if self._frozen:
            self._go_on()
        self._opened.lanes.share_all(None)
        self._notify.resume()
        await self._control.resume()

    def on_committed(self, successor: int, version: str) -> None:
        """Ends without leaving anything."""
        self._systemd.succeeded_by(successor)
        self._on_passed_on(
            f"the daemon was upgraded to carp-fast {version} (pid {successor}): connect again"
        )
