"""`flood --sink`: the options of a test with both ends, its tables, and the steps of a search.

Must not know how frames are sent or received, nor how the two are compared (loadtest/trial.py).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from carp_fast import __version__
from carp_fast.cli.conflicts import Rule, check
from carp_fast.cli.interrupts import Interrupts, marked
from carp_fast.cli.sink import FLOWS_SHOWN, WRONG, coarse_us, vlan_text
from carp_fast.cli.tables import columns
from carp_fast.cli.terminal import Finite, failure, print_json, print_prose, print_table, together

if TYPE_CHECKING:
    from carp_fast.config.model import Configuration
    from carp_fast.loadtest.receiver import Receiver
    from carp_fast.loadtest.search import Found
    from carp_fast.loadtest.trial import Sent, Trial

LOW_PER_S, HIGH_PER_S, STEP_S, CONFIRM_STEPS = 1_000.0, 1_000_000.0, 2.0, 5.0

_Send = Callable[[float | None, float | None], "Sent"]
"""Sends at a rate for a number of seconds; None: as the other options have it."""


def _number_option(name: str, metavar: str, text: str) -> Callable[..., Any]:
    kind = Finite(0, min_open=True)
    return click.option(name, type=kind, metavar=metavar, help=text)


_OPTIONS = (
    click.option(
        "--sink",
        "sink_interface",
        metavar="IF",
        help="Receive on this interface and compare with what was sent.",
    ),
    click.option(
        "--sink-netns", metavar="NAME", help="Open the --sink interface in this network namespace."
    ),
    click.option(
        "--find-rate",
        is_flag=True,
        help="Search for the highest rate without loss between -i and --sink.",
    ),
    click.option(
        "--loss",
        type=Finite(0, 100, max_open=True),
        metavar="PERCENT",
        help="With --find-rate: allow this share of frames to be lost.  [default: 0]",
    ),
    _number_option(
        "--from-rate", "N", f"Search from this rate in frames/s.  [default: {LOW_PER_S:,.0f}]"
    ),
    _number_option(
        "--to-rate", "N", f"Search up to this rate in frames/s.  [default: {HIGH_PER_S:,.0f}]"
    ),
    _number_option("--step-duration", "S", f"Send for S seconds per rate.  [default: {STEP_S:g}]"),
    _number_option(
        "--confirm-duration",
        "S",
        "Confirm the rate found, and the next that loses, for S seconds.  [default: five steps]",
    ),
    click.option(
        "--plot",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="With --find-rate: write a chart of loss and latency by rate to FILE (SVG).",
    ),
)
_SEARCH_ONLY = ("loss", "from_rate", "to_rate", "step_duration", "confirm_duration", "plot")
TRIAL_NAMES = ("sink_interface", "sink_netns", "find_rate", *_SEARCH_ONLY)
_CONFLICTS = (
    *(Rule(name, "{option} needs --sink IF", needs=TRIAL_NAMES[:1]) for name in TRIAL_NAMES[1:]),
    *(Rule(name, "{option} needs --find-rate", needs=("find_rate",)) for name in _SEARCH_ONLY),
)

# TrialOptions.of() takes their values.
trial_options = together(*_OPTIONS)


@dataclass(frozen=True)
class TrialOptions:
    """The values of the options. `loss` is a fraction; its option is in percent."""

    interface: str
    namespace: str | None
    find_rate: bool
    loss: float
    low: float
    high: float
    step_s: float
    confirm_s: float
    plot: Path | None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> TrialOptions | None:
        """From the values of trial_options, by name; None without --sink. Raises UsageError."""
        check(_CONFLICTS)
        if values["sink_interface"] is None:
            return None
        low = values["from_rate"] or LOW_PER_S
        high = values["to_rate"] or HIGH_PER_S
        if low >= high:
            raise click.UsageError(
                f"--from-rate {low:,.0f} is not below --to-rate {high:,.0f} frames/s"
            )
        step_s = values["step_duration"] or STEP_S
        confirm_s = values["confirm_duration"] or CONFIRM_STEPS * step_s
        if confirm_s < step_s:
            raise click.UsageError(
                f"--confirm-duration {confirm_s:g} is below --step-duration {step_s:g}"
            )
        return cls(
            values["sink_interface"],
            values["sink_netns"],
            values["find_rate"],
            (values["loss"] or 0.0) / 100,
            low,
            high,
            step_s,
            confirm_s,
            values["plot"],
        )


def run_trial(
    options: TrialOptions,
    send: _Send,
    interrupts: Interrupts,
    *,
    configuration: Configuration | None,
    vlan: int | None,
    groups: Iterable[bytes],
    announcements: bool,
    what: str,
    as_json: bool,
) -> None:
    """Runs one trial or a search and prints the result.

    `groups`: those that the frames are sent to; `announcements`: there are some among them; `what`:
    the frames in words, for the chart. Raises Failure, and what `send` raises.
    """
    import msgspec

    from carp_fast.loadtest.receiver import Members, Receiver, SinkError
    from carp_fast.loadtest.trial import cross

    def receiver() -> Receiver:
        return Receiver(
            options.interface,
            configuration,
            namespace=options.namespace,
            vlan=vlan,
            announcements=announcements,
        )

    def attempt(rate: float | None, seconds: float | None) -> Trial:
        with receiver() as receiving:
            return cross(lambda: send(rate, seconds), receiving)

    try:
        with Members(options.interface, groups, options.namespace):
            if options.find_rate:
                found = _search(options, attempt, interrupts, quiet=as_json)
            else:
                trial = attempt(None, None)
    except SinkError as error:
        raise failure(error) from error
    if not options.find_rate:
        if as_json:
            print_json(msgspec.json.encode(trial))
        else:
            print_trial(trial)
        interrupts.exit()
        return
    if options.plot is not None and found.steps:
        _write_plot(options.plot, found, options, what)
    if as_json:
        print_json(msgspec.json.encode(found))
    else:
        for line in found_lines(found):
            print_prose(line)
    interrupts.exit()


def _search(
    options: TrialOptions,
    attempt: Callable[[float, float], Trial],
    interrupts: Interrupts,
    *,
    quiet: bool,
) -> Found:
    from carp_fast.loadtest.search import RESOLUTION, Search

    if not quiet:
        print_prose(
            f"searching for the highest rate that loses at most {100 * options.loss:g} %, from"
            f" {options.low:,.0f} to {options.high:,.0f} frames/s, {options.step_s:g} s each, to"
            f" within {100 * RESOLUTION:g} % (RESOLUTION)",
            flush=True,
        )
    number = 0

    def show(trial: Trial, passed: bool | None) -> None:
        nonlocal number
        number += 1
        if not quiet:
            print_prose(step_line(number, trial, passed), flush=True)

    return Search(
        attempt,
        options.low,
        options.high,
        options.loss,
        show,
        step_s=options.step_s,
        confirm_s=options.confirm_s,
        stopped=lambda: interrupts.came,
    ).run()


def _write_plot(path: Path, found: Found, options: TrialOptions, what: str) -> None:
    from carp_fast.loadtest.trial import figure

    result = "no rate" if found.rate_per_s is None else f"{found.rate_per_s:,.0f} frames/s"
    caption = (
        f"{datetime.now().astimezone():%Y-%m-%d %H:%M}, carp-fast {__version__}: {what},"
        f" {options.step_s:g} s a point; found: {result}"
    )
    try:
        path.write_text(figure(found.steps, caption))
    except OSError as error:
        raise failure(f"{path}: {error.strerror}") from error


# --- texts --------------------------------------------------------------------------------------


def step_line(number: int, trial: Trial, passed: bool | None) -> str:
    """One line about a step of a search; `passed` None: it is discarded."""
    latency = trial.latency
    p99 = f"  p99 {coarse_us(latency.p99_ns)} us" if latency else ""
    here = trial.lost - trial.lost_on_the_way
    dropped = f"  ({here:,} more dropped by the receiver)" if here else ""
    asked = trial.asked_per_s or 0
    outcome = {True: "passed", False: "lost too much", None: "discarded, the sender was held up"}
    if passed is False and not trial.lost_on_the_way:
        outcome[False] = f"queues grew ({100 * trial.queued:.2f} %)"
    return (
        f"step {number:2}  asked {asked:>11,.0f}/s  sent {trial.sent_per_s:>11,.0f}/s"
        f"  lost {trial.lost_on_the_way:>9,} ({100 * trial.loss:.4f} %)"
        f"  {outcome[passed]}{p99}{dropped}"
    )


def found_lines(found: Found) -> Iterator[str]:
    """Lines about the result of a search and what limited it."""
    allowed = f"at most {100 * found.loss_allowed:g} % lost" if found.loss_allowed else "no loss"
    if found.rate_per_s is None and found.above_per_s is None:
        yield "no rate was tried to the end"
    elif found.rate_per_s is None:
        yield f"no rate with {allowed}: {found.above_per_s:,.0f} frames/s already lost more"
    elif found.above_per_s is None:
        yield f"{allowed} up to {found.rate_per_s:,.0f} frames/s, the highest that was sent"
    else:
        yield (
            f"{allowed} up to {found.rate_per_s:,.0f} frames/s; {found.above_per_s:,.0f} lost more"
        )
    if found.converged and found.rate_per_s is not None:
        yield f"confirmed for {found.confirm_s:g} s"
    if found.limited_by == "stalls":
        yield (
            "the sender was held up in every trial of a rate, so it is unknown what the network"
            " loses; this host is too busy"
        )
    elif found.limited_by == "sender":
        yield "the sender cannot send faster on this host; the network may carry more"
    elif found.limited_by == "range":
        yield "higher rates were not tried (--to-rate)"
    if found.interrupted:
        seconds = sum(step.seconds for step in found.steps)
        steps = "1 step" if len(found.steps) == 1 else f"{len(found.steps)} steps"
        yield f"interrupted after {steps}, {seconds:.1f} s of sending: the result is partial"
    elif not found.converged and found.limited_by == "network":
        yield f"not converged: after {len(found.steps)} steps the two rates are still too far apart"
    if found.discarded:
        yield f"steps repeated, since the sender was held up: {len(found.discarded):,}"
    here = max((step.lost - step.lost_on_the_way for step in found.steps), default=0)
    if here:
        yield f"the receiver dropped up to {here:,} frames per step, which do not count as loss"


def print_trial(trial: Trial) -> None:
    """Prints a row for each flow, and the sums."""
    rows = [
        [
            row.source or "no counter",
            "-" if row.vhid is None else str(row.vhid),
            row.destination or "-",
            vlan_text(row.vlan),
            *(f"{n:,}" for n in (row.sent, row.arrived, row.lost, row.duplicates, row.reordered)),
        ]
        for row in _shown(trial)
    ]
    header = ("source", "vhid", "destination", "vlan", "sent", "arrived", *WRONG)
    importance = ("sent", "arrived", "vlan", "duplicates", "reordered", "destination")
    every = columns(header, importance)
    lost = header.index("lost")
    print_table(every, rows, lambda row: "yellow" if row[lost] != "0" else "")
    if len(rows) < len(trial.by_source):
        more = len(trial.by_source) - len(rows)
        print_prose(f"... and {more:,} more (--json has all of them)")
    for line in trial_lines(trial):
        print_prose(line)


def _shown(trial: Trial) -> list[Any]:
    if not sys.stdout.isatty() or len(trial.by_source) <= FLOWS_SHOWN:
        return trial.by_source
    return sorted(trial.by_source, key=lambda row: -row.lost)[:FLOWS_SHOWN]


def trial_lines(trial: Trial) -> Iterator[str]:
    yield ""
    yield (
        f"{trial.sent:,} frames sent in {trial.seconds:.2f} s, {trial.sent_per_s:,.0f}/s;"
        f" {trial.arrived:,} arrived; lost on the way: {trial.lost_on_the_way:,}"
        f" ({100 * trial.loss:.4f} %)"
    )
    if trial.interrupted:
        yield marked(trial.seconds)
    if trial.kernel_dropped or trial.interface_dropped:
        yield (
            f"dropped by the receiver: {trial.kernel_dropped:,} by the socket,"
            f" {trial.interface_dropped:,} by the interface"
        )
    if trial.latency:
        latency = trial.latency
        yield (
            f"latency: p50 {coarse_us(latency.p50_ns)} us, p99 {coarse_us(latency.p99_ns)} us,"
            f" max {latency.max_ns / 1e3:,.1f} us"
        )
    elif trial.stamped and trial.arrived:
        yield (
            "no latency: something on the way cuts frames to their IP length and so removes the"
            " stamps (a firewall, or a bridge with net.bridge.bridge-nf-call-iptables)"
        )
    if trial.left_out:
        yield f"{trial.left_out:,} frames arrived and are in no row: the receiver's table is full"
    if trial.lost_on_the_way and trial.sent_late:
        yield (
            f"{trial.sent_late:,} frames left more than 1 ms late and in bursts, since the sender"
            " was held up: that may be the cause of the loss"
        )
    if trial.duplicates:
        yield f"{trial.duplicates:,} frames arrived more often than they were sent"
    if trial.foreign:
        yield f"{trial.foreign:,} frames came from other senders"
