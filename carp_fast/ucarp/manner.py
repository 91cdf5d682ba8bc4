"""ucarp's manner of running the daemon: its messages, its scripts, its signals.

Holds what differs from `carp-fast run`. The daemon and the engine do the election, the wire and the
links; this module does what is visible of a ucarp with its one virtual host. Must not know how a
command line is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from carp_fast.config import load as config
from carp_fast.control.documents import NOT_DEMOTED
from carp_fast.daemon.hooks import Done
from carp_fast.daemon.host_log import HostLog
from carp_fast.daemon.manner import Controls, Manner, hook_for
from carp_fast.daemon.plan import interface_facts
from carp_fast.daemon.process import StartError, require_capabilities
from carp_fast.daemon.run import launch, open_helper
from carp_fast.daemon.user import leave_root_by_default
from carp_fast.inet import address_bytes
from carp_fast.privileged import rows, table
from carp_fast.privileged import start as helpers
from carp_fast.privileged.start import Started
from carp_fast.ucarp.log import logger
from carp_fast.ucarp.scripts import Scripts

if TYPE_CHECKING:
    from carp_fast.daemon.orders import Orders

QUIET_S = 3.0  # after SIGUSR2
# No state file and no control socket are created: only the scripts leave traces.
NOWHERE = Path("/nonexistent/carp-fast-ucarp")
EXIT_SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM)
REJECTIONS_EVERY_S = 10.0
SLOT = 0  # of the only virtual host

# What ucarp logs after the script has run, by the direction and the engine's reason.
AFTERWARDS = {
    ("up", "preempted"): "Putting MASTER down - preemption",
    ("up", "master_resigned"): "Putting MASTER DOWN (going to time out)",
    ("up", "master_too_slow"): "Putting MASTER DOWN (going to time out)",
    ("down", "faster_master"): "Preferred master advertised: going back to BACKUP state",
    ("down", "tie_lost"): "Preferred master advertised: going back to BACKUP state",
}
REASSERTED = (
    "Non-preferred master advertising: reasserting control of VIP with another gratuitous arp"
)
# Rejections that ucarp logs packet by packet; here they are counted and logged together.
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
    the address stays up. `named` is the interface as given on the command line, possibly an alias,
    which is what scripts and the log get. `started` is called once the host takes part. Raises
    StartError.
    """
    require_capabilities(managing=False)
    if not shutdown:
        for number in EXIT_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
    configuration = configuration_of(host)
    with contextlib.ExitStack() as stack:
        helper = open_helper(partial(start_helper, host, named))
        if helper is not None:
            stack.enter_context(helper)
            helper.use_first(configuration)
        privileges = stack.enter_context(leave_root_by_default(configuration))
        launch(
            configuration,
            lambda loop: Ucarp(
                Scripts(loop, helper),
                HostLog(loop.call_later),
                host,
                named=named,
                neutral=neutral,
                shutdown=shutdown,
                started=started,
            ),
            privileges,
            helper,
        )
    return 0


def start_helper(host: config.VirtualHost, named: str) -> Started | None:
    """Starts a privileged helper that knows the scripts; None if there is to be none.

    Raises HelperError.
    """
    if not helpers.wanted():
        return None
    as_scripts_get_it = configuration_of(msgspec.structs.replace(host, interface=named))
    return helpers.start(rows.encode(table.rows(as_scripts_get_it, inherits=True)))


def configuration_of(host: config.VirtualHost) -> config.Configuration:
    """The configuration of a daemon with this one virtual host."""
    # Like ucarp's pcap, a packet socket hears frames before a firewall or rp_filter drops them.
    daemon = config.Daemon(
        control_socket=NOWHERE,
        state_directory=NOWHERE,
        receive="packet",
        send="packet",  # one virtual host has no large batches
        record=0,
    )
    return config.Configuration(NOWHERE, (), daemon, [host], ())


