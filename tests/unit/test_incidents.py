"""Which reports are incidents, and which of them belong together."""

from __future__ import annotations

import pytest

from carp_fast.daemon.incidents import HOSTS_MAX, SAME_NS, Incidents, kind_of
from carp_fast.engine import reports

STATES: dict[str, reports.State] = {"INIT": "INIT", "BACKUP": "BACKUP", "MASTER": "MASTER"}
PEER = bytes((10, 0, 0, 1))


def change(
    slot: int, states: str, reason: str, at_ns: int = 1, peer: bytes | None = PEER
) -> reports.StateChanged:
    previous, state = (STATES[word] for word in states.split())
    return reports.StateChanged(at_ns, slot, state, previous, reason, peer)


@pytest.mark.parametrize(
    ("report", "kind"),
    [
        (change(0, "MASTER BACKUP", "faster_master"), "second_master"),
        (change(0, "MASTER BACKUP", "tie_lost"), "second_master"),
        (change(0, "MASTER BACKUP", "address_lost"), "address_lost"),
        (change(0, "MASTER BACKUP", "address_deadline"), "address_lost"),
        (change(0, "BACKUP MASTER", "master_down"), "take_over"),
        (change(0, "BACKUP MASTER", "master_too_slow"), "take_over"),
        (reports.OtherMaster(1, 0), "second_master"),
        (reports.Reasserted(1, 0, PEER), "second_master"),
        (reports.DuplicateSource(1, 0, bytes(6)), "second_master"),
        (reports.AddressRestored(1, 0, 0, 0, "removed"), "address_lost"),
        (reports.AddressRestored(1, 0, 0, 0, "route"), "address_lost"),
        (reports.Stalled(1, 5), "stall"),
        # As asked for, as configured, or of the interface.
        (change(0, "BACKUP MASTER", "master_down", peer=None), None),
        (change(0, "BACKUP MASTER", "preempted"), None),
        (change(0, "BACKUP MASTER", "master_resigned"), None),
        (change(0, "BACKUP MASTER", "taken_over"), None),
        (change(0, "MASTER BACKUP", "yielded"), None),
        (change(0, "MASTER BACKUP", "maintenance"), None),
        (change(0, "MASTER INIT", "link_down"), None),
        (change(0, "INIT BACKUP", "started"), None),
        (reports.AddressRestored(1, 0, 0, 0, "refused"), None),
        (reports.AddressRestored(1, 0, 0, 0, "with_ours"), None),
        (reports.Done(1, 5), None),
    ],
)
def test_what_a_report_is_about(report: reports.Report, kind: str | None) -> None:
    assert kind_of(report) == kind


def test_a_failure_of_many_virtual_hosts_is_one_incident() -> None:
    incidents = Incidents()
    begun = [
        incidents.take(change(slot, "BACKUP MASTER", "master_down", 5 + slot))
        for slot in range(4080)
    ]
    incidents.take(reports.Stalled(9000, 5))
    assert begun == [True] + [False] * 4079
    incident = incidents.end()
    assert (incident.at_ns, incident.kind, incident.hosts) == (5, "take_over", 4080)
    assert incident.kinds == {"take_over": 4080, "stall": 1}
    assert incident.slots == tuple(range(HOSTS_MAX))
    assert incident.earlier == 0


def test_what_follows_within_a_minute_belongs_to_the_incident_and_is_counted() -> None:
    incidents = Incidents()
    first, again, later = 7, 7 + SAME_NS - 1, 7 + SAME_NS
    assert incidents.take(reports.OtherMaster(first, 3))
    assert incidents.end().slots == (3,)
    assert not incidents.take(reports.OtherMaster(again, 4))
    assert not incidents.take(reports.Done(again, 1))
    assert incidents.take(reports.OtherMaster(later, 5))
    incident = incidents.end()
    assert (incident.at_ns, incident.kind, incident.slots) == (later, "second_master", (5,))
    assert (incident.hosts, incident.earlier) == (1, 1)


def test_one_of_another_kind_is_an_incident_of_its_own() -> None:
    incidents = Incidents()
    assert incidents.take(reports.Stalled(1, 4))
    assert incidents.end().kind == "stall"
    assert incidents.take(reports.OtherMaster(2, 3))
    assert not incidents.take(reports.Stalled(3, 4))
    assert incidents.end().kinds == {"second_master": 1, "stall": 1}


def test_an_incident_that_has_not_ended_is_the_only_one() -> None:
    incidents = Incidents()
    assert incidents.take(reports.OtherMaster(1, 0))
    assert not incidents.take(reports.OtherMaster(1 + 2 * SAME_NS, 0))
    assert incidents.end().kinds == {"second_master": 2}
