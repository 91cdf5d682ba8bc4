"""Whole machines on a lab's hosts: own processes, own /etc and /run, ucarp in its place or ours.

Holds what every such machine is, processes in namespaces of their own that die together, and the
one that is booted by a script, for commands and init scripts.  It must not know what is run there.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from carp_fast.closing import Closing
from carp_fast.lab.lab import Host, LabError, LabTimeout, Process, wait_for

ROOT = Path(__file__).parents[2]
BOOT_DEADLINE_S = 30.0
DEATH_DEADLINE_S = 5.0

# Process 1 of the machine.  /etc is the host's with what is written over it; programs in BIN stand
# in for those of the same path.
_INIT = """
set -e
mount -t overlay -o lowerdir=/etc,upperdir=DIR/etc,workdir=DIR/work machine /etc
mount -t tmpfs machine /run
mkdir /run/network /run/lock
mount -t tmpfs machine /usr/local/bin
cp DIR/carp-fast /usr/local/bin/
cd DIR/programs
find . -type f | while read -r program; do mount --bind "$program" "/${program#./}"; done
cd /
touch DIR/booted
while :; do sleep 3600 & wait $!; done
"""
OURS = """#!{python}
import sys
sys.path.insert(0, "{root}")
from carp_fast.__main__ import main
main()
"""
_RECORDER = """#!/bin/bash
echo "$EPOCHREALTIME $*" >> "{record}"
exec {real} "$@"
"""


class Booted(Closing):
    """Process 1 and all it starts, in namespaces of their own on a host.

    `namespaces`: those besides the host's network, by their options of unshare(1).  A context
    manager; every process dies on leaving.
    """

    def __init__(self, host: Host, namespaces: Sequence[str]) -> None:
        self.host = host
        self.pid = 0  # process 1, as the host's other processes see it
        self._namespaces = [f"--{name}" for name in namespaces]
        self._process: Process | None = None
        self._first_fd = -1

    def close(self) -> None:
        self.die()

    def run(
        self, *argv: str, check: bool = True, deadline_s: float = 30.0
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end, as a user who is logged in there."""
        inside = ["nsenter", "--target", str(self.pid), *self._namespaces, "--"]
        return self.host.run([*inside, *argv], check=check, deadline_s=deadline_s)

    def die(self) -> None:
        """Kills every process there; returns when they are gone."""
        if self._process is None:
            return
        if self._first_fd >= 0:
            # The kernel kills all others with the first one, and only then lets its parent know.
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._first_fd, signal.SIGKILL)
            with contextlib.suppress(LabTimeout):
                self._process.wait(DEATH_DEADLINE_S)
        self._process.kill()
        self._gone()

    def wait_gone(self, deadline_s: float) -> None:
        """Returns when process 1 has ended by itself.  LabTimeout if it has not."""
        assert self._process is not None, "it was not booted"
        self._process.wait(deadline_s)
        self._gone()

    def _start(self, argv: Sequence[str], log: Path, booted: Callable[[], bool]) -> None:
        """Starts process 1 and returns as soon as `booted()`.  LabError with its log otherwise."""
        options = [*self._namespaces, "--fork", "--mount-proc", "--kill-child"]
        process = self._process = self.host.start(["unshare", *options, *argv], log=log)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

        def arrived() -> bool:
            if not process.alive():
                raise LabError(f"boot: exit code {process.wait(0)}")
            if self._first_fd < 0 and (first := children.read_text().split()):
                self.pid = int(first[0])
                self._first_fd = os.pidfd_open(self.pid)
            return self._first_fd >= 0 and booted()

        try:
            wait_for(arrived, BOOT_DEADLINE_S, "boot")
        except LabError as reason:
            self.die()
            raise LabError(f"host {self.host.name}: {reason}: {process.output()}") from None

    def _gone(self) -> None:
        self._process = None
        if self._first_fd >= 0:
            os.close(self._first_fd)
            self._first_fd = -1


class Machine(Booted):
    """A machine in the network namespace of a host.  `program`: what /usr/sbin/ucarp is there,
    "ucarp" or "carp-fast"; /usr/local/bin/carp-fast is on each.  A context manager; it dies on
    leaving.
    """

    def __init__(self, host: Host, directory: Path, program: str) -> None:
        super().__init__(host, ["mount", "pid"])
        self.directory = directory
        self.record = directory / "ifconfig.calls"
        for part in ("etc/init.d", "etc/default", "work", "programs/usr/sbin"):
            (directory / part).mkdir(parents=True)
        self.record.touch()
        real = directory / "real-ifconfig"
        real.write_bytes(Path("/usr/sbin/ifconfig").read_bytes())
        real.chmod(0o755)
        self.write(
            "programs/usr/sbin/ifconfig", _RECORDER.format(record=self.record, real=real), 0o755
        )
        text = OURS.format(python=sys.executable, root=ROOT)
        self.write("carp-fast", text, 0o755)
        if program != "ucarp":
            self.write("programs/usr/sbin/ucarp", text, 0o755)

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """A file of the machine, for example `etc/vip-up.sh`; before it is booted."""
        file = self.directory / path
        file.write_text(text)
        file.chmod(mode)

    def boot(self) -> None:
        """Returns when process 1 is ready."""
        booted = self.directory / "booted"
        booted.unlink(missing_ok=True)
        init = _INIT.replace("DIR", str(self.directory))
        self._start(["bash", "-c", init], self.directory / "init.log", booted.exists)

    def pids(self) -> list[str]:
        """The ucarps that run, by their numbers in the machine."""
        return self.run("pidof", "ucarp", check=False).stdout.split()

    def calls(self) -> list[tuple[float, str]]:
        """Each call of ifconfig: (UNIX time in s, arguments)."""
        found = [line.split(" ", 1) for line in self.record.read_text().splitlines()]
        return [(float(at), arguments) for at, arguments in found]
