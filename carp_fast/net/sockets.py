"""The daemon's sockets: opened, filtered and sized; the pump only uses them.

Everything here happens at start, at a reload, or when an interface comes or goes. Must not know the
engine, virtual hosts, groups, or what a frame means beyond protocol 112.
"""

from __future__ import annotations

import contextlib
import errno
import logging
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
    IPV6_AUTOFLOWLABEL,
    IPV6_RECVHOPLIMIT,
    IPV6_RECVPKTINFO,
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


# Receive room: four seconds of all advertisements, one frame charged about 768 bytes by the kernel.
FRAME_TRUESIZE = 768
BUFFER_SECONDS = 4
BUFFER_MIN, BUFFER_MAX = 1 << 20, 64 << 20
SEND_BUFFER = 4 << 20
NETLINK_BUFFER = 1 << 20
HOP_LIMIT = 255

RAW_FAMILIES = {"raw4": socket.AF_INET, "raw6": socket.AF_INET6}


def filter_interfaces(receivers: Mapping[str, socket.socket], ifindexes: list[int]) -> None:
    """Lets through advertisements on these interfaces only; on all, and said, where too many.

    `receivers`: "packet", or "raw4" and "raw6".
    """
    if len(ifindexes) > FILTERED_INTERFACES_MAX:
        logger.info(
            "no filter by interface: %d, more than %d", len(ifindexes), FILTERED_INTERFACES_MAX
        )
    for kind, sock in receivers.items():
        program = packet_filter if kind == "packet" else raw_filter
        try:
            attach_filter(sock, program(ifindexes))
        except OSError as error:  # ENOMEM: longer than net.core.optmem_max
            logger.warning(
                "no filter by interface (%d interfaces: %s, see net.core.optmem_max)",
                len(ifindexes),
                error.strerror,
            )
            attach_filter(sock, program(None))


def _size_buffer(sock: socket.socket, receive: bool, size: int, what: str) -> None:
    """Asks for `size` bytes of room, beyond the administrator's limit where allowed; says less."""
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
    """Gives a socket more room to receive, as far as the administrator's limit allows."""
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2 < size:
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, size)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def open_receivers(path: str, advertisements_per_s: float) -> dict[str, socket.socket]:
    """What the pump reads from, by kind: "packet", or with path "raw" a "raw4" and a "raw6" socket.

    They hear nothing before filter_interfaces(). A kernel without IPv6 has no "raw6". Raises
    OSError.
    """
    if path == "packet":
        return {"packet": open_receiver(advertisements_per_s)}
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


def open_receiver(advertisements_per_s: float) -> socket.socket:
    """One packet socket for all interfaces; it hears nothing before filter_interfaces()."""
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    sock = socket.socket(socket.AF_PACKET, kind, socket.htons(ETH_P_ALL))
    sock.setblocking(False)
    attach_filter(sock, NOTHING)
    drain(sock)
    sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    _size_receive_buffer(sock, advertisements_per_s)
    return sock


def receive_room(advertisements_per_s: float, most: int | None = BUFFER_MAX) -> int:
    """Bytes of receive buffer that BUFFER_SECONDS of these advertisements need, at most `most`."""
    size = max(int(advertisements_per_s * FRAME_TRUESIZE * BUFFER_SECONDS), BUFFER_MIN)
    return size if most is None else min(size, most)


def _size_receive_buffer(sock: socket.socket, advertisements_per_s: float) -> None:
    _size_buffer(sock, True, receive_room(advertisements_per_s), "receive socket")


def _prepare_raw_receiver(sock: socket.socket, family: int, advertisements_per_s: float) -> None:
    """Interface, destination and hop limit come as control, where the data does not have them."""
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    if family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVHOPLIMIT, 1)
    _size_receive_buffer(sock, advertisements_per_s)


def open_raw_sender(family: int) -> socket.socket | None:
    """A raw socket of AF_INET or AF_INET6 for unicast; None: this kernel has no such family.

    It drops all that it hears. That it is there keeps the kernel from answering protocol 112 of a
    peer with ICMP "protocol unreachable", where a packet socket is what listens. Raises OSError.
    """
    sock = _open_raw(family)
    if sock is None:
        return None
    if family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_HDRINCL, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, HOP_LIMIT)
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_AUTOFLOWLABEL, 0)  # as to a group
    _size_buffer(sock, False, SEND_BUFFER, "send socket of unicast")
    return sock


def _open_raw(family: int) -> socket.socket | None:
    """A raw socket of protocol 112 that hears nothing; None where the kernel has no such family."""
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
    """Throws away what arrived before the filter stood."""
    try:
        while True:
            sock.recv(1)
    except BlockingIOError:
        return


def dropped_since(sock: socket.socket) -> int:
    """Frames that a packet socket had no room for since the last call, or since it was opened."""
    counts = sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
    return int(struct.unpack("II", counts)[1])


def open_sender() -> socket.socket:
    """One packet socket that sends on every interface and receives nothing."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    sock.setblocking(False)
    _size_buffer(sock, False, SEND_BUFFER, "send socket")
    return sock


def open_netlink() -> socket.socket:
    """The rtnetlink socket of the pump's address changes, bound: its port id is in its name."""
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    sock = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
    sock.bind((0, 0))
    sock.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
    with contextlib.suppress(OSError):  # before Linux 5.0 every look is at all interfaces
        sock.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
    _size_buffer(sock, True, NETLINK_BUFFER, "netlink socket")
    return sock
