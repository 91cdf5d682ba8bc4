"""The daemon: opens the sockets, hands them to the pump, wires the rest together, and ends it.

The composition root: everything that runs is made here. What the parts do is their own business;
Python never touches a packet.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import gc
import logging
import math
import os
import resource
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from carp_fast import __version__
from carp_fast.config import load as config
from carp_fast.control.protocol import ControlError
from carp_fast.control.server import ControlServer, Handler
from carp_fast.daemon import present, reload
from carp_fast.daemon.explain import Explanations
from carp_fast.daemon.feed import Feed
from carp_fast.daemon.foreign import Foreign
from carp_fast.daemon.hooks import HookError, Hooks
from carp_fast.daemon.in_use import InUse
from carp_fast.daemon.lost import LostAddresses
from carp_fast.daemon.network import Network
from carp_fast.daemon.notify import Notify
from carp_fast.daemon.orders import Orders
from carp_fast.daemon.plan import advertisements_per_s, receive_path
from carp_fast.daemon.process import (
    StartError,
    give_back_memory,
    require_capabilities,
    share_memory,
)
from carp_fast.daemon.reports import Reports, peer_of
from carp_fast.daemon.status import Status
from carp_fast.daemon.systemd import Systemd
from carp_fast.daemon.table import STATES, Hosts, LimitReached, by_interface
from carp_fast.daemon.tap import Tap
from carp_fast.daemon.unicast import Unicast
from carp_fast.engine._auth import SHA1_FORM
from carp_fast.engine._prepared import PreparedHost
from carp_fast.engine._wheel import power_of_two
from carp_fast.inet import prefix_text
from carp_fast.net import addresses, sockets
from carp_fast.net.interfaces import Interface, LinkError, absent, read_interfaces, without_marked
from carp_fast.net.lanes import Lanes, LaneSockets
from carp_fast.net.monitor import LinkMonitor
from carp_fast.pump._pump import Pump
from carp_fast.replay import recording as recordings

__all__ = ["Daemon", "StartError", "run"]

logger = logging.getLogger(__name__)

# The pump's real-time budget without a sleep; beyond it the thread goes on as a plain one. Taking
# over 65,025 virtual hosts at once was measured to keep it running for 2.9 s.
REAL_TIME_BUDGET_US = 10_000_000
RESIGN_DEADLINE_S = 10.0
HOOKS_DEADLINE_S = 35.0
# A take-over gives two reports a virtual host, faster than they are taken; one in ten is taken
# meanwhile, at least. What the pump keeps free for itself comes on top.
REPORTS_MIN, REPORTS_MAX = 8192, 262_144
REPORTS_A_HOST, REPORTS_KEPT_FREE = 1.9, 1024
# What the kernel answers when the address to be removed is gone already.
GONE = frozenset({errno.EADDRNOTAVAIL, errno.ENODEV})


def run(path: Path, pid_file: Path | None = None) -> int:
    """Reads the configuration and runs until SIGTERM or SIGINT; returns the exit code.

    Raises ConfigurationError and StartError before anything was touched.
    """
    share_memory()
    configuration = config.load_settled(path)
    require_capabilities(managing=bool(by_interface(configuration.virtual_hosts)))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(Daemon(configuration, pid_file).run())
    return 0


class Daemon:
    """One running daemon."""

    def __init__(self, configuration: config.Configuration, pid_file: Path | None) -> None:
        self.configuration = configuration
        self._pid_file = pid_file
        self._pid_written = False
        self._pumping = False  # the pump was started: virtual hosts may be MASTER
        self._links: LinkMonitor | None = None
        self._serving = asyncio.Event()  # started, and not yet closed
        self._systemd = Systemd.from_environment()
        self._stop = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._applying = asyncio.Lock()  # a reload changes the engine, or the end has begun
        self._tasks: set[asyncio.Task[Any]] = set()
        self._worker = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="worker")
        self._state_file = addresses.StateFile(
            configuration.daemon.state_directory, configuration.path
        )
        self._hosts = Hosts()

    async def run(self) -> None:
        """Starts, serves until it is told to stop, resigns, ends."""
        self._loop = asyncio.get_running_loop()
        self._hooks = self._make_hooks()
        self._notify = Notify(self._loop)
        self._control = self._make_control()
        try:
            if self._control is not None:
                await self._control.start()
        except ControlError as error:
            raise StartError(str(error)) from error
        try:
            self._open()
            try:
                try:
                    await self._start()
                    await self._stop.wait()
                finally:
                    await self._end()
            finally:
                self._close()
        except (LinkError, LimitReached, HookError) as error:
            raise StartError(str(error)) from error
        finally:
            if self._control is not None:
                await self._control.stop()
            self._worker.shutdown(wait=False, cancel_futures=True)
            if self._pid_written and self._pid_file is not None:
                self._pid_file.unlink(missing_ok=True)
            self._systemd.close()

    # -- what another manner of running makes its own way

    def _make_hooks(self) -> Hooks:
        daemon = self.configuration.daemon
        return Hooks(self._loop, daemon.hook_concurrency, daemon.hook_timeout_s)

    def _make_reports(self) -> Reports:
        return Reports(self._hosts, self._orders, self._hooks, **self._listeners())

    def _make_control(self) -> ControlServer | None:
        handlers: dict[str, Handler] = {
            "status": self._on_status,
            "explain": self._on_explain,
            "reload": self._on_reload,
            "record": self._on_record,
        }
        return ControlServer(self.configuration.daemon.control_socket, handlers)

    def _listeners(self) -> dict[str, Callable[..., None]]:
        """Those to whom the reports tell what they are about."""
        return {
            "publish": self._feed.publish,
            "on_released": self._on_released,
            "on_address_restored": self._lost.on_restored,
            "on_source_proven": self._lanes.learn,
            "resync": lambda: self._background(self._resync()),
        }

    # -- start

    def _open(self) -> None:
        """Opens the sockets and the pump. Raises StartError."""
        hosts = self.configuration.virtual_hosts
        rate = sum(map(advertisements_per_s, hosts))
        wanted = math.ceil(REPORTS_A_HOST * len(hosts)) + REPORTS_KEPT_FREE
        reports = power_of_two(min(max(wanted, REPORTS_MIN), REPORTS_MAX))
        self._receive = receive_path(self.configuration)
        self._record_capacity = recordings.capacity(self.configuration.daemon.record, len(hosts))
        try:
            self._receivers = LaneSockets(self._receive[0], rate)
            self._sender = sockets.open_sender()
            self._netlink = sockets.open_netlink()
            self._pump = Pump(
                self._receivers.receivers,
                self._sender.fileno(),
                self._netlink.fileno(),
                addresses.templates(),
                reports,
                self._record_capacity,
                marks=addresses.kernel_keeps_marks(),
            )
            self._unicast = Unicast(self._pump)
            self._unicast.open_for(hosts)
        except OSError as error:
            raise StartError(f"cannot open a socket: {error.strerror}") from error
        self._orders = Orders(self._pump)
        self._lanes = Lanes(self._receivers, self._pump.cover, self._pump.settle_sources)
        self._in_use = InUse(self._hosts, self._orders, self._worker)
        self._lost = LostAddresses(self._hosts, self._orders)
        self._feed = Feed()
        if self._control is not None:
            self._feed.subscribe(self._control.publish)
        self._reports = self._make_reports()
        foreign = Foreign(self._hosts, self._reports.on_foreign)
        self._network = Network(
            self._hosts, self._orders, self._lanes, self._in_use, foreign.on_interface
        )
        self._tap = Tap(self._hosts, self._orders, self._network, self._in_use, self._feed)
        self._feed.subscribe(self._notify.send)
        self._status = Status(
            self._hosts,
            self._orders,
            self._network,
            self._reports,
            receive=self._receive[0],
            in_use=self._in_use.barred,
        )
        self._loop.add_reader(self._pump.report_fd, self._reports.on_readable)

    async def _start(self) -> None:
        """Removes what a crash left, tells the pump everything, and lets it run."""
        daemon, hosts = self.configuration.daemon, self.configuration.virtual_hosts
        logger.info("carp-fast %s, %d virtual hosts, SHA-1 %s", __version__, len(hosts), SHA1_FORM)
        logger.info("receive path: %s (%s)", *self._receive)
        for warning in self.configuration.warnings:
            logger.warning("%s", warning)
        for pattern, count in self.configuration.patterns.items():
            if not count:
                logger.info('include = "%s" matches no file', pattern)
        self._handle_signals()
        self._load_functions(self.configuration)
        for host in hosts:
            self._hosts.take(host)
        recorded = self._state_file.read()
        there = read_interfaces()
        for warning in present.warnings(self.configuration, there, followed=self._hosts.names):
            logger.warning("%s", warning)
        known = {name: there.get(name) or absent(name) for name in (*self._hosts.names, *recorded)}
        for number, name in enumerate(self._hosts.names):  # before anything there is removed
            self._in_use.on_ifindex(number, known[name].ifindex)
        left = self._remove_leftovers(known, recorded)
        known = {name: without_marked(interface) for name, interface in known.items()}
        self._record(by_interface(self.configuration.virtual_hosts), left)
        self._write_pid()
        self._notify.start(daemon.notify)
        self._start_pump(daemon.pump)
        self._pumping = True
        for name in self._hosts.names:
            self._network.on_interface(known[name])
        await self._orders.done()
        await self._orders.give(self._adder(slot, host) for slot, host in self._hosts.used())
        self._links = LinkMonitor(
            self._loop,
            self._hosts.names,
            self._network.on_interface,
            self._network.on_address_removed,
            self._netlink.getsockname()[0],
            on_overrun=self._network.on_overrun,
            on_watched=self._network.own_sources.on_address,
            watched=self._network.own_sources.addresses(),
        )
        try:
            self._links.start({name: known[name] for name in self._hosts.names})
        except OSError as error:
            raise StartError(f"cannot follow links: {error.strerror}") from error
        self._tap.start()
        gc.collect()
        gc.freeze()  # what was loaded stays: a collection need not walk it again
        give_back_memory()
        self._serving.set()
        self._systemd.ready(f"{len(hosts)} virtual hosts")
        self._start_watchdog()

    def _load_functions(self, configuration: config.Configuration) -> None:
        """Imports hooks that are functions, so that their faults show now. Raises HookError."""
        settings = {id(host.settings): host.settings for host in configuration.virtual_hosts}
        for target in dict.fromkeys(t for each in settings.values() for t in (each.up, each.down)):
            if target is not None:
                self._hooks.prepare(target)

    def _adder(self, slot: int, host: config.VirtualHost) -> Callable[[], object]:
        # Prepared when its turn comes: all at once they would be in memory twice.
        barred = slot in self._in_use.barred
        return lambda: self._pump.add(slot, self._prepare(host, barred=barred))

    def _prepare(self, host: config.VirtualHost, **how: Any) -> PreparedHost:
        """As Hosts.prepare(), with what is known of its source."""
        return self._hosts.prepare(host, missing=self._network.own_sources.missing(host), **how)

    def _start_pump(self, pump: str) -> None:
        if pump == "loop":
            self._loop.add_reader(self._pump.epoll_fd, self._pump.run_due)
            logger.info("the pump runs in the event loop")
            return
        hard = resource.getrlimit(resource.RLIMIT_RTTIME)[1]
        try:
            resource.setrlimit(resource.RLIMIT_RTTIME, (REAL_TIME_BUDGET_US, hard))
        except (ValueError, OSError):
            logger.warning("RLIMIT_RTTIME could not be set")
        self._pump.start("fifo")
        self._background(self._say_scheduling())

    async def _say_scheduling(self) -> None:
        await self._orders.done()
        got = self._pump.facts["scheduling"]
        words = {"fifo": "SCHED_FIFO", "nice": "nice -20", "normal": "normal priority"}
        level = logging.INFO if got == "fifo" else logging.WARNING
        logger.log(level, "the pump runs in a thread of its own with %s", words[got])

    def _remove_leftovers(
        self, known: dict[str, Interface], recorded: dict[str, list[str]]
    ) -> dict[str, list[str]]:
        """Addresses that a crash of this configuration's daemon left are removed before BACKUP.

        Those of virtual hosts that another process has now are not touched: they have its mark.
        Returns those that could not be, by interface: they stay ours.
        """
        configured = self._in_use.ours(by_interface(self.configuration.virtual_hosts))
        recorded = self._in_use.ours(recorded)
        left = addresses.leftovers(known.values(), configured, recorded)
        lost = [name for name, interface in known.items() if not interface.ifindex]
        if lost:
            left += addresses.strays(read_interfaces().values(), lost, configured, recorded)
        if not left:
            return {}
        errors = self._pump.remove_addresses(
            [(interface.ifindex, address, prefixlen) for interface, address, prefixlen in left]
        )
        failed: dict[str, list[str]] = {}
        for (interface, address, prefixlen), error in zip(left, errors, strict=True):
            if error and error not in GONE:
                text, why = prefix_text(address, prefixlen), os.strerror(error)
                logger.error("%s: leftover address %s not removed: %s", interface.name, text, why)
                failed.setdefault(interface.name, []).append(text)
        removed = len(left) - sum(map(len, failed.values()))
        logger.warning("removed %d addresses that the last run left", removed)
        return failed

    def _record(self, *held: dict[str, list[str]]) -> None:
        """Writes down what may be added. Raises StartError."""
        every: dict[str, set[str]] = {}
        for part in held:
            for name, texts in part.items():
                every.setdefault(name, set()).update(texts)
        try:
            self._state_file.record(every)
        except OSError as error:
            raise StartError(f"state file {self._state_file.path}: {error.strerror}") from error

    def _handle_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop.set)
        self._loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        self._loop.add_signal_handler(signal.SIGUSR1, self._say_summary)

    def _say_summary(self) -> None:
        summary = self._status.summary()
        logger.info("%s", ", ".join(f"{count} {word}" for word, count in summary.items()))

    def _write_pid(self) -> None:
        if self._pid_file is not None:
            try:
                self._pid_file.write_text(f"{os.getpid()}\n")
            except OSError as error:
                raise StartError(f"pid file {self._pid_file}: {error.strerror}") from error
            self._pid_written = True

    def _start_watchdog(self) -> None:
        interval_s = self._systemd.watchdog_interval_s()
        if interval_s:
            self._background(self._watch(interval_s))

    async def _watch(self, interval_s: float) -> None:
        """Tells systemd that we live only after the pump has answered, too."""
        while True:
            await self._orders.done()
            self._systemd.watchdog()
            await asyncio.sleep(interval_s)

    def _background(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("a background task failed", exc_info=task.exception())

    # -- while it runs

    async def _on_status(self, request: dict[str, Any]) -> Any:
        if not self._serving.is_set():
            raise ControlError("the daemon is starting or ending")
        return await self._status.answer(request)

    async def _on_explain(self, request: dict[str, Any]) -> Any:
        if not self._serving.is_set():
            raise ControlError("the daemon is starting or ending")
        explanations = Explanations(self._hosts, self._orders, self._network, self._status)
        return await explanations.answer(request)

    async def _on_record(self, request: dict[str, Any]) -> Any:
        if not self._serving.is_set():
            raise ControlError("the daemon is starting or ending")
        if not self._record_capacity:
            raise ControlError("nothing is recorded: daemon.record is 0, or too few (see the log)")
        return await recordings.answer(request, self._hosts, self._orders, self._worker)

    def _on_released(self, slot: int) -> None:
        self._lost.on_released(slot)
        self._in_use.on_released(slot)
        self._hosts.give_back(slot)

    async def _resync(self) -> None:
        """Reports were lost: takes every state from the pump and tells what differs."""
        async for hosts in self._status.snapshots(range(len(self._hosts.hosts))):
            for slot, fields in hosts:
                state, reason = fields["state"], fields["reason"]
                if state != STATES[self._hosts.states[slot]]:
                    self._reports.on_state(slot, state, reason, fields["since_ns"], peer_of(fields))
                if state == "MASTER":
                    # That its addresses are there may have been among what was lost.
                    self._reports.on_addresses(slot, reason)

    def _on_hangup(self) -> None:
        self._background(self._reload_and_say())

    async def _reload_and_say(self) -> None:
        await self._serving.wait()
        try:
            await self._on_reload({})
        except ControlError as error:
            logger.error("reload: nothing was changed: %s", error)

    async def _on_reload(self, request: dict[str, Any]) -> dict[str, Any]:
        """Reads the configuration again and makes it so; a fault changes nothing.

        "force": also where that looks like an accident, see refusals() in reload.py.
        """
        force = request.get("force", False)
        if not isinstance(force, bool):
            raise ControlError("force must be true or false")
        if not self._serving.is_set() or self._stop.is_set():
            raise ControlError("the daemon is starting or ending")
        failed = ""
        async with self._reloading:
            begin = self._loop.time()
            self._systemd.reloading()
            try:
                difference, lines = await self._reload(force)
            except ControlError as error:
                failed = f"; the last reload changed nothing: {error}"
                raise
            finally:
                count = len(self.configuration.virtual_hosts)
                self._systemd.ready(f"{count} virtual hosts{failed}")
            seconds = self._loop.time() - begin
            give_back_memory()
        return reload.told(difference, lines, seconds)

    async def _reload(self, force: bool) -> tuple[reload.Difference, list[str]]:
        new = await self._read_again()
        async with self._applying:
            if self._stop.is_set():
                raise ControlError("the daemon is ending")
            lines = reload.daemon_changes(self.configuration.daemon, new.daemon)
            difference = reload.compare(self._hosts, new)
            found = reload.refusals(self.configuration, new, difference, self._hosts)
            if found and not force:
                raise ControlError(f"refused: {'; '.join(found)}; to do it: {reload.FORCED}")
            for line in found:
                logger.warning("forced: %s", line)
            try:
                require_capabilities(managing=bool(by_interface(new.virtual_hosts)))
                self._hosts.check_room(difference.added, len(difference.removed))
                self._record(
                    by_interface(self.configuration.virtual_hosts),
                    by_interface(new.virtual_hosts),
                )
                self._unicast.open_for(new.virtual_hosts)
            except (LimitReached, StartError) as error:
                raise ControlError(str(error)) from error
            except OSError as error:
                raise ControlError(f"cannot open a socket: {error.strerror}") from error
            await self._apply(difference, new)
            try:
                self._record(by_interface(self.configuration.virtual_hosts), self._hosts.going())
            except StartError as error:  # what is written there names too much, never too little
                logger.error("%s", error)
        return difference, lines

    async def _read_again(self) -> config.Configuration:
        """The configuration as the files have it now. Raises ControlError with its faults."""
        try:
            new = await self._loop.run_in_executor(
                self._worker, config.load_settled, self.configuration.path
            )
            self._load_functions(new)
            there = await self._loop.run_in_executor(self._worker, present.of_this_host, new)
        except config.ConfigurationError as error:
            for fault in error.faults:
                logger.error("reload: %s", fault)
            text = f"{len(error.faults)} faults in the configuration"
            raise ControlError(text, [str(fault) for fault in error.faults]) from error
        except HookError as error:
            raise ControlError(str(error)) from error
        for warning in (*new.warnings, *there):
            logger.warning("%s", warning)
        return new

    async def _apply(self, difference: reload.Difference, new: config.Configuration) -> None:
        grace_ns = int(new.daemon.digest_grace_s * 1e9)
        for slot, now, _ in difference.replaced:
            self._in_use.on_replace(slot, now)
        await self._orders.give(
            reload.orders(difference, self._hosts, self._pump, self._prepare, grace_ns)
        )
        # Resignations and removed addresses first: their slots and addresses are free then.
        await self._orders.done(when_idle=True)
        await self._orders.give(
            partial(self._pump.verify, slot) for slot in reload.moved(difference)
        )
        take = self._in_use.take_new
        await self._orders.give(
            reload.additions(difference, self._hosts, self._pump, self._prepare, take)
        )
        self._network.on_reload()
        self._reports.on_reload()
        if self._links is not None:
            self._links.set_names(self._hosts.used_names(), self._network.own_sources.addresses())
        daemon = new.daemon
        self._hooks.concurrency = daemon.hook_concurrency
        self._hooks.timeout_s = daemon.hook_timeout_s
        if daemon.notify != self.configuration.daemon.notify:
            await self._notify.stop()
            self._notify.start(daemon.notify)
        self.configuration = new

    # -- end

    async def _end(self) -> None:
        """Gives up what was begun, however far the start came: nothing is left behind."""
        if self._pumping:
            await self._resign()
        await self._notify.stop()

    async def _resign(self) -> None:
        """Every MASTER removes its addresses, then resigns; the down hooks run."""
        self._systemd.stopping("resigning")
        logger.info("stopping: resigning")
        try:  # a reload that is being applied must not add anything afterwards
            await asyncio.wait_for(self._applying.acquire(), RESIGN_DEADLINE_S)
        except TimeoutError:
            logger.error("the reload takes longer than %d s, not waited for", RESIGN_DEADLINE_S)
        if self._links is not None:
            self._links.stop()
        try:
            async with asyncio.timeout(RESIGN_DEADLINE_S):
                await self._orders.room_for(1)
                self._pump.resign_all()
                await self._orders.done(when_idle=True)
        except TimeoutError:
            logger.error("resigning took longer than %d s, given up", RESIGN_DEADLINE_S)
        for name in await self._hooks.drain(HOOKS_DEADLINE_S):
            logger.error("still running at the end: %s", name)

    def _close(self) -> None:
        self._serving.clear()
        if self._links is not None:
            self._links.stop()
        for task in self._tasks:
            task.cancel()
        self._loop.remove_reader(self._pump.report_fd)
        self._loop.remove_reader(self._pump.epoll_fd)
        self._pump.stop()
        self._orders.abandon()  # answers under way break off
        self._hooks.close()
        self._network.close()
        self._tap.close()
        self._in_use.close()
        self._lanes.close()
        self._receivers.close()
        for sock in (self._sender, self._netlink):
            sock.close()
        self._unicast.close()
