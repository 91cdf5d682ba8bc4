"""Hosts in network namespaces, joined by segments, for the demo, the tests and the benchmark.

Holds the namespaces, their wiring, the processes that run in them, and makes sure that none of them
outlives the process that created it. Must not know what those processes are: no CARP, no
configuration file, no daemon of ours. observer.py hears what travels on the wire.

Segment k is the interface `s{k}` of every host and carries 10.k.0.0/16 (from k = 256 on 11.0.0.0/16
and upwards); the host numbered H, counted from 1, is 10.k.0.H there.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import IO, Any, Literal, Self

from carp_fast.closing import Closing
from carp_fast.lab import namespaces
from carp_fast.lab.namespaces import KILL_DEADLINE_S, LabError, ip_batch
from carp_fast.net.kernel import PROTOCOL_CARP

__all__ = [
    "Host",
    "Lab",
    "LabError",
    "LabTimeout",
    "Process",
    "interface_name",
    "segment_network",
    "virtual_address",
    "wait_for",
]

Medium = Literal["veth", "macvlan", "bridge"]

MAX_SEGMENTS = 1024
MAX_HOSTS = 200
POLL_INTERVAL_S = 0.015  # used if the kernel offers no event to wait for
CARRIER_DEADLINE_S = 20.0
OUR_ROUTES = f"ip -j -4 route show table local type local proto {PROTOCOL_CARP}"
SWITCH = "switch"
# In 1/100 s: queries every second and prunes half a second after it became the querier.
SNOOPING = (
    "mcast_snooping 1 mcast_query_interval 100 mcast_startup_query_interval 100"
    " mcast_query_response_interval 50"
)

_HOST_NAME = re.compile(r"[a-z][a-z0-9]{0,7}")
_LAB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_log = logging.getLogger("carp_fast.lab")


class LabTimeout(LabError):
    """Raised when the condition was not met before its deadline."""


def wait_for(predicate: Callable[[], object], deadline_s: float, what: str) -> None:
    """Returns as soon as `predicate()` is true; raises LabTimeout naming `what` after `deadline_s`.

    For conditions without an event source; the predicate is called a last time at the deadline.
    """
    end_at = time.monotonic() + deadline_s
    while not predicate():
        left_s = end_at - time.monotonic()
        if left_s <= 0:
            raise LabTimeout(f"not within {deadline_s:g} s: {what}")
        time.sleep(min(POLL_INTERVAL_S, left_s))


def interface_name(segment: int) -> str:
    return f"s{segment}"


def segment_network(segment: int) -> str:
    """The first two bytes of a segment's /16, as "10.7"."""
    return f"{10 + segment // 256}.{segment % 256}"


def virtual_address(segment: int, vhid: int) -> str:
    """The address that a lab's virtual host `vhid` on `segment` has by convention."""
    return f"{segment_network(segment)}.1.{vhid}"