class Ucarp(Manner):
    """The manner of ucarp with its one virtual host, which logs only two states: INIT is BACKUP."""

    leaves_traces = False

    def __init__(
        self,
        scripts: Scripts,
        host_log: HostLog,
        host: config.VirtualHost,
        *,
        named: str,
        neutral: bool,
        shutdown: bool,
        started: Callable[[], None],
    ) -> None:
        self.hooks: Scripts = scripts
        self.host_log = host_log
        self._host = host
        self._named = named
        self._neutral = neutral
        self._shutdown = shutdown
        self._started = started
        self._logged = "BACKUP"  # the state that was logged last
        self._down_has_run = False  # the down script for the next step down has already run
        self._yielding = False
        self._rejected: dict[str, int] = {}
        self._wrong_digest = asyncio.Event()

    def signals(self, controls: Controls) -> Mapping[int, Callable[[], None]]:
        """SIGUSR1 logs the state, SIGUSR2 gives up being master; the others end the daemon."""
        return {
            **dict.fromkeys(map(int, EXIT_SIGNALS if self._shutdown else ()), controls.stop),
            signal.SIGUSR1: self._log_summary,
            signal.SIGUSR2: partial(self._on_usr2, controls),
        }

    def on_starting(self) -> None:
        """Checks the interface and runs the down script. Raises StartError."""
        self._check_interface()
        logger.warning("Switching to state: BACKUP")
        if not self._neutral:
            self._run_down("started")

    def on_started(self, controls: Controls) -> None:
        """Notifies the process that waits in the foreground."""
        controls.in_background(self._log_rejections(controls.orders))
        self._started()

    def on_reload(self, settings: config.Daemon) -> None:
        """Is never called: no control socket and no signal reloads."""

    async def on_leaving(self, controls: Controls) -> None:
        """Runs the down script of a MASTER."""
        script = self._host.settings.down or ""
        logger.debug("sighandler_exit(): Calling [%s] and exiting", script)
        if self._logged == "MASTER":
            self._logged = "BACKUP"
            await self._run_down_first("resigned")

    def _check_interface(self) -> None:
        """Logs the interface's MAC. Raises StartError for an interface that ucarp refuses."""
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

    def _log_summary(self) -> None:
        logger.info("%s on %s id %d", self._logged, self._named, self._host.vhid)

    # -- scripts

    def run_hook(
        self,
        generation: int,
        host: config.VirtualHost,
        which: str,
        event: Mapping[str, object],
        done: Done | None,
    ) -> None:
        """Runs a script, and then logs what ucarp logs at this point."""
        if which == "down" and self._down_has_run:
            return
        self._run_script(host, which, event, done)
        text = AFTERWARDS.get((which, str(event["reason"])))
        if text is not None:
            self.hooks.when_idle(lambda: logger.warning("%s", text))

    def _run_down(self, reason: str) -> None:
        """Runs the down script now."""
        event: dict[str, object] = {"state": "BACKUP", "previous": self._logged, "reason": reason}
        event["demotion"], event["group"] = NOT_DEMOTED, None
        self._run_script(self._host, "down", event, None)

    def _run_script(
        self, host: config.VirtualHost, which: str, event: Mapping[str, object], done: Done | None
    ) -> None:
        hook = hook_for(msgspec.structs.replace(host, interface=self._named), which, event)
        if hook is not None:
            self.hooks.submit(SLOT, host.name, hook, done)

    async def _run_down_first(self, reason: str) -> None:
        """Runs the down script before the resignation lets another host take the address.

        Waits for the script at most as long as other hosts would wait for ucarp.
        """
        self._run_down(reason)
        self._down_has_run = True
        settings = self._host.settings
        await self.hooks.drain(
            settings.dead_ratio * max(settings.advbase, 1) + settings.advskew / 256
        )

    # -- giving up being master

    def _on_usr2(self, controls: Controls) -> None:
        logger.debug("Caught signal (USR2) considering going down")
        if self._logged == "MASTER" and not self._yielding:
            self._yielding = True
            controls.in_background(self._yield(controls))

    async def _yield(self, controls: Controls) -> None:
        """Runs the down script, resigns, pauses for three seconds, then is BACKUP as usual."""
        self._logged = "BACKUP"
        logger.warning("Switching to state: BACKUP")
        await self._run_down_first("demoted")
        # With an interval of 255 s every master heard is preferred, and none is ever declared dead.
        quiet = msgspec.structs.replace(self._host.settings, advbase=255)
        self._replace(controls, msgspec.structs.replace(self._host, settings=quiet))
        orders = controls.orders
        orders.post(lambda: orders.pump.lose_address(SLOT, demoted=False))
        await asyncio.sleep(QUIET_S)
        self._replace(controls, self._host)
        await orders.done()
        self._down_has_run = False
        self._yielding = False

    def _replace(self, controls: Controls, host: config.VirtualHost) -> None:
        prepared = controls.prepare(host, replacing=True)
        controls.orders.post(lambda: controls.orders.pump.replace(SLOT, prepared, 0))

    # -- what the pump reports

    def on_state(self, state: str) -> None:
        """Logs MASTER or BACKUP if it has changed."""
        shown = "MASTER" if state == "MASTER" else "BACKUP"
        if shown != self._logged:
            self._logged = shown
            logger.warning("Switching to state: %s", shown)

    def on_reasserted(self, name: str, peer: str) -> None:
        """Logs it in ucarp's words."""
        logger.warning(REASSERTED)

    def on_wrong_digest(self, name: str, word: str, state: str) -> None:
        """Starts counting rejections."""
        self._wrong_digest.set()

    def on_sends_failing(self, why: str) -> None:
        """Logs it in ucarp's words."""
        logger.warning("write() has failed: %s", why)

    async def _log_rejections(self, orders: Orders) -> None:
        """Logs one line for all rejections since the last one; ucarp logs one for each packet."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REJECTIONS_EVERY_S):
                    await self._wrong_digest.wait()
            self._wrong_digest.clear()
            await self._count_rejections(orders)

    async def _count_rejections(self, orders: Orders) -> None:
        snapshot = orders.pump.snapshot(SLOT, 1)
        wire = orders.pump.snapshot_interfaces(1)
        await orders.done()
        [(_, host)], [interface] = snapshot.hosts(), wire.counters()
        # The others were rejected before their vhid was read.
        counters = {**interface, "bad_auth": host.counters["bad_auth"]}
        for word, text in REJECTIONS.items():
            fresh = counters[word] - self._rejected.get(word, 0)
            if fresh:
                logger.warning("%s", text.format(fresh))
            self._rejected[word] = counters[word]
