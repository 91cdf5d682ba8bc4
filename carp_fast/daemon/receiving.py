"""The receive path: whether what is wanted can be had, the reason if not, and what comes instead.

Must not know how a path is wanted; that is in plan.
"""

from __future__ import annotations

import logging
import socket

from carp_fast.bpf.system import may_use_bpf
from carp_fast.net.lanes import LaneSockets
from carp_fast.net.rings import RingError, Rings, slots_by_lane
from carp_fast.net.tcx import Tcx, TcxError

logger = logging.getLogger(__name__)

TCX, RING, PACKET = "tcx", "ring", "packet"
Chosen = tuple[str, str]
"""A receive path and the reason."""


def open_receivers(wanted: Chosen, advertisements_per_s: float) -> tuple[LaneSockets, Chosen]:
    """Opens the receive sockets: of the ring path where there is no tcx, of the packet path where
    there are no rings.

    Returns the path that they are of, and why. Raises OSError.
    """
    path, _ = wanted
    try:
        return LaneSockets(path, advertisements_per_s), wanted
    except TcxError as error:
        return open_receivers(_no_tcx(error), advertisements_per_s)
    except RingError as error:
        return LaneSockets(PACKET, advertisements_per_s), _no_rings(error)


class ReceivePath:
    """The receive path that is used, and why; `fallbacks`: how often it changed."""

    def __init__(self, path: str = PACKET, reason: str = 'daemon.receive = "packet"') -> None:
        self.path, self.reason, self.fallbacks = path, reason, 0

    def on_fallen_back(self, why: str) -> None:
        """Notes and logs that the tcx path became the ring path."""
        self.path, self.reason = _no_tcx(why)
        self.fallbacks += 1
        logger.warning("receive path: %s from now on (%s)", self.path, self.reason)


def log_chosen(wanted: str, chosen: Chosen) -> None:
    """Logs the path and the reason, as a warning if rings or tcx were asked for in vain."""
    level = logging.WARNING if wanted in (RING, TCX) and wanted != chosen[0] else logging.INFO
    logger.log(level, "receive path: %s (%s)", *chosen)


def planned_receive(wanted: Chosen, advertisements_per_s: float) -> Chosen:
    """The path that a daemon would use, and why, for a user who may not be the daemon's."""
    path, reason = wanted
    if path not in (RING, TCX):
        return wanted
    if not may_use_bpf():
        return path, f"{reason}; if the daemon, unlike this user, may use BPF"
    try:
        with (
            Rings(slots_by_lane(advertisements_per_s), wakers=path == TCX) as rings,
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,  # any can have the filter
        ):
            rings.attach("stray", sock)
            if path == TCX:
                Tcx(rings).close()
    except TcxError as error:
        return planned_receive(_no_tcx(error), advertisements_per_s)
    except RingError as error:
        return _no_rings(error)
    return wanted


def _no_tcx(why: TcxError | str) -> Chosen:
    return RING, f"no tcx: {why}"


def _no_rings(error: RingError) -> Chosen:
    return PACKET, f"no rings: {error}"
