"""A machine that systemd runs as process 1 on a lab's host, with the unit of contrib installed.

Holds the boot, systemctl and the journal as an administrator there uses them, and the daemon that
the unit runs.  It must not know what a test is about.

The machine's root is the host's, and what is written there is gone with it.  Of the host's units
only the journal is enabled, so that a boot takes about a second; /dev, /run, /tmp and the tree of
control groups are its own, and /sys and most of /proc/sys cannot be written.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from carp_fast.lab.lab import Host, LabError, LabTimeout, wait_for
from tests.support.daemons import AskedDaemon, write_configuration
from tests.support.machines import OURS, ROOT, Booted

SYSTEMD = Path("/usr/lib/systemd/systemd")
UNITS = ROOT / "contrib/systemd"
UNIT = "carp-fast.service"
THERE = Path("/opt/carp-fast")  # the checkout, on the machine
HOMES = ("/home", "/root")
CONFIGURATION_DIRECTORY = "etc/carp-fast"
CONTROL_SOCKET = "run/carp-fast/control.sock"
POWEROFF_DEADLINE_S = 30.0

# Process 1 until systemd takes its place:
#   bash -c INIT GROUP DIRECTORY THERE PROGRAM CHECKOUT SYSTEMD
# It prepares the root below DIRECTORY, on a file system in memory, with PROGRAM in /usr/bin and
# CHECKOUT at THERE.
_INIT = """
set -e
mount -t tmpfs machine "$1"
mkdir "$1"/{upper,work,root,cgroup}
mount -t cgroup2 machine "$1/cgroup"
mkdir "$1/cgroup/$0"
echo 0 > "$1/cgroup/$0/cgroup.procs"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" machine "$1/root"
cd "$1/root"

rm -rf etc/systemd/system etc/fstab usr/lib/systemd/system/*.wants usr/lib/systemd/system-generators
mkdir -p etc/systemd/system/{sysinit,sockets}.target.wants
units=usr/lib/systemd/system
ln -s "/$units/systemd-journald.service" etc/systemd/system/sysinit.target.wants
ln -s "/$units"/systemd-journald{,-dev-log}.socket etc/systemd/system/sockets.target.wants
printf '[Journal]\\nStorage=volatile\\nRateLimitBurst=0\\n' > etc/systemd/journald.conf
printf '%032x\\n' 1 > etc/machine-id
mkdir -p ".$2"
mount --bind "$4" ".$2"
cp "$3" usr/bin/carp-fast

mount -t proc proc proc
mount --bind proc/sys proc/sys
mount --bind proc/sys/net proc/sys/net
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 machine dev
for device in null zero full random urandom tty; do
    touch "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/shm dev/pts
mount -t devpts -o ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount -t tmpfs -o mode=755 machine run
mount -t tmpfs -o mode=1777 machine tmp

mkdir run/host
exec unshare --cgroup bash -c '
set -e
mount -t cgroup2 cgroup2 sys/fs/cgroup
pivot_root . run/host
cd /
umount --lazy /run/host
rmdir /run/host
mount --make-rshared /  # as systemd does where it is not in a container: credentials are mounts
exec env -i container=carp-fast PATH=/usr/sbin:/usr/bin:/sbin:/bin "$0" --unit=multi-user.target
' "$5"
"""
# bash -c FORGET GROUP DIRECTORY: removes the control groups of a machine that is gone, and those of
# tests that were killed.
_FORGET = """
set -e
mount -t cgroup2 machine "$1"
for group in "$1"/carp-fast-machine-*; do
    owner=${group##*/carp-fast-machine-}
    if [ "${group##*/}" = "$0" ] || [ ! -e "/proc/${owner%%-*}" ]; then
        find "$group" -depth -type d -exec rmdir {} + || [ ! -e "$group" ]
    fi
