"""What Python knows of a daemon, as its successor gets it: encoded, decoded, and gone on with."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from carp_fast.config.load import Settings, VirtualHost
from carp_fast.config.model import Configuration, Daemon, Group
from carp_fast.control.documents import Demotion, MaintenanceProgress
from carp_fast.control.server import PassedOn
from carp_fast.daemon import upgrade_state
from carp_fast.daemon.demotions import Demotions, Limited
from carp_fast.daemon.groups import LimitReached
from carp_fast.daemon.host_log import HostLog
from carp_fast.daemon.in_use import InUse, InUseState
from carp_fast.daemon.locks import Locks
from carp_fast.daemon.lost import LostAddresses
from carp_fast.daemon.maintenance import Kept, MaintenanceMode, ModeState
from carp_fast.daemon.noted import Noted
from carp_fast.daemon.notify import Notify
from carp_fast.daemon.table import BACKUP, MASTER, Hosts, Places, TableState
from carp_fast.daemon.traces import PidFile
from carp_fast.daemon.tracked import TrackedState
from carp_fast.daemon.upgrade_messages import UpgradeError
from carp_fast.daemon.upgrade_state import Head, Running
from carp_fast.daemon.upgrades import Upgrades
from carp_fast.engine._auth import Passphrase
from carp_fast.engine.reports import GroupChanged
from carp_fast.tracking.judging import Judged, JudgedState, Result
from tests.support.programs import script

GROUP = "224.0.0.18"
SETTINGS = Settings(passphrase=Passphrase(b"secret"), group=Group("lan"))


def host(interface: str, vhid: int) -> VirtualHost:
    return VirtualHost(interface, vhid, (f"192.0.2.{vhid}/24",), (), SETTINGS)


def through(state: Any, kind: Any) -> Any:
    """What another process gets of it."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=kind)


# -- the table


def table_with_gaps() -> Hosts:
    """eth1/1 in slot 0, nothing in 1, eth0/3 in slot 2 with a retired address, eth1/4 in 3."""
    hosts = Hosts()
    for interface, vhid in (("eth1", 1), ("eth0", 2), ("eth0", 3), ("eth1", 4)):
        hosts.take(host(interface, vhid))
    hosts.number("eth7")  # of virtual hosts that were removed
    hosts.demotion_groups.number("former")
    hosts.demotion_groups.number("lan")
    hosts.give_back(1)
    hosts.replace(2, host("eth0", 3), ("192.0.2.99/24",))
    hosts.forget_former()
    hosts.states[0], hosts.states[3] = MASTER, BACKUP
    changed = GroupChanged(5, 0, 2, True, 3, 1, (0,))
    hosts.demotion_groups.on_changed(changed, ("eth1/1",))
    return hosts


def successor_of(former: Hosts) -> Hosts:
    configured = [each for _, each in reversed([*former.used()])]  # in the order of a file
    hosts = Hosts()
    hosts.take_places(configured, through(former.places(configured), Places))
    return hosts


def test_virtual_hosts_keep_their_places_numbers_and_states() -> None:
    former = table_with_gaps()
    hosts = successor_of(former)
    hosts.go_on(through(former.state, TableState))
    assert hosts.hosts == former.hosts
    assert hosts.names == former.names == ["eth1", "eth0", "eth7"]
    assert [list(each) for each in hosts.slots] == [[0, 3], [2], []]
    assert hosts.states == former.states
    assert hosts.generations == former.generations
    assert hosts.configurations == former.configurations
    assert hosts.retired(2) == ("192.0.2.99/24",)
    assert hosts.unsettled == {2: {"192.0.2.99/24"}}
    assert hosts.demotion_groups.names == ["former", "lan"]
    assert hosts.group_statuses() == former.group_statuses()
    assert hosts.group_statuses()[0].because == ("eth1/1",)


def test_a_new_virtual_host_gets_the_place_and_generation_that_it_would_have_got() -> None:
    former = table_with_gaps()
    hosts = successor_of(former)
    hosts.go_on(through(former.state, TableState))
    assert hosts.take(host("eth0", 9)) == former.take(host("eth0", 9)) == 1
    assert hosts.take(host("eth0", 10)) == former.take(host("eth0", 10)) == 4
    assert hosts.generations == former.generations


