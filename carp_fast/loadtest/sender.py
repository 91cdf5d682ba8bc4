"""Sends a flood: a source of frames, a pace and a backend, and the result.

Must not know the command line, virtual hosts, or how frames are made.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from carp_fast.capture.pcap import ETHERNET, Reader, Writer
from carp_fast.closing import Closing
from carp_fast.errors import CarpFastError
from carp_fast.loadtest._flood import Flood
from carp_fast.loadtest._frames import FrameSource, Recording
from carp_fast.loadtest._mix import Mix
from carp_fast.loadtest._pace import Pace
from carp_fast.loadtest.backends import Backend, BackendError, Live, Sendmmsg, live_missing
from carp_fast.loadtest.streams import SentFlow, named
from carp_fast.loadtest.worker import Worker
from carp_fast.net.drivers import Counters, counters, speed_mbits

BACKENDS = ("auto", "sendmmsg", "live")
LIVE_FROM = 300_000.0
"""Frames/s from which `auto` prefers live frames; below, a packet socket is fast enough."""
SAMPLE = 1_000
"""Frames whose mean length is used to compute a share of the link's speed."""
WIRE_BYTES, FRAME_BYTES_MIN = 24, 60
"""Bytes around each frame (checksum, preamble, gap); length to which shorter frames are padded."""
FACTORS = {"k": 1e3, "M": 1e6, "G": 1e9}
BIT = "bit"
SIOCGIFMTU = 0x8921
HEADER_BYTES = 18
"""Of Ethernet with a tag, which an MTU does not include."""
TAKES_NONE_S = 0.5
"""An interface that has sent no live frame for this long does not take them."""


class FloodError(CarpFastError):
    """Raised when a flood cannot start or ends early; the text is one line."""


class Rate(NamedTuple):
    """Frames/s at the start and at the end of a flood; both None: as fast as possible."""

    first: float | None
    last: float | None = None


class Gaps(msgspec.Struct, frozen=True):
    """Times from one frame to the next, ns, to within 3 %; `bursts`, `late`: see _pace.gaps_facts.

    `span_ns`: from the first frame to the last. The optional fields are None without a pace.
    """

    p50_ns: int
    p99_ns: int
    max_ns: int
    span_ns: int
    bursts: int | None = None
    longest_burst: int | None = None
    latest_ns: int | None = None
    late: int | None = None


class Sent(msgspec.Struct, frozen=True):
    """The result of a flood; `kinds`: frames by kind.

    `refused`: system calls that found a queue full and were repeated. `interface_packets`,
    `interface_dropped`: counters of the interface for the same time, or None without one.
    `cpu_seconds`: of the thread that paces; `sender_cpu_seconds`: of the one in the kernel (live
    frames). `unavailable`: backends that `auto` could not use, a line each. `link_lost`: "down",
    "removed" or None. `planned`: frames to send by --count or a recording, None: as many as the
    duration has. `held_seconds`: by how much a steady flood was held up, all told.
    `interrupted`: it was stopped before its end.
    """

    interface: str | None
    backend: str
    asked_rate: float | None
    sent: int
    kinds: dict[str, int]
    refused: int
    seconds: float
    rate: float
    gaps: Gaps | None
    interface_packets: int | None
    interface_dropped: int | None
    cpu_seconds: float
    sender_cpu_seconds: float
    unavailable: tuple[str, ...]
    link_lost: str | None
    by_source: list[SentFlow]
    planned: int | None = None
    held_seconds: float = 0.0
    interrupted: bool = False


# --- rates and frames -----------------------------------------------------------------------------


def rate_of(text: str, interface: str | None, make: Callable[[], FrameSource]) -> Rate:
    """Parses a rate such as "1000", "10k-1M", "100Mbit", "40%" or "max".

    Bits are those on the wire, with checksum, preamble and gap. `make` makes a source like the one
    that will be sent. Raises FloodError.
    """
    if text == "max":
        return Rate(None)
    if text.endswith("%"):
        return Rate(_share_of_link(_number(text[:-1], text), interface, make()))
    first, dash, last = text.partition("-")
    return Rate(
        *(_frames_per_s(part, text, make) for part in ((first, last) if dash else (first,)))
    )


