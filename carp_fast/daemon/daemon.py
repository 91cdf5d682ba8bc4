"""The daemon's life: prepared, opened, started, serving, leaving; the end of each phase undoes it.

`serve` is that life in order. Resources of a phase are closed when the phase ends, however it ends:
they are on one stack. Python never touches a packet.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from functools import partial
from pathlib import Path

import uvloop

from carp_fast.config import load as config
from carp_fast.control.audit import INTERRUPTED, OK, log_change
from carp_fast.control.protocol import ControlError
from carp_fast.control.requests import RecordRequest
from carp_fast.control.server import Answer, ControlServer
from carp_fast.daemon import start
from carp_fast.daemon.control_group import group_of
from carp_fast.daemon.feed import Feed
from carp_fast.daemon.groups import LimitReached
from carp_fast.daemon.hooks import HookError, Hooks
from carp_fast.daemon.host_log import HostLog
from carp_fast.daemon.manner import Controls, Manner, Own
from carp_fast.daemon.measuring import Measuring
from carp_fast.daemon.metrics import Metrics
from carp_fast.daemon.notify import Notify
from carp_fast.daemon.opened import Opened
from carp_fast.daemon.orphans import reap_orphans
from carp_fast.daemon.privileges import Privileges
from carp_fast.daemon.process import (
    StartError,
    forbid_core_files,
    forbid_tracing,
    give_back_memory,
    require_capabilities,
    share_memory,
)
from carp_fast.daemon.reloader import Reloader
from carp_fast.daemon.requests import Requests
from carp_fast.daemon.systemd import Systemd
from carp_fast.daemon.table import MASTER, by_interface
from carp_fast.daemon.traces import Held
from carp_fast.daemon.user import leave_root
from carp_fast.daemon.worker import Worker
from carp_fast.net.addresses import StateFile
from carp_fast.net.interfaces import LinkError
from carp_fast.privileged.client import PrivilegedHelper
from carp_fast.privileged.start import HelperError, Started
from carp_fast.privileged.start import take as take_started
from carp_fast.replay import recording as recordings
from carp_fast.signals import inherit_nothing, take_remembered

__all__ = ["StartError", "launch", "run"]

logger = logging.getLogger(__name__)

RESIGN_DEADLINE_S = 10.0
HOOKS_DEADLINE_S = 35.0


def run(path: Path, pid_file: Path | None = None) -> int:
    """Reads the configuration and runs until SIGTERM or SIGINT; returns the exit code.

    Raises ConfigurationError and StartError before anything was changed.
    """
    inherit_nothing()
    forbid_core_files()
    forbid_tracing()
    share_memory()
    with ExitStack() as stack:
        helper = open_helper(take_started)
        if helper is None:
            configuration = config.load_settled(path)
        else:
            stack.enter_context(helper)
            with refused_as_start_error():
                configuration = helper.load_first(path)
        require_capabilities(managing=bool(by_interface(configuration.virtual_hosts)))
        limits = configuration.daemon.hook_concurrency, configuration.daemon.hook_timeout_s
        privileges = stack.enter_context(leave_root(configuration, pid_file))
        launch(
            configuration,
            lambda loop: Own(Hooks(loop, *limits, launcher=helper), HostLog(loop.call_later)),
            privileges,
            helper,
        )
    return 0


def open_helper(begin: Callable[[], Started | None]) -> PrivilegedHelper | None:
    """The privileged helper that `begin` starts, or has started; None: there is to be none.

    Raises StartError.
    """
    with refused_as_start_error():
        started = begin()
    return None if started is None else PrivilegedHelper(started)


@contextmanager
def refused_as_start_error() -> Iterator[None]:
    """Raises StartError in place of HelperError."""
    try:
        yield
    except HelperError as error:
        raise StartError(str(error)) from error


def launch(
    configuration: config.Configuration,
    manner: Callable[[asyncio.AbstractEventLoop], Manner],
    privileges: Privileges,
    helper: PrivilegedHelper | None = None,
) -> None:
    """Runs a daemon on its own event loop until it is stopped. Raises StartError.

    `helper`: starts its programs and reads its configuration again; without one it does so itself.
    """
    try:
        loop = uvloop.new_event_loop()
    except OSError as error:
        raise StartError(f"cannot create the event loop: {error.strerror}") from error
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        systemd = Systemd.from_environment()  # before hooks inherit the environment
        if helper is not None:
            helper.attach(runner.get_loop())
        made = manner(runner.get_loop())
        runner.run(serve(configuration, made, systemd, privileges, helper))


async def serve(
    configuration: config.Configuration,
    manner: Manner,
    systemd: Systemd,
    privileges: Privileges,
    helper: PrivilegedHelper | None,
) -> None:
    """Starts, serves until stopped, resigns, ends. Raises StartError."""
    try:
        async with AsyncExitStack() as stack:
            if helper is not None:
                stack.enter_context(helper)
                helper.applied()
            stack.callback(systemd.close)
            worker = Worker()
            stack.callback(worker.shutdown)
            requests, feed, held = Requests(), Feed(), Held(None)
            control: ControlServer | None = None
            if manner.leaves_traces:
                held = Held(StateFile(configuration.daemon.state_directory, configuration.path))
                settings = configuration.daemon
                control = ControlServer(
                    settings.control_socket, requests.handlers, group_of(settings)
                )
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
            )
            if daemon.metrics is not None:
                stack.push_async_callback(daemon.metrics.stop)
            known = daemon.prepare()
            privileges.pid.write()
            daemon.run_pump()
            stack.push_async_callback(daemon.leave)
            await daemon.start(known)
            await daemon.stopping.wait()
    except (LinkError, LimitReached, HookError) as error:
        raise StartError(str(error)) from error


async def _start_control(control: ControlServer) -> None:
    try:
        await control.start()
    except ControlError as error:
        raise StartError(str(error)) from error


class Daemon:
    """A daemon whose sockets are open: its start, what it does while it serves, and its end.

    serve() calls prepare, run_pump, start and leave, in this order. Setting `stopping` ends the
    daemon.
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
        if control is not None:
            opened.status.control = lambda: control.status
        if helper is not None:
            opened.status.helper = lambda: helper.state
        self.metrics = self._reloader.metrics = self._make_metrics()
        self._controls = Controls(
            stop=self.stopping.set,
            reload=self._on_reload_wanted,
            log_summary=opened.log_summary,
            in_background=opened.background.run,
            orders=opened.orders,
            prepare=opened.prepare,
        )

    def _make_metrics(self) -> Metrics | None:
        """The metrics, which are off until use(); None: this manner has none."""
        opened, reloader = self._opened, self._reloader
        if not isinstance(self._manner, Own):
            return None
        hooks = self._manner.hooks
        measuring = Measuring(opened, hooks, reloader.outcome, lambda: reloader.configuration)
        return Metrics(measuring, opened.worker, opened.background)

    # -- opened: an error changes nothing on the host

    def prepare(self) -> start.Known:
        """Installs the signal handlers, takes the virtual hosts, removes what a crash left.

        Returns what is known of their interfaces. Raises StartError, HookError, LimitReached and
        LinkError.
        """
        loop = asyncio.get_running_loop()
        actions = self._manner.signals(self._controls)
        for number, action in actions.items():
            loop.add_signal_handler(number, action)
        for number in take_remembered():
            if number in actions:
                loop.call_soon(actions[number])
        self._manner.on_starting()
        return start.take_hosts(self._opened, self._configuration, self._held)

    # -- started: virtual hosts may be MASTER, so leave() has to follow

    def run_pump(self) -> None:
        """Starts the pump, which inherits this thread's priority, then the `notify` program."""
        self._opened.start_pump(self._configuration.daemon.pump)
        self._notify.start(self._configuration.daemon.notify)

    async def start(self, known: start.Known) -> None:
        """Adds every virtual host, then answers requests. Raises StartError."""
        await start.add_hosts(self._opened, known)
        self._opened.maintenance.begin()
        opened, demotions = self._opened, self._opened.demotions
        gc.collect()
        gc.freeze()  # garbage collections need not visit what was loaded
        give_back_memory()
        self._requests.serve(
            {
                "status": self._opened.status.answer,
                "explain": self._opened.explanations.answer,
                "reload": self._reloader.answer,
                "demote": partial(demotions.demote, hosts=opened.hosts, orders=opened.orders),
                "undemote": partial(demotions.undemote, hosts=opened.hosts, orders=opened.orders),
                "yield": opened.hand_overs.yields,
                "preempt": opened.hand_overs.preempts,
                "maintenance": opened.maintenance.answer,
                "record": self._record,
            }
        )
        if self.metrics is not None:
            await self.metrics.use(self._configuration.daemon)
        self._systemd.ready(f"{len(self._configuration.virtual_hosts)} virtual hosts")
        interval_s = self._systemd.watchdog_interval_s()
        if interval_s:
            self._opened.background.run(self._watch(interval_s))
        if os.getpid() == 1:
            self._opened.background.run(reap_orphans())
        self._manner.on_started(self._controls)

    # -- serving

    async def _watch(self, interval_s: float) -> None:
        """Notifies systemd every `interval_s`, after the pump has answered."""
        while True:
            await self._opened.orders.done()
            self._systemd.watchdog()
            await asyncio.sleep(interval_s)

    async def _record(self, request: RecordRequest) -> Answer:
        opened = self._opened
        if not opened.record_capacity:
            raise ControlError("nothing is recorded: daemon.record is 0, or too few (see the log)")
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
