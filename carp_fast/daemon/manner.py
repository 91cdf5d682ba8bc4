"""How a daemon interacts with users and programs: hooks, files, signals, log lines.

`Manner` is the interface that a daemon gets. `Own` is carp-fast's implementation of it; ucarp's is
in ucarp/manner. Must not know sockets, interfaces, or how a daemon starts and ends.
"""

from __future__ import annotations

import logging
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from carp_fast.control.documents import Demotion, GroupStatus
from carp_fast.daemon.hooks import Done, Hook, HookRunner, Hooks
from carp_fast.daemon.host_log import HostLog
from carp_fast.daemon.table import every_address

if TYPE_CHECKING:
    from carp_fast.config.load import Daemon as Settings
    from carp_fast.config.load import VirtualHost
    from carp_fast.daemon.orders import Orders
    from carp_fast.engine._prepared import PreparedHost


class Controls(NamedTuple):
    """Functions with which a manner controls its daemon, on the loop's thread.

    `stop` ends it; `reload` reads the configuration again; `in_background` runs a coroutine, which
    is cancelled when the daemon ends; `prepare` takes the same arguments as Hosts.prepare.
    """

    stop: Callable[[], None]
    reload: Callable[[], None]
    log_summary: Callable[[], None]
    in_background: Callable[[Coroutine[Any, Any, None]], None]
    orders: Orders
    prepare: Callable[..., PreparedHost]


class Manner(ABC):
    """The interface: what differs between programs that run the same daemon.

    Every method is called on the loop's thread. `hooks` runs `up` and `down`; the daemon drains and
    closes it. `host_log` takes the lines about virtual hosts. `leaves_traces`: whether the daemon
    has a control socket and a state file.
    """

    hooks: HookRunner
    host_log: HostLog
    leaves_traces: bool

    # -- its life, in this order

    @abstractmethod
    def signals(self, controls: Controls) -> Mapping[int, Callable[[], None]]:
        """The handler of each signal, by its number."""

    @abstractmethod
    def on_starting(self) -> None:
        """Called when the sockets are open and nothing was changed or sent. Raises StartError."""

    @abstractmethod
    def on_started(self, controls: Controls) -> None:
        """Called when every virtual host takes part."""

    @abstractmethod
    def on_reload(self, settings: Settings) -> None:
        """Called when a reload has changed the daemon's settings."""

    @abstractmethod
    async def on_leaving(self, controls: Controls) -> None:
        """Called when the daemon ends, and awaited before any MASTER resigns."""

    # -- what the pump reports

    @abstractmethod
    def on_state(self, state: str) -> None:
        """Called for each change of state, before the daemon logs its own line."""

    @abstractmethod
    def run_hook(
        self,
        generation: int,
        host: VirtualHost,
        which: str,
        event: Mapping[str, object],
        done: Done | None,
    ) -> None:
        """Starts `up` or `down`, if the host has one; `event`: state, previous, reason, demotion,
        group.

        `generation` is the one in Hosts, of the host: however a reload changes it, its hooks stay
        in order. `done` gets the result, if there is one.
        """

    @abstractmethod
    def on_reasserted(self, name: str, peer: str) -> None:
        """Called when a MASTER has answered a slower one; logs it. `name`: "eth0/7"."""

    @abstractmethod
    def on_wrong_digest(self, name: str, word: str, state: str) -> None:
        """Called for advertisements with a wrong digest, at most once a minute; logs them.

        `word`: "other_master" or "bad_auth", the counter's name.
        """

    @abstractmethod
    def on_sends_failing(self, why: str) -> None:
        """Called when no advertisement was sent for an interval, before the daemon logs it."""


class Own(Manner):
    """The manner of `carp-fast run`."""

    leaves_traces = True

    def __init__(self, hooks: Hooks, host_log: HostLog) -> None:
        self.hooks: Hooks = hooks
        self.host_log = host_log

    def signals(self, controls: Controls) -> Mapping[int, Callable[[], None]]:
        """SIGTERM and SIGINT end the daemon, SIGHUP reloads, SIGUSR1 logs a summary."""
        return {
            signal.SIGTERM: controls.stop,
            signal.SIGINT: controls.stop,
            signal.SIGHUP: controls.reload,
            signal.SIGUSR1: controls.log_summary,
        }

    def on_starting(self) -> None:
        """Does nothing."""

    def on_started(self, controls: Controls) -> None:
        """Does nothing: the daemon itself notifies the service manager."""

    def on_reload(self, settings: Settings) -> None:
        """Changes the limits of hooks."""
        self.hooks.concurrency = settings.hook_concurrency
        self.hooks.timeout_s = settings.hook_timeout_s

    async def on_leaving(self, controls: Controls) -> None:
        """Does nothing: `down` runs after a MASTER has resigned."""

    def on_state(self, state: str) -> None:
        """Does nothing."""

    def run_hook(
        self,
        generation: int,
        host: VirtualHost,
        which: str,
        event: Mapping[str, object],
        done: Done | None,
    ) -> None:
        """Submits the hook, in order with the others of the virtual host."""
        hook = hook_for(host, which, event)
        if hook is not None:
            self.hooks.submit(generation, host.name, hook, done)

    def on_reasserted(self, name: str, peer: str) -> None:
        """Logs which master was answered."""
        self.host_log.log(logging.INFO, name, f"answered the slower master {peer}, still MASTER")

    def on_wrong_digest(self, name: str, word: str, state: str) -> None:
        """Logs it, with possible causes."""
        text = f"{word}: advertisements with a wrong digest while {state}"
        self.host_log.log(logging.WARNING, name, f"{text} (another passphrase or address list?)")

    def on_sends_failing(self, why: str) -> None:
        """Does nothing."""


def hook_for(host: VirtualHost, which: str, event: Mapping[str, object]) -> Hook | None:
    """`up` or `down` of a virtual host with its arguments; None if it has none."""
    target = host.settings.up if which == "up" else host.settings.down
    if target is None:
        return None
    demotion = cast(Demotion, event["demotion"])
    group = cast(GroupStatus | None, event.get("group"))
    return Hook(
        event="up" if which == "up" else "down",
        target=target,
        interface=host.interface,
        address=host.addresses[0].partition("/")[0],
        xparam=host.settings.xparam,
        environment={
            "CARP_INTERFACE": host.interface,
            "CARP_VHID": str(host.vhid),
            "CARP_STATE": str(event["state"]),
            "CARP_PREVIOUS": str(event["previous"]),
            "CARP_REASON": str(event["reason"]),
            "CARP_DEMOTION": str(demotion.total),
            "CARP_DEMOTION_REASONS": " ".join(f"{k}={n}" for k, n in demotion.reasons.items()),
            "CARP_GROUP": "" if group is None else group.name,
            "CARP_GROUP_DEMOTED_BY": " ".join(group.because) if group and group.demoted else "",
            "CARP_ADDRESSES": " ".join(every_address(host)),
            "CARP_NAME": host.labels.name,
            "CARP_DESCRIPTION": host.labels.description,
            "CARP_SEGMENT": host.labels.segment,
        },
    )