def _frames_per_s(text: str, whole: str, make: Callable[[], FrameSource]) -> float:
    bits = text.endswith(BIT)
    text = text.removesuffix(BIT)
    factor = FACTORS.get(text[-1:], 1.0)
    number = _number(text[:-1] if factor > 1 else text, whole) * factor
    return number / 8 / _wire_bytes(make()) if bits else number


def _number(text: str, whole: str) -> float:
    try:
        number = float(text.replace("_", ""))
    except ValueError:
        number = 0.0
    if not 0 < number < 1e10:
        raise FloodError(
            f"rate {whole}: must be frames/s above 0 (1000, 10k, 1M), bits/s (100Mbit),"
            ' FIRST-LAST, a share of the link such as "40%", or "max"'
        )
    return number


def _share_of_link(percent: float, interface: str | None, source: FrameSource) -> float:
    if interface and interface not in counters():
        raise FloodError(f"{interface}: no such interface")
    speed = speed_mbits(interface) if interface else None
    if speed is None:
        raise FloodError(f"{interface or 'a file'} does not report a speed: use a rate in frames/s")
    return percent / 100 * speed * 1e6 / 8 / _wire_bytes(source)


def _wire_bytes(source: FrameSource) -> float:
    """The mean of the bytes that a frame takes on the wire."""
    lengths = [len(frame) for _, frame in filter(None, (source.take() for _ in range(SAMPLE)))]
    return sum(max(length, FRAME_BYTES_MIN) + WIRE_BYTES for length in lengths) / len(lengths)


def pace_of(
    rate: Rate,
    duration_s: float,
    *,
    burst: tuple[int, float] | None = None,
    recorded: Recording | None = None,
    speed: float = 1.0,
) -> Pace:
    """The pace for a rate, for bursts of (frames, seconds to the next), or as recorded.

    Raises FloodError.
    """
    try:
        if recorded is not None:
            return Pace(recorded=recorded, speed=speed)
        if burst is not None:
            if rate.last is not None:
                raise FloodError("bursts and a rate that changes (FIRST-LAST) cannot be combined")
            return Pace(rate=rate.first, burst=burst[0], burst_gap_s=burst[1])
        if rate.last is not None:
            return Pace(rate=rate.first, rate_end=rate.last, ramp_s=duration_s)
        return Pace(rate=rate.first)
    except (ValueError, OverflowError) as error:
        raise FloodError(error) from error


def recording_of(path: Path, times: int) -> Recording:
    """Reads the frames of a pcap file. Raises FloodError, OSError, pcap.PcapError."""
    with contextlib.ExitStack() as opened:
        name = "standard input" if path == Path("-") else str(path)
        file = sys.stdin.buffer if path == Path("-") else opened.enter_context(open(path, "rb"))
        reader = Reader(file, name)
        if reader.link != ETHERNET:
            raise FloodError(f"{name}: its frames have no Ethernet header, so they cannot be sent")
        frames: list[tuple[int, bytes]] = []
        for at_ns, data, length in reader:
            if len(data) < length:
                what = f"record {len(frames) + 1} is truncated: {len(data)} of {length} bytes"
                raise FloodError(f"{name}: {what}")
            frames.append((at_ns, data))
    if not frames:
        raise FloodError(f"{name}: contains no frame")
    try:
        return Recording(frames, times)
    except ValueError as error:
        raise FloodError(f"{name}: {error}") from error


# --- sending --------------------------------------------------------------------------------------


