"""The receiving end of a test: a socket, a tally in a thread, and the result.

Holds the filter of frames, the settings that digests are judged by, and the document of the result.
Must not know the command line, the sending end, or how results are printed.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from carp_fast.capture.digests import GROUPS
from carp_fast.capture.judge import signers_of
from carp_fast.capture.listen import Listener, ListenError
from carp_fast.closing import Closing
from carp_fast.config.model import Configuration
from carp_fast.errors import CarpFastError
from carp_fast.inet import address_text, mac_text
from carp_fast.lab.namespaces import LabError, inside
from carp_fast.loadtest._sink import Sink
from carp_fast.loadtest._tally import COUNTER_WINDOW, FLOW_LIMIT, Tally
from carp_fast.loadtest.worker import Worker
from carp_fast.net.drivers import counters
from carp_fast.net.filters import sink_filter
from carp_fast.net.memberships import UNPRUNED, Joins

EXPECTED_PER_S = 1_000_000  # the socket gets all the room that a socket may have
QUIET_S = 0.25  # without a frame: what was sent has arrived, or will not
DRAIN_MAX_S = 5.0
GROUPS_MAX = 4_096
"""Groups that are joined for a trial, the first of a walk: each is a socket option of its own."""
LEARNT_S = 0.2  # after joining: a switch that snoops has read the reports


FlowRow = tuple[bytes, int, bytes, int | None, int, int, int, int, int, int, int, int, int, int]
"""A row of _tally.Tally.flow_list."""


class SinkError(CarpFastError):
    """Raised when the receiving end cannot start; the text is one line."""


class Latency(msgspec.Struct, frozen=True):
    """Time from the sender's stamp to the kernel's, of `frames` stamped frames; to within 3 %."""

    frames: int
    p50_ns: int
    p99_ns: int
    max_ns: int


class Flow(msgspec.Struct, frozen=True):
    """Frames that have source, vhid, destination and VLAN in common.

    `vlan`: None without a tag. `first` and `last`: counters, 16 hex digits. `received`: frames;
    `lost`: counters between first and last that did not arrive; `strays`: frames whose counter is
    too far from the others to be placed; `restarts`: how often the sender began with other counters
    (`first` and `last` are those since then); `first_at_ns`, `last_at_ns`: arrivals, since 1970.
    """

    source: str
    vhid: int
    destination: str
    vlan: int | None
    first: str
    last: str
    received: int
    lost: int
    duplicates: int
    reordered: int
    strays: int
    restarts: int
    first_at_ns: int
    last_at_ns: int


class Uncounted(msgspec.Struct, frozen=True):
    """Frames without a counter that have all of this in common.

    `kind`: "bad_length", "vrrp", "arp" or "na". Of announcements (arp, na) `source` is the MAC of
    the sender, `destination` the address that is announced, and `vhid` None.
    """

    kind: str
    source: str
    destination: str
    vhid: int | None
    vlan: int | None
    received: int


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """The result, as `--json` prints it.

    `frames`: those that passed the filter and were counted; `verdicts`: by the words of
    _wire.VERDICT_WORDS; `judged`: digests were verified. `received` to `restarts` are sums over all
    flows. `left_out`: frames that found no room in the table of `flows_max` flows or, without a
    counter, in that of `uncounted` (OTHER_LIMIT). `skipped`: frames of VLANs that are not counted,
    by VLAN, "0" without one. `kernel_dropped`: frames dropped because the socket was full, so not
    lost on the way; `interface_dropped`: by the interface or by the kernel before the socket.
    `latency` None: no stamps; `before_sent`: frames with a stamp from the future, so the ends have
    different clocks. `interrupted`: ended by Ctrl-C or SIGTERM.
    """

    interface: str
    namespace: str | None
    seconds: float
    frames: int
    frames_per_s: float
    judged: bool
    verdicts: dict[str, int]
    gratuitous_arp: int
    unsolicited_na: int
    other: int
    received: int
    lost: int
    duplicates: int
    reordered: int
    strays: int
    restarts: int
    flows: int
    flows_max: int = FLOW_LIMIT
    counter_window: int = COUNTER_WINDOW
    left_out: int
    kernel_dropped: int
    interface_dropped: int
    cpu_seconds: float
    latency: Latency | None
    before_sent: int
    skipped: dict[int, int]
    by_source: list[Flow]
    uncounted: list[Uncounted]
    interrupted: bool = False


def ways_to_sign(
    configuration: Configuration, interface: str
) -> Iterator[tuple[int, bytes, bytes, bytes, bool]]:
    """The settings that a tally judges digests by.

    All virtual hosts of the configuration if none is on `interface`.
    """
    signers = signers_of(configuration)
    here = [signer for signer in signers if signer.interface == interface] or signers
    for signer in here:
        for _, message in signer.forms():
            for group in signer.groups:
                yield signer.vhid, signer.passphrase, message, group, False
            for peer in signer.peers:
                yield signer.vhid, signer.passphrase, message, peer, True


class Receiver(Closing):
    """Counts frames that arrive on an interface, from `start` to `stop`; a context manager.

    `namespace`: that of the interface, as named by `ip netns`. `vlan`: as _tally.Tally takes it.
    Raises SinkError.
    """

    def __init__(
        self,
        interface: str,
        configuration: Configuration | None = None,
        *,
        namespace: str | None = None,
        vlan: int | None = None,
        announcements: bool = False,
    ) -> None:
        self._interface, self._namespace = interface, namespace
        ways = [] if configuration is None else list(ways_to_sign(configuration, interface))
        groups = {way[3] for way in ways if not way[4]} or set(GROUPS)
        self._judged = bool(ways)
        self.tally = Tally(ways, vlan=vlan)
        self._error: OSError | None = None
        self._begun_at = self._ended_at = 0.0
        try:
            with _there(namespace):
                self._listener = Listener(
                    interface,
                    groups,
                    program=sink_filter(announcements=announcements),
                    arriving=True,
                    tags=True,
                    expected_per_s=EXPECTED_PER_S,
                )
                self._dropped_before = _interface_dropped(interface)
        except (ListenError, LabError) as error:
            raise SinkError(str(error)) from None
        self._sink = Sink(self._listener.fileno(), self.tally)
        self._worker = Worker("sink", self._run)
        self._count = 0

    def close(self) -> None:
        self._sink.stop()
        self._worker.wait()
        self._listener.close()

    def start(self, count: int = 0) -> None:
        """Starts counting; with `count`, stops after that many frames."""
        self._count = count
        self._begun_at = time.monotonic()
        self._worker.start()

    def _run(self) -> None:
        try:
            self._sink.run(self._count)
        except OSError as error:
            self._error = error
        self._ended_at = time.monotonic()

    def wait(self, timeout_s: float) -> bool:
        """Waits for the end of counting, by `count` or a lost interface; True if it came."""
        return self._worker.wait(timeout_s)

    def drain(self, arrived: Callable[[], int] | None = None) -> None:
        """Waits until no frame has arrived for QUIET_S, but not longer than DRAIN_MAX_S.

        `arrived`: a count of the frames that are waited for; None: all frames.
        """
        end_at = time.monotonic() + DRAIN_MAX_S
        before = -1
        while time.monotonic() < end_at:
            now = self.tally.frames if arrived is None else arrived()
            if now == before or self.wait(QUIET_S):
                return
            before = now

    def stop(self, *, interrupted: bool = False) -> Received:
        """Stops counting and returns the result; `interrupted` marks it as partial."""
        self._sink.stop()
        self._worker.wait()
        return msgspec.structs.replace(
            self.so_far(),
            kernel_dropped=self._listener.dropped,
            interface_dropped=self._interface_drops(),
            interrupted=interrupted,
        )

    def so_far(self) -> Received:
        """The result without what was dropped, also while frames arrive."""
        facts = self.tally.facts()
        seconds = (self._ended_at or time.monotonic()) - self._begun_at
        return Received(
            interface=self._interface,
            namespace=self._namespace,
            seconds=round(seconds, 3),
            frames_per_s=round(_rate(facts), 1),
            judged=self._judged,
            kernel_dropped=0,
            interface_dropped=0,
            cpu_seconds=round(self._sink.cpu_seconds, 3),
            latency=Latency(**facts["latency"]) if facts["latency"] else None,
            by_source=[_flow(row) for row in self.tally.flow_list()],
            uncounted=[_uncounted(row) for row in self.tally.other_list()],
            **{key: facts[key] for key in _SUMS},
        )

    @property
    def trouble(self) -> str | None:
        """The reason why counting ended early, or None."""
        if self._error is None:
            return None
        if self._error.errno == errno.ENETDOWN:
            return f"{self._interface}: the interface was set down or removed"
        return f"{self._interface}: {self._error.strerror}"

    def _interface_drops(self) -> int:
        try:
            with _there(self._namespace):
                return max(0, _interface_dropped(self._interface) - self._dropped_before)
        except LabError:  # the namespace has gone meanwhile
            return 0


_SUMS = (
    "frames",
    "verdicts",
    "gratuitous_arp",
    "unsolicited_na",
    "other",
    "received",
    "lost",
    "duplicates",
    "reordered",
    "strays",
    "restarts",
    "flows",
    "left_out",
    "before_sent",
    "skipped",
)


def _flow(row: FlowRow) -> Flow:
    source, vhid, destination, vlan, first, last, *counts = row
    addresses = address_text(source), address_text(destination)
    return Flow(addresses[0], vhid, addresses[1], vlan, f"{first:016x}", f"{last:016x}", *counts)


def _uncounted(row: tuple[str, bytes, bytes, int | None, int | None, int]) -> Uncounted:
    kind, source, destination, vhid, vlan, received = row
    text = mac_text(source) if vhid is None else address_text(source)
    return Uncounted(kind, text, address_text(destination), vhid, vlan, received)


class Members(Closing):
    """Joins groups on an interface, by IGMP and MLD, for switches that snoop; a context manager.

    Only the first GROUPS_MAX; `joined` has those that the kernel let it join. Waits for the
    switches to learn of them. Raises SinkError.
    """

    def __init__(
        self, interface: str, groups: Iterable[bytes], namespace: str | None = None
    ) -> None:
        wanted = set(itertools.islice(groups, GROUPS_MAX))
        try:
            with _there(namespace):
                ifindex = socket.if_nametoindex(interface)
                self._joins = Joins(None)
                self._joins.join(interface, ifindex, wanted)
        except LabError as error:
            raise SinkError(str(error)) from None
        except OSError:
            raise SinkError(f"{interface}: no such interface") from None
        self.joined = self._joins.joined(ifindex)
        if any(group[:3] != UNPRUNED for group in self.joined):
            time.sleep(LEARNT_S)

    def close(self) -> None:
        self._joins.close()


def _there(namespace: str | None) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext() if namespace is None else inside(namespace)


def _rate(facts: dict[str, Any]) -> float:
    """Frames per second between the first arrival and the last."""
    elapsed_ns = facts["last_at_ns"] - facts["first_at_ns"]
    return (facts["frames"] - 1) * 1e9 / elapsed_ns if elapsed_ns > 0 else 0.0


def _interface_dropped(interface: str) -> int:
    """Frames that the interface received and the kernel dropped; 0 if it does not exist."""
    found = counters().get(interface)
    return found.received_dropped if found else 0
