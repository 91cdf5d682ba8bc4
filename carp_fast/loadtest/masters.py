"""Runs many well-behaved virtual hosts on one interface: `flood --hosts`.

They use the engine's state machines, each with its own source address and virtual MAC, to test the
tables of switches and the control planes of routers. Holds their numbering, and the course from
their start to their resignation. Must not know the command line.
"""

from __future__ import annotations

import ipaddress
import select
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial

import msgspec

from carp_fast.closing import Closing
from carp_fast.config.model import Settings, VirtualHost
from carp_fast.daemon.orders import ORDERS_A_BATCH
from carp_fast.daemon.plan import advertisements_per_s
from carp_fast.daemon.table import BACKUP, INIT, MASTER, STATES, Hosts
from carp_fast.engine._wheel import power_of_two
from carp_fast.engine.reports import Done, StateChanged
from carp_fast.errors import CarpFastError
from carp_fast.inet import address_bytes, mac_text
from carp_fast.net import addresses, sockets
from carp_fast.net.interfaces import Interface, LinkError, read_interfaces
from carp_fast.net.kernel import PACKET_IGNORE_OUTGOING, SOL_PACKET
from carp_fast.net.memberships import Joins
from carp_fast.pump._pump import Pump

VHIDS = 255
BLOCKS = 256  # each with VHIDS virtual hosts and a group of its own
HOSTS_MAX = VHIDS * BLOCKS
REPORTS_MIN = 8192
# RFC 2544 and RFC 5180 reserve these networks for tests of equipment.
VIRTUAL_BASE = ipaddress.IPv4Address("198.19.0.1")
SOURCE_BASES = (ipaddress.IPv4Address("198.18.0.1"), ipaddress.IPv4Address("198.18.128.1"))
VIRTUAL6_BASE = ipaddress.IPv6Address("2001:2::1")
SOURCE6_BASES = (ipaddress.IPv6Address("fe80::c612:1"), ipaddress.IPv6Address("fe80::c613:1"))
BACKUP_ADVSKEW = 100
DEMOTION = 240
PASSPHRASE = b"carp-fast flood"
WAIT_S = 0.1  # longest time between looks at the reports of the pumps
ORDERS_DEADLINE_S = 30.0
LINK_EVERY_S = 0.5  # between checks of the link


class MastersError(CarpFastError):
    """Raised when the virtual hosts cannot start or continue; the text is one line."""


class Held(msgspec.Struct, frozen=True):
    """The numbers of virtual hosts by state at a moment, and counters since the start.

    `interrupted`: they resigned before their time was over.
    """

    seconds: float
    master: int
    backup: int
    init: int
    advertisements_sent: int
    advertisements_heard: int
    became_master: int
    send_errors: int
    socket_dropped: int
    interrupted: bool = False


def virtual_host(
    interface: str,
    number: int,
    *,
    part: int = 0,
    families: Sequence[int] = (4,),
    advbase: int = 1,
    advskew: int = 0,
) -> VirtualHost:
    """The virtual host `number` (from 0), 255 in a group; with `part` 1 the backup of part 0's."""
    return VirtualHost(
        interface=interface,
        vhid=1 + number % VHIDS,
        addresses=tuple(
            f"{VIRTUAL_BASE + number}/32" if family == 4 else f"{VIRTUAL6_BASE + number}/128"
            for family in families
        ),
        unsigned_addresses=(),
        settings=_settings(number, part, advbase, advskew),
    )


def _settings(number: int, part: int, advbase: int, advskew: int) -> Settings:
    block = number // VHIDS
    return Settings(
        passphrase=PASSPHRASE,
        source=str(SOURCE_BASES[part] + number),
        source6=str(SOURCE6_BASES[part] + number),
        advbase=advbase,
        advskew=advskew,
        preempt=True if part == 0 else "demoted",
        destination=f"239.112.0.{block}" if block else "224.0.0.18",
        destination6=f"ff12::112:{block:x}" if block else "ff02::12",
        advertise_mac=_mac(number, part),
        manage_addresses=False,
    )


