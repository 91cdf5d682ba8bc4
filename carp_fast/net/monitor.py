"""A thread that follows changes of the host's interfaces and reports them to the loop.

Holds `LinkMonitor`, which reads the kernel's notifications about links and addresses. Must not know
virtual hosts or the engine, nor change anything on the host.

The thread reads its own netlink socket. pyroute2's endpoint is not used, because it treats ENOBUFS
as the end of the socket, whereas here it means that everything has to be read again.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from carp_fast.net.filters import attach_filter, notification_filter
from carp_fast.net.interfaces import (
    HEADER,
    MESSAGE_BYTES_MAX,
    OWN_PROTOCOL,
    Interface,
    InterfaceAddress,
    KernelReader,
    Link,
    LinkError,
    absent,
    as_interface,
    decode_address,
    decode_link,
    decode_netconf,
    decode_route,
    messages,
    read_interfaces,
    uppers_of,
    without_marked,
)
from carp_fast.net.kernel import (
    NETLINK_ADD_MEMBERSHIP,
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELROUTE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWNETCONF,
    RTMGRP_IPV4_IFADDR,
    RTMGRP_IPV6_IFADDR,
    RTMGRP_LINK,
    RTNLGRP_IPV4_ROUTE,
    RTNLGRP_IPV6_NETCONF,
    SO_RCVBUFFORCE,
    SOL_NETLINK,
)

if TYPE_CHECKING:
    import asyncio

__all__ = ["Interface", "InterfaceAddress", "LinkError", "LinkMonitor", "read_interfaces"]

logger = logging.getLogger(__name__)

RECEIVE_BUFFER_BYTES = 4 << 20  # of the monitor's socket: some 3,000 notifications
QUIET_S = 0.005  # a burst is over, and reported, after this long without a notification
BURST_S = 0.05  # a burst that does not end is reported this often
DUMPS_MAX = 8  # interfaces read one by one; above, one dump of all addresses is cheaper
REPORTS_PER_TURN = 500  # callbacks in one turn of the loop
RETRY_S = 1.0  # after an unexpected error
OVERRUN_LOG_S = 10.0  # between two log lines about overruns


class LinkMonitor:
    """Follows interfaces by name and reports each change on the loop's thread.

    `on_interface` gets the interface as it is now when a named one appears, disappears (ifindex 0),
    is created again, goes up or down, changes its MAC, its master device, the devices above it or
    whether it forwards IPv6, or its addresses change. A burst makes one report. An interface that
    was deleted and created again with the same ifindex within one burst is reported absent first.
    Addresses with our mark are reported when an interface appears: they were added before.

    Otherwise addresses with our protocol mark, this daemon's or another's, are not in those
    reports. Kernels before 5.18 have no mark, so the daemon's own addresses may appear there; it
    has to leave out those that it knows to be virtual anyway.

    `on_address_removed(name, address, prefixlen)` gets every address that disappeared from an
    interface that still exists, with our mark or without, unless the socket with the netlink port
    id `ignore_port` removed it. The kernel names no port for IPv6, so this daemon's removals of
    IPv6 addresses are reported as well, as are those by the kernel when an interface goes down; the
    report that it is down comes before them.

    `on_overrun`, if given, gets a full reading after the kernel dropped notifications, including
    our own addresses, since the monitor cannot know which of them should be there. A removal found
    by that reading may be reported twice, if its notification was not dropped.

    `on_watched` gets each of the `watched` addresses, 4 or 16 bytes, that is added without our mark
    to any interface of the host, or removed.

    `on_route_removed(name)` gets each interface from which another program removed a local route
    with our mark, if set_names() asked for that. The kernel removes such routes without a
    notification together with the interface's last address.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        names: Iterable[str],
        on_interface: Callable[[Interface], None],
        on_address_removed: Callable[[str, bytes, int], None],
        ignore_port: int | None = None,
        *,
        on_overrun: Callable[[dict[str, Interface]], None] | None = None,
        on_watched: Callable[[bytes], None] | None = None,
        on_route_removed: Callable[[str], None] | None = None,
        watched: Iterable[bytes] = (),
        receive_buffer_bytes: int = RECEIVE_BUFFER_BYTES,
    ) -> None:
        self._loop = loop
        self._on_interface = on_interface
        self._on_address_removed = on_address_removed
        self._on_overrun = on_overrun
        self._on_watched = on_watched
        self._on_route_removed = on_route_removed
        self._routes = False  # notifications about routes are subscribed to
        self._ignore_port = ignore_port
        self._receive_buffer_bytes = receive_buffer_bytes
        self.overruns = 0  # overflows of the socket, after each of which all is read again

        self._lock = threading.Lock()  # protects the next two, which both threads write
        self._names_given: dict[str, None] | None = dict.fromkeys(names)
        self._watched = frozenset(watched)  # replaced as a whole
        self._inbox: deque[Callable[[], None]] = deque()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

        # The rest belongs to the monitor's thread.
        self._names: dict[str, None] = {}
        self._links: dict[int, Link] = {}
        self._by_name: dict[str, int] = {}
        self._addresses: dict[int, tuple[InterfaceAddress, ...]] = {}
        self._reported: dict[str, Interface] = {}
        self._changed: set[str] = set()  # names to compare with what was reported last
        self._deleted: set[str] = set()  # names whose link was deleted in this burst
        self._stale: set[int] = set()  # ifindexes whose addresses have to be read again
        self._removed: dict[tuple[str, int, bytes, int], None] = {}
        self._seen: dict[bytes, None] = {}  # watched addresses, in this burst
        self._routes_removed: dict[str, None] = {}  # from these interfaces, in this burst
        self._everything_stale = True
        self._dropped = False  # notifications, in this burst
        # Between an overrun and the moment when its queue is empty the kernel drops without notice.
        self._silent = False
        self._burst_at: float | None = None
        self._overrun_logged_at = -OVERRUN_LOG_S

    def start(self, known: Mapping[str, Interface] | None = None) -> None:
        """Subscribes in the calling thread's namespace and starts the thread.

        An interface in `known`, such as `read_interfaces` returned, is reported if it differs now;
        every other one is reported once. Raises OSError.
        """
        if self._thread is not None:
            raise RuntimeError("the link monitor was started before")
        self._reported = {
            name: without_marked(interface) for name, interface in (known or {}).items()
        }
        with contextlib.ExitStack() as opened:
            self._socket = opened.enter_context(self._subscribe())
            self._kernel = opened.enter_context(KernelReader())
            self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            opened.callback(os.close, self._wake_fd)
            self._buffer = bytearray(MESSAGE_BYTES_MAX)
            self._selector = opened.enter_context(selectors.DefaultSelector())
            self._selector.register(self._socket, selectors.EVENT_READ)
            self._selector.register(self._wake_fd, selectors.EVENT_READ)
            self._thread = threading.Thread(target=self._run, name="links", daemon=True)
            self._thread.start()
            self._opened = opened.pop_all()

    def stop(self) -> None:
        """Ends and joins the thread; nothing is reported afterwards. A second call does nothing."""
        if self._thread is None or self._stopping.is_set():
            return
        self._stopping.set()
        os.eventfd_write(self._wake_fd, 1)
        self._thread.join()
        self._opened.close()

    def set_names(
        self, names: Iterable[str], watched: Iterable[bytes] = (), *, routes: bool = False
    ) -> None:
        """Follows these interfaces from now on; those that were not followed before are reported
        once.

        `watched`: the addresses to follow from now on; `routes`: also local routes with our mark,
        from now on for good.
        """
        self._watched = frozenset(watched)
        if routes and not self._routes:
            self._routes = True
            if self._thread is not None and not self._stopping.is_set():
                self._subscribe_routes(self._socket)
        with self._lock:
            self._names_given = dict.fromkeys(names)
        if self._thread is not None and not self._stopping.is_set():
            os.eventfd_write(self._wake_fd, 1)

    def _subscribe(self) -> socket.socket:
        monitored = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        try:
            monitored.setblocking(False)
            size = self._receive_buffer_bytes
            try:  # beyond the administrator's limit, with CAP_NET_ADMIN
                monitored.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, size)
            except PermissionError:
                monitored.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
            attach_filter(monitored, notification_filter(self._ignore_port))
            monitored.bind((0, RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR))
            monitored.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, RTNLGRP_IPV6_NETCONF)
            if self._routes:
                self._subscribe_routes(monitored)
        except BaseException:
            monitored.close()
            raise
        return monitored

    @staticmethod
    def _subscribe_routes(monitored: socket.socket) -> None:
        monitored.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, RTNLGRP_IPV4_ROUTE)

    def _deliver(self) -> None:
        """Runs on the loop's thread: a bounded number of callbacks per turn, in order."""
        for _ in range(REPORTS_PER_TURN):
            if self._stopping.is_set() or not self._inbox:
                return
            report = self._inbox.popleft()
            try:
                report()
            except Exception:
                logger.exception("handling a report about a link failed")
        self._loop.call_soon(self._deliver)

    # The rest runs in the monitor's own thread.

    def _run(self) -> None:
        self._burst_at = time.monotonic()  # the first report does not wait for a notification
        while not self._stopping.is_set():
            try:
                self._turn()
            except Exception:
                logger.exception("following links failed, reading everything again")
                self._everything_stale = True
                self._burst_at = time.monotonic()
                self._stopping.wait(RETRY_S)

    def _turn(self) -> None:
        quiet_s = None if self._burst_at is None else QUIET_S
        ready = {key.fd for key, _ in self._selector.select(quiet_s)}
        if self._wake_fd in ready:
            os.eventfd_read(self._wake_fd)
            self._burst_at = self._burst_at or time.monotonic()
        if self._socket.fileno() in ready:
            self._burst_at = self._burst_at or time.monotonic()
            self._drain()
        if self._burst_at is None or self._stopping.is_set():
            return
        if not ready or time.monotonic() - self._burst_at > BURST_S:
            self._take_names()
            self._report()
            self._burst_at = None

    def _take_names(self) -> None:
        with self._lock:
            given, self._names_given = self._names_given, None
        if given is None:
            return
        for name in self._names.keys() - given:
            self._reported.pop(name, None)
            self._addresses.pop(self._by_name.get(name, 0), None)
        for name in given.keys() - self._names:
            self._changed.add(name)
            if ifindex := self._by_name.get(name):
                self._stale.add(ifindex)
        self._names = given

    def _drain(self) -> None:
        """Reads what has arrived, for at most the duration of a burst."""
        view = memoryview(self._buffer)
        end_at = time.monotonic() + BURST_S
        reading = True
        while reading:
            reading = time.monotonic() < end_at
            try:
                length, _, flags, sender = self._socket.recvmsg_into([view])
            except BlockingIOError:
                self._silent = False
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._on_dropped()
                continue
            if flags & socket.MSG_TRUNC:
                self._on_dropped()
            elif sender[0] == 0:  # the kernel; any privileged process may write to our port
                self._on_notification(bytes(view[:length]))

    def _on_dropped(self) -> None:
        self.overruns += 1
        self._dropped = self._everything_stale = self._silent = True
        now = time.monotonic()
        if now - self._overrun_logged_at >= OVERRUN_LOG_S:
            self._overrun_logged_at = now
            logger.warning(
                "the kernel dropped notifications about links (%d times so far), "
                "reading everything again",
                self.overruns,
            )

    def _on_notification(self, data: bytes) -> None:
        for kind, _, start, end in messages(data):
            if kind in (RTM_NEWLINK, RTM_DELLINK):
                link = decode_link(data[start - HEADER.size : end])
                if link is not None and kind == RTM_NEWLINK:
                    self._on_link(link)
                elif link is not None:
                    self._on_link_deleted(link.ifindex)
            elif kind in (RTM_NEWADDR, RTM_DELADDR):
                decoded = decode_address(data, start, end, self._links)
                if decoded is not None:
                    self._on_address(kind, *decoded)
            elif kind == RTM_DELROUTE:
                route = decode_route(data, start, end)
                gone_from = self._links.get(route[0]) if route is not None else None
                if gone_from is not None and gone_from.name in self._names:
                    self._routes_removed[gone_from.name] = None
            elif kind == RTM_NEWNETCONF:
                link = self._links.get(decode_netconf(data, start, end))
                if link is not None:  # one of its settings, such as forwarding
                    self._changed.add(link.name)

    def _on_link(self, link: Link) -> None:
        before = self._links.get(link.ifindex)
        self._links[link.ifindex] = link
        if before is not None and before.name != link.name:
            self._forget_name(before)
        if before is None or before.name != link.name:
            self._by_name[link.name] = link.ifindex
            self._stale.add(link.ifindex)
        if before != link:
            self._changed.add(link.name)
            self._note_lower(before)
            self._note_lower(link)

    def _note_lower(self, link: Link | None) -> None:
        """The link below this one has one more, or one less, above it."""
        if link is not None and link.lower in self._links:
            self._changed.add(self._links[link.lower].name)

    def _on_link_deleted(self, ifindex: int) -> None:
        link = self._links.pop(ifindex, None)
        self._note_lower(link)
        self._addresses.pop(ifindex, None)
        if link is not None:
            self._forget_name(link)
            self._deleted.add(link.name)

    def _forget_name(self, link: Link) -> None:
        if self._by_name.get(link.name) == link.ifindex:
            del self._by_name[link.name]
        self._changed.add(link.name)

    def _on_address(self, kind: int, ifindex: int, address: InterfaceAddress) -> None:
        if address.address in self._watched:
            self._seen[address.address] = None
        name = self._links[ifindex].name
        if name not in self._names:
            return
        if kind == RTM_DELADDR:
            self._removed[name, ifindex, address.address, address.prefixlen] = None
        if address.protocol != OWN_PROTOCOL:
            # Only the kernel knows the order of the addresses, so they are read again.
            self._stale.add(ifindex)

    def _report(self) -> None:
        reports: list[Callable[[], None]] = []
        reading: dict[str, Interface] | None = None
        if self._everything_stale:
            reading = self._read_everything()
        else:
            self._read_stale()
        uppers = uppers_of(self._links.values()) if self._changed else {}
        for name in self._names:
            if name in self._changed:
                reports += self._compare(name, uppers)
        for name, ifindex, address, prefixlen in self._removed:
            if self._by_name.get(name) == ifindex:
                reports.append(
                    functools.partial(self._on_address_removed, name, address, prefixlen)
                )
        if self._on_route_removed is not None:
            reports += [
                functools.partial(self._on_route_removed, name) for name in self._routes_removed
            ]
        if self._on_watched is not None:
            seen = self._seen if reading is None else self._watched
            reports += [functools.partial(self._on_watched, address) for address in seen]
        if reading is not None and self._dropped and self._on_overrun is not None:
            reports.append(functools.partial(self._on_overrun, reading))
        # The next reading finds what was dropped silently after this one.
        self._everything_stale = self._dropped = self._silent
        self._changed.clear()
        self._deleted.clear()
        self._removed.clear()
        self._seen.clear()
        self._routes_removed.clear()
        self._post(reports)

    def _compare(
        self, name: str, uppers: dict[int, tuple[str, ...]]
    ) -> Iterator[Callable[[], None]]:
        before = self._reported.get(name)
        link = self._links.get(self._by_name.get(name, 0))
        now = as_interface(name, link, self._addresses, uppers)
        if before is not None and before.ifindex == now.ifindex != 0 and name in self._deleted:
            yield functools.partial(self._on_interface, absent(name))
        elif before == now:
            return
        self._reported[name] = now
        if now.ifindex and (before is None or before.ifindex != now.ifindex):
            every = self._kernel.addresses({now.ifindex}, now.ifindex)
            now = as_interface(name, link, every, uppers)
        yield functools.partial(self._on_interface, now)

    def _read_stale(self) -> None:
        followed = {self._by_name.get(name) for name in self._names}
        stale = self._stale & followed
        self._stale.clear()
        # One dump of all, or one for each.
        dumps = [0] if len(stale) > DUMPS_MAX else sorted(ifindex for ifindex in stale if ifindex)
        for only in dumps:
            wanted = {only} if only else stale
            found = self._kernel.addresses(wanted, only, excluded=OWN_PROTOCOL)
            for ifindex in wanted:
                self._addresses[ifindex] = found.get(ifindex, ())
                self._changed.add(self._links[ifindex].name)

    def _read_everything(self) -> dict[str, Interface]:
        """Replaces all that is known, and returns it with our own addresses."""
        before = self._addresses
        self._links = {link.ifindex: link for link in self._kernel.links()}
        self._by_name = {link.name: link.ifindex for link in self._links.values()}
        self._stale.clear()
        self._changed.update(self._names)
        followed = {self._by_name[name] for name in self._names if name in self._by_name}
        everything = self._kernel.addresses(followed)
        self._addresses = {
            ifindex: tuple(a for a in everything.get(ifindex, ()) if a.protocol != OWN_PROTOCOL)
            for ifindex in followed
        }
        for ifindex in followed & before.keys():
            there = {(a.address, a.prefixlen) for a in everything.get(ifindex, ())}
            for gone in before[ifindex]:
                if (gone.address, gone.prefixlen) not in there:
                    name = self._links[ifindex].name
                    self._removed[name, ifindex, gone.address, gone.prefixlen] = None
        uppers = uppers_of(self._links.values())
        return {
            name: as_interface(
                name, self._links.get(self._by_name.get(name, 0)), everything, uppers
            )
            for name in self._names
        }

    def _post(self, reports: list[Callable[[], None]]) -> None:
        if not reports or self._stopping.is_set():
            return
        self._inbox.extend(reports)
        try:
            self._loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:
            logger.error("the loop was closed before the link monitor was stopped")
            self._stopping.set()
