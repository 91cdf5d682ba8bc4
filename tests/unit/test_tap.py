"""What this machine sends for our virtual hosts, and whether somebody else sent it."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable
from typing import Any, cast

import msgspec
import pytest

from carp_fast.config.load import Settings, VirtualHost
from carp_fast.control.documents import StateEvent
from carp_fast.daemon.feed import Feed
from carp_fast.daemon.network import Sources
from carp_fast.daemon.table import BACKUP, INIT, MASTER, Hosts
from carp_fast.daemon.tap import (
    CONFIRMED_AFTER,
    OURS_A_SECOND,
    SILENT_AFTER,
    STAYS_FOR,
    Tap,
    ucarp_of,
)
from carp_fast.net.filters import ALL_VHIDS, mac_end
from carp_fast.net.interfaces import Interface
from tests.support.segment import advertisement, carp_header, ip, ipv4_frame

OURS, MAC, UCARP_MAC = "10.77.0.2", b"\x02\0\0\0\0\x01", b"\0\0\x5e\0\0\x2a"
LISTEN_S = 2.1


class RecordedInUse:
    def __init__(self) -> None:
        self.overheard: set[int] = set()
        self.locked_out: set[int] = set()

    def overhear(self, slot: int, who: str) -> None:
        self.overheard.add(slot)

    def free(self, slot: int) -> None:
        self.overheard.discard(slot)


class KnownNetwork:
    def __init__(self) -> None:
        self.now = {"eth0": Interface("eth0", 7, MAC, True, ())}
        self.sources = {"eth0": Sources(ip(OURS), None, False)}


class Stage:
    """eth0/42, our advskew 100, in a state; what this machine sends is given as frames."""

    def __init__(self, state: int, **settings: Any) -> None:
        given: dict[str, Any] = {"passphrase": b"secret", "advskew": 100, **settings}
        self.hosts = Hosts()
        self.hosts.take(VirtualHost("eth0", 42, ("10.77.0.100/24",), (), Settings(**given)))
        self.hosts.states[0] = state
        self.in_use: Any = cast("Any", RecordedInUse())
        network: Any = KnownNetwork()
        orders: Any = None
        self.counter = 1000
        self.chance = True
        self.tap = Tap(self.hosts, orders, network, self.in_use, Feed(), yields=lambda: self.chance)

    @property
    def barred(self) -> bool:
        return 0 in self.in_use.overheard

    def ours(self, **carp: Any) -> bytes:
        self.counter += 1
        return advertisement(
            source=OURS, source_mac=MAC, **({"advskew": 100, "counter": self.counter} | carp)
        )

    def listen(self, *frames: bytes, meanwhile: Callable[[], object] = lambda: None) -> None:
        """One time of listening; `meanwhile` is called before it is judged."""
        self.tap._heard = {}
        self.tap._begin()
        for frame in frames:
            self.tap.on_frame("eth0", frame)
        meanwhile()
        self.tap._judge(LISTEN_S)
        self.tap._changed.clear()
        self.tap._listening = False
        if self.barred:
            self.hosts.states[0] = INIT


def other(advskew: int = 0, mac: bytes = UCARP_MAC, source: str = OURS, **carp: Any) -> bytes:
    return advertisement(source=source, source_mac=mac, advskew=advskew, **carp)


@pytest.mark.parametrize("state", [INIT, BACKUP])
def test_what_a_virtual_host_that_is_not_master_sends_somebody_else_sent(state: int) -> None:
    stage = Stage(state)
    stage.listen()
    assert not stage.barred
    stage.listen(stage.ours())
    assert stage.barred


def test_what_a_master_sends_itself_is_no_company() -> None:
    stage = Stage(MASTER)
    for _ in range(10):
        stage.listen(stage.ours(), stage.ours(), stage.ours())
    # It went on above what it heard: once, and not each time.
    stage.counter += 1_000_000
    before = stage.ours()
    stage.counter += 1_000_000
    stage.listen(before, stage.ours())
    stage.listen(stage.ours(), stage.ours())
    assert not stage.barred
    assert not stage.tap._other_masters


def test_a_master_whose_queue_refuses_most_attempts_has_no_company() -> None:
    """Each attempt takes a counter, and with waits that double there are seven in a second."""
    stage = Stage(MASTER)
    for _ in range(10):
        frames = []
        for _ in range(3):
            stage.counter += 7
            frames.append(stage.ours())
        stage.listen(*frames)
        assert not stage.tap._other_masters


def test_a_master_gives_way_to_who_is_faster_once_that_is_certain() -> None:
    stage = Stage(MASTER)
    for _ in range(CONFIRMED_AFTER - 1):
        stage.listen(stage.ours(), other(50))
        assert not stage.barred
    stage.listen(stage.ours(), other(50))
    assert stage.barred


def test_company_that_is_heard_now_and_then_is_not_certain() -> None:
    stage = Stage(MASTER)
    for _ in range(10):
        stage.listen(stage.ours(), other(50))
        stage.listen(stage.ours())
    assert not stage.barred


def test_a_slower_one_is_waited_for_but_not_for_ever() -> None:
    stage = Stage(MASTER)
    for _ in range(STAYS_FOR):
        stage.listen(stage.ours(), other(200))
        assert not stage.barred
    stage.chance = False
    stage.listen(stage.ours(), other(200))
    assert not stage.barred
    stage.chance = True
    stage.listen(stage.ours(), other(200))
    assert stage.barred


@pytest.mark.parametrize("mac", [UCARP_MAC, MAC])
def test_between_equals_chance_decides(mac: bytes) -> None:
    """From our own MAC, too: a daemon as ours, with a lock file of its own."""
    stage = Stage(MASTER)
    stage.chance = False
    for number in range(9):
        stage.listen(
            stage.ours(),
            other(100, mac, counter=10**12 + 2 * number),
            stage.ours(),
            other(100, mac, counter=10**12 + 2 * number + 1),
        )
    assert not stage.barred
    stage.chance = True
    stage.listen(stage.ours(), other(100, mac, counter=10**13))
    assert stage.barred


def test_two_daemons_with_lock_files_of_their_own_come_to_one_master() -> None:
    """Each hears what both send; each decides by a chance of its own."""
    left = 0
    for seed in range(200):
        both = [Stage(MASTER), Stage(MASTER)]
        both[1].counter = 10**12
        draw = [bool(seed >> bit & 1) for bit in range(8)] + [True, False] * 50
        for _ in range(40):
            masters = [each for each in both if each.hosts.states[0] == MASTER]
            frames = [each.ours() for each in masters for _ in range(2)]
            for each in both:
                each.chance = draw.pop(0)
                if not each.barred and each.hosts.states[0] == INIT:
                    each.hosts.states[0] = MASTER  # freed, and nobody is heard
                each.listen(*frames)
            if sum(each.hosts.states[0] == MASTER for each in both) == 1:
                break
        else:
            left += 1
    assert left == 0


def test_a_duplicate_of_our_own_counters_is_company() -> None:
    stage = Stage(MASTER)
    for _ in range(CONFIRMED_AFTER):
        frame = stage.ours()
        stage.listen(frame, frame)
    assert stage.barred


NOT_OF_OURS = {
    "another key": other(passphrase=b"another"),
    "another vhid": other(vhid=43),
    "another group": advertisement(destination="239.0.0.1"),
    "forwarded": ipv4_frame(carp_header(), ttl=254),
    "a resignation": other(255, advbase=255),
    "VRRP": ipv4_frame(b"\x21\x2a\x64\x01\x00\x01" + bytes(14)),
    "cut off": other()[:40],
}


@pytest.mark.parametrize("what", NOT_OF_OURS)
def test_what_is_no_advertisement_of_ours_is_passed_over(what: str) -> None:
    for state in (BACKUP, MASTER):
        stage = Stage(state)
        for _ in range(3):
            stage.listen(NOT_OF_OURS[what])
        assert not stage.barred


def test_who_was_master_for_a_part_of_the_time_is_judged_the_next_time() -> None:
    stage = Stage(BACKUP)
    event = StateEvent("", "eth0", 42, "BACKUP", "MASTER", "", None)
    stage.tap._listening = True
    stage.tap.on_event(event)
    stage.listen(stage.ours())
    assert not stage.barred
    stage.tap.on_event(msgspec.structs.replace(event, previous="INIT"))
    stage.listen(other())
    assert stage.barred, "from INIT to BACKUP it sent nothing"


def test_changes_of_state_are_not_remembered_while_nobody_listens() -> None:
    stage = Stage(BACKUP)
    for vhid in range(1, 256):
        stage.tap.on_event(StateEvent("", "eth0", vhid, "MASTER", "BACKUP", "", None))
    assert not stage.tap._changed
    assert stage.tap._wake.is_set()


class ReloadedStage(Stage):
    """While it listens, eth0/42 is removed, and its slot is eth1/`vhid`'s from then on."""

    def reload(self, interface: str, vhid: int, **settings: Any) -> None:
        before = self.hosts.hosts[0]
        assert before is not None
        self.hosts.give_back(0)
        given: dict[str, Any] = {"passphrase": b"secret", "advskew": 100, **settings}
        host = VirtualHost(interface, vhid, ("10.77.0.100/24",), (), Settings(**given))
        assert self.hosts.take(host) == 0
        assert host.identity != before.identity

    def judge(self) -> None:
        self.tap._judge(LISTEN_S)


