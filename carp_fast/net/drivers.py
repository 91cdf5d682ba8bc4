"""Queries about an interface's driver: XDP features, speed, counters.

Must not know what the answers are used for. Messages: Documentation/netlink/specs/netdev.yaml and
linux/genetlink.h of Linux.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from carp_fast.net.kernel import NLM_F_REQUEST, NLMSG_ERROR

CAN_TAKE_REDIRECTED = 1 << 2
"""NETDEV_XDP_ACT_NDO_XMIT: the interface sends frames that an XDP program redirects to it."""

NETLINK_GENERIC = 16
GENL_ID_CTRL, CTRL_CMD_GETFAMILY = 16, 3
CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME = 1, 2
NETDEV_CMD_DEV_GET, NETDEV_A_DEV_IFINDEX, NETDEV_A_DEV_XDP_FEATURES = 1, 1, 3
TIMEOUT_S = 5.0
SIOCETHTOOL, ETHTOOL_GSET = 0x8946, 1
SPEED_UNKNOWN = 0xFFFF_FFFF
NET_DEV = Path("/proc/thread-self/net/dev")
COLUMNS = (1, 3, 9, 11)  # columns of /proc/net/dev, in the order of Counters

_HEADER = struct.Struct("=IHHIIBBH")  # nlmsghdr and genlmsghdr
_ATTRIBUTE = struct.Struct("=HH")


def features_of(ifindex: int) -> int | None:
    """The NETDEV_XDP_ACT_* bits of an interface; None if the kernel does not report them (before
    6.3).
    """
    with contextlib.suppress(OSError, KeyError):
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        with socket.socket(socket.AF_NETLINK, kind, NETLINK_GENERIC) as kernel:
            kernel.settimeout(TIMEOUT_S)
            kernel.bind((0, 0))
            name = _attribute(CTRL_ATTR_FAMILY_NAME, b"netdev\0")
            family = dict(_ask(kernel, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, name))
            number = int.from_bytes(family[CTRL_ATTR_FAMILY_ID][:2], sys.byteorder)
            device = _attribute(NETDEV_A_DEV_IFINDEX, struct.pack("=I", ifindex))
            found = dict(_ask(kernel, number, NETDEV_CMD_DEV_GET, device))
            features: int = struct.unpack_from("=Q", found[NETDEV_A_DEV_XDP_FEATURES])[0]
            return features
    return None


def _attribute(kind: int, data: bytes) -> bytes:
    return (_ATTRIBUTE.pack(4 + len(data), kind) + data).ljust((len(data) + 7) & ~3, b"\0")


def _ask(
    kernel: socket.socket, family: int, command: int, attributes: bytes
) -> Iterator[tuple[int, bytes]]:
    """Sends a generic netlink request and yields the attributes of the answer. Raises OSError."""
    length = _HEADER.size + len(attributes)
    kernel.send(_HEADER.pack(length, family, NLM_F_REQUEST, 1, 0, command, 1, 0) + attributes)
    answer = kernel.recv(65_536)
    length, kind = struct.unpack_from("=IH", answer)
    if kind == NLMSG_ERROR:
        raise OSError(-struct.unpack_from("=i", answer, 16)[0], "netdev")
    at = _HEADER.size
    while at + _ATTRIBUTE.size <= length:
        size, attribute = _ATTRIBUTE.unpack_from(answer, at)
        if size < _ATTRIBUTE.size:
            break
        yield attribute & 0x3FFF, answer[at + 4 : at + size]
        at += (size + 3) & ~3


def speed_mbits(interface: str) -> int | None:
    """The speed of the link in 10^6 bits a second; None if the driver does not report it."""
    command = ctypes.create_string_buffer(struct.pack("=I", ETHTOOL_GSET), 64)
    address = ctypes.addressof(command)
    request = struct.pack("16sP", interface.encode()[:15], address).ljust(40, b"\0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        try:
            fcntl.ioctl(control, SIOCETHTOOL, request)
        except OSError:
            return None
    low, high = struct.unpack_from("=H", command, 12)[0], struct.unpack_from("=H", command, 28)[0]
    speed: int = high << 16 | low
    return speed if 0 < speed < SPEED_UNKNOWN and low != 0xFFFF else None


class Counters(NamedTuple):
    """Frame counters of an interface; `received_dropped` counts what the kernel dropped."""

    received: int
    received_dropped: int
    sent: int
    sent_dropped: int


def counters() -> dict[str, Counters]:
    """The counters of each interface in this thread's namespace, by name."""
    lines = (line.partition(":") for line in NET_DEV.read_text().splitlines()[2:])
    return {
        name.strip(): Counters(*(int(numbers.split()[column]) for column in COLUMNS))
        for name, _, numbers in lines
    }
