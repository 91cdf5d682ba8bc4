"""Standard descriptors that are closed, or that nobody reads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
CARP_FAST = [sys.executable, "-m", "carp_fast"]
CONFIGURATION = """
[defaults]
passphrase = "k3Jx9QpL2mZt"
[[virtual_host]]
interface = "no-such-nic"
vhid = "1-255"
addresses = "10.1.1.{vhid}/32"
"""
SCRIPT = "ucarp -i eth0 -s 10.0.0.1 -v 1 -a 10.0.0.9 -p x\n"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "c.toml").write_text(CONFIGURATION)
    (tmp_path / "c.toml").chmod(0o600)
    (tmp_path / "script").write_text(SCRIPT)
    return tmp_path


COMMANDS = {
    "--help": 0,
    "--version": 0,
    "check --help": 0,
    "ucarp --help": 0,
    "check -c c.toml": 0,
    "import script": 0,
    f"dump -r {ROOT}/tests/vectors/netbsd-one-v4.pcap": 0,
    f"dump --json -r {ROOT}/tests/vectors/netbsd-one-v4.pcap": 0,
    "simulate --seed 1": 0,
    "secret encrypt --key key": 0,
    "status --control-socket none": 1,
    "events --control-socket none": 1,
    "watch --control-socket none": 1,
    "explain eth0 1 --control-socket none": 1,
    "reload --control-socket none": 1,
}


def run(
    directory: Path, arguments: str, *, stdout: int, wrapper: Sequence[str] = ()
) -> tuple[int, str]:
    """(exit code, stderr) of a command."""
    argv = [*wrapper, *CARP_FAST, *arguments.split()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        argv,
        cwd=directory,
        env=environment,
        input="secret\n",
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_whose_output_nobody_reads_ends_quietly(files: Path, command: str) -> None:
    assert run(files, "secret key key", stdout=subprocess.DEVNULL) == (0, "")
    reader, writer = os.pipe()
    os.close(reader)
    try:
        code, stderr = run(files, command, stdout=writer)
    finally:
        os.close(writer)
    plain, said = run(files, command, stdout=subprocess.DEVNULL)
    assert (code, plain) == (COMMANDS[command], COMMANDS[command])
    assert set(stderr.splitlines()) <= set(said.splitlines())


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_without_standard_output_ends_quietly(files: Path, command: str) -> None:
    assert run(files, "secret key key", stdout=subprocess.DEVNULL) == (0, "")
    wrapper = ["sh", "-c", 'exec "$@" >&-', "sh"]
    code, stderr = run(files, command, stdout=subprocess.DEVNULL, wrapper=wrapper)
    plain, said = run(files, command, stdout=subprocess.DEVNULL)
    assert (code, plain) == (COMMANDS[command], COMMANDS[command])
    assert set(stderr.splitlines()) <= set(said.splitlines())


SHOW = """
import os
from carp_fast.standard import open_missing
open_missing()
import sys
found = [os.readlink(f"/proc/self/fd/{fd}") for fd in (0, 1, 2)]
assert None not in (sys.stdin, sys.stdout, sys.stderr)
print("out"), print("err", file=sys.stderr), sys.stdin.read()
open(sys.argv[1], "w").write(" ".join(found))
"""


@pytest.mark.parametrize("closed", [c for c in product((False, True), repeat=3) if any(c)], ids=str)
def test_what_is_closed_is_opened_on_nothing(tmp_path: Path, closed: Sequence[bool]) -> None:
    redirections = ["<&-", ">&-", "2>&-"]
    words = " ".join(r for r, gone in zip(redirections, closed, strict=True) if gone)
    kept = tmp_path / "kept"
    kept.touch()
    out = tmp_path / "found"
    argv = ["sh", "-c", f'exec "$@" {words}', "sh", sys.executable, "-c", SHOW, str(out)]
    with kept.open("r+") as file:
        subprocess.run(argv, stdin=file, stdout=file, stderr=file, check=True, cwd=ROOT, timeout=60)
    assert out.read_text().split() == ["/dev/null" if gone else str(kept) for gone in closed]
