"""The demo: two hosts, a thousand virtual hosts, a killed master, the take-over measured.

Holds the steps of the demo, its goals and its tables. Must not know the daemon's internals: it
starts `carp-fast run`, queries the control socket, and judges by what the wire and the kernel show.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from carp_fast.control.client import ControlClient
from carp_fast.control.protocol import ControlError
from carp_fast.lab.fleet import (
    ADVBASE,
    ADVSKEW,
    CARP_FAST,
    DEAD_RATIO,
    VHIDS_PER_SEGMENT,
    control_socket,
    keys_of,
    run_command,
    spread,
)
from carp_fast.lab.lab import (
    Host,
    Lab,
    LabError,
    LabTimeout,
    Process,
    interface_name,
    virtual_address,
    wait_for,
)
from carp_fast.lab.observer import Key, Observer

TIMEOUT_S = DEAD_RATIO * ADVBASE + ADVSKEW["b"] / 256  # of host b, which takes over
TOLERANCE_S = 0.05
SILENCE_MIN_S, SILENCE_MAX_S = TIMEOUT_S - TOLERANCE_S, TIMEOUT_S + TOLERANCE_S
CPU_WINDOW_S = 5.0
MASTER_WITHIN_S = 1.5 * ADVBASE  # a host that advertised within this time is master now
SETTLE_DEADLINE_S = 30.0
TAKE_OVER_DEADLINE_S = TIMEOUT_S + 10.0
AFTERWARDS_DEADLINE_S = 5.0
LOG_TAIL_LINES = 5
NOTE = (
    "Silence: from the last advertisement of the dead master to the first of the new one;"
    f" the configured timeout is {TIMEOUT_S:.3f} s.\n"
    "SIGKILL leaves a process no time to remove its addresses: neighbours follow the"
    " announcements until it starts again."
)


def run_demo(console: Console, instances: int = 1000, segments: int = 4, keep: bool = False) -> int:
    """Runs the demo and prints its tables on `console`; returns the exit code.

    0: every goal met. 1: a goal missed or a requirement missing, each reported in one line on
    stderr. `keep` waits for Enter before the hosts are removed, so that they can be inspected.
    Without root it starts itself again in a user namespace if the kernel allows that, and then does
    not return.
    """
    if not 1 <= instances <= segments * VHIDS_PER_SEGMENT:
        return _fail(f"{instances} virtual hosts do not fit on {segments} segments: 255 each")
    if os.geteuid() != 0:
        return _restart_in_user_namespace(instances, segments)
    try:
        with Lab("carp-fast-demo", segments=segments) as lab, Observer(lab["b"]) as observer:
            demo = Demo(console, lab, observer, spread(instances, segments))
            outcome = demo.run()
            for table in outcome.tables(plain=not console.is_terminal):
                console.print()
                console.print(table)
            console.print(NOTE, soft_wrap=True, highlight=False)
            faults = outcome.faults()
            if faults:
                demo.print_log_tails()
            if keep:
                console.print(f"Hosts: {', '.join(host.namespace for host in lab.hosts)}")
                console.input("Enter removes them. ")
    except LabError as reason:
        return _fail(str(reason))
    for fault in faults:
        _fail(fault)
    return 1 if faults else 0


def _fail(reason: str) -> int:
    print(f"carp-fast demo: {reason}", file=sys.stderr)
    return 1


def _restart_in_user_namespace(instances: int, segments: int) -> int:
    """Restarts as root of new user and network namespaces, if the kernel allows that."""
    needs = "needs root, or a kernel that grants users namespaces of their own"
    unshare = [shutil.which("unshare") or "unshare"]
    unshare += ["--user", "--map-root-user", "--net", "--mount"]
    # ip(8) names namespaces in /run, which belongs to the real root.
    own_run = ["sh", "-c", 'mount -t tmpfs tmpfs /run && exec "$0" "$@"']
    try:
        tried = subprocess.run(
            [*unshare, *own_run, "true"], check=False, capture_output=True, text=True
        )
    except OSError as reason:
        return _fail(f"{needs} ({unshare[0]}: {reason.strerror})")
    if tried.returncode:
        return _fail(f"{needs} ({' '.join(tried.stderr.split()) or 'unshare failed'})")
    again = [*CARP_FAST, "demo"]
    again += ["--instances", str(instances), "--segments", str(segments)]
    # Users' search paths often lack the directories of ip and similar programs.
    environment = {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}
    sys.stdout.flush()
    return os.execve(unshare[0], [*unshare, *own_run, *again], environment)


# Output.


@dataclass
class Sample:
    """CPU and memory of one process over the window before the kill."""

    cpu_percent: float  # of one core
    rss_bytes: int


@dataclass
class Outcome:
    """What was measured, independent of any process."""

    keys: set[Key]
    silences_s: dict[Key, float]
    held: set[tuple[int, str]]  # (segment, address) on the host that took over
    still_held: set[tuple[int, str]]  # on the killed host
    announced: set[tuple[int, str]]
    announcements: int
    samples: dict[str, Sample]
    frames_lost: int

    @property
    def addresses(self) -> set[tuple[int, str]]:
        return {(key.segment, virtual_address(*key)) for key in self.keys}

    def faults(self) -> list[str]:
        """One line for each goal that was missed."""
        faults = []
        count = len(self.keys)
        silent = len(self.keys - self.silences_s.keys())
        if silent:
            faults.append(f"{silent} of {count} virtual hosts were not taken over")
        longest_s = max(self.silences_s.values(), default=0.0)
        if longest_s > TIMEOUT_S + TOLERANCE_S:
            faults.append(f"longest silence {longest_s:.3f} s, over {SILENCE_MAX_S:.3f} s")
        shortest_s = min(self.silences_s.values(), default=TIMEOUT_S)
        if shortest_s < TIMEOUT_S - TOLERANCE_S:
            faults.append(f"taken over after {shortest_s:.3f} s, before the timeout was over")
        if missing := len(self.addresses - self.held):
            faults.append(f"{missing} of {count} addresses did not move to host b")
        if missing := len(self.addresses - self.announced):
            faults.append(f"{missing} of {count} addresses were not announced")
        if self.frames_lost:
            faults.append(f"the observer lost {self.frames_lost} frames: the figures are not whole")
        return faults

    def tables(self, *, plain: bool) -> list[Table]:
        return [self._process_table(plain), self._take_over_table(plain)]

    def _take_over_table(self, plain: bool) -> Table:
        table = _table("Take-over after SIGKILL of the master", plain)
        table.add_column("measured")
        table.add_column("value", justify="right")
        table.add_column("goal", justify="right")
        count = len(self.keys)
        table.add_row("virtual hosts taken over", f"{len(self.silences_s)}", f"{count}")
        silences_s = sorted(self.silences_s.values())
        if silences_s:
            table.add_row("silence, minimum", f"{silences_s[0]:.3f} s",
                          f">= {SILENCE_MIN_S:.3f} s")  # fmt: skip
            table.add_row("silence, median", f"{statistics.median(silences_s):.3f} s", "")
            table.add_row("silence, maximum", f"{silences_s[-1]:.3f} s",
                          f"<= {SILENCE_MAX_S:.3f} s")  # fmt: skip
        table.add_row("addresses held by host b", f"{len(self.addresses & self.held)}", f"{count}")
        table.add_row("addresses announced by gratuitous ARP",
                      f"{len(self.addresses & self.announced)}", f"{count}")  # fmt: skip
        table.add_row("gratuitous ARP frames seen", f"{self.announcements}", "")
        table.add_row("addresses the killed host still has",
                      f"{len(self.addresses & self.still_held)}", "")  # fmt: skip
        return table

    def _process_table(self, plain: bool) -> Table:
        table = _table(f"Processes, over {CPU_WINDOW_S:g} s before the kill", plain)
        table.add_column("host")
        table.add_column("virtual hosts", justify="right")
        table.add_column("CPU of a core", justify="right")
        table.add_column("memory", justify="right")
        roles = {"a": "MASTER", "b": "BACKUP"}
        for host, sample in self.samples.items():
            table.add_row(
                host,
                f"{len(self.keys)} {roles[host]}",
                f"{sample.cpu_percent:.2f} %",
                f"{sample.rss_bytes / (1 << 20):.1f} MiB",
            )
        return table


def _table(title: str, plain: bool) -> Table:
    return Table(title=title, box=None if plain else box.ROUNDED, title_justify="left")


@dataclass
class View:
    """The content of the live view; rich's thread renders it, the demo's thread changes it."""

    observer: Observer
    hosts: tuple[Host, ...]
    phase: str = ""
    condition: dict[str, str] = field(default_factory=dict)
    addresses: dict[str, int] = field(default_factory=dict)

    def __rich__(self) -> Group:
        table = Table(box=box.ROUNDED)
        for heading in ("host", "process", "MASTER", "addresses"):
            table.add_column(heading, justify="left" if heading == "host" else "right")
        masters = self.observer.masters(MASTER_WITHIN_S)
        for host in self.hosts:
            count = sum(host.address(key.segment) in of for key, of in masters.items())
            table.add_row(
                host.name,
                self.condition.get(host.name, ""),
                str(count),
                str(self.addresses.get(host.name, 0)),
            )
        return Group(table, Text(self.phase))


# The steps.


class Demo:
    """Both daemons in an existing lab, from their start to the take-over."""

    def __init__(self, console: Console, lab: Lab, observer: Observer, counts: dict[int, int]):
        self.console = console
        self.lab = lab
        self.observer = observer
        self.keys = keys_of(counts)
        self._counts = counts
        self._addresses = {(k, virtual_address(k, vhid)) for k, vhid in self.keys}
        self._view = View(observer, lab.hosts)
        self._processes: dict[str, Process] = {}
        self._begun_at = time.monotonic()

    def run(self) -> Outcome:
        """Runs all steps. Raises LabError if a daemon ends, or host a does not become master of
        all.
        """
        with self._shown():
            self._start()
            self._settle()
            samples = self._sample()
            self._kill()
            self._take_over()
            silences_s = self.observer.silences_s(self.lab["a"], self.lab["b"])
            announcements = self.observer.announcements()
            return Outcome(
                keys=self.keys,
                silences_s={k: s for k, s in silences_s.items() if k in self.keys},
                held=self._held("b"),
                still_held=self._held("a"),
                announced=self.observer.announced(),
                announcements=sum(seen.frames for seen in announcements.values()),
                samples=samples,
                frames_lost=self.observer.dropped() + self.observer.unrecorded,
            )

    def print_log_tails(self) -> None:
        for name, process in self._processes.items():
            self.console.print(f"Last lines of host {name}:", markup=False)
            for line in process.output().splitlines()[-LOG_TAIL_LINES:]:
                self.console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def _shown(self) -> Iterator[None]:
        if not self.console.is_terminal:
            yield
            return
        with Live(self._view, console=self.console, refresh_per_second=4):
            yield

    def _log(self, phase: str) -> None:
        self._view.phase = phase
        if not self.console.is_terminal:
            elapsed_s = time.monotonic() - self._begun_at
            self.console.print(f"{elapsed_s:5.1f} s  {phase}", markup=False, highlight=False)

    def _start(self) -> None:
        segments = f"{len(self._counts)} segment{'s' if len(self._counts) > 1 else ''}"
        self._log(f"two hosts, {segments}, {len(self.keys)} virtual hosts: starting carp-fast run")
        directory = self.lab.directory
        for host in self.lab.hosts:
            command = run_command(self._counts, directory, host.name)
            log = directory / f"{host.name}.log"
            self._processes[host.name] = host.start(command, log=log)
            self._view.condition[host.name] = "runs"

    def _settle(self) -> None:
        a = self.lab["a"]
        wanted = {key: frozenset({a.address(key.segment)}) for key in self.keys}

        def settled() -> bool:
            self._require_alive("a", "b")
            return self.observer.masters(MASTER_WITHIN_S) == wanted

        self.observer.wait_until(settled, SETTLE_DEADLINE_S, "host a master of all")
        wait_for(
            lambda: self._held("a") >= self._addresses,
            AFTERWARDS_DEADLINE_S,
            "every address on host a",
        )
        if strays := self._held("b") & self._addresses:
            raise LabError(f"host b is backup of all and holds {len(strays)} addresses")
        count = len(self.keys)
        for name, state in (("a", "master"), ("b", "backup")):
            wait_for(
                partial(self._is_all, name, state),
                AFTERWARDS_DEADLINE_S,
                f"{state} for all in the status of host {name}",
            )
        self._log(f"host a is MASTER of all {count} and holds their addresses, host b BACKUP")

    def _sample(self) -> dict[str, Sample]:
        """CPU and memory of both while nothing happens; no daemon is queried meanwhile."""
        self._log(f"measuring CPU for {CPU_WINDOW_S:g} s")
        before_ns = {name: process.cpu_ns() for name, process in self._processes.items()}
        begun_at_ns = time.monotonic_ns()
        while time.monotonic_ns() - begun_at_ns < CPU_WINDOW_S * 1e9:
            self._require_alive("a", "b")
            time.sleep(0.1)
        window_ns = time.monotonic_ns() - begun_at_ns
        return {
            name: Sample(
                100 * (process.cpu_ns() - before_ns[name]) / window_ns, process.rss_bytes()
            )
            for name, process in self._processes.items()
        }

    def _kill(self) -> None:
        self._processes["a"].kill()
        self.observer.mark()  # now that host a sends nothing more
        self._view.condition["a"] = "killed"
        self._log("SIGKILL to the daemon of host a")

    def _take_over(self) -> None:
        """Waits for the take-over; what does not happen in time is missing from the outcome."""
        b = self.lab["b"]

        def taken_over() -> bool:
            self._require_alive("b")
            return self.observer.first_since_mark(b).keys() >= self.keys

        with suppress(LabTimeout):
            self.observer.wait_until(taken_over, TAKE_OVER_DEADLINE_S, "host b master of all")
        with suppress(LabTimeout):
            wait_for(
                lambda: self._held("b") >= self._addresses,
                AFTERWARDS_DEADLINE_S,
                "every address on host b",
            )
        with suppress(LabTimeout):
            self.observer.wait_until(
                lambda: self.observer.announced() >= self._addresses,
                AFTERWARDS_DEADLINE_S,
                "every address announced",
            )
        self._log(f"host b advertises {len(self.observer.first_since_mark(b))} virtual hosts")

    def _held(self, name: str) -> set[tuple[int, str]]:
        """(segment, address) of the addresses of a host except its own."""
        host = self.lab[name]
        own = {(k, host.address(k)) for k in range(1, self.lab.segments + 1)}
        segments = {interface_name(k): k for k, _ in own}
        held = {(segments[ifname], address) for ifname, address in host.addresses()} - own
        self._view.addresses[name] = len(held)
        return held

    def _is_all(self, name: str, state: str) -> bool:
        """Whether the daemon reports every virtual host in this state."""
        client = ControlClient(control_socket(self.lab.directory, name))
        try:
            summary = client.status().summary
        except ControlError as reason:
            raise LabError(f"host {name}: {reason}") from reason
        return bool(summary.virtual_hosts == getattr(summary, state) == len(self.keys))

    def _require_alive(self, *names: str) -> None:
        for name in names:
            process = self._processes[name]
            if not process.alive():
                output = process.output().strip().splitlines()[-1:] or ["nothing"]
                raise LabError(
                    f"the daemon of host {name} ended with code {process.wait(0)}: {output[0]}"
                )