def test_counters_of_prepared_virtual_hosts_do_not_go_back() -> None:
    former = table_with_gaps()
    former._counter = ahead = 1 << 62  # of a clock that was set back
    hosts = successor_of(former)
    hosts.go_on(through(former.state, TableState))
    hosts.prepare(host("eth0", 3))
    assert hosts._counter == ahead + 1


@pytest.mark.parametrize(
    "places",
    [
        Places(slots=[0]),
        Places(slots=[0, 0]),
        Places(slots=[0, 1, 2]),
        Places(slots=[0, 1], retired={2: ("192.0.2.9/24",)}),
    ],
)
def test_places_that_do_not_fit_are_refused(places: Places) -> None:
    with pytest.raises(ValueError, match=r"fit together|argument"):
        Hosts().take_places([host("eth0", 1), host("eth0", 2)], places)


@pytest.mark.parametrize("slot", [-1, 1 << 40])
def test_places_beyond_the_table_are_refused(slot: int) -> None:
    with pytest.raises(LimitReached):
        Hosts().take_places([host("eth0", 1)], Places(slots=[slot]))


def test_a_state_of_another_size_is_refused() -> None:
    hosts = successor_of(table_with_gaps())
    state = table_with_gaps().state
    with pytest.raises(ValueError, match=r"a table of \(3, 4, 4\) slots in place of 4"):
        hosts.go_on(msgspec.structs.replace(state, states=bytes(3)))


# -- the other parts


def test_addresses_that_were_lost_before_count() -> None:
    async def scenario() -> None:
        log = HostLog(asyncio.get_running_loop().call_later)
        orders: Any = None
        former, lost = (LostAddresses(table_with_gaps(), orders, log) for _ in range(2))
        for _ in range(3):
            former.on_restored(0, "192.0.2.1/24")
        lost.go_on(through(former.state, list[tuple[int, str, list[float]]]))
        assert lost._times == former._times
        assert {each.maxlen for each in lost._times.values()} == {5}
        assert isinstance(lost._times[0, "192.0.2.1/24"], deque)
        log.flush()

    asyncio.run(scenario())


def test_locks_are_passed_on_and_what_another_process_has_is_tried_again(tmp_path: Path) -> None:
    class Orders:
        def __init__(self) -> None:
            self.pump = self
            self.barred: list[tuple[int, bool]] = []

        def bar(self, slot: int, barred: bool) -> None:
            self.barred.append((slot, barred))

        def post(self, order: Any) -> None:
            order()

    async def scenario(worker: ThreadPoolExecutor) -> None:
        path, orders = tmp_path / "lock", Orders()
        given: Any = orders
        with Locks(path) as other, Locks(path) as locks:
            other.take(7, 4, (GROUP,))
            former = InUse(table_with_gaps(), given, worker, locks)
            former.on_ifindex(0, 7)
            former.overhear(2, "a ucarp")
            assert set(former.barred) == {2, 3}
            orders.barred.clear()
            successor = InUse(successor_of(table_with_gaps()), given, worker, None)
            seen_by_all = successor.barred
            with Locks(path) as opened_first:
                opened_first.adopt(os.dup(locks.fileno()))
                successor.go_on(through(former.state, InUseState), opened_first)
                former.close()
                locks.close()
                assert other.take(7, 1, (GROUP,)) == GROUP, "locked all the time"
                assert successor.state == msgspec.structs.replace(former.state)
                assert seen_by_all == former.barred
                assert orders.barred == [], "the engine knows it"
                other.give_back(7, 4, (GROUP,))
                async with asyncio.timeout(10):
                    while 3 in successor.barred:
                        await asyncio.sleep(0.01)
                assert orders.barred == [(3, False)]
                successor.close()
            assert other.take(7, 1, (GROUP,)) is None

    with ThreadPoolExecutor(1) as worker:
        asyncio.run(scenario(worker))


