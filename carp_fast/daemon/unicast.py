"""Raw sockets from which the pump sends to unicast peers: one for each family that is needed.

Must not know what is sent.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING

from carp_fast.closing import Closing
from carp_fast.net import sockets

if TYPE_CHECKING:
    from carp_fast.config.load import VirtualHost
    from carp_fast.pump._pump import Pump

logger = logging.getLogger(__name__)


class Unicast(Closing):
    """The sockets, by family; they stay open: peers of a removed virtual host may still send."""

    def __init__(self, pump: Pump) -> None:
        self._pump = pump
        self._sockets: dict[int, socket.socket] = {}

    def open_for(self, hosts: Iterable[VirtualHost]) -> None:
        """Opens a socket for each family in which these have peers and none is open yet.

        Raises OSError.
        """
        for family in {family for host in hosts if host.settings.peers for family in host.families}:
            if family not in self._sockets:
                kind = socket.AF_INET if family == 4 else socket.AF_INET6
                sock = sockets.open_raw_sender(kind)
                if sock is None:
                    logger.error("this kernel has no IPv6: sending nothing to IPv6 peers")
                else:
                    self._sockets[family] = sock
        numbers = [self._sockets[each].fileno() if each in self._sockets else -1 for each in (4, 6)]
        self._pump.set_raw(*numbers)

    def close(self) -> None:
        """Closes the sockets; the pump must have ended."""
        for sock in self._sockets.values():
            sock.close()
