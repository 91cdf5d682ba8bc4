"""The command `flood`: its progress line and its tables; flood_options.py has its options.

Must not know how frames are made, paced or sent (loadtest/sender.py).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from carp_fast.cli.conflicts import check
from carp_fast.cli.flood_options import (
    CONFLICTS,
    DEFAULT_RATE,
    RECORDING_S,
    FloodOptions,
    flood_options,
)
from carp_fast.cli.interrupts import LOOK_S, Interrupts, marked
from carp_fast.cli.masters import run_masters
from carp_fast.cli.sink import coarse_us
from carp_fast.cli.tables import columns
from carp_fast.cli.terminal import (
    Failure,
    failure,
    print_json,
    print_prose,
    print_table,
    progress,
)
from carp_fast.cli.trial import TrialOptions, run_trial

if TYPE_CHECKING:
    from pathlib import Path

    from carp_fast.loadtest._frames import FrameSource
    from carp_fast.loadtest._mix import Mix
    from carp_fast.loadtest._pace import Pace
    from carp_fast.loadtest.sender import Backends, FloodError, Sender, Sent
    from carp_fast.loadtest.streams import Streams
    from carp_fast.loadtest.trial import Sent as TrialSent
    from carp_fast.loadtest.walks import Walk

PROGRESS_S = 1.0
_INTERVAL = ("advbase", "advskew")
ANNOUNCED = frozenset(("arp", "na"))
DEFAULT_PASSPHRASE = b"carp-fast"
ADDRESSES_MAX = 4_096
"""The most addresses that one --address may give."""


@click.command()
@flood_options
def flood(**values: Any) -> None:
    """Sends CARP advertisements as a load test. Valid and invalid ones, at a chosen rate.

    Use it only on networks that you own, to test switches, firewalls and CARP hosts. As with real
    hosts, each source increments a counter for each virtual host, so no two frames are alike.
    `carp-fast sink` is the receiving end.

    RATE: a number of frames/s, also 10k or 1M; bits/s on the wire, such as 100Mbit; FIRST-LAST, a
    steady change from one rate to another; a share of the link, such as 40%; or max.

    KIND: ok, bad_auth, bad_checksum, bad_ttl, bad_version, bad_length, replay, resignation,
    changed_skew (with a valid digest, which does not cover the skew), vrrp, arp (gratuitous), na
    (unsolicited).

    WALK: a value; FIRST-LAST or FIRST-LAST/STEP, used in turn; a list with commas; or
    random:FIRST-LAST. With --counter, fixed:N sends N in every frame.

    It stops after --duration or when the link is lost. It refuses an interface that has the default
    route or the address of your SSH session. With --sink it is also the receiving end and compares
    what arrives with what was sent; --find-rate searches for the highest rate without loss.
    """
    trial = TrialOptions.of(values)
    check(CONFLICTS)
    options = FloodOptions.of(values)
    with _failing():
        if options.write:
            _show(_written(_prepared(options), options, options.write), options.as_json)
        elif trial or options.hosts:
            _refuse(options)
            _test(trial, options)
        else:
            prepared = _prepared(options)
            _refuse(options)
            _send(prepared, options)


def _test(trial: TrialOptions | None, options: FloodOptions) -> None:
    """Runs many virtual hosts (--hosts), or both ends of a test (--sink)."""
    if trial is None:
        run_masters(
            options.interface,
            options.hosts or 0,
            election=options.election,
            duration_s=options.duration,
            as_json=options.as_json,
        )
        return
    from carp_fast.config.load import load
    from carp_fast.loadtest.sender import Backends
    from carp_fast.loadtest.streams import groups_of

    _refuse_repeated(options)
    streams = _streams(options)
    walks = _walks(options, len(streams.streams))
    with Backends() as backends, Interrupts() as interrupts:
        run_trial(
            trial,
            partial(_send_for_trial, options, backends, interrupts, searching=trial.find_rate),
            interrupts,
            configuration=load(options.config) if options.config else None,
            vlan=0 if options.walks.get("vlan") else None,
            groups=groups_of(streams.streams, walks),
            what=f"{options.mix or 'ok'}, {_mix(streams, options).longest} bytes",
            announcements=not ANNOUNCED.isdisjoint(_weights(options.mix)),
            as_json=options.as_json,
        )


class _Prepared(NamedTuple):
    source: FrameSource
    pace: Pace
    asked_rate: float | None


@contextlib.contextmanager
def _failing() -> Iterator[None]:
    """Turns errors in the block into Failure: lines on stderr and exit code 1."""
    from carp_fast.capture.pcap import PcapError
    from carp_fast.config.load import ConfigurationError
    from carp_fast.config.secrets import SecretError
    from carp_fast.loadtest.sender import FloodError
    from carp_fast.loadtest.streams import StreamError
    from carp_fast.net.interfaces import LinkError

    try:
        yield
    except ConfigurationError as error:
        raise Failure(*str(error).splitlines()) from error
    except (FloodError, StreamError, LinkError, PcapError, SecretError) as error:
        raise failure(error) from error
    except BrokenPipeError:
        raise
    except OSError as error:
        raise failure(f"{error.filename or 'flood'}: {error.strerror}") from error


# --- what is sent ---------------------------------------------------------------------------------


def _prepared(options: FloodOptions) -> _Prepared:
    from carp_fast.loadtest._frames import Recording
    from carp_fast.loadtest.sender import pace_of, rate_of, recording_of

    interface, duration_s = options.interface, options.duration
    paced_by_itself = options.burst or options.storm or options.recording
    text = options.rate or ("max" if paced_by_itself else DEFAULT_RATE)
    if options.recording:
        source: FrameSource = recording_of(options.recording, options.times)
        make = lambda: source  # noqa: E731 (no frame of it is used up before the rate is known)
        burst = options.burst
    else:
        streams = _streams(options)
        make = partial(_mix, streams, options)
        source = make()
        burst = _storm(streams, options) if options.storm else options.burst
    rate = rate_of(text, interface, make)
    if options.recording and rate.last is not None and duration_s == RECORDING_S:
        raise _wrong("rate", f"{text}: a rate that changes needs --duration with --from")
    as_recorded = isinstance(source, Recording) and not options.rate and not burst
    pace = pace_of(
        rate,
        duration_s,
        burst=burst,
        recorded=source if as_recorded and isinstance(source, Recording) else None,
        speed=options.speed or 1.0,
    )
    return _Prepared(source, pace, rate.first if rate.last is None else None)


def _streams(options: FloodOptions) -> Streams:
    """The virtual hosts of the configuration, or those described by the options."""
    from carp_fast.config.load import load
    from carp_fast.config.secrets import Passphrases
    from carp_fast.loadtest.streams import from_configuration, made_up, place_of
    from carp_fast.loadtest.walks import ipv4, ipv6, mac, numbers

    place = place_of(options.interface or None)
    vhids = _values("vhid", options.vhid, numbers(1, 255))
    if options.config:
        peer_mac = _values("destination-mac", options.destination_mac, mac)
        return from_configuration(
            load(options.config),
            options.interface,
            place,
            vhids=vhids,
            peer_mac=peer_mac[0].to_bytes(6, "big") if peer_mac else None,
        )
    addresses = []
    for text in options.addresses:
        read, size = (ipv6, 16) if ":" in text else (ipv4, 4)
        values = _values("address", text, read) or ()
        if len(values) > ADDRESSES_MAX:
            raise _wrong("address", f"{len(values):,} addresses; allowed: {ADDRESSES_MAX:,}")
        addresses += [value.to_bytes(size, "big") for value in values]
    file = options.passphrase_file
    passphrase = Passphrases(None).from_file(file) if file else DEFAULT_PASSPHRASE
    assert isinstance(passphrase, bytes)
    return made_up(list(vhids or (1,)), addresses, passphrase, place)


def _mix(streams: Streams, options: FloodOptions) -> Mix:
    from carp_fast.loadtest._mix import Mix
    from carp_fast.loadtest.sender import FloodError

    try:
        return Mix(
            streams.streams,
            _weights(options.mix),
            announcements=streams.announcements,
            walks=_walks(options, len(streams.streams)),
            seed=options.seed,
            stamped=options.stamp,
        )
    except ValueError as error:
        raise FloodError(f"mix: {error}") from error


def _weights(text: str | None) -> dict[str, int]:
    """ "ok=9,replay=1" as {"ok": 9, "replay": 1}; a kind alone has the weight 1."""
    weights = {}
    for part in (text or "ok").split(","):
        word, _, number = part.strip().partition("=")
        if not (number or "1").isdecimal():
            raise _wrong("mix", f"{part.strip()!r}: must be KIND or KIND=N with a whole number N")
        weights[word] = int(number or 1)
    return weights


def _walks(options: FloodOptions, streams: int) -> dict[str, Walk]:
    """The fields that change from frame to frame.

    Counters begin at the clock, so that a second flood is not a replay of the first.
    """
    from carp_fast.loadtest import walks

    byte, skew = walks.numbers(0, 255), walks.numbers(0, 254)
    readers = {
        "source": walks.ipv4,
        "source6": walks.ipv6,
        "source_mac": walks.source_mac,
        "destination": walks.ipv4,
        "destination6": walks.ipv6,
        "advbase": byte,
        "advskew": skew,
        "demote": byte,
        "counter": walks.numbers(0, (1 << 64) - 1),
        "vlan": walks.numbers(0, 4095),
    }
    now_ns = time.time_ns()
    found: dict[str, Walk] = {"counter": ("increment", range(now_ns, now_ns + 1))}
    for name, reader in readers.items():
        if name in options.walks:
            found[name] = _walk_of(name, options.walks[name], reader)
    if (options.vhid or "").startswith(walks.RANDOM):
        found["stream"] = ("random", range(streams))
    return found


def _walk_of(name: str, text: str, reader: Callable[[str], int]) -> Walk:
    from carp_fast.loadtest.walks import WalkError, walk_of

    try:
        return walk_of(text, reader)
    except WalkError as error:
        raise _wrong(name, error) from error


def _refuse_repeated(options: FloodOptions) -> None:
    """Raises click.UsageError for counters that come again: an arrival may then be a duplicate."""
    from carp_fast.loadtest.walks import numbers

    text = options.walks.get("counter")
    if text is None:
        return
    order, values = _walk_of("counter", text, numbers(0, (1 << 64) - 1))
    if order == "random" or not isinstance(values, range) or len(values) != 1:
        raise click.UsageError(
            f"--counter {text}: with --sink a single number, at which counters begin; counters that"
            " come again cannot be told from duplicates"
        )


def _values(name: str, text: str | None, reader: Callable[[str], int]) -> Sequence[int] | None:
    """The values of a walk in no particular order; None: the option was not given."""
    return None if text is None else _walk_of(name, text, reader)[1]


def _wrong(name: str, error: object) -> FloodError:
    from carp_fast.loadtest.sender import FloodError

    return FloodError(f"--{name.replace('_', '-')}: {error}")


def _storm(streams: Streams, options: FloodOptions) -> tuple[int, float]:
    """A burst of all virtual hosts in each advertisement interval of the slowest of them.

    With other kinds in the mix it has so many frames that every virtual host still advertises.
    """
    walks = _walks(options, len(streams.streams))
    advbase, advskew = (max(walks[name][1]) if name in walks else None for name in _INTERVAL)
    slowest = max(
        (stream.advbase if advbase is None else advbase)
        + (stream.advskew if advskew is None else advskew) / 256
        for stream in streams.streams
    )
    if not slowest:
        raise _wrong("storm", "advbase and advskew 0 are no interval")
    weights = _weights(options.mix)
    advertising = {word: weight for word, weight in weights.items() if word not in ANNOUNCED}
    most = advertising.get("ok") or max(advertising.values(), default=0)
    if not most:
        raise _wrong("storm", "no kind of --mix is an advertisement")
    return -(-len(streams.streams) * sum(weights.values()) // most), slowest


# --- sending it -----------------------------------------------------------------------------------


def _refuse(options: FloodOptions) -> None:
    """Raises Failure for an interface with the default route or the SSH session."""
    from carp_fast.loadtest.guard import refusal

    if not options.i_own_this_network:
        reason = refusal(options.interface)
        if reason:
            raise failure(f"{reason}; use --i-own-this-network to send anyway")


def _written(prepared: _Prepared, options: FloodOptions, file: Path) -> Sent:
    from carp_fast.loadtest.sender import written

    return written(
        prepared.source,
        prepared.pace,
        file,
        duration_s=options.duration,
        count=options.count or 0,
        rate=prepared.asked_rate,
    )


def _sender(
    prepared: _Prepared,
    options: FloodOptions,
    backends: Backends | None = None,
    *,
    steady: bool = False,
) -> Sender:
    from carp_fast.loadtest.sender import Sender

    return Sender(
        prepared.source,
        prepared.pace,
        interface=options.interface,
        backend=options.backend,
        rate=prepared.asked_rate,
        duration_s=options.duration,
        count=options.count or 0,
        steady=steady,
        backends=backends,
    )


def _send(prepared: _Prepared, options: FloodOptions) -> None:
    with Interrupts() as interrupts, _sender(prepared, options) as sender:
        sender.start()
        _watch(sender, interrupts, quiet=options.as_json)
        sender.stop()
        sent, trouble = sender.sent(), sender.trouble
        _show(sent, options.as_json)
        if trouble:
            raise failure(trouble)
        interrupts.exit()


def _send_for_trial(
    options: FloodOptions,
    backends: Backends,
    interrupts: Interrupts,
    rate: float | None,
    seconds: float | None,
    *,
    searching: bool,
) -> TrialSent:
    """Sends once for a trial. A signal ends the sending early. Raises FloodError."""
    from carp_fast.loadtest._mix import Mix
    from carp_fast.loadtest.sender import FloodError
    from carp_fast.loadtest.trial import sent_of

    if rate is not None:
        options = replace(options, rate=f"{rate:f}", duration=seconds or options.duration)
    prepared = _prepared(options)
    assert isinstance(prepared.source, Mix)  # a recording is not sent to a sink
    with _sender(prepared, options, backends, steady=searching) as sender:
        sender.start()
        _watch(sender, interrupts, quiet=searching or options.as_json)
        sender.stop()
        if sender.trouble:
            raise FloodError(sender.trouble)
        return sent_of(sender.sent(), prepared.source, stamped=options.stamp)


def _watch(sender: Sender, interrupts: Interrupts, *, quiet: bool) -> None:
    """Shows progress until the sender has ended or a signal came."""
    before, shown_at = 0, time.monotonic()
    with progress(quiet=quiet) as show:
        while not interrupts.came and not sender.wait(LOOK_S):
            now = time.monotonic()
            if now - shown_at < PROGRESS_S:
                continue
            facts = sender.flood.facts()
            rate = (facts["sent"] - before) / (now - shown_at)
            line = f"{facts['seconds']:.0f} s  {facts['sent']:,} frames  {rate:,.0f}/s"
            show(f"{line}  {facts['refused']:,} errors")
            before, shown_at = facts["sent"], now


# --- the result -----------------------------------------------------------------------------------


def _show(sent: Sent, as_json: bool) -> None:
    if as_json:
        import msgspec

        print_json(msgspec.json.encode(sent))
        return
    rows = [[word, f"{number:,}"] for word, number in sent.kinds.items()]
    print_table(columns(("kind", "frames")), rows)
    for line in _summary(sent):
        print_prose(line)


def _summary(sent: Sent) -> Iterator[str]:
    """Lines with the sums, how well the pace was kept, and the limits that were hit."""
    yield ""
    asked = f" of {sent.asked_rate:,.0f} requested" if sent.asked_rate else ""
    how = "written" if sent.interface is None else f"by {sent.backend}"
    yield f"{sent.sent:,} frames {how} in {sent.seconds:.2f} s, {sent.rate:,.0f}/s{asked}"
    if sent.interrupted:
        yield marked(sent.seconds)
    if sent.planned is not None and sent.sent < sent.planned:
        cut = "" if sent.interrupted or sent.link_lost else " within --duration"
        yield f"{sent.planned - sent.sent:,} of {sent.planned:,} frames were not sent{cut}"
    if sent.by_source:
        yield f"sources and vhids with counters: {len(sent.by_source):,} (listed by --json)"
    if sent.gaps is not None:
        gaps = sent.gaps
        yield (
            f"gaps: p50 {coarse_us(gaps.p50_ns)} us, p99 {coarse_us(gaps.p99_ns)} us, max"
            f" {gaps.max_ns / 1e3:,.1f} us"
        )
        if gaps.bursts is not None:
            late_us = (gaps.latest_ns or 0) / 1e3
            yield (
                f"micro-bursts (gaps under half of the requested time): {gaps.bursts:,}, the"
                f" longest of {gaps.longest_burst:,} frames; {late_us:,.1f} us late at most"
            )
    if sent.refused:
        yield f"a queue was full {sent.refused:,} times; those frames were sent later"
    if sent.interface_packets is not None and sent.interface_packets < sent.sent:
        yield f"{sent.interface} reports that it sent {sent.interface_packets:,} of them"
    if sent.interface_dropped:
        yield f"{sent.interface} reports that it dropped {sent.interface_dropped:,}"
    if sent.interface is not None:
        cpu_s = sent.cpu_seconds + sent.sender_cpu_seconds
        yield f"CPU: {cpu_s:.2f} s, {cpu_s * 1e9 / max(sent.sent, 1):,.0f} ns a frame"
    yield from sent.unavailable
