"""The daemon with the manners of ucarp: its messages at its moments, its scripts, its signals.

Holds what differs from `carp-fast run`.  The election, the wire and the links are the daemon's and
the engine's; here is only what one virtual host of a ucarp command line looks like from outside.
Must not know how a command line is read.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import uvloop

from carp_fast.config import load as config
from carp_fast.daemon.daemon import Daemon
from carp_fast.daemon.plan import interface_facts
from carp_fast.daemon.process import StartError, require_capabilities
from carp_fast.daemon.reports import Reports
from carp_fast.daemon.table import Hosts
from carp_fast.engine import reports
from carp_fast.inet import address_bytes
from carp_fast.ucarp.log import logger
from carp_fast.ucarp.scripts import Scripts

if TYPE_CHECKING:
    from carp_fast.control.server import ControlServer
    from carp_fast.daemon.orders import Orders

QUIET_S = 3.0  # after SIGUSR2
# No state file and no control socket are made: nothing but the scripts leaves a trace.
NOWHERE = Path("/nonexistent/carp-fast-ucarp")
EXIT_SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM)
REJECTIONS_EVERY_S = 10.0
SLOT = 0  # of the one virtual host

# What ucarp says when the script has run, by the direction and the engine's reason.
AFTERWARDS = {
    ("up", "preempted"): "Putting MASTER down - preemption",
    ("up", "master_resigned"): "Putting MASTER DOWN (going to time out)",
    ("down", "faster_master"): "Preferred master advertised: going back to BACKUP state",
    ("down", "tie_lost"): "Preferred master advertised: going back to BACKUP state",
}
REASSERTED = (
    "Non-preferred master advertising: reasserting control of VIP with another gratuitous arp"
)
# Rejections that ucarp logs packet by packet, here counted and said together.
REJECTIONS = {
    "bad_auth": "Bad digest - {} advertisements - Check vhid, password and virtual IP address",
    "bad_ttl": "Bad TTL: [{} advertisements]",
    "bad_version": "Bad version: [{} advertisements]",
    "bad_checksum": "Bad IP checksum: [{} advertisements]",
}


def run(
    host: config.VirtualHost,
    *,
    named: str,
    neutral: bool,
    shutdown: bool,
    started: Callable[[], None],
) -> int:
    """Runs until a signal; returns the exit code.

    Without `shutdown`, SIGTERM, SIGINT, SIGQUIT and SIGHUP end the process as they end any other:
    the address stays up.  `named` is the interface as the command line has it, an alias maybe,
    which is what scripts and the log get.  `started` is called once the host takes part.  Raises
    StartError.
    """
    require_capabilities(managing=False)
    if not shutdown:
        for number in EXIT_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(UcarpDaemon(host, named, neutral, shutdown, started).run())
    return 0


class UcarpDaemon(Daemon):
    """One virtual host, as ucarp runs it."""

    def __init__(
        self,
        host: config.VirtualHost,
        named: str,
        neutral: bool,
        shutdown: bool,
        started: Callable[[], None],
    ) -> None:
        # As ucarp's pcap does, a packet socket hears before a firewall or rp_filter drops.
        daemon = config.Daemon(
            control_socket=NOWHERE, state_directory=NOWHERE, receive="packet", record=0
        )
        super().__init__(config.Configuration(NOWHERE, (), daemon, [host], ()), None)
        self._host = host
        self._named = named
        self._neutral = neutral
        self._shutdown = shutdown
        self._started = started
        self._scripts: Scripts
        self._manners: UcarpReports
        self._yielding = False
        self._rejected: dict[str, int] = {}

    def _make_hooks(self) -> Scripts:
        self._scripts = Scripts(self._loop)
        return self._scripts

    def _make_reports(self) -> UcarpReports:
        self._manners = UcarpReports(
            self._hosts,
            self._orders,
            self._scripts,
            self._named,
            lambda: self._background(self._count_rejections()),
            **self._listeners(),
        )
        return self._manners

    def _make_control(self) -> ControlServer | None:
        return None

    def _record(self, *held: dict[str, list[str]]) -> None:
        """Nothing is written down: the addresses are the scripts' business."""

    async def _start(self) -> None:
        self._check_interface()
        self._handle_signals()  # who sees the first line may send one
        logger.warning("Switching to state: BACKUP")
        if not self._neutral:
            self._manners.run_down(self._host, "started")
        await super()._start()
        self._background(self._say_rejections())
        self._started()

    def _check_interface(self) -> None:
        """Says which MAC it has.  Raises StartError for what ucarp refuses to start with."""
        host, settings = self._host, self._host.settings
        facts = interface_facts(host.interface)
        if facts is None:
            logger.error("Unable to get hardware info about an interface: No such device")
            raise StartError(f"Unable to find MAC address of [{self._named}]")
        logger.info("Local advertised ethernet address is [%s]", facts.mac)
        if settings.broadcast:
            return
        assert settings.source is not None
        request = address_bytes(settings.destination) + address_bytes(settings.source)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as member:
            try:
                member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
            except OSError as error:
                text = f"Can't do IP_ADD_MEMBERSHIP errno={error.strerror} ({error.errno})"
                raise StartError(text) from None

    def _handle_signals(self) -> None:
        if self._shutdown:
            for number in EXIT_SIGNALS:
                self._loop.add_signal_handler(number, self._stop.set)
        self._loop.add_signal_handler(signal.SIGUSR1, self._say_summary)
        self._loop.add_signal_handler(signal.SIGUSR2, self._on_usr2)

    def _say_summary(self) -> None:
        logger.info("%s on %s id %d", self._manners.told, self._named, self._host.vhid)

    # -- giving up being master

    def _on_usr2(self) -> None:
        logger.debug("Caught signal (USR2) considering going down")
        if self._manners.told == "MASTER" and not self._yielding:
            self._yielding = True
            self._background(self._yield())

    async def _yield(self) -> None:
        """Down script, resignation, three seconds without taking part, then BACKUP as usual."""
        self._manners.told = "BACKUP"
        logger.warning("Switching to state: BACKUP")
        await self._run_down_first("demoted")
        # Against an interval of 255 s every master heard is preferred, and none is ever missed.
        quiet = msgspec.structs.replace(self._host.settings, advbase=255)
        self._replace(msgspec.structs.replace(self._host, settings=quiet))
        self._orders.post(lambda: self._pump.lose_address(SLOT, demoted=False))
        await asyncio.sleep(QUIET_S)
        self._replace(self._host)
        await self._orders.done()
        self._manners.down_has_run = False
        self._yielding = False

    def _replace(self, host: config.VirtualHost) -> None:
        prepared = self._prepare(host, replacing=True)
        self._orders.post(lambda: self._pump.replace(SLOT, prepared, 0))

    async def _run_down_first(self, reason: str) -> None:
        """The address goes before the resignation lets another host take it.

        A script that takes longer than other hosts would wait for ucarp is waited for no longer.
        """
        self._manners.run_down(self._host, reason)
        self._manners.down_has_run = True
        settings = self._host.settings
        await self._scripts.drain(
            settings.dead_ratio * max(settings.advbase, 1) + settings.advskew / 256
        )

    async def _resign(self) -> None:
        script = self._host.settings.down or ""
        logger.debug("sighandler_exit(): Calling [%s] and exiting", script)
        if self._manners.told == "MASTER":
            self._manners.told = "BACKUP"
            await self._run_down_first("resigned")
        await super()._resign()

    # -- what is wrong on the wire

    async def _say_rejections(self) -> None:
        """A line for all that was rejected since the last one; ucarp has a line for each packet."""
        while True:
            await asyncio.sleep(REJECTIONS_EVERY_S)
            await self._count_rejections()

    async def _count_rejections(self) -> None:
        snapshot = self._pump.snapshot(SLOT, 1)
        wire = self._pump.snapshot_interfaces(1)
        await self._orders.done()
        [(_, host)], [interface] = snapshot.hosts(), wire.counters()
        # The rest was refused before its vhid was looked at.
        counters = {**interface, "bad_auth": host["counters"]["bad_auth"]}
        for word, text in REJECTIONS.items():
            fresh = counters[word] - self._rejected.get(word, 0)
            if fresh:
                logger.warning("%s", text.format(fresh))
            self._rejected[word] = counters[word]


