"""The multicast groups that the interfaces have joined: by MAC, by IGMP and by MLD.

Groups are joined when an interface appears or was created again, and left when no virtual host
needs them. Must not know virtual hosts, filters, or what is sent to a group.
"""

from __future__ import annotations

import errno
import logging
import socket
import struct

from carp_fast.engine._prepared import multicast_mac
from carp_fast.inet import address_text, family_of
from carp_fast.net.kernel import (
    PACKET_ADD_MEMBERSHIP,
    PACKET_DROP_MEMBERSHIP,
    PACKET_MR_MULTICAST,
    SOL_PACKET,
)

logger = logging.getLogger(__name__)

UNPRUNED = bytes((224, 0, 0))  # 224.0.0.0/24 floods every segment: a switch must not prune it
MEMBERSHIPS_MAX = 20  # per socket; the kernel's igmp_max_memberships may allow less
# Errors of a full socket: igmp_max_memberships, or net.core.optmem_max, which limits IPv6 only.
FULL = frozenset({errno.ENOBUFS, errno.ENOMEM})


class Joins:
    """Group memberships of the used interfaces; a group has 4 or 16 bytes.

    Groups are joined by MAC on the packet socket that receives, since a network card or a macvlan
    filters even 224.0.0.18. Groups beyond 224.0.0.0/24 are also joined by IGMP and MLD, on separate
    sockets, since a snooping switch prunes them. Without a packet socket (`receiver` None) all are
    joined by IP: the kernel drops packets to groups that no socket has joined, and joins the MAC,
    too.

    An interface that was created again has another ifindex and is joined again. A failure is logged
    once, and retried at each later change of the interface.
    """

    def __init__(self, receiver: socket.socket | None) -> None:
        self._receiver = receiver
        self._joined: dict[tuple[int, bytes], socket.socket | None] = {}
        self._warned: set[tuple[int, bytes]] = set()
        # The number of memberships of each socket, by the length of its groups.
        self._members: dict[int, dict[socket.socket, int]] = {4: {}, 16: {}}

    def join(self, name: str, ifindex: int, groups: set[bytes]) -> None:
        """Joins these groups on an interface and leaves all others there."""
        had = {group for index, group in self._joined if index == ifindex}
        for group in sorted(groups):
            try:
                if self._receiver is not None and group not in had:
                    request = _mac_request(ifindex, group)
                    self._receiver.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, request)
                    self._joined[ifindex, group] = None
                by_ip = self._receiver is None or group[:3] != UNPRUNED
                # Retried where only the IP part failed before.
                if by_ip and self._joined.get((ifindex, group)) is None:
                    self._joined[ifindex, group] = self._join_ip(ifindex, group)
                self._warned.discard((ifindex, group))
            except OSError as error:
                if (ifindex, group) in self._warned:
                    continue
                self._warned.add((ifindex, group))
                text = address_text(group)
                logger.warning("%s: joining group %s failed: %s", name, text, error.strerror)
        for group in had - groups:
            self._leave(ifindex, group)

    def joined(self, ifindex: int) -> set[bytes]:
        """The groups that an interface is a member of, as far as joining succeeded."""
        return {group for index, group in self._joined if index == ifindex}

    def leave(self, ifindex: int) -> None:
        """Leaves all groups of an interface, which may no longer exist."""
        self._warned = {each for each in self._warned if each[0] != ifindex}
        for index, group in list(self._joined):
            if index == ifindex:
                self._leave(index, group)

    def close(self) -> None:
        """Leaves every group and closes the sockets."""
        for members in self._members.values():
            for sock in members:
                sock.close()
            members.clear()
        self._joined.clear()

    def _join_ip(self, ifindex: int, group: bytes) -> socket.socket:
        """Joins on the first socket that has room, or on a new one; returns that socket."""
        members = self._members[len(group)]
        request = _ip_request(ifindex, group)
        for sock, count in members.items():
            if count >= MEMBERSHIPS_MAX:
                continue
            try:
                sock.setsockopt(*_ip_option(group, adding=True), request)
            except OSError as error:
                if error.errno not in FULL:
                    raise
                members[sock] = MEMBERSHIPS_MAX  # full, even if groups are left later
                continue
            members[sock] += 1
            return sock
        sock = socket.socket(family_of(group), socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            sock.setsockopt(*_ip_option(group, adding=True), request)
        except OSError:
            sock.close()
            raise
        members[sock] = 1
        return sock

    def _leave(self, ifindex: int, group: bytes) -> None:
        sock = self._joined.pop((ifindex, group))
        try:
            if self._receiver is not None:
                request = _mac_request(ifindex, group)
                self._receiver.setsockopt(SOL_PACKET, PACKET_DROP_MEMBERSHIP, request)
        except OSError:
            pass  # the kernel dropped it together with the interface
        if sock is None:
            return
        try:
            sock.setsockopt(*_ip_option(group, adding=False), _ip_request(ifindex, group))
        except OSError:
            pass
        self._members[len(group)][sock] -= 1


def _mac_request(ifindex: int, group: bytes) -> bytes:
    return struct.pack("iHH8s", ifindex, PACKET_MR_MULTICAST, 6, multicast_mac(group))


def _ip_request(ifindex: int, group: bytes) -> bytes:
    if len(group) == 4:
        return struct.pack("4s4si", group, bytes(4), ifindex)
    return struct.pack("16si", group, ifindex)


def _ip_option(group: bytes, *, adding: bool) -> tuple[int, int]:
    if len(group) == 4:
        option = socket.IP_ADD_MEMBERSHIP if adding else socket.IP_DROP_MEMBERSHIP
        return socket.IPPROTO_IP, option
    return socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP if adding else socket.IPV6_LEAVE_GROUP