ANOTHER: dict[str, dict[str, Any]] = {
    "interface": {"interface": "eth1", "vhid": 42},
    "vhid": {"interface": "eth0", "vhid": 43},
    "group": {"interface": "eth0", "vhid": 42, "destination": "239.0.0.1"},
}


@pytest.mark.parametrize("another", ANOTHER)
def test_what_was_heard_for_a_removed_one_is_not_for_who_has_its_slot(another: str) -> None:
    stage = ReloadedStage(BACKUP)
    stage.tap.on_frame("eth0", other())
    stage.reload(**ANOTHER[another])
    stage.tap.on_frame("eth0", other())  # late
    stage.judge()
    assert not stage.barred


def test_who_has_the_slot_of_a_removed_one_is_listened_for_with_its_own_key() -> None:
    stage = ReloadedStage(BACKUP)
    stage.tap.on_frame("eth0", other())
    stage.reload("eth1", 42, passphrase=b"another")
    stage.tap.on_frame("eth1", other())
    stage.judge()
    assert not stage.barred
    stage.tap.on_frame("eth1", other(passphrase=b"another"))
    stage.judge()
    assert stage.barred


def test_company_of_a_removed_one_makes_none_certain_for_who_has_its_slot() -> None:
    stage = ReloadedStage(MASTER)
    stage.listen(stage.ours(), other(50))
    stage.reload("eth1", 42)
    stage.hosts.states[0] = MASTER
    stage.tap._heard = {}
    stage.tap.on_frame("eth1", other(50))
    stage.judge()
    assert not stage.barred


