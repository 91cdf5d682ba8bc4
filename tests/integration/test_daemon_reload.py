"""A reload touches only what differs: on a running pair nothing else may change state.

Acceptance: 100 unsigned addresses, then a signed one, added on both hosts one after the other.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from carp_fast.control.protocol import ControlError, ControlTimeout
from carp_fast.lab.lab import Host, Lab, wait_for
from carp_fast.lab.observer import Key, Observer
from tests.support.daemons import PASSPHRASE, start_daemon, write_configuration

pytestmark = pytest.mark.root

MASTER_DOWN_S = 2 + 100 / 256  # of host b
DEFAULTS = {"dead_ratio": 2, "preempt": True}
HUNDRED = [f"10.1.2.{number}/32" for number in range(100)]


class Pair:
    """Host a MASTER and host b BACKUP of the same virtual hosts, and their configurations."""

    def __init__(self, lab: Lab, directory: Path, *tables: Mapping[str, Any]) -> None:
        self.a, self.b = lab.hosts
        own = self.a.addresses()
        self._directory = directory
        self.master = start_daemon(self.a, self.write(self.a, tables))
        addresses = [host["addresses"] for host in self.master.status()["virtual_hosts"]]
        self.master.wait_held(own, len(set().union(*addresses)))
        self.backup = start_daemon(self.b, self.write(self.b, tables))
        self.backup.wait_state("BACKUP", 15)
        self.daemons = {"a": self.master, "b": self.backup}

    def write(self, host: Host, tables: tuple[Mapping[str, Any], ...], **defaults: Any) -> Path:
        given = {**DEFAULTS, "advskew": 0 if host.name == "a" else 100, **defaults}
        return write_configuration(self._directory, host.name, tables, defaults=given)

    def change(self, name: str, *tables: Mapping[str, Any], **defaults: Any) -> dict[str, Any]:
        """Writes the configuration of one host anew, and reloads it."""
        daemon = self.daemons[name]
        self.write(daemon.host, tables, **defaults)
        return daemon.reload()

    def assert_undisturbed_after(self, change: Callable[[], None]) -> None:
        """No event on either side by `change`, nor within a master-down time after it."""
        with ExitStack() as stack:
            streams = [stack.enter_context(each.events()) for each in self.daemons.values()]
            change()
            end_at = time.monotonic() + MASTER_DOWN_S + 0.6
            for stream in streams:
                with pytest.raises(ControlTimeout):
                    pytest.fail(str(stream.next_event(max(0.001, end_at - time.monotonic()))))
        assert set(self.master.states().values()) == {"MASTER"}
        assert set(self.backup.states().values()) == {"BACKUP"}


def table(vhids: str = "1-10", **keys: Any) -> dict[str, Any]:
    return {"interface": "s1", "vhid": vhids, "addresses": ["10.1.1.{vhid}/32"], **keys}


def test_addresses_added_on_both_hosts_one_after_the_other_change_no_state(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    first, others = table("1"), table("2-10")
    pair = Pair(lab_factory(segments=1), tmp_path, first, others)
    own = pair.a.addresses()

    def add_unsigned() -> None:
        for name in ("a", "b"):
            answer = pair.change(name, first | {"unsigned_addresses": HUNDRED}, others)
            assert [answer[key] for key in ("added", "removed", "altered", "kept")] == [0, 0, 1, 9]
            assert answer["changed"][0].startswith("s1/1: unsigned_addresses +10.1.2.0/32 ")

    with Observer(pair.b) as observer:
        pair.assert_undisturbed_after(add_unsigned)
        added = {address.partition("/")[0] for address in HUNDRED}
        assert {address for _, address in pair.a.addresses() - own} == added
        announced = {address for _, address in observer.announced()}
        assert added <= announced, "a new address of a MASTER is announced"
    print("100 unsigned addresses added by reload on both hosts: no state change, all announced")

    signed = {"addresses": ["10.1.1.1/32", "10.1.3.1/32"], "unsigned_addresses": HUNDRED}

    def heard_at_least(count: int) -> bool:
        return pair.backup.counters("s1", 1)["advertisements_heard"] >= count

    def add_signed() -> None:
        for name in ("b", "a"):  # the backup first
            assert pair.change(name, first | signed, others)["kept"] == 9
            # Each heard the other with the digest of before or after: none is refused.
            heard = pair.backup.counters("s1", 1)["advertisements_heard"]
            wait_for(
                partial(heard_at_least, heard + 2),
                10,
                "two more advertisements at host b",
            )

    pair.assert_undisturbed_after(add_signed)
    assert ("s1", "10.1.3.1") in pair.a.addresses()
    assert pair.backup.counters("s1", 1)["bad_auth"] == 0
    assert pair.master.counters("s1", 1)["bad_auth"] == 0
    print("one signed address added by reload, backup first: no state change, no digest refused")

    # Both kept, and both know it after a take-over, too.
    pair.master.kill()
    pair.backup.wait_state("MASTER", 15)
    wait_for(lambda: ("s1", "10.1.3.1") in pair.b.addresses(), 10, "the signed address on host b")


@pytest.mark.own_paths("send", "hold", reason="what is refused has been received")
def test_without_a_grace_an_old_digest_is_refused_at_once(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    pair = Pair(lab_factory(segments=1), tmp_path, table("1"))
    path = write_configuration(
        tmp_path,
        "b",
        [table("1", addresses=["10.1.1.1/32", "10.1.3.1/32"])],
        defaults={**DEFAULTS, "advskew": 100},
        daemon={"digest_grace_s": 0},
    )
    assert path == pair.backup.configuration
    pair.backup.reload()
    wait_for(lambda: pair.backup.counters("s1", 1)["bad_auth"] > 0, 10, "a refused digest")
    pair.backup.wait_state("MASTER", 10)


@pytest.mark.each_path(reason="nothing changes")
def test_a_fault_changes_nothing_and_all_faults_are_said(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    pair = Pair(lab_factory(segments=1), tmp_path, table("1-2"))

    def fail() -> None:
        faulty = [table("1-2", advskew=255), table("3", addresses=["10.1.1"]), table("0")]
        with pytest.raises(ControlError) as refused:
            pair.change("a", *faulty, passphrase="twenty bytes are one too many")
        faults = refused.value.faults
        assert len(faults) == 4, faults
        for key in ("advskew = 255", 'addresses = "10.1.1"', "vhid = ", "passphrase"):
            assert any(key in fault for fault in faults), (key, faults)
        pair.master.process.signal(signal.SIGHUP)
        pair.master.wait_log("reload: nothing was changed: 4 faults", 10)

    before = pair.master.status()["virtual_hosts"]
    pair.assert_undisturbed_after(fail)
    after = pair.master.status()["virtual_hosts"]
    for old, new in zip(before, after, strict=True):
        changing = {"counters", "peer", "since"}
        assert {key: old[key] for key in old.keys() - changing} == {
            key: new[key] for key in new.keys() - changing
        }
    with pytest.raises(ControlError) as refused:
        pair.change("a", table("1-2", up="no_such_module:function"))
    assert "no_such_module" in str(refused.value)


@pytest.mark.each_path(reason="keys of the election change")
def test_keys_change_in_place(lab_factory: Callable[..., Lab], tmp_path: Path) -> None:
    pair = Pair(lab_factory(segments=1), tmp_path, table("1-10"))
    with Observer(pair.b) as observer:

        def slow_down() -> None:
            answer = pair.change("a", table("1-10"), advskew=50)
            assert answer["changed"][0] == "s1/1-10: advskew 0 -> 50"
            observer.wait_until(
                lambda: all(heard.advskew == 50 for heard in observer.advertisements().values()),
                10,
                "the new advskew from all",
            )

        pair.assert_undisturbed_after(slow_down)
        assert pair.change("a", table("1-10"), advskew=50)["kept"] == 10
        # Slower than host b now, which preempts.
        pair.change("a", table("1-10"), advskew=150)
        pair.backup.wait_state("MASTER", 10)
        pair.master.wait_state("BACKUP", 10)
        # The passphrase in place, the backup (host a now) first: the old digest is accepted.
        for name, advskew in (("a", 150), ("b", 100)):
            answer = pair.change(name, table("1-10"), advskew=advskew, passphrase="another")
            assert answer["changed"][0] == "s1/1-10: passphrase"
            assert PASSPHRASE not in str(answer)
        heard = pair.master.counters("s1", 1)["advertisements_heard"]
        wait_for(
            lambda: pair.master.counters("s1", 1)["advertisements_heard"] >= heard + 3, 10, "more"
        )
    assert set(pair.backup.states().values()) == {"MASTER"}
    assert "another" not in pair.master.log + pair.backup.log


def test_virtual_hosts_are_removed_and_added(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    lab = lab_factory(segments=2)
    pair = Pair(lab, tmp_path, table("1-10"))
    with Observer(pair.b) as observer:
        answer = pair.change("a", table("2-10"), {**table("1-5"), "interface": "s2"})
        assert (answer["added"], answer["removed"], answer["kept"]) == (5, 1, 9)
        assert "s1/1: removed" in answer["changed"]
        assert "s2/1-5: added" in answer["changed"]
        assert ("s1", "10.1.1.1") not in pair.a.addresses()
        observer.wait_until(lambda: observer.resigned(pair.a, Key(1, 1)), 10, "its resignation")
        pair.backup.wait_state("MASTER", 10, [("s1", 1)])
    # Had it waited for silence, it would be master_down.
    assert pair.backup.virtual_host("s1", 1)["reason"] == "master_resigned"
    states = pair.master.states()
    assert {key for key in states if key[0] == "s1"} == {("s1", vhid) for vhid in range(2, 11)}
    assert {states["s1", vhid] for vhid in range(2, 11)} == {"MASTER"}
    pair.master.wait_state("MASTER", 10, [("s2", vhid) for vhid in range(1, 6)])
    # And back: an interface without virtual hosts is no more concern of the daemon's.
    answer = pair.change("a", table("1-10"))
    assert (answer["added"], answer["removed"], answer["kept"]) == (1, 5, 9)
    assert [each["name"] for each in pair.master.status()["interfaces"]] == ["s1"]
    assert not {name for name, _ in pair.a.addresses() - {("s2", lab["a"].address(2))}} - {"s1"}
    lab.set_link("a", 2, up=False)
    pair.master.wait_state("MASTER", 15)
    assert not pair.master.log_lines("s2: link down")


@pytest.mark.each_path(reason="nothing changes until it is forced")
def test_a_reload_that_looks_like_an_accident_is_refused_unless_forced(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    pair = Pair(lab_factory(segments=1), tmp_path, table("1-5"))
    whole = pair.master.configuration.read_text()
    held = pair.a.addresses()

    def refused() -> None:
        for text in ("", whole[: whole.index("[[virtual_host]]")], whole[:-1]):
            pair.master.configuration.write_text(text)
            with pytest.raises(ControlError, match=r"^refused: .*; to do it: carp-fast reload --f"):
                pair.master.reload()
        with pytest.raises(ControlError, match=r"^force must be true or false$"):
            pair.master.client.request("reload", force="yes")
        with pytest.raises(ControlError, match=r"^refused: 3 of 5 virtual hosts that are MASTER"):
            pair.change("a", table("1-2"))
        pair.master.process.signal(signal.SIGHUP)  # has no force
        pair.master.wait_log(r"ERROR reload: nothing was changed: refused: 3 of 5", 10)

    pair.assert_undisturbed_after(refused)
    assert pair.a.addresses() == held
    assert pair.master.reload(force=True)["removed"] == 3
    pair.master.wait_log("WARNING forced: 3 of 5 virtual hosts", 10)
    assert set(pair.master.states()) == {("s1", 1), ("s1", 2)}
    pair.backup.wait_state("MASTER", 10, [("s1", 3), ("s1", 4), ("s1", 5)])


def test_an_address_moves_from_one_virtual_host_to_another(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    moving = {"unsigned_addresses": ["10.1.2.1/32"]}
    pair = Pair(lab_factory(segments=1), tmp_path, table("1"), table("2") | moving)
    wait_for(lambda: ("s1", "10.1.2.1") in pair.a.addresses(), 10, "the address")
    # To the first one and back: who gains it comes before, then after, who gives it up.
    for tables in (
        (table("1") | moving, table("2")),
        (table("1"), table("2") | moving),
    ):
        with Observer(pair.b) as observer:
            pair.change("a", *tables)
            wait_for(lambda: ("s1", "10.1.2.1") in pair.a.addresses(), 10, "the address")
            observer.wait_until(
                lambda: (1, "10.1.2.1") in observer.announced(), 10, "its announcement"
            )
        problems = [each["address_problems"] for each in pair.master.status()["virtual_hosts"]]
        assert problems == [{}, {}]
    assert pair.master.stop() == 0
    assert pair.a.addresses() == {("s1", "10.1.0.1")}