class Process:
    """A program that a host runs. `pid` is the program itself, leader of its own session."""

    def __init__(self, popen: subprocess.Popen[bytes], argv: Sequence[str], log: Path | None):
        self.argv = tuple(argv)
        self.log = log
        self.pid = popen.pid
        self._popen = popen

    def __repr__(self) -> str:
        return f"<Process {self.pid} {self.argv[0]} exit={self._popen.returncode}>"

    @property
    def stdin(self) -> IO[bytes] | None:
        return self._popen.stdin

    def alive(self) -> bool:
        return self._popen.poll() is None

    def signal(self, number: int) -> None:
        """Sends a signal to the program; does nothing if it has ended."""
        self._popen.send_signal(number)

    def wait(self, deadline_s: float) -> int:
        """The exit code, negative for a signal. Raises LabTimeout if the program still runs."""
        try:
            return self._popen.wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise LabTimeout(
                f"not within {deadline_s:g} s: the end of {self.argv[0]} (process {self.pid})"
            ) from None

    def stop(self, deadline_s: float = KILL_DEADLINE_S) -> int:
        """Sends SIGTERM and returns the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(deadline_s)

    def kill(self) -> None:
        """Sends SIGKILL to the program and its process group; returns when the program is gone."""
        # Once the leader is reaped its number may belong to another group, so this is checked
        # first.
        if self._popen.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self.wait(KILL_DEADLINE_S)
        if self._popen.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._popen.stdin.close()

    def output(self) -> str:
        """The content of the log so far."""
        return self.log.read_text(errors="replace") if self.log else ""

    def cpu_ns(self) -> int:
        """CPU time of all living threads, ns: from the kernel's schedstat, or from the ticks of
        stat.
        """
        try:
            return _schedstat_ns(self.pid)
        except FileNotFoundError:
            if not Path(f"/proc/{self.pid}").exists():
                raise LabError(f"process {self.pid} ({self.argv[0]}) has ended") from None
            return _stat_ns(self.pid)

    def rss_bytes(self) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise LabError(f"process {self.pid} ({self.argv[0]}) has no memory: it has ended")


def _schedstat_ns(pid: int) -> int:
    total_ns = 0
    main = f"/proc/{pid}/task/{pid}/schedstat"
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            total_ns += int((task / "schedstat").read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            if task.name == str(pid):  # the leader: the kernel has none, or the process has ended
                raise FileNotFoundError(main) from None
    return total_ns


def _stat_ns(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


class Host:
    """One network namespace of a lab."""

    def __init__(self, lab: Lab, name: str, number: int):
        self.name = name
        self.number = number
        self.namespace = f"{lab.identity}-{name}"
        self.processes: list[Process] = []
        self._lab = lab
        self._own_addresses: dict[int, str] = {}

    def __repr__(self) -> str:
        return f"<Host {self.name} {self.namespace}>"

    def address(self, segment: int) -> str:
        """The host's own address on a segment, without prefix length."""
        default = f"{segment_network(segment)}.0.{self.number}"
        return self._own_addresses.get(segment, default)

    def set_address(self, segment: int, address: str) -> None:
        """Replaces the host's own address on a segment (no prefix length; /16)."""
        interface = interface_name(segment)
        old = self.address(segment)
        ip_batch(
            [  # in this order: removing a primary address removes its secondaries
                f"addr del {old}/16 dev {interface}",
                f"addr add {address}/16 brd + dev {interface}",
            ],
            self.namespace,
        )
        self._own_addresses[segment] = address

    def inside(self) -> contextlib.AbstractContextManager[None]:
        """Puts the calling thread into the host's namespace within the `with`, to open sockets."""
        return namespaces.inside(self.namespace)

    def start(
        self,
        argv: Sequence[str | Path],
        *,
        log: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
        cwd: Path | None = None,
    ) -> Process:
        """Starts a program here; its output is appended to `log`, or discarded.

        The child inherits the namespace of the thread that starts it, so there is no wrapper
        process: the pid is the program's own. Raises LabError if it cannot be started.
        """
        words = [str(word) for word in argv]
        with open(log or os.devnull, "ab") as output:
            popen = self._popen(
                words, stdin=stdin, stdout=output, stderr=subprocess.STDOUT, env=env, cwd=cwd
            )
        process = Process(popen, words, log)
        self.processes.append(process)
        return process

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        check: bool = True,
        deadline_s: float = 30.0,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a program here to its end. Raises LabError with its message if it failed and
        `check`.
        """
        words = [str(word) for word in argv]
        popen = self._popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            cwd=None,
        )
        with popen:
            try:
                out, err = popen.communicate(timeout=deadline_s)
            except BaseException as reason:
                popen.kill()
                if isinstance(reason, subprocess.TimeoutExpired):
                    raise LabTimeout(f"not within {deadline_s:g} s: {' '.join(words)}") from None
                raise
        done = subprocess.CompletedProcess(
            words, popen.returncode, out.decode(errors="replace"), err.decode(errors="replace")
        )
        if check and done.returncode:
            message = (done.stderr or done.stdout).strip()
            raise LabError(
                f"host {self.name}: {' '.join(words)}: exit code {done.returncode}: {message}"
            )
        return done

    def addresses(self) -> set[tuple[str, str]]:
        """Every IPv4 address as (interface, address without prefix length), those that local
        routes of carp-fast hold among them.
        """
        routes = json.loads(self.run(OUR_ROUTES.split()).stdout or "[]")
        links = json.loads(self.run(["ip", "-j", "-4", "addr", "show"]).stdout)
        return {(route["dev"], route["dst"]) for route in routes} | {
            (link["ifname"], entry["local"])
            for link in links
            for entry in link["addr_info"]
            if link["ifname"] != "lo"
        }

    def interfaces(self) -> set[str]:
        with self.inside():
            return {name for _, name in socket.if_nameindex()}

    def _popen(
        self,
        words: list[str],
        *,
        stdin: int,
        stdout: Any,
        stderr: int,
        env: Mapping[str, str] | None,
        cwd: Path | None,
    ) -> subprocess.Popen[bytes]:
        environment = dict(os.environ if env is None else env)
        environment[namespaces.MARK] = self._lab.identity
        with self.inside():
            try:
                return subprocess.Popen(
                    words,
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stderr,
                    env=environment,
                    cwd=cwd,
                    start_new_session=True,
                )
            except OSError as reason:
                raise LabError(
                    f"host {self.name}: cannot start {words[0]}: {reason.strerror}"
                ) from reason


class Lab(Closing):
    """Hosts and segments, created when the `with` begins and removed when it ends.

    veth     one pair per segment, its ends the interfaces; exactly two hosts
    macvlan  the interface is a macvlan over `p{k}`, so that only frames to joined MACs get
             through, as on a real card; two hosts are joined by a pair, more by a bridge
    bridge   one bridge per segment in a namespace of its own (`switch`: bridges b{k}, ports
             HOST-{k}), any number of hosts

    An exception, Ctrl-C, SIGTERM or SIGHUP removes everything, too; remains of a killed run are
    removed when the next lab is created. IPv6 is off by default, which keeps the wire quiet;
    `snooping` has the bridges prune groups that no host joined. `directory` is for logs and sockets
    and is removed with the lab. Raises LabError if the machine refuses something.
    """

    def __init__(
        self,
        name: str = "carp-fast-lab",
        hosts: Sequence[str] = ("a", "b"),
        segments: int = 4,
        medium: Medium = "veth",
        *,
        ipv6: bool = False,
        snooping: bool = False,
    ):
        if not _LAB_NAME.fullmatch(name):
            raise LabError(f"lab name {name!r}: letters, digits, - and _, at most 64")
        if not 1 <= segments <= MAX_SEGMENTS:
            raise LabError(f"{segments} segments: 1 to {MAX_SEGMENTS} are possible")
        if not 1 <= len(hosts) <= MAX_HOSTS or len(set(hosts)) != len(hosts):
            raise LabError(f"hosts {list(hosts)}: 1 to {MAX_HOSTS}, each named once")
        for host in hosts:
            if not _HOST_NAME.fullmatch(host) or host == SWITCH:
                raise LabError(f"host name {host!r}: a letter, then at most 7 letters or digits")
        if medium == "veth" and len(hosts) != 2:
            raise LabError(f"medium veth joins exactly two hosts, not {len(hosts)}: use bridge")
        self.segments = segments
        self.medium: Medium = medium
        self.identity = namespaces.new_identity(name)
        self.directory = namespaces.directory(self.identity)
        self.hosts = tuple(Host(self, host, n) for n, host in enumerate(hosts, 1))
        self._ipv6 = ipv6
        self._snooping = snooping
        self._switched = medium == "bridge" or len(hosts) != 2
        self.switch = Host(self, SWITCH, 0)
        self._record: IO[str] | None = None
        self._owner_pid = os.getpid()
        self._replaced_handlers: dict[int, Any] = {}

    def __getitem__(self, name: str) -> Host:
        for host in self.hosts:
            if host.name == name:
                return host
        raise KeyError(name)

    def __enter__(self) -> Self:
        namespaces.require_privilege()
        self._replace_handlers()
        try:
            self._record = namespaces.claim(self.identity, self._namespaces())
            atexit.register(self.close)
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Ends every process started here, removes the namespaces. A second call does nothing."""
        if os.getpid() != self._owner_pid:
            return  # a forked copy of the owner has nothing to remove
        atexit.unregister(self.close)
        try:
            with namespaces.signals_deferred():
                self._remove()
        finally:
            self._restore_handlers()

    def _remove(self) -> None:
        if self._record is None:
            return
        for process in [process for host in self._everyone() for process in host.processes]:
            try:
                process.kill()
            except LabTimeout as reason:
                _log.error("%s: %s", self.identity, reason)
        namespaces.release(self._record, self.identity, self._namespaces())
        self._record = None

    # Links. Segments count from 1.

    def set_link(self, host: str, segment: int, *, up: bool) -> None:
        """Sets the host's interface up or down, as an administrator would."""
        ip_batch([_set(interface_name(segment), up=up)], self[host].namespace)

    def set_carrier(self, host: str, segment: int, *, up: bool) -> None:
        """Removes or restores carrier at the far end of the host's cable.

        Without a bridge the far end is the other host's port, which goes down with it.
        """
        if self._switched:
            ip_batch([_set(f"{host}-{segment}", up=up)], self.switch.namespace)
        else:
            other = next(h for h in self.hosts if h.name != host)
            ip_batch([_set(self._port(segment), up=up)], other.namespace)

    def delete_interface(self, host: str, segment: int) -> None:
        """Deletes the host's interface. With medium veth the other end of the pair goes, too."""
        ip_batch([f"link del dev {interface_name(segment)}"], self[host].namespace)

    def recreate_interface(self, segment: int) -> None:
        """Creates what a segment lacks on any host, addresses included, and sets it up again."""
        missing = [h for h in self.hosts if interface_name(segment) not in h.interfaces()]
        portless = [h for h in missing if self._port(segment) not in h.interfaces()]
        ip_batch(self._cable_lines(segment, portless))
        if self._switched:
            ip_batch(
                [line for host in portless for line in self._switch_port_lines(segment, host)],
                self.switch.namespace,
            )
        for host in missing:
            ip_batch(self._interface_lines(segment, host), host.namespace)
        self._await_carrier(missing, [segment])

    def partition(self, segment: int, hosts: Iterable[str] | None = None) -> None:
        """Cuts these hosts (default: all) off a segment; their carrier stays up."""
        if self._switched:
            self._set_port_states(segment, hosts, "disabled")
            return
        for host in self.hosts:  # with two hosts, cutting off one cuts off both
            host.run(f"tc qdisc replace dev {self._port(segment)} root blackhole".split())

    def heal(self, segment: int, hosts: Iterable[str] | None = None) -> None:
        """Joins these hosts (default: all) to a partitioned segment again."""
        if self._switched:
            self._set_port_states(segment, hosts, "forwarding")
            return
        for host in self.hosts:
            host.run(f"tc qdisc del dev {self._port(segment)} root".split())

    def _set_port_states(self, segment: int, hosts: Iterable[str] | None, state: str) -> None:
        """Sets the state of bridge ports: a disabled port passes nothing and keeps its carrier."""
        number = {"disabled": 0, "forwarding": 3}[state]
        for name in [host.name for host in self.hosts] if hosts is None else hosts:
            self.switch.run(f"bridge link set dev {name}-{segment} state {number}".split())

    # Building.

    def _everyone(self) -> list[Host]:
        return [*self.hosts, self.switch] if self._switched else list(self.hosts)

    def _namespaces(self) -> list[str]:
        return [host.namespace for host in self._everyone()]

    def _port(self, segment: int) -> str:
        """The device at the end of the cable: the interface itself, or the one below a macvlan."""
        return f"p{segment}" if self.medium == "macvlan" else interface_name(segment)

    def _build(self) -> None:
        ip_batch([f"netns add {host.namespace}" for host in self._everyone()])
        for host in self._everyone():
            if not self._ipv6:
                _switch_ipv6_off(host)
            ip_batch([_set("lo", up=True)], host.namespace)
        numbers = range(1, self.segments + 1)
        if self._switched:
            snooping = SNOOPING if self._snooping else "mcast_snooping 0"
            kind = f"type bridge stp_state 0 forward_delay 0 {snooping}"
            bridges = [f"link add name b{k} {kind}" for k in numbers]
            bridges += [_set(f"b{k}", up=True) for k in numbers]
            if self._snooping:  # last: how long it waits was set before
                bridges += [f"link set dev b{k} type bridge mcast_querier 1" for k in numbers]
            ip_batch(bridges, self.switch.namespace)
        cables = [self._cable_lines(k, self.hosts, numbered=True) for k in numbers]
        ip_batch(list(chain.from_iterable(cables)))
        if self._switched:
            ports = [self._switch_port_lines(k, host) for k in numbers for host in self.hosts]
            ip_batch(list(chain.from_iterable(ports)), self.switch.namespace)
        for host in self.hosts:
            interfaces = [self._interface_lines(k, host) for k in numbers]
            ip_batch(list(chain.from_iterable(interfaces)), host.namespace)
        self._await_carrier(self.hosts, numbers)

    def _cable_lines(
        self, segment: int, hosts: Sequence[Host], *, numbered: bool = False
    ) -> list[str]:
        """The commands that create a cable; `numbered` gives its ends ifindexes that differ.

        If a link's own and peer ifindex are equal, as in fresh namespaces, the kernel reports its
        carrier up to a second late.
        """
        port = self._port(segment)
        index = {
            host: f"index {host.number * 2 * MAX_SEGMENTS + segment}" if numbered else ""
            for host in self.hosts
        }
        if self._switched:
            return [
                f"link add name {host.name}-{segment} netns {self.switch.namespace}"
                f" type veth peer name {port} netns {host.namespace} {index[host]}"
                for host in hosts
            ]
        if not hosts:
            return []
        one, other = self.hosts
        return [
            f"link add name {port} netns {one.namespace} {index[one]}"
            f" type veth peer name {port} netns {other.namespace} {index[other]}"
        ]

    def _switch_port_lines(self, segment: int, host: Host) -> list[str]:
        port = f"{host.name}-{segment}"
        return [f"link set dev {port} master b{segment}", _set(port, up=True)]

    def _interface_lines(self, segment: int, host: Host) -> list[str]:
        interface = interface_name(segment)
        lines = []
        if self.medium == "macvlan":
            under = self._port(segment)
            lines = [
                f"link add name {interface} link {under} type macvlan mode bridge",
                _set(under, up=True),
            ]
        return [
            *lines,
            f"addr add {host.address(segment)}/16 brd + dev {interface}",
            _set(interface, up=True),
        ]

    def _await_carrier(self, hosts: Iterable[Host], segments: Iterable[int]) -> None:
        """Waits until the kernel reports the interfaces as up: until then it drops frames."""
        wanted = {interface_name(k) for k in segments}
        for host in hosts:
            wait_for(
                partial(_all_running, host, wanted),
                CARRIER_DEADLINE_S,
                f"carrier on every interface of host {host.name}",
            )

    def _replace_handlers(self) -> None:
        """Has SIGTERM and SIGHUP unwind the stack, as Ctrl-C does, unless they have handlers."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                self._replaced_handlers[number] = signal.signal(number, _unwind)

    def _restore_handlers(self) -> None:
        for number, handler in self._replaced_handlers.items():
            signal.signal(number, handler)
        self._replaced_handlers.clear()


def _unwind(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _switch_ipv6_off(host: Host) -> None:
    with host.inside():
        for scope in ("all", "default"):
            knob = Path(f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6")
            if knob.exists():  # a kernel without IPv6 is quiet, too
                knob.write_text("1")


def _all_running(host: Host, wanted: set[str]) -> bool:
    links = json.loads(host.run(["ip", "-j", "link", "show"]).stdout)
    return wanted <= {link["ifname"] for link in links if link["operstate"] == "UP"}


def _set(device: str, *, up: bool) -> str:
    return f"link set dev {device} {'up' if up else 'down'}"
