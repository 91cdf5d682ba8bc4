"""Compares a new configuration with the running one; makes the orders that apply the difference.

Virtual hosts that are equal are not touched. Must not read files or know the control socket.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from carp_fast.config.load import Configuration, Daemon, Settings, VirtualHost
from carp_fast.config.model import Labels
from carp_fast.config.ranges import in_ranges
from carp_fast.control.documents import Reloaded, counts_text
from carp_fast.daemon.table import MASTER, Hosts, every_address

if TYPE_CHECKING:
    from carp_fast.engine._prepared import PreparedHost
    from carp_fast.pump._pump import Pump

logger = logging.getLogger(__name__)

CHANGES_REPORTED_MAX = 1000  # lines of what changed; the others are counted
CHANGES_LOGGED_MAX = 50  # ... of them in the log; the requester of the reload gets more
FORCED = "carp-fast reload --force"
NAMED_MAX = 3  # virtual hosts of a refusal, interfaces of a common change; the others are counted
AT_ONCE = frozenset(
    {
        "control_group",
        "notify",
        "hook_concurrency",
        "hook_timeout_s",
        "track_concurrency",
        "digest_grace_s",
        "maintenance_rate",
        "metrics",
        "metrics_detail",
        "metrics_public",
        "metrics_page",
    }
)
UNSEEN = frozenset({"origin"})


class Difference(NamedTuple):
    """What differs. `replaced`: (slot, new virtual host, former addresses to remove).

    `changes`: the names of virtual hosts by what is different about them, such as "added" or
    "advskew 0 -> 100"; `keys`: the keys that differ. `kept`: the virtual hosts that are equal, by
    slot. They have the new origin, and share their settings with others.
    """

    added: list[VirtualHost]
    removed: list[int]
    replaced: list[tuple[int, VirtualHost, tuple[str, ...]]]
    without_order: list[tuple[int, VirtualHost]]
    changes: dict[str, list[str]]
    keys: dict[str, None]
    kept: dict[int, VirtualHost]

    @property
    def changed(self) -> int:
        """The number of virtual hosts that change in place."""
        return len(self.replaced) + len(self.without_order)

    @property
    def lines(self) -> list[str]:
        """The differences for people, with the same change of many virtual hosts on one line:
        "eth0/1-255: advskew 0 -> 100".
        """
        lines = []
        for change, names in self.changes.items():
            found = _by_interface(names)
            if len(found) > NAMED_MAX:
                more = sum(count for _, count in found[NAMED_MAX:])
                first = ", ".join(text for text, _ in found[:NAMED_MAX])
                lines.append(f"{first} and {more:,} more: {change}")
            else:
                lines += [f"{text}: {change}" for text, _ in found]
        return lines

    @property
    def summary(self) -> str:
        """ "1 added, 0 removed, 255 changed (advskew), 12 kept"."""
        return counts_text(
            len(self.added), len(self.removed), self.changed, list(self.keys), len(self.kept)
        )


def _settings_changes(old: Settings, new: Settings) -> list[str]:
    """The keys that differ; a passphrase is named, never shown."""
    if old is new:
        return []
    changes = []
    for field in Settings.__struct_fields__:
        before, after = getattr(old, field), getattr(new, field)
        if field in UNSEEN or before == after:
            continue
        shown = f"{field} {_shown(before)} -> {_shown(after)}"
        changes.append("passphrase" if field == "passphrase" else shown)
    return changes


def _shown(value: object) -> str:
    """A value as a configuration has it, without quotes; "none" for one that is not set."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, msgspec.Struct):
        fields = msgspec.structs.asdict(value).items()
        return f"{{{', '.join(f'{name} = {_shown(field)}' for name, field in fields)}}}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _host_changes(old: VirtualHost, new: VirtualHost, settings: list[str]) -> list[str]:
    changes = list(settings)
    if old.labels != new.labels:
        changes += [
            f"{key} changed"
            for key in Labels.__struct_fields__
            if getattr(old.labels, key) != getattr(new.labels, key)
        ]
    if old.addresses == new.addresses and old.unsigned_addresses == new.unsigned_addresses:
        return changes  # nearly always
    for key in ("addresses", "unsigned_addresses"):
        before, after = set(getattr(old, key)), set(getattr(new, key))
        gone, come = sorted(before - after), sorted(after - before)
        if gone or come or getattr(old, key) != getattr(new, key):
            signs = [f"-{address}" for address in gone] + [f"+{address}" for address in come]
            changes.append(f"{key} {' '.join(signs) or 'in another order'}")
    return changes


