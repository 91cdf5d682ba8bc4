"""The pump as a Python class: orders in, reports out. Addresses as 4 or 16 bytes, times in ns."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Self

from typing_extensions import Buffer, disjoint_base

from carp_fast.engine._lanes import COVERAGE_WORDS as COVERAGE_WORDS
from carp_fast.engine._lanes import LANE_WORDS as LANE_WORDS
from carp_fast.engine._prepared import PreparedHost
from carp_fast.engine._state import State
from carp_fast.engine._tallies import Tallies
from carp_fast.engine.reports import Report
from carp_fast.engine.states import Placed
from carp_fast.pump._freezing import RECEIVER_WORDS as RECEIVER_WORDS
from carp_fast.pump._snapshots import Records, Snapshot
from carp_fast.pump.facts import PumpFacts as PumpFacts

SCHEDULING_WORDS: tuple[str, ...]
HOSTS_A_SNAPSHOT: int

@disjoint_base
class Pump:
    def __new__(
        cls,
        receivers: Iterable[
            tuple[str, int] | tuple[str, int, str] | tuple[str, int, str, tuple[int, ...]]
        ],
        send_fd: int,
        netlink_fd: int,
        templates: Mapping[tuple[int, bool] | tuple[int, bool, str], tuple[bytes, bytes]],
        report_capacity: int = 8192,
        record: int = 0,
        marks: bool = True,
    ) -> Self: ...
    @property
    def report_fd(self) -> int: ...
    @property
    def epoll_fd(self) -> int: ...
    @property
    def facts(self) -> PumpFacts: ...
    @property
    def report_capacity(self) -> int: ...
    def grow_reports(self, report_capacity: int) -> None: ...
    def start(self, scheduling: str = "fifo") -> None: ...
    def start_netlink(self, scheduling: str = "nice") -> None: ...
    def stop(self) -> None: ...
    def run_due(self) -> None: ...
    def freeze(self, timeout_s: float = 1.0) -> list[tuple[str, str, int]]:
        """Drain and freeze the pump: (kind, lane, heard until, ns) of each receiver.

        The calling thread waits. The pump takes the orders given so far, asks the kernel for
        nothing new, and once every change of an address has its outcome it ends its turn; it then
        neither sends nor reads until resume() or stop(). Every frame that arrived until a
        receiver's time was processed, and no later one. Raises TimeoutError with what hangs, and
        then the pump goes on, and RuntimeError if it is frozen. Without a thread it runs turns
        here, and must not be run by others meanwhile.
        """

    def resume(self) -> None:
        """Let a frozen pump go on as after an absence: frames that waited are read first.

        Raises RuntimeError if it is not frozen.
        """

    def state_size(self) -> int:
        """How many bytes export_state() may need while these virtual hosts are there.

        It may be called before freeze(), to reserve the memory.
        """

    def export_state(self, buffer: Buffer) -> int:
        """Write the state of a frozen pump and its engine into a buffer; how many bytes.

        See Engine.export_state(). Raises RuntimeError if the pump is running, and not frozen.
        """

    def assume_state(
        self,
        state: State | Buffer,
        *,
        slots: Sequence[int] | None = None,
        interfaces: Sequence[int] | None = None,
    ) -> Placed:
        """Go on, before the start, from the state of another process; see Engine.assume_state().

        The receivers must have been opened before the other pump was frozen, and for rings, whose
        filters let through what is for a known interface and virtual host, the orders that set and
        add these carried out (carry_out_orders()). They discard what
        arrived until it had read the receiver of the same kind and lane, or, if it had none, the
        one that it read least far. Orders that were given are carried out before, and the reports
        so far dropped: no mark given before it is reported. Raises RuntimeError once the pump runs.
        """

    def carry_out_orders(self) -> None:
        """Carry out the orders given so far, before the start, without a turn.

        Raises RuntimeError once the pump runs.
        """
    def room(self) -> int: ...
    def mark(self, when_settled: bool = False) -> int: ...
    def set_raw(self, raw4_fd: int, raw6_fd: int) -> None: ...
    def send_clones(self, program_fd: int, address: int, directory_fd: int) -> None: ...
    def sends_clones(self, interface: int | None = None) -> bool: ...
    def cover(self, coverage: str) -> None: ...
    def settle_sources(self, count: int) -> None: ...
    def add(
        self,
        slot: int,
        prepared: PreparedHost,
        demotion: int = 0,
        track: int = 0,
        hard: bool = False,
        maintenance: int = 0,
    ) -> None: ...
    def replace(self, slot: int, prepared: PreparedHost, grace_ns: int) -> None: ...
    def remove(self, slot: int) -> None: ...
    def set_interface(
        self,
        number: int,
        *,
        ifindex: int,
        up: bool,
        mac: bytes,
        source: bytes | None = None,
        source6: bytes | None = None,
        forwards6: bool = False,
        renamed: bool = False,
        announce: bool = False,
    ) -> None: ...
    def demote(
        self, slot: int, demotion: int, by: str = "operator", *, hard: bool = False
    ) -> None: ...
    def tell_groups(self) -> None: ...
    def hand_over(self, slot: int, why: str = "yielded") -> None: ...
    def take_over(self, slot: int) -> None: ...
    def withhold(self, slot: int, withheld: bool) -> None: ...
    def bar(self, slot: int, barred: bool) -> None: ...
    def announce(self, slot: int) -> None: ...
    def verify(self, slot: int) -> None: ...
    def lose_address(self, slot: int, *, demoted: bool = True) -> None: ...
    def set_own_source(
        self, slot: int, *, missing: bool = False, missing6: bool = False
    ) -> None: ...
    def set_pace(self, rate: int, at_once: int, in_all: int = 0) -> None: ...
    def set_by_route(self, slot: int, by_route: bool) -> None: ...
    def adopt(self, slot: int, address: bytes, prefixlen: int) -> None: ...
    def resign_all(self) -> None: ...
    def take_reports(self, limit: int = 1000) -> list[Report]: ...
    def snapshot(self, first: int, count: int) -> Snapshot: ...
    def snapshot_interfaces(self, count: int, first: int = 0) -> Snapshot: ...
    def tally(self, tallies: Tallies, first: int = 0, count: int = 0) -> None: ...
    def records(self, first: int, count: int) -> Records: ...
    def remove_addresses(self, addresses: Iterable[tuple[int, bytes, int | None]]) -> list[int]: ...
