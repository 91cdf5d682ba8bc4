"""promote_secondaries of an interface, set over netlink: /proc/sys may be read-only.

Without it the kernel removes the secondaries of a primary address that is removed. Must not know
whose addresses there are. Attributes: linux/if_link.h, linux/ip.h.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
from pathlib import Path

from carp_fast.net.kernel import (
    IFLA_AF_SPEC,
    IFLA_INET_CONF,
    IPV4_DEVCONF_PROMOTE_SECONDARIES,
    NLA_F_NESTED,
    NLM_F_ACK,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    RTM_SETLINK,
)

logger = logging.getLogger(__name__)

SETTINGS = Path("/proc/sys/net/ipv4/conf")
ANSWER_S = 5.0
ANSWER_BYTES = 4096
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port id
_LINK = struct.Struct("=BxHiII")  # family, type, index, flags, change
_ERROR = struct.Struct("=i")


def promote_secondaries(name: str, ifindex: int) -> None:
    """Sets promote_secondaries to 1 on an interface and logs it, or why it could not."""
    try:
        if (SETTINGS / name / "promote_secondaries").read_text().strip() == "1":
            return
        error = _set(ifindex)
    except OSError as raised:
        error = raised.errno or 0
        text = raised.strerror
    else:
        text = os.strerror(error)
    if error:
        logger.warning(
            "%s: could not set promote_secondaries: %s; it is tried again before an address is"
            " removed",
            name,
            text,
        )
    else:
        logger.info("%s: promote_secondaries set to 1", name)


def request(ifindex: int) -> bytes:
    """The message that sets it."""
    attribute = struct.pack("=HHI", 8, IPV4_DEVCONF_PROMOTE_SECONDARIES, 1)
    for kind in (IFLA_INET_CONF, socket.AF_INET, IFLA_AF_SPEC):
        attribute = struct.pack("=HH", 4 + len(attribute), kind | NLA_F_NESTED) + attribute
    body = _LINK.pack(socket.AF_UNSPEC, 0, ifindex, 0, 0) + attribute
    length = _HEADER.size + len(body)
    return _HEADER.pack(length, RTM_SETLINK, NLM_F_REQUEST | NLM_F_ACK, 1, 0) + body


def _set(ifindex: int) -> int:
    """Sets it; returns the kernel's errno, 0 for success. Raises OSError."""
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE) as sock:
        sock.settimeout(ANSWER_S)
        sock.connect((0, 0))
        sock.send(request(ifindex))
        while True:
            answer = sock.recv(ANSWER_BYTES)
            if _HEADER.unpack_from(answer)[1] == NLMSG_ERROR:
                return -int(_ERROR.unpack_from(answer, _HEADER.size)[0])
