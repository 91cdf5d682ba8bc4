"""A master and a backup whose upgrades are watched: hooks, addresses, advertisements, processes.

Holds `Pair`, whose daemons can be killed or stopped at a point of an upgrade, see upgrade_points.
Must not know what a test is about.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from carp_fast import __version__
from carp_fast.control.protocol import ControlError
from carp_fast.lab.lab import Host, Lab, wait_for
from tests.support.daemons import RunningDaemon, start_daemon, write_configuration
from tests.support.programs import script
from tests.support.upgrade_points import ARMED

ROOT = Path(__file__).parent.parent.parent
PROGRAM = (sys.executable, "-m", "tests.support.upgrade_points")
ENDED_S = 20.0
# Of what the two processes do one after the other on a machine that is busy with other tests.
LATE_S = 3.0
MASTER_DOWN = {"advbase": 1, "dead_ratio": 3}


@contextlib.contextmanager
def upgrade_lab() -> Iterator[Lab]:
    """Hosts a and b on one segment; every process of theirs ends with it."""
    with Lab("carp-fast-upgrade", segments=1) as made:
        yield made
        for host in made.hosts:  # successors are not children of this process
            for pid in processes_of(host):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def processes_of(host: Host) -> list[int]:
    """The processes on a host."""
    argv = ["ip", "netns", "pids", host.namespace]
    listed = subprocess.run(argv, capture_output=True, text=True, check=True)
    return [int(pid) for pid in listed.stdout.split()]


class Pair:
    """A master on host a and a backup on host b; hooks write lines into `hooks`: vhid, state, uid.

    `user`: of both; `before`: words before their command lines; `defaults`: of both, and `backup`
    of the backup alone; `environment`: of the master, and so of its successors.
    """

    def __init__(
        self,
        lab: Lab,
        directory: Path,
        vhids: str = "1-3",
        *,
        user: str | None = None,
        before: Sequence[str] = (),
        backup: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.lab = lab
        self.directory = directory
        self.hooks = directory / "hooks"
        self.hooks.touch()
        self.armed = directory / "armed"
        body = f'echo "$CARP_VHID $CARP_STATE $(id -u)" >> {self.hooks}'
        hook = script(directory / "hook", body)
        self.vhids = vhids
        self.table: dict[str, Any] = {
            "interface": "s1",
            "vhid": vhids,
            "addresses": ["10.1.1.{vhid}/32"],
            "up": hook,
            "down": hook,
        }
        self.user = user
        self._before = before
        self._environment = {"PYTHONPATH": str(ROOT), ARMED: str(self.armed), **(environment or {})}
        self.write("a", advskew=0)
        self.write("b", advskew=100, **(backup or {}))
        self.master = self.started("a")
        self.master.wait_state("MASTER", 30)
        self.backup = self.started("b")
        self.backup.wait_state("BACKUP", 30)
        wait_for(lambda: self.hooks.read_text().count("MASTER") == self.count, 30, "the up hooks")

    @property
    def count(self) -> int:
        return int(self.vhids.partition("-")[2])

    def write(self, name: str, daemon: Mapping[str, Any] | None = None, **defaults: Any) -> Path:
        """Writes a configuration; `daemon`: more keys of [daemon], without those that are None."""
        keys = {
            "control_socket": str(self.directory / f"{name}-run" / "control.sock"),
            **({} if self.user is None else {"user": self.user}),
            **(daemon or {}),
        }
        return write_configuration(
            self.directory,
            name,
            [self.table],
            defaults={**MASTER_DOWN, **defaults},
            daemon={key: value for key, value in keys.items() if value is not None},
        )

    def started(self, name: str, *arguments: str) -> RunningDaemon:
        return start_daemon(
            self.lab[name],
            self.directory / f"{name}.toml",
            program=(*self._before, *PROGRAM),
            arguments=arguments,
            env=self._environment,
        )

    def start_again(self) -> None:
        """Starts the master that was killed; the other one is the master from now on."""
        killed, self.master = self.master, self.backup
        self.backup = self.started(killed.host.name)

    def arm(self, point: str, number: signal.Signals) -> None:
        """From now on whoever comes to this point of an upgrade gets this signal."""
        new = self.armed.with_suffix(".new")
        new.write_text(f"{int(number)} {point}")
        new.chmod(0o644)
        new.rename(self.armed)

    def disarm(self) -> None:
        self.armed.unlink()


def upgrade(daemon: RunningDaemon) -> dict[str, Any]:
    """Upgrades, and returns the status of the successor once it has reloaded."""
    done = daemon.client.upgrade()
    assert (done.version, done.from_version) == (__version__, __version__)
    return reloaded(daemon, done.pid)


def reloaded(daemon: RunningDaemon, pid: int) -> dict[str, Any]:
    """The status of this successor once it has reloaded."""
    found: list[dict[str, Any]] = []

    def has() -> bool:
        status = daemon.status()
        found[:] = [status]
        upgrades = status["daemon"]["upgrades"]
        return upgrades is not None and upgrades["reload"] is not None

    wait_for(has, ENDED_S, "the reload after the upgrade")
    assert found[0]["daemon"]["pid"] == pid
    return found[0]


def refused(daemon: RunningDaemon) -> ControlError:
    """Asks for an upgrade that is refused; the same process has the same states afterwards."""
    before = daemon.status()
    with pytest.raises(ControlError) as caught:
        daemon.client.upgrade()
    after = daemon.status()
    assert after["daemon"]["pid"] == before["daemon"]["pid"]
    states = [each["state"] for each in after["virtual_hosts"]]
    assert states == [each["state"] for each in before["virtual_hosts"]]
    return caught.value


def pid_of(daemon: RunningDaemon) -> int:
    return int(daemon.status()["daemon"]["pid"])


def held(host: Host) -> set[tuple[str, str]]:
    """The virtual addresses that a host has."""
    return {each for each in host.addresses() if each[1].startswith("10.1.1.")}


def apart_s(one: str, other: str) -> float:
    """How far two times of a status are apart."""
    first, second = (datetime.fromisoformat(each) for each in (one, other))
    return abs((first - second).total_seconds())


def gaps(frames: list[Any], source: str) -> float:
    """The longest time between two advertisements of a virtual host, in s."""
    last: dict[int, int] = {}
    longest = 0
    for frame in frames:
        if frame.source == source:
            longest = max(longest, frame.at_ns - last.get(frame.vhid, frame.at_ns))
            last[frame.vhid] = frame.at_ns
    return longest / 1e9