# Hooks and labels are read when they are needed, and tracks give orders of their own: a change of
# only these needs no order.
KEYS_WITHOUT_ORDER = frozenset({"up", "down", "xparam", "track", *Labels.__struct_fields__})


class _Running:
    """The running virtual hosts, each until it has been found in the new configuration."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        self._slots = {
            host.identity: slot for slot, host in hosts.used() if slot not in hosts.leaving
        }
        self._parts: dict[tuple[str, str, int], int] | None = None  # built when it is needed
        self.left = dict.fromkeys(self._slots.values())

    def take(self, host: VirtualHost) -> int | None:
        """The slot of this virtual host; None if it does not run."""
        slot = self._slots.get(host.identity)
        if slot is None:
            slot = self._find_by_part(host)
        if slot is not None:
            del self.left[slot]
        return slot

    def _find_by_part(self, host: VirtualHost) -> int | None:
        """The slot of one that has a destination in common; each belongs to one virtual host."""
        if self._parts is None:
            self._parts = {
                (interface, destination, vhid): slot
                for (interface, destinations, vhid), slot in self._slots.items()
                for destination in destinations
            }
        for destination in host.destinations:
            slot = self._parts.get((host.interface, destination, host.vhid))
            if slot in self.left:
                before = self._hosts.hosts[slot]
                if before is not None and _goes_on(before, host):
                    return slot
        return None


def _goes_on(before: VirtualHost, now: VirtualHost) -> bool:
    """Whether two virtual hosts of one interface and vhid, with a common destination, are the same.

    Adding or removing the group of a family does not affect the other family. Another group of a
    family that stays, or other peers, make another virtual host.
    """
    old, new = before.settings, now.settings
    if old.peers or new.peers:
        return old.peers == new.peers
    common = set(before.families) & set(now.families)
    return all(
        old.destination == new.destination if family == 4 else old.destination6 == new.destination6
        for family in common
    )


def compare(hosts: Hosts, new: Configuration) -> Difference:
    """Compares the running virtual hosts with the new ones; changes nothing."""
    running = _Running(hosts)
    difference = Difference([], [], [], [], {}, {}, {})
    changed = difference.changes
    seen: dict[tuple[int, int], list[str]] = {}
    for host in new.virtual_hosts:
        slot = running.take(host)
        before = None if slot is None else hosts.hosts[slot]
        if slot is None or before is None:
            difference.added.append(host)
            changed.setdefault("added", []).append(host.name)
            continue
        pair = (id(before.settings), id(host.settings))
        if pair not in seen:
            seen[pair] = _settings_changes(before.settings, host.settings)
        changes = _host_changes(before, host, seen[pair])
        if not changes:
            difference.kept[slot] = host
            continue
        changed.setdefault(", ".join(changes), []).append(host.name)
        keys = dict.fromkeys(change.partition(" ")[0] for change in changes)
        difference.keys.update(keys)
        if keys.keys() <= KEYS_WITHOUT_ORDER and (
            (before.settings.up is None) == (host.settings.up is None)
        ):
            difference.without_order.append((slot, host))
            continue
        every = set(every_address(host))
        # Addresses that an earlier reload dropped may still exist: the kernel refused to remove
        # them.
        had = dict.fromkeys((*every_address(before), *sorted(hosts.unsettled.get(slot, ()))))
        retired = tuple(address for address in had if address not in every)
        difference.replaced.append((slot, host, retired))
    for slot in running.left:
        difference.removed.append(slot)
        changed.setdefault("removed", []).append(hosts.name(slot))
    return difference


def refusals(
    old: Configuration, new: Configuration, difference: Difference, hosts: Hosts
) -> list[str]:
    """Why a reload looks like an accident, a line each: it removes too much, or a file was
    truncated.

    `hosts` are those that run, as they were compared.
    """
    found = []
    removed, states = difference.removed, hosts.states
    masters = states.count(MASTER)
    # A virtual host with other peers or another group is removed and added: the file still has it.
    again = {(host.interface, host.vhid) for host in difference.added}
    lost = [
        slot
        for slot in removed
        if states[slot] == MASTER
        and (host := hosts.hosts[slot]) is not None
        and (host.interface, host.vhid) not in again
    ]
    if 2 * len(lost) > masters:
        found.append(
            f"{len(lost):,} of {masters:,} virtual hosts that are MASTER would be removed, more"
            f" than half ({_named(lost, hosts)})"
        )
    elif removed and not new.virtual_hosts:
        found.append(f"every virtual host would be removed ({_named(removed, hosts)})")
    for pattern, count in old.patterns.items():
        if count and new.patterns.get(pattern) == 0:
            found.append(
                f'{new.path}: include = "{pattern}" matched {count:,} files and now matches none'
            )
    for path, ended in new.ended.items():
        if old.ended.get(path) and not ended:
            found.append(f"{path} ended in a line end and now does not, as if it were truncated")
    return found


def _named(slots: list[int], hosts: Hosts) -> str:
    more = len(slots) - NAMED_MAX
    names = ", ".join(hosts.name(slot) for slot in slots[:NAMED_MAX])
    return names + (f" and {more:,} more" if more > 0 else "")


def _by_interface(names: list[str]) -> list[tuple[str, int]]:
    """(text, number of virtual hosts) for each interface: ("eth0/1-99,103", 100)."""
    vhids: dict[str, list[int]] = {}
    for name in names:
        interface, _, vhid = name.rpartition("/")
        vhids.setdefault(interface, []).append(int(vhid))
    return [
        (f"{interface}/{in_ranges(every).replace(' ', '')}", len(every))
        for interface, every in vhids.items()
    ]


def report(difference: Difference, lines: list[str], seconds: float) -> Reloaded:
    """Logs what a reload did and returns it as its answer; `lines` precede its own."""
    lines = lines + difference.lines
    for line in lines[:CHANGES_LOGGED_MAX]:
        logger.info("%s", line)
    logger.info("reloaded in %.2f s: %s", seconds, difference.summary)
    changed = lines[:CHANGES_REPORTED_MAX]
    if len(lines) > len(changed):
        changed.append(f"... and {len(lines) - len(changed)} more")
    return Reloaded(
        ok=True,
        changed=changed,
        added=len(difference.added),
        removed=len(difference.removed),
        altered=difference.changed,
        keys=list(difference.keys),
        kept=len(difference.kept),
        seconds=round(seconds, 3),
    )


def daemon_changes(old: Daemon, new: Daemon) -> list[str]:
    """A line for each key of [daemon] that differs; most need a restart."""
    lines = []
    before, after = msgspec.structs.asdict(old), msgspec.structs.asdict(new)
    for key in before:
        if before[key] != after[key]:
            when = "" if key in AT_ONCE else " (takes effect at the next start)"
            lines.append(f"daemon.{key} {_shown(before[key])} -> {_shown(after[key])}{when}")
    return lines


def moved(difference: Difference) -> list[int]:
    """Slots of virtual hosts that gained an address which another one on the interface gave up.

    If the gaining one comes first, it finds the address in use and has to look again.
    """
    given_up = {
        (host.interface, _as_the_kernel_knows(address))
        for _, host, retired in difference.replaced
        for address in retired
    }
    return [
        slot
        for slot, host, _ in difference.replaced
        if any(
            (host.interface, _as_the_kernel_knows(address)) in given_up
            for address in every_address(host)
        )
    ]


def _as_the_kernel_knows(address: str) -> str:
    """An IPv4 address with its prefix length, which distinguishes addresses; IPv6 without."""
    return address.partition("/")[0] if ":" in address else address


def orders(
    difference: Difference,
    hosts: Hosts,
    pump: Pump,
    prepare: Callable[..., PreparedHost],
    grace_ns: int,
) -> Iterator[Callable[[], object]]:
    """The orders that carry out removals and changes, one virtual host at a time.

    `prepare`: as Hosts.prepare.
    """
    for slot, host in difference.kept.items():
        hosts.hosts[slot] = host
    for slot in difference.removed:
        hosts.leaving.add(slot)
        yield partial(pump.remove, slot)
    for slot, host in difference.without_order:
        hosts.hosts[slot] = host
    for slot, host, retired in difference.replaced:
        prepared = prepare(host, retired=retired, replacing=True)
        hosts.replace(slot, host, retired)
        yield partial(pump.replace, slot, prepared, grace_ns)


def additions(
    difference: Difference,
    hosts: Hosts,
    add: Callable[[int, PreparedHost], object],
    prepare: Callable[..., PreparedHost],
    take: Callable[[int], bool],
) -> Iterator[Callable[[], object]]:
    """The orders that add virtual hosts, once the slots of removed ones are free.

    `prepare`: as Hosts.prepare; `take` returns whether this process, and not another one of this
    machine, has the virtual host of a slot.
    """
    for host in difference.added:
        slot = hosts.take(host)
        yield partial(add, slot, prepare(host, barred=not take(slot)))