def test_it_is_free_when_nothing_was_heard_some_times_in_a_row() -> None:
    stage = Stage(BACKUP)
    stage.listen(other())
    for _ in range(3):
        for _ in range(SILENT_AFTER - 1):
            stage.listen()
        stage.listen(other())
        assert stage.barred
    for _ in range(SILENT_AFTER):
        assert stage.barred
        stage.listen()
    assert not stage.barred


def test_whose_lock_another_process_has_is_left_to_the_lock() -> None:
    stage = Stage(INIT)
    stage.in_use.locked_out.add(0)
    stage.listen(other())
    assert not stage.barred


def test_what_was_heard_of_a_process_before_it_released_the_lock_bars_nobody() -> None:
    stage = Stage(INIT)
    stage.in_use.locked_out.add(0)
    stage.listen(other(), meanwhile=stage.in_use.locked_out.clear)
    assert not stage.barred
    stage.listen(other())
    assert stage.barred


def test_virtual_macs_are_ours_where_they_are_configured() -> None:
    for wanted, mac in (
        ("ucarp", UCARP_MAC),
        ("bsd", b"\0\0\x5e\0\1\x2a"),
        ("02:00:00:00:00:09", b"\x02\0\0\0\0\x09"),
    ):
        stage = Stage(MASTER, advertise_mac=wanted)
        for counter in range(4):
            stage.listen(other(100, mac, counter=counter))
        assert not stage.barred, wanted


