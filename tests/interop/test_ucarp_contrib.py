"""What lies in contrib/: scripts that a shell can read, units that systemd accepts, and the hook of
ifupdown, Debian's own with carp-fast in ucarp's place and ours in its place.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from carp_fast.lab.lab import Lab, wait_for
from tests.support.dropin import need_ucarp
from tests.support.machines import ROOT, Machine

CONTRIB = ROOT / "contrib"
SCRIPTS = sorted(
    path for path in CONTRIB.rglob("*") if path.is_file() and path.read_text().startswith("#!")
)
UNITS = sorted(CONTRIB.rglob("*.service"))
EXPOSURE_MAX = 2.6
DEADLINE_S = 60.0
INTERFACES = """
iface s1 inet static
    address 10.1.0.1/16
    ucarp-vid 3
    ucarp-vip 10.1.9.9
    ucarp-password 16charsatmost
    ucarp-advskew 1
    ucarp-master yes
    ucarp-nomcast no
iface s1:ucarp inet static
    address 10.1.9.9/32
"""


@pytest.mark.parametrize("shell", ["sh", "dash", "bash"])
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_one_and_can_be_run(script: Path, shell: str) -> None:
    assert script.stat().st_mode & 0o111
    if shutil.which(shell) is None:
        pytest.skip(f"needs the program {shell}")
    subprocess.run([shell, "-n", script], check=True, timeout=DEADLINE_S)


def analyze(*arguments: str | Path) -> str:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("needs the program systemd-analyze (Debian package systemd)")
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_finds_no_fault(unit: Path, tmp_path: Path) -> None:
    """All but what is not installed here: the program and its manual page."""
    program = shutil.which("true")
    text = re.sub(r"/usr/bin/carp-fast\b", f"{program}", unit.read_text())
    copy = tmp_path / unit.name
    copy.write_text(re.sub(r"^Documentation=.*\n", "", text, flags=re.MULTILINE))
    assert analyze("verify", "--man=no", copy) == ""


def exposure_of(unit: Path, directory: Path, more: str = "") -> tuple[float, set[str]]:
    """What systemd-analyze gives a unit in all, and what it marks with a cross.

    `more`: a drop-in file. The unit is analyzed in a directory without others.
    """
    copy = directory / unit.name
    copy.write_text(f"{unit.read_text()}\n{more}")
    said = analyze("security", "--offline=true", "--no-pager", copy)
    [score] = re.findall(r"Overall exposure level for \S+: ([\d.]+)", said)
    return float(score), set(re.findall(r"(?m)^\u2717 (\S+)", said))


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_how_exposed_a_unit_is(unit: Path, tmp_path: Path) -> None:
    score, _ = exposure_of(unit, tmp_path)
    assert score <= EXPOSURE_MAX


def test_each_cross_of_a_unit_has_its_reason_in_the_documentation(tmp_path: Path) -> None:
    """That of the drop-in file for a daemon without root, too."""
    page = (ROOT / "docs" / "security.md").read_text().partition("## The unit's remaining crosses")
    documented = {each.replace("\\|", "|") for each in re.findall(r"(?m)^\| `(\S+)` \|", page[2])}
    found: set[str] = set()
    for unit in UNITS:
        found |= exposure_of(unit, tmp_path)[1]
        drop_in = unit.with_name(f"{unit.name}.d") / "user.conf"
        if drop_in.exists():
            found |= exposure_of(unit, tmp_path, drop_in.read_text())[1]
    assert found == documented


@pytest.mark.root
@pytest.mark.parametrize("whose", ["Debian's hook", "our hook"])
def test_ifup_brings_the_address_and_ifdown_takes_it(
    lab_factory: Callable[..., Lab], program: Callable[[str], str], whose: str, tmp_path: Path
) -> None:
    """An interface with ucarp-* lines comes up: the address follows, and goes with the daemon."""
    need_ucarp(program)
    if shutil.which("ifup") is None:
        pytest.skip("needs the program ifup (Debian package ifupdown)")
    lab = lab_factory("carp-fast-ifup", segments=1)
    host = lab["a"]
    with Machine(host, tmp_path / "machine", "carp-fast") as machine:
        machine.boot()
        interfaces = tmp_path / "interfaces"
        interfaces.write_text(INTERFACES)
        machine.run("cp", str(interfaces), "/etc/network/interfaces")
        if whose == "our hook":
            machine.run("rm", "/etc/network/if-up.d/ucarp")
            hook = CONTRIB / "ifupdown/carp-fast"
            machine.run("cp", str(hook), "/etc/network/if-up.d/carp-fast")
        machine.run("ip", "addr", "flush", "dev", "s1")
        machine.run("ifup", "s1")
        wait_for(lambda: ("s1", "10.1.9.9") in host.addresses(), 10, "the virtual address")
        [pid] = machine.pids()
        command = machine.run("cat", f"/proc/{pid}/cmdline").stdout
        assert "16charsatmost" not in command
        assert "-P" in command.split("\0")
        assert "-M" not in command.split("\0")
        if whose == "our hook":
            machine.run("ifup", "--force", "s1", check=False)
            assert machine.pids() == [pid]
        machine.run("kill", pid)
        wait_for(lambda: ("s1", "10.1.9.9") not in host.addresses(), 10, "the address gone")
        wait_for(lambda: machine.pids() == [], 10, "its end")
