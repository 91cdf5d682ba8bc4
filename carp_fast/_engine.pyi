"""The engine's Python face; times in ns of the caller's clock, addresses as 4 bytes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Self

from typing_extensions import disjoint_base

from carp_fast._core import REPORT_WORDS as REPORT_WORDS
from carp_fast._vhid import REASON_WORDS as REASON_WORDS
from carp_fast._vhid import STATE_WORDS as STATE_WORDS
from carp_fast._wire import VERDICT_WORDS as VERDICT_WORDS

MAX_VIRTUAL_HOSTS: int
MAX_INTERFACES: int
HOST_BYTES: int
PREEMPT: dict[bool | str, int]
ADVERTISE_MAC: dict[str, int]
NEVER_SIGNED: set[bytes]

# (kind, at_ns, slot, state, previous, reason, peer, advbase, advskew, mac, value, detail)
_Report = tuple[str, int, int | None, str, str, str, bytes | None, int, int, bytes, int, int]

def multicast_mac(group: bytes) -> bytes: ...

@disjoint_base
class PreparedHost:
    def __init__(
        self,
        *,
        interface: int,
        vhid: int,
        addresses: Sequence[tuple[bytes, int]],
        passphrase: bytes,
        advbase: int = 1,
        advskew: int = 0,
        dead_ratio: int = 3,
        preempt: Literal["demoted"] | bool = "demoted",
        unsigned_addresses: Sequence[tuple[bytes, int]] = (),
        retired_addresses: Sequence[tuple[bytes, int]] = (),
        destination: bytes = b"\xe0\x00\x00\x12",
        source: bytes | None = None,
        ignore_link_state: bool = False,
        manage_addresses: bool = True,
        announce_on_order: bool = False,
        startup_delay_ns: int = 0,
        preempt_delay_ns: int = 0,
        announce_count: int = 1,
        announce_interval_ns: int = 0,
        announce_refresh_ns: int = 0,
        counter: int = 0,
        alternates: bool = False,
        advertise_mac: str = "interface",
        broadcast: bool = False,
    ) -> None: ...

@disjoint_base
class Engine:
    wake_tick_ns: int
    def __new__(cls, report_capacity: int = 8192) -> Self: ...
    @property
    def reports_lost(self) -> int: ...
    def set_interface(
        self,
        number: int,
        now_ns: int,
        *,
        ifindex: int = 1,
        up: bool = True,
        mac: bytes = b"\x02\x00\x00\x00\x00\x01",
        source: bytes | None = None,
    ) -> None: ...
    def add(self, slot: int, prepared: PreparedHost, now_ns: int) -> None: ...
    def replace(
        self, slot: int, prepared: PreparedHost, now_ns: int, *, grace_ns: int = 0
    ) -> None: ...
    def remove(self, slot: int, now_ns: int) -> None: ...
    def resign_all(self, now_ns: int) -> None: ...
    def demote(self, slot: int, demotion: int, now_ns: int) -> None: ...
    def announce(self, slot: int, now_ns: int) -> None: ...
    def verify(self, slot: int, now_ns: int) -> None: ...
    def lose_address(self, slot: int, now_ns: int) -> None: ...
    def receive(self, interface: int, frame: bytes, now_ns: int) -> str: ...
    def receive_rounds(
        self, frames: Iterable[tuple[int, bytes]], now_ns: int, rounds: int
    ) -> int: ...
    def advertise_rounds(self, now_ns: int, rounds: int) -> int: ...
    def expire(self, now_ns: int, heard_until_ns: int | None = None) -> None: ...
    def stall(self, now_ns: int) -> None: ...
    def next_deadline_ns(self) -> int | None: ...
    def take_actions(
        self, now_ns: int, errors: Mapping[bytes, int] | None = None
    ) -> list[tuple[Any, ...]]: ...
    def take_reports(self) -> list[_Report]: ...
    def host(self, slot: int) -> dict[str, Any]: ...
    def interface_counters(self, number: int) -> dict[str, int]: ...
