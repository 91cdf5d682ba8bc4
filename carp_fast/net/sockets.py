"""Opens, filters and sizes the daemon's sockets; the pump only uses them.

Everything here happens at start, at a reload, or when an interface appears or disappears. Must not
know the engine, virtual hosts, groups, or what a frame means beyond protocol 112.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import socket
import struct
from collections.abc import Mapping

from carp_fast.net.filters import (
    FILTERED_INTERFACES_MAX,
    NOTHING,
    attach_filter,
    packet_filter,
    raw_filter,
)
from carp_fast.net.kernel import (
    ETH_P_ALL,
    IP_PKTINFO,
    IP_RECVFRAGSIZE,
    IPV6_AUTOFLOWLABEL,
    IPV6_RECVDSTOPTS,
    IPV6_RECVFRAGSIZE,
    IPV6_RECVHOPLIMIT,
    IPV6_RECVHOPOPTS,
    IPV6_RECVPKTINFO,
    IPV6_RECVRTHDR,
    NETLINK_CAP_ACK,
    NETLINK_GET_STRICT_CHK,
    PACKET_IGNORE_OUTGOING,
    PACKET_STATISTICS,
    PROTOCOL_CARP,
    SO_RCVBUFFORCE,
    SO_SNDBUFFORCE,
    SO_TIMESTAMPNS,
    SOL_NETLINK,
    SOL_PACKET,
)

logger = logging.getLogger(__name__)


# Receive buffer: four seconds of all advertisements; the kernel charges about 768 bytes per frame.
FRAME_TRUESIZE = 768
BUFFER_SECONDS = 4
BUFFER_MIN, BUFFER_MAX = 1 << 20, 64 << 20
SEND_BUFFER = 4 << 20
NETLINK_BUFFER = 1 << 20
HOP_LIMIT = 255

RAW_FAMILIES = {"raw4": socket.AF_INET, "raw6": socket.AF_INET6}
# What the data of a raw socket lacks and its control messages have: interface, destination and hop
# limit; whether the kernel reassembled the packet, and which extension headers it removed.
RAW_CONTROL: dict[int, tuple[int, tuple[int, ...]]] = {
    socket.AF_INET: (socket.IPPROTO_IP, (IP_PKTINFO, IP_RECVFRAGSIZE)),
    socket.AF_INET6: (
        socket.IPPROTO_IPV6,
        (
            IPV6_RECVPKTINFO,
            IPV6_RECVHOPLIMIT,
            IPV6_RECVFRAGSIZE,
            IPV6_RECVHOPOPTS,
            IPV6_RECVRTHDR,
            IPV6_RECVDSTOPTS,
        ),
    ),
}


def filter_interfaces(receivers: Mapping[str, socket.socket], ifindexes: list[int]) -> None:
    """Passes only advertisements on these interfaces; if there are too many, on all, which is
    logged.

    `receivers`: "packet", or "raw4" and "raw6".
    """
    if len(ifindexes) > FILTERED_INTERFACES_MAX:
        logger.info(
            "not filtering by interface: %d interfaces, at most %d",
            len(ifindexes),
            FILTERED_INTERFACES_MAX,
        )
    for kind, sock in receivers.items():
        program = packet_filter if kind == "packet" else raw_filter
        try:
            attach_filter(sock, program(ifindexes))
        except OSError as error:  # ENOMEM: longer than net.core.optmem_max
            logger.warning(
                "not filtering by interface (%d interfaces: %s, see net.core.optmem_max)",
                len(ifindexes),
                error.strerror,
            )
            attach_filter(sock, program(None))


def _size_buffer(sock: socket.socket, receive: bool, size: int, what: str) -> None:
    """Requests a buffer of `size` bytes, beyond the administrator's limit if allowed; logs a
    shortage.
    """
    force = SO_RCVBUFFORCE if receive else SO_SNDBUFFORCE
    plain = socket.SO_RCVBUF if receive else socket.SO_SNDBUF
    try:
        sock.setsockopt(socket.SOL_SOCKET, force, size)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, plain, size)
    got = sock.getsockopt(socket.SOL_SOCKET, plain) // 2
    if got < size:
        limit = "net.core.rmem_max" if receive else "net.core.wmem_max"
        logger.warning("%s: buffer of %d bytes instead of %d (%s)", what, got, size, limit)


def enlarge(sock: socket.socket, size: int) -> None:
    """Enlarges a socket's receive buffer as far as the administrator's limit allows."""
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2 < size:
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, size)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def open_receivers(path: str, advertisements_per_s: float) -> dict[str, socket.socket]:
    """Opens the sockets that the pump reads, by kind: "packet"; or "raw4" and "raw6" if `path` is
    "raw". "ring": the packet socket of a ring.

    They receive nothing before filter_interfaces(). A kernel without IPv6 has no "raw6". Raises
    OSError.
    """
    if path in ("packet", "ring"):
        return {"packet": open_receiver(advertisements_per_s, stamped=path == "packet")}
    opened: dict[str, socket.socket] = {}
    try:
        for kind, family in RAW_FAMILIES.items():
            sock = _open_raw(family)
            if sock is not None:
                opened[kind] = sock
                _prepare_raw_receiver(sock, family, advertisements_per_s)
    except OSError:
        for sock in opened.values():
            sock.close()
        raise
    return opened


_libc = ctypes.CDLL(None, use_errno=True)
_SOCKADDR_LL = struct.Struct("=HHi12x")  # family, protocol, ifindex


def open_receiver(
    advertisements_per_s: float, protocol: int = ETH_P_ALL, *, stamped: bool = True
) -> socket.socket:
    """Opens a packet socket for all interfaces; it receives nothing before filter_interfaces().

    With `protocol` 0 it receives nothing, and costs no packet anything, before bind_receiver().
    `stamped`: with the kernel's time of arrival. As long as any socket of the machine wants that,
    the kernel reads the clock for every packet.
    """
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    sock = socket.socket(socket.AF_PACKET, kind, socket.htons(protocol))
    sock.setblocking(False)
    attach_filter(sock, NOTHING)
    drain(sock)
    sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    if stamped:
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    _size_receive_buffer(sock, advertisements_per_s)
    return sock


def bind_receiver(sock: socket.socket) -> None:
    """Lets a packet socket receive on all interfaces. Raises OSError."""
    # Python's bind() takes no address that stands for all interfaces.
    address = _SOCKADDR_LL.pack(socket.AF_PACKET, socket.htons(ETH_P_ALL), 0)
    if _libc.bind(sock.fileno(), address, len(address)) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def receive_room(advertisements_per_s: float, most: int | None = BUFFER_MAX) -> int:
    """The receive buffer in bytes for BUFFER_SECONDS of these advertisements, at most `most`."""
    size = max(int(advertisements_per_s * FRAME_TRUESIZE * BUFFER_SECONDS), BUFFER_MIN)
    return size if most is None else min(size, most)


def _size_receive_buffer(sock: socket.socket, advertisements_per_s: float) -> None:
    _size_buffer(sock, True, receive_room(advertisements_per_s), "receive socket")


def _prepare_raw_receiver(sock: socket.socket, family: int, advertisements_per_s: float) -> None:
    """Requests as control messages what the data lacks, see RAW_CONTROL."""
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    level, options = RAW_CONTROL[family]
    for option in options:
        sock.setsockopt(level, option, 1)
    _size_receive_buffer(sock, advertisements_per_s)


def open_raw_sender(family: int) -> socket.socket | None:
    """Opens a raw socket of AF_INET or AF_INET6 for unicast; None if the kernel lacks the family.

    It drops all that it receives. Its existence keeps the kernel from answering protocol 112 of a
    peer with ICMP "protocol unreachable" while a packet socket listens. Raises OSError.
    """
    sock = _open_raw(family)
    if sock is None:
        return None
    if family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, HOP_LIMIT)
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_AUTOFLOWLABEL, 0)  # as in frames to a group
    _size_buffer(sock, False, SEND_BUFFER, "send socket of unicast")
    return sock


def _open_raw(family: int) -> socket.socket | None:
    """A raw socket of protocol 112 that receives nothing; None if the kernel lacks the family."""
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    try:
        sock = socket.socket(family, kind, PROTOCOL_CARP)
    except OSError as error:
        if family == socket.AF_INET6 and error.errno == errno.EAFNOSUPPORT:
            return None
        raise
    sock.setblocking(False)
    attach_filter(sock, NOTHING)
    drain(sock)
    return sock


def drain(sock: socket.socket) -> None:
    """Discards what arrived before the filter was attached."""
    try:
        while True:
            sock.recv(1)
    except BlockingIOError:
        return


def dropped_since(sock: socket.socket) -> int:
    """The number of frames dropped by a packet socket since the last call or its opening."""
    counts = sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
    return int(struct.unpack("II", counts)[1])


def open_sender() -> socket.socket:
    """Opens a packet socket that sends on every interface and receives nothing."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    sock.setblocking(False)
    _size_buffer(sock, False, SEND_BUFFER, "send socket")
    return sock


def open_netlink() -> socket.socket:
    """Opens the bound rtnetlink socket of the pump's address changes: its name has the port id."""
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    sock = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
    sock.bind((0, 0))
    sock.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
    with contextlib.suppress(OSError):  # before Linux 5.0 every dump covers all interfaces
        sock.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
    _size_buffer(sock, True, NETLINK_BUFFER, "netlink socket")
    return sock