done
"""


def missing() -> str | None:
    """What this system lacks to run such a machine; None if nothing."""
    if not SYSTEMD.exists():
        return f"needs {SYSTEMD} (Debian package systemd)"
    if "\tcgroup2" not in Path("/proc/filesystems").read_text():
        return "needs a kernel with control groups, version 2 (cgroup2 in /proc/filesystems)"
    return None


class ManagedMachine(Booted):
    """systemd, with the network of a host.  `directory` is an empty one, for its files here.

    A context manager; on leaving it, every process is killed, and what was written there is gone.
    """

    def __init__(self, host: Host, directory: Path) -> None:
        super().__init__(host, ["mount", "pid", "ipc", "uts", "cgroup"])
        self.directory = directory
        self._group = f"carp-fast-machine-{os.getpid()}-{host.namespace}"

    @property
    def root(self) -> Path:
        """The machine's root, as this process reaches it."""
        return Path(f"/proc/{self.pid}/root")

    def boot(self) -> None:
        """Returns when systemd has started all that is enabled."""
        python = Path(sys.executable)
        if python.is_relative_to(ROOT):
            python = THERE / python.relative_to(ROOT)
        program = self.directory / "carp-fast"
        program.write_text(OURS.format(python=python, root=THERE))
        program.chmod(0o755)
        layers = self.directory / "layers"
        layers.mkdir(exist_ok=True)
        words = [self._group, layers, THERE, program, ROOT, SYSTEMD]
        argv = ["bash", "-c", _INIT, *map(str, words)]
        self._start(argv, self.directory / "boot.log", self._answers)
        # For systemctl the state of the system is also its exit code.
        state = self.systemctl("is-system-running", "--wait", check=False).stdout.strip()
        if state != "running":
            failed = self.systemctl("list-units", "--failed", "--plain", check=False).stdout
            raise LabError(f"host {self.host.name}: systemd is {state}: {failed}")

    def close(self) -> None:
        super().close()
        mounted = self.directory / "groups"
        mounted.mkdir(exist_ok=True)
        argv = ["unshare", "--mount", "bash", "-c", _FORGET, self._group, str(mounted)]
        self.host.run(argv)

    # Files.

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """A file of the machine, for example `etc/group`, with the directories on the way to it."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def configure(self, virtual_hosts: Sequence[Mapping[str, Any]], **tables: Any) -> Path:
        """Writes the configuration that the unit runs; see write_configuration()."""
        directory = self.root / CONFIGURATION_DIRECTORY
        directory.mkdir(parents=True, exist_ok=True)
        places = {"control_socket": f"/{CONTROL_SOCKET}", "state_directory": "/var/lib/carp-fast"}
        daemon = {**places, **tables.pop("daemon", {})}
        return write_configuration(directory, "carp-fast", virtual_hosts, daemon=daemon, **tables)

    def install(self, *drop_ins: str, **settings: str) -> None:
        """Installs the unit with these drop-in files of contrib; `settings`, of [Service], are what
        an administrator puts into one more.

        The unit runs /usr/bin/carp-fast, which is the checkout's.
        """
        if any(Path(sys.base_prefix).is_relative_to(home) for home in HOMES):
            settings = {"ProtectHome": "read-only", **settings}  # or it could not read Python
        system = self.root / "etc/systemd/system"
        shutil.copy(UNITS / UNIT, system)
        (system / f"{UNIT}.d").mkdir(exist_ok=True)
        for name in drop_ins:
            shutil.copy(UNITS / f"{UNIT}.d" / name, system / f"{UNIT}.d")
        if settings:
            lines = ["[Service]", *(f"{key}={value}" for key, value in settings.items())]
            self.write(f"etc/systemd/system/{UNIT}.d/local.conf", "\n".join(lines) + "\n")
        self.systemctl("daemon-reload")

    # Its manager.

    def systemctl(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs systemctl there.  LabError with the end of the journal if it fails and `check`."""
        done = self.run("systemctl", "--no-pager", *words, check=False, deadline_s=60)
        if check and done.returncode:
            end = self.run("journalctl", "--no-pager", "--lines=30", check=False).stdout
            raise LabError(f"host {self.host.name}: {' '.join(done.args)}: {done.stderr}\n{end}")
        return done

    def shown(self, *properties: str, unit: str = UNIT) -> list[str]:
        """The values of these properties of a unit."""
        lines = self.systemctl("show", unit, f"--property={','.join(properties)}").stdout
        values = dict(line.split("=", 1) for line in lines.splitlines())
        return [values[name] for name in properties]

    def main_pid(self) -> int:
        """The process that systemd has as the unit's main one, by its number there; 0: none."""
        (pid,) = self.shown("MainPID")
        return int(pid)

    def wait_shown(self, wanted: Mapping[str, str], deadline_s: float, unit: str = UNIT) -> None:
        """Returns when the properties of a unit have these values."""

        def reached() -> bool:
            return self.shown(*wanted, unit=unit) == list(wanted.values())

        try:
            wait_for(reached, deadline_s, f"{wanted} of {unit}")
        except LabTimeout as reason:
            found = self.systemctl("status", "--lines=30", unit, check=False).stdout
            raise LabError(f"host {self.host.name}: {reason}; {found}") from None

    def journal(self, unit: str = UNIT) -> list[dict[str, Any]]:
        """What the journal has from the processes of a unit and about it, oldest first."""
        self.run("journalctl", "--sync")
        found = self.run("journalctl", "--unit", unit, "--output=json", "--no-pager").stdout
        return [json.loads(line) for line in found.splitlines()]

    def poweroff(self) -> None:
        """Powers the machine off; returns when it is."""
        self.systemctl("poweroff")
        self.wait_gone(POWEROFF_DEADLINE_S)

    def _answers(self) -> bool:
        # Before the roots were exchanged, the socket is one of the host's own systemd.
        there = (self.root / str(THERE).lstrip("/") / "ARCHITECTURE.md").exists()
        return there and (self.root / "run/systemd/private").exists()


class ManagedDaemon(AskedDaemon):
    """The daemon of the unit; its log is the journal's."""

    def __init__(self, machine: ManagedMachine) -> None:
        super().__init__(machine.host, machine.root / CONTROL_SOCKET)
        self.machine = machine

    @property
    def log(self) -> str:
        entries = self.machine.journal()
        return "\n".join(str(entry["MESSAGE"]) for entry in entries if entry["_PID"] != "1")
