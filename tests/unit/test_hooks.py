"""Hooks with real little scripts and functions, under uvloop.

Must not know the engine.  What a script has done is read from the files it wrote, after the report
that it ended; named pipes hold scripts and functions until the test lets them go on.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import resource
import signal
import subprocess
import sys
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from carp_fast.daemon import hooks as hooks_module
from carp_fast.daemon.hooks import Hook, HookResult, Hooks
from carp_fast.daemon.host_log import LINES_A_SECOND, HostLog
from carp_fast.daemon.notify import Notifier
from carp_fast.programs import starting
from tests.support.programs import DEADLINE_S, Deaf, Gate, assert_gone, run, script, until


def hook(target: str, event: Any = "up", xparam: str | None = None, vhid: int = 7) -> Hook:
    """A hook of eth0/VHID; each vhid has addresses of its own."""
    address = "192.0.2.1" if vhid == 7 else f"10.0.{vhid >> 8}.{vhid & 255}"
    return Hook(
        event=event,
        target=target,
        interface="eth0",
        address=address,
        xparam=xparam,
        environment={
            "CARP_INTERFACE": "eth0",
            "CARP_VHID": str(vhid),
            "CARP_STATE": "MASTER" if event == "up" else "BACKUP",
            "CARP_PREVIOUS": "BACKUP" if event == "up" else "MASTER",
            "CARP_REASON": "master_down",
            "CARP_ADDRESSES": f"{address}/24 2001:db8::{vhid:x}/64",
        },
    )


async def result_of(hooks: Hooks, one: Hook, key: object = 7) -> HookResult:
    told: asyncio.Future[HookResult] = asyncio.get_running_loop().create_future()
    hooks.submit(key, "eth0/7", one, told.set_result)
    return await told


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "carp_fast")


def test_a_script_gets_arguments_and_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY", "LD_PRELOAD", "PYTHONPATH", "LC_ALL"):
        monkeypatch.setenv(name, "")  # an empty LD_PRELOAD preloads nothing, and is inherited
    monkeypatch.setenv("PATH", f"{tmp_path}::bin:/usr/bin:.:/bin")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    body = (
        f'echo "$#" "$@" > {tmp_path}/arguments; env > {tmp_path}/environment; cat > {tmp_path}/in'
    )
    target = script(tmp_path / "up.sh", body)

    async def scene() -> None:
        hooks = Hooks(asyncio.get_running_loop())
        result = await result_of(hooks, hook(target))
        assert result.ok
        assert (result.event, result.exit_status, result.error) == ("up", 0, None)
        assert (tmp_path / "arguments").read_text() == "2 eth0 192.0.2.1\n"
        assert (await result_of(hooks, hook(target, xparam="a b"))).ok
        assert (tmp_path / "arguments").read_text() == "3 eth0 192.0.2.1 a b\n"
        assert hooks.started == 2
        assert hooks.failed == 0

    run(scene())
    lines = (tmp_path / "environment").read_text().splitlines()
    environment = dict(line.split("=", 1) for line in lines)
    for name in ("PWD", "OLDPWD", "_", "SHLVL"):  # of the shell
        environment.pop(name, None)
    assert environment == {
        **hook(target).environment,
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "LANG": "de_DE.UTF-8",
    }
    assert (tmp_path / "in").read_text() == ""  # nothing to read on its standard input


def test_without_path_and_lang_a_script_gets_the_usual_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "bin:")
    monkeypatch.delenv("LANG", raising=False)
    target = script(tmp_path / "up.sh", 'echo "$PATH $LANG"')

    async def scene() -> None:
        result = await result_of(Hooks(asyncio.get_running_loop()), hook(target))
        usual = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        assert result.output == f"{usual} C.UTF-8\n"

    run(scene())


# A process that was started with a low priority, signals blocked and ignored, and a narrow umask,
# and then set limits of its own, runs the hook that its argument names.
UNUSUAL = """
import asyncio, os, resource, signal, sys
os.umask(0o077)
os.setpriority(os.PRIO_PROCESS, 0, int(sys.argv[2]))
os.sched_setscheduler(0, int(sys.argv[3]), os.sched_param(int(sys.argv[4])))
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR2, signal.SIGCHLD):
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGALRM))
from carp_fast.daemon.hooks import Hook, Hooks
from carp_fast.signals import inherit_nothing
hard = resource.getrlimit(resource.RLIMIT_RTTIME)[1]
resource.setrlimit(resource.RLIMIT_RTTIME, (10_000_000, hard))
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 7, hard))

