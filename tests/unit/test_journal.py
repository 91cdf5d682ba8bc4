"""Log records as a journald would get them: a socket in its place, and stderr beside it."""

from __future__ import annotations

import array
import asyncio
import errno
import fcntl
import logging
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from carp_fast.config.load import VirtualHost
from carp_fast.config.model import Labels
from carp_fast.daemon import journal
from carp_fast.daemon.hooks import Hook, Hooks
from carp_fast.daemon.host_log import HostLog
from carp_fast.daemon.journal import ENDS, JournalFormatter, JournalHandler, entry
from carp_fast.daemon.outlet import OutletHandler
from carp_fast.engine.reports import Undemoted
from carp_fast.programs.memory import SEALS
from tests.support.desk import Desk

DEADLINE_S = 60.0


class Journald:
    """The end of the socket that journald reads."""

    def __init__(self, path: Path) -> None:
        self.seals: int | None = None  # of the last entry, if it was in memory
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(DEADLINE_S)
        self.socket.bind(str(path))

    def entry(self) -> dict[str, str]:
        """The next entry, as its protocol defines it."""
        data, ancillary, _, _ = self.socket.recvmsg(1 << 20, 1024)
        self.seals = None
        if ancillary:
            assert data == b"", "either a payload or memory"
            ((_, _, packed),) = ancillary
            (memory,) = array.array("i", packed)
            self.seals = fcntl.fcntl(memory, fcntl.F_GET_SEALS)
            data = os.pread(memory, os.fstat(memory).st_size, 0)
            os.close(memory)
        fields = {}
        while data:
            line, _, data = data.partition(b"\n")
            name, assigned, value = line.partition(b"=")
            if not assigned:
                (size,) = struct.unpack_from("<Q", data)
                value, end, data = data[8 : 8 + size], data[8 + size : 9 + size], data[9 + size :]
                assert (len(value), end) == (size, b"\n")
            fields[name.decode()] = value.decode()
        return fields


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the journal's socket is, as soon as there is one."""
    path = tmp_path / "journal"
    monkeypatch.setattr(journal, "SOCKET", str(path))
    return path


@pytest.fixture
def journald(place: Path) -> Iterator[Journald]:
    made = Journald(place)
    yield made
    made.socket.close()


