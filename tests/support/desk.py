"""Reports of a pump that is not there, for a table of two virtual hosts; hooks are recorded."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, ClassVar

import msgspec

from carp_fast.config.load import Settings, VirtualHost
from carp_fast.control.documents import StateEvent
from carp_fast.daemon.hooks import Hook
from carp_fast.daemon.host_log import HostLog
from carp_fast.daemon.manner import Own
from carp_fast.daemon.reports import Reports
from carp_fast.daemon.table import STATES, Hosts
from carp_fast.engine.reports import (
    AddressFailed,
    AddressForeign,
    AddressGone,
    AddressRestored,
    CounterReset,
    DemoteHeard,
    DuplicateEnded,
    DuplicateSource,
    FamilyHeard,
    FamilySilent,
    OtherMaster,
    Reasserted,
    Report,
    SendsFailing,
    SendsRecovered,
    StateChanged,
    Undemoted,
    WrongDigest,
)
from carp_fast.pump.facts import PumpFacts


class RecordedHooks:
    """Takes hooks and keeps them."""

    def __init__(self) -> None:
        self.submitted: list[tuple[object, str, Hook, Any]] = []

    def submit(self, key: object, name: str, hook: Hook, done: Any = None) -> None:
        self.submitted.append((key, name, hook, done))

    @property
    def words(self) -> list[str]:
        return [f"{name} {hook.event} {hook.target}" for _, name, hook, _ in self.submitted]


class RecordedPump:
    """Gives the reports that it was given, and writes down what it is ordered."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.facts = PumpFacts(0, 0, 0, 0, 0, 10_000_000, "normal")
        self.announced: list[int] = []

    def take_reports(self, limit: int) -> list[Report]:
        taken, self.reports = self.reports[:limit], self.reports[limit:]
        return taken

    def announce(self, slot: int) -> None:
        self.announced.append(slot)


class DirectOrders:
    """Carries out at once what is posted."""

    def __init__(self) -> None:
        self.pump = RecordedPump()
        self.marks: list[int] = []

    def post(self, order: Any) -> None:
        order()

    def on_done(self, mark: int) -> None:
        self.marks.append(mark)


class Desk:
    """Reports with two virtual hosts, eth0/1 in slot 0 and eth0/2 in slot 1."""

    # Reports that are a log line about a virtual host, with what they need.
    ABOUT_HOSTS: ClassVar[list[tuple[type[Report], dict[str, Any]]]] = [
        (AddressFailed, {"address": 0, "error": 13}),
        (AddressForeign, {"address": 0}),
        (AddressRestored, {"address": 0}),
        (AddressRestored, {"address": 0, "why": "with_ours"}),
        (AddressGone, {"address": 0}),
        (Undemoted, {}),
        (DuplicateSource, {"mac": b"\x02\0\0\0\0\x09"}),
        (DuplicateEnded, {"mac": b"\x02\0\0\0\0\x09"}),
        (OtherMaster, {}),
        (WrongDigest, {}),
        (Reasserted, {"peer": bytes((192, 0, 2, 99))}),
        (CounterReset, {"mac": b"\x02\0\0\0\0\x09"}),
        (FamilySilent, {"family": 6}),
        (FamilyHeard, {"family": 6}),
        (DemoteHeard, {"demote": 7}),
        (SendsFailing, {"error": 100}),
        (SendsRecovered, {}),
    ]

    def __init__(self, publish: Any = None, **settings: Any) -> None:
        given = Settings(passphrase=b"secret", up="/bin/up", down="/bin/down", **settings)
        self.hosts = Hosts()
        for vhid in (1, 2):
            self.hosts.take(
                VirtualHost(
                    "eth0", vhid, (f"192.0.2.{vhid}/24",), (f"192.0.2.{vhid + 50}/32",), given
                )
            )
        self.hooks = RecordedHooks()
        self.orders = DirectOrders()
        hooks: Any = self.hooks
        self._later: list[Callable[[], None]] = []
        manner = Own(hooks, HostLog(lambda delay_s, call: self._later.append(call)))
        orders: Any = self.orders
        self.events: list[dict[str, Any]] = []
        self.lost: list[tuple[int, str]] = []
        self.released: list[int] = []
        self.readings = 0
        self.reports = Reports(
            self.hosts,
            orders,
            manner,
            publish=publish or self.publish,
            on_released=self.released.append,
            on_address_restored=lambda slot, text: self.lost.append((slot, text)),
            resync=self.read_all,
        )

    def publish(self, event: StateEvent) -> None:
        self.events.append(msgspec.to_builtins(event))

    def pass_time(self) -> None:
        """What was to be called later is called."""
        later, self._later = self._later, []
        for call in later:
            call()

    def read_all(self) -> None:
        self.readings += 1

    def tell(self, kind: type[Report], slot: int = 0, **given: Any) -> None:
        """A report of the class `kind`; what is not given is as it usually is."""
        usual = {
            "at_ns": time.monotonic_ns(),
            "slot": slot,
            "state": STATES[self.hosts.states[slot]],
            "previous": "INIT",
            "reason": "",
            "peer": None,
            "mac": bytes(6),
            "why": "refused",
            "error": 0,
            "configuration": self.hosts.configurations[slot],
        }
        fields = {name: usual[name] for name in kind.__struct_fields__ if name in usual}
        self.orders.pump.reports.append(kind(**{**fields, **given}))
        self.reports.on_readable()

    def change(
        self, state: str, reason: str, slot: int = 0, peer: bytes | None = None, **more: Any
    ) -> None:
        self.tell(StateChanged, slot, state=state, reason=reason, peer=peer, **more)