async def scene():
    told = asyncio.get_running_loop().create_future()
    hook = Hook("up", sys.argv[1], "eth0", "192.0.2.1", None, {})
    Hooks(asyncio.get_running_loop()).submit(7, "eth0/7", hook, told.set_result)
    sys.stdout.write((await told).output)

inherit_nothing()
os.kill(os.getpid(), signal.SIGQUIT)  # is still ignored
asyncio.run(scene())
"""


@pytest.mark.parametrize(
    ("nice", "policy", "priority"),
    [
        (0, os.SCHED_OTHER, 0),
        (10, os.SCHED_OTHER, 0),
        (5, os.SCHED_BATCH, 0),
        pytest.param(-5, os.SCHED_OTHER, 0, marks=pytest.mark.root),
        pytest.param(0, os.SCHED_FIFO, 1, marks=pytest.mark.root),
    ],
)
def test_a_script_runs_as_if_from_an_ordinary_shell(
    nice: int, policy: int, priority: int, tmp_path: Path
) -> None:
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    body = (
        # Priority and limits may come a moment after the start.
        'until [ "$(cut -d" " -f19,41 /proc/$$/stat)" = "0 0" ]; do :; done; echo ordinary\n'
        f'until [ "$(ulimit -n)" = {soft} ]; do :; done; echo files\n'
        "until grep -q 'realtime timeout *unlimited' /proc/$$/limits; do :; done; echo real time\n"
        "umask; exec grep -E 'Sig(Blk|Ign)' /proc/self/status\n"
    )
    target = script(tmp_path / "up.sh", body)
    argv = [sys.executable, "-c", UNUSUAL, target, str(nice), str(policy), str(priority)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    *said, blocked, ignored = done.stdout.splitlines()
    assert said == ["ordinary", "files", "real time", "0022"], done.stderr
    for line, name in ((blocked, "SigBlk"), (ignored, "SigIgn")):
        word, signals = line.split(":\t")
        # Signals 32 and 33 are the C library's: no program can set them back.
        assert (word, int(signals, 16) & ~(3 << 31)) == (name, 0)


def test_status_and_output_are_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    target = script(tmp_path / "up.sh", "echo one; printf 'two\\033[2J\\n' >&2; exit 3")

    async def scene() -> None:
        hooks = Hooks(asyncio.get_running_loop())
        result = await result_of(hooks, hook(target))
        assert not result.ok
        assert result.exit_status == 3
        assert result.output.startswith("one\n")
        assert hooks.failed == 1

    run(scene())
    said = [r.getMessage() for r in caplog.records]
    assert f"eth0/7: up {target}: one" in said
    assert f"eth0/7: up {target}: two\\x1b[2J" in said
    assert any(m.startswith(f"eth0/7: up {target}: exit status 3 after ") for m in said)


def test_much_output_is_bounded_and_holds_nothing_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = script(tmp_path / "up.sh", "head -c 1000000 /dev/zero | tr '\\0' x")

    async def scene() -> None:
        result = await result_of(Hooks(asyncio.get_running_loop()), hook(target))
        assert result.ok
        assert result.output == "x" * hooks_module.OUTPUT_BYTES_MAX

    run(scene())
    more = 1_000_000 - hooks_module.OUTPUT_BYTES_MAX
    assert f"{more} more bytes of output not shown" in caplog.text


def test_many_hooks_are_few_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    target = script(tmp_path / "up.sh", "echo said")
    caplog.set_level(logging.INFO, "carp_fast")

    async def scene() -> None:
        hooks = Hooks(asyncio.get_running_loop())
        hooks._host_log = HostLog(lambda delay_s, call: None)  # one second, which close() ends
        for vhid in range(100, 150):
            hooks.submit(vhid, f"eth0/{vhid}", hook(target, vhid=vhid))
        assert await hooks.drain(DEADLINE_S) == ()
        hooks.close()

    run(scene())
    *single, head, summary = caplog.messages
    assert len(single) == LINES_A_SECOND
    assert head.startswith("80 lines about virtual hosts")
    for text, kind in ((": said", "a line of output"), (": exit status 0 ", "exit status 0")):
        count = 50 - sum(text in line for line in single)
        assert f"{count} up {target}: {kind}" in summary


def test_killed_by_a_signal(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    target = script(tmp_path / "up.sh", "kill -9 $$")

    async def scene() -> None:
        result = await result_of(Hooks(asyncio.get_running_loop()), hook(target))
        assert result.exit_status == -signal.SIGKILL

    run(scene())
    assert "killed by SIGKILL" in caplog.text


def test_what_cannot_be_started_says_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = tmp_path / "plain.sh"
    plain.write_text("#!/bin/sh\n")
    headless = tmp_path / "headless.sh"
    headless.write_text("echo\n")
    headless.chmod(0o755)
    cases = {
        str(tmp_path / "missing.sh"): "No such file or directory",
        str(plain): "Permission denied",
        str(headless): "a script needs a first line such as #!/bin/sh",
        script(tmp_path / "odd.sh", "", "/no/such/sh"): "the interpreter that its first line names",
        "/bin/true\0": "null byte",
    }

    async def scene() -> None:
        hooks = Hooks(asyncio.get_running_loop())
        for target, reason in cases.items():
            result = await result_of(hooks, hook(target))
            assert result.exit_status is None
            assert result.error is not None
            assert result.error.startswith(f"cannot start {target}: ")
            assert reason in result.error
            assert f"eth0/7: up {target}: {result.error}" in caplog.text
        assert (hooks.started, hooks.failed) == (0, len(cases))
        assert await hooks.drain(0) == ()

    run(scene())


def test_in_order_for_one_key_and_the_latest_wins(
    tmp_path: Path, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    body = f'echo "$3" >> {tmp_path}/order; [ "$3" = first ] && read line < {gate.path}; exit 0'
    target = script(tmp_path / "hook.sh", body)

    async def scene() -> None:
        hooks = Hooks(asyncio.get_running_loop())
        results: dict[str, HookResult] = {}

        def submit(event: str, xparam: str) -> None:
            one = hook(target, event, xparam)
            hooks.submit(7, "eth0/7", one, lambda r: results.__setitem__(xparam, r))

        submit("up", "first")
        await gate.open()  # returns when the script has opened it: it runs
        submit("down", "second")
        submit("up", "third")
        submit("down", "fourth")
        assert await hooks.drain(DEADLINE_S) == ()
        assert {name: r.superseded for name, r in results.items()} == {
            "first": False,
            "second": True,
            "third": True,
            "fourth": False,
        }
        assert hooks.superseded == 2
        assert hooks.started == 2

    run(scene())
    assert (tmp_path / "order").read_text().split() == ["first", "fourth"]
    assert f"eth0/7: down {tmp_path}/hook.sh: not run, superseded by up" in caplog.text


def test_an_up_that_never_started_gives_way_to_the_down(tmp_path: Path) -> None:
    target = script(tmp_path / "hook.sh", f'echo "$CARP_STATE" >> {tmp_path}/order')

    async def scene() -> None:
        hooks = Hooks(asyncio.get_running_loop())
        hooks.submit(7, "eth0/7", hook(target, "up"))
        hooks.submit(7, "eth0/7", hook(target, "down"))
        assert await hooks.drain(DEADLINE_S) == ()

    run(scene())
    assert (tmp_path / "order").read_text().split() == ["BACKUP"]


def test_hundreds_run_a_few_at_once_and_the_loop_goes_on(tmp_path: Path) -> None:
    target = script(tmp_path / "hook.sh", f"echo $CARP_VHID >> {tmp_path}/ran")
    keys = 300
    at_once: list[int] = []
    started: list[int] = []

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        hooks = Hooks(loop, concurrency=4)
        ended: list[HookResult] = []

        def turn() -> None:
            at_once.append(len(hooks._running))
            started.append(hooks.started)
            if len(ended) < keys:
                loop.call_soon(turn)

        for key in range(keys):
            hooks.submit(key, f"eth0/{key}", hook(target, vhid=key), ended.append)
        assert hooks.started == 0  # nothing is started within submit
        turn()
        assert await hooks.drain(DEADLINE_S) == ()
        assert hooks.started == len(ended) == keys
        assert all(result.ok for result in ended)

    run(scene())
    assert max(at_once) <= 4
    # However many wait, a turn of the loop starts no more than there are places.
    assert max(after - before for before, after in pairwise(started)) <= 4
    ran = sorted(map(int, (tmp_path / "ran").read_text().split()))
    assert ran == list(range(keys))


def test_the_budget_of_a_turn_bounds_the_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no budget at all, one is started a turn, and none is forgotten."""
    monkeypatch.setattr(starting, "START_BUDGET_S", 0.0)
    target = script(tmp_path / "hook.sh", "exit 0")

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        hooks = Hooks(loop, concurrency=100)
        started: list[int] = []

        def turn() -> None:
            started.append(hooks.started)
            if hooks.started < 10:
                loop.call_soon(turn)

        for key in range(10):
            hooks.submit(key, f"eth0/{key}", hook(target, vhid=key))
        turn()
        assert await hooks.drain(DEADLINE_S) == ()
        assert all(after - before <= 1 for before, after in pairwise(started))
        assert started[-1] == 10

    run(scene())