def test_a_ucarp_is_found_by_its_command_line(tmp_path: Any) -> None:
    (tmp_path / "self/ns").mkdir(parents=True)
    (tmp_path / "self/ns/net").symlink_to("net:[1]")

    def process(pid: int, comm: str, words: str, namespace: int = 1) -> None:
        place = tmp_path / str(pid)
        (place / "ns").mkdir(parents=True)
        (place / "ns/net").symlink_to(f"net:[{namespace}]")
        (place / "comm").write_text(f"{comm}\n")
        (place / "cmdline").write_bytes(words.replace(" ", "\0").encode())

    process(10, "bash", "bash -v 42")
    process(11, "ucarp", "ucarp -i eth0 -v 4")
    process(12, "ucarp", "ucarp -i eth0 -v 42", namespace=2)
    host = Stage(BACKUP).hosts.hosts[0]
    assert host is not None
    assert ucarp_of(host, tmp_path) is None
    for pid, words in ((13, "-v 42 -p x"), (14, "-v42 -p x"), (15, "-p x --vhid=42")):
        process(pid, "ucarp", f"ucarp {words}")
        assert ucarp_of(host, tmp_path) == pid
        (tmp_path / str(pid) / "comm").write_text("gone\n")


def crowd(count: int, **settings: Any) -> Stage:
    """eth0/1 to eth0/200 on several interfaces, all of them ours and MASTER."""
    stage = Stage(MASTER, **settings)
    given: Any = {"passphrase": b"secret", "advskew": 100, **settings}
    for number in range(count - 1):
        name, vhid = f"eth{1 + number // 200}", 1 + number % 200
        stage.hosts.take(VirtualHost(name, vhid, (), (), Settings(**given)))
    stage.hosts.states[:] = array("B", [MASTER]) * len(stage.hosts.states)
    return stage


@pytest.mark.parametrize("count", [1, OURS_A_SECOND, OURS_A_SECOND + 1, 4 * OURS_A_SECOND])
def test_every_vhid_has_its_turn_and_many_masters_are_listened_to_in_parts(count: int) -> None:
    tap = crowd(count).tap
    parts = -(-count // OURS_A_SECOND)
    turns = [tap._next_vhids() for _ in range(parts)]
    assert sorted(vhid for each in turns for vhid in each) == list(range(ALL_VHIDS))
    assert max(map(len, turns)) - min(map(len, turns)) <= 1


def test_while_one_may_have_company_more_is_listened_to() -> None:
    stage = crowd(2 * OURS_A_SECOND)
    assert len(stage.tap._next_vhids()) == ALL_VHIDS // 2
    stage.listen(stage.ours(), other())
    assert len(stage.tap._next_vhids()) == ALL_VHIDS


def test_company_stays_as_certain_as_it_was_while_it_is_not_listened_for() -> None:
    stage = Stage(MASTER)
    stage.listen(stage.ours(), other())
    stage.tap._vhids = range(43, 256)
    for _ in range(3):
        stage.listen()
    assert not stage.barred
    stage.tap._vhids = range(43)
    stage.listen(stage.ours(), other())
    assert stage.barred


def test_it_is_not_free_for_silence_that_was_not_listened_for() -> None:
    stage = Stage(BACKUP)
    stage.listen(other())
    assert stage.barred
    stage.tap._vhids = range(43, 256)
    for _ in range(SILENT_AFTER + 2):
        stage.listen()
    assert stage.barred
    stage.tap._vhids = range(43)
    for _ in range(SILENT_AFTER):
        assert stage.barred
        stage.listen()
    assert not stage.barred


def test_the_macs_that_we_advertise_from_are_told_from_others() -> None:
    for kind, mac in (("interface", MAC), ("ucarp", UCARP_MAC), ("02:00:00:00:00:09", None)):
        ends = Stage(MASTER).tap._own_mac_ends([Settings(passphrase=b"secret", advertise_mac=kind)])
        assert mac_end(mac or b"\x02\0\0\0\0\x09") in ends
        assert (mac_end(UCARP_MAC) in ends) is (kind == "ucarp")


def test_it_ends_although_a_virtual_host_rises_at_that_moment() -> None:
    async def ended() -> bool:
        tap = Stage(BACKUP).tap
        waiting = asyncio.create_task(tap._rises_within(60))
        await asyncio.sleep(0)
        tap._wake.set()
        waiting.cancel()
        await asyncio.wait([waiting])
        return waiting.cancelled()

    assert asyncio.run(ended())