class Stderr:
    """A pipe in place of stderr."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)

    def lines(self) -> list[str]:
        try:
            return os.read(self.reader, 1 << 20).decode().splitlines()
        except BlockingIOError:
            return []


@pytest.fixture
def stderr() -> Iterator[Stderr]:
    made = Stderr()
    yield made
    os.close(made.reader)
    os.close(made.writer)


@pytest.fixture
def logger(stderr: Stderr) -> Iterator[logging.Logger]:
    """A logger whose records, also those of its children, go to the journal."""
    outlet = OutletHandler(stderr.writer)
    outlet.setFormatter(JournalFormatter())
    handler = JournalHandler(outlet, ends_on_stderr=True)
    found = logging.getLogger("carp_fast.daemon")
    level = found.level
    found.addHandler(handler)
    found.setLevel(logging.INFO)
    yield found
    found.removeHandler(handler)
    found.setLevel(level)
    handler.close()


def test_an_entry_has_message_priority_and_identifier(
    logger: logging.Logger, journald: Journald, stderr: Stderr
) -> None:
    logger.warning("%s: up", "eth0")
    assert journald.entry() == {
        "MESSAGE": "eth0: up",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "carp-fast",
    }
    logger.info("a=b\n\nMESSAGE=c")
    assert journald.entry()["MESSAGE"] == "a=b\n\nMESSAGE=c", "one entry, no other field"
    try:
        raise ValueError("x")
    except ValueError:
        logger.exception("failed")
    found = journald.entry()
    assert found["MESSAGE"].startswith("failed\nTraceback (most recent call last):\n")
    assert found["MESSAGE"].endswith("ValueError: x")
    assert found["PRIORITY"] == "3"
    logger.debug("not shown")
    logger.info("")
    assert journald.entry()["MESSAGE"] == ""
    assert stderr.lines() == []


def test_a_text_may_have_any_characters() -> None:
    assert entry([("A", "\udcff\0é="), ("B_2", "")]) == b"A=\\udcff\0\xc3\xa9=\nB_2=\n"
    assert entry([("A", "b\n")]) == b"A\n\x02\0\0\0\0\0\0\0b\n\n"


@pytest.mark.usefixtures("logger")
def test_a_change_of_state_has_fields(journald: Journald) -> None:
    desk = Desk()
    host = desk.hosts.hosts[0]
    assert isinstance(host, VirtualHost)
    desk.hosts.hosts[0] = msgspec.structs.replace(host, labels=Labels(name="web"))
    desk.change("MASTER", "master_down")
    found = journald.entry()
    assert found["MESSAGE"] == "eth0/1: INIT -> MASTER (master_down)"
    assert {name: text for name, text in found.items() if name.startswith("CARP_")} == {
        "CARP_INTERFACE": "eth0",
        "CARP_VHID": "1",
        "CARP_STATE": "MASTER",
        "CARP_PREVIOUS": "INIT",
        "CARP_REASON": "master_down",
        "CARP_NAME": "web",
    }
    desk.tell(Undemoted)
    found = journald.entry()
    assert found["MESSAGE"] == "eth0/1: no longer demoted, tries again"
    assert {name for name in found if name.startswith("CARP_")} == {
        "CARP_INTERFACE",
        "CARP_VHID",
        "CARP_NAME",
    }


@pytest.mark.usefixtures("logger")
def test_other_lines_about_a_virtual_host_have_its_interface_and_vhid(journald: Journald) -> None:
    later: Any = lambda delay_s, callback: None  # noqa: E731
    HostLog(later).log(logging.INFO, "eth0.7/255", "still MASTER")
    found = journald.entry()
    assert (found["CARP_INTERFACE"], found["CARP_VHID"]) == ("eth0.7", "255")
    assert "CARP_NAME" not in found


@pytest.mark.usefixtures("logger")
def test_a_line_about_a_hook_has_the_name_of_its_virtual_host(
    journald: Journald, tmp_path: Path
) -> None:
    hook = Hook("up", str(tmp_path / "none"), "eth0", "192.0.2.1", None, {"CARP_NAME": "web"})

    async def scene() -> None:
        told = asyncio.get_running_loop().create_future()
        Hooks(asyncio.get_running_loop()).submit(7, "eth0/7", hook, told.set_result)
        await asyncio.wait_for(told, DEADLINE_S)

    asyncio.run(scene())
    found = journald.entry()
    assert found["MESSAGE"].startswith(f"eth0/7: up {tmp_path}/none: ")
    assert (found["CARP_VHID"], found["CARP_NAME"]) == ("7", "web")


def test_what_is_too_long_for_a_datagram_is_passed_as_sealed_memory(
    logger: logging.Logger, journald: Journald, stderr: Stderr
) -> None:
    text = "é\n" * (6 << 20)
    logger.info("%s", text)
    assert journald.entry()["MESSAGE"] == text
    assert journald.seals == SEALS, "older journalds want these and no others"
    logger.info("short")
    assert journald.entry()["MESSAGE"] == "short"
    assert journald.seals is None
    assert stderr.lines() == []


def test_without_memory_a_long_record_goes_to_stderr(
    logger: logging.Logger, journald: Journald, stderr: Stderr, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(journal, "sealed", refused)
    monkeypatch.setattr(OutletHandler, "waiting", 0)  # the pipe is too small for it
    logger.info("%s", "x" * (12 << 20))
    assert stderr.lines()[0].startswith("<6>xxx")
    logger.info("short")
    assert "did not take them: 1" in journald.entry()["MESSAGE"]
    assert journald.entry()["MESSAGE"] == "short"


def test_lines_go_to_stderr_while_there_is_no_journald_and_their_number_is_logged(
    logger: logging.Logger, place: Path, stderr: Stderr
) -> None:
    logger.info("first")
    logger.warning("two\nlines")
    assert stderr.lines() == ["<6>first", "<4>two", "<4>lines"]
    journald = Journald(place)
    logger.info("third")
    assert journald.entry() == {
        "MESSAGE": "log lines on stderr, without fields, since journald did not take them: 2",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "carp-fast",
    }
    assert journald.entry()["MESSAGE"] == "third"
    journald.socket.close()
    logger.info("fourth")
    assert stderr.lines() == ["<6>fourth"]


def test_a_journald_that_does_not_read_never_holds_the_daemon(
    logger: logging.Logger, journald: Journald, stderr: Stderr
) -> None:
    sent = 0
    while not (lines := stderr.lines()):
        logger.info("%d", sent)
        sent += 1
        assert sent < 1_000_000
    assert lines == [f"<6>{sent - 1}"]
    assert [journald.entry()["MESSAGE"] for _ in range(sent - 1)] == [
        str(number) for number in range(sent - 1)
    ]
    logger.info("again")
    assert "did not take them: 1" in journald.entry()["MESSAGE"]
    assert journald.entry()["MESSAGE"] == "again"


def test_lines_stay_in_order_while_stderr_has_some_waiting(
    logger: logging.Logger, place: Path, stderr: Stderr
) -> None:
    text = "x" * 100_000
    logger.info("%s", text)  # more than a pipe holds
    journald = Journald(place)
    logger.info("second")
    found = b""
    while not found.endswith(b"second\n"):
        try:
            found += os.read(stderr.reader, 1 << 20)
        except BlockingIOError:
            continue
    assert found.decode() == f"<6>{text}\n<6>second\n"
    journald.socket.setblocking(False)
    with pytest.raises(BlockingIOError):
        journald.entry()
    journald.socket.close()


def test_the_last_lines_of_a_process_go_to_stderr_which_knows_its_unit(
    logger: logging.Logger, journald: Journald, stderr: Stderr
) -> None:
    logger.error("a.toml: y", extra=ENDS)
    assert stderr.lines() == ["<3>a.toml: y"]
    logger.info("next")
    assert journald.entry()["MESSAGE"] == "next", "it was not one that journald did not take"
