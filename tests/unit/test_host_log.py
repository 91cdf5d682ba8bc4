"""Log lines about virtual hosts: a few one by one, many in summary, none lost."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from itertools import count

import pytest

from carp_fast.daemon import host_log
from carp_fast.daemon.host_log import LINES_A_SECOND, HostLog
from carp_fast.daemon.systemd import JsonFormatter
from tests.support.desk import Desk

INFO, WARNING, ERROR = logging.INFO, logging.WARNING, logging.ERROR
TAKEN = "BACKUP -> MASTER (master_down)"


class Later:
    """A loop's call_later, whose time a test moves."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, Callable[[], None]]] = []

    def __call__(self, delay_s: float, call: Callable[[], None]) -> None:
        self.calls.append((delay_s, call))

    def pass_time(self) -> None:
        calls, self.calls = self.calls, []
        for _, call in calls:
            call()


@pytest.fixture(autouse=True)
def at_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(INFO, "carp_fast.daemon")


def levels(caplog: pytest.LogCaptureFixture) -> set[int]:
    return {record.levelno for record in caplog.records}


def test_few_lines_are_logged_one_by_one_and_nothing_follows(
    caplog: pytest.LogCaptureFixture,
) -> None:
    later = Later()
    log = HostLog(later)
    for vhid in range(LINES_A_SECOND):
        log.log(INFO, f"eth0/{vhid}", TAKEN)
    assert caplog.messages == [f"eth0/{vhid}: {TAKEN}" for vhid in range(LINES_A_SECOND)]
    assert [delay_s for delay_s, _ in later.calls] == [1.0]
    later.pass_time()
    assert len(caplog.messages) == LINES_A_SECOND
    assert later.calls == []


def test_many_lines_are_one_for_each_interface_and_single_ones_at_debug(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "carp_fast.daemon")
    later = Later()
    log = HostLog(later)
    for vhid in range(1, 256):
        log.log(INFO, f"eth0/{vhid}", TAKEN)
        log.log(INFO, f"eth0.7/{vhid}", TAKEN)
    debug = [record for record in caplog.records if record.levelno == logging.DEBUG]
    assert len(debug) == 510 - LINES_A_SECOND
    assert debug[-1].getMessage() == f"eth0.7/255: {TAKEN}"
    assert len(caplog.records) == 510
    caplog.clear()
    later.pass_time()
    assert caplog.messages == [
        "490 lines about virtual hosts beyond LINES_A_SECOND (20), in summary:",
        f"eth0: 245 {TAKEN}",
        f"eth0.7: 245 {TAKEN}",
    ]
    assert levels(caplog) == {INFO}


def test_a_summary_has_every_kind_with_its_number_and_names_the_few(
    caplog: pytest.LogCaptureFixture,
) -> None:
    later = Later()
    log = HostLog(later)
    for vhid in range(1, 201):
        log.log(INFO, f"eth0/{vhid}", TAKEN)
    log.log(INFO, "eth0/7", "MASTER -> BACKUP (address_lost)")
    for vhid in (8, 9, 10, 11):
        log.log(INFO, f"eth0/{vhid}", "MASTER -> INIT (resigned)")
    later.pass_time()
    assert caplog.messages[-1] == (
        f"eth0: 180 {TAKEN}; 4 MASTER -> INIT (resigned); 1 MASTER -> BACKUP (address_lost): 7"
    )


def test_lines_in_json_have_interface_and_vhid(caplog: pytest.LogCaptureFixture) -> None:
    log = HostLog(Later())
    log.log(INFO, "eth0.7/255", TAKEN)
    (record,) = caplog.records
    line = json.loads(JsonFormatter().format(record))
    assert (line["message"], line["interface"], line["vhid"]) == (
        f"eth0.7/255: {TAKEN}", "eth0.7", 255
    )  # fmt: skip
    log.log(INFO, "eth0.7/255", TAKEN, fields={"state": "MASTER", "name": "web"})
    line = json.loads(JsonFormatter().format(caplog.records[-1]))
    assert (line["vhid"], line["state"], line["name"]) == (255, "MASTER", "web")


def test_lines_with_details_are_counted_by_their_kind(caplog: pytest.LogCaptureFixture) -> None:
    later = Later()
    log = HostLog(later)
    for vhid in range(1, 101):
        log.log(ERROR, f"eth0/{vhid}", f"adding 10.0.0.{vhid}/32 failed", kind="adding failed")
    later.pass_time()
    assert caplog.messages[0] == "eth0/1: adding 10.0.0.1/32 failed"
    assert caplog.messages[-1] == "eth0: 80 adding failed"


