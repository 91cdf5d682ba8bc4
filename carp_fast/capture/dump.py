"""Decodes advertisements: the iterator `Dump`, and the output of `carp-fast dump`.

Holds the fields that are shown, as a line of text or JSON, and the summary at the end. Must not
know the command line, the daemon, or how a wrong digest is explained.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from carp_fast.capture.digests import GROUPS, SUBSET_ADDRESSES_MAX, Signer
from carp_fast.capture.judge import TRIES_MAX, UNEXPLAINED_MAX, Finding, Judge, signers_of
from carp_fast.capture.listen import Listener
from carp_fast.capture.pcap import SECOND_NS, Reader, Record, as_ethernet
from carp_fast.closing import Closing
from carp_fast.config.model import Configuration
from carp_fast.engine._wire import VERDICT_WORDS, parse
from carp_fast.inet import address_text

STDIN = Path("-")
CELLS = ("time", "interface", "source > destination", "family", "vhid", "advbase/advskew",
         "counter", "verdict")  # fmt: skip
"""What a line of text shows of an advertisement."""


class Advertisement(NamedTuple):
    """One decoded advertisement; fields are None if it is too short to contain them.

    `at`: RFC 3339 in UTC with microseconds; `counter`: 16 hex digits; `interface`: None for a
    capture file; `verdict`: a word of _wire.VERDICT_WORDS; `why`: a sentence or None.
    """

    at: str
    interface: str | None
    source: str | None
    destination: str | None
    family: int
    vhid: int | None
    advbase: int | None
    advskew: int | None
    demote: int | None
    counter: str | None
    verdict: str
    why: str | None

    def as_json(self) -> str:
        """One JSON object; the key "why" is left out if there is no explanation."""
        fields = self._asdict()
        if self.why is None:
            del fields["why"]
        return msgspec.json.encode(fields).decode()

    def as_cells(self) -> list[str]:
        """The cells of a line of text, one for each of CELLS."""
        cells = [self.at, self.interface or ""]
        cells += [f"{self.source or '-'} > {self.destination or '-'}", f"IPv{self.family}"]
        if self.counter is None:
            cells += ["-", "-", "-"]
        else:
            demote = f" demote {self.demote}" if self.demote else ""
            cells += [f"vhid {self.vhid}", f"{self.advbase}/{self.advskew}{demote}", self.counter]
        return [*cells, f"{self.verdict}: {self.why}" if self.why else self.verdict]


class Summary:
    """Counts advertisements by verdict for the summary at the end."""

    def __init__(self, judge: Judge | None) -> None:
        self.dropped = 0
        self._judge = judge
        self._verdicts: Counter[str] = Counter()

    def count(self, verdict: str) -> None:
        self._verdicts[verdict] += 1

    def lines(self) -> Iterator[str]:
        total = self._verdicts.total()
        counts = ", ".join(
            f"{self._verdicts[word]:,} {word}" for word in VERDICT_WORDS if self._verdicts[word]
        )
        text = f"{total:,} advertisement{'' if total == 1 else 's'}"
        yield f"{text}: {counts}" if total else text
        if self._judge is None:
            yield "digests were not judged: no configuration was given (-c FILE)"
        elif self._judge.unexplained:
            yield (
                f"sources with unexplained digests: {self._judge.unexplained:,} (at most"
                f" {TRIES_MAX:,} tries, TRIES_MAX; all subsets of up to {SUBSET_ADDRESSES_MAX}"
                " addresses, SUBSET_ADDRESSES_MAX)"
            )
        if self._judge and self._judge.not_searched:
            number = self._judge.not_searched
            yield (
                f"advertisements not analysed: {number:,}"
                f" (after {UNEXPLAINED_MAX} sources, UNEXPLAINED_MAX)"
            )
        if self.dropped:
            yield f"frames dropped by the kernel: {self.dropped:,}"


def rfc3339(at_ns: int) -> str:
    """An instant in ns since 1970 as RFC 3339 in UTC, microseconds."""
    seconds, fraction = divmod(at_ns, SECOND_NS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{fraction // 1000:06}Z"


def decode(record: Record, interface: str | None, judge: Judge | None) -> Advertisement | None:
    """Decodes an untagged Ethernet frame; None for one that is not of protocol 112."""
    heard = parse(record.data)
    if heard["verdict"] == "not_carp":
        return None
    if judge is not None:
        found = judge.judge(heard, interface)
    else:
        # Only a digest could distinguish CARP version 3 from VRRP; no implementation sends it.
        is_vrrp = heard["verdict"] == "ok" and heard["version"] == 3
        found = Finding("vrrp" if is_vrrp else heard["verdict"])
    missing = record.length - len(record.data)
    if found.verdict == "bad_length" and missing > 0:
        found = Finding("bad_length", f"{missing} bytes were not captured (snap length)")
    family, source, destination = _ends(record.data)
    return Advertisement(
        at=rfc3339(record.at_ns),
        interface=interface,
        source=source,
        destination=destination,
        family=family,
        vhid=heard.get("vhid"),
        advbase=heard.get("advbase"),
        advskew=heard.get("advskew"),
        demote=heard.get("demote"),
        counter=heard["counter"].hex() if "counter" in heard else None,
        verdict=found.verdict,
        why=found.why,
    )


def _ends(frame: bytes) -> tuple[int, str | None, str | None]:
    """Family, source and destination; the addresses are None if the frame is too short."""
    family, size, at = (4, 4, 26) if frame[12:14] == b"\x08\x00" else (6, 16, 22)
    if len(frame) < at + 2 * size:
        return family, None, None
    middle = at + size
    return family, address_text(frame[at:middle]), address_text(frame[middle : middle + size])


def _recorded(reader: Reader) -> Iterator[tuple[None, Record]]:
    for at_ns, data, length in reader:
        frame = as_ethernet(reader.link, data)
        yield None, Record(at_ns, frame, length + len(frame) - len(data))


class Dump(Closing):
    """Iterates over the advertisements of a capture file or of interfaces; a context manager.

    `interface`: listens there, None: on every interface (needs CAP_NET_RAW; never ends).
    `recording`: reads a pcap file instead; STDIN is standard input. `configuration`: verifies
    digests, see Judge; without one, "ok" means well formed. `dropped`: frames that the kernel
    dropped since it was read last. Raises OSError, PcapError or ListenError, also while iterating.
    """

    def __init__(
        self,
        *,
        interface: str | None = None,
        recording: Path | None = None,
        configuration: Configuration | None = None,
    ) -> None:
        signers = signers_of(configuration) if configuration else []
        self.judge = Judge(signers) if configuration else None
        self._listener: Listener | None = None
        self._frames: Iterator[tuple[str | None, Record]]
        with ExitStack() as opened:
            if recording is None:
                listener = Listener(interface, _groups(signers, interface))
                self._listener = opened.enter_context(listener)
                self._frames = listener.records()
            else:
                file = _opened(recording, opened)
                self._frames = _recorded(Reader(file, str(recording)))
            self._opened = opened.pop_all()

    def __iter__(self) -> Iterator[Advertisement]:
        return self

    def __next__(self) -> Advertisement:
        for name, frame in self._frames:
            advertisement = decode(frame, name, self.judge)
            if advertisement is not None:
                return advertisement
        raise StopIteration

    @property
    def dropped(self) -> int:
        return self._listener.dropped if self._listener else 0

    def close(self) -> None:
        """Closes the file, or leaves the groups and closes the socket."""
        self._opened.close()


def show(
    write: Callable[..., None],
    write_summary: Callable[[str], None],
    advertisements: Dump,
    *,
    line: Callable[[list[str]], str],
    flush: bool,
    count: int | None,
    as_json: bool,
) -> None:
    """Writes a line for each advertisement, at most `count`, until the end or Ctrl-C.

    `write` takes a line and `flush`; `line` makes one of the cells of an advertisement;
    `write_summary` takes each line of the summary, which only the text format has. Raises what
    iterating raises.
    """
    summary = Summary(advertisements.judge)
    has_reader = True
    try:
        for each in islice(advertisements, count):
            summary.count(each.verdict)
            write(each.as_json() if as_json else line(each.as_cells()), flush=flush)
    except BrokenPipeError:
        has_reader = False
        raise
    finally:
        if has_reader and not as_json:
            write("", end="", flush=True)  # the summary comes last if both go to one pipe
            summary.dropped = advertisements.dropped
            for text in summary.lines():
                write_summary(text)


def _opened(recording: Path, opened: ExitStack) -> BinaryIO:
    if recording == STDIN:
        return sys.stdin.buffer
    return opened.enter_context(open(recording, "rb"))


def _groups(signers: Iterable[Signer], interface: str | None) -> set[bytes]:
    """The groups to join: the usual ones, and those of the configuration for this interface."""
    here = (signer for signer in signers if interface in (None, signer.interface))
    return {*GROUPS, *(group for signer in here for group in signer.groups)}
