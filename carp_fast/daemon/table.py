"""The slots of virtual hosts and the numbers of interfaces in the engine.

The engine uses numbers, people use names. This module converts between them, with little memory,
because there may be 131,072 virtual hosts. Must not know sockets, the loop or the control socket.
"""

from __future__ import annotations

import heapq
import time
from array import array
from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from carp_fast.config.load import Settings, VirtualHost
from carp_fast.control.documents import GroupStatus
from carp_fast.daemon.groups import Groups, LimitReached, Reported
from carp_fast.engine._engine import MAX_INTERFACES, MAX_VIRTUAL_HOSTS
from carp_fast.engine._prepared import PreparedHost
from carp_fast.engine.keys import arguments_of
from carp_fast.engine.reports import State
from carp_fast.inet import address_bytes, mac_bytes, prefix_bytes

STATES: tuple[State, ...] = ("INIT", "BACKUP", "MASTER")
INIT, BACKUP, MASTER = range(3)


def every_address(host: VirtualHost) -> tuple[str, ...]:
    """The signed and the unsigned addresses of a virtual host, in the order in which the engine
    numbers them.
    """
    return (*host.addresses, *host.unsigned_addresses)


def by_interface(hosts: Iterable[VirtualHost]) -> dict[str, list[str]]:
    """Every address that may be added, by interface: what the state file records."""
    found: dict[str, list[str]] = {}
    for host in hosts:
        if host.settings.manage_addresses:
            found.setdefault(host.interface, []).extend(every_address(host))
    return found


class _Former(NamedTuple):
    """A configuration that a reload has replaced; the engine may still report about it."""

    host: VirtualHost
    retired: tuple[str, ...]


class Places(msgspec.Struct, forbid_unknown_fields=True):
    """The places that virtual hosts have in the engine; a reload alone changes them.

    `slots`: of the virtual hosts of the configuration, in its order; `interfaces` and `groups`: the
    names in the order of their numbers; `retired`: former addresses to be removed, by slot.
    """

    slots: list[int] = []
    interfaces: list[str] = []
    groups: list[str] = []
    retired: dict[int, tuple[str, ...]] = {}


class TableState(msgspec.Struct, forbid_unknown_fields=True):
    """What a table has besides the places, for a successor; by slot, as Hosts has it.

    `generations` are in this machine's order, 8 bytes each. `counter`: of the virtual host prepared
    last; `reported`: of groups.
    """

    states: bytes = b""
    configurations: bytes = b""
    generations: bytes = b""
    generation: int = 0
    counter: int = 0
    unsettled: dict[int, set[str]] = {}
    reported: dict[str, Reported] = {}


