"""Virtual addresses that another program removes: the pump adds them again, up to the fifth time.

Must not know what removed an address, nor how interfaces are followed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from carp_fast.daemon.host_log import HostLog
from carp_fast.daemon.table import Hosts

if TYPE_CHECKING:
    from carp_fast.daemon.orders import Orders

REMOVED = "was removed by another program"
# An address that is removed this often within this time is given up, and its host demoted.
LOST_TIMES, LOST_WITHIN_S = 5, 60.0


class LostAddresses:
    """Counts how often each address was removed."""

    def __init__(self, hosts: Hosts, orders: Orders, host_log: HostLog) -> None:
        self._host_log = host_log
        self._hosts = hosts
        self._orders = orders
        self._times: dict[tuple[int, str], deque[float]] = {}  # by slot and address

    @property
    def state(self) -> list[tuple[int, str, list[float]]]:
        """(slot, address, the times in seconds of the loop's clock, CLOCK_MONOTONIC)."""
        return [(slot, text, [*times]) for (slot, text), times in self._times.items()]

    def go_on(self, state: Iterable[tuple[int, str, list[float]]]) -> None:
        """Goes on with the `state` of another process."""
        self._times = {(slot, text): deque(times, maxlen=LOST_TIMES) for slot, text, times in state}

    def on_restored(self, slot: int, text: str, what: str = REMOVED) -> None:
        """Counts that an address was removed and added again; if that is too often, its host gives
        up. `what`: what happened to it, for the log.
        """
        times = self._times.setdefault((slot, text), deque(maxlen=LOST_TIMES))
        times.append(asyncio.get_running_loop().time())
        name = self._hosts.name(slot)
        if len(times) < LOST_TIMES or times[-1] - times[0] > LOST_WITHIN_S:
            did = f"{what}, added again"
            self._host_log.log(logging.WARNING, name, f"address {text} {did}", f"an address {did}")
            return
        did = f"was removed {LOST_TIMES} times within {LOST_WITHIN_S:.0f} s, given up"
        self._host_log.log(
            logging.ERROR, name, f"address_lost: {text} {did}", f"address_lost: an address {did}"
        )
        times.clear()
        pump = self._orders.pump
        self._orders.post(self._hosts.only_now(slot, lambda: pump.lose_address(slot)))

    def on_released(self, slot: int) -> None:
        """Forgets the virtual host of a slot that is free now."""
        for key in [key for key in self._times if key[0] == slot]:
            del self._times[key]