def _mac(number: int, part: int) -> str:
    """The virtual MAC in the first block; other blocks need other MACs for the same vhids."""
    block, vhid = number // VHIDS, 1 + number % VHIDS
    if block == 0:
        return mac_text(bytes((0, 0, 0x5E, 0, part, vhid)))
    return mac_text(bytes((2, 0, 0x5E, part, block, vhid)))


class Party(Closing):
    """Virtual hosts with a pump of their own; a context manager.

    Created in the network namespace of the interface. Raises MastersError.
    """

    def __init__(
        self, interface: Interface, hosts: Sequence[VirtualHost], *, hears_own: bool = False
    ) -> None:
        self._interface = interface
        self._stack = ExitStack()
        self._done: set[int] = set()
        self.hosts = Hosts()
        self._wanted = hosts
        try:
            rate = sum(map(advertisements_per_s, hosts))
            receiver = self._stack.enter_context(sockets.open_receiver(rate))
            # Advertisements of the other party leave by the same interface.
            receiver.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, not hears_own)
            sender = self._stack.enter_context(sockets.open_sender())
            netlink = self._stack.enter_context(sockets.open_netlink())
            self._joins = Joins(receiver)
            self._stack.callback(self._joins.close)
            self.pump = Pump(
                [("packet", receiver.fileno())],
                sender.fileno(),
                netlink.fileno(),
                addresses.templates(),
                power_of_two(max(2 * len(hosts), REPORTS_MIN)),
            )
            groups = {address_bytes(group) for host in hosts for group in host.destinations}
            self._joins.join(interface.name, interface.ifindex, groups)
            sockets.filter_interfaces({"packet": receiver}, [interface.ifindex])
        except OSError as error:
            self._stack.close()
            raise MastersError(f"cannot open a socket: {error.strerror}") from error

    def close(self) -> None:
        self.pump.stop()
        self._stack.close()

    def start(self) -> None:
        """Starts every virtual host as BACKUP; it becomes MASTER if it hears no other."""
        self.pump.start("nice")
        self.pump.set_interface(
            self.hosts.number(self._interface.name),
            ifindex=self._interface.ifindex,
            up=self._interface.up,
            mac=self._interface.mac,
        )
        self.order(partial(self._add, host) for host in self._wanted)

    def _add(self, host: VirtualHost) -> None:
        self.pump.add(self.hosts.take(host), self.hosts.prepare(host))

    def demote(self, demotion: int) -> None:
        """Adds `demotion` to every advskew."""
        slots = range(len(self._wanted))
        self.order(partial(self.pump.demote, slot, demotion) for slot in slots)

    def resign(self) -> None:
        """Makes every MASTER resign, and waits for it."""
        self.pump.resign_all()
        self._await(self.pump.mark(when_settled=True))

    def order(self, orders: Iterable[Callable[[], object]]) -> None:
        """Gives orders in batches, each after the previous one was carried out."""
        for number, order in enumerate(orders, 1):
            order()
            if number % ORDERS_A_BATCH == 0:
                self._await(self.pump.mark())
        self._await(self.pump.mark())

    def _await(self, mark: int) -> None:
        end_at = time.monotonic() + ORDERS_DEADLINE_S
        while mark not in self._done:
            if time.monotonic() > end_at:
                raise MastersError(f"orders were not carried out within {ORDERS_DEADLINE_S:g} s")
            select.select([self.pump.report_fd], [], [], WAIT_S)
            self.take()
        self._done.clear()

    def take(self) -> None:
        """Takes the reports of the pump: states, and marks that are done."""
        for report in self.pump.take_reports():
            if isinstance(report, StateChanged):
                self.hosts.states[report.slot] = STATES.index(report.state)
            elif isinstance(report, Done):
                self._done.add(report.mark)

    def counters(self) -> dict[str, int]:
        """The engine's counters of the interface."""
        snapshot = self.pump.snapshot_interfaces(1)
        self._await(self.pump.mark())
        (counters,) = snapshot.counters()
        return counters


