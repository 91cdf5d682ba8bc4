"""The engine as a Python class; times in ns of the caller's clock, addresses as 4 or 16 bytes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from typing_extensions import Buffer, disjoint_base

from carp_fast.engine._prepared import PreparedHost
from carp_fast.engine._recorder import ADDRESS_WORDS as ADDRESS_WORDS
from carp_fast.engine._recorder import THERE_WORDS as THERE_WORDS
from carp_fast.engine._state import State
from carp_fast.engine._tallies import Tallies
from carp_fast.engine._wire import VERDICT_WORDS as VERDICT_WORDS
from carp_fast.engine.actions import Action
from carp_fast.engine.copies import ExplainedHost, HostCopy, RejectedFrame
from carp_fast.engine.keys import DIALECTS as DIALECTS
from carp_fast.engine.keys import REPLAYS as REPLAYS
from carp_fast.engine.reports import Report
from carp_fast.engine.states import Placed

MAX_VIRTUAL_HOSTS: int
MAX_INTERFACES: int
HOST_BYTES: int

# (kind, at_ns, slot, interface, fields)
_Record = tuple[str, int, int | None, int, Any]

@disjoint_base
class FramesHeard:
    count: int
    def __init__(self, frames: Iterable[tuple[int, bytes]]) -> None: ...

@disjoint_base
class Engine:
    wake_tick_ns: int
    def __new__(cls, report_capacity: int = 8192, seed: int = 1) -> Self: ...
    @property
    def reports_lost(self) -> int: ...
    def set_pace(self, rate: int, at_once: int, in_all: int = 0) -> None: ...
    def set_interface(
        self,
        number: int,
        now_ns: int,
        *,
        ifindex: int = 1,
        up: bool = True,
        mac: bytes = b"\x02\x00\x00\x00\x00\x01",
        source: bytes | None = None,
        source6: bytes | None = None,
        forwards6: bool = False,
        renamed: bool = False,
        announce: bool = False,
    ) -> None: ...
    def mark(self, now_ns: int) -> None: ...
    def add(
        self,
        slot: int,
        prepared: PreparedHost,
        now_ns: int,
        demotion: int = 0,
        track: int = 0,
        hard: bool = False,
        maintenance: int = 0,
    ) -> None: ...
    def replace(
        self, slot: int, prepared: PreparedHost, now_ns: int, *, grace_ns: int = 0
    ) -> None: ...
    def remove(self, slot: int, now_ns: int) -> None: ...
    def resign_all(self, now_ns: int) -> None: ...
    def demote(
        self, slot: int, demotion: int, now_ns: int, by: str = "operator", *, hard: bool = False
    ) -> None: ...
    def tally(self, tallies: Tallies, now_ns: int, first: int = 0, count: int = 0) -> None: ...
    def tell_groups(self, now_ns: int) -> None: ...
    def hand_over(self, slot: int, now_ns: int, why: str = "yielded") -> None: ...
    def take_over(self, slot: int, now_ns: int) -> None: ...
    def withhold(self, slot: int, withheld: bool, now_ns: int) -> None: ...
    def bar(self, slot: int, barred: bool, now_ns: int) -> None: ...
    def announce(self, slot: int, now_ns: int) -> None: ...
    def found(self, slot: int, address: bytes, there: str, now_ns: int) -> None: ...
    def lose_address(self, slot: int, now_ns: int, *, demoted: bool = True) -> None: ...
    def set_own_source(
        self, slot: int, now_ns: int, *, missing: bool = False, missing6: bool = False
    ) -> None: ...
    def set_by_route(self, slot: int, by_route: bool, now_ns: int) -> None: ...
    def adopt(self, slot: int, address: bytes, prefixlen: int, now_ns: int) -> None: ...
    def receive(self, interface: int, frame: bytes, now_ns: int) -> str: ...
    def receive_many(
        self, frames: FramesHeard | Iterable[tuple[int, bytes]], now_ns: int
    ) -> int: ...
    def advertise_rounds(self, now_ns: int, rounds: int) -> int: ...
    def expire(self, now_ns: int, heard_until_ns: int | None = None) -> None: ...
    def stall(self, now_ns: int, since_ns: int | None = None, asleep_ns: int = 0) -> None: ...
    def drop(self, now_ns: int, since_ns: int | None = None) -> None: ...
    def next_deadline_ns(self) -> int | None: ...
    def record(self, capacity: int) -> None: ...
    def records(self) -> list[_Record]: ...
    def checkpoint(self, slot: int, now_ns: int) -> dict[str, Any]: ...
    def assume(self, slot: int, state: dict[str, Any], now_ns: int) -> None: ...
    def state_size(self) -> int:
        """How many bytes export_state() may need while these virtual hosts are there."""

    def export_state(self, buffer: Buffer) -> int:
        """Write the whole state into a writable buffer, for another engine; how many bytes.

        It has no passphrase and no key but those that were replaced lately, as midstates. Raises
        ValueError if there is less room than state_size(), or if a change of an address has no
        outcome yet.
        """

    def assume_state(
        self,
        state: State | Buffer,
        now_ns: int,
        *,
        slots: Sequence[int] | None = None,
        interfaces: Sequence[int] | None = None,
    ) -> Placed:
        """Let the hosts, which were added, go on where those of another engine were.

        Interfaces need not be set: they are as they were for the other engine. `slots`: by former
        slot, the slot here; `interfaces`: by former interface number, the number here; -1, and what
        is beyond the end: not here. Without `slots` a host goes on in the one with its interface,
        vhid and group, or if only one has its interface and vhid, in that; without `interfaces` the
        numbers are the same. `slots` as an array("i") costs no time of its own.

        Nothing is announced, no address is asked for but those that a MASTER has here only, and no
        state is reported; the reports so far are dropped. Every group is reported once. Raises
        ValueError, see State, also where a slot would become that of another virtual host.
        """

    def take_actions(
        self, now_ns: int, errors: Mapping[Any, int] | None = None, *, busy: bool = False
    ) -> list[Action]: ...
    def answer(self, now_ns: int, errors: Mapping[Any, int] | None = None) -> None: ...
    def fail_sends(self, slot: int, times: int, now_ns: int, error: int = 100) -> None: ...
    def take_reports(self) -> list[Report]: ...
    def host(self, slot: int) -> HostCopy: ...
    def explained(self, slot: int, now_ns: int) -> ExplainedHost: ...
    def interface_counters(self, number: int) -> dict[str, int]: ...
    def rejections(self, number: int) -> list[RejectedFrame]: ...
