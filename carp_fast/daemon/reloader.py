"""Reloads of the configuration: it is read again, checked and applied, one reload at a time.

reload.py decides what differs and which orders follow; this module changes the running daemon. Must
not know who requests a reload.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from carp_fast.config import load as config
from carp_fast.control.documents import Reloaded
from carp_fast.control.protocol import ControlError
from carp_fast.control.requests import ReloadRequest
from carp_fast.daemon import present, reload
from carp_fast.daemon.control_group import group_of
from carp_fast.daemon.groups import LimitReached
from carp_fast.daemon.hooks import HookError
from carp_fast.daemon.measuring import Reloads
from carp_fast.daemon.process import StartError, give_back_memory, require_capabilities
from carp_fast.daemon.table import by_interface
from carp_fast.daemon.user import has_functions, needs_root
from carp_fast.daemon.worker import Worker
from carp_fast.privileged.start import HelperError

if TYPE_CHECKING:
    from carp_fast.control.server import ControlServer
    from carp_fast.daemon.manner import Manner
    from carp_fast.daemon.metrics import Metrics
    from carp_fast.daemon.notify import Notify
    from carp_fast.daemon.opened import Opened
    from carp_fast.daemon.privileges import Privileges
    from carp_fast.daemon.systemd import Systemd
    from carp_fast.daemon.traces import Held
    from carp_fast.privileged.client import PrivilegedHelper

logger = logging.getLogger(__name__)

READ_DEADLINE_S = 120.0  # for the files of a configuration, on a server that may not answer
TOO_LONG = f"reading the configuration takes longer than {READ_DEADLINE_S:g} s"

Argument = TypeVar("Argument")
Result = TypeVar("Result")


class Reloader:
    """Makes a new configuration the running one. `configuration` is the running one.

    Once `stopping` is set, reloads are refused; one that is being applied is finished.
    """

    def __init__(
        self,
        opened: Opened,
        configuration: config.Configuration,
        stopping: asyncio.Event,
        *,
        manner: Manner,
        held: Held,
        notify: Notify,
        systemd: Systemd,
        control: ControlServer | None,
        privileges: Privileges,
        helper: PrivilegedHelper | None,
    ) -> None:
        self.configuration = configuration
        self.outcome = Reloads()
        self.metrics: Metrics | None = None
        self._opened = opened
        self._stopping = stopping
        self._manner = manner
        self._held = held
        self._notify = notify
        self._systemd = systemd
        self._control = control
        self._privileges = privileges
        self._helper = helper
        self._reader = Worker()  # a thread that may hang: not for other work
        self._reloading = asyncio.Lock()
        self._refused = ""  # why reloads by request are refused
        self._applying = asyncio.Lock()  # held during changes, and from the end on

    @asynccontextmanager
    async def held_back(self, why: str) -> AsyncIterator[None]:
        """Reloads by request are refused, and others wait; begins when none is under way."""
        async with self._reloading:
            self._refused = why
            try:
                yield
            finally:
                self._refused = ""

    async def ended(self) -> None:
        """Waits until no reload is being applied, and prevents any further one."""
        await self._applying.acquire()

    async def answer(self, request: ReloadRequest) -> Reloaded:
        """Reads the configuration again and applies it; a fault changes nothing.

        `force`: also if that looks like an accident, see refusals() in reload. Raises ControlError.
        """
        if self._refused:
            raise ControlError(self._refused)
        return await self.run(force=request.force)

    async def run(
        self, *, force: bool = False, on_begin: Callable[[], None] = lambda: None
    ) -> Reloaded:
        """Does what answer() does; `on_begin` is called when earlier reloads have ended."""
        if self._stopping.is_set():
            raise ControlError("the daemon is starting or ending")
        failed = ""
        loop = asyncio.get_running_loop()
        async with self._reloading:
            on_begin()
            begin = loop.time()
            self._systemd.reloading()
            try:
                difference, lines = await self._reload(force)
                self.outcome.note(succeeded=True)
            except ControlError as error:
                self.outcome.note(succeeded=False)
                failed = f"; the last reload changed nothing: {error}"
                raise
            finally:
                count = len(self.configuration.virtual_hosts)
                self._systemd.ready(f"{count} virtual hosts{failed}")
            seconds = loop.time() - begin
            give_back_memory()
        return reload.report(difference, lines, seconds)

    async def _reload(self, force: bool) -> tuple[reload.Difference, list[str]]:
        new = await self._read_again()
        hosts = self._opened.hosts
        async with self._applying:
            if self._stopping.is_set():
                raise ControlError("the daemon is ending")
            lines = reload.daemon_changes(self.configuration.daemon, new.daemon)
            difference = reload.compare(hosts, new)
            found = reload.refusals(self.configuration, new, difference, hosts)
            if found and not force:
                raise ControlError(f"refused: {'; '.join(found)}; to do it: {reload.FORCED}")
            for line in found:
                logger.warning("forced: %s", line)
            self._make_room(difference, new)
            lines += await self._apply(difference, new)
            await self._opened.demotions.order_all(hosts, self._opened.orders)
            try:
                self._held.write(by_interface(new.virtual_hosts), hosts.going())
            except StartError as error:  # the file names too many addresses, never too few
                logger.error("%s", error)
        return difference, lines

    async def _read_again(self) -> config.Configuration:
        """The configuration as the files have it now. Raises ControlError with its faults."""
        try:
            new = await self._read_files()
            self._refuse_what_needs_root(new)
            self._opened.load_functions(new)
            there = await self._read(present.of_this_host, new)
        except config.ConfigurationError as error:
            for fault in error.faults:
                logger.error("reload: %s", fault)
            text = f"{len(error.faults)} faults in the configuration"
            raise ControlError(text, [str(fault) for fault in error.faults]) from error
        except (HookError, HelperError) as error:
            raise ControlError(str(error)) from error
        for warning in (*new.warnings, *there):
            logger.warning("%s", warning)
        return new

    def _refuse_what_needs_root(self, new: config.Configuration) -> None:
        """Raises ControlError for what a daemon that has become another user cannot do."""
        user = self._privileges.user
        if user is None:
            return
        lacking = list(needs_root(new))
        if self._privileges.confined and has_functions(new):
            lacking.append("hooks that are functions could neither write nor execute anything")
        if lacking:
            text = f"the daemon is {user}: {'; '.join(lacking)}"
            raise ControlError(f'{text}; allowed: a restart with daemon.user = "root"')

    async def _read_files(self) -> config.Configuration:
        """Has the helper read the files, or reads them. Raises as that does, and ControlError."""
        if self._helper is None:
            return await self._read(config.load_settled, self.configuration.path)
        try:
            return await asyncio.wait_for(self._helper.load(), READ_DEADLINE_S)
        except TimeoutError:
            raise ControlError(TOO_LONG) from None

    async def _read(self, read: Callable[[Argument], Result], argument: Argument) -> Result:
        """Calls a function that reads, in the reader's thread. Raises ControlError after a
        deadline.
        """
        work = asyncio.get_running_loop().run_in_executor(self._reader, read, argument)
        try:
            return await asyncio.wait_for(work, READ_DEADLINE_S)
        except TimeoutError:
            self._reader.give_up()
            raise ControlError(TOO_LONG) from None

    def _make_room(self, difference: reload.Difference, new: config.Configuration) -> None:
        """Checks and reserves what the new virtual hosts need. Raises ControlError."""
        try:
            require_capabilities(managing=bool(by_interface(new.virtual_hosts)))
            self._opened.hosts.check_room(difference.added, len(difference.removed))
            self._opened.hosts.demotion_groups.number_all(new.virtual_hosts)
            self._held.write(
                by_interface(self.configuration.virtual_hosts), by_interface(new.virtual_hosts)
            )
            self._opened.unicast.open_for(new.virtual_hosts)
        except (LimitReached, StartError) as error:
            raise ControlError(str(error)) from error
        except OSError as error:
            raise ControlError(f"cannot open a socket: {error.strerror}") from error

    async def _apply(self, difference: reload.Difference, new: config.Configuration) -> list[str]:
        """Makes the changes; returns a line for each of a track."""
        opened = self._opened
        hosts, orders, pump, in_use = opened.hosts, opened.orders, opened.pump, opened.in_use
        lines = opened.tracked.reload(new)
        grace_ns = int(new.daemon.digest_grace_s * 1e9)
        for slot, now, _ in difference.replaced:
            in_use.on_replace(slot, now)
        # Those that leave report it, as well as those that come.
        await opened.grow_reports(len(difference.removed) + len(new.virtual_hosts))
        await orders.give(reload.orders(difference, hosts, pump, opened.prepare, grace_ns))
        hosts.forget_former()
        # Resignations and removed addresses first: then their slots and addresses are free.
        await orders.done(when_settled=True)
        await orders.give(partial(pump.verify, slot) for slot in reload.moved(difference))
        await orders.give(
            reload.additions(difference, hosts, opened.add, opened.prepare, in_use.take_new)
        )
        await opened.tracked.apply()
        opened.network.on_reload()
        opened.reports.on_reload()
        opened.follow(hosts.used_names())
        self._manner.on_reload(new.daemon)
        opened.maintenance.rate = new.daemon.maintenance_rate
        if self._control is not None:
            self._control.use_group(group_of(new.daemon))
        if self.metrics is not None:
            lines += await self.metrics.use(new.daemon)
        if new.daemon.notify != self.configuration.daemon.notify:
            await self._notify.stop()
            self._notify.start(new.daemon.notify)
        self.configuration = new
        if self._helper is not None:
            self._helper.applied()
        return lines
