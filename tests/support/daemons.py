"""carp-fast as a test runs it: its configuration file written, its daemon started on a lab's host.

Holds the writer of configuration files and the handle of a running daemon, which waits for events
with deadlines.  It must not know what a test is about, nor the daemon's insides: it starts
`carp-fast run` as a user would and asks the control socket.
"""

from __future__ import annotations

import re
import sys
import time
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from carp_fast.control.client import ControlClient, ControlStream
from carp_fast.control.protocol import ControlError, ControlTimeout
from carp_fast.lab.lab import Host, Lab, Process, wait_for
from tests.support.paths import current

READY_DEADLINE_S = 60.0
STOP_DEADLINE_S = 15.0
LOG_TAIL_LINES = 20
PASSPHRASE = "interop-4Tz8Wq"

Which = tuple[str, int]  # (interface, vhid)


def write_configuration(
    directory: Path,
    name: str,
    virtual_hosts: Sequence[Mapping[str, Any]],
    *,
    defaults: Mapping[str, Any] | None = None,
    daemon: Mapping[str, Any] | None = None,
    tracks: Sequence[Mapping[str, Any]] = (),
) -> Path:
    """Writes `directory`/NAME.toml, readable by its owner only, and returns its path.

    Keys are those of the file itself; a value is a string, number, boolean, list or dict of them.
    Unless given: control socket NAME.sock and state directory NAME-state in `directory`, and the
    passphrase PASSPHRASE; with --paths also a combination of paths.  An existing file is
    replaced: for a reload.
    """
    paths = current()
    tables = [
        "[daemon]",
        *_lines(
            {
                "control_socket": str(directory / f"{name}.sock"),
                "state_directory": str(directory / f"{name}-state"),
                **(paths.daemon if paths else {}),
                **(daemon or {}),
            }
        ),
        "[defaults]",
        *_lines(
            {
                **({} if _names_passphrase(defaults or {}) else {"passphrase": PASSPHRASE}),
                **(paths.defaults if paths else {}),
                **(defaults or {}),
            }
        ),
    ]
    for table in virtual_hosts:
        tables += ["[[virtual_host]]", *_lines(table)]
    for track in tracks:
        tables += ["[[track]]", *_lines(track)]
    path = directory / f"{name}.toml"
    path.touch(mode=0o600)
    path.write_text("\n".join(tables) + "\n")
    return path


def _names_passphrase(table: Mapping[str, Any]) -> bool:
    return any(key.startswith("passphrase") for key in table)


