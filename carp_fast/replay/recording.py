"""Converts a daemon's ring of records to a scenario: its virtual hosts, and a transcript.

A virtual host begins with the first of its states that is still in the ring, or with its last
configuration; older records are left out because they belong to other settings. No secret is
written: the player signs frames that had a valid digest with a passphrase of its own. Must not know
the pump's thread, the control socket or files.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from carp_fast.config.model import AnnounceRate
from carp_fast.control.documents import RecordingHead
from carp_fast.control.requests import RecordRequest
from carp_fast.control.slices import document_slices, in_slices
from carp_fast.engine._recorder import RECORD_BYTES
from carp_fast.engine._wheel import power_of_two
from carp_fast.engine.keys import ALL_KEYS, KEYS
from carp_fast.inet import address_text, mac_text, prefix_text
from carp_fast.replay.scenario import (
    HEARD_MAC,
    INTERFACE_FLAGS,
    seconds_text,
    toml_lines,
)

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from carp_fast.config.load import VirtualHost
    from carp_fast.daemon.orders import Orders
    from carp_fast.daemon.table import Hosts
    from carp_fast.engine._engine import _Record
    from carp_fast.pump._pump import Pump
    from carp_fast.pump._snapshots import Records

RECORDS_MIN = 1024
USUAL_PACE = list(msgspec.structs.astuple(AnnounceRate()))
TICK_NS = 1_000_000  # resolution of the engine's deadlines
# The ring grows to as many records for each virtual host. In each half of the ring a host's state
# is written before its first record there: with fewer, states would take most of room and time.
RECORDS_A_HOST = 32
STATE_RECORDS = 8  # that a host's state takes, or fewer, unless it remembers many sources
RECORDS_A_SLICE = 4096  # copied by the pump at a time: 256 KiB
# Settings that the engine's record of a state does not contain, with their defaults.
DESTINATIONS = (
    ("destination", "224.0.0.18"),
    ("destination6", "ff02::12"),
    ("peers", ()),
    ("lladdr", None),
    ("broadcast", False),
)


DECISIONS = ("state", "advertised", "added", "removed", "changed", "announced", "undemoted")
# Flags of a state that a virtual host may have from its beginning.
BEGUN_WITH = ("barred", "withheld")


class Recorded(NamedTuple):
    """A virtual host of the daemon: its configuration, and former addresses to be removed."""

    host: VirtualHost
    retired: tuple[str, ...] = ()


class Copy(NamedTuple):
    """A copy of the ring. `overwritten`: older records; `unrecorded`: those never written to it."""

    records: list[_Record]
    overwritten: int
    unrecorded: int


def capacity(records: int, hosts: int) -> int:
    """The ring's size for `daemon.record` and so many virtual hosts: a power of two, 0 for none."""
    if records == 0:
        return 0
    return power_of_two(max(records, RECORDS_A_HOST * hosts, RECORDS_MIN))


def budget(records: int, hosts: int, advertisements_per_s: float) -> str:
    """What the ring takes and holds with `daemon.record`, as a sentence."""
    size = capacity(records, hosts)
    if not size:
        return "nothing is recorded (daemon.record = 0)"
    text = f"{size * RECORD_BYTES / (1 << 20):,.1f} MiB for the last {size:,} records"
    room = size - 2 * STATE_RECORDS * hosts
    if advertisements_per_s:
        text += f": about {room / advertisements_per_s:,.0f} s of advertisements alone"
    return text


