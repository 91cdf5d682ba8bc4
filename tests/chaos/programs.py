"""The programs under test: carp-fast, ucarp and keepalived, each started for the same addresses.

Holds how each is configured, started and killed on a host of a lab. Must not know the cases.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from carp_fast.lab.lab import Host, Process, interface_name, segment_network, wait_for
from carp_fast.lab.observer import Key
from tests.support.daemons import RunningDaemon, start_daemon, write_configuration
from tests.support.pairs import start_keepalived, start_ucarp

STOP_DEADLINE_S = 15.0
READY_DEADLINE_S = 30.0
# VRRP waits 3 intervals + (256 - priority) / 256 s, so that these wait as long as our advskews.
PRIORITY = {"a": 254, "b": 156, "c": 56}


@dataclass(frozen=True)
class Tempo:
    """The advertisement intervals of the hosts of a world, by name."""

    advbase: int = 1
    advskew: Mapping[str, int] = field(default_factory=lambda: {"a": 0, "b": 100, "c": 200})
    dead_ratio: int = 3

    def interval_s(self, host: str) -> float:
        return self.advbase + self.advskew[host] / 256

    def master_down_s(self, host: str) -> float:
        skew_s = self.advskew[host] / 256
        return self.dead_ratio * (self.advbase or skew_s) + (skew_s if self.advbase else 0)


SECOND = Tempo()
QUICK = Tempo(0, {"a": 32, "b": 64, "c": 96})


class Program(ABC):
    """One program with all its processes on one host."""

    def __init__(self, host: Host) -> None:
        self.host = host

    @property
    @abstractmethod
    def processes(self) -> Sequence[Process]: ...

    def wait_ready(self) -> None:
        """Returns when it takes part."""
        assert all(process.alive() for process in self.processes), self.log()

    def signal(self, number: int) -> None:
        """Sends a signal to every process of it, its children included."""
        for process in self.processes:
            if process.alive():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)

    def kill(self) -> None:
        for process in self.processes:
            process.kill()

    def terminate(self) -> None:
        """SIGTERM to each process; does not wait."""
        for process in self.processes:
            process.signal(signal.SIGTERM)

    def wait_ended(self) -> list[int]:
        """The exit codes."""
        return [process.wait(STOP_DEADLINE_S) for process in self.processes]

    def alive(self) -> bool:
        return any(process.alive() for process in self.processes)

    def log(self) -> str:
        return "".join(process.output() for process in self.processes)


class CarpFast(Program):
    """`carp-fast run` with a table for each segment, or those given."""

    def __init__(
        self,
        host: Host,
        directory: Path,
        tempo: Tempo,
        tables: Sequence[Mapping[str, Any]],
        *,
        defaults: Mapping[str, Any] | None = None,
        daemon: Mapping[str, Any] | None = None,
        before: Sequence[str | Path] = (),
        env: Mapping[str, str] | None = None,
        arguments: Sequence[str] = (),
        checkout: Path | None = None,
    ) -> None:
        super().__init__(host)
        self.tables = list(tables)
        self.defaults = {
            "advbase": tempo.advbase,
            "advskew": tempo.advskew[host.name],
            "dead_ratio": tempo.dead_ratio,
            **(defaults or {}),
        }
        self.settings = dict(daemon or {})
        self._directory = directory
        self.configuration = self.write()
        program = [*map(str, before), sys.executable, "-m", "carp_fast"]
        if checkout is not None:
            python = checkout / ".venv/bin/python"
            program = [*map(str, before), "env", "-C", str(checkout), str(python), *program[-2:]]
        self.daemon: RunningDaemon = start_daemon(
            host, self.configuration, ready=False, program=program, env=env, arguments=arguments
        )

    def write(self, tables: Sequence[Mapping[str, Any]] | None = None) -> Path:
        """Writes the configuration, with other tables where given, for a reload."""
        return write_configuration(
            self._directory,
            self.host.name,
            self.tables if tables is None else tables,
            defaults=self.defaults,
            daemon=self.settings,
        )

    @property
    def processes(self) -> Sequence[Process]:
        return [self.daemon.process]

    def wait_ready(self) -> None:
        self.daemon.wait_ready(READY_DEADLINE_S)

    def masters(self) -> set[Key]:
        """The virtual hosts that it reports as MASTER."""
        found = self.daemon.status(state="MASTER")["virtual_hosts"]
        return {Key(int(each["interface"][1:]), each["vhid"]) for each in found}


class Ucarps(Program):
    """One ucarp for each virtual host."""

    def __init__(
        self, host: Host, directory: Path, tempo: Tempo, keys: Sequence[Key], *, preempt: bool
    ) -> None:
        super().__init__(host)
        self.ucarps = [
            start_ucarp(
                host,
                directory,
                key.segment,
                key.vhid,
                advskew=tempo.advskew[host.name],
                preempt=preempt,
                arguments=["--advbase", str(tempo.advbase), "--deadratio", str(tempo.dead_ratio)],
            )
            for key in keys
        ]

    @property
    def processes(self) -> Sequence[Process]:
        return [ucarp.process for ucarp in self.ucarps]


class Keepalived(Program):
    """One keepalived with an instance for each virtual host, VRRP version 2, as in its manual."""

    def __init__(self, host: Host, directory: Path, keys: Sequence[Key], *, preempt: bool) -> None:
        super().__init__(host)
        path = "".join(self._instance(key, preempt=preempt) for key in keys)
        self._process = start_keepalived(host, directory, path)

    def _instance(self, key: Key, *, preempt: bool) -> str:
        address = f"{segment_network(key.segment)}.1.{key.vhid}/32"
        return f"""
vrrp_instance S{key.segment}V{key.vhid} {{
  state BACKUP
  {"" if preempt else "nopreempt"}
  interface {interface_name(key.segment)}
  virtual_router_id {key.vhid}
  priority {PRIORITY[self.host.name]}
  advert_int 1
  virtual_ipaddress {{
    {address}
  }}
}}
"""

    @property
    def processes(self) -> Sequence[Process]:
        return [self._process]

    def wait_ready(self) -> None:
        wait_for(lambda: "Entering BACKUP" in self.log(), READY_DEADLINE_S, "keepalived BACKUP")
        super().wait_ready()
