"""The privileged helper's process: what it starts, what it refuses, and its end.

Each test has a helper of its own and speaks to it as a daemon would that does not mean well.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carp_fast.config.load import load_settled
from carp_fast.config.model import ConfigurationError
from carp_fast.privileged import outcome, rows, start
from carp_fast.privileged.messages import (
    Applied,
    Exited,
    Failed,
    Kill,
    Load,
    NotLoaded,
    Start,
    StopLoading,
)
from carp_fast.privileged.rows import FORMER_MAX, Row, Tables
from carp_fast.programs.packets import close_all
from tests.support.privileged import DEADLINE_S, Asked, output
from tests.support.processes import children
from tests.support.programs import assert_gone, script

PASSPHRASE = "".join(("Zq7-", "never-", "seen-", "x"))


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a configuration with these keys of its virtual hosts, eth0/1 to 9."""

    def write(keys: str = "", vhids: str = "1-9", more: str = "") -> Path:
        path = tmp_path / "carp-fast.toml"
        path.touch(mode=0o600)
        path.write_text(
            f'[[virtual_host]]\ninterface = "eth0"\nvhid = "{vhids}"\n'
            f'addresses = ["192.0.2.{{vhid}}/24"]\npassphrase = "{PASSPHRASE}"\n{keys}\n{more}'
        )
        return path

    return write


PLACE = ("eth0", "192.0.2.7")


def test_a_loaded_configuration_is_what_the_files_have(write: Callable[..., Path]) -> None:
    path = write(
        'up = "/bin/true"', more='[[track]]\nname="t"\nkind="script"\nscript=["/bin/true"]'
    )
    with Asked(path) as helper:
        assert PASSPHRASE.encode() not in helper.outcome
        assert outcome.take(helper.outcome) == load_settled(path)


def test_faults_of_a_configuration_arrive_as_they_are(write: Callable[..., Path]) -> None:
    path = write("advbase = 1000\nno_such_key = 1")
    with Asked(path) as helper:
        with pytest.raises(ConfigurationError) as here:
            load_settled(path)
        with pytest.raises(ConfigurationError) as there:
            outcome.take(helper.outcome)
        assert there.value.faults == here.value.faults
        assert len(there.value.faults) == 2
        # No program of a faulty configuration can be started.
        handle, pipe = helper.start(0)
        reply = helper.only()
        assert isinstance(reply, Failed)
        assert (reply.handle, output(pipe)) == (handle, b"")