class UcarpReports(Reports):
    """Tells the pump's reports as ucarp would: two states, INIT being a kind of BACKUP.

    `named` is the interface as scripts get it.  `told` is the state that was said last.
    `down_has_run`: the next step down has its script run already.  `on_wrong_digest` is called for
    the first one in a minute.
    """

    def __init__(
        self,
        hosts: Hosts,
        orders: Orders,
        scripts: Scripts,
        named: str,
        on_wrong_digest: Callable[[], None],
        **listeners: Callable[..., None],
    ) -> None:
        super().__init__(hosts, orders, scripts, **listeners)
        self._scripts = scripts
        self._named = named
        self.told = "BACKUP"
        self.down_has_run = False
        self._count_wrong_digests = on_wrong_digest

    def on_state(self, slot: int, state: str, reason: str, at_ns: int, peer: str | None) -> None:
        told = "MASTER" if state == "MASTER" else "BACKUP"
        if told != self.told:
            self.told = told
            logger.warning("Switching to state: %s", told)
        super().on_state(slot, state, reason, at_ns, peer)

    def run_down(self, host: config.VirtualHost, reason: str) -> None:
        """Runs the down script now."""
        event = {"state": "BACKUP", "previous": self.told, "reason": reason}
        self._run_script(SLOT, host, "down", event)

    def _run_hook(
        self, slot: int, host: config.VirtualHost, which: str, event: Mapping[str, object]
    ) -> None:
        if which == "down" and self.down_has_run:
            return
        self._run_script(slot, host, which, event)
        text = AFTERWARDS.get((which, str(event["reason"])))
        if text is not None:
            self._scripts.when_idle(lambda: logger.warning("%s", text))

    def _run_script(
        self, slot: int, host: config.VirtualHost, which: str, event: Mapping[str, object]
    ) -> None:
        named = msgspec.structs.replace(host, interface=self._named)
        super()._run_hook(slot, named, which, event)

    def _on_reasserted(self, report: reports.Reasserted) -> None:
        logger.warning(REASSERTED)

    def _warn_of_digest(self, slot: int, word: str, state: str) -> None:
        self._count_wrong_digests()

    def _on_sends_failing(self, report: reports.SendsFailing) -> None:
        why = os.strerror(report.error)
        logger.warning("write() has failed: %s", why)
        super()._on_sends_failing(report)