async def answer(
    request: RecordRequest, hosts: Hosts, orders: Orders, worker: Executor
) -> AsyncIterator[bytes]:
    """The recording of the matching virtual hosts, in slices."""
    interface, vhid = request.interface, request.vhid
    wanted = {
        slot: Recorded(host, hosts.retired(slot)) for slot, host in hosts.matching(interface, vhid)
    }
    names, slices = list(hosts.names), await copy_slices(orders, slot_flags(wanted))
    at = datetime.now(UTC).isoformat(timespec="seconds")
    story = [f"Recorded by carp-fast on {socket.gethostname()}, {at}."]

    def written() -> tuple[Copy, list[str]]:
        copy = joined(slices)
        return copy, list(as_scenario(copy, wanted, names, story, vhid))

    copy, lines = await asyncio.get_running_loop().run_in_executor(worker, written)
    head = RecordingHead(
        records=len(copy.records),
        overwritten=copy.overwritten,
        unrecorded=copy.unrecorded,
        virtual_hosts=sum(line == "[[host]]" for line in lines),
    )
    return document_slices("recording", head, "lines", in_slices(lines))


def slot_flags(slots: Iterable[int]) -> bytes:
    """A byte for each slot up to the last of these: 1 for these, otherwise 0."""
    flags = bytearray(max(slots := list(slots), default=-1) + 1)
    for slot in slots:
        flags[slot] = 1
    return bytes(flags)


async def copy_slices(orders: Orders, wanted: bytes) -> list[Records]:
    """Copies the ring in slices, so that advertisements wait for no more than one of them.

    Of virtual hosts only the records of those with a 1 in `wanted` are kept, see slot_flags.
    """
    pump: Pump = orders.pump
    slices: list[Records] = []
    position, end = 0, None
    while end is None or position < end:
        await orders.room_for(1)
        taken = pump.records(position, RECORDS_A_SLICE)
        await orders.done()
        if slices and taken.first > position:
            slices.clear()  # records were overwritten meanwhile: begin after the gap
        slices.append(taken)
        end = taken.end if end is None else end
        position = taken.first + taken.count
        if not taken.count:
            break
        taken.keep_only(wanted)
    return slices


def joined(slices: Sequence[Records]) -> Copy:
    from carp_fast.pump._snapshots import joined_records

    first, last = slices[0], slices[-1]
    return Copy(joined_records(list(slices)), first.first - first.begin, last.unrecorded)


# ------------------------------------------------------------------------------------ the writer


def configured_table(host: VirtualHost) -> dict[str, Any]:
    """A configured virtual host as a table of a scenario, with its passphrase: not for files."""
    table: dict[str, Any] = {
        "interface": host.interface,
        "vhid": host.vhid,
        "addresses": list(host.addresses),
        "unsigned_addresses": list(host.unsigned_addresses),
        "passphrase": host.settings.passphrase_text.decode("utf-8", "surrogateescape"),
    }
    for key in KEYS:
        key.put_into(table, key.of(host.settings))
    for name in ("source", "source6", *(name for name, _ in DESTINATIONS)):
        value = getattr(host.settings, name)
        if value is not None:
            table[name] = value
    return table


def names_of(hosts: dict[int, Recorded]) -> dict[int, str]:
    """A name for each slot: "eth0/7", with the first destination if two would be equal."""
    count = Counter(recorded.host.name for recorded in hosts.values())
    names = {}
    for slot, (host, _) in hosts.items():
        names[slot] = host.name
        if count[host.name] > 1:
            names[slot] += f"@{host.destinations[0]}"
    return names


