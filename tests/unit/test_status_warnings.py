"""What status and explain report of wrong digests and of a second master."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from carp_fast.config.load import Settings, VirtualHost
from carp_fast.control.documents import HELPER_RUNS
from carp_fast.control.requests import StatusRequest
from carp_fast.daemon import explain_text, explain_words
from carp_fast.daemon.status import WRONG_DIGEST_LASTS_NS, hooks_fail, second_master, warnings
from carp_fast.daemon.table import Hosts
from carp_fast.engine._engine import Engine
from carp_fast.engine.copies import HostCopy, SourceCopy
from carp_fast.engine.reports import OtherMaster, Released, WrongDigest
from tests.support.asked import Asked
from tests.support.desk import Desk
from tests.support.segment import SECOND_NS, START_NS, ip

NOW_NS = START_NS + 1_000 * SECOND_NS
MAC = b"\x02\0\0\0\0\x03"


def source(ago_s: float, address: str = "192.0.2.3", **given: Any) -> SourceCopy:
    usual: dict[str, Any] = {
        "family": 4, "mac": MAC, "advbase": 1, "advskew": 0, "demote": 0, "counter": 7,
        "genuine": True, "current": False,
    }  # fmt: skip
    heard_ns = NOW_NS - int(ago_s * SECOND_NS)
    return SourceCopy(source=ip(address), heard_ns=heard_ns, **{**usual, **given})


def copied(state: str, *peers: SourceCopy, since_s: float = 100, **fields: Any) -> HostCopy:
    engine = Engine()
    hosts = Hosts()
    host = VirtualHost("eth0", 42, ("192.0.2.10/24",), (), Settings(passphrase=b"secret"))
    hosts.take(host)
    engine.set_interface(0, START_NS, source=ip("192.0.2.2"))
    engine.add(0, hosts.prepare(host), START_NS)
    since_ns = NOW_NS - int(since_s * SECOND_NS)
    return msgspec.structs.replace(
        engine.host(0), state=state, since_ns=since_ns, peers=list(peers), **fields
    )


SECOND: dict[str, tuple[HostCopy, bool]] = {
    "a MASTER hears another": (copied("MASTER", source(0.4)), True),
    "a MASTER hears one that is slow": (copied("MASTER", source(29, advbase=10)), True),
    "a MASTER hears one over IPv6": (copied("MASTER", source(0.4, "fe80::3", family=6)), True),
    "a MASTER hears no other": (copied("MASTER"), False),
    "a MASTER heard the one before it": (copied("MASTER", source(2), since_s=1), False),
    "a MASTER heard the last word of the one before it": (
        copied("MASTER", source(0.9), since_s=1), False
    ),
    "a MASTER heard the next advertisement of the one before it": (
        copied("MASTER", source(0.4), since_s=1), True
    ),
    "a MASTER heard one that has ended": (copied("MASTER", source(3.1)), False),
    "a MASTER heard one resign": (copied("MASTER", source(0.4, advbase=255)), False),
    "a MASTER hears a twin": (copied("MASTER", source(0.4, "192.0.2.2")), False),
    "a BACKUP hears two": (copied("BACKUP", source(0.4, current=True), source(1.2)), True),
    "a BACKUP hears one": (copied("BACKUP", source(0.4, current=True)), False),
    "a BACKUP hears one over both families": (
        copied("BACKUP", source(0.4, current=True), source(0.4, "fe80::3", family=6, current=True)),
        False,
    ),
    "a BACKUP heard the last one": (
        copied("BACKUP", source(0.4, current=True), source(1.6)), False
    ),
    "INIT": (copied("INIT", source(0.4)), False),
}  # fmt: skip


@pytest.mark.parametrize("case", SECOND)
def test_a_second_master_is_one_that_is_heard_now(case: str) -> None:
    copy, found = SECOND[case]
    assert (second_master(copy, NOW_NS) is not None) == found
    assert ("second_master" in warnings(copy, None, NOW_NS)) == found


def test_a_second_master_is_named_with_its_mac_and_when_it_was_heard() -> None:
    copy = copied("MASTER", source(0.4))
    assert warnings(copy, None, NOW_NS) == {
        "second_master": "192.0.2.3 (02:00:00:00:00:03) is MASTER, too, heard 0.4 s ago"
    }
    copy = copied("MASTER", source(0.4, mac=bytes(6)))
    assert warnings(copy, None, NOW_NS) == {
        "second_master": "192.0.2.3 is MASTER, too, heard 0.4 s ago"
    }


@pytest.mark.parametrize(("state", "word"), [("MASTER", "other_master"), ("BACKUP", "bad_auth")])
def test_wrong_digests_are_reported_while_they_are_heard(state: str, word: str) -> None:
    copy = copied(state)
    copy.counters["bad_auth"] = 1_234
    text = "1,234 advertisements with another passphrase or address list"
    assert warnings(copy, NOW_NS - WRONG_DIGEST_LASTS_NS + 1, NOW_NS) == {word: text}
    assert warnings(copy, NOW_NS - WRONG_DIGEST_LASTS_NS, NOW_NS) == {}
    assert warnings(copy, None, NOW_NS) == {}
    slow = msgspec.structs.replace(copy, interval_ns=255 * SECOND_NS)
    assert warnings(slow, NOW_NS - 700 * SECOND_NS, NOW_NS) == {word: text}


def test_the_reports_of_wrong_digests_are_kept_until_the_slot_is_free() -> None:
    desk = Desk()
    desk.tell(OtherMaster, at_ns=5)
    desk.tell(WrongDigest, slot=1, at_ns=6)
    assert desk.reports.wrong_digest_ns == {0: 5, 1: 6}
    desk.tell(OtherMaster, at_ns=7)
    desk.tell(Released, slot=1)
    assert desk.reports.wrong_digest_ns == {0: 7}


def test_problems_have_them_and_explain_has_what_to_do() -> None:
    asked = Asked().become("MASTER")
    now_ns = asked.now_ns
    asked.problems.wrong_digest_ns[0] = 1 << 62  # status takes its time from the clock
    [(_, entry)] = asked.status.matching([(0, asked.engine.host(0))], StatusRequest(problems=True))
    assert entry.warnings.keys() == {"other_master"}
    (problem,) = explain_text.problems(entry)
    assert problem.startswith("other_master: ")
    assert explain_text.problem_kinds(entry) == ["other_master"]
    assert asked.now_ns == now_ns
    line = asked.sections()["heard masters"][0]
    assert line.startswith("other_master: ")
    assert "try carp-fast dump -i eth0 -c FILE" in line


def test_every_warning_has_a_hint() -> None:
    words = {"duplicate_source"}
    for state in ("MASTER", "BACKUP"):
        peers = source(0.4, current=state == "BACKUP"), source(0.5, "192.0.2.4")
        copy = copied(state, *peers, duplicate_source=MAC)
        words |= warnings(copy, NOW_NS, NOW_NS).keys()
    assert words == explain_words.WARNING_HINTS.keys()


@pytest.mark.parametrize(
    ("up", "down", "helper", "fails"),
    [
        ("/bin/up", None, "killed by SIGKILL", True),
        (None, "/bin/down", "killed by SIGKILL", True),
        ("/bin/up", "/bin/down", HELPER_RUNS, False),
        ("/bin/up", "/bin/down", None, False),
        ("module:function", None, "killed by SIGKILL", False),
        (None, None, "killed by SIGKILL", False),
    ],
)
def test_hooks_that_are_programs_fail_without_the_helper(
    up: str | None, down: str | None, helper: str | None, fails: bool
) -> None:
    keys = Settings(passphrase=b"secret", up=up, down=down)
    found = hooks_fail(VirtualHost("eth0", 42, ("192.0.2.10/24",), (), keys), helper)
    text = "its hooks cannot be run: the privileged helper has ended (killed by SIGKILL); a restart"
    assert found == ({"hooks_fail": f"{text} starts it again"} if fails else {})


def test_explain_tells_that_hooks_fail_where_it_tells_the_state() -> None:
    asked = Asked({"up": "/bin/up"}).become("MASTER")
    asked.status.helper = lambda: "killed by SIGKILL"
    sections = asked.sections()
    name, *others = sections
    assert any(line.startswith("hooks_fail: its hooks cannot") for line in sections[name])
    assert not any("hooks_fail" in line for other in others for line in sections[other])
