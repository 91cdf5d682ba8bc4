"""The successor's process: this program's command line, environment and descriptors."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from carp_fast.daemon.upgrade_messages import FROM_NEW, Ready, UpgradeError
from carp_fast.daemon.upgrade_process import SuccessorProcess, start_successor
from carp_fast.privileged.start import CHANNEL_VARIABLE, command_line
from carp_fast.programs import channel as channels
from carp_fast.programs.channel import Channel

SOON_S = 30.0
SUCCESSOR = """
import os, signal, sys
from carp_fast.daemon.upgrade_messages import FROM_OLD, Ready
from carp_fast.privileged.start import CHANNEL_VARIABLE
from carp_fast.programs.channel import Channel
channel = Channel.from_descriptor(int(os.environ[CHANNEL_VARIABLE]), FROM_OLD)
told = os.environ["EXTRA"], os.environ["OWN"], os.getcwd(), str(os.getsid(0)), sys.argv[1]
channel.send_now(Ready("|".join(told)), within_s=30)
signal.pause()
"""


async def started(*arguments: str) -> tuple[SuccessorProcess, Channel]:
    ours, theirs = channels.pair()
    channel = Channel(ours, FROM_NEW)
    try:
        with theirs:
            process = await start_successor(theirs.fileno(), {"EXTRA": "1"}, arguments)
    except UpgradeError:
        channel.close()
        raise
    return process, channel


def test_it_gets_the_environment_directory_session_and_its_end_of_the_channel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def scenario() -> None:
        process, channel = await started(sys.executable, "-c", SUCCESSOR, "argument")
        with channel:
            ready = (await channel.receive(Ready, within_s=SOON_S)).message
            here = "|".join(("1", "2", os.fspath(tmp_path), str(os.getsid(0)), "argument"))
            assert ready == Ready(here)
            process.kill()
            async with asyncio.timeout(SOON_S):
                assert await process.ended() == "killed by SIGKILL"
                assert await process.ended() == "killed by SIGKILL", "asked again"
        process.kill()

    monkeypatch.setenv("OWN", "2")
    monkeypatch.setenv("PYTHONPATH", os.fspath(Path(__file__).parent.parent.parent))
    monkeypatch.chdir(tmp_path)
    asyncio.run(scenario())


def test_how_it_ends_is_told() -> None:
    async def scenario(code: str) -> str:
        process, channel = await started(sys.executable, "-c", code)
        with channel:
            async with asyncio.timeout(SOON_S):
                return await process.ended()

    assert asyncio.run(scenario("raise SystemExit(3)")) == "exit status 3"
    code = f"import os; os.kill(os.getpid(), {int(signal.SIGTERM)})"
    assert asyncio.run(scenario(code)) == "killed by SIGTERM"


def test_a_program_that_is_gone_cannot_be_started(tmp_path: Path) -> None:
    with pytest.raises(UpgradeError, match=r"cannot start .*gone: No such file or directory"):
        asyncio.run(started(os.fspath(tmp_path / "gone")))


def test_the_command_line_is_that_of_this_process() -> None:
    started_with = Path("/proc/self/cmdline").read_bytes().split(b"\0")[1:-1]
    assert [each.encode() for each in command_line()[1:]] == started_with
    assert command_line()[0] == sys.executable
    assert CHANNEL_VARIABLE not in os.environ
