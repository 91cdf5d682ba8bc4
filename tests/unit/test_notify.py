"""The notify program with real little readers, under uvloop.

Must not know hooks or the engine.  What a reader got is read from the file it wrote when it ended.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from carp_fast.daemon import notify as notifier_module
from carp_fast.daemon.notify import Notifier
from tests.support.programs import DEADLINE_S, Gate, assert_gone, run, script, until


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "carp_fast")


READER = """
import os, sys
out = open(sys.argv[0] + ".lines", "a")
for line in sys.stdin:
    out.write(line)
    out.flush()
    if '"end"' in line:
        os._exit(3)
"""


def reader(tmp_path: Path, body: str = READER) -> str:
    return script(tmp_path / "notify.py", body, sys.executable)


def lines_of(program: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(program + ".lines").read_text().splitlines()]


def test_notify_gets_a_line_a_change_in_order(tmp_path: Path) -> None:
    program = reader(tmp_path)
    changes = [{"vhid": i, "text": "x" * (i % 300)} for i in range(20_000)]

    async def scene() -> None:
        notifier = Notifier(asyncio.get_running_loop(), program)
        notifier.send(changes[0])  # before it is there
        notifier.start()
        for change in changes[1:]:
            notifier.send(change)
        await notifier.stop(DEADLINE_S)
        assert (notifier.sent, notifier.dropped, notifier.waiting) == (len(changes), 0, 0)

    run(scene())
    assert lines_of(program) == changes


def test_notify_is_started_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    program = reader(tmp_path)

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        notifier = Notifier(loop, program, restart_s=0.05)
        notifier.start()
        notifier.send({"say": "end"})
        await until(lambda: notifier.restarts > 0)
        notifier.send({"say": "between"})
        await until(lambda: not notifier.waiting)
        notifier.send({"say": "after"})
        await notifier.stop(DEADLINE_S)
        assert notifier.restarts == 1

    run(scene())
    assert [line["say"] for line in lines_of(program)] == ["end", "between", "after"]
    assert f"notify {program}: ended: exit status 3; starting it again in 0.05 s" in caplog.text


def test_a_line_that_was_written_in_part_is_sent_whole_again(tmp_path: Path) -> None:
    """The first program reads nothing, so that the pipe takes a part of the long line."""
    body = READER + "\n"
    first = 'import os, sys\nif not os.path.exists(sys.argv[0] + ".lines"):\n'
    first += '    open(sys.argv[0] + ".lines", "w").close()\n    os.read(0, 1)\n    os._exit(1)\n'
    program = reader(tmp_path, first + body)
    change = {"text": "x" * 1_000_000}

    async def scene() -> None:
        notifier = Notifier(asyncio.get_running_loop(), program, restart_s=0.01)
        notifier.send(change)
        notifier.start()
        await until(lambda: notifier.restarts > 0)
        assert notifier.waiting == 1
        await until(lambda: not notifier.waiting)
        await notifier.stop(DEADLINE_S)

    run(scene())
    assert lines_of(program) == [change]


def test_notify_that_does_not_read_loses_the_oldest(
    tmp_path: Path, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    program = reader(tmp_path, f"open({str(gate.path)!r}).read()\n" + READER)
    changes = [{"vhid": i, "text": "x" * 10_000} for i in range(100)]

    async def scene() -> None:
        notifier = Notifier(asyncio.get_running_loop(), program, queue_max=20)
        notifier.start()
        for change in changes:
            notifier.send(change)
            await asyncio.sleep(0)
        assert notifier.waiting == 20
        assert notifier.dropped == len(changes) - 20 - notifier.sent > 0
        await gate.open()
        await notifier.stop(DEADLINE_S)
        assert notifier.waiting == 0

    run(scene())
    got = [line["vhid"] for line in lines_of(program)]
    assert got == sorted(got)
    assert got[-19:] == list(range(81, 100))  # the latest all came
    assert "20 changes wait, dropping the oldest (1 so far)" in caplog.text


def test_the_output_of_notify_is_in_the_log_and_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notifier_module, "LOG_LINES_A_SECOND", 3)
    body = "echo hello; echo there >&2; i=0; while [ $i -lt 500 ]; do i=$((i+1)); echo more; done\n"
    program = script(tmp_path / "notify.sh", body + "printf unended; cat > /dev/null")

    async def scene() -> None:
        notifier = Notifier(asyncio.get_running_loop(), program)
        notifier.start()
        await notifier.stop(DEADLINE_S)

    run(scene())
    said = [r.getMessage() for r in caplog.records]
    assert f"notify {program}: hello" in said
    assert f"notify {program}: there" in said
    shown = [m for m in said if m.endswith((": more", ": hello", ": there", ": unended"))]
    hidden = sum(int(m.split()[2]) for m in said if m.endswith("more lines not shown"))
    assert len(shown) + hidden == 503
    assert hidden > 0


def test_notify_that_cannot_be_started_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program = str(tmp_path / "notify.py")

    async def scene() -> None:
        notifier = Notifier(asyncio.get_running_loop(), program, restart_s=0.01)
        notifier.start()
        notifier.send({"say": "kept"})
        await until(lambda: notifier.restarts >= 2)
        # In one step, for it may be started at any time.
        made = script(tmp_path / "new", READER, sys.executable)
        Path(made).rename(program)
        await until(lambda: not notifier.waiting)
        await notifier.stop(DEADLINE_S)

    run(scene())
    assert [line["say"] for line in lines_of(program)] == ["kept"]
    assert f"notify {program}: cannot start {program}: No such file or directory" in caplog.text


def test_notify_that_closes_its_input_is_ended_and_started_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program = script(tmp_path / "notify.sh", "exec <&-; sleep 1000")

    async def scene() -> None:
        notifier = Notifier(asyncio.get_running_loop(), program, restart_s=60)
        notifier.start()
        while not notifier.restarts:
            notifier.send({"say": "anybody"})
            await asyncio.sleep(0)
        await notifier.stop(0.1)

    run(scene())
    assert f"notify {program}: no longer reads its input, sending SIGTERM" in caplog.text
    assert "changes not delivered" in caplog.text


def test_notify_that_closes_its_input_and_ignores_sigterm_is_killed_and_started_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("carp_fast.daemon.notify.STEP_S", 0.1)
    body = "trap '' TERM; exec <&-; while :; do sleep 1000; done"
    program = script(tmp_path / "notify.sh", body)

    async def scene() -> None:
        notifier = Notifier(asyncio.get_running_loop(), program, restart_s=60)
        notifier.start()
        async with asyncio.timeout(DEADLINE_S):
            while not notifier.restarts:
                notifier.send({"say": "anybody"})
                await asyncio.sleep(0)
        await notifier.stop(0.1)

    run(scene())
    assert f"notify {program}: ignores SIGTERM, sending SIGKILL" in caplog.text
    assert f"notify {program}: ended: killed by SIGKILL" in caplog.text


def test_notify_that_does_not_end_is_killed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    body = f"trap '' TERM; echo $$ > {tmp_path}/pid; while :; do sleep 1000; done"
    program = script(tmp_path / "notify.sh", body)

    async def scene() -> None:
        notifier = Notifier(asyncio.get_running_loop(), program)
        notifier.start()
        pid = tmp_path / "pid"
        await until(lambda: pid.exists() and pid.read_text() != "")
        before = time.monotonic()
        await notifier.stop(0.1)
        assert time.monotonic() - before < DEADLINE_S / 2
        notifier.send({"say": "too late"})
        assert notifier.waiting == 0

    run(scene())
    assert_gone(int((tmp_path / "pid").read_text()))
