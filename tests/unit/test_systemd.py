"""What the service manager hears: sd_notify messages on a real socket, log lines in each form."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from carp_fast.daemon import systemd
from carp_fast.daemon.systemd import Systemd, start_logging

DEADLINE_S = 60.0


class Manager:
    """The manager's end of the notification socket."""

    def __init__(self, address: str, bound_to: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(DEADLINE_S)
        self.socket.bind(bound_to)

    def heard(self) -> str:
        return self.socket.recv(65_536).decode()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    if request.param == "path":
        made = Manager(str(tmp_path / "notify"), str(tmp_path / "notify"))
    else:
        name = f"carp-fast-test-{os.getpid()}"
        made = Manager(f"@{name}", f"\0{name}")
    yield made
    made.socket.close()


def test_the_manager_hears_each_message_as_sd_notify_has_it(manager: Manager) -> None:
    environment = {"NOTIFY_SOCKET": manager.address, "PATH": "/bin"}
    notifier = Systemd.from_environment(environment)
    assert environment == {"PATH": "/bin"}, "hooks inherit nothing to speak with"
    assert notifier.present

    notifier.ready("1,000 virtual hosts")
    assert manager.heard() == "READY=1\nSTATUS=1,000 virtual hosts"
    notifier.ready()
    assert manager.heard() == "READY=1"
    notifier.status("two\nlines\r\nand READY=1")
    assert manager.heard() == "STATUS=two lines and READY=1"
    notifier.watchdog()
    assert manager.heard() == "WATCHDOG=1"
    notifier.stopping("resigning")
    assert manager.heard() == "STOPPING=1\nSTATUS=resigning"
    before_usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloading()
    after_usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    first, second = manager.heard().split("\n")
    assert first == "RELOADING=1"
    name, _, value = second.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before_usec <= int(value) <= after_usec
    notifier.close()
    assert not notifier.present
    notifier.ready()
    assert notifier.lost == 0


def test_the_manager_hears_of_the_process_that_goes_on_and_is_waited_for(manager: Manager) -> None:
    def read() -> None:
        heard.append(manager.heard())
        message, descriptors, _, _ = socket.recv_fds(manager.socket, 65_536, 4)
        heard.append(message.decode())
        for descriptor in descriptors:
            os.close(descriptor)
        closed.set()

    heard: list[str] = []
    closed = threading.Event()
    notifier = Systemd(manager.address)
    reading = threading.Thread(target=read)
    reading.start()
    notifier.succeeded_by(4712)
    assert closed.wait(DEADLINE_S)
    reading.join()
    assert heard == ["MAINPID=4712", "BARRIER=1"]
    notifier.close()


def test_a_manager_that_does_not_read_is_not_waited_for_long(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(systemd, "NOTIFY_WAIT_S", 0.01)
    notifier = Systemd(manager.address)
    notifier.succeeded_by(4712)
    assert "has not read the new process's id in time" in caplog.text
    notifier.close()


def test_a_successor_finds_the_manager_and_the_watchdog_in_its_environment(
    manager: Manager,
) -> None:
    given = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "20000000"}
    with_watchdog = Systemd.from_environment({**given, "WATCHDOG_PID": str(os.getpid())})
    assert with_watchdog.environment == given
    again = Systemd.from_environment(with_watchdog.environment)
    assert again.watchdog_interval_s() == 10
    without = Systemd.from_environment({"NOTIFY_SOCKET": manager.address})
    assert without.environment == {"NOTIFY_SOCKET": manager.address}
    assert Systemd(None).environment == {}
    for each in (with_watchdog, again, without):
        each.close()
    Systemd(None).succeeded_by(1)


def test_without_a_manager_nothing_happens(caplog: pytest.LogCaptureFixture) -> None:
    notifier = Systemd.from_environment({})
    notifier.ready("x")
    notifier.watchdog()
    notifier.close()
    assert not notifier.present
    assert notifier.watchdog_interval_s() is None
    assert notifier.lost == 0
    assert caplog.text == ""


@pytest.mark.parametrize("address", ["vsock:2:1234", "@", "notify"])
def test_unknown_kind_of_address_is_said(caplog: pytest.LogCaptureFixture, address: str) -> None:
    notifier = Systemd.from_environment({"NOTIFY_SOCKET": address})
    assert not notifier.present
    assert f"NOTIFY_SOCKET={address} is neither a path nor abstract" in caplog.text


def test_a_manager_that_is_gone_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Systemd(str(tmp_path / "notify"))
    notifier.ready()
    notifier.watchdog()
    assert notifier.lost == 2
    assert caplog.text.count("did not accept a message: No such file or directory") == 1
    notifier.close()


def test_a_full_queue_never_holds_the_daemon(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(systemd, "NOTIFY_WAIT_S", 0.05)
    notifier = Systemd(manager.address)
    sent = 0
    while not notifier.lost:
        notifier.status("x" * 1000)
        sent += 1
        assert sent < 100_000
    started_at = time.monotonic()
    notifier.stopping()
    assert 0.04 < time.monotonic() - started_at < DEADLINE_S, "what must arrive waits, but not long"
    assert notifier.lost == 2
    assert caplog.text.count("did not accept a message") == 1
    manager.heard()
    notifier.ready()
    assert notifier.lost == 2
    notifier.close()


@pytest.mark.parametrize(
    ("variables", "interval_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": str(os.getpid())}, 0.25),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_interval_is_the_managers_for_this_process(
    manager: Manager, variables: dict[str, str], interval_s: float | None
) -> None:
    notifier = Systemd.from_environment({"NOTIFY_SOCKET": manager.address, **variables})
    assert notifier.watchdog_interval_s() == interval_s
    notifier.close()
    assert Systemd.from_environment(dict(variables)).watchdog_interval_s() is None


# Log lines


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    """A logger of the package; what start_logging() changes is put back afterwards."""
    root = logging.getLogger()
    handlers, level, last_resort = root.handlers[:], root.level, logging.lastResort
    yield logging.getLogger("carp_fast.daemon.hooks")
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.lastResort = last_resort


def test_a_text_line_has_time_level_and_message(log: logging.Logger) -> None:
    stream = io.StringIO()
    assert start_logging("text", logging.INFO, stream) == "text"
    log.debug("not shown")
    log.warning("%s/%d: script failed", "eth0", 7)
    line = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARNING eth0/7: script failed\n"
    assert re.fullmatch(line, stream.getvalue())
    assert logging.lastResort is None


def test_text_time_is_utc() -> None:
    record = logging.LogRecord("carp_fast", logging.INFO, "", 0, "x", (), None)
    record.created = 1_767_225_600.0625
    assert systemd.TextFormatter().format(record) == "2026-01-01T00:00:00.062Z INFO x"


@pytest.mark.parametrize(
    ("level", "priority"),
    [
        (logging.CRITICAL, 2),
        (logging.ERROR, 3),
        (logging.WARNING, 4),
        (25, 6),
        (logging.INFO, 6),
        (logging.DEBUG, 7),
        (1, 7),
    ],
)
def test_a_journal_line_begins_with_its_priority(
    log: logging.Logger, level: int, priority: int
) -> None:
    stream = io.StringIO()
    start_logging("journal", 1, stream)
    log.log(level, "eth0/7: text")
    assert stream.getvalue() == f"<{priority}>eth0/7: text\n"


def test_journal_prefixes_every_line(log: logging.Logger) -> None:
    stream = io.StringIO()
    start_logging("journal", logging.INFO, stream)
    try:
        raise ValueError("two\nlines")
    except ValueError:
        log.exception("eth0/7: failed")
    log.info("")
    *lines, last = stream.getvalue().splitlines()
    assert lines[0] == "<3>eth0/7: failed"
    assert lines[1] == "<3>Traceback (most recent call last):"
    assert lines[-2:] == ["<3>ValueError: two", "<3>lines"]
    assert all(line.startswith("<3>") for line in lines)
    assert last == "<6>"


def test_a_json_line_has_the_fields_of_the_message(log: logging.Logger) -> None:
    stream = io.StringIO()
    start_logging("json", logging.INFO, stream)
    log.info("eth0/7: %s", 'a "b"\nc', extra={"carp": {"interface": "eth0", "vhid": 7}})
    try:
        raise ValueError("x")
    except ValueError:
        log.exception("failed")
    first, second = map(json.loads, stream.getvalue().splitlines())
    at = first.pop("time")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", at)
    assert first == {
        "level": "info",
        "logger": "carp_fast.daemon.hooks",
        "message": 'eth0/7: a "b"\nc',
        "interface": "eth0",
        "vhid": 7,
    }
    assert second["level"] == "error"
    assert second["exception"].endswith("ValueError: x")
    assert "interface" not in second


def test_journal_is_chosen_where_stderr_is_the_journal(
    log: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = os.fstat(2)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    assert start_logging() == "text"
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino + 1}")
    assert start_logging() == "text"
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    assert start_logging() == "journal"
    assert start_logging("json") == "json"
    assert len(logging.getLogger().handlers) == 1
