"""Listens to advertisements on the interfaces of this network namespace, with kernel timestamps.

Holds a packet socket for observation, which also gets the advertisements sent by this host. It
sends nothing but group memberships. Must not know configurations, verdicts or the daemon.
"""

from __future__ import annotations

import errno
import logging
import socket
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from carp_fast.capture.pcap import SECOND_NS, Record
from carp_fast.closing import Closing
from carp_fast.errors import CarpFastError
from carp_fast.net.filters import Instruction, attach_filter, packet_filter
from carp_fast.net.kernel import (
    ARPHRD_LOOPBACK,
    ETH_P_ALL,
    PACKET_ADD_MEMBERSHIP,
    PACKET_AUXDATA,
    PACKET_IGNORE_OUTGOING,
    PACKET_MR_ALLMULTI,
    PACKET_MR_PROMISC,
    PACKET_OUTGOING,
    SOL_PACKET,
)
from carp_fast.net.memberships import Joins
from carp_fast.net.sockets import dropped_since, open_receiver

logger = logging.getLogger(__name__)

FRAME_BYTES = 65_535
EXPECTED_PER_S = 10_000  # frames; the socket has room for four seconds
LOOK_INTERVAL_S = 1.0  # between checks that a silent interface still exists
WITH_IPV6 = Path("/proc/thread-self/net/if_inet6")


class ListenError(CarpFastError):
    """Raised when an interface cannot be listened on; the text is one line."""


class Listener(Closing):
    """Listens to the advertisements on one interface or on all of them; a context manager.

    `groups`: 4 or 16 bytes each, joined because a switch may otherwise not forward them. `program`:
    a filter in place of the daemon's. `arriving`: only frames from the wire, but for any MAC.
    `tags`: recvmsg also tells the VLAN tag that the kernel took off; not for records(). Raises
    ListenError, also from records() when the interface is removed.
    """

    def __init__(
        self,
        interface: str | None,
        groups: Iterable[bytes] = (),
        *,
        program: list[Instruction] | None = None,
        arriving: bool = False,
        tags: bool = False,
        expected_per_s: float = EXPECTED_PER_S,
    ) -> None:
        self._interface = interface
        self._program = program or packet_filter(None)
        self._arriving, self._tags = arriving, tags
        try:
            self._socket = open_receiver(expected_per_s)
        except PermissionError:
            raise ListenError("listening needs root, or the capability CAP_NET_RAW") from None
        self._joins = Joins(self._socket)
        try:
            self._open(set(groups))
        except OSError as error:
            self.close()
            raise ListenError(f"{interface or 'every interface'}: {error.strerror}") from None
        except BaseException:
            self.close()
            raise

    def _open(self, groups: set[bytes]) -> None:
        try:
            self._index = socket.if_nametoindex(self._interface) if self._interface else 0
        except OSError:
            raise ListenError(f"{self._interface}: no such interface") from None
        if self._interface:
            self._socket.bind((self._interface, ETH_P_ALL))
        self._socket.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, self._arriving)
        self._socket.setsockopt(SOL_PACKET, PACKET_AUXDATA, self._tags)
        wanted = PACKET_MR_PROMISC if self._arriving else PACKET_MR_ALLMULTI
        with_ipv6 = _names_with_ipv6()
        for index, name in socket.if_nameindex():
            if self._index in (0, index):
                # All groups by MAC; the known ones also by IGMP and MLD, for switches that snoop.
                request = struct.pack("iHH8s", index, wanted, 0, b"")
                self._socket.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, request)
                usable = {group for group in groups if len(group) == 4 or name in with_ipv6}
                self._joins.join(name, index, usable)
        attach_filter(self._socket, self._program)
        self._socket.settimeout(LOOK_INTERVAL_S)

    def close(self) -> None:
        """Leaves the groups and closes the socket."""
        self._joins.close()
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def records(self) -> Iterator[tuple[str, Record]]:
        """Yields (interface, frame) without end; waits while the interface is down."""
        while True:
            try:
                data, ancillary, _, origin = self._socket.recvmsg(FRAME_BYTES, 64)
            except TimeoutError:
                self._look()
                continue
            except OSError as error:
                if error.errno != errno.ENETDOWN:
                    raise ListenError(f"{self._interface}: {error.strerror}") from None
                logger.warning("%s is down: nothing is heard until it is up", self._interface)
                continue
            if origin[2] == PACKET_OUTGOING and origin[3] == ARPHRD_LOOPBACK:
                continue  # it also arrives as a received frame
            seconds, nanoseconds = struct.unpack("qq", ancillary[0][2])
            yield origin[0], Record(seconds * SECOND_NS + nanoseconds, data, len(data))

    def _look(self) -> None:
        if self._interface is None:
            return
        try:
            there = socket.if_nametoindex(self._interface) == self._index
        except OSError:
            there = False
        if not there:
            raise ListenError(f"{self._interface}: the interface was removed")

    @property
    def dropped(self) -> int:
        """Frames that the kernel dropped for lack of room since this was read last."""
        return dropped_since(self._socket)


def _names_with_ipv6() -> set[str]:
    """Names of interfaces with an IPv6 address, which MLD needs."""
    try:
        return {line.split()[5] for line in WITH_IPV6.read_text().splitlines()}
    except FileNotFoundError:
        return set()
