"""Reports of a pump that is not there, for a table of two virtual hosts; hooks are recorded."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from carp_fast.config.load import Settings, VirtualHost
from carp_fast.control.documents import StateEvent
from carp_fast.daemon.hooks import Hook
from carp_fast.daemon.manner import Own
from carp_fast.daemon.reports import Reports
from carp_fast.daemon.table import STATES, Hosts
from carp_fast.engine.reports import Report, StateChanged
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
        manner = Own(hooks)
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
        }
        fields = {name: usual[name] for name in kind.__struct_fields__ if name in usual}
        self.orders.pump.reports.append(kind(**{**fields, **given}))
        self.reports.on_readable()

    def change(self, state: str, reason: str, slot: int = 0, peer: bytes | None = None) -> None:
        self.tell(StateChanged, slot, state=state, reason=reason, peer=peer)