class Writer:
    """Converts records to the lines of a transcript and the tables of its hosts.

    `vhid` as in as_scenario. A host begins with its last state at or before `since_ns`, or else
    with its first.
    """

    def __init__(
        self,
        copy: Copy,
        hosts: dict[int, Recorded],
        interfaces: Sequence[str],
        vhid: int | None,
        since_ns: int = 0,
    ) -> None:
        self.copy = copy
        self.hosts = hosts
        self.interfaces = interfaces
        self.vhid = vhid
        self.names = names_of(hosts)
        self.tables: dict[int, dict[str, Any]] = {}
        self.lines: list[tuple[int, str]] = []
        self.begins: dict[int, int] = {}
        self.top: dict[str, Any] = {}
        self._begun: set[int] = set()
        self.used: set[int] = set()  # interfaces
        self._states: dict[int, dict[str, Any]] = {}  # of interfaces, as last written
        self._turn: tuple[int, int] | None = None  # not written yet
        self._taken: tuple[int, int] | None = None  # the last one written
        self._turn_line = 0
        self._in_turn = False  # a turn was written, and no input since
        self._just_begun: int | None = None
        self._changes: dict[int, dict[str, list[str]]] = {}
        # By slot and what was asked for: the errno, and of how many frames (0: all).
        self._answers: dict[tuple[int, str], tuple[int, int]] = {}
        self._room: dict[str, list[str]] = {}  # by mark: lines to be written in its place
        self._asks_from: dict[int, str] = {}  # by slot: the mark after its last answers
        self._records = copy.records
        self._find_begins(copy.records, since_ns)
        for index, record in enumerate(copy.records):
            self._write(index, record)
        self._fill_rooms()

    @property
    def start_ns(self) -> int:
        """The time of the first line."""
        return min((at_ns for at_ns, _ in self.lines), default=0)

    def _find_begins(self, records: Sequence[_Record], since_ns: int) -> None:
        for index, (kind, at_ns, slot, _, fields) in enumerate(records):
            if kind != "checkpoint" or slot is None or slot not in self.hosts:
                continue
            if slot not in self.begins or fields["changed"] or at_ns <= since_ns:
                self.begins[slot] = index

    def _write(self, index: int, record: _Record) -> None:
        kind, at_ns, slot, interface, fields = record
        if kind != "address":
            self._just_begun = None
        if kind == "checkpoint":
            if self.begins.get(slot or 0) == index:
                self._in_turn = self._in_turn and self._turn_goes_on(index)
                self._begin(at_ns, slot or 0, interface, fields)
        elif kind == "turn":
            self._look(slot, (at_ns, fields[0]))
        elif kind == "heard":
            self._heard(at_ns, slot, interface, fields)
        elif slot is not None:
            if slot in self._begun:
                getattr(self, f"_{kind}")(at_ns, slot, fields)
        elif self._begun and (kind != "interface" or interface in self.used):
            if kind == "interface":
                self._write_interface(at_ns, interface, fields, self._input)
            elif kind in ("absent", "dropped"):
                self._missed(at_ns, kind, *fields)
            else:
                self._input(at_ns, fields[0])

    def _turn_goes_on(self, index: int) -> bool:
        """Whether what follows a state is of the turn that was written last, not a later input."""
        for at in range(index + 1, len(self._records)):
            kind, at_ns, _, _, fields = self._records[at]
            if kind == "turn":
                return (at_ns, fields[0]) == self._taken
            if kind not in ("checkpoint", "address"):
                return kind in DECISIONS and self._turn is None
        return False

    def _missed(self, at_ns: int, kind: str, looked_ns: int, since_ns: int, asleep_ns: int) -> None:
        """Writes an absence or a drop, with its start if that differs from the last turn."""
        words = ["stall" if kind == "absent" else "drop"]
        away_ns = max(looked_ns, since_ns)
        if kind == "dropped" or since_ns != away_ns or asleep_ns:
            words.append(str(since_ns))
        if asleep_ns:
            words.append(seconds_text(asleep_ns))
        if kind == "absent" and looked_ns:
            self._input(away_ns, "away")
        self._input(at_ns, " ".join(words))

    def _input(self, at_ns: int, text: str) -> None:
        self._turn = None  # of other hosts, or it would have been written
        self._in_turn = False
        self.lines.append((at_ns, text))

    def _before_turn(self, at_ns: int, text: str) -> None:
        """Writes a line before the current turn, for records made during the turn."""
        if self._in_turn:
            self.lines.insert(self._turn_line, (at_ns, text))
            self._turn_line += 1
        else:
            self.lines.append((at_ns, text))

    def _output(self, at_ns: int, slot: int, text: str) -> None:
        self._take_turn()
        self.lines.append((at_ns, f"{self.names[slot]} > {text}"))

    def _look(self, slot: int | None, turn: tuple[int, int]) -> None:
        """Notes a turn, which is written before its first output or when a host waits longer."""
        if slot is None or (slot in self._begun and not (self._in_turn and turn == self._taken)):
            self._turn = turn
        if slot in self._begun:
            self._take_turn()

    def _take_turn(self) -> None:
        if self._turn is not None:
            self._taken = at_ns, until_ns = self._turn
            self._turn_line, self._in_turn = len(self.lines), True
            self.lines.append((at_ns, f"turn {until_ns}"))
            self._turn = None

    # -- virtual hosts

    def _begin(self, at_ns: int, slot: int, interface: int, fields: dict[str, Any]) -> None:
        host, retired = self.hosts[slot]
        if not self._begun:
            self.top = {"tick_ns": fields["wake_tick_ns"], "seed": fields["seed"]}
            if fields["pace"] != USUAL_PACE:
                self.top["pace"] = fields["pace"]
        if not fields["added"]:
            # Its deadline may be now, and the engine must not have passed it when it assumes this.
            at_ns -= TICK_NS
        self._write_interface(at_ns, interface, fields["interface"], self._before_turn)
        self._before_turn(at_ns, f"{self.names[slot]} begin")
        self._before_turn(at_ns, self._leave_room(slot))
        self._begun.add(slot)
        self._just_begun = slot
        self.used.add(interface)
        table: dict[str, Any] = {
            "name": self.names[slot],
            "interface": host.interface,
            "vhid": host.vhid,
            "slot": slot,
            "addresses": list(host.addresses),
        }
        if host.unsigned_addresses:
            table["unsigned_addresses"] = list(host.unsigned_addresses)
        if retired:
            table["retired_addresses"] = list(retired)
        for key, default in DESTINATIONS:
            value = getattr(host.settings, key)
            if value != default:
                table[key] = value
        table.update(_settings(fields["settings"]))
        if fields["added"]:
            table["counter"] = fields["state"].get("counter", 0)
            if demoted := fields["state"].get("demotions"):
                table["demoted"] = demoted
            flags = fields["state"].get("flags", ())
            table.update({word: True for word in BEGUN_WITH if word in flags})
        else:
            table["state"] = _state(fields["state"])
        self.tables[slot] = table

    def _address(self, at_ns: int, slot: int, fields: Any) -> None:
        """Adds an address to the state from the checkpoint just read.

        Addresses after later checkpoints are left out: the transcript has them already.
        """
        if self._just_begun == slot and "state" in self.tables[slot]:
            address, words = fields
            state = self.tables[slot]["state"]
            state.setdefault("addresses", {})[address_text(address)] = words

    # -- inputs

    def _write_interface(
        self, at_ns: int, number: int, now: dict[str, Any], write: Callable[[int, str], None]
    ) -> None:
        lasting = {**now, "announce": False}
        if self._states.get(number) == now == lasting:
            return
        self._states[number] = lasting
        words = ["missing" if not now["ifindex"] else "up" if now["up"] else "down"]
        for key in ("source", "source6"):
            if now[key] is not None:
                words += [key, address_text(now[key])]
        words += ["mac", mac_text(now["mac"])]
        if now["ifindex"]:
            words += ["ifindex", str(now["ifindex"])]
        words += [word for word, key in INTERFACE_FLAGS.items() if now[key]]
        write(at_ns, f"{self.interfaces[number]} interface {' '.join(words)}")

    def _heard(self, at_ns: int, slot: int | None, interface: int, fields: Any) -> None:
        verdict, source, vhid, advbase, advskew, demote, counter, mac = fields
        if slot is not None:
            if slot not in self._begun:
                return
            name = self.names[slot]
        else:
            if interface not in self.used or self.vhid not in (None, vhid):
                return
            name = f"{self.interfaces[interface]}/{vhid}" if vhid else self.interfaces[interface]
        text = f"{name} hear {address_text(source) if source else '-'} "
        if verdict in ("ok", "loop", "replay"):
            text += f"{advbase}/{advskew} counter {counter}" + (f" demote {demote}" * bool(demote))
            if (sent_from := mac_text(mac)) != HEARD_MAC:
                text += f" mac {sent_from}"
        else:
            text += verdict
        self._input(at_ns, text)
        if verdict != "ok":
            self.lines.append((at_ns, f"{name} > refused {verdict}"))

    def _ordered(self, at_ns: int, slot: int, fields: Any) -> None:
        word, value = fields
        text = f"{self.names[slot]} {word}"
        if word == "adopt":
            text += f" {prefix_text(value[0], value[1])}"
        elif word == "own_source":
            missing = [family for family, lacks in zip("46", value, strict=True) if lacks]
            text += f" missing {' '.join(missing)}" if missing else " there"
        elif word in ("in_use", "by_route", "withhold"):
            text += " yes" if value else " no"
        elif word == "demote":
            amount, by, hard = value
            text += f" {amount}" + (f" {by}" if by != "operator" else "") + " hard" * hard
        elif word == "yield" and value != "yielded":
            text += f" {value}"
        elif word == "address_lost" and not value:
            text += " undemoted"
        self._input(at_ns, text)

    def _found(self, at_ns: int, slot: int, fields: Any) -> None:
        address, there = fields
        self._input(at_ns, f"{self.names[slot]} found {address_text(address)} {there}")

    # -- decisions

    def _state(self, at_ns: int, slot: int, fields: Any) -> None:
        self._output(at_ns, slot, " ".join(fields))

    def _answer(self, slot: int, what: str, error: int, frames: int = 0) -> None:
        """Writes a changed answer of the kernel, before the turn in which it was asked for.

        For an advertisement that is the turn of the answer. The answer about an address may come
        in a later one; the host asked for it after its last answers.
        """
        if self._answers.get((slot, what), (0, 0)) == (error, frames):
            return
        self._take_turn()
        self._answers[slot, what] = error, frames
        word = errno.errorcode.get(error, f"E{error}") if error else "ok"
        word += f" {frames}" if frames else ""
        text = f"{self.names[slot]} kernel {what} {word}"
        if what != "sends":
            self._room[self._asks_from[slot]].append(text)
            return
        at_ns = self.lines[self._turn_line][0] if self._turn_line else self.lines[0][0]
        self.lines.insert(self._turn_line, (at_ns, text))
        self._turn_line += 1

    def _leave_room(self, slot: int) -> str:
        """A line in whose place the next answers about the host's addresses are written."""
        mark = f"\0{len(self._room)}"
        self._room[mark] = []
        self._asks_from[slot] = mark
        return mark

    def _fill_rooms(self) -> None:
        self.lines = [
            (at_ns, line) for at_ns, text in self.lines for line in self._room.get(text, [text])
        ]

    def _undemoted(self, at_ns: int, slot: int, fields: Any) -> None:
        self._output(at_ns, slot, "UNDEMOTED")

    def _advertised(self, at_ns: int, slot: int, fields: Any) -> None:
        advbase, advskew, demote, error, frames = fields
        self._answer(slot, "sends", error, frames)
        word = "RESIGN" if advskew == 255 else "ADVERTISE"
        demoted = f" demote {demote}" if demote else ""
        self._output(at_ns, slot, f"{word} {advbase}/{advskew}{demoted}")

    def _added(self, at_ns: int, slot: int, fields: Any) -> None:
        self._change(slot, "ADD_ROUTES" if fields[2] else "ADD_ADDRESSES", fields)

    def _removed(self, at_ns: int, slot: int, fields: Any) -> None:
        self._change(slot, "REMOVE_ROUTES" if fields[2] else "REMOVE_ADDRESSES", fields)

    def _change(self, slot: int, word: str, fields: Any) -> None:
        address = address_text(fields[0])
        self._answer(slot, address, fields[1])
        self._changes.setdefault(slot, {}).setdefault(word, []).append(address)

    def _changed(self, at_ns: int, slot: int, fields: Any) -> None:
        changes = self._changes.pop(slot, {})
        for word in ("REMOVE_ADDRESSES", "REMOVE_ROUTES", "ADD_ADDRESSES", "ADD_ROUTES"):
            if word in changes:
                self._output(at_ns, slot, f"{word} {' '.join(changes[word])}")
        if not changes:
            self._take_turn()  # the host found in it that nothing is left to change
        self.lines.append((at_ns, self._leave_room(slot)))

    def _announced(self, at_ns: int, slot: int, fields: Any) -> None:
        host = self.hosts[slot].host
        every = [each.partition("/")[0] for each in (*host.addresses, *host.unsigned_addresses)]
        announce = self.tables[slot].get("announce", {})
        if not announce.get("interval_s"):
            every *= announce.get("count", 1)
        self._output(at_ns, slot, f"ANNOUNCE {' '.join(every)}")