class Masters(Closing):
    """The virtual hosts of one or two parties on one interface; a context manager.

    `election`: half of `count` are backups of the other half. Created in the network namespace of
    the interface. Raises MastersError.
    """

    def __init__(
        self,
        interface: str,
        count: int,
        *,
        election: bool = False,
        families: Sequence[int] = (4,),
        advbase: int = 1,
        advskew: int = 0,
    ) -> None:
        if not 1 + election <= count <= HOSTS_MAX:
            allowed = f"{1 + election} to {HOSTS_MAX:,} (HOSTS_MAX)"
            raise MastersError(f"{count} virtual hosts; allowed: {allowed}")
        self._name = interface
        self._begun_at = time.monotonic()
        found = self._find()
        backups = count // 2 if election else 0
        self.parties: list[Party] = []
        self._stack = ExitStack()
        try:
            for part, size in enumerate((count - backups, backups)):
                if size:
                    skew = advskew + part * BACKUP_ADVSKEW
                    hosts = [
                        virtual_host(
                            interface,
                            number,
                            part=part,
                            families=families,
                            advbase=advbase,
                            advskew=skew,
                        )
                        for number in range(size)
                    ]
                    party = Party(found, hosts, hears_own=election)
                    self.parties.append(self._stack.enter_context(party))
        except BaseException:
            self._stack.close()
            raise

    def close(self) -> None:
        self._stack.close()

    def run(
        self,
        duration_s: float,
        show: Callable[[Held], None],
        every_s: float = 1.0,
        *,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Held:
        """Runs the virtual hosts for `duration_s`, then makes them resign.

        Calls `show` every `every_s` seconds. Returns the states before the resignation and the
        counters after it. With an election the masters are demoted for the middle third of the
        time, so that their backups take over, and then the masters again. `stopped` is asked every
        WAIT_S; once it says True, the time is over. Raises MastersError when the link is lost.
        """
        self._begun_at = time.monotonic()
        for party in self.parties:
            party.start()
        interrupted = self._hold(duration_s, show, every_s, stopped)
        at_end = self.held()
        for party in reversed(self.parties):  # backups first, so that they do not take over
            party.resign()
        states = {name: getattr(at_end, name) for name in ("seconds", "master", "backup", "init")}
        return msgspec.structs.replace(self.held(), interrupted=interrupted, **states)

    def _hold(
        self,
        duration_s: float,
        show: Callable[[Held], None],
        every_s: float,
        stopped: Callable[[], bool],
    ) -> bool:
        """Lets the time pass; True if it was stopped early."""
        demotions = [(duration_s / 3, DEMOTION), (2 * duration_s / 3, 0)]
        shown_at, looked_at = every_s, LINK_EVERY_S
        while (elapsed_s := time.monotonic() - self._begun_at) < duration_s:
            if stopped():
                return True
            if len(self.parties) > 1 and demotions and elapsed_s >= demotions[0][0]:
                self.parties[0].demote(demotions.pop(0)[1])
            if elapsed_s >= looked_at:
                looked_at += LINK_EVERY_S
                self._find()
            if elapsed_s >= shown_at:
                shown_at += every_s
                show(self.held())
            descriptors = [party.pump.report_fd for party in self.parties]
            select.select(descriptors, [], [], min(WAIT_S, duration_s - elapsed_s))
            for party in self.parties:
                party.take()
        return False

    def held(self) -> Held:
        """The current states and counters."""
        counters = [party.counters() for party in self.parties]
        states = b"".join(party.hosts.states for party in self.parties)
        return Held(
            seconds=round(time.monotonic() - self._begun_at, 3),
            master=states.count(MASTER),
            backup=states.count(BACKUP),
            init=states.count(INIT),
            socket_dropped=sum(party.pump.facts.dropped for party in self.parties),
            interrupted=False,
            **{
                name: sum(each[name] for each in counters)
                for name in (
                    "advertisements_sent",
                    "advertisements_heard",
                    "became_master",
                    "send_errors",
                )
            },
        )

    def _find(self) -> Interface:
        """The current state of the interface. Raises MastersError if it cannot be used."""
        try:
            found = read_interfaces([self._name])[self._name]
        except LinkError as error:
            raise MastersError(str(error)) from error
        if not found.ifindex:
            raise MastersError(f"{self._name}: no such interface")
        if len(found.mac) != 6:
            raise MastersError(f"{self._name}: not an Ethernet interface")
        if not found.up:
            raise MastersError(f"{self._name}: the link is down")
        return found
