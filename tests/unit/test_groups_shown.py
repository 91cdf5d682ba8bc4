"""Groups as people and programs see them: log, events, hooks, status, explain, the commands."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from carp_fast.cli.events import line_of
from carp_fast.config.model import Group
from carp_fast.control.documents import GroupStatus, StateEvent
from carp_fast.daemon.table import BACKUP, MASTER
from carp_fast.engine.reports import AddressesChanged, GroupChanged
from tests.support.asked import Asked
from tests.support.desk import Desk
from tests.support.segment import SECOND_NS, prepared

LAN = GroupStatus("lan", "any", True, 2, 1, ("eth0/2",))
NOT_DEMOTED = GroupStatus("lan", "any", False, 2, 0, ())


def changed(desk: Desk, *because: int, demoted: bool = True, impeded: int | None = None) -> None:
    number = desk.hosts.demotion_groups.number("lan")
    desk.tell(
        GroupChanged,
        1,
        group=number,
        demoted=demoted,
        members=2,
        impeded=len(because) if impeded is None else impeded,
        because=because,
    )


def test_the_log_says_when_a_group_is_demoted_and_when_it_no_longer_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    desk = Desk(group=Group("lan"))
    changed(desk, demoted=False)
    changed(desk, 1)
    changed(desk, 1, 0)
    changed(desk, demoted=False)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        (
            "WARNING",
            "eth0/2: group lan is demoted: 1 of 2 members cannot be MASTER here: eth0/2",
        ),
        ("INFO", "eth0/2: group lan is no longer demoted"),
    ]


def test_events_and_hooks_have_the_group_and_the_members_because_of_which_it_is_demoted() -> None:
    desk = Desk(group=Group("lan"))
    changed(desk, demoted=False)
    desk.change("MASTER", "master_down")
    desk.tell(AddressesChanged, reason="master_down")
    changed(desk, 1)
    desk.change("BACKUP", "group_demoted", demotions=(("group", 240),))
    assert [event["group"] for event in desk.events] == [
        msgspec.to_builtins(NOT_DEMOTED),
        msgspec.to_builtins(LAN),
    ]
    (_, _, up, _), (_, _, down, _) = desk.hooks.submitted
    assert (up.environment["CARP_GROUP"], down.environment["CARP_GROUP"]) == ("lan", "lan")
    assert up.environment["CARP_GROUP_DEMOTED_BY"] == ""
    assert down.environment["CARP_GROUP_DEMOTED_BY"] == "eth0/2"


def test_a_virtual_host_of_no_group_has_none_in_events_and_hooks() -> None:
    desk = Desk()
    desk.change("MASTER", "master_down")
    desk.tell(AddressesChanged, reason="master_down")
    assert [event["group"] for event in desk.events] == [None]
    ((_, _, up, _),) = desk.hooks.submitted
    assert (up.environment["CARP_GROUP"], up.environment["CARP_GROUP_DEMOTED_BY"]) == ("", "")


def test_many_members_are_counted_and_the_first_named() -> None:
    names = tuple(f"eth0/{vhid}" for vhid in range(1, 5))
    group = GroupStatus("lan", "any", True, 65_280, 1_020, names)
    assert group.why == (
        "1,020 of 65,280 members cannot be MASTER here: eth0/1, eth0/2, eth0/3, eth0/4 and 1,016"
        " more"
    )


def test_a_line_of_events_names_the_group_while_it_is_demoted() -> None:
    event = StateEvent("T", "eth0", 1, "BACKUP", "MASTER", "group_demoted", None, group=LAN)
    assert line_of(msgspec.to_builtins(event)) == (
        "T eth0/1: MASTER -> BACKUP (group_demoted), group lan is demoted:"
        " 1 of 2 members cannot be MASTER here: eth0/2"
    )
    quiet = msgspec.structs.replace(event, group=NOT_DEMOTED)
    assert line_of(msgspec.to_builtins(quiet)) == "T eth0/1: MASTER -> BACKUP (group_demoted)"


def test_status_has_every_group_of_the_virtual_hosts_once() -> None:
    desk = Desk(group=Group("lan"))
    assert desk.hosts.group_statuses() == [GroupStatus("lan", "any", False, 0, 0, ())]
    changed(desk, 1)
    assert desk.hosts.group_statuses() == [LAN]
    assert Desk().hosts.group_statuses() == []


# ------------------------------------------------------------------------------------------ explain


class Grouped(Asked):
    """eth0/42 and eth1/43 in group lan; eth1 can be taken down."""

    def __init__(self, demote_when: str = "any", **settings: Any) -> None:
        all_ = demote_when == "all"
        group = Group("lan", demote_when)
        super().__init__({"group": group}, group=1, group_all=all_, **settings)
        assert self.hosts.demotion_groups.number("lan") == 1
        self.take(43, "eth1")
        self.engine.set_interface(1, self.now_ns, source=b"\x0a\x4e\0\x02")
        member = {"interface": 1, "vhid": 43, "group": 1, "group_all": all_}
        self.engine.add(1, prepared(**member), self.now_ns)

    def unplug(self) -> Grouped:
        self.engine.set_interface(1, self.now_ns, up=False)
        return self.told()

    def told(self) -> Grouped:
        self.node.carry_out(self.now_ns)
        for report in self.node.reported(GroupChanged):
            names = tuple(map(self.hosts.name, report.because))
            self.hosts.demotion_groups.on_changed(report, names)
        self.node.forget()
        return self


def test_a_group_that_is_not_demoted_is_explained_by_what_would_demote_it() -> None:
    any_, all_ = Grouped().told(), Grouped("all").told()
    assert any_.sections()["demotion"] == [
        "none",
        "group lan, 2 members, 0 of them MASTER here, is demoted when any of its"
        " members cannot be MASTER here",
    ]
    assert all_.sections()["demotion"] == [
        "none",
        "group lan, 2 members, 0 of them MASTER here, is demoted when none of its"
        " members can be MASTER here",
    ]


def test_demoted_by_its_group_is_explained_with_the_member_that_is_impeded() -> None:
    asked = Grouped().unplug()
    assert asked.sections()["demotion"] == [
        "group: 240 (group lan, 1 of 2 members cannot be MASTER here: eth1/43)",
        "240 in total: advskew 100 becomes 240",
        "the demotion by group lan ends as soon as every member can be MASTER here again; carp-fast"
        " explain eth1 43 shows what is missing there",
    ]
    assert asked.facts()["group"] == {
        "name": "lan",
        "demote_when": "any",
        "demoted": True,
        "members": 2,
        "impeded": 1,
        "because": ("eth1/43",),
    }


def test_a_master_whose_group_is_demoted_is_explained_by_the_silence_of_others() -> None:
    asked = Grouped().unplug()
    asked.node.run(asked.now_ns + 8 * SECOND_NS)
    asked.now_ns += 8 * SECOND_NS
    found = asked.sections()["demotion"]
    assert found[-1] == (
        "it is MASTER all the same: no other host has taken it over so far (none is there, none"
        " preempts, or all are demoted as much, each with another broken member), and demotion"
        " never stops a host that hears no other; carp-fast explain eth0 42 there shows more"
    )


def test_a_master_that_resigned_for_its_group_is_explained_by_the_member() -> None:
    asked = Grouped()
    asked.become("MASTER")
    asked.unplug()
    *_, why = asked.sections()["virtual host eth0/42"]
    assert why.endswith(
        ", reason group_demoted: its group became demoted, and every member that was MASTER"
        " resigned, once (eth1/43)"
    )
    asked.engine.set_interface(1, asked.now_ns, source=b"\x0a\x4e\0\x02")
    asked.told()
    *_, why = asked.sections()["virtual host eth0/42"]
    assert why.endswith(" resigned, once")


def silent(masters: int) -> str:
    """The last line about heard masters, of a member whose master fell silent."""
    asked = Grouped(preempt=False).told()
    asked.hear()
    asked.now_ns += 4 * SECOND_NS
    asked.node.run(asked.now_ns)
    assert asked.node.reason == "master_down"
    asked.hosts.states[: len(asked.hosts.states)] = [MASTER] * masters + [BACKUP] * (2 - masters)
    return asked.sections()["heard masters"][-1]


def test_members_that_another_host_still_holds_speak_for_a_split_segment() -> None:
    text = "eth0 42 there; 1 of 2 members of group lan are not MASTER here, so that host"
    assert text in silent(1)
    assert silent(2).endswith(" eth0 42 there")


def test_the_only_member_that_is_impeded_is_not_sent_to_itself() -> None:
    asked = Grouped()
    asked.node.attach(asked.now_ns, up=False)
    found = asked.told().sections()
    assert found["demotion"][-1] == (
        "the demotion by group lan ends as soon as every member can be MASTER here again"
    )
    assert found["to take part"]


@pytest.mark.parametrize("dialect", ["ucarp", "openbsd"])
def test_both_hosts_half_broken_are_explained(dialect: str) -> None:
    asked = Grouped(dialect=dialect).unplug()
    demoted = {"demote": 240} if dialect == "openbsd" else {"advskew": 240}
    asked.hear(**demoted)
    sends = "demote byte 240" if dialect == "openbsd" else "advskew 240"
    assert (
        f"10.77.0.3 is demoted, too, it advertises {sends}: both hosts are half broken, each holds"
        " what it can, and the least demoted one what both can; unless that host is in maintenance"
        in asked.sections()["demotion"]
    )
