"""Whole machines on a lab's hosts: own processes, own /etc and /run, ucarp in its place or ours.

Holds a machine that is booted, runs commands and init scripts, and dies with everything on it.  It
must not know what is run there.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from carp_fast.closing import Closing
from carp_fast.lab.lab import Host, Process, wait_for

ROOT = Path(__file__).parents[2]
BOOT_DEADLINE_S = 10.0

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
_OURS = """#!{python}
import sys
sys.path.insert(0, "{root}")
from carp_fast.__main__ import main
main()
"""
_RECORDER = """#!/bin/bash
echo "$EPOCHREALTIME $*" >> "{record}"
exec {real} "$@"
"""


class Machine(Closing):
    """A machine in the network namespace of a host.  `program`: what /usr/sbin/ucarp is there,
    "ucarp" or "carp-fast"; /usr/local/bin/carp-fast is on each.  A context manager; it dies on
    leaving.
    """

    def __init__(self, host: Host, directory: Path, program: str) -> None:
        self.host = host
        self.directory = directory
        self.record = directory / "ifconfig.calls"
        self._process: Process | None = None
        self._pid = 0
        for part in ("etc/init.d", "etc/default", "work", "programs/usr/sbin"):
            (directory / part).mkdir(parents=True)
        self.record.touch()
        real = directory / "real-ifconfig"
        real.write_bytes(Path("/usr/sbin/ifconfig").read_bytes())
        real.chmod(0o755)
        self.write(
            "programs/usr/sbin/ifconfig", _RECORDER.format(record=self.record, real=real), 0o755
        )
        text = _OURS.format(python=sys.executable, root=ROOT)
        self.write("carp-fast", text, 0o755)
        if program != "ucarp":
            self.write("programs/usr/sbin/ucarp", text, 0o755)

    def close(self) -> None:
        self.die()

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
        argv = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "bash"]
        process = self.host.start([*argv, "-c", init], log=self.directory / "init.log")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        wait_for(booted.exists, BOOT_DEADLINE_S, f"boot: {process.output()}")
        self._pid = int(children.read_text().split()[0])
        self._process = process

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end, like somebody logged in there."""
        inside = ["nsenter", "--target", str(self._pid), "--mount", "--pid", "--"]
        return self.host.run([*inside, *argv], check=check)

    def pids(self) -> list[str]:
        """The ucarps that run, by their numbers in the machine."""
        return self.run("pidof", "ucarp", check=False).stdout.split()

    def calls(self) -> list[tuple[float, str]]:
        """Each call of ifconfig: (UNIX time in s, arguments)."""
        found = [line.split(" ", 1) for line in self.record.read_text().splitlines()]
        return [(float(at), arguments) for at, arguments in found]

    def die(self) -> None:
        """Every process there is killed."""
        if self._process is not None:
            self._process.kill()
            self._process = None
