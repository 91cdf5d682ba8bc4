"""The daemon's sockets: opened, filtered, sized and joined to groups; the pump only uses them.

Everything here happens at start or when an interface comes or goes. Must not know the engine,
virtual hosts or what a frame means beyond protocol 112.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import socket
import struct

logger = logging.getLogger(__name__)

PROTOCOL_CARP = 112
ETH_P_ALL = 0x0003
ETH_P_IP, ETH_P_IPV6 = 0x0800, 0x86DD
SOL_PACKET = 263
PACKET_ADD_MEMBERSHIP, PACKET_DROP_MEMBERSHIP, PACKET_MR_MULTICAST = 1, 2, 0
PACKET_IGNORE_OUTGOING = 23
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
SO_ATTACH_FILTER, SO_TIMESTAMPNS = 26, 35
SOL_NETLINK, NETLINK_CAP_ACK = 270, 10
SKF_AD_IFINDEX, SKF_AD_VLAN_TAG_PRESENT = 0xFFFFF000 + 8, 0xFFFFF000 + 48

# Receive room: four seconds of all advertisements, one frame charged about 768 bytes by the kernel.
FRAME_TRUESIZE = 768
BUFFER_SECONDS = 4
BUFFER_MIN, BUFFER_MAX = 1 << 20, 64 << 20
SEND_BUFFER = 4 << 20
NETLINK_BUFFER = 1 << 20
UNPRUNED = bytes((224, 0, 0))  # 224.0.0.0/24: floods every segment, a switch must not prune it
MEMBERSHIPS_MAX = 20  # tried a socket; the kernel's igmp_max_memberships may allow less
FILTERED_INTERFACES_MAX = 1500  # a filter has at most 4,096 instructions

LD_W_ABS, LD_H_ABS, LD_B_ABS = 0x20, 0x28, 0x30
JA, JEQ, JGE, RET = 0x05, 0x15, 0x35, 0x06

Instruction = tuple[int, int, int, int]


def _is_one_of(numbers: list[int]) -> list[Instruction]:
    """Instructions that accept when A is one of the ascending `numbers`, else drop."""
    if len(numbers) <= 4:
        count = len(numbers)
        tests = [(JEQ, count - i, 0, number) for i, number in enumerate(numbers)]
        return [*tests, (RET, 0, 0, 0), (RET, 0, 0, 0xFFFF)]
    middle = len(numbers) // 2
    lower, upper = _is_one_of(numbers[:middle]), _is_one_of(numbers[middle:])
    return [(JGE, 0, 1, numbers[middle]), (JA, 0, 0, len(lower)), *lower, *upper]


def packet_filter(ifindexes: list[int] | None) -> list[Instruction]:
    """A classic BPF program: untagged IPv4 of protocol 112, on these interfaces where given.

    A frame of an interface without virtual hosts must be dropped here, uncounted: a port of a
    bridge or bond delivers each frame twice on an unbound socket.
    """
    program = [
        (LD_W_ABS, 0, 0, SKF_AD_VLAN_TAG_PRESENT),
        (JEQ, 1, 0, 0),
        (RET, 0, 0, 0),
        (LD_H_ABS, 0, 0, 12),
        (JEQ, 1, 0, ETH_P_IP),
        (RET, 0, 0, 0),
        (LD_B_ABS, 0, 0, 23),
        (JEQ, 1, 0, PROTOCOL_CARP),
        (RET, 0, 0, 0),
    ]
    if ifindexes is None or len(ifindexes) > FILTERED_INTERFACES_MAX:
        return [*program, (RET, 0, 0, 0xFFFF)]
    return [*program, (LD_W_ABS, 0, 0, SKF_AD_IFINDEX), *_is_one_of(sorted(ifindexes))]


def attach_filter(sock: socket.socket, program: list[Instruction]) -> None:
    """Attaches a classic BPF program, in place of one attached before."""
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code)
    sock.setsockopt(
        socket.SOL_SOCKET,
        SO_ATTACH_FILTER,
        struct.pack("HxxxxxxP", len(program), ctypes.addressof(buffer)),
    )


def filter_interfaces(sock: socket.socket, ifindexes: list[int]) -> None:
    """Lets through advertisements on these interfaces only; on all, and said, where too many."""
    if len(ifindexes) > FILTERED_INTERFACES_MAX:
        logger.info(
            "no filter by interface: %d, more than %d", len(ifindexes), FILTERED_INTERFACES_MAX
        )
    try:
        attach_filter(sock, packet_filter(ifindexes))
    except OSError as error:  # ENOMEM: longer than net.core.optmem_max
        logger.warning(
            "no filter by interface (%d interfaces: %s, see net.core.optmem_max)",
            len(ifindexes),
            error.strerror,
        )
        attach_filter(sock, packet_filter(None))


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


def open_receiver(advertisements_per_s: float) -> socket.socket:
    """One packet socket for all interfaces; it hears nothing before filter_interfaces()."""
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    sock = socket.socket(socket.AF_PACKET, kind, socket.htons(ETH_P_ALL))
    sock.setblocking(False)
    attach_filter(sock, [(RET, 0, 0, 0)])
    _empty(sock)
    sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    size = int(advertisements_per_s * FRAME_TRUESIZE * BUFFER_SECONDS)
    _size_buffer(sock, True, min(max(size, BUFFER_MIN), BUFFER_MAX), "receive socket")
    return sock


def _empty(sock: socket.socket) -> None:
    """Throws away what arrived before the filter stood."""
    try:
        while True:
            sock.recv(1)
    except BlockingIOError:
        return


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
    _size_buffer(sock, True, NETLINK_BUFFER, "netlink socket")
    return sock


def multicast_mac(group: bytes) -> bytes:
    """The Ethernet address of a 4-byte IPv4 multicast group (RFC 1112)."""
    return bytes((1, 0, 0x5E, group[1] & 0x7F, group[2], group[3]))


class Joins:
    """Group memberships of the used interfaces, by MAC and by IGMP.

    By MAC on the receive socket, since a network card or a macvlan filters even 224.0.0.18; by
    IGMP on sockets of their own, since a snooping switch prunes every group beyond 224.0.0.0/24.
    An interface that was created again is joined again: its ifindex is another.
    """

    def __init__(self, receiver: socket.socket) -> None:
        self._receiver = receiver
        self._joined: dict[tuple[int, bytes], socket.socket | None] = {}
        self._members: dict[socket.socket, int] = {}

    def join(self, name: str, ifindex: int, groups: set[bytes]) -> None:
        """Makes the memberships of an interface these groups (4 bytes each)."""
        had = {group for index, group in self._joined if index == ifindex}
        for group in sorted(groups - had):
            try:
                self._receiver.setsockopt(
                    SOL_PACKET, PACKET_ADD_MEMBERSHIP, _mac_request(ifindex, group)
                )
                self._joined[ifindex, group] = None
                if group[:3] != UNPRUNED:
                    self._joined[ifindex, group] = self._join_igmp(ifindex, group)
            except OSError as error:
                text = socket.inet_ntoa(group)
                logger.warning("%s: joining group %s failed: %s", name, text, error.strerror)
        for group in had - groups:
            self._leave(ifindex, group)

    def leave(self, ifindex: int) -> None:
        """Gives up all memberships of an interface, which may be gone already."""
        for index, group in list(self._joined):
            if index == ifindex:
                self._leave(index, group)

    def close(self) -> None:
        """Leaves every group."""
        for sock in self._members:
            sock.close()
        self._members.clear()
        self._joined.clear()

    def _join_igmp(self, ifindex: int, group: bytes) -> socket.socket:
        request = _igmp_request(ifindex, group)
        for sock, count in self._members.items():
            if count >= MEMBERSHIPS_MAX:
                continue
            try:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._members[sock] = MEMBERSHIPS_MAX  # full, whatever is left later
                continue
            self._members[sock] += 1
            return sock
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._members[sock] = 0
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
        self._members[sock] = 1
        return sock

    def _leave(self, ifindex: int, group: bytes) -> None:
        sock = self._joined.pop((ifindex, group))
        try:
            self._receiver.setsockopt(
                SOL_PACKET, PACKET_DROP_MEMBERSHIP, _mac_request(ifindex, group)
            )
        except OSError:
            pass  # the kernel dropped it together with the interface
        if sock is None:
            return
        try:
            sock.setsockopt(
                socket.IPPROTO_IP, socket.IP_DROP_MEMBERSHIP, _igmp_request(ifindex, group)
            )
        except OSError:
            pass
        self._members[sock] -= 1


def _mac_request(ifindex: int, group: bytes) -> bytes:
    return struct.pack("iHH8s", ifindex, PACKET_MR_MULTICAST, 6, multicast_mac(group))


def _igmp_request(ifindex: int, group: bytes) -> bytes:
    return struct.pack("4s4si", group, bytes(4), ifindex)
