"""The receive path: where rings are wanted, whether they can be had, and the reason if not.

Must not know how a path is wanted; that is in plan.
"""

from __future__ import annotations

import logging
import socket

from carp_fast.bpf.system import may_use_bpf
from carp_fast.net.lanes import LaneSockets
from carp_fast.net.rings import RingError, Rings, slots_by_lane

logger = logging.getLogger(__name__)

RING, PACKET = "ring", "packet"
Chosen = tuple[str, str]
"""A receive path and the reason."""


def open_receivers(wanted: Chosen, advertisements_per_s: float) -> tuple[LaneSockets, Chosen]:
    """Opens the receive sockets: of the packet path where rings are wanted and cannot be had.

    Returns the path that they are of, and why. Raises OSError.
    """
    path, _ = wanted
    try:
        return LaneSockets(path, advertisements_per_s), wanted
    except RingError as error:
        return LaneSockets(PACKET, advertisements_per_s), _no_rings(error)


def log_chosen(wanted: str, chosen: Chosen) -> None:
    """Logs the path and the reason, as a warning if rings were asked for and cannot be had."""
    level = logging.WARNING if wanted == RING != chosen[0] else logging.INFO
    logger.log(level, "receive path: %s (%s)", *chosen)


def planned_receive(wanted: Chosen, advertisements_per_s: float) -> Chosen:
    """The path that a daemon would use, and why, for a user who may not be the daemon's."""
    path, reason = wanted
    if path != RING:
        return wanted
    if not may_use_bpf():
        return path, f"{reason}; if the daemon, unlike this user, may use BPF"
    try:
        with (
            Rings(slots_by_lane(advertisements_per_s)) as rings,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,  # any can have the filter
        ):
            rings.attach("stray", sock)
    except RingError as error:
        return _no_rings(error)
    return wanted


def _no_rings(error: RingError) -> Chosen:
    return PACKET, f"no rings: {error}"