class Backends(Closing):
    """The backends of floods that follow one another: the next like one that ended has its program.

    All are used in one network namespace.
    """

    def __init__(self) -> None:
        self._idle: dict[_Kind, Live] = {}

    def take(
        self, wanted: str, interface: str, source: FrameSource, pace: Pace, rate: float | None
    ) -> tuple[Backend, tuple[str, ...]]:
        """A backend until give_back(), and why `auto` could not use a better one.

        Raises FloodError.
        """
        missing: tuple[str, ...] = ()
        try:
            if wanted == "live" and source.stamped:
                raise FloodError("live: the program cannot stamp frames; use --backend sendmmsg")
            if (
                wanted == "auto"
                and not source.stamped
                and (pace.unpaced or (rate is not None and rate >= LIVE_FROM))
            ):
                reason = live_missing(interface, source.longest)
                missing = (f"live: {reason}",) if reason else ()
                wanted = "sendmmsg" if reason else "live"
            if wanted == "live":
                return self._live(interface, source.longest, paced=not pace.unpaced), missing
            return Sendmmsg(interface), missing
        except BackendError as error:
            raise FloodError(error) from error
        except OSError as error:
            raise FloodError(f"{interface}: {error.strerror}") from error

    def _live(self, interface: str, longest: int, *, paced: bool) -> Live:
        kind = _Kind(socket.if_nametoindex(interface), longest, paced)
        idle = self._idle.pop(kind, None)
        return idle or Live(interface, longest, paced=paced)

    def give_back(self, backend: Backend) -> None:
        """Takes back a backend whose flood has ended; one of live frames is kept for the next."""
        if isinstance(backend, Live):
            kind = _Kind(backend.ifindex, backend.longest, backend.paced)
            if kind not in self._idle:
                self._idle[kind] = backend
                return
        backend.close()

    def close(self) -> None:
        """Closes those that were given back."""
        while self._idle:
            self._idle.popitem()[1].close()


class _Kind(NamedTuple):
    """What the program of live frames was made for."""

    ifindex: int
    longest: int
    paced: bool


class Sender(Closing):
    """Sends a flood to an interface, in a thread from `start` to `stop`; a context manager.

    Created in the network namespace of the interface. `backends`: of earlier and later floods, if
    any. `steady`: a flood that is held up does not catch up in a burst. Raises FloodError.
    """

    def __init__(
        self,
        source: FrameSource,
        pace: Pace,
        *,
        interface: str,
        backend: str = "auto",
        rate: float | None = None,
        duration_s: float = 10.0,
        count: int = 0,
        steady: bool = False,
        backends: Backends | None = None,
    ) -> None:
        self._interface, self._rate, self._source = interface, rate, source
        self._planned = planned(source, count)
        self._backends = Backends() if backends is None else backends
        self._own = self._backends if backends is None else None
        self._backend, self._unavailable = self._backends.take(
            backend, interface, source, pace, rate
        )
        most = _frame_bytes_max(interface)
        if source.longest > most:
            self._backends.give_back(self._backend)
            raise FloodError(
                f"{interface}: a frame has {source.longest:,} bytes; its MTU allows {most:,}"
            )
        self.flood = Flood(
            source,
            self._backend,
            pace=pace,
            duration_ns=int(duration_s * 1e9),
            count=count,
            steady=steady,
        )
        self._before = counters().get(interface, Counters(0, 0, 0, 0))
        self._error: str | None = None
        self._interrupted = False
        self._worker = Worker("flood", self._run)

    def close(self) -> None:
        self.stop()
        self._backends.give_back(self._backend)
        if self._own is not None:
            self._own.close()

    def _run(self) -> None:
        try:
            self.flood.run()
        except (OSError, MemoryError) as error:
            words = error.strerror if isinstance(error, OSError) else str(error)
            self._error = f"{self._interface}: {self._backend.name}: {words}"

    def start(self) -> None:
        self._worker.start()

    def wait(self, seconds: float) -> bool:
        """Waits at most `seconds`; returns True if the flood has ended."""
        if self._worker.wait(seconds):
            return True
        facts = self.flood.facts()
        if self._backend.name == "live" and facts["sent"] and facts["seconds"] > TAKES_NONE_S:
            now = counters().get(self._interface)
            if now is not None and now.sent == self._before.sent:
                self._error = f"{self._interface} sends no live frames; use --backend sendmmsg"
                self.stop()
                return True
        return False

    def stop(self) -> None:
        """Stops the flood and waits for its thread."""
        self._interrupted = self._interrupted or self._worker.running
        self.flood.stop()
        self._worker.wait()

    @property
    def trouble(self) -> str | None:
        """The reason why the flood ended early, or None."""
        lost = self.flood.facts()["link_lost"]
        if lost:
            # An interface that is removed goes down first, and only that may have been noticed.
            exists = lost == "down" and self._interface in counters()
            words = "the link is down" if exists else "the interface was removed"
            return f"{self._interface}: {words}"
        return self._error

    def sent(self) -> Sent:
        """The result, after the end."""
        facts = self.flood.facts()
        now = counters().get(self._interface)
        gaps = facts.pop("gaps")
        return Sent(
            interface=self._interface,
            backend=self._backend.name,
            asked_rate=self._rate,
            gaps=Gaps(**gaps) if gaps else None,
            interface_packets=now.sent - self._before.sent if now else None,
            interface_dropped=now.sent_dropped - self._before.sent_dropped if now else None,
            unavailable=self._unavailable,
            by_source=by_source(self._source),
            interrupted=self._interrupted,
            planned=self._planned,
            **facts,
        )