def _settings(settings: dict[str, Any]) -> dict[str, Any]:
    """The keys of a host's table for the settings recorded by the engine."""
    table: dict[str, Any] = {}
    for name in ("source", "source6"):
        if settings[name] is not None:
            table[name] = address_text(settings[name])
    changed = [key for key in ALL_KEYS if settings[key.name] != key.default]
    tables = {key.table for key in changed if key.table}
    for key in ALL_KEYS:
        if key in changed or key.table in tables:  # a nested table is written whole
            key.put_into(table, settings[key.name])
    return table


def _state(state: dict[str, Any]) -> dict[str, Any]:
    state = dict(state)
    if "duplicate_mac" in state:
        state["duplicate_mac"] = mac_text(state["duplicate_mac"])
    if "sources" in state:
        state["sources"] = [
            {**source, "address": address_text(source["address"]), "mac": mac_text(source["mac"])}
            for source in state["sources"]
        ]
    return state


def as_scenario(
    copy: Copy,
    hosts: dict[int, Recorded],
    interfaces: Sequence[str],
    story: Iterable[str],
    vhid: int | None = None,
) -> Iterator[str]:
    """The lines of a scenario's file, for `hosts` by slot; `interfaces` by the engine's number.

    `vhid`: leaves out frames for other vhids that belong to no virtual host.
    """
    return scenario_lines(Writer(copy, hosts, interfaces, vhid), story)


