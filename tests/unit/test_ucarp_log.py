"""The log of `carp-fast ucarp` in syslog: nothing waits for it, and what it loses is counted."""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from carp_fast.ucarp import log


class Daemon:
    """A syslog daemon that reads when it is asked to."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)

    def lines(self) -> list[str]:
        found = []
        while True:
            try:
                found.append(self.socket.recv(4_096).decode())
            except BlockingIOError:
                return found


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "log"
    monkeypatch.setattr(log, "SYSLOG_SOCKET", str(path))
    return path


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    made = logging.Logger("carp_fast.ucarp")
    yield made
    for handler in made.handlers:
        handler.close()


def handler_for(logger: logging.Logger) -> None:
    handler = log.Syslog(3)
    handler.setFormatter(log.ForSyslog())
    logger.addHandler(handler)


def test_a_line_is_sent_as_syslog_expects_it(path: Path, logger: logging.Logger) -> None:
    daemon = Daemon(path)
    handler_for(logger)
    logger.warning("link down")
    (line,) = daemon.lines()
    assert re.fullmatch(
        r"<28>\w{3} [ \d]\d \d\d:\d\d:\d\d ucarp\[\d+\]: \[WARNING\] link down", line
    )
    daemon.socket.close()


def test_a_daemon_that_does_not_read_holds_nothing_up_and_hears_how_much_it_lost(
    path: Path, logger: logging.Logger
) -> None:
    daemon = Daemon(path)
    handler_for(logger)
    for number in range(10_000):  # more than the queue of any datagram socket
        logger.info("%d", number)
    taken = daemon.lines()
    assert 0 < len(taken) < 10_000
    logger.info("after")
    lost, after = daemon.lines()
    assert lost.endswith(f"[WARNING] log lines that syslog did not take: {10_000 - len(taken)}")
    assert after.endswith("[INFO] after")
    daemon.socket.close()


def test_a_daemon_that_comes_later_or_again_gets_the_lines_from_then_on(
    path: Path, logger: logging.Logger
) -> None:
    handler_for(logger)
    logger.info("before")
    daemon = Daemon(path)
    logger.info("first")
    lost, first = daemon.lines()
    assert lost.endswith("[WARNING] log lines that syslog did not take: 1")
    assert first.endswith("first")
    daemon.socket.close()
    path.unlink()
    daemon = Daemon(path)
    logger.info("again")
    assert [line.rpartition("] ")[2] for line in daemon.lines()] == ["again"]
    daemon.socket.close()
