"""The send path: as clones or through the packet socket, chosen at start, and the reasons.

Must not know what is sent. The pump chooses by itself for each batch, and gives clones up where
they fail; this only opens what they need, and reports.
"""

from __future__ import annotations

import logging
import os

from carp_fast.bpf.system import may_use_bpf
from carp_fast.closing import Closing
from carp_fast.engine.reports import ClonesGivenUp
from carp_fast.net.clones import Clones, ClonesError
from carp_fast.pump._pump import Pump

logger = logging.getLogger(__name__)

CLONES, PACKET = "clones", "packet"
SMALL = "batches of fewer than 16 frames, and unicast, through sockets"
WHY = {
    "unread": "its transmit counter cannot be read: {}",
    "uncounted": "its transmit counter did not count the first ones",
    "refused": "it refuses them, but not the frames of a packet socket: {}",
}


class SendPath(Closing):
    """The way frames are sent: `path`, "clones" or "packet", and `reason`, why.

    `wanted`: the key `daemon.send`. `interfaces_fd`: as in Clones.
    """

    def __init__(self, wanted: str, interfaces_fd: int = -1) -> None:
        self._wanted = wanted
        self._clones: Clones | None = None
        self._pump: Pump | None = None
        self.path, self.reason = PACKET, f'daemon.send = "{wanted}"'
        if wanted == PACKET:
            return
        try:
            self._clones = Clones(interfaces_fd)
        except ClonesError as error:
            self.reason = f"no clones: {error}"
            return
        self.path, self.reason = CLONES, f"{self.reason}; {SMALL}"

    def use(self, pump: Pump) -> None:
        """Lets a pump that does not run yet send clones, if they can be sent."""
        if self._clones is not None:
            self._pump = pump
            pump.send_clones(
                self._clones.program_fd, self._clones.address, self._clones.directory_fd
            )

    def log(self) -> None:
        """Logs the path and the reason, as a warning if clones were wanted and cannot be sent."""
        refused = self._wanted == CLONES and self.path == PACKET
        level = logging.WARNING if refused else logging.INFO
        logger.log(level, "send path: %s (%s)", self.path, self.reason)

    def path_of(self, interface: int) -> str:
        """The send path of an interface, by our number, as the pump has it now."""
        clones = self._pump is not None and self._pump.sends_clones(interface)
        return CLONES if clones else PACKET

    def on_given_up(self, interface: str | None, report: ClonesGivenUp) -> None:
        """Handles that the pump sends no clones any more, to one interface or at all."""
        why = os.strerror(report.error)
        if interface is None:
            self.path, self.reason = PACKET, f"no clones any more: cannot run their program: {why}"
            logger.warning("send path: %s (%s)", self.path, self.reason)
            return
        logger.warning("%s: no clones are sent: %s", interface, WHY[report.why].format(why))

    def close(self) -> None:
        """Closes what clones need; the pump must have stopped."""
        if self._clones is not None:
            self._clones.close()


def planned(wanted: str) -> tuple[str, str]:
    """The send path that a daemon would choose, and why, for a user who may not be the daemon's."""
    if wanted != PACKET and not may_use_bpf():
        return CLONES, f'daemon.send = "{wanted}"; if the daemon, unlike this user, may use BPF'
    with SendPath(wanted) as chosen:
        return chosen.path, chosen.reason