def scenario_lines(writer: Writer, story: Iterable[str]) -> Iterator[str]:
    """The lines of a scenario's file with what the writer has converted."""
    copy, lines, start_ns = writer.copy, writer.lines, writer.start_ns
    end_ns = max((at_ns for at_ns, _ in lines), default=0)
    prose = [
        *story,
        f"{len(lines)} lines; {copy.overwritten} records before these were overwritten.",
    ]
    if copy.unrecorded:
        prose.append(f"{copy.unrecorded} refused frames arrived too fast to be recorded.")
    top = {"story": "\n".join(prose), "start_ns": start_ns, "turns": True, **writer.top}
    # Every interface has a table, so that a host's `source` is its own; a line has its state.
    tables = {writer.interfaces[number]: {"ifindex": 0} for number in sorted(writer.used)}
    if tables:
        top["interface"] = tables

    def transcript() -> Iterator[str]:
        for at_ns, text in lines:
            word, *rest = text.split(" ")
            if word in ("turn", "stall", "drop") and rest:  # followed by a time of the clock
                rest[0] = seconds_text(int(rest[0]) - start_ns)
            yield " ".join((seconds_text(at_ns - start_ns), word, *rest))
        yield f"{seconds_text(end_ns - start_ns)} end"

    return toml_lines(top, writer.tables.values(), transcript())
