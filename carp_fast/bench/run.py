"""The benchmark: carp-fast compared with C ucarp and keepalived, with more and more virtual hosts.

Holds the steps of a run and its progress reports: which rows are measured, in which order, and when
watches are open. Must not know how a daemon is set up (contenders.py), nor what figures mean
(measurements.py). docs/benchmarking.md describes the method.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import product
from typing import Protocol, get_args

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from carp_fast import __version__
from carp_fast.bench import floor, measurements, tax
from carp_fast.bench.contenders import DAEMONS, MEASURED, Daemon
from carp_fast.bench.measurements import (
    USUAL_WIRE,
    Contender,
    Pings,
    Report,
    Row,
    Side,
    Stage,
    TakeOver,
)
from carp_fast.bench.usage import Usage, descendants, machine, memory, processor, usage
from carp_fast.closing import Closing
from carp_fast.lab.fleet import VHIDS_PER_SEGMENT, keys_of, spread
from carp_fast.lab.lab import (
    Host,
    Lab,
    LabError,
    LabTimeout,
    Medium,
    Process,
    interface_name,
    virtual_address,
    wait_for,
)
from carp_fast.lab.namespaces import require_privilege
from carp_fast.lab.pings import Pinger
from carp_fast.lab.witness import AddressWatch, Identity, WireWatch
from carp_fast.net.drivers import counters

LAB = "carp-fast-bench"
INSTANCES = (1, 10, 50, 255, 1_020, 4_080, 16_320, 65_280)
INSTANCES_QUICK = (1, 50, 255)
INSTANCES_MAX = 256 * VHIDS_PER_SEGMENT
WIRES: tuple[Medium, ...] = get_args(Medium)
WINDOW_S, WINDOW_QUICK_S = 15.0, 4.0
REPEATS, REPEATS_QUICK = 3, 1
FLOOR_WINDOW_MAX_S = 15.0
QUIET_S = 3.0  # settled after this long without a change of address
SETTLE_DEADLINE_S = 180.0
TAKE_OVER_DEADLINE_S = 30.0
AFTERWARDS_DEADLINE_S = 5.0
HEARD_DEADLINE_S = 15.0
GIVEN_UP_WITHIN_S = 1.0  # an address removed so soon after the take-over is noted
PINGED_VIRTUAL_HOSTS = 10


class Audience(Protocol):
    """Receives the progress of a run."""

    def begin(self, steps: int) -> None:
        """Called before the first of `steps` steps."""

    def step(self, title: str) -> None:
        """Called when a step begins."""

    def phase(self, text: str) -> None:
        """Called for each phase of a step."""

    def end(self) -> None:
        """Called after the last step."""


class Bars:
    """Progress on a terminal: one bar, with the phase next to it."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[phase]}", style="dim"),
            console=console,
            refresh_per_second=2,  # what is measured shares the processors
            transient=True,
        )
        self._task = self._progress.add_task("", total=None, phase="")
        self._begun = False

    def begin(self, steps: int) -> None:
        self._progress.update(self._task, total=steps)
        self._progress.start()

    def step(self, title: str) -> None:
        if self._begun:
            self._progress.advance(self._task)
        self._begun = True
        self._progress.update(self._task, description=title, phase="")

    def phase(self, text: str) -> None:
        self._progress.update(self._task, phase=text)

    def end(self) -> None:
        self._progress.stop()


