"""Log lines on a descriptor whose reader is slow, asleep or gone."""

from __future__ import annotations

import logging
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from carp_fast.daemon import outlet
from carp_fast.daemon.outlet import Outlet, OutletHandler

DEADLINE_S = 60.0
Ends = tuple[int, int]
"""(the reader's descriptor, the one that is written)."""


@pytest.fixture(params=["pipe", "socket", "pipe without /proc"])
def ends(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ends]:
    with ExitStack() as stack:
        if request.param == "socket":
            reader, writer = socket.socketpair()
            stack.callback(reader.close)
            stack.callback(writer.close)
            yield reader.fileno(), writer.fileno()
            return
        read_fd, write_fd = os.pipe()
        stack.callback(os.close, write_fd)
        stack.callback(os.close, read_fd)
        if request.param == "pipe without /proc":

            def refuse(path: object, *_: object) -> int:
                raise PermissionError(path)

            monkeypatch.setattr(os, "open", refuse)
        yield read_fd, write_fd


def dropped(count: int) -> str:
    return f"{count} dropped\n"


def within_the_deadline(work: Callable[[], object]) -> None:
    """Runs work in a thread; fails if it does not end."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()


def put_all(lines: Outlet, texts: list[str]) -> None:
    def fill() -> None:
        for text in texts:
            lines.put(text)

    within_the_deadline(fill)


def read_until(descriptor: int, last: str) -> list[str]:
    """Lines as they come, up to and including one."""
    text = b""
    while not text.endswith(last.encode() + b"\n"):
        piece = os.read(descriptor, 65_536)
        assert piece
        text += piece
    return text.decode().splitlines()


def test_lines_are_written_immediately_and_in_order(ends: Ends) -> None:
    read_fd, write_fd = ends
    lines = Outlet(write_fd, dropped)
    lines.put("one\n")
    lines.put("zwei \u00e4 \ud800\n")
    assert lines.waiting == 0
    assert read_until(read_fd, "zwei \u00e4 \\ud800") == ["one", "zwei \u00e4 \\ud800"]
    lines.close()


def test_what_does_not_fit_waits_and_comes_whole_once_it_is_read(ends: Ends) -> None:
    read_fd, write_fd = ends
    lines = Outlet(write_fd, dropped)
    sent = [f"{number} {'x' * 5_000}" for number in range(500)]
    put_all(lines, [f"{line}\n" for line in sent])
    assert lines.waiting > 0
    assert read_until(read_fd, sent[-1]) == sent
    assert lines.flush(DEADLINE_S)
    lines.close()


def test_what_is_too_much_to_wait_is_dropped_and_its_number_reported(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outlet, "WAITING_BYTES_MAX", 1_000_000)
    read_fd, write_fd = ends
    lines = Outlet(write_fd, dropped)
    put_all(lines, [f"{number} {'x' * 1_000}\n" for number in range(3_000)])
    assert lines.waiting <= 1_000_000
    text = ""
    while not re.search(r"^\d+ dropped\n\Z", text, re.MULTILINE):
        text += os.read(read_fd, 65_536).decode()
    *written, last = text.splitlines()
    assert written == [f"{number} {'x' * 1_000}" for number in range(len(written))]
    assert last == f"{3_000 - len(written)} dropped"
    lines.put("after\n")
    assert read_until(read_fd, "after") == ["after"]
    lines.close()


def test_the_end_does_not_wait_for_a_reader_that_reads_nothing(ends: Ends) -> None:
    _, write_fd = ends
    lines = Outlet(write_fd, dropped)
    put_all(lines, ["x" * 100_000] * 50)
    assert not lines.flush(0.05)
    within_the_deadline(lines.close)
    assert lines.waiting == 0


def test_a_reader_that_has_gone_stops_nobody() -> None:
    read_fd, write_fd = os.pipe()
    lines = Outlet(write_fd, dropped)
    os.close(read_fd)
    lines.put("nobody reads this\n")
    assert lines.waiting == 0
    lines.close()
    os.close(write_fd)


def test_others_who_share_the_descriptor_find_it_as_it_was() -> None:
    read_fd, write_fd = os.pipe()
    lines = Outlet(write_fd, dropped)
    lines.put("one\n")
    assert os.get_blocking(write_fd)
    lines.close()
    os.write(write_fd, b"two\n")
    assert read_until(read_fd, "two") == ["one", "two"]
    os.close(read_fd)
    os.close(write_fd)


def test_the_handler_reports_dropped_lines_in_the_log_s_own_format(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outlet, "WAITING_BYTES_MAX", 100_000)
    read_fd, write_fd = os.pipe()
    handler = OutletHandler(write_fd)
    handler.setFormatter(logging.Formatter("<%(levelname)s> %(message)s"))
    logger = logging.Logger("test")
    logger.addHandler(handler)

    def fill() -> None:
        for _ in range(500):
            logger.info("x" * 999)

    within_the_deadline(fill)
    text = b""
    while b"dropped" not in text:
        text += os.read(read_fd, 65_536)
    found = re.search(rb"^<WARNING> log lines dropped, since nothing read them: (\d+)$", text, re.M)
    assert found is not None
    assert int(found[1]) + text.count(b"<INFO>") == 500
    handler.close()
    os.close(read_fd)
    os.close(write_fd)


@pytest.mark.parametrize(
    "start",
    [
        "from carp_fast.daemon.systemd import start_logging; start_logging('text')",
        "from carp_fast.daemon.systemd import start_logging; start_logging('json')",
        "from carp_fast.ucarp.log import start_logging;"
        " start_logging(facility=None, debug=False, standard=True)",
    ],
)
def test_a_process_whose_output_nobody_reads_goes_on_and_ends(start: str) -> None:
    program = f"{start}; import logging; log = logging.getLogger('carp_fast.ucarp')\n"
    program += "for _ in range(5_000): log.info('x' * 100); log.warning('x' * 100)"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.wait(DEADLINE_S) == 0