def _lines(table: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {_value(value)}" for key, value in table.items()]


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(_lines(value)) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    # The strings, numbers and booleans of JSON are those of TOML.
    return msgspec.json.encode(str(value) if isinstance(value, Path) else value).decode()


def start_daemon(
    host: Host,
    configuration: Path,
    *,
    ready: bool = True,
    arguments: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    program: Sequence[str] = (sys.executable, "-m", "carp_fast"),
) -> RunningDaemon:
    """Starts `carp-fast run -c CONFIGURATION ARGUMENTS` on a host; its log: CONFIGURATION.log.

    `ready`: returns when it answers on its control socket, else at once.  The lab ends it.
    """
    log = configuration.with_suffix(".log")
    argv = [*program, "run", "-c", str(configuration), *arguments]
    running = RunningDaemon(host, configuration, host.start(argv, log=log, env=env))
    if ready:
        running.wait_ready()
    return running


class AskedDaemon:
    """A daemon on a host, as its control socket and its log show it.

    What is awaited in vain raises AssertionError with the log's end.
    """

    def __init__(self, host: Host, control_socket: Path) -> None:
        self.host = host
        self.control_socket = control_socket
        self.client = ControlClient(control_socket)

    # What it says.

    @property
    def log(self) -> str:
        """All that it, and its predecessors in its place, logged."""
        raise NotImplementedError

    def log_lines(self, pattern: str) -> list[str]:
        """The lines of the log that match the regular expression somewhere."""
        return [line for line in self.log.splitlines() if re.search(pattern, line)]

    def status(self, **wanted: Any) -> dict[str, Any]:
        """The status document; `wanted`: interface, vhid, state."""
        answer: dict[str, Any] = self.client.request("status", **wanted)["status"]
        return answer

    def virtual_host(self, interface: str, vhid: int) -> dict[str, Any]:
        """One virtual host of the status document."""
        (found,) = self.status(interface=interface, vhid=vhid)["virtual_hosts"]
        return dict(found)

    def counters(self, interface: str, vhid: int) -> dict[str, int]:
        return dict(self.virtual_host(interface, vhid)["counters"])

    def interface(self, name: str) -> dict[str, Any]:
        """One interface of the status document."""
        (found,) = [each for each in self.status()["interfaces"] if each["name"] == name]
        return dict(found)

    def states(self) -> dict[Which, str]:
        """The state of every virtual host."""
        hosts = self.status()["virtual_hosts"]
        return {(host["interface"], host["vhid"]): host["state"] for host in hosts}

    def summary(self) -> dict[str, int]:
        return dict(self.status(state="INIT")["summary"])

    def events(self) -> ControlStream[dict[str, Any]]:
        """A stream of events from now on; a context manager."""
        return self.client.stream("events")

    # What it is told.

    def reload(self, *, force: bool | None = None) -> dict[str, Any]:
        """Asks for a reload.  ControlError, with the faults, when it is refused."""
        return self.client.request("reload", force=force)

    # What is awaited.

    def wait_held(self, own: set[tuple[str, str]], count: int, deadline_s: float = 10.0) -> None:
        """Returns when the host has `count` addresses besides `own`, of MASTERs all."""
        self.wait_state("MASTER", deadline_s)
        wait_for(lambda: len(self.host.addresses() - own) == count, 10, f"{count} addresses")

    def wait_state(
        self, state: str, deadline_s: float, which: Iterable[Which] | None = None
    ) -> None:
        """Returns when these virtual hosts (default: all) are in `state` at the same time."""
        with self.events() as stream:
            documents = self.status()["virtual_hosts"]
            known = {(each["interface"], each["vhid"]): each for each in documents}
            wanted = set(known) if which is None else set(which)
            missing = {key for key in wanted if known[key]["state"] != state}
            end_at = time.monotonic() + deadline_s
            while missing:
                try:
                    event = stream.next_event(max(0.001, end_at - time.monotonic()))
                except (ControlTimeout, ControlError) as reason:
                    raise AssertionError(
                        self._tail(f"{sorted(missing)[:10]} not {state}: {reason}")
                    ) from None
                key = (event["interface"], event["vhid"])
                # An event may have been under way when the status was taken.
                if key not in wanted or event["at"] < known[key]["since"]:
                    continue
                (missing.discard if event["state"] == state else missing.add)(key)

    def wait_log(self, pattern: str, deadline_s: float, count: int = 1) -> list[str]:
        """Returns the lines that match as soon as there are `count` of them."""

        def logged() -> bool:
            return len(self.log_lines(pattern)) >= count

        wait_for(logged, deadline_s, f"{count} x {pattern!r} in the log of host {self.host.name}")
        return self.log_lines(pattern)

    def _tail(self, what: str) -> str:
        lines = self.log.splitlines()[-LOG_TAIL_LINES:]
        return "\n  ".join([f"host {self.host.name}: {what}; its log ends:", *lines])


class RunningDaemon(AskedDaemon):
    """One `carp-fast run`."""

    def __init__(self, host: Host, configuration: Path, process: Process) -> None:
        table = tomllib.loads(configuration.read_text())["daemon"]
        super().__init__(host, Path(table["control_socket"]))
        self.configuration = configuration
        self.process = process

    @property
    def log(self) -> str:
        return self.process.output()

    def stop(self, deadline_s: float = STOP_DEADLINE_S) -> int:
        """SIGTERM; returns the exit code."""
        return self.process.stop(deadline_s)

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        self.process.kill()

    def wait_ready(self, deadline_s: float = READY_DEADLINE_S) -> None:
        """Returns when it answers on its control socket."""

        def ready() -> bool:
            assert self.process.alive(), self._tail("the daemon ended")
            try:
                return bool(self.summary()["virtual_hosts"])
            except ControlError:
                return False

        wait_for(ready, deadline_s, f"an answer from the daemon of host {self.host.name}")


def start_preempting_pair(
    lab: Lab, directory: Path, count: int
) -> tuple[RunningDaemon, RunningDaemon]:
    """A master on host a and a backup on host b, which gives way whenever a is back.

    Vhids 1 to `count` on s1, each with the address 10.1.1.VHID.
    """
    table = {"interface": "s1", "vhid": f"1-{count}", "addresses": ["10.1.1.{vhid}/32"]}
    pair = []
    for name, advskew in (("a", 0), ("b", 100)):
        defaults = {"advskew": advskew, "preempt": True}
        path = write_configuration(directory, name, [table], defaults=defaults)
        pair.append(start_daemon(lab[name], path, ready=False))
    master, backup = pair
    master.wait_ready()
    master.wait_state("MASTER", 15)
    every = {("s1", f"10.1.1.{vhid}") for vhid in range(1, count + 1)}

    def has_all() -> bool:
        return {each for each in lab["a"].addresses() if each[1].startswith("10.1.1.")} == every

    wait_for(has_all, 10, "all addresses on host a")
    backup.wait_state("BACKUP", 10)
    return master, backup


def reasons(daemon: RunningDaemon) -> set[tuple[str, str]]:
    """The states that a daemon's virtual hosts are in, each with its reason."""
    return {(each["state"], each["reason"]) for each in daemon.status()["virtual_hosts"]}