def test_each_second_begins_anew(caplog: pytest.LogCaptureFixture) -> None:
    later = Later()
    log = HostLog(later)
    for _ in range(3):
        for vhid in range(1, 31):
            log.log(INFO, f"eth0/{vhid}", TAKEN)
        later.pass_time()
    assert len(caplog.messages) == 3 * (LINES_A_SECOND + 2)
    assert caplog.messages[-1] == f"eth0: 10 {TAKEN}"


def test_many_transitions_leave_room_for_errors(caplog: pytest.LogCaptureFixture) -> None:
    later = Later()
    log = HostLog(later)
    for vhid in range(1, 256):
        log.log(INFO, f"eth0/{vhid}", TAKEN)
    log.log(ERROR, "eth0/7", "address_lost")
    assert caplog.messages[-1] == "eth0/7: address_lost"
    assert caplog.records[-1].levelno == ERROR


def test_a_summary_has_the_level_of_its_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(WARNING, "carp_fast.daemon")
    later = Later()
    log = HostLog(later)
    for vhid in range(1, 256):
        log.log(INFO, f"eth0/{vhid}", TAKEN)
        log.log(WARNING, f"eth0/{vhid}", "bad_auth")
    later.pass_time()
    assert levels(caplog) == {WARNING}
    assert caplog.messages[-1] == "eth0: 235 bad_auth"
    assert len(caplog.messages) == LINES_A_SECOND + 2


def test_a_flush_at_the_end_leaves_nothing_unlogged(caplog: pytest.LogCaptureFixture) -> None:
    later = Later()
    log = HostLog(later)
    for vhid in range(1, 256):
        log.log(INFO, f"eth0/{vhid}", "MASTER -> INIT (resigned)")
    log.flush()
    assert caplog.messages[-1] == "eth0: 235 MASTER -> INIT (resigned)"
    before = len(caplog.messages)
    later.pass_time()
    log.flush()
    assert len(caplog.messages) == before


def test_interfaces_and_kinds_beyond_their_limits_share_a_line_with_their_numbers(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_log, "SUMMARIES_A_SECOND", 2)
    monkeypatch.setattr(host_log, "KINDS_MAX", 2)
    later = Later()
    log = HostLog(later)
    numbers = count()
    for _ in range(LINES_A_SECOND):
        log.log(INFO, "eth0/1", "first")
    for interface in range(5):
        for kind in range(4):
            for _ in range(4 - kind):
                log.log(INFO, f"v{interface}/{next(numbers)}", f"kind {kind}")
    later.pass_time()
    summaries = caplog.messages[LINES_A_SECOND:]
    assert summaries[0].startswith("50 lines")
    assert summaries[1] == "v0: 4 kind 0; 3 kind 1: 4, 5, 6; 3 of 2 other kinds"
    assert summaries[-1] == "3 more interfaces: 12 kind 0; 9 kind 1; 9 of 2 other kinds"
    assert len(summaries) == 4


def test_every_line_about_a_virtual_host_is_limited(caplog: pytest.LogCaptureFixture) -> None:
    # A fault of a link or a switch concerns every virtual host in the same second.
    for kind, given in Desk.ABOUT_HOSTS:
        desk = Desk()
        caplog.clear()
        for _ in range(100):
            desk.tell(kind, **given)
        assert len(caplog.messages) == LINES_A_SECOND, kind
        desk.pass_time()
        summary = caplog.messages[-1]
        assert summary.startswith("eth0: 80 "), kind
        assert levels(caplog) == {caplog.records[0].levelno}
        assert not any(text in summary for text in ("192.0.2.1", "02:00")), kind


def test_changes_of_state_are_limited_and_all_of_them_published(
    caplog: pytest.LogCaptureFixture,
) -> None:
    desk = Desk()
    for _ in range(100):
        desk.change("MASTER", "master_down")
        desk.change("BACKUP", "faster_master", peer=bytes((192, 0, 2, 99)))
    assert len(caplog.messages) == LINES_A_SECOND
    assert len(desk.events) == 200
    desk.pass_time()
    assert caplog.messages[-2:] == [
        "180 lines about virtual hosts beyond LINES_A_SECOND (20), in summary:",
        "eth0: 90 BACKUP -> MASTER (master_down);"
        " 90 MASTER -> BACKUP (faster_master from 192.0.2.99)",
    ]
