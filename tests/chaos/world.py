"""A world: hosts with a program on each, what judges them, and the faults that can be put on them.

Hosts a, b and perhaps c run the program; "o" is a stranger, if there is one. Virtual host V of
segment K has the address 10.K.1.V, over IPv6 fd00:K::V. The world is judged from `begin()` to its
end, by the oracles of `oracles`; a failure has its timeline.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from carp_fast.closing import Closing
from carp_fast.control.protocol import ControlError
from carp_fast.lab.lab import Lab, LabTimeout, Medium, interface_name, virtual_address, wait_for
from carp_fast.lab.observer import Key
from tests.chaos import oracles
from tests.chaos.case import Run, UnableError
from tests.chaos.holdings import Holdings
from tests.chaos.oracles import EVERY_HOST, Evidence, Excuse, Foreign, Limits, Verdict
from tests.chaos.programs import CarpFast, Keepalived, Program, Tempo, Ucarps
from tests.chaos.spans import Span, without
from tests.chaos.tape import Tape
from tests.support.punctual import Delays

STRANGER = "o"
PYTHON_SWITCH = "tests.chaos.switch"
ROOT = Path(__file__).parents[2]
TIMELINE_LINES = 60
LOG_LINES = 12
AROUND_NS = 3_000_000_000  # of a timeline, before and after what it shows
SETTLE_S = 10.0
DELAYED_S = 0.1


class World(Closing):
    """A lab with programs, a tape and a record of addresses; a context manager.

    On leaving the block without an exception, `finish()` judges it. `impaired`: the hosts are
    joined by tests.chaos.switch in place of a bridge.
    """

    def __init__(
        self,
        run: Run,
        *,
        hosts: Sequence[str] = ("a", "b"),
        count: int = 3,
        segments: int = 1,
        medium: Medium = "bridge",
        impaired: bool = False,
        ipv6: bool = False,
        tempo: Tempo | None = None,
        tables: Sequence[Mapping[str, Any]] | None = None,
        addresses: Mapping[Key, Sequence[str]] | None = None,
    ) -> None:
        self.run = run
        self.tempo = tempo or run.tempo
        self.players = [name for name in hosts if name != STRANGER]
        self.tables = list(tables) if tables else [_table(count, segments, ipv6=ipv6)]
        self.addresses = dict(addresses) if addresses else _addresses(count, segments, ipv6=ipv6)
        self.limits = Limits()
        slowest_s = max(self.tempo.master_down_s(name) for name in self.players)
        self.limits.silence_s = slowest_s + 0.3
        self.limits.nobody_holds_s = slowest_s + 0.5
        self.programs: dict[str, Program] = {}  # by host
        self.notes: list[tuple[int, str]] = []
        self._ended: set[str] = set()  # hosts whose program was ended by SIGTERM
        self._options: dict[str, dict[str, Any]] = {}  # of each host's program
        self._excuses: list[Excuse] = []
        self._absent: dict[str, list[Span]] = {name: [] for name in self.players}
        self._absent_since: dict[str, int] = {}
        self._foreign: dict[tuple[str, str], Foreign] = {}  # by (host, address)
        self._begun_ns = 0
        self._told: set[tuple[Key, int]] = set()  # what timelines showed
        self._stack = contextlib.ExitStack()
        self.directory: Path
        self._switch: IO[bytes] | None = None
        self._hosts = list(hosts)
        self._medium: Medium = medium
        self._segments = segments
        self._impaired = impaired
        self._ipv6 = ipv6

    def __enter__(self) -> World:
        try:
            self.lab = self._stack.enter_context(
                Lab("chaos", self._hosts, self._segments, self._medium, ipv6=self._ipv6)
            )
            self.directory = self.lab.directory
            if self._impaired:
                self._start_switch()
            players = [host for host in self.lab.hosts if host.name in self.players]
            vrrp = self.run.program == "keepalived"
            if self._medium != "macvlan" or len(self._hosts) != 2:
                self.tape = self._stack.enter_context(Tape(self.lab, self.players, vrrp=vrrp))
            self.holdings = self._stack.enter_context(Holdings(players))
            self._delays = self._stack.enter_context(Delays())
            for host in players:
                for segment in range(1, self._segments + 1):
                    self._foreign[host.name, host.address(segment)] = Foreign(16, 0)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *raised: object) -> None:
        reason = raised[1]
        try:
            if reason is None:
                self.finish()
            elif isinstance(reason, Exception) and not isinstance(reason, UnableError):
                # The case itself failed: what led to it is worth the same lines.
                self.run.failures.append(self.timeline(None, (0, time.time_ns())))
        finally:
            self.close()

    def close(self) -> None:
        self._stack.close()

    @property
    def keys(self) -> list[Key]:
        return list(self.addresses)

    @property
    def virtual(self) -> set[str]:
        """Every virtual address."""
        return {address for each in self.addresses.values() for address in each}

    # Programs.

    def start(self, name: str, *, ready: bool = True, **options: Any) -> Program:
        """Starts the program of this run on a host; `options`: those of its class in programs, by
        default those that it was started with before.

        Until it is ready, what its predecessor left is not held against it.
        """
        self._ended.discard(name)
        self._options[name] = options = {**self._options.get(name, {}), **options}
        self._leave(name)
        host = self.lab[name]
        self.note(f"start {name}")
        program: Program
        if self.run.program == "ucarp":
            preempt = options.get("preempt", False)
            program = Ucarps(host, self.directory, self.tempo, self.keys, preempt=preempt)
        elif self.run.program == "keepalived":
            preempt = options.get("preempt", True)
            program = Keepalived(host, self.directory, self.keys, preempt=preempt)
        else:
            given = {"tables": self.tables, "checkout": self.run.checkout, **options}
            if "preempt" in given:
                preempt = {"preempt": given.pop("preempt")}
                given["defaults"] = {**preempt, **given.get("defaults", {})}
            program = CarpFast(host, self.directory, self.tempo, **given)
        self.programs[name] = program
        if ready:
            self.wait_ready(name)
        return program

    def wait_ready(self, name: str) -> None:
        self.programs[name].wait_ready()
        self._return(name)
        self.note(f"{name} is ready")

    def start_pair(self, **options: Any) -> None:
        """Starts a as master and then the others as its backups; judges from then on."""
        for name in self.players:
            self.start(name, **options)
            if not self.run.judged and name == "a":
                self.settle("a", SETTLE_S + 4 * self.tempo.master_down_s("a"))
        self.settle("a", SETTLE_S + 4 * self.tempo.master_down_s("a"))
        self.begin()

    def carp_fast(self, name: str) -> CarpFast:
        program = self.programs[name]
        assert isinstance(program, CarpFast)
        return program

    def kill(self, name: str) -> int:
        """SIGKILL; returns the time. From now on the host counts as absent."""
        self._leave(name)
        self.programs[name].kill()
        self.note(f"kill -9 {name}")
        return time.time_ns()

    def freeze(self, name: str) -> None:
        """SIGSTOP; the host counts as absent."""
        self._leave(name)
        self.programs[name].signal(signal.SIGSTOP)
        self.note(f"SIGSTOP {name}")

    def thaw(self, name: str) -> int:
        """SIGCONT; returns the time."""
        at_ns = time.time_ns()
        self.programs[name].signal(signal.SIGCONT)
        self._return(name)
        self.note(f"SIGCONT {name}")
        return at_ns

    def stop(self, *names: str) -> None:
        """SIGTERM, to their end; requires exit code 0 of carp-fast."""
        for name in names:
            self._leave(name)
            self.note(f"SIGTERM {name}")
            self.programs[name].terminate()
            self._ended.add(name)
        for name in names:
            codes = self.programs[name].wait_ended()
            self.note(f"{name} has ended: {codes}")
            if self.run.judged:
                self.run.require(set(codes) == {0}, f"{name} ended with {codes}")

    def _leave(self, name: str) -> None:
        self._absent_since.setdefault(name, time.time_ns())

    def _return(self, name: str) -> None:
        since_ns = self._absent_since.pop(name, None)
        if since_ns is not None:
            self._absent[name].append((since_ns, time.time_ns()))

    # Faults.

    def ip(self, name: str, words: str) -> None:
        """Runs `ip` on a host."""
        self.note(f"{name}: ip {words}")
        self.lab[name].run(["ip", *words.split()])

    def impair(self, what: str, *values: float, sender: str = "*", receiver: str = "*") -> None:
        """Sets loss, delay, duplicate or cut on a path between hosts (`tests.chaos.switch`)."""
        assert self._switch is not None
        self.note(f"{what} {sender}->{receiver}: {' '.join(f'{value:g}' for value in values)}")
        for segment in range(1, self._segments + 1):
            ends = [name if name == "*" else f"{name}-{segment}" for name in (sender, receiver)]
            self._switch.write(f"{what} {' '.join(ends)} {' '.join(map(str, values))}\n".encode())
            self._switch.flush()
            self._commands += 1
        wait_for(lambda: self._switch_log.output().count("done") >= self._commands, 10, what)

    def set_knob(self, name: str, path: str, value: str) -> None:
        """Writes a setting below /proc/sys/net of a host."""
        self.note(f"{name}: {path} = {value}")
        with self.lab[name].inside():
            Path("/proc/sys/net", path).write_text(value)

    def plant(self, name: str, address: str) -> None:
        """Adds an address as somebody else would; it must never go."""
        self.ip(name, f"addr add {address} dev s1")
        plain, _, prefixlen = address.partition("/")
        self._foreign[name, plain] = Foreign(int(prefixlen), time.time_ns())

    def unplant(self, name: str, address: str) -> None:
        """From now on this address may go."""
        self._foreign.pop((name, address), None)

    def _start_switch(self) -> None:
        """Takes the ports from the bridges and joins them by a program, one for each segment."""
        switch = self.lab.switch
        ports = [f"{name}-{k}" for k in range(1, self._segments + 1) for name in self._hosts]
        for port in ports:
            switch.run(f"ip link set dev {port} nomaster".split())
        assert self._segments == 1, "an impairing switch has one segment"
        argv = [sys.executable, "-m", PYTHON_SWITCH, str(self.run.seed), *ports]
        log = self.directory / "switch.log"
        self._switch_log = switch.start(argv, log=log, stdin=subprocess.PIPE, cwd=ROOT)
        self._switch = self._switch_log.stdin
        self._commands = 0
        wait_for(lambda: "ready" in self._switch_log.output(), 20, "the switch")

    def recreate(self) -> None:
        """Creates interfaces of segment 1 that were deleted, and listens there again."""
        self.lab.recreate_interface(1)
        for name in self.players:
            self.tape.listen(name, 1)
        self.note("interface created again")

    # What is waited for.

    def master(self, key: Key) -> str | None:
        """The only host that has lately advertised a virtual host and has its addresses."""
        now_ns = time.time_ns()
        last = self.tape.last()
        fresh = [
            name
            for name in self.players
            if (each := last.get((name, key))) is not None
            and not each.resigned
            and now_ns - each.at_ns < (each.interval_s + 0.15) * 1e9
        ]
        holders = [
            name
            for name in self.players
            if (self.holdings.there(name) - self._of(name)) & set(self.addresses[key])
            and name not in self._dead()
        ]
        if len(fresh) == 1 and fresh == holders:
            whole = set(self.addresses[key]) <= self.holdings.there(fresh[0])
            return fresh[0] if whole else None
        return None

    def _dead(self) -> set[str]:
        return {name for name, program in self.programs.items() if not program.alive()} | set(
            self._absent_since
        )

    def settled(self, host: str | None = None) -> bool:
        """Whether each virtual host has one master, which has its addresses: `host`, if given."""
        masters = {self.master(key) for key in self.addresses}
        return None not in masters and (host is None or masters == {host})

    def settle(self, host: str | None = None, deadline_s: float | None = None) -> float:
        """Waits until it is settled for longer than an interval; returns the seconds until then."""
        began_at = time.monotonic()
        if deadline_s is None:
            slowest_s = max(self.tempo.master_down_s(name) for name in self.players)
            deadline_s = SETTLE_S + 2 * slowest_s
        longest_s = max(self.tempo.interval_s(name) for name in self.players)
        since: float | None = None

        def lasting() -> bool:
            nonlocal since
            now = time.monotonic()
            if not self.settled(host):
                since = None
                return False
            since = now if since is None else since
            return now - since > 1.1 * longest_s

        try:
            self.tape.wait_until(lasting, deadline_s, f"one master of each ({host or 'any'})")
        except LabTimeout as reason:
            masters = {f"{key.segment}/{key.vhid}": self.master(key) for key in self.addresses}
            raise AssertionError(f"{reason}; masters {dict(list(masters.items())[:6])}") from None
        assert since is not None
        return since - began_at

    def sleep(self, seconds: float) -> None:
        """Lets a condition last; every program must still be alive after it."""
        time.sleep(seconds)

    # Judging.

    def note(self, text: str) -> None:
        self.notes.append((time.time_ns(), text))

    def begin(self) -> int:
        """Judges from now on; returns the time."""
        self._begun_ns = time.time_ns()
        # What starting took does not count.
        self._delays = self._stack.enter_context(Delays())
        self.note("judged from here on")
        return self._begun_ns

    @contextlib.contextmanager
    def excused(self, *names: str, host: str = EVERY_HOST, after_s: float = 0.0) -> Iterator[None]:
        """Within the block, and `after_s` longer, these oracles do not count on a host."""
        start_ns = time.time_ns()
        try:
            yield
        finally:
            span = (start_ns, time.time_ns() + int(after_s * 1e9))
            self._excuses.append(Excuse(frozenset(names), host, span))

    def excuse(self, *names: str, host: str = EVERY_HOST, since_ns: int, until_ns: int) -> None:
        self._excuses.append(Excuse(frozenset(names), host, (since_ns, until_ns)))

    def evidence(self, since_ns: int = 0, until_ns: int = 0) -> Evidence:
        """What happened from `since_ns` (default: begin()) to `until_ns` (default: now)."""
        now_ns = until_ns or time.time_ns()
        absent = {
            name: [*spans, *([(self._absent_since[name], now_ns)] if self._is_absent(name) else [])]
            for name, spans in self._absent.items()
        }
        return Evidence(
            span=(since_ns or self._begun_ns, now_ns),
            hosts=self.players,
            addresses=self.addresses,
            advertisements=self.tape.advertisements(),
            held=self.holdings.spans(now_ns),
            absent=absent,
            excuses=self._excuses,
            delay_s=self.delay_s,
        )

    @property
    def delay_s(self) -> float:
        """The machine's own delay since begin(): the most in a tenth of a second."""
        return self._delays.most_within(DELAYED_S)

    def _is_absent(self, name: str) -> bool:
        return name in self._absent_since

    def finish(self) -> None:
        """Judges what happened, ends the programs, and judges what they leave."""
        self.note("judged up to here")
        if self.run.judged:
            self._compare_status()
        evidence = self.evidence()
        if self.run.judged:
            for verdict in oracles.judge(evidence, self.limits):
                self._report(verdict)
        self.run.figures.setdefault("machine", f"{1e3 * evidence.delay_s:.0f} ms")
        self.stop(*(name for name, each in self.programs.items() if each.alive()))
        if self.run.judged:
            self.holdings.check()
            # What a killed one leaves, only its next start can remove.
            there = {name: self.holdings.there(name) for name in self._ended}
            planted = {address for _, address in self._foreign}
            self._report(oracles.left_behind(sorted(there), there, self.virtual - planted))
            self._report(oracles.foreign(self.holdings.changes(), self._foreign))

    def _compare_status(self) -> None:
        """Held if and only if MASTER, by the daemon's own word."""
        for name, program in self.programs.items():
            if not isinstance(program, CarpFast) or name in self._dead():
                continue

            def same(program: CarpFast = program, name: str = name) -> bool:
                there, foreign = self.holdings.there(name), self._of(name)
                judged = {key: set(each) for key, each in self.addresses.items()}
                judged = {key: each for key, each in judged.items() if not each & foreign}
                held = {key for key, each in judged.items() if each & there}
                return program.masters() & set(judged) == held

            try:
                wait_for(same, 5, f"{name} has the addresses of what is MASTER by its status")
            except (LabTimeout, ControlError) as reason:
                self.run.failures.append(str(reason))

    def _of(self, name: str) -> set[str]:
        """The foreign addresses of a host."""
        return {address for host, address in self._foreign if host == name}

    def _report(self, verdict: Verdict) -> None:
        if not verdict.passed:
            self.run.failures.append(f"{verdict}\n{self.timeline(verdict.key, verdict.span)}")

    # Timelines.

    def timeline(self, key: Key | None, span: Span) -> str:
        """What happened around a span, to one virtual host or to the first, and the logs' ends.

        Only the first one of a world is whole.
        """
        key = key or self.keys[0]
        if (key, span[0] // AROUND_NS) in self._told:
            return f"    at {(span[0] - self._begun_ns) / 1e9:.3f} s, timeline above"
        since_ns, until_ns = span[0] - AROUND_NS, span[1] + AROUND_NS
        lines = [*self.notes, *self._sent(key), *self._addresses_of(key)]
        shown = sorted(each for each in lines if since_ns <= each[0] <= until_ns)
        start_ns = self._begun_ns or (shown[0][0] if shown else 0)
        cut = len(shown) - TIMELINE_LINES
        if cut > 0:
            half = TIMELINE_LINES // 2
            shown = [*shown[:half], (shown[half][0], f"... {cut} lines ..."), *shown[-half:]]
        text = [f"    timeline of segment {key.segment} vhid {key.vhid}, seed {self.run.seed}:"]
        text += [f"    {(at_ns - start_ns) / 1e9:9.3f} s  {what}" for at_ns, what in shown]
        for name, program in self.programs.items() if not self._told else ():
            tail = program.log().splitlines()[-LOG_LINES:]
            text += [f"    log of {name}:", *(f"      {line[:160]}" for line in tail)]
        self._told.add((key, span[0] // AROUND_NS))
        return "\n".join(text)

    def _sent(self, key: Key) -> list[tuple[int, str]]:
        """The advertisements for a virtual host; equal ones in a row are one line."""
        found: list[tuple[int, str]] = []
        run: list[tuple[int, str]] = []
        with contextlib.suppress(Exception):
            for each in self.tape.advertisements():
                if each.key != key:
                    continue
                what = f"{each.host} {'resigns' if each.resigned else 'advertises'}"
                if run and run[0][1] == what and each.at_ns - run[-1][0] < 2e9 * each.interval_s:
                    run.append((each.at_ns, what))
                    continue
                found += _folded(run)
                run = [(each.at_ns, what)]
        return found + _folded(run)

    def _addresses_of(self, key: Key) -> list[tuple[int, str]]:
        with contextlib.suppress(Exception):
            return [
                (
                    each.at_ns,
                    f"{each.host} {'has' if each.there else 'no longer has'} {each.address}",
                )
                for each in self.holdings.changes()
                if each.address in self.addresses[key]
            ]
        return []

    # Measured by comparisons.

    def held_by_both_s(self, since_ns: int, until_ns: int = 0) -> float:
        """How long a and b had an address both, the longest of all virtual hosts."""
        evidence = self.evidence(since_ns, until_ns)
        evidence = Evidence(**{**_plain(evidence), "absent": {}})
        return oracles.two_hold(evidence, 0).worst

    def advertised_by_both_s(self, since_ns: int, until_ns: int = 0) -> float:
        evidence = self.evidence(since_ns, until_ns)
        evidence = Evidence(**{**_plain(evidence), "absent": {}})
        return oracles.two_advertise(evidence, 0).worst

    def count_take_overs(self) -> int:
        """How often a virtual host went to another host since begin(), all of them together."""
        evidence = self.evidence()
        return sum(len(oracles.changes_of_master(evidence, key)) for key in self.addresses)

    def silence_s(self) -> float:
        """The longest time without any advertisement since begin(), of all virtual hosts."""
        return oracles.silence(self.evidence(), 0).worst

    def unheld_s(self, since_ns: int, until_ns: int = 0) -> float:
        """The longest time in which no living host had an address, of all virtual hosts."""
        evidence = self.evidence(since_ns, until_ns)
        return max(
            (
                (end - start) / 1e9
                for key in self.addresses
                for start, end in without(
                    [evidence.span], [s for host in self.players for s in evidence.holds(key, host)]
                )
            ),
            default=0.0,
        )


def _plain(evidence: Evidence) -> dict[str, Any]:
    names = ("span", "hosts", "addresses", "advertisements", "held")
    return {**{name: getattr(evidence, name) for name in names}, "excuses": ()}


def _folded(run: list[tuple[int, str]]) -> list[tuple[int, str]]:
    if len(run) < 4:
        return run
    (start_ns, what), (end_ns, _) = run[0], run[-1]
    return [
        run[0],
        (end_ns, f"{what}, {len(run)} times in {(end_ns - start_ns) / 1e9:.3f} s"),
    ]


def _table(count: int, segments: int, *, ipv6: bool) -> dict[str, Any]:
    addresses = ["10.{number}.1.{vhid}/32"] + ["fd00:{number}::{vhid}/128"] * ipv6
    return {
        "interface": f"s[1-{segments}]",
        "vhid": f"1-{count}",
        "addresses": addresses,
    }


def _addresses(count: int, segments: int, *, ipv6: bool) -> dict[Key, list[str]]:
    return {
        Key(k, vhid): [virtual_address(k, vhid)] + [f"fd00:{k}::{vhid}"] * ipv6
        for k in range(1, segments + 1)
        for vhid in range(1, count + 1)
    }


def interface(segment: int = 1) -> str:
    return interface_name(segment)
