"""A start that fails, at each of its steps: nothing is left behind, and who rose meanwhile resigns.

Steps before the pump runs touch no address. Later ones are made to fail only once every virtual
host has become MASTER, as happens where master-down times are short or the machine is slow.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from carp_fast.lab.lab import Host, Lab, wait_for
from tests.support.daemons import start_daemon, write_configuration
from tests.support.recording import AddressChanges, Recording

pytestmark = [pytest.mark.root, pytest.mark.each_path(reason="each path is closed, whatever fails")]

VHIDS = 255
# MASTER within 1/256 s where nobody else advertises.
AT_ONCE = {"advbase": 0, "advskew": 1, "dead_ratio": 1}
DEADLINE_S = 60.0
# Runs `carp-fast` with one step of the start replaced: it waits until so many addresses are there,
# and fails.
PROGRAM = rf"""
import asyncio, errno, os, re, sys, time
from carp_fast.cli.main import main
from carp_fast.daemon import daemon, opened
from carp_fast.daemon.orders import ORDERS_A_BATCH

WHERE, WANTED = sys.argv.pop(1), {VHIDS}
# What is delivered to this host, be it an address of an interface or a local route.
LOCAL = re.compile(r"-- (10\.1\.1\.\d+)\n\s+/32 host LOCAL")
EXCEPTIONS = {{
    "links": OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
    "ready": RuntimeError("ready"),
    "watchdog": ValueError("watchdog"),
    "freeze": MemoryError("freeze"),
    "adding": RuntimeError("adding"),
    "added": RuntimeError("added"),
    "exit": SystemExit(7),
}}

def waiting():
    end_at = time.monotonic() + 10
    while len(set(LOCAL.findall(open("/proc/net/fib_trie").read()))) < WANTED:
        if time.monotonic() > end_at:
            sys.exit("no addresses")
        yield 0.001

def fail():
    for pause_s in waiting():
        time.sleep(pause_s)
    raise EXCEPTIONS[WHERE]

if WHERE == "links":
    opened.LinkMonitor.start = lambda self, known=None: fail()
elif WHERE in ("ready", "exit"):
    daemon.Systemd.ready = lambda self, status="": fail()
elif WHERE == "watchdog":
    daemon.Systemd.watchdog_interval_s = lambda self: fail()
elif WHERE == "freeze":
    daemon.gc.freeze = lambda: fail()
elif WHERE == "added":
    give = opened.Orders.give
    async def give_and_fail(self, orders):
        await give(self, orders)
        for pause_s in waiting():
            await asyncio.sleep(pause_s)
        fail()
    opened.Orders.give = give_and_fail
elif WHERE == "adding":
    prepare, prepared = opened.Hosts.prepare, []
    # The first batch of orders runs, and the next one is never given.
    def prepare_some(self, host, **keys):
        prepared.append(host)
        return prepare(self, host, **keys) if len(prepared) <= ORDERS_A_BATCH else fail()
    opened.Hosts.prepare = prepare_some
main()
"""


def table(vhids: str = f"1-{VHIDS}", **keys: Any) -> dict[str, Any]:
    return {"interface": "s1", "vhid": vhids, "addresses": ["10.1.1.{vhid}/32"], **keys}


def run(host: Host, path: Path, *arguments: str, program: tuple[str, ...] = ()) -> tuple[int, str]:
    """What `carp-fast run` ends with by itself: its exit code and its stderr."""
    argv = [*(program or (sys.executable, "-m", "carp_fast")), "run", "-c", str(path), *arguments]
    done = host.run(argv, check=False, deadline_s=DEADLINE_S)
    return done.returncode, done.stderr


# In the loop the pump cannot run while a step blocks it: there one that does not has to fail.
THREAD = ("links", "ready", "watchdog", "freeze", "adding", "added", "exit")


@pytest.mark.parametrize(
    ("where", "pump"), [*((where, "thread") for where in THREAD), ("added", "loop")]
)
def test_a_late_failure_leaves_no_address_and_every_master_resigns(
    lab_factory: Callable[..., Lab], tmp_path: Path, where: str, pump: str
) -> None:
    a, _ = lab_factory(segments=1).hosts
    tables = [table()]
    if where == "adding":
        tables.append(table(interface="missing[1-2]", addresses=["10.2.{number}.{vhid}/32"]))
    path = write_configuration(tmp_path, "a", tables, defaults=AT_ONCE, daemon={"pump": pump})
    own = a.addresses()
    with Recording(a) as recording:
        code, stderr = run(a, path, program=(sys.executable, "-c", PROGRAM, where))

        def resigned() -> set[int]:
            return {frame.vhid for frame in recording.frames() if frame.resigned}

        wait_for(lambda: len(resigned()) == VHIDS, 10, f"{VHIDS} resignations")
    assert code == (7 if where == "exit" else 1), stderr
    assert "no addresses" not in stderr
    assert a.addresses() == own
    assert not path.with_suffix(".sock").exists()
    if where == "links":
        assert stderr.splitlines()[-1] == "carp-fast: cannot follow links: Too many open files"
        assert "Traceback" not in stderr


def early(directory: Path, what: str) -> tuple[Path, tuple[str, ...], str]:
    """A configuration that fails early, the arguments of `run`, and what it is refused with."""
    blocked = directory / "blocked"
    blocked.write_text("a file where a directory should be")
    keys: dict[str, Any] = {}
    daemon: dict[str, Any] = {}
    arguments: tuple[str, ...] = ()
    text = "Not a directory"
    if what == "pid file":
        arguments = ("--pid-file", str(blocked / "pid"))
    elif what == "state file":
        daemon["state_directory"] = str(blocked / "state")
    elif what == "control socket":
        daemon["control_socket"] = str(blocked / "sock")
        text = "control socket"
    elif what == "hook":
        keys["up"] = "no_such_module:function"
        text = "cannot import no_such_module:function"
    path = write_configuration(directory, "a", [table(**keys)], defaults=AT_ONCE, daemon=daemon)
    return path, arguments, text


@pytest.mark.parametrize("what", ["pid file", "state file", "control socket", "hook"])
def test_what_fails_early_fails_before_any_address_is_touched(
    lab_factory: Callable[..., Lab], tmp_path: Path, what: str
) -> None:
    a, _ = lab_factory(segments=1).hosts
    path, arguments, text = early(tmp_path, what)
    own = a.addresses()
    with AddressChanges(a) as changes:
        code, stderr = run(a, path, *arguments)
        assert changes.read() == []
    assert code == 1
    assert text in stderr.splitlines()[-1]
    assert "Traceback" not in stderr
    assert a.addresses() == own
    assert not path.with_suffix(".sock").exists()


def test_a_control_socket_in_use_is_refused_before_any_address_is_touched(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, _ = lab_factory(segments=1).hosts
    own = a.addresses()
    path = write_configuration(tmp_path, "a", [table()], defaults=AT_ONCE)
    first = start_daemon(a, path)
    first.wait_held(own, VHIDS)
    held = a.addresses()
    with AddressChanges(a) as changes:
        code, stderr = run(a, path, "--pid-file", str(tmp_path / "pid"))
        assert changes.read() == []
    assert code == 1
    assert "control socket" in stderr.splitlines()[-1]
    assert not (tmp_path / "pid").exists()
    assert a.addresses() == held
    assert first.stop() == 0