def test_at_its_timeout_the_whole_group_is_ended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    body = f"sleep 1000 & echo $! > {tmp_path}/child; wait"
    target = script(tmp_path / "hook.sh", body)
    after = script(tmp_path / "after.sh", "exit 0")

    async def scene() -> None:
        hooks = Hooks(asyncio.get_running_loop(), timeout_s=1)
        result = await result_of(hooks, hook(target))
        assert result.timed_out
        assert result.exit_status is None
        assert hooks.timed_out == 1
        # The next of the virtual host waits until it has really ended.
        assert (await result_of(hooks, hook(after, "down"))).ok
        assert "killed by SIGTERM" in caplog.text
        assert hooks.failed == 0

    run(scene())
    assert f"eth0/7: up {target}: not finished within 1 s" in caplog.text
    assert_gone(int((tmp_path / "child").read_text()))


@pytest.mark.parametrize("deaf", ["script", "child"])
def test_what_ignores_sigterm_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, deaf: str
) -> None:
    monkeypatch.setattr(hooks_module, "KILL_AFTER_S", 0.2)
    if deaf == "script":  # which its child inherits
        body = f"trap '' TERM; sleep 1000 & echo $! > {tmp_path}/child; wait"
    else:
        body = f"(trap '' TERM; exec sleep 1000) & echo $! > {tmp_path}/child; wait"
    target = script(tmp_path / "hook.sh", body)

    async def scene() -> None:
        hooks = Hooks(asyncio.get_running_loop(), timeout_s=1)
        assert (await result_of(hooks, hook(target))).timed_out
        assert await hooks.drain(DEADLINE_S) == ()

    run(scene())
    assert ("ignored SIGTERM for 0.2 s, sending SIGKILL" in caplog.text) is (deaf == "script")
    assert_gone(int((tmp_path / "child").read_text()))