def write(
    file: BinaryIO, source: FrameSource, pace: Pace, duration_s: float, count: int
) -> tuple[dict[str, int], float]:
    """Writes the frames to a pcap file, with times in nanoseconds from now on.

    Returns frames by kind and the seconds that they would take. Raises FloodError, OSError.
    """
    if pace.unpaced and not count:
        raise FloodError("a file has no fastest rate: use --rate in frames/s, or --count as well")
    writer = Writer(file)
    begun_at_ns, end_ns = time.time_ns(), int(duration_s * 1e9)
    kinds: dict[str, int] = {}
    written = 0
    while (due_ns := pace.take()) < end_ns and (not count or written < count):
        taken = source.take()
        if taken is None:
            break
        kind, frame = taken
        kinds[kind] = kinds.get(kind, 0) + 1
        writer.write(begun_at_ns + due_ns, frame)
        written += 1
    return kinds, min(due_ns, end_ns) / 1e9


def written(
    source: FrameSource,
    pace: Pace,
    path: Path,
    *,
    duration_s: float,
    count: int = 0,
    rate: float | None = None,
) -> Sent:
    """Writes the frames to a file and returns the result of a flood. Raises FloodError, OSError."""
    with open(path, "wb") as file:
        kinds, seconds = write(file, source, pace, duration_s, count)
    frames = sum(kinds.values())
    return Sent(
        interface=None,
        backend="file",
        asked_rate=rate,
        sent=frames,
        kinds=kinds,
        refused=0,
        seconds=seconds,
        rate=frames / seconds if seconds else 0.0,
        gaps=None,
        interface_packets=None,
        interface_dropped=None,
        cpu_seconds=0.0,
        sender_cpu_seconds=0.0,
        unavailable=(),
        link_lost=None,
        by_source=by_source(source),
        planned=planned(source, count),
    )


def _frame_bytes_max(interface: str) -> int:
    """The longest frame that an interface sends, with a tag. Raises FloodError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        request = struct.pack("16si12x", interface.encode(), 0)
        try:
            answer = fcntl.ioctl(asked, SIOCGIFMTU, request)
        except OSError as error:
            raise FloodError(f"{interface}: {error.strerror}") from error
    mtu: int = struct.unpack_from("16si", answer)[1]
    return mtu + HEADER_BYTES


def planned(source: FrameSource, count: int) -> int | None:
    """How many frames are to be sent, if `count` (0: no limit) or the source says so."""
    whole = source.frames * source.times if isinstance(source, Recording) else 0
    return min(filter(None, (count, whole)), default=None)


def by_source(source: FrameSource) -> list[SentFlow]:
    """Frames sent with counters, by source and virtual host; empty for a recording."""
    return named(source.sent_by()) if isinstance(source, Mix) else []
