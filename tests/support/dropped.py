"""Daemons of root that become another user: which user, and what they need of a test's machine.

Must not know what a daemon does as that user.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

from carp_fast.capabilities import Capability
from carp_fast.daemon.user import USUAL_USER

USER = pwd.getpwnam("daemon")  # of every distribution; it has nothing
EVERYTHING = {
    Capability.NET_RAW,
    Capability.NET_ADMIN,
    Capability.SYS_NICE,
    Capability.BPF,
}


def public_python() -> list[str]:
    """The words before a command of root by which Python is readable for every user.

    Where only root may enter a directory on the way to it, as /root, the command gets an empty one
    in its place, in a mount namespace of its own, which has nothing but Python.
    """
    needed = Path(sys.base_prefix)
    private = [each for each in reversed(needed.parents) if not each.stat().st_mode & 0o001]
    if not private:
        return []
    place, kept = shlex.quote(str(private[0])), shlex.quote(str(needed))
    script = f"""
    set -e
    mount --make-rprivate /
    mount --bind {kept} /mnt
    mount -t tmpfs -o mode=0755 public {place}
    mkdir -p {kept}
    mount --move /mnt {kept}
    exec "$@"
    """
    return ["unshare", "--mount", "sh", "-c", script, "sh"]


def with_usual_user(directory: Path) -> list[str]:
    """The words before a command of root by which this host has a user carp-fast: USER's numbers.

    /etc/passwd is another one in a mount namespace of its own.
    """
    passwd = directory / "passwd"
    line = f"{USUAL_USER}:x:{USER.pw_uid}:{USER.pw_gid}::/nonexistent:/usr/sbin/nologin\n"
    passwd.write_text(line + Path("/etc/passwd").read_text())  # the first name of a number counts
    passwd.chmod(0o644)
    script = f"""
    set -e
    mount --make-rprivate /
    mount --bind {shlex.quote(str(passwd))} /etc/passwd
    exec "$@"
    """
    return ["unshare", "--mount", "sh", "-c", script, "sh"]


def statuses(pid: int | str) -> list[dict[str, str]]:
    """The fields of /proc/PID/task/*/status, of each thread."""
    return [
        dict(re.findall(r"(?m)^(\w+):\s*(.*?)\s*$", (task / "status").read_text()))
        for task in Path(f"/proc/{pid}/task").iterdir()
    ]


def bits(capabilities: Iterable[int]) -> str:
    """Capabilities as /proc/PID/status shows them."""
    return f"{sum(1 << each for each in capabilities):016x}"


def assert_dropped(pid: int, capabilities: Iterable[int], groups: Iterable[int]) -> None:
    """Fails unless every thread is USER, with these capabilities and groups and no more."""
    expected = {
        "Uid": "\t".join([str(USER.pw_uid)] * 4),
        "Gid": "\t".join([str(USER.pw_gid)] * 4),
        "Groups": " ".join(map(str, sorted(groups))),
        "CapInh": bits([]),
        "CapPrm": bits(capabilities),
        "CapEff": bits(capabilities),
        "CapBnd": bits(capabilities),
        "CapAmb": bits([]),
        "NoNewPrivs": "1",
    }
    for found in statuses(pid):
        assert {key: found[key] for key in expected} == expected
    assert os.stat(f"/proc/{pid}/maps").st_uid == 0  # noqa: PTH116 (not dumpable: root's)