class Hosts:
    """The daemon's table: `hosts[slot]` is a virtual host or None, `states[slot]` its last state.

    `names[number]` is an interface's name, `slots[number]` the slots of its virtual hosts. `layout`
    is another number whenever another virtual host has a slot, or none.
    """

    def __init__(self) -> None:
        self.hosts: list[VirtualHost | None] = []
        self.states = bytearray()
        # By slot: a number that no other virtual host of this run has; 0 for a free slot.
        self.generations = array("Q")
        self._generation = 0
        self.layout = 0
        self.names: list[str] = []
        self.slots: list[array[int]] = []
        # By slot: how often it was replaced, modulo 256. The engine counts the same.
        self.configurations = bytearray()
        # By slot and that number: those about which there may still be reports.
        self._former: dict[int, dict[int, _Former]] = {}
        self._retired: dict[int, tuple[str, ...]] = {}  # by slot
        self.leaving: set[int] = set()  # slots of removed virtual hosts that are not free yet
        # Those of `_retired` that may still be on the interface.
        self.unsettled: dict[int, set[str]] = {}
        self.demotion_groups = Groups()
        self._numbers: dict[str, int] = {}
        self._free: list[int] = []
        self._counter = 0  # of the virtual host prepared last
        # The last settings and their prepared arguments: virtual hosts of a table share them.
        self._settings: Settings | None = None
        self._keys: dict[str, Any] = {}

    # -- of a daemon and its successor

    def places(self, configured: Iterable[VirtualHost]) -> Places:
        """The places of these virtual hosts, which are all that there are."""
        by_identity = {host.identity: slot for slot, host in self.used()}
        slots = [by_identity[host.identity] for host in configured]
        return Places(slots, list(self.names), self.demotion_groups.names, dict(self._retired))

    def take_places(self, configured: Iterable[VirtualHost], places: Places) -> None:
        """Gives these virtual hosts the places that they have in another process.

        The table must be empty. Raises ValueError if they do not fit, and LimitReached.
        """
        found = dict(zip(places.slots, configured, strict=True))
        if len(found) != len(places.slots) or not places.retired.keys() <= found.keys():
            raise ValueError("places of virtual hosts that do not fit together")
        size = max(found, default=-1) + 1
        if size > MAX_VIRTUAL_HOSTS or min(found, default=0) < 0:
            raise LimitReached(f"more than {MAX_VIRTUAL_HOSTS} virtual hosts")
        for name in places.interfaces:
            self.number(name)
        for group in places.groups:
            self.demotion_groups.number(group)
        self.hosts = [found.get(slot) for slot in range(size)]
        self._free = [slot for slot in range(size) if slot not in found]  # ascending: a heap
        self.states, self.configurations = bytearray(size), bytearray(size)
        self.generations = array("Q", bytes(8 * size))
        for slot in sorted(found):
            self.slots[self.number(found[slot].interface)].append(slot)
        self.layout += 1
        self._retired = dict(places.retired)
        self.unsettled = {slot: set(texts) for slot, texts in places.retired.items()}

    @property
    def state(self) -> TableState:
        """What a successor has to go on with, see go_on()."""
        return TableState(
            bytes(self.states),
            bytes(self.configurations),
            self.generations.tobytes(),
            self._generation,
            self._counter,
            self.unsettled,
            self.demotion_groups.reported,
        )

    def go_on(self, state: TableState) -> None:
        """Goes on where the table of another process was, with its places.

        Raises ValueError if it is of another size.
        """
        sizes = len(state.states), len(state.configurations), len(state.generations) // 8
        if sizes != (len(self.hosts),) * 3:
            raise ValueError(f"a table of {sizes} slots in place of {len(self.hosts)}")
        self.states = bytearray(state.states)
        self.configurations = bytearray(state.configurations)
        self.generations = array("Q", state.generations)
        self._generation = state.generation
        self._counter = max(self._counter, state.counter)
        self.unsettled = state.unsettled
        self.demotion_groups.go_on(state.reported)

    def number(self, name: str) -> int:
        """The interface's number, assigned at the first call. Raises LimitReached."""
        number = self._numbers.get(name)
        if number is None:
            number = len(self.names)
            if number >= MAX_INTERFACES:
                raise LimitReached(f"more than {MAX_INTERFACES} interfaces in one run")
            self._numbers[name] = number
            self.names.append(name)
            self.slots.append(array("I"))
        return number

    def known(self, name: str) -> int | None:
        """The interface's number; None if no virtual host has ever used it."""
        return self._numbers.get(name)

    def used_names(self) -> list[str]:
        """The interfaces that have virtual hosts now, by number."""
        return [name for name, slots in zip(self.names, self.slots, strict=True) if slots]

    def check_room(self, added: Iterable[VirtualHost], removed: int) -> None:
        """Raises LimitReached if these cannot be added once `removed` others have left."""
        count, names = 0, set(self.names)
        for host in added:
            count += 1
            names.add(host.interface)
        if len(names) > MAX_INTERFACES:
            raise LimitReached(f"more than {MAX_INTERFACES} interfaces in one run")
        used = sum(host is not None for host in self.hosts)
        if used - removed + count > MAX_VIRTUAL_HOSTS:
            raise LimitReached(f"more than {MAX_VIRTUAL_HOSTS} virtual hosts")

    def take(self, host: VirtualHost) -> int:
        """A slot for a new virtual host, the lowest that is free. Raises LimitReached."""
        number = self.number(host.interface)
        if self._free:
            slot = heapq.heappop(self._free)
            self.hosts[slot] = host
            self.states[slot] = INIT
            self.configurations[slot] = 0
        elif len(self.hosts) < MAX_VIRTUAL_HOSTS:
            slot = len(self.hosts)
            self.hosts.append(host)
            self.states.append(INIT)
            self.configurations.append(0)
            self.generations.append(0)
        else:
            raise LimitReached(f"more than {MAX_VIRTUAL_HOSTS} virtual hosts")
        self._generation += 1
        self.generations[slot] = self._generation
        self.slots[number].append(slot)
        self.layout += 1
        return slot

    def replace(self, slot: int, host: VirtualHost, retired: tuple[str, ...] = ()) -> None:
        """Changes a virtual host in a reload; `retired`: former addresses to be removed.

        The former configuration is kept for reports about it, see forget_former.
        """
        number, before = self.configurations[slot], self.hosts[slot]
        if before is not None:
            former = self._former.setdefault(slot, {})
            former[number] = _Former(before, self.retired(slot))
        self.configurations[slot] = (number + 1) % 256
        self.hosts[slot] = host
        self._retired[slot] = retired
        self.unsettled[slot] = set(retired)
        if not retired:
            del self._retired[slot], self.unsettled[slot]

    def forget_former(self) -> None:
        """Forgets all former configurations: the engine has carried out every order to replace
        one, and what it reported before was read.
        """
        self._former.clear()

    def retired(self, slot: int) -> tuple[str, ...]:
        """Former addresses of a virtual host that are to be removed, or were."""
        return self._retired.get(slot, ())

    def _configured(self, slot: int, configuration: int) -> _Former | None:
        """What a virtual host had in the configuration of a report; None: that is forgotten."""
        host = self.hosts[slot]
        if host is not None and configuration == self.configurations[slot]:
            return _Former(host, self.retired(slot))
        return self._former.get(slot, {}).get(configuration)

    def wants(self, slot: int, address: str, configuration: int) -> bool:
        """Whether a MASTER had to have this address in the configuration of a report."""
        configured = self._configured(slot, configuration)
        return configured is not None and address in every_address(configured.host)

    def settle(self, slot: int, configuration: int, failed: Container[str]) -> None:
        """Handles that all changes of addresses in the configuration of a report have an outcome.

        What that one retired is gone, except `failed`. What a later one retired may be there.
        """
        left, configured = self.unsettled.get(slot), self._configured(slot, configuration)
        if left and configured is not None:
            left.difference_update(text for text in configured.retired if text not in failed)

    def going(self) -> dict[str, list[str]]:
        """Addresses, by interface, that are to be removed and may still exist."""
        found: dict[str, list[str]] = {}
        for slot in {*self.unsettled, *self.leaving}:
            host = self.hosts[slot]
            if host is not None and host.settings.manage_addresses:
                texts = every_address(host) if slot in self.leaving else ()
                here = found.setdefault(host.interface, [])
                here += [*texts, *sorted(self.unsettled.get(slot, ()))]
        return found

    def address(self, slot: int, number: int, configuration: int) -> str:
        """An address by its number in the engine, in the configuration of a report.

        The order: retired IPv6 ones, which are removed before another takes their place, signed
        ones, unsigned ones, retired IPv4 ones.
        """
        if self.hosts[slot] is None:
            return "of a removed virtual host"
        configured = self._configured(slot, configuration)
        if configured is None:
            return "of a former configuration"
        host, retired = configured
        six = tuple(text for text in retired if ":" in text)
        every = (*six, *every_address(host), *(text for text in retired if ":" not in text))
        return every[number] if number < len(every) else "of a former configuration"

    def give_back(self, slot: int) -> None:
        """Frees a slot that the engine has released."""
        host = self.hosts[slot]
        self._former.pop(slot, None)
        self._retired.pop(slot, None)
        self.unsettled.pop(slot, None)
        self.leaving.discard(slot)
        if host is not None:
            self.slots[self.number(host.interface)].remove(slot)
            self.hosts[slot] = None
            self.states[slot] = INIT
            self.generations[slot] = 0
            self.layout += 1
            heapq.heappush(self._free, slot)

    def only_now(self, slot: int, order: Callable[[], object]) -> Callable[[], None]:
        """`order`, without effect once the virtual host that has the slot now has left it: orders
        that are posted may be given after the slot's next virtual host was added.
        """
        generation = self.generations[slot]

        def checked() -> None:
            if self.generations[slot] == generation:
                order()

        return checked

    def name(self, slot: int) -> str:
        """ "eth0/7", for log lines."""
        host = self.hosts[slot]
        return host.name if host is not None else f"slot {slot}"

    def group_status(self, host: VirtualHost) -> GroupStatus | None:
        """The group of a virtual host as it was last reported; None: it is in none."""
        group = host.settings.group
        return None if group is None else self.demotion_groups.status(group)

    def group_statuses(self) -> list[GroupStatus]:
        """Every group that has virtual hosts, in the order of these."""
        every = (host.settings.group for _, host in self.used())
        groups = {group.name: group for group in every if group is not None}
        return [self.demotion_groups.status(group) for group in groups.values()]

    def used(self) -> Iterator[tuple[int, VirtualHost]]:
        """(slot, virtual host) of every slot in use."""
        for slot, host in enumerate(self.hosts):
            if host is not None:
                yield slot, host

    def matching(
        self, interface: str | None, vhid: int | None
    ) -> Iterator[tuple[int, VirtualHost]]:
        """(slot, virtual host) of those with this interface and vhid; None: any."""
        for slot, host in self.used():
            if interface in (None, host.interface) and vhid in (None, host.vhid):
                yield slot, host

    def manages_addresses(self, number: int) -> bool:
        """Whether we add the addresses of any virtual host of the interface."""
        return any(
            host is not None and host.settings.manage_addresses
            for host in (self.hosts[slot] for slot in self.slots[number])
        )

    def needs_source(self, number: int, family: int = 4) -> bool:
        """Whether a virtual host of the interface uses its own address of a family (4 or 6) as
        source.
        """
        return any(
            host is not None
            and (host.settings.source if family == 4 else host.settings.source6) is None
            and family in host.families
            for host in (self.hosts[slot] for slot in self.slots[number])
        )

    def virtual_addresses(self, number: int) -> set[bytes]:
        """The virtual addresses of an interface, 4 or 16 bytes each: never a source."""
        found = set()
        for slot in self.slots[number]:
            host = self.hosts[slot]
            if host is not None:
                for address in every_address(host):
                    found.add(prefix_bytes(address)[0])
        return found

    def groups(self, number: int) -> set[bytes]:
        """The multicast groups of an interface, 4 or 16 bytes each; hosts with peers have none."""
        texts: set[str] = set()
        for slot in self.slots[number]:
            host = self.hosts[slot]
            if host is not None and not host.settings.peers:
                texts.update(host.destinations)
        return {address_bytes(group) for group in texts}

    def peers(self, number: int) -> set[bytes]:
        """The unicast peers of an interface's virtual hosts, 4 or 16 bytes each."""
        texts: set[str] = set()
        for slot in self.slots[number]:
            host = self.hosts[slot]
            if host is not None:
                texts.update(host.settings.peers)
        return {address_bytes(peer) for peer in texts}

    def prepare(
        self,
        host: VirtualHost,
        *,
        retired: Iterable[str] = (),
        replacing: bool = False,
        barred: bool = False,
        missing: tuple[bool, bool] = (False, False),
        by_route: bool = False,
        withheld: bool = False,
    ) -> PreparedHost:
        """A virtual host in the form that the engine takes.

        `retired`: former addresses to be removed; `barred`: another process of this machine has it;
        `missing`: whether this host lacks its configured source, IPv4 and IPv6; `by_route`: its
        IPv4 addresses are added as local routes; `withheld`: it takes no part, in maintenance.
        """
        # The counters of advertisements start from the wall clock, so that a restart, or a virtual
        # host that is added again, continues above the former ones: hosts that refuse old counters
        # accept it.
        self._counter = max(self._counter + 1, time.time_ns())
        settings, group = host.settings, host.settings.group
        source, source6, lladdr = settings.source, settings.source6, settings.lladdr
        missing4, missing6 = missing
        if settings is not self._settings:
            self._settings, self._keys = settings, arguments_of(settings)
        keys = dict(self._keys)
        if ":" in settings.advertise_mac:  # an individual one, which a configuration cannot have
            keys["advertise_mac"] = mac_bytes(settings.advertise_mac)
        return PreparedHost(
            interface=self.number(host.interface),
            vhid=host.vhid,
            addresses=[prefix_bytes(address) for address in host.addresses],
            unsigned_addresses=[prefix_bytes(a) for a in host.unsigned_addresses],
            retired_addresses=[prefix_bytes(address) for address in retired],
            passphrase=settings.passphrase,
            destination=address_bytes(settings.destination),
            destination6=address_bytes(settings.destination6),
            broadcast=settings.broadcast,
            peers=[address_bytes(peer) for peer in settings.peers],
            source=None if source is None else address_bytes(source),
            source6=None if source6 is None else address_bytes(source6),
            source_missing=missing4,
            source6_missing=missing6,
            by_route=by_route,
            lladdr=None if lladdr is None else mac_bytes(lladdr),
            announce_on_order=not settings.manage_addresses and settings.up is not None,
            counter=self._counter,
            alternates=replacing,
            barred=barred,
            group=0 if group is None else self.demotion_groups.number(group.name),
            group_all=group is not None and group.demote_when == "all",
            withheld=withheld,
            **keys,
        )
