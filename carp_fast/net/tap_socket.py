"""The socket that hears what this machine sends, open only while it is needed.

Most frames from our own MACs are our own, and with tens of thousands of virtual hosts far too many
to look at: the filter passes only the vhids of them that the caller chooses. Must not know the
engine, virtual hosts, or what a frame means beyond its addresses and its vhid.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable

from carp_fast.net.filters import NOTHING, attach_filter, tap_filter
from carp_fast.net.kernel import ETH_P_ALL
from carp_fast.net.sockets import drain, enlarge

ROOM = 4 << 20  # 5,400 frames, see FRAME_TRUESIZE


def open_tap(ifindexes: list[int], own_mac_ends: Iterable[int], vhids: range) -> socket.socket:
    """Opens a packet socket that hears what tap_filter() passes. Raises OSError."""
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    sock = socket.socket(socket.AF_PACKET, kind, socket.htons(ETH_P_ALL))
    try:
        sock.setblocking(False)
        attach_filter(sock, NOTHING)
        drain(sock)
        enlarge(sock, ROOM)
        try:
            attach_filter(sock, tap_filter(ifindexes, own_mac_ends, vhids))
        except OSError:  # too many interfaces for a filter: the reader checks them
            attach_filter(sock, tap_filter(None, own_mac_ends, vhids))
    except OSError:
        sock.close()
        raise
    return sock
