"""The open daemon: its sockets, the pump, and the parts around it.

The composition root: every part is created here, with all that it needs, and closed in order. Must
not decide when anything happens; that is in daemon.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import math
import resource
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import msgspec

from carp_fast.closing import Closing
from carp_fast.config import load as config
from carp_fast.config.state import state_path
from carp_fast.daemon.background import Background
from carp_fast.daemon.demotions import Demotions
from carp_fast.daemon.explain import Explanations
from carp_fast.daemon.feed import Feed
from carp_fast.daemon.flight_recorder import FlightRecorder
from carp_fast.daemon.foreign import Foreign
from carp_fast.daemon.hand_overs import HandOvers
from carp_fast.daemon.in_use import InUse
from carp_fast.daemon.incident_files import IncidentFiles
from carp_fast.daemon.locks import Locks
from carp_fast.daemon.lost import LostAddresses
from carp_fast.daemon.maintenance import MaintenanceMode
from carp_fast.daemon.manner import Manner
from carp_fast.daemon.network import Network
from carp_fast.daemon.orders import Orders
from carp_fast.daemon.plan import advertisements_per_s, receive_path
from carp_fast.daemon.privileges import Privileges
from carp_fast.daemon.process import StartError
from carp_fast.daemon.receiving import ReceivePath, open_receivers
from carp_fast.daemon.reports import Reports
from carp_fast.daemon.sending import SendPath
from carp_fast.daemon.status import Status
from carp_fast.daemon.table import Hosts
from carp_fast.daemon.tap import Tap
from carp_fast.daemon.tracked import Tracked
from carp_fast.daemon.unicast import Unicast
from carp_fast.daemon.upgrades import Upgrades
from carp_fast.engine._wheel import power_of_two
from carp_fast.net import addresses, sockets
from carp_fast.net.lanes import Lanes
from carp_fast.net.monitor import LinkMonitor
from carp_fast.pump._pump import Pump
from carp_fast.replay import recording as recordings

if TYPE_CHECKING:
    from carp_fast.engine._prepared import PreparedHost
    from carp_fast.net.interfaces import Interface
    from carp_fast.programs.launching import Launcher

logger = logging.getLogger(__name__)

# The pump's real-time budget without a sleep; beyond it the thread continues at normal priority. A
# take-over of 65,025 virtual hosts was measured to keep it running for 2.9 s.
REAL_TIME_BUDGET_US = 10_000_000
# A take-over makes two reports per virtual host, faster than they are read; at least one in ten is
# read meanwhile. The pump reserves some more for itself.
REPORTS_MIN, REPORTS_MAX = 8192, 262_144
REPORTS_A_HOST, REPORTS_KEPT_FREE = 1.9, 1024


class Opened(Closing):
    """The sockets, the pump and the parts; nothing runs before start_pump(). Raises StartError.

    `feed` gets every change of state; `launcher` starts the scripts of tracks, see Tracked. close()
    stops the pump before it closes what the pump uses. `privileges`: closed by the caller, after
    close(). `succeeds`: another process has the locks of the virtual hosts, and passes them on.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        configuration: config.Configuration,
        manner: Manner,
        worker: concurrent.futures.Executor,
        feed: Feed,
        *,
        privileges: Privileges,
        launcher: Launcher | None = None,
        succeeds: bool = False,
    ) -> None:
        self._loop = loop
        self._succeeds = succeeds
        self.upgrades = Upgrades()
        self.worker = worker
        self.hooks = manner.hooks
        self._launcher = launcher
        kept = kept_maintenance = None
        if manner.leaves_traces:
            directory = configuration.daemon.state_directory
            kept = state_path(directory, "demotions", configuration.path)
            kept_maintenance = state_path(directory, "maintenance", configuration.path)
        self.demotions = Demotions(kept, worker)
        records, count = configuration.daemon.record, len(configuration.virtual_hosts)
        self.record_capacity = recordings.capacity(records, count)
        with ExitStack() as opened:
            try:
                self._open_sockets(opened, configuration, privileges.interfaces_fd)
            except OSError as error:
                raise StartError(f"cannot open a socket: {error.strerror}") from error
            self._make_parts(opened, manner, feed, privileges.locks)
            self.maintenance = MaintenanceMode(
                kept_maintenance,
                worker,
                hosts=self.hosts,
                orders=self.orders,
                snapshots=self.status.snapshots,
                run=self.background.run,
            )
            self.maintenance.rate = configuration.daemon.maintenance_rate
            self.hand_overs = HandOvers(
                self.hosts,
                self.orders,
                self.explanations,
                self.demotions,
                snapshots=self.status.snapshots,
                rate=lambda: self.maintenance.rate,
            )
            if manner.leaves_traces and self.record_capacity:
                self._record_incidents(configuration)
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Ends and closes everything, in the reverse order of its creation."""
        self._opened.close()

    def _open_sockets(
        self, opened: ExitStack, configuration: config.Configuration, interfaces_fd: int
    ) -> None:
        hosts = configuration.virtual_hosts
        rate = sum(map(advertisements_per_s, hosts))
        self._receivers, chosen = open_receivers(receive_path(configuration), rate)
        self.receive = ReceivePath(*chosen)
        opened.enter_context(self._receivers)
        self._sender = opened.enter_context(sockets.open_sender())
        self._netlink = opened.enter_context(sockets.open_netlink())
        self.sending = opened.enter_context(SendPath(configuration.daemon.send, interfaces_fd))
        self.pump = Pump(
            self._receivers.receivers,
            self._sender.fileno(),
            self._netlink.fileno(),
            addresses.templates(),
            _room_for_reports(len(hosts)),
            self.record_capacity,
            marks=addresses.kernel_keeps_marks(),
        )
        self.sending.use(self.pump)
        pace = configuration.daemon.announce_rate
        self.pump.set_pace(pace.interface, pace.at_once, pace.all)
        self.unicast = opened.enter_context(Unicast(self.pump))
        self.unicast.open_for(hosts)

    def _make_parts(
        self, opened: ExitStack, manner: Manner, feed: Feed, locks: Locks | None
    ) -> None:
        self.hosts = hosts = Hosts()
        self.orders = orders = Orders(self.pump)
        self.host_log = manner.host_log
        opened.callback(self.host_log.flush)
        self.background = Background(self._loop)
        self.lanes = Lanes(
            self._receivers,
            self.pump.cover,
            self.pump.settle_sources,
            self.receive.on_fallen_back,
        )
        opened.callback(self.lanes.close)
        self.in_use = InUse(hosts, orders, self.worker, None if self._succeeds else locks)
        opened.callback(self.in_use.close)
        self.lost = LostAddresses(hosts, orders, manner.host_log)
        self.reports = Reports(
            hosts,
            orders,
            manner,
            publish=feed.publish,
            on_released=self._on_released,
            on_address_restored=self.lost.on_restored,
            on_source_proven=self.lanes.learn,
            on_clones_given_up=self.sending.on_given_up,
            resync=self._read_states,
        )
        self.tracked = self._make_tracked(feed)
        opened.callback(self.tracked.close)
        foreign = Foreign(hosts, self.reports.on_foreign)
        self.network = Network(hosts, orders, self.lanes, self.in_use, foreign.on_interface)
        self.tap = Tap(hosts, orders, self.network, self.in_use, feed)
        opened.callback(self.tap.close)
        opened.callback(self.network.close)
        self.status = Status(
            hosts,
            orders,
            self.network,
            self.reports,
            receive=self.receive,
            sending=self.sending,
            in_use=self.in_use.barred,
            demotions=lambda: self.demotions.by_reason,
            demotions_of=self.demotions.reasons_of,
            maintenance=lambda: (self.maintenance.state, self.maintenance.progress),
            tracked=self.tracked,
        )
        self.status.upgrades = lambda: self.upgrades
        self.explanations = Explanations(hosts, orders, self.network, self.status)
        self.links = LinkMonitor(
            self._loop,
            (),
            self.on_interface,
            self.network.on_address_removed,
            self._netlink.getsockname()[0],
            on_overrun=self.network.on_overrun,
            on_watched=self.network.own_sources.on_address,
            on_route_removed=self.network.on_route_removed,
        )
        opened.callback(self.hooks.close)
        opened.callback(orders.abandon)  # pending answers are cancelled
        opened.callback(self.pump.stop)
        for fd in (self.pump.epoll_fd, self.pump.report_fd):
            opened.callback(self._loop.remove_reader, fd)
        opened.callback(self.background.close)
        opened.callback(self.links.stop)
        self._loop.add_reader(self.pump.report_fd, self.reports.on_readable)

    def _record_incidents(self, configuration: config.Configuration) -> None:
        files = IncidentFiles(configuration.daemon.state_directory, configuration.path)
        recorder = FlightRecorder(files, self.hosts, self.orders, self.worker, self.background.run)
        self.reports.on_report = recorder.on_report

    def _make_tracked(self, feed: Feed) -> Tracked:
        return Tracked(
            self._loop,
            self.hosts,
            self.orders,
            self.background,
            feed.publish_track,
            launcher=self._launcher,
        )

    # -- what several phases do with it

    def prepare(self, host: config.VirtualHost, **how: Any) -> PreparedHost:
        """Prepares as Hosts.prepare() does, with what is known of the virtual host's interface."""
        network = self.network
        return self.hosts.prepare(
            host,
            missing=network.own_sources.missing(host),
            by_route=network.holding.by_route(host),
            withheld=self.maintenance.withheld,
            **how,
        )

    def adder(self, slot: int, host: config.VirtualHost) -> Callable[[], object]:
        """The order that adds a virtual host to the engine."""
        # Prepared when its turn comes: otherwise all would be in memory twice.
        barred = slot in self.in_use.barred
        return lambda: self.add(slot, self.prepare(host, barred=barred))

    def add(self, slot: int, prepared: PreparedHost) -> None:
        """Orders the engine to add a virtual host, demoted from the beginning as it should be."""
        host = self.hosts.hosts[slot]
        assert host is not None
        effect = self.tracked.effect_on_new(slot)
        self.pump.add(
            slot,
            prepared,
            self.demotions.of(host),
            effect.demotion,
            effect.hard,
            self.maintenance.demotion,
        )

    def on_interface(self, interface: Interface) -> None:
        """Handles that an interface is now like this, of virtual hosts or of tracks."""
        self.network.on_interface(interface)
        self.tracked.on_interface(interface)

    def follow(self, names: Iterable[str]) -> None:
        """Follows these interfaces, and what else of this host its virtual hosts depend on."""
        network = self.network
        watched = network.own_sources.addresses()
        names = (*names, *self.tracked.names)
        self.tracked.keep_interfaces(names)
        self.links.set_names(names, watched, routes=network.holding.wanted)

    async def grow_reports(self, hosts: int) -> None:
        """Enlarges the pump's ring of reports for as many virtual hosts, if it is too small."""
        room = _room_for_reports(hosts)
        if room > self.pump.report_capacity:
            await self.orders.give([lambda: self.pump.grow_reports(room)])

    def load_functions(self, configuration: config.Configuration) -> None:
        """Imports hooks that are functions, so that their faults show now. Raises HookError."""
        settings = {id(host.settings): host.settings for host in configuration.virtual_hosts}
        for target in dict.fromkeys(t for each in settings.values() for t in (each.up, each.down)):
            if target is not None:
                self.hooks.prepare(target)

    def start_pump(self, where: str) -> None:
        """Starts the pump, in a thread of its own or, with "loop", in this one."""
        if where == "loop":
            self.pump.start_netlink()
            self._loop.add_reader(self.pump.epoll_fd, self.pump.run_due)
            logger.info("the pump runs in the event loop")
            return
        hard = resource.getrlimit(resource.RLIMIT_RTTIME)[1]
        try:
            resource.setrlimit(resource.RLIMIT_RTTIME, (REAL_TIME_BUDGET_US, hard))
        except (ValueError, OSError):
            logger.warning("could not set RLIMIT_RTTIME")
        self.pump.start("fifo")
        self.background.run(self._log_scheduling())

    def log_summary(self) -> None:
        """Logs the number of virtual hosts in each state."""
        summary = msgspec.structs.asdict(self.status.summary())
        logger.info("%s", ", ".join(f"{count} {word}" for word, count in summary.items()))

    async def _log_scheduling(self) -> None:
        await self.orders.done()
        got = self.pump.facts.scheduling
        words = {"fifo": "SCHED_FIFO", "nice": "nice -20", "normal": "normal priority"}
        level = logging.INFO if got == "fifo" else logging.WARNING
        logger.log(level, "the pump runs in a thread of its own with %s", words[got])

    def _read_states(self) -> None:
        """Reads every state from the pump after reports were lost, and reports what differs."""
        every = range(len(self.hosts.hosts))
        self.orders.post(self.pump.tell_groups)
        self.background.run(self.reports.take_copies(self.status.snapshots(every)))

    def _on_released(self, slot: int) -> None:
        self.lost.on_released(slot)
        self.in_use.on_released(slot)
        self.hosts.give_back(slot)


def _room_for_reports(hosts: int) -> int:
    wanted = math.ceil(REPORTS_A_HOST * hosts) + REPORTS_KEPT_FREE
    return power_of_two(min(max(wanted, REPORTS_MIN), REPORTS_MAX))
