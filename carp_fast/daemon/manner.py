"""How a daemon behaves towards people and programs: hooks, files, signals, words in the log.

`Manner` is the interface that a daemon is given; `Own` is carp-fast's. Another program's manners
(see ucarp/manner) implement the same. Must not know sockets, interfaces or how a daemon is started.
"""

from __future__ import annotations

import logging
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from carp_fast.daemon.hooks import Done, Hook, HookRunner, Hooks
from carp_fast.daemon.table import every_address

if TYPE_CHECKING:
    from carp_fast.config.load import Daemon as Settings
    from carp_fast.config.load import VirtualHost
    from carp_fast.daemon.orders import Orders
    from carp_fast.engine._prepared import PreparedHost

logger = logging.getLogger(__name__)


class Controls(NamedTuple):
    """What a manner may have its daemon do, from the loop's thread.

    `in_background` runs a coroutine, at most until the daemon ends; `prepare` is as Hosts.prepare.
    """

    stop: Callable[[], None]
    reload: Callable[[], None]
    log_summary: Callable[[], None]
    in_background: Callable[[Coroutine[Any, Any, None]], None]
    orders: Orders
    prepare: Callable[..., PreparedHost]


class Manner(ABC):
    """What differs between programs around the same daemon; all is called on the loop's thread.

    `hooks` runs `up` and `down`; the daemon drains and closes it. `leaves_traces`: whether there is
    a control socket and a state file.
    """

    hooks: HookRunner
    leaves_traces: bool

    # -- its life, in this order

    @abstractmethod
    def signals(self, controls: Controls) -> Mapping[int, Callable[[], None]]:
        """What is called for which signal."""

    @abstractmethod
    def on_starting(self) -> None:
        """The sockets are open; nothing was changed or sent. Raises StartError."""

    @abstractmethod
    def on_started(self, controls: Controls) -> None:
        """Every virtual host takes part."""

    @abstractmethod
    def on_reload(self, settings: Settings) -> None:
        """The daemon's settings are others."""

    @abstractmethod
    async def on_leaving(self, controls: Controls) -> None:
        """It ends: what is to be done before any MASTER resigns."""

    # -- what the pump reports

    @abstractmethod
    def on_state(self, state: str) -> None:
        """A virtual host is in this state; the daemon's own line in the log follows."""

    @abstractmethod
    def run_hook(
        self, host: VirtualHost, which: str, event: Mapping[str, object], done: Done | None
    ) -> None:
        """Has `up` or `down` run, where the host has one; `event`: state, previous, reason.

        `done` gets the result, if there is one.
        """

    @abstractmethod
    def on_reasserted(self, name: str, peer: str) -> None:
        """A MASTER answered a slower one."""

    @abstractmethod
    def on_wrong_digest(self, name: str, word: str, state: str) -> None:
        """Advertisements with a wrong digest were heard; at most once a minute.

        `word`: the state of affairs, "other_master" or "bad_auth".
        """

    @abstractmethod
    def on_sends_failing(self, why: str) -> None:
        """Three advertisements in a row were not sent; the daemon's own line follows."""


class Own(Manner):
    """carp-fast's."""

    leaves_traces = True

    def __init__(self, hooks: Hooks) -> None:
        self.hooks: Hooks = hooks

    def signals(self, controls: Controls) -> Mapping[int, Callable[[], None]]:
        """SIGTERM and SIGINT end it, SIGHUP reloads, SIGUSR1 logs a summary."""
        return {
            signal.SIGTERM: controls.stop,
            signal.SIGINT: controls.stop,
            signal.SIGHUP: controls.reload,
            signal.SIGUSR1: controls.log_summary,
        }

    def on_starting(self) -> None:
        """Has nothing to check."""

    def on_started(self, controls: Controls) -> None:
        """The service manager is told by the daemon."""

    def on_reload(self, settings: Settings) -> None:
        """The limits of hooks take effect at once."""
        self.hooks.concurrency = settings.hook_concurrency
        self.hooks.timeout_s = settings.hook_timeout_s

    async def on_leaving(self, controls: Controls) -> None:
        """`down` runs once a MASTER has resigned."""

    def on_state(self, state: str) -> None:
        """The daemon's own line says it."""

    def run_hook(
        self, host: VirtualHost, which: str, event: Mapping[str, object], done: Done | None
    ) -> None:
        """Submits it, in order with the others of the host."""
        hook = hook_for(host, which, event)
        if hook is not None:
            self.hooks.submit(host.identity, host.name, hook, done)

    def on_reasserted(self, name: str, peer: str) -> None:
        """Logs who was answered."""
        logger.info("%s: answered the slower master %s, still MASTER", name, peer)

    def on_wrong_digest(self, name: str, word: str, state: str) -> None:
        """Logs it, with what it may come from."""
        logger.warning(
            "%s: %s: advertisements with a wrong digest while %s (another passphrase or address"
            " list?)",
            name,
            word,
            state,
        )

    def on_sends_failing(self, why: str) -> None:
        """The daemon's own line says it."""


def hook_for(host: VirtualHost, which: str, event: Mapping[str, object]) -> Hook | None:
    """`up` or `down` of a virtual host with what it is told; None: it has none."""
    target = host.settings.up if which == "up" else host.settings.down
    if target is None:
        return None
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
            "CARP_ADDRESSES": " ".join(every_address(host)),
        },
    )
