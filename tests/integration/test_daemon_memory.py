"""What of a passphrase can be read from a running daemon's memory, and who may read it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from carp_fast.config.model import MAX_VIRTUAL_HOSTS
from carp_fast.lab.lab import Host, Lab, Process, wait_for
from tests.support.daemons import start_daemon, write_configuration
from tests.support.memory import found_in, traces_of

pytestmark = [pytest.mark.root, pytest.mark.each_path(reason="what a process has in its memory")]

# Parts are joined when the test runs: no file of Python's has one of them whole.
FIRST, SECOND = (
    f"{word}-{'8kJ2x' * 2}-{number}".encode() for word, number in (("Tr0", 1), ("Qw", 2))
)
ALONE = {"dead_ratio": 1}
DEADLINE_S = 60.0
KEY_BYTES = 40  # two midstates of SHA-1
NOBODY = 65534


def table(**keys: Any) -> dict[str, Any]:
    return {"interface": "s1", "vhid": "1-3", "addresses": ["10.1.1.{vhid}/32"], **keys}


def secret(path: Path, passphrase: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(passphrase + b"\n")


def status_of(process: Process, field: str) -> str:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines)[field]


@pytest.mark.parametrize("key", ["passphrase_file", "passphrase_credential"])
def test_a_passphrase_from_a_file_is_nowhere_in_memory(
    key: str, lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, _ = lab_factory(segments=1).hosts
    secret(tmp_path / "word", FIRST)
    path = write_configuration(tmp_path, "a", [table(**{key: "word"})], defaults=ALONE)
    env = {**os.environ, "CREDENTIALS_DIRECTORY": str(tmp_path)}
    daemon = start_daemon(a, path, env=env)
    daemon.wait_state("MASTER", DEADLINE_S)
    assert found_in(daemon.process.pid, {"control": str(path).encode()})  # the search finds things
    assert found_in(daemon.process.pid, traces_of(FIRST)) == {}
    secret(tmp_path / "word", SECOND)
    assert "passphrase" in str(daemon.client.reload().changed)
    assert found_in(daemon.process.pid, traces_of(FIRST) | traces_of(SECOND)) == {}
    assert daemon.stop() == 0


def test_a_passphrase_from_ucarps_passfile_is_nowhere_in_memory(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, _ = lab_factory(segments=1).hosts
    secret(tmp_path / "word", FIRST)
    log = tmp_path / "log"
    words = f"ucarp -i s1 -s {a.address(1)} -v 1 -a 10.1.1.1 -r 1 -o {tmp_path}/word"
    process = a.start([sys.executable, "-m", "carp_fast", *words.split()], log=log)
    wait_for(lambda: "state: MASTER" in process.output(), DEADLINE_S, "MASTER")
    assert found_in(process.pid, {"control": str(tmp_path / "word").encode()})
    assert found_in(process.pid, traces_of(FIRST)) == {}


def core_files(host: Host, process: Process, directory: Path) -> list[Path]:
    process.signal(signal.SIGABRT)
    process.wait(DEADLINE_S)
    return [path for path in directory.iterdir() if "core" in path.name]


def test_the_daemon_leaves_no_core_file_and_its_hooks_neither(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    """As one that is started by hand, where no unit limits it."""
    a, _ = lab_factory(segments=1).hosts
    hook = tmp_path / "up"
    hook.write_text("#!/bin/sh\nulimit -c > $0.limit.new; mv $0.limit.new $0.limit\n")
    hook.chmod(0o755)
    path = write_configuration(tmp_path, "a", [table(up=str(hook))], defaults=ALONE)
    wrapper = ["sh", "-c", f'ulimit -c unlimited; cd {tmp_path}; exec "$@"', "sh"]
    daemon = start_daemon(a, path, program=[*wrapper, sys.executable, "-m", "carp_fast"])
    daemon.wait_state("MASTER", DEADLINE_S)
    limit = tmp_path / "up.limit"
    wait_for(limit.exists, DEADLINE_S, "the hook")
    assert limit.read_text() == "0\n"
    limits = Path(f"/proc/{daemon.process.pid}/limits").read_text().splitlines()
    [core] = [line.split()[4] for line in limits if line.startswith("Max core file size")]
    assert core == "0"
    assert core_files(a, daemon.process, tmp_path) == []


def test_a_core_file_would_hold_no_memory_and_least_of_all_keys(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    """If somebody raised its limits: root can, while it runs."""
    a, _ = lab_factory(segments=1).hosts
    daemon = start_daemon(a, write_configuration(tmp_path, "a", [table()], defaults=ALONE))
    process = Path(f"/proc/{daemon.process.pid}")
    assert int((process / "coredump_filter").read_text(), 16) == 0
    mappings = re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", (process / "smaps").read_text())
    without = [each for each in mappings if re.search(r"(?m)^VmFlags:.* dd\b", each)]
    sizes = re.findall(r"(?m)^Size: +(\d+) kB$", "".join(without))
    assert max(map(int, sizes)) * 1024 >= MAX_VIRTUAL_HOSTS * KEY_BYTES


def test_another_process_of_the_same_user_cannot_read_the_daemons_memory(
    lab_factory: Callable[..., Lab],
) -> None:
    """The daemon of an ordinary user with capabilities still works, with what it reads in /proc."""
    a, _ = lab_factory(segments=1).hosts
    as_nobody = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    able = ["--inh-caps", "+net_raw,+net_admin", "--ambient-caps", "+net_raw,+net_admin"]
    with TemporaryDirectory() as name:
        directory = Path(name)
        path = write_configuration(directory, "a", [table()], defaults=ALONE)
        for each in (path, directory):
            os.chown(each, NOBODY, NOBODY)
        program = [*as_nobody, *able, sys.executable, "-m", "carp_fast"]
        daemon = start_daemon(a, path, program=program)
        daemon.wait_state("MASTER", DEADLINE_S)
        assert status_of(daemon.process, "Uid").split()[1] == str(NOBODY)
        assert daemon.status()["daemon"]["helper"] is None  # there is nothing to keep apart
        wait_for(lambda: len(a.addresses()) == 4, DEADLINE_S, "three addresses")
        code = f"open('/proc/{daemon.process.pid}/mem', 'rb')"
        reading = [*as_nobody, sys.executable, "-c", code]
        done = subprocess.run(reading, capture_output=True, text=True, check=False)
        assert "PermissionError" in done.stderr
        assert daemon.client.reload().kept == 3
        assert daemon.stop() == 0