def test_demotions_are_those_of_the_former_process_whatever_the_file_has(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as worker:
        former, successor = (Demotions(tmp_path / "file", worker) for _ in range(2))
        former._by_reason = {"disks": 20, "one": Limited(7, interface="eth0", vhid=3)}
        successor.go_on(through(former.state, dict[str, int | Limited]))
        assert successor.by_reason == {"disks": 20, "one": 7}
        assert successor.of(host("eth0", 3)) == 27
        assert successor.of(host("eth0", 4)) == 20


def test_maintenance_goes_on_also_if_it_is_not_written_down() -> None:
    def mode() -> MaintenanceMode:
        anything: Any = None
        return MaintenanceMode(
            None, anything, hosts=Hosts(), orders=anything, snapshots=anything, run=anything
        )

    former, successor = mode(), mode()
    former._kept, former._until_stop = Kept(1.0, "disks", 9e9, True), True
    former._withheld, former._progress = True, MaintenanceProgress("done", masters=3, given=2)
    successor.go_on(through(former.kept_state, ModeState))
    assert (successor.state, successor.progress) == (former.state, former.progress)
    assert successor.withheld
    assert successor.demotion == 240
    assert not successor.moving
    successor.go_on(ModeState())
    assert (successor.on, successor.progress) == (False, None)


def test_a_track_goes_on_with_its_results_in_a_row() -> None:
    from carp_fast.config.tracks import ScriptTrack

    track = ScriptTrack(name="a", script=("/bin/true",), rise=3, fall=2, demotion=30)
    former = Judged(track, 1)
    for ok in (True, False):
        former.take(Result(ok, f"it is {ok}"), 2)
    judged = Judged(track, 9)
    judged.go_on(through(former.known, JudgedState))
    assert judged.known == former.known
    assert (judged.state, judged.since_ns, judged.text) == ("ok", 2, "it is False")
    assert judged.take(Result(False, "again"), 10), "the second failure in a row"


def test_a_pid_file_is_passed_on_locked_and_has_the_new_process_id(tmp_path: Path) -> None:
    path = tmp_path / "pid"
    with PidFile(path) as former, PidFile(path, comes=True) as successor:
        former.write()
        successor.open()
        assert successor.fileno() == -1
        path.write_text("123456789\n")
        successor.adopt(os.dup(former.fileno()))
        former.leave()
        former.close()
        assert path.exists()
        successor.rewrite()
        assert path.read_text() == f"{os.getpid()}\n"
    assert not path.exists()


def test_a_successor_without_a_pid_file_closes_what_it_gets(tmp_path: Path) -> None:
    with PidFile(tmp_path / "pid") as former, PidFile(None) as successor:
        former.write()
        passed_on = os.dup(former.fileno())
        successor.adopt(passed_on)
        successor.rewrite()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(passed_on)


def test_lines_that_notify_did_not_read_wait_for_the_next_program(tmp_path: Path) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        former, successor = Notify(loop), Notify(loop)
        former.start(deaf)
        former.send({"number": 1})
        await former.pause()
        former.send({"number": 2})
        assert former.waiting == [b'{"number":1}\n', b'{"number":2}\n']
        former.resume()
        assert former.waiting == []
        former.send({"number": 3})
        await former.pause()
        successor.go_on(reading, through(former.waiting, list[bytes]))
        successor.send({"number": 4})
        async with asyncio.timeout(20):
            while not lines.exists() or lines.read_text().count("\n") < 4:
                await asyncio.sleep(0.01)
        await successor.stop()
        await former.stop()

    lines = tmp_path / "lines"
    deaf = str(tmp_path / "gone")
    reading = script(tmp_path / "reading", f"exec cat > {lines}", "/bin/sh")
    asyncio.run(scenario())
    assert lines.read_text() == "".join(f'{{"number":{number}}}\n' for number in (1, 2, 3, 4))


def test_without_a_program_nothing_waits() -> None:
    async def scenario() -> None:
        notify = Notify(asyncio.get_running_loop())
        notify.start(None)
        await notify.pause()
        notify.send({})
        assert notify.waiting == []
        notify.resume()
        notify.go_on(None, [])
        await notify.stop()

    asyncio.run(scenario())


# -- the documents


def whole_head() -> Head:
    table = table_with_gaps()
    return Head(
        still_since_ns=1,
        engine_bytes=2,
        started_at_ns=3,
        upgrades=Upgrades(4, "0.1.0", 5, 0.25, "nothing"),
        table=table.state,
        noted=Noted(
            {0: Demotion(20, {"link": 20})},
            {0: 7},
            {2: {"192.0.2.3/24": "address_foreign"}},
            {2: {"192.0.2.3/24": "192.0.2.3/32"}},
            {(2, "192.0.2.3/24")},
            {"eth0"},
        ),
        lost=[(0, "192.0.2.1/24", [1.5, 2.5])],
        sources={7: [b"\x0a\x01\x01\x01", bytes(16)]},
        in_use=InUseState({0: 7}, [(0, 7)], {3: "pid 4"}, {3}, {2}, [(0, GROUP, {3})]),
        demotions={"disks": 20, "one": Limited(7, group="lan")},
        maintenance=ModeState(Kept(1.0, "disks"), False, True, MaintenanceProgress()),
        tracks=TrackedState({"a": JudgedState("ok", 8)}, b"\1\0"),
        hooks=(1, 2, 3, 4),
        notify=[b"{}\n"],
        receive_fallbacks=1,
        control=PassedOn((1, 2)),
    )


def test_a_head_is_decoded_as_it_was_encoded() -> None:
    head = whole_head()
    assert upgrade_state.decode(upgrade_state.encode(head), Head) == head
    for name in Head.__struct_fields__:
        assert getattr(head, name) != getattr(Head(), name), "each field is tried"


def test_what_another_version_does_not_have_is_as_at_a_start() -> None:
    assert upgrade_state.decode(msgspec.msgpack.encode({}), Head) == Head()


@pytest.mark.parametrize(
    ("part", "value", "why"),
    [
        ("colour", 1, "unknown field `colour`"),
        ("table", {"colour": 1}, r"unknown field `colour` - at `\$\.table`"),
        ("noted", {"colour": 1}, r"unknown field `colour` - at `\$\.noted`"),
        ("in_use", {"colour": 1}, r"unknown field `colour` - at `\$\.in_use`"),
        ("tracks", {"known": {"a": {"state": "ok", "since_ns": 1, "colour": 1}}}, "`colour`"),
        ("control", {"counters": {"colour": 1}}, r"unknown field `colour` - at `\$\.control"),
        ("hooks", [1, 2, 3], r"at `\$\.hooks`"),
        ("started_at_ns", "x", r"Expected `int`, got `str` - at `\$\.started_at_ns`"),
    ],
)
def test_what_this_version_does_not_know_is_refused_by_its_name(
    part: str, value: object, why: str
) -> None:
    with pytest.raises(UpgradeError, match=rf"cannot read what was passed on \(head\): .*{why}"):
        upgrade_state.decode(msgspec.msgpack.encode({part: value}), Head)


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x91" * 9999])
def test_a_head_that_is_garbled_is_refused(data: bytes) -> None:
    with pytest.raises(UpgradeError, match=r"cannot read what was passed on \(running\)"):
        upgrade_state.decode(data, Running)


def test_what_runs_is_the_configuration_with_places() -> None:
    table = table_with_gaps()
    configured = [each for _, each in table.used()]
    configuration = Configuration(Path("/etc/x"), (), Daemon(), configured, ())
    document = upgrade_state.running(configuration, table.places(configured))
    found = upgrade_state.decode(upgrade_state.encode(document), Running)
    assert found.places == table.places(configured)
    assert upgrade_state.configuration_of(found) == configuration


def test_a_configuration_that_this_version_cannot_read_is_refused() -> None:
    with pytest.raises(UpgradeError, match="this version cannot read what runs: "):
        upgrade_state.configuration_of(Running(b"x", Places()))


def test_the_text_of_a_passphrase_is_not_passed_on() -> None:
    text = Settings(passphrase=b"secret")
    plain = [VirtualHost("eth0", 1, ("192.0.2.1/24",), (), text)]
    configuration = Configuration(Path("/etc/x"), (), Daemon(), plain, ())
    with pytest.raises(UpgradeError, match="cannot have the text of a passphrase"):
        upgrade_state.running(configuration, Places())
