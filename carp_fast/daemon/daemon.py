"""The daemon's life: prepared, opened, started, serving, leaving; the end of each phase undoes it.

`serve` is that life in order. Resources of a phase are closed when the phase ends, however it ends:
they are on one stack. Python never touches a packet.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from contextlib import AsyncExitStack
from functools import partial
from typing import NamedTuple

from carp_fast.config import load as config
from carp_fast.control.audit import INTERRUPTED, OK, log_change
from carp_fast.control.documents import counts_text
from carp_fast.control.protocol import ControlError
from carp_fast.control.requests import RecordRequest
from carp_fast.control.server import Answer, ControlServer
from carp_fast.daemon import start
from carp_fast.daemon.control_group import group_of
from carp_fast.daemon.feed import Feed
from carp_fast.daemon.groups import LimitReached
from carp_fast.daemon.hooks import HookError
from carp_fast.daemon.inheriting import Inheriting
from carp_fast.daemon.manner import Controls, Manner, Own
from carp_fast.daemon.measuring import Measuring
from carp_fast.daemon.metrics import Metrics
from carp_fast.daemon.notify import Notify
from carp_fast.daemon.opened import Opened
from carp_fast.daemon.orphans import reap_orphans
from carp_fast.daemon.overview import Overviews
from carp_fast.daemon.passing_on import PassingOn
from carp_fast.daemon.privileges import Privileges
from carp_fast.daemon.process import StartError, give_back_memory
from carp_fast.daemon.reloader import Reloader
from carp_fast.daemon.requests import Requests
from carp_fast.daemon.succeeding import Succession
from carp_fast.daemon.systemd import Systemd
from carp_fast.daemon.table import MASTER, Places
from carp_fast.daemon.traces import Held
from carp_fast.daemon.upgrade import UpgradeCommand
from carp_fast.daemon.upgrade_process import starter
from carp_fast.daemon.worker import Worker
from carp_fast.net.addresses import StateFile
from carp_fast.net.interfaces import LinkError
from carp_fast.privileged.client import PrivilegedHelper
from carp_fast.replay import recording as recordings
from carp_fast.signals import take_remembered

logger = logging.getLogger(__name__)

RESIGN_DEADLINE_S = 10.0
HOOKS_DEADLINE_S = 35.0


async def serve(
    configuration: config.Configuration,
    manner: Manner,
    systemd: Systemd,
    privileges: Privileges,
    helper: PrivilegedHelper | None,
    *,
    inheritance: Inheritance | None = None,
) -> None:
    """Starts, serves until stopped, resigns, ends. Raises StartError.

    `inheritance`: from a daemon that this one succeeds, in place of a start.
    """
    try:
        async with AsyncExitStack() as stack:
            if helper is not None:
                stack.enter_context(helper)
                helper.applied()
            stack.callback(systemd.close)
            worker = Worker()
            stack.callback(worker.shutdown)
            requests = Requests(wait=inheritance is not None)
            feed, held = Feed(), Held(None)
            control: ControlServer | None = None
            if manner.leaves_traces:
                held = Held(StateFile(configuration.daemon.state_directory, configuration.path))
                settings = configuration.daemon
                control = ControlServer(
                    settings.control_socket, requests.handlers, group_of(settings)
                )
                if inheritance is None:
                    await _start_control(control)
                stack.push_async_callback(control.stop)
                feed.subscribe(control.publish)
                feed.subscribe_tracks(control.publish_track)
            loop = asyncio.get_running_loop()
            opened = stack.enter_context(
                Opened(
                    loop,
                    configuration,
                    manner,
                    worker,
                    feed,
                    privileges=privileges,
                    launcher=helper,
                    succeeds=inheritance is not None,
                )
            )
            stack.enter_context(requests)
            notify = Notify(loop, helper)
            stack.push_async_callback(notify.stop)
            feed.subscribe(notify.send)
            daemon = Daemon(
                opened,
                configuration,
                manner=manner,
                systemd=systemd,
                requests=requests,
                held=held,
                notify=notify,
                control=control,
                privileges=privileges,
                helper=helper,
                feed=feed,
            )
            stack.push_async_callback(daemon.stop_measuring)
            await daemon.begin(stack, inheritance)
            await daemon.stopping.wait()
    except (LinkError, LimitReached, HookError) as error:
        raise StartError(str(error)) from error


async def _start_control(control: ControlServer) -> None:
    try:
        await control.start()
    except ControlError as error:
        raise StartError(str(error)) from error


async def _refuse(request: object) -> Answer:
    raise ControlError("this daemon has no control socket")


class Inheritance(NamedTuple):
    """What a daemon begins with that succeeds another one."""

    succession: Succession
    places: Places


class Daemon:
    """A daemon whose sockets are open: its start, what it does while it serves, and its end.

    begin() calls prepare, run_pump and start, in this order; for one that succeeds another daemon
    inherit and succeed. leave() follows. Setting `stopping` ends the daemon.
    """

    def __init__(
        self,
        opened: Opened,
        configuration: config.Configuration,
        *,
        manner: Manner,
        systemd: Systemd,
        requests: Requests,
        held: Held,
        notify: Notify,
        control: ControlServer | None,
        privileges: Privileges,
        helper: PrivilegedHelper | None,
        feed: Feed,
    ) -> None:
        self._opened = opened
        self._configuration = configuration  # the initial one; the reloader has the running one
        self._manner = manner
        self._systemd = systemd
        self._requests = requests
        self._held = held
        self._notify = notify
        self.stopping = asyncio.Event()
        self._reload_wanted = False
        self._reloader = Reloader(
            opened,
            configuration,
            self.stopping,
            manner=manner,
            held=held,
            notify=notify,
            systemd=systemd,
            control=control,
            privileges=privileges,
            helper=helper,
        )
        self._control = control
        self._privileges = privileges
        self._helper = helper
        self._farewell = ""  # once another process is the daemon
        self._heir: Inheriting | None = None
        self._upgrade: UpgradeCommand | None = None
        if control is not None:
            opened.status.control = lambda: control.status
            self._upgrade = self._upgrades(control)
        if helper is not None:
            opened.status.helper = lambda: helper.state
        self._metrics: Metrics | None = None
        self._overviews: Overviews | None = None
        if isinstance(manner, Own):
            reloader = self._reloader
            measuring = Measuring(
                opened, manner.hooks, reloader.outcome, lambda: reloader.configuration
            )
            overviews = self._overviews = Overviews(opened, measuring, feed)
            self._metrics = reloader.metrics = Metrics(opened, measuring, overviews, feed)
        self._controls = Controls(
            stop=self.stopping.set,
            reload=self._on_reload_wanted,
            log_summary=opened.log_summary,
            in_background=opened.background.run,
            orders=opened.orders,
            prepare=opened.prepare,
        )

    async def stop_measuring(self) -> None:
        """Ends the metrics, and what is measured for them or for anybody else."""
        if self._metrics is not None:
            await self._metrics.stop()

    async def begin(self, stack: AsyncExitStack, inheritance: Inheritance | None) -> None:
        """Starts, or succeeds another daemon; has the stack leave in order once that is due."""
        if inheritance is not None:
            await self.inherit(inheritance)
            stack.push_async_callback(self.leave)
            await self.succeed()
            return
        known = self.prepare()
        self._privileges.pid.write()
        self.run_pump()
        stack.push_async_callback(self.leave)
        await self.start(known)

    # -- opened: an error changes nothing on the host

    def prepare(self) -> start.Known:
        """Installs the signal handlers, takes the virtual hosts, removes what a crash left.

        Returns what is known of their interfaces. Raises StartError, HookError, LimitReached and
        LinkError.
        """
        self._handle_signals()
        self._manner.on_starting()
        return start.take_hosts(self._opened, self._configuration, self._held)

    def _handle_signals(self) -> None:
        """Handles signals from now on, and those that have arrived before."""
        loop = asyncio.get_running_loop()
        actions = self._manner.signals(self._controls)
        for number, action in actions.items():
            loop.add_signal_handler(number, action)
        for number in take_remembered():
            if number in actions:
                loop.call_soon(actions[number])

    async def inherit(self, inheritance: Inheritance) -> None:
        """Prepares to succeed another daemon, and returns with its commit.

        Until then an error or a signal ends this process, which has changed nothing. Raises
        UpgradeError, StartError, HookError, LimitReached and LinkError.
        """
        assert self._control is not None
        assert isinstance(self._manner, Own)
        succession = inheritance.succession
        logger.info("to succeed carp-fast %s (pid %d)", succession.version, succession.pid)
        start.log_configuration(self._opened, self._configuration)
        self._heir = Inheriting(
            self._opened,
            self._configuration,
            hooks=self._manner.hooks,
            notify=self._notify,
            control=self._control,
            privileges=self._privileges,
        )
        self._heir.prepare(inheritance.places)
        self._settle()
        await succession.succeed(self._heir)

    # -- another daemon is succeeded: virtual hosts may be MASTER, so leave() has to follow

    async def succeed(self) -> None:
        """Begins where the other daemon was, then answers requests, then reloads."""
        assert self._heir is not None
        await self._heir.begin()
        self._handle_signals()
        await self._serve_requests()
        self._opened.background.run(self._reload_after_upgrade())

    async def _reload_after_upgrade(self) -> None:
        """Applies what has changed in the configuration since the other daemon read it."""
        upgrades = self._opened.upgrades
        try:
            done = await self._reloader.run()
            upgrades.reload = counts_text(
                done.added, done.removed, done.altered, done.keys, done.kept
            )
        except ControlError as error:
            logger.error("reload after the upgrade: nothing was changed: %s", error)
            upgrades.reload = f"nothing was changed: {error}"

    # -- started: virtual hosts may be MASTER, so leave() has to follow

    def run_pump(self) -> None:
        """Starts the pump, which inherits this thread's priority, then the `notify` program."""
        self._opened.start_pump(self._configuration.daemon.pump)
        self._notify.start(self._configuration.daemon.notify)

    async def start(self, known: start.Known) -> None:
        """Adds every virtual host, then answers requests. Raises StartError."""
        await start.add_hosts(self._opened, known)
        self._opened.maintenance.begin()
        self._settle()
        await self._serve_requests()

    def _settle(self) -> None:
        """Gives back what the start needed."""
        gc.collect()
        gc.freeze()  # garbage collections need not visit what was loaded
        give_back_memory()

    async def _serve_requests(self) -> None:
        opened, demotions = self._opened, self._opened.demotions
        upgrade, overviews = self._upgrade, self._overviews
        self._requests.serve(
            {
                "status": self._opened.status.answer,
                "overview": _refuse if overviews is None else overviews.answer,
                "explain": self._opened.explanations.answer,
                "reload": self._reloader.answer,
                "demote": partial(demotions.demote, hosts=opened.hosts, orders=opened.orders),
                "undemote": partial(demotions.undemote, hosts=opened.hosts, orders=opened.orders),
                "yield": opened.hand_overs.yields,
                "preempt": opened.hand_overs.preempts,
                "maintenance": opened.maintenance.answer,
                "record": self._record,
                "upgrade": _refuse if upgrade is None else upgrade.answer,
            }
        )
        if self._metrics is not None:
            await self._metrics.use(self._configuration.daemon)
        self._systemd.ready(f"{len(self._configuration.virtual_hosts)} virtual hosts")
        interval_s = self._systemd.watchdog_interval_s()
        if interval_s:
            self._opened.background.run(self._watch(interval_s))
        if os.getpid() == 1:
            self._opened.background.run(reap_orphans())
        self._manner.on_started(self._controls)

    # -- serving

    def _upgrades(self, control: ControlServer) -> UpgradeCommand | None:
        manner = self._manner
        if not isinstance(manner, Own):
            return None
        passing_on = PassingOn(
            self._opened,
            configuration=lambda: self._reloader.configuration,
            hooks=manner.hooks,
            notify=self._notify,
            systemd=self._systemd,
            control=control,
            privileges=self._privileges,
            on_passed_on=self._on_passed_on,
        )
        return UpgradeCommand(
            passing_on,
            starter(self._privileges, self._helper, self._systemd.environment),
            reloader=self._reloader,
            systemd=self._systemd,
            stopping=self.stopping.is_set,
        )

    def _on_passed_on(self, why: str) -> None:
        self._farewell = why
        self.stopping.set()

    async def _watch(self, interval_s: float) -> None:
        """Notifies systemd every `interval_s`, after the pump has answered."""
        while True:
            await self._opened.orders.done()
            self._systemd.watchdog()
            await asyncio.sleep(interval_s)

    async def _record(self, request: RecordRequest) -> Answer:
        opened = self._opened
        if not opened.record_capacity:
            raise ControlError("nothing is recorded: daemon.record is 0")
        return await recordings.answer(request, opened.hosts, opened.orders, opened.worker)

    def _on_reload_wanted(self) -> None:
        """Reloads because of a signal; further signals until it begins ask for the same reload."""
        if not self._reload_wanted:
            self._reload_wanted = True
            self._opened.background.run(self._reload())

    async def _reload(self) -> None:
        """Reloads once the daemon serves; errors are logged."""
        await self._requests.served()
        outcome = INTERRUPTED
        try:
            await self._reloader.run(on_begin=self._on_reload_begun)
            outcome = OK
        except ControlError as error:
            logger.error("reload: nothing was changed: %s", error)
            outcome = f"refused: {error}"
        finally:
            log_change("SIGHUP, its sender is not known", "reload", outcome)

    def _on_reload_begun(self) -> None:
        self._reload_wanted = False

    # -- leaving

    async def leave(self) -> None:
        """Every MASTER removes its addresses, then resigns; the down hooks run."""
        opened = self._opened
        if self._upgrade is not None:
            await self._upgrade.abort()
        if self._farewell:
            await self._leave_to_successor()
            return
        await self._manner.on_leaving(self._controls)
        self._systemd.stopping("resigning")
        logger.info("stopping: resigning")
        try:  # a reload that is being applied must not add anything afterwards
            await asyncio.wait_for(self._reloader.ended(), RESIGN_DEADLINE_S)
        except TimeoutError:
            logger.error("the reload takes longer than %d s, not waiting for it", RESIGN_DEADLINE_S)
        opened.links.stop()
        opened.tracked.close()
        states = opened.hosts.states
        masters = states.count(MASTER)
        try:
            async with asyncio.timeout(RESIGN_DEADLINE_S):
                await opened.orders.room_for(1)
                opened.pump.resign_all()
                await opened.orders.done(when_settled=True)
        except TimeoutError:
            logger.error("resigning took longer than %d s, given up", RESIGN_DEADLINE_S)
        opened.host_log.flush()
        logger.info("resigned: %d of %d MASTER", masters - states.count(MASTER), masters)
        left = await opened.hooks.drain(HOOKS_DEADLINE_S)
        if left:
            logger.error("still running at the end: %d hooks, the first is %s", len(left), left[0])

    async def _leave_to_successor(self) -> None:
        """Ends without leaving anything: another process has all that was MASTER here."""
        self._opened.links.stop()
        self._opened.tracked.close()
        self._privileges.pid.leave()
        assert self._control is not None
        await self._control.leave(self._farewell)