def test_a_path_of_any_bytes_can_be_loaded(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write().rename(tmp_path / os.fsdecode(b"\xff\xfe.toml"))
    with Asked(path) as helper:
        assert outcome.take(helper.outcome) == load_settled(path)


def test_a_hook_is_started_by_its_number_with_its_arguments(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/nowhere")
    path = script(tmp_path / "up", 'echo "$@"; env | grep -v "^PWD\\|^_=\\|^SHLVL"; ulimit -c')
    with Asked(write(f'up = "{path}"\nxparam = "a b"')) as helper:
        handle, pipe = helper.start(0, PLACE, variables={"CARP_STATE": "MASTER"})
        assert helper.only() == Exited(handle, 0)
        first, *environment, core = output(pipe).decode().splitlines()
        assert first == "eth0 192.0.2.7 a b"
        assert {line.partition("=")[0] for line in environment} == {"CARP_STATE", "PATH", "LANG"}
        assert core == "0"


@pytest.mark.parametrize(
    ("program", "place", "table"),
    [
        (0, ("eth0", "192.0.2.10"), 1),
        (0, ("eth1", "192.0.2.7"), 1),
        (0, ("eth0", "192.0.2.7 "), 1),
        (0, None, 1),
        (1, PLACE, 1),
        (2, None, 1),
        (0, PLACE, 2),
    ],
)
def test_what_is_not_configured_is_not_started(
    program: int,
    place: tuple[str, str] | None,
    table: int,
    write: Callable[..., Path],
    tmp_path: Path,
) -> None:
    done = tmp_path / "done"
    path = script(tmp_path / "up", f"touch {done}")
    keys, track = f'up = "{path}"\ntrack = ["t"]', f'name="t"\nkind="script"\nscript=["{path}"]'
    with Asked(write(keys, more=f"[[track]]\n{track}")) as helper:
        handle, pipe = helper.start(program, place, table=table)
        reply = helper.only()
        assert isinstance(reply, Failed)
        assert reply.handle == handle
        assert "no configuration that was read has it" in reply.text
        assert output(pipe) == b""
        assert not done.exists()


def test_a_program_that_does_not_exist_is_reported_with_its_reason(
    write: Callable[..., Path],
) -> None:
    with Asked(write('up = "/nonexistent"')) as helper:
        handle, pipe = helper.start(0, PLACE)
        text = "cannot start /nonexistent: No such file or directory"
        assert helper.only() == Failed(handle, text, "No such file or directory")
        os.close(pipe)


def test_standard_descriptors_that_are_no_pipes_are_refused(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    reading, writing = os.pipe()
    with Asked(write('up = "/bin/true"')) as helper, open(tmp_path / "file", "wb") as file:
        for handle, given in enumerate(([file.fileno()], [reading], [], [writing] * 2)):
            helper.ask(Start(handle, 1, 0, PLACE, {}), *given)
            reply = helper.only()
            assert isinstance(reply, Failed)
            assert "not pipes" in reply.text
    close_all([reading, writing])


def test_a_program_is_killed_with_its_group_by_its_handle(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    path = script(tmp_path / "up", "sleep 1000 & echo $!; wait")
    with Asked(write(f'up = "{path}"')) as helper:
        handle, pipe = helper.start(0, PLACE)
        child = int(os.read(pipe, 100))
        helper.ask(Kill(handle + 1, signal.SIGKILL))  # of none
        helper.ask(Kill(handle, signal.SIGTERM, rest=True))
        assert helper.only() == Exited(handle, -signal.SIGTERM)
        assert_gone(child)
        helper.ask(Kill(handle, signal.SIGTERM))  # it has ended
        os.close(pipe)


def test_what_a_program_leaves_is_killed_only_if_it_is_to_leave_nothing(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    path = script(tmp_path / "up", "sleep 1000 & echo $!")
    with Asked(write(f'up = "{path}"')) as helper:
        handle, pipe = helper.start(0, PLACE)
        left = int(os.read(pipe, 100))
        assert helper.only() == Exited(handle, 0)
        os.kill(left, signal.SIGKILL)  # it was there
        os.close(pipe)
        handle, pipe = helper.start(0, PLACE, leaves_nothing=True)
        left = int(os.read(pipe, 100))
        assert helper.only() == Exited(handle, 0)
        assert_gone(left)
        os.close(pipe)


def test_programs_that_run_are_killed_when_the_daemon_is_gone(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    path = script(tmp_path / "up", "echo $$; sleep 1000")
    with Asked(write(f'up = "{path}"')) as helper:
        _, pipe = helper.start(0, PLACE)
        pid = int(os.read(pipe, 100))
        helper.end.close()
        assert helper.process.wait(DEADLINE_S) == 0
        assert_gone(pid)
        os.close(pipe)


def test_scripts_of_ucarp_are_left_alone_when_the_daemon_is_gone(tmp_path: Path) -> None:
    path = script(
        tmp_path / "up", f"echo $$ > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; sleep 1000"
    )
    table = rows.encode([Row(path, (), hook=True, places=[PLACE], inherits=True)])
    with Asked(table=table) as helper:
        helper.ask(Load(1, b"/etc/passwd"))
        assert helper.only() == NotLoaded(1, "there is no configuration file")
        helper.ask(Start(1, 0, 0, PLACE, {}))
        while not (tmp_path / "pid").exists():
            assert helper.process.poll() is None
        pid = int((tmp_path / "pid").read_text())
        helper.end.close()
        assert helper.process.wait(DEADLINE_S) == 0
        os.kill(pid, signal.SIGKILL)  # it still runs


def test_signals_of_a_terminal_do_not_end_it(write: Callable[..., Path]) -> None:
    with Asked(write('up = "/bin/true"')) as helper:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            helper.process.send_signal(number)
        handle, pipe = helper.start(0, PLACE)
        assert helper.only() == Exited(handle, 0)
        os.close(pipe)


def test_signals_are_as_usual_in_what_it_starts(write: Callable[..., Path], tmp_path: Path) -> None:
    path = script(tmp_path / "up", "grep '^Sig[BI]' /proc/self/status")
    with Asked(write(f'up = "{path}"')) as helper:
        _, pipe = helper.start(0, PLACE)
        masks = [int(line.split()[1], 16) for line in output(pipe).decode().splitlines()]
        # Signals 32 and 33 are the C library's own: no program can set them, and all inherit them.
        others = sum(
            1 << each - 1 for each in (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, 32, 33)
        )
        assert [mask & ~others for mask in masks] == [0, 0]


@pytest.mark.parametrize("what", ["another path", "a handle again", "a descriptor", "no message"])
def test_a_daemon_that_breaks_the_rules_is_left(what: str, write: Callable[..., Path]) -> None:
    with Asked(write('up = "/bin/true"')) as helper:
        if what == "another path":
            helper.ask(Load(2, b"/etc/passwd"))
        elif what == "a handle again":
            handle, pipe = helper.start(0, PLACE)
            assert helper.only() == Exited(handle, 0)
            os.close(pipe)
            helper.ask(Start(handle, 1, 0, PLACE, {}))
        elif what == "a descriptor":
            helper.ask(Kill(1, 9), 0)
        else:
            helper.end.send(b"no message")
        helper.assert_ended()


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(packets=st.lists(st.binary(min_size=1, max_size=64), min_size=1, max_size=4))
def test_any_bytes_end_it_in_order(packets: list[bytes], write: Callable[..., Path]) -> None:
    with Asked(write()) as helper:
        for packet in packets:
            try:
                helper.end.send(packet)
            except (BrokenPipeError, ConnectionResetError):
                break  # it has closed the socket after an earlier one
        helper.assert_ended()


def test_loading_can_be_ended_and_asked_for_again(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    path = write()
    with Asked(path) as helper:
        path.unlink()
        os.mkfifo(path)
        # Held open, so that its reader waits for what is never written.
        held = os.open(path, os.O_RDWR)
        helper.ask(Load(2))
        helper.ask(StopLoading())
        helper.ask(Load(3))
        os.close(held)
        path.unlink()
        write("advskew = 7")
        helper.ask(Load(4))
        configuration = outcome.take(helper.loaded(4))
        assert {host.settings.advskew for host in configuration.virtual_hosts} == {7}


def test_a_loader_that_is_killed_is_reported(write: Callable[..., Path]) -> None:
    path = write()
    with Asked(path) as helper:
        path.unlink()
        os.mkfifo(path)
        held = os.open(path, os.O_RDWR)
        helper.ask(Load(2))
        while not children(helper.process.pid):
            assert helper.process.poll() is None
        os.kill(children(helper.process.pid)[0], signal.SIGKILL)
        text = "what reads it gave no result: killed by SIGKILL"
        assert helper.only() == NotLoaded(2, text)
        os.close(held)


def test_a_loader_that_died_before_it_was_asked_is_started_again(
    write: Callable[..., Path],
) -> None:
    with Asked() as helper:
        while not children(helper.process.pid):
            assert helper.process.poll() is None
        os.kill(children(helper.process.pid)[0], signal.SIGKILL)
        while children(helper.process.pid):  # until it has noticed
            assert helper.process.poll() is None
        helper.ask(Load(1, os.fsencode(write())))
        assert len(outcome.take(helper.loaded(1)).virtual_hosts) == 9


def test_tables_are_kept_while_they_may_be_needed() -> None:
    tables = Tables()

    def known() -> list[int]:
        return [number for number in range(20) if tables.row(number, 0) is not None]

    for number in range(5):
        tables.keep(number, [Row("/bin/up", (), hook=True, places=[("eth0", str(number))])])
        tables.apply(number)
        tables.apply(number)  # a second time does nothing
    assert known() == [2, 3, 4]
    assert len(known()) == 1 + FORMER_MAX
    row = tables.row(4, 0)
    assert row is not None
    assert [tables.allows(row, ("eth0", str(number))) for number in range(5)] == [False] * 2 + [
        True
    ] * 3
    for number in range(10, 15):  # read and not applied
        tables.keep(number, [Row("/bin/up", (), hook=True)])
    assert known() == [2, 3, 4, 14]
    tables.apply(13)  # unknown
    assert known() == [2, 3, 4, 14]


def test_hooks_of_a_former_configuration_can_still_be_started(write: Callable[..., Path]) -> None:
    with Asked(write('up = "/bin/echo"')) as helper:
        helper.ask(Applied(1))
        write('up = "/bin/echo"', vhids="1-3")
        helper.ask(Load(2))
        helper.loaded(2)
        helper.ask(Applied(2))
        for table in (1, 2):
            handle, pipe = helper.start(0, PLACE, table=table)
            assert helper.only() == Exited(handle, 0)
            assert output(pipe) == b"eth0 192.0.2.7\n"


@pytest.mark.parametrize(
    "words", [[], ["helper"], ["helper", "x"], ["helper", "99"], ["loader", "0"]]
)
def test_nobody_else_can_start_it(words: list[str]) -> None:
    command = [sys.executable, "-m", "carp_fast", start.WORD, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    assert done.returncode == 2
    assert done.stderr == "carp-fast privileged: only `carp-fast run` and ucarp start this\n"


def test_a_table_that_is_none_is_refused() -> None:
    with pytest.raises(msgspec.MsgspecError):
        rows.decode(b"no table")