def test_one_that_takes_long_is_said(
    tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(hooks_module, "SLOW_S", 0.05)
    target = script(tmp_path / "hook.sh", f"read line < {gate.path}")
    said = asyncio.Event()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "still running after 0.05 s" in record.getMessage():
                said.set()

    async def scene() -> None:
        listener = Listener()
        logging.getLogger("carp_fast.daemon").addHandler(listener)
        try:
            hooks = Hooks(asyncio.get_running_loop())
            hooks.submit(7, "eth0/7", hook(target))
            await said.wait()
            await gate.open()
            assert await hooks.drain(DEADLINE_S) == ()
        finally:
            logging.getLogger("carp_fast.daemon").removeHandler(listener)

    run(scene())
    assert f"eth0/7: up {target}: still running after 0.05 s" in caplog.text


def test_what_it_leaves_in_the_background_is_left_alone(tmp_path: Path) -> None:
    target = script(tmp_path / "hook.sh", f"sleep 1000 & echo $! > {tmp_path}/child")

    async def scene() -> None:
        assert (await result_of(Hooks(asyncio.get_running_loop()), hook(target))).ok

    run(scene())
    child = int((tmp_path / "child").read_text())
    os.kill(child, 0)  # ProcessLookupError if it were gone
    os.kill(child, signal.SIGKILL)


def test_hooks_that_sigkill_does_not_end_are_waited_for_together(tmp_path: Path) -> None:
    target = script(tmp_path / "hook.sh", f"echo >> {tmp_path}/begun; exec sleep 1000")

    def begun() -> int:
        path = tmp_path / "begun"
        return len(path.read_text()) if path.exists() else 0

    async def scene() -> None:
        hooks = Hooks(asyncio.get_running_loop())
        for vhid in range(8):
            hooks.submit(vhid, f"eth0/{vhid}", hook(target, vhid=vhid), lambda result: None)
        await until(lambda: begun() == 8)
        with Deaf(reap_s=0.05) as deaf:
            hooks.close()
        assert deaf.steps == ["kill"] * 8 + ["wait"] * 8

    run(scene())


def test_drain_names_what_does_not_end_and_close_kills_it(
    tmp_path: Path, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    body = f"echo $$ > {tmp_path}/pid; read line < {gate.path}; sleep 1000"
    target = script(tmp_path / "hook.sh", body)

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        hooks = Hooks(loop)
        results: list[HookResult] = []
        hooks.submit(7, "eth0/7", hook(target), results.append)
        await gate.open()
        hooks.submit(7, "eth0/7", hook(target, "down"), results.append)
        assert await hooks.drain(0.05) == (f"eth0/7: up {target}", f"eth0/7: down {target}")
        assert results == []
        hooks.close()
        assert {result.error for result in results} == {
            "killed, the daemon ends",
            "not run, the daemon ends",
        }
        assert await hooks.drain(0) == ()
        assert (await result_of(hooks, hook(target))).error == "not run, the daemon ends"

    run(scene())
    assert_gone(int((tmp_path / "pid").read_text()))
    assert f"eth0/7: up {target}: still not finished after 0.05 s" in caplog.text


def test_a_result_that_is_not_taken_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = script(tmp_path / "hook.sh", "exit 0")

    async def scene() -> None:
        hooks = Hooks(asyncio.get_running_loop())

        def refuse(_: HookResult) -> None:
            raise ValueError("refused")

        hooks.submit(7, "eth0/7", hook(target), refuse)
        assert (await result_of(hooks, hook(target, "down", vhid=8), key=8)).ok
        assert await hooks.drain(DEADLINE_S) == ()

    run(scene())
    assert "the callback for its result failed" in caplog.text


_atfork_calls: list[str] = []
_on_fork = ctypes.CFUNCTYPE(None)(lambda: _atfork_calls.append("fork"))


def test_nothing_forks(tmp_path: Path) -> None:
    register = getattr(ctypes.CDLL(None), "__register_atfork", None)
    if register is None:
        pytest.skip("needs glibc's __register_atfork")
    assert register(_on_fork, None, None, None) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, from Python 3.12 on
        subprocess.run(["/bin/true"], check=True, preexec_fn=int)
    assert _atfork_calls == ["fork"]  # so a fork would be seen
    _atfork_calls.clear()
    target = script(tmp_path / "hook.sh", "exit 0")

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        assert (await result_of(Hooks(loop), hook(target))).ok
        notifier = Notifier(loop, script(tmp_path / "notify.sh", "cat > /dev/null"))
        notifier.start()
        await notifier.stop(DEADLINE_S)

    run(scene())
    assert _atfork_calls == []


def test_no_descriptor_and_no_process_is_left(tmp_path: Path) -> None:
    target = script(tmp_path / "hook.sh", "echo hello")
    slow = script(tmp_path / "slow.sh", "sleep 1000")

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        assert (await result_of(Hooks(loop), hook(target))).ok
        hooks = Hooks(loop, timeout_s=0.1)
        gc.collect()
        before = len(list(Path("/proc/self/fd").iterdir()))
        for key in range(50):
            hooks.submit(key, f"eth0/{key}", hook(target if key % 5 else slow, vhid=key))
        assert await hooks.drain(DEADLINE_S) == ()
        assert hooks.timed_out >= 10
        assert len(list(Path("/proc/self/fd").iterdir())) == before

    run(scene())
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
