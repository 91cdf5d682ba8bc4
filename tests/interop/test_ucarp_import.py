"""A hundred running ucarps become one `carp-fast run`, and the fail-over is the same.

Host a masters all, host b is backup of all.  Host a is killed twice: the first time host b runs a
hundred ucarps, the second time one carp-fast with what was imported from them.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from carp_fast.lab.lab import Host, Lab, Process, virtual_address, wait_for
from tests.support.daemons import start_daemon
from tests.support.dropin import need_ucarp, write_scripts

pytestmark = pytest.mark.root

VHIDS = range(1, 101)
ADVSKEW = {"a": 0, "b": 100}
MASTER_DOWN_S = 3 + 100 / 256
HOOK_SPREAD_S = 3.0  # 100 scripts, 16 at once
DEADLINE_S = 60.0
COMMAND = [sys.executable, "-m", "carp_fast"]


class Side:
    """A host, its scripts, and the ucarps that it runs."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.host: Host = lab[name]
        self.name = name
        self.scripts = lab.directory / f"scripts-{name}"
        write_scripts(self.scripts)
        self.ucarps: list[Process] = []

    def start(self) -> None:
        """A hundred ucarps, BACKUP from the first log line on."""
        self.ucarps = [
            self.host.start(
                [
                    *("ucarp", "-z", "-P", "-n", "-i", "s1", "-s", self.host.address(1)),
                    *("-v", str(vhid), "-p", "fixture", "-a", virtual_address(1, vhid)),
                    *("-k", str(ADVSKEW[self.name]), "-x", f"number {vhid}", "-f", "none"),
                    *("-u", str(self.scripts / "up"), "-d", str(self.scripts / "down")),
                ]
            )
            for vhid in VHIDS
        ]

    def kill(self) -> None:
        """All of them at once: none is waited for before the last one is told."""
        for ucarp in self.ucarps:
            ucarp.signal(signal.SIGKILL)

    def calls(self) -> list[tuple[float, str]]:
        """Scripts called so far: (UNIX time in s, "up IF ADDRESS XPARAM")."""
        lines = (self.scripts / "record").read_text().splitlines()
        return [(float(at), rest) for at, rest in (line.split(" ", 1) for line in lines)]

    def wait_ups(self, count: int) -> None:
        def ups() -> bool:
            return sum(words.startswith("up ") for _, words in self.calls()) >= count

        wait_for(ups, DEADLINE_S, f"{count} up scripts on host {self.name}")


def killed(a: Side, b: Side) -> tuple[list[str], float, float]:
    """Kills host a's ucarps: (what scripts host b called, when the first and the last, s)."""
    before = len(b.calls())
    at_s = time.time()
    a.kill()
    b.wait_ups(sum(words.startswith("up ") for _, words in b.calls()[:before]) + len(VHIDS))
    fresh = b.calls()[before:]
    return sorted(words for _, words in fresh), fresh[0][0] - at_s, fresh[-1][0] - at_s


def test_a_hundred_ucarps_become_one_daemon(
    lab_factory: Callable[..., Lab], program: Callable[[str], str], tmp_path: Path
) -> None:
    need_ucarp(program)
    lab = lab_factory("carp-fast-import", segments=1)
    a, b = Side(lab, "a"), Side(lab, "b")
    a.start()
    a.wait_ups(len(VHIDS))
    b.start()
    made = tmp_path / "made.toml"
    imported = b.host.run([*COMMAND, "import", "--running", "-o", made])
    assert (imported.stdout, imported.stderr) == ("", "")
    checked = b.host.run([*COMMAND, "check", "-c", made]).stdout
    assert checked.splitlines()[1].split()[:3] == ["s1", "up", str(len(VHIDS))]
    by_ucarps = killed(a, b)

    # Host a is back and preempts; then host b's ucarps give way to one carp-fast.
    before = sum(words.startswith("up ") for _, words in a.calls())
    a.start()
    a.wait_ups(before + len(VHIDS))
    for ucarp in b.ucarps:
        ucarp.stop()
    text = made.read_text().replace("[defaults]", _daemon(tmp_path) + "\n[defaults]")
    made.write_text(text)
    daemon = start_daemon(b.host, made)
    daemon.wait_state("BACKUP", DEADLINE_S)
    by_ours = killed(a, b)
    daemon.wait_state("MASTER", DEADLINE_S)
    for name, (_, first_s, last_s) in (("ucarp", by_ucarps), ("carp-fast", by_ours)):
        print(
            f"{name}: {len(VHIDS)} up scripts from {first_s:.2f} to {last_s:.2f} s after the kill"
        )
    assert by_ours[0] == by_ucarps[0]
    assert by_ours[0] == sorted(f"up s1 {virtual_address(1, v)} number {v}" for v in VHIDS)
    assert by_ours[2] <= MASTER_DOWN_S + HOOK_SPREAD_S
    assert daemon.stop() == 0


def _daemon(directory: Path) -> str:
    return (
        f'[daemon]\ncontrol_socket = "{directory}/control.sock"\n'
        f'state_directory = "{directory}/state"\n'
    )
