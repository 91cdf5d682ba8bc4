"""Listens from time to time to what other programs of this machine advertise for our virtual hosts.

A machine does not hear what it sends, and the sockets that the pump reads ignore it. A ucarp here,
or a daemon that uses another lock file, would be MASTER at the same time, unnoticed. Runs on the
loop, independently of the pump. Must not know locks, hooks or the control socket.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from carp_fast.config.model import Settings
from carp_fast.control.documents import StateEvent
from carp_fast.daemon.locks import named
from carp_fast.daemon.table import MASTER, Hosts
from carp_fast.engine._auth import Key
from carp_fast.engine._wire import parse
from carp_fast.inet import (
    VIRTUAL_MACS,
    address_bytes,
    address_text,
    mac_bytes,
    mac_text,
    virtual_mac,
)
from carp_fast.net.filters import ALL_VHIDS, mac_end
from carp_fast.net.tap_socket import open_tap

if TYPE_CHECKING:
    from carp_fast.config.load import VirtualHost
    from carp_fast.daemon.feed import Feed
    from carp_fast.daemon.in_use import InUse
    from carp_fast.daemon.network import Network
    from carp_fast.daemon.orders import Orders

logger = logging.getLogger(__name__)

EVERY_S = 60.0
AFTER_RISE_S = 2.0  # and this long after a virtual host became MASTER, unless another one follows
RISES_MAX_S = 10.0  # ... but at most this long after the first of them
AGAIN_S = 1.0  # while it is uncertain whether another program is MASTER, too
OVERHEARD_AGAIN_S = 5.0
LISTEN_MAX_S = 5.0
MARGIN_S = 1.1  # more than an interval of ours: the other program may have any advskew
LOOKS_EVERY_S = 0.5  # between reads: a wake-up for each frame would cost more than the frame
FRAMES_A_SECOND = 5000  # that are read
OURS_A_SECOND = 250  # of them from our own MACs; if there are more, vhids take turns
CONFIRMED_AFTER = 2  # consecutive times that a MASTER is not alone
STAYS_FOR = 5  # consecutive times that a slower one is expected to step down
SILENT_AFTER = 2  # consecutive times that nothing was heard any more
# An advertisement that a full queue refuses is sent again, with longer and longer waits: so many
# times within an interval, at most. Each attempt takes a counter, and only the last one is heard.
ATTEMPTS = 16
RESIGNATION = (255, 255)
TTL = b"\xff"

_Identity = tuple[str, tuple[str, ...], int]


class _Claim(NamedTuple):
    """The fields of an advertisement that are judged; the others are not kept."""

    source: bytes
    mac: bytes
    advbase: int
    advskew: int


class _Heard:
    """What was heard for one virtual host: `other`, an advertisement that is not ours."""

    def __init__(self, identity: _Identity) -> None:
        self.identity = identity  # after a reload the slot may have another one before it is judged
        self.other: _Claim | None = None
        self.ours: dict[bytes, list[int]] = {}  # counters by destination
        self.last: _Claim | None = None

    def other_master(self, attempts: float) -> _Claim | None:
        """The advertisement of another program, even if it came from our own MAC and source.

        Our own counters increase by one with each attempt, so that one sender uses as many as
        `attempts`; those of two senders are far apart.
        """
        if self.other is not None:
            return self.other
        for counters in self.ours.values():
            span = max(counters) - min(counters)
            if len(set(counters)) < len(counters) or span > attempts:
                return self.last
        return None


class Tap:
    """Listens, and bars virtual hosts that another program of this machine has.

    `yields` decides, between equals, whether ours gives way.
    """

    def __init__(
        self,
        hosts: Hosts,
        orders: Orders,
        network: Network,
        in_use: InUse,
        feed: Feed,
        *,
        yields: Callable[[], bool] = lambda: random.random() < 0.5,
    ) -> None:
        self._hosts = hosts
        self._orders = orders
        self._network = network
        self._in_use = in_use
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._heard: dict[int, _Heard] = {}
        self._changed: set[tuple[str, int]] = set()  # that were MASTER for only part of the time
        # Slots that another process had the lock of: what was heard may be from before its end.
        self._locked_out: set[int] = set()
        self._listening = False
        self._vhids = range(ALL_VHIDS)  # vhids whose frames from our own MACs are read
        self._turn = 0
        self._slots: dict[str, dict[int, list[int]]] = {}  # by interface and vhid
        self._keys: dict[_Identity, list[Key]] = {}
        self._other_masters: dict[_Identity, int] = {}  # consecutive times
        self._silent: dict[int, int] = {}
        self._failed = False
        self._yields = yields
        feed.subscribe(self.on_event)

    def start(self) -> None:
        """Starts listening."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def close(self) -> None:
        """Stops listening."""
        if self._task is not None:
            self._task.cancel()

    def on_event(self, event: StateEvent) -> None:
        """Handles that a virtual host changed its state."""
        if self._listening and "MASTER" in (event.state, event.previous):
            self._changed.add((event.interface, event.vhid))
        if event.state == "MASTER":
            self._wake.set()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self.listen()
            except OSError as error:
                if not self._failed:
                    text = "cannot listen to what this machine sends"
                    logger.warning("%s: %s", text, error.strerror)
                self._failed = True
            if self._other_masters:
                await asyncio.sleep(AGAIN_S)
            elif self._in_use.overheard:
                await asyncio.sleep(OVERHEARD_AGAIN_S)
            elif await self._rises_within(EVERY_S):
                # Not while many rise: listening costs the kernel a copy of each frame that is sent.
                until_s = asyncio.get_running_loop().time() + RISES_MAX_S
                while await self._rises_within(AFTER_RISE_S):
                    if asyncio.get_running_loop().time() > until_s:
                        break

    async def _rises_within(self, seconds: float) -> bool:
        """Waits until a virtual host becomes MASTER; returns False if none did for so long."""
        try:
            # wait_for() ignores a cancellation at the moment of a rise (CPython 3.11).
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return False
        self._wake.clear()
        return True

    async def listen(self) -> None:
        """Listens once, and bars or frees virtual hosts accordingly. Raises OSError."""
        ifindexes = [
            each.ifindex for name, each in self._network.now.items() if is_listened_to(name)
        ]
        if not any(ifindexes):
            return
        settings = {id(host.settings): host.settings for _, host in self._hosts.used()}
        interval_s = max(map(_interval_s, settings.values()), default=1.0)
        listen_s = min(interval_s + MARGIN_S, LISTEN_MAX_S)
        self._vhids = self._next_vhids()
        macs = self._own_mac_ends(settings.values())
        loop = asyncio.get_running_loop()
        self._begin()
        try:
            with open_tap([each for each in ifindexes if each], macs, self._vhids) as sock:
                until_s = loop.time() + listen_s
                while (left_s := until_s - loop.time()) > 0:
                    await asyncio.sleep(min(LOOKS_EVERY_S, left_s))
                    self._read(sock)
            await self._orders.done()  # then every change of state has been reported
            logger.debug("listened to what this machine sends for %.1f s", listen_s)
            self._judge(listen_s)
        finally:
            self._listening = False
            # With tens of thousands of virtual hosts: nothing of it stays in memory for a minute.
            self._heard, self._slots, self._keys, self._changed = {}, {}, {}, set()

    def _begin(self) -> None:
        self._listening = True
        self._locked_out = set(self._in_use.locked_out)

    def _next_vhids(self) -> range:
        """The vhids whose turn it is: all if masters are few, more if one may not be alone."""
        suspected = self._other_masters or self._in_use.overheard
        most = FRAMES_A_SECOND if suspected else OURS_A_SECOND
        parts = min(-(-self._hosts.states.count(MASTER) // most) or 1, ALL_VHIDS)
        which = self._turn = (self._turn + 1) % parts
        return range(which * ALL_VHIDS // parts, (which + 1) * ALL_VHIDS // parts)

    def _own_mac_ends(self, settings: Iterable[Settings]) -> set[int]:
        """The ends of the MACs that our virtual hosts advertise from."""
        ends = {mac_end(each.mac) for each in self._network.now.values()}
        for mac in {each.advertise_mac for each in settings}:
            if mac in VIRTUAL_MACS:
                ends.update(mac_end(virtual_mac(mac, vhid)) for vhid in range(ALL_VHIDS))
            elif ":" in mac:
                ends.add(mac_end(mac_bytes(mac)))
        return ends

    def _read(self, sock: socket.socket) -> None:
        for _ in range(int(FRAMES_A_SECOND * LOOKS_EVERY_S)):
            try:
                frame, about = sock.recvfrom(2048)
            except OSError:  # nothing left, or an interface has gone down
                return
            self.on_frame(about[0], frame)

    def on_frame(self, name: str, frame: bytes) -> None:
        """Handles a frame of protocol 112 that this machine sent on an interface."""
        fields = parse(frame)
        # A forwarded frame has another TTL.
        if fields["verdict"] != "ok" or fields["version"] != 2 or _ttl(frame) != TTL:
            return
        if (fields["advbase"], fields["advskew"]) == RESIGNATION:
            return
        slot = self._find(name, fields)
        host = None if slot is None else self._hosts.hosts[slot]
        if slot is None or host is None:
            return
        heard = self._heard.get(slot)
        if heard is None or heard.identity != host.identity:
            heard = self._heard[slot] = _Heard(host.identity)
        if self._hosts.states[slot] == MASTER and self._is_ours(host, fields):
            heard.last = _claim(fields)
            counters = heard.ours.setdefault(fields["destination"], [])
            counters.append(int.from_bytes(fields["counter"]))
        elif heard.other is None and self._is_genuine(host, fields):
            heard.other = _claim(fields)

    def _find(self, name: str, fields: Mapping[str, Any]) -> int | None:
        """The slot of the virtual host that an advertisement is for."""
        slots = self._slots.get(name)
        number = self._hosts.known(name)
        if slots is None and number is not None:
            slots = self._slots[name] = {}
            for slot in self._hosts.slots[number]:
                if (host := self._hosts.hosts[slot]) is not None:
                    slots.setdefault(host.vhid, []).append(slot)
        destination = address_text(fields["destination"])
        for slot in slots.get(fields["vhid"], ()) if slots is not None else ():
            host = self._hosts.hosts[slot]
            if host is None or (host.interface, host.vhid) != (name, fields["vhid"]):
                continue  # a reload gave the slot to another one
            if destination in host.destinations:
                return slot
        return None

    def _is_ours(self, host: VirtualHost, fields: Mapping[str, Any]) -> bool:
        """Whether it has the MAC and the source that this virtual host advertises from."""
        settings, name = host.settings, host.interface
        sources = self._network.sources.get(name)
        configured = settings.source if fields["family"] == 4 else settings.source6
        if configured is not None:
            source: bytes | None = address_bytes(configured)
        elif sources is not None:
            source = sources.ipv4 if fields["family"] == 4 else sources.ipv6
        else:
            source = None
        return bool(
            fields["source"] == source and fields["source_mac"] == self._mac(settings, host)
        )

    def _mac(self, settings: Settings, host: VirtualHost) -> bytes:
        if settings.advertise_mac in VIRTUAL_MACS:
            return virtual_mac(settings.advertise_mac, host.vhid)
        if ":" in settings.advertise_mac:
            return mac_bytes(settings.advertise_mac)
        now = self._network.now.get(host.interface)
        return now.mac if now is not None else b""

    def _is_genuine(self, host: VirtualHost, fields: Mapping[str, Any]) -> bool:
        """Whether it is signed with our key: otherwise it is another virtual host, or VRRP."""
        if host.identity not in self._keys:
            from carp_fast.capture.judge import signer_of  # most daemons never need it

            passphrase, forms = host.settings.passphrase, signer_of(host).forms()
            self._keys[host.identity] = [Key(passphrase, each) for _, each in forms]
        keys = self._keys[host.identity]
        return any(key.verify(fields["counter"], fields["digest"]) for key in keys)

    # -- what follows

    def _judge(self, listen_s: float) -> None:
        # For those that were not listened for, nothing changes.
        counts = {each: n for each, n in self._other_masters.items() if each[2] not in self._vhids}
        for slot, heard in self._heard.items():
            host = self._hosts.hosts[slot]
            if host is None or host.identity != heard.identity or slot in self._hosts.leaving:
                continue
            if (host.interface, host.vhid) in self._changed:
                continue
            frames = 2 * listen_s / _interval_s(host.settings) + 2
            other = heard.other_master(frames * ATTEMPTS)
            if other is None or slot in self._locked_out or slot in self._in_use.locked_out:
                continue
            if slot in self._in_use.overheard:
                self._silent[slot] = -1  # counted below
            elif self._hosts.states[slot] != MASTER:
                self._bar(slot, host, other)
            else:
                counts[host.identity] = self._other_masters.get(host.identity, 0) + 1
                if self._gives_way(host, other, counts[host.identity]):
                    del counts[host.identity]
                    self._bar(slot, host, other)
        self._other_masters = counts
        for slot in self._in_use.overheard:
            host = self._hosts.hosts[slot]
            if host is None or host.vhid in self._vhids:
                self._silent[slot] = self._silent.get(slot, -1) + 1
        self._silent = {
            slot: n for slot, n in self._silent.items() if slot in self._in_use.overheard
        }
        for slot, times in list(self._silent.items()):
            if times >= SILENT_AFTER:
                self._in_use.free(slot)

    def _gives_way(self, host: VirtualHost, other: _Claim, times: int) -> bool:
        """Whether a MASTER gives way to another one on this machine, as if it had heard it.

        A slower one steps down when it hears us; one that cannot is left alone after a while.
        Between equals chance decides, since the other one may be another carp-fast that decides at
        the same moment.
        """
        if times < CONFIRMED_AFTER:
            return False
        theirs = other.advbase * 256 + other.advskew
        ours = host.settings.advbase * 256 + host.settings.advskew
        if theirs == ours or times > STAYS_FOR:
            return self._yields()
        return bool(theirs < ours)

    def _bar(self, slot: int, host: VirtualHost, other: _Claim) -> None:
        pid = ucarp_of(host)
        mac, source = mac_text(other.mac), address_text(other.source)
        owner = named(pid) if pid else f"a program that advertises from {source} ({mac})"
        logger.warning("%s: in_use: %s on this machine has it, waiting", host.name, owner)
        self._silent[slot] = -1
        self._in_use.overhear(slot, owner)


def _claim(fields: Mapping[str, Any]) -> _Claim:
    return _Claim(fields["source"], fields["source_mac"], fields["advbase"], fields["advskew"])


def is_listened_to(name: str) -> bool:
    """Whether frames that leave an interface come from this host: a bridge also forwards."""
    return not Path(f"/sys/class/net/{name}/brport").exists()


def ucarp_of(host: VirtualHost, proc: Path = Path("/proc")) -> int | None:
    """A ucarp of this network namespace with this vhid, found by its command line."""
    own = (proc / "self/ns/net").readlink()
    for process in proc.iterdir():
        try:
            if not process.name.isdigit() or (process / "comm").read_text() != "ucarp\n":
                continue
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            here = (process / "ns/net").readlink() == own
        except OSError:
            continue  # it has ended meanwhile
        if here and _asks_for(words, host.vhid):
            return int(process.name)
    return None


def _asks_for(words: Iterable[str], vhid: int) -> bool:
    line = f"{' '.join(words)} "
    return any(f"{option}{vhid} " in line for option in ("-v ", "-v", "--vhid=", "--vhid "))


def _interval_s(settings: Settings) -> float:
    return max(settings.advbase + settings.advskew / 256, 1 / 256)


def _ttl(frame: bytes) -> bytes:
    """The TTL or hop limit of a frame that was parsed."""
    return frame[22:23] if frame[12:14] == b"\x08\x00" else frame[21:22]