class Lines:
    """Progress on a pipe: a line for each phase."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._begun_at = time.monotonic()
        self._title = ""

    def begin(self, steps: int) -> None:
        self._write(f"{steps} steps")

    def step(self, title: str) -> None:
        self._title = title

    def phase(self, text: str) -> None:
        self._write(f"{time.monotonic() - self._begun_at:6.1f} s  {self._title}: {text}")

    def end(self) -> None:
        self._write(f"{time.monotonic() - self._begun_at:6.1f} s  done")


@dataclass(frozen=True)
class Plan:
    """What is to be measured. `daemons` are names of DAEMONS, `wires` what rows are measured on;
    `repeats` is how many masters are killed for each row; `force` includes what is skipped.
    """

    daemons: Sequence[str] = tuple(MEASURED)
    instances: Sequence[int] = INSTANCES
    window_s: float = WINDOW_S
    pings: bool = True
    tax: bool = True
    force: bool = False
    wires: Sequence[Medium] = (USUAL_WIRE,)
    repeats: int = REPEATS

    def rows(self) -> Iterator[tuple[Daemon, int, Medium]]:
        """The rows in the order of measurement: all daemons of one size on one kind of wire, then
        on the next, then those of the next size.
        """
        for instances, wire, name in product(self.instances, self.wires, self.daemons):
            most = DAEMONS[name].most
            fits = self.force or most is None or instances <= most
            if fits and DAEMONS[name].installed():
                yield DAEMONS[name], instances, wire

    def skipped(self) -> Iterator[str]:
        """A line for each daemon of which rows are not measured."""
        for daemon in self.lacking():
            yield f"{daemon.name}: not installed (Debian package {daemon.package}), skipped"
        for name in self.daemons:
            most = DAEMONS[name].most
            beyond = [f"{n:,}" for n in self.instances if most is not None and n > most]
            if beyond and not self.force:
                yield (
                    f"{name}: {', '.join(beyond)} virtual hosts skipped, more than {most:,}"
                    " take minutes to start (--force)"
                )

    def lacking(self) -> list[Daemon]:
        """Daemons that are not installed."""
        return [DAEMONS[name] for name in self.daemons if not DAEMONS[name].installed()]


def planned(
    daemons: str | None = None,
    instances: str | None = None,
    window_s: float | None = None,
    *,
    wires: str | None = None,
    repeats: int | None = None,
    quick: bool = False,
    force: bool = False,
) -> Plan:
    """A plan from words of a command line, lists with commas; `quick` sets defaults.

    Raises ValueError naming the wrong word and what is allowed.
    """
    names = daemons.split(",") if daemons else list(MEASURED)
    for name in names:
        if name not in DAEMONS:
            raise ValueError(f"daemon {name!r}: one of {', '.join(DAEMONS)}")
    chosen = wires.split(",") if wires else [USUAL_WIRE]
    for name in chosen:
        if name not in WIRES:
            raise ValueError(f"wire {name!r}: one of {', '.join(WIRES)}")
    counts: list[int] = list(INSTANCES_QUICK if quick else INSTANCES)
    if instances:
        counts = []
        for word in instances.split(","):
            if not word.isdecimal() or not 1 <= int(word) <= INSTANCES_MAX:
                raise ValueError(f"instances {word!r}: a number from 1 to {INSTANCES_MAX}")
            counts.append(int(word))
    chosen_s = window_s or (WINDOW_QUICK_S if quick else WINDOW_S)
    unique = tuple(dict.fromkeys(names)), tuple(sorted(set(counts)))
    on = tuple(wire for wire in WIRES if wire in chosen)
    return Plan(
        *unique,
        chosen_s,
        pings=not quick,
        tax=not quick,
        force=force,
        wires=on,
        repeats=repeats or (REPEATS_QUICK if quick else REPEATS),
    )


def run_bench(plan: Plan, audience: Audience, keep: Callable[[Report], None]) -> Report:
    """Measures every row of the plan, one after the other; `keep` gets what there is after each.

    A row that fails has a note, and the others are still measured. Ctrl-C or SIGTERM ends the run:
    what was measured before is returned, with a note. Raises LabError without root.
    """
    require_privilege()
    present = [DAEMONS[name] for name in plan.daemons if DAEMONS[name].installed()]
    report = Report(
        __version__,
        datetime.now(UTC).isoformat(timespec="seconds"),
        Stage(processor(), os.cpu_count() or 1, os.uname().release, os.getloadavg()),
        [Contender(each.name, each.version(), each.configured) for each in present],
        rows=[],
        pings=[],
        notes=list(plan.skipped()),
        taxes=[],
    )
    steps = list(_steps(plan, present, report, audience.phase))
    audience.begin(len(steps))
    try:
        for done, (title, measure) in enumerate(steps):
            audience.step(title)
            try:
                measure()
            except LabError as reason:
                report.notes.append(f"{title}: {reason}")
            except (KeyboardInterrupt, SystemExit):  # a lab has SIGTERM raise the latter
                report.notes.append(f"interrupted after {done} of {len(steps)} steps")
                return msgspec.structs.replace(report, interrupted=True)
            keep(report)
    finally:
        audience.end()
    return report


def _steps(
    plan: Plan, present: Sequence[Daemon], report: Report, phase: Callable[[str], None]
) -> Iterator[tuple[str, Callable[[], None]]]:
    """The title of each step, and what adds its figures to the report."""
    for daemon, instances, wire in plan.rows():
        row = Row(daemon.name, instances, -(-instances // VHIDS_PER_SEGMENT), wire=wire)

        def add_row(daemon: Daemon = daemon, row: Row = row) -> None:
            report.rows.append(measure_row(daemon, row, plan.window_s, plan.repeats, phase))

        yield f"{row.title} {instances:,}", add_row
    for each in present if plan.pings else ():
        yield (
            f"{each.name} pings",
            lambda daemon=each: report.pings.append(measure_pings(daemon, phase)),  # type: ignore[misc]
        )
    for each in present if plan.tax else ():
        yield (
            f"{each.name} tax",
            lambda daemon=each: report.taxes.append(tax.measure(LAB, daemon, phase)),  # type: ignore[misc]
        )


def measure_row(
    daemon: Daemon, wanted: Row, window_s: float, repeats: int, report: Callable[[str], None]
) -> Row:
    """Measures what a row without figures names; the take-over `repeats` times, each with hosts of
    its own. A failure is a row with a note, and with the figures that there are.
    """
    row = wanted
    try:
        with _pair(daemon, wanted, report) as pair:
            row = _measure(pair, wanted, window_s, report)
            report("measuring the floor")
            rate = max(row.master.frames_per_s if row.master else 0.0, 1.0)
            seconds = min(window_s, FLOOR_WINDOW_MAX_S)
            hosts = pair.lab["a"], pair.lab["b"]
            price = floor.measure(*hosts, list(pair.counts), rate, seconds)
        row = msgspec.structs.replace(row, floor=price, notes=[*row.notes, *pair.notes])
        for number in range(2, repeats + 1):
            with _pair(daemon, wanted, report) as pair:
                report(f"starting for take-over {number} of {repeats}")
                pair.start()
                report(f"killing the master, {number} of {repeats}")
                over = pair.fail_over()
            row = msgspec.structs.replace(
                row, take_overs=[*row.take_overs, over], notes=[*row.notes, *pair.notes]
            )
    except LabError as reason:
        return msgspec.structs.replace(row, notes=[*row.notes, str(reason)])
    return row


@contextmanager
def _pair(daemon: Daemon, wanted: Row, report: Callable[[str], None]) -> Iterator[Pair]:
    """Hosts for a row, and its daemons on them, which are ended with the block."""
    report("building hosts")
    wire: Medium = wanted.wire  # type: ignore[assignment]
    counts = spread(wanted.virtual_hosts, wanted.segments)
    with (
        Lab(LAB, segments=wanted.segments, medium=wire) as lab,
        Pair(lab, daemon, counts) as pair,
    ):
        yield pair


def _measure(pair: Pair, wanted: Row, window_s: float, report: Callable[[str], None]) -> Row:
    """Measures a pair from its start to the death of both: all of a row but its floor."""
    report("starting")
    settle_s = pair.start()
    report(f"settled after {settle_s:.1f} s, measuring for {window_s:g} s")
    begun = machine()
    master, backup, elapsed_ns = pair.measure(window_s)
    load = machine().since(begun)
    own_percent = master.cpu_percent + backup.cpu_percent
    others, stolen, notes = measurements.busy(load, elapsed_ns, own_percent)
    report("killing the master")
    over = pair.fail_over()
    pair.kill_all()
    return msgspec.structs.replace(
        wanted,
        window_s=elapsed_ns / 1e9,
        settle_s=settle_s,
        master=master,
        backup=backup,
        take_overs=[over],
        machine_busy_percent=100 * load.busy_ns / elapsed_ns,
        machine_softirq_percent=100 * load.softirq_ns / elapsed_ns,
        machine_others_percent=others,
        machine_stolen_percent=stolen,
        notes=notes,
    )


def measure_pings(daemon: Daemon, report: Callable[[str], None]) -> Pings:
    """Pings from host c while host a dies, cable included. Raises LabError if no other host
    answers.
    """
    counts = {1: PINGED_VIRTUAL_HOSTS}
    addresses = [virtual_address(*key) for key in sorted(keys_of(counts))]
    report("building hosts")
    with ExitStack() as stack:
        lab = stack.enter_context(
            Lab(f"{LAB}-pings", hosts=("a", "b", "c"), segments=1, medium="bridge")
        )
        pair = stack.enter_context(Pair(lab, daemon, counts))
        report("starting")
        pair.start()
        pinger = stack.enter_context(Pinger(lab["c"], addresses))
        begun_at_ns = time.monotonic_ns()
        wait_for(
            lambda: pinger.answered_since(begun_at_ns),
            AFTERWARDS_DEADLINE_S,
            "answers of every address to host c",
        )
        report("host a dies")
        lab.set_carrier("a", 1, up=False)
        pair.kill("a")
        dead_at_ns = time.monotonic_ns()
        wait_for(
            lambda: pinger.answered_since(dead_at_ns),
            TAKE_OVER_DEADLINE_S,
            "answers of every address to host c after the death of host a",
        )
        pinger.close()
        return measurements.pings(
            daemon.name,
            PINGED_VIRTUAL_HOSTS,
            pinger.every_s,
            pinger.sent,
            pinger.answered_at_ns,
        )


@dataclass
class Pair(Closing):
    """A daemon on hosts a and b of a lab: a context manager that ends both."""

    lab: Lab
    daemon: Daemon
    counts: dict[int, int]
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.a, self.b = self.lab["a"], self.lab["b"]
        self.keys: list[Identity] = sorted((key.segment, key.vhid) for key in keys_of(self.counts))
        self._identities = {
            bytes(map(int, virtual_address(*key).split("."))): key for key in self.keys
        }
        self._processes: dict[str, list[Process]] = {"a": [], "b": []}
        self.addresses = AddressWatch((self.a, self.b), self._identities)

    def close(self) -> None:
        self.kill_all()
        self.addresses.close()
        if self.addresses.overruns:
            self.notes.append(
                f"the kernel dropped notifications about addresses {self.addresses.overruns} times"
            )

    def start(self) -> float:
        """Starts both; returns the seconds until host a held every address, and nothing changed
        after.

        Raises LabError if that does not happen.
        """
        begun_at_ns = time.time_ns()
        for host in (self.a, self.b):
            commands = self.daemon.commands(host, self.counts, self.lab.directory)
            log = self.lab.directory / f"{host.name}.log"
            for argv in commands:
                self._processes[host.name].append(host.start(argv, log=log))
        try:
            self.addresses.wait_until(self.settled, SETTLE_DEADLINE_S, "settled", every_s=0.1)
        except LabTimeout:
            count = len(self.keys)
            raise LabError(
                f"not settled within {SETTLE_DEADLINE_S:g} s: of {count} addresses host a holds"
                f" {self.addresses.count(self.a)}, host b {self.addresses.count(self.b)}"
            ) from None
        return (self.addresses.changed_at_ns - begun_at_ns) / 1e9

    def settled(self) -> bool:
        """Whether host a holds every address, host b none, and nothing has changed for QUIET_S."""
        self._require_alive("a", "b")
        return (
            self.addresses.count(self.a) == len(self.keys)
            and self.addresses.count(self.b) == 0
            and time.time_ns() - self.addresses.changed_at_ns >= QUIET_S * 1e9
        )

    def measure(self, window_s: float) -> tuple[Side, Side, int]:
        """Both sides over a window in which nothing happens, and its length in ns."""
        hosts = (self.a, self.b)
        pids = {host.name: self._pids(host.name) for host in hosts}
        changes = self.addresses.changes
        frames = {host.name: frames_sent(host, self.counts) for host in hosts}
        before: dict[str, Usage] = {name: usage(group) for name, group in pids.items()}
        begun_at_ns = time.monotonic_ns()
        time.sleep(window_s)
        after = {name: usage(group) for name, group in pids.items()}
        elapsed_ns = time.monotonic_ns() - begun_at_ns
        sent = {host.name: frames_sent(host, self.counts) - frames[host.name] for host in hosts}
        self._require_alive("a", "b")
        if self.addresses.changes != changes:
            self.notes.append(f"{self.addresses.changes - changes} changes of address meanwhile")
        a, b = (
            measurements.side(
                len(pids[host.name]),
                after[host.name].since(before[host.name]),
                memory(pids[host.name]),
                sent[host.name],
                elapsed_ns,
            )
            for host in hosts
        )
        return a, b, elapsed_ns

    def fail_over(self) -> TakeOver:
        """Kills host a's daemon while the wire is watched; returns what host b did."""
        with WireWatch(self.b, self.a, self._identities) as wire:
            wanted = set(self.keys)
            with self._noting("host a was not heard"):
                self.addresses.wait_until(
                    lambda: wire.last(self.a).keys() >= wanted,
                    HEARD_DEADLINE_S,
                    "an advertisement of every virtual host",
                    every_s=0.25,
                )
            wire.mark()
            killed_at_ns = self.kill("a")
            with self._noting("host b did not take over"):
                self.addresses.wait_until(
                    partial(self._holds_all, self.b), TAKE_OVER_DEADLINE_S, "every address"
                )
            adopted = self.addresses.held(self.b)
            with self._noting("host b did not advertise or announce"):
                self.addresses.wait_until(
                    lambda: (
                        wire.first(self.b).keys() >= wanted and wire.announced().keys() >= wanted
                    ),
                    AFTERWARDS_DEADLINE_S,
                    "advertisements and announcements of all",
                    every_s=0.25,
                )
            over = measurements.take_over(
                self.keys,
                killed_at_ns,
                address_at_ns=adopted,
                announced_at_ns=wire.announced(),
                last_at_ns=wire.last(self.a),
                first_at_ns=wire.first(self.b),
            )
        if wire.dropped:
            self.notes.append(f"the watch of the wire lost {wire.dropped} frames")
        self._note_given_up(len(adopted))
        return over

    def _note_given_up(self, adopted: int) -> None:
        with suppress(LabTimeout):
            self.addresses.wait_until(
                lambda: self.addresses.count(self.b) < adopted, GIVEN_UP_WITHIN_S, "giving up"
            )
            left = self.addresses.count(self.b)
            self.notes.append(f"host b gave up {adopted - left} addresses after the take-over")

    def kill(self, name: str) -> int:
        """Sends SIGKILL to every process of a host; returns the first instant, CLOCK_REALTIME ns.

        Children first: keepalived's would notice its parent's death and resign.
        """
        pids = self._pids(name)[::-1]
        at_ns = time.time_ns()
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return at_ns

    def kill_all(self) -> None:
        """Ends what still runs, on both hosts."""
        for name, processes in self._processes.items():
            self.kill(name)
            for process in processes:
                process.kill()
            processes.clear()

    @contextmanager
    def _noting(self, what: str) -> Iterator[None]:
        """Notes what does not happen before its deadline, and is missing from the figures."""
        try:
            yield
        except LabTimeout as reason:
            self.notes.append(f"{what}: {reason}")

    def _holds_all(self, host: Host) -> bool:
        self._require_alive(host.name)
        return self.addresses.count(host) == len(self.keys)

    def roots(self, name: str) -> list[int]:
        """The pids of the processes that were started on a host and are alive."""
        return [process.pid for process in self._processes[name] if process.alive()]

    def _pids(self, name: str) -> list[int]:
        return descendants(self.roots(name))

    def _require_alive(self, *names: str) -> None:
        for name in names:
            for process in self._processes[name]:
                if not process.alive():
                    output = process.output().strip().splitlines()[-1:] or ["nothing"]
                    code = process.wait(0)
                    raise LabError(
                        f"{process.argv[0]} on host {name} ended, code {code}: {output[0]}"
                    )


def frames_sent(host: Host, segments: Iterable[int]) -> int:
    """The frames sent by the interfaces of these segments, as the kernel has counted them."""
    with host.inside():
        found = counters()
    names = {interface_name(k) for k in segments} & found.keys()
    return sum(found[name].sent for name in names)
