"""Who may take over from a living master, in both directions, and what a leaving master does.

Host a runs carp-fast, host b ucarp; host c only listens.  One segment, a virtual host each case.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from carp_fast.lab.lab import Host, Lab, virtual_address, wait_for
from carp_fast.lab.observer import Key, Observer
from tests.support.daemons import RunningDaemon, start_daemon, write_configuration
from tests.support.pairs import start_ucarp, wait_ucarp_state

pytestmark = pytest.mark.root

INTERFACE = "s1"
FAST, SLOW = 0, 100  # advskew
OTHER_GROUP = "239.77.0.5"


def start_ours(lab: Lab, name: str, settings: dict[int, dict[str, object]]) -> RunningDaemon:
    """Starts a daemon on host a, with the virtual hosts of these vhids."""
    tables = [
        {
            "interface": INTERFACE,
            "vhid": vhid,
            "addresses": [virtual_address(1, vhid) + "/32"],
            **more,
        }
        for vhid, more in settings.items()
    ]
    return start_daemon(lab["a"], write_configuration(lab.directory, name, tables))


def holds(lab: Lab, host: str, vhid: int) -> bool:
    return (INTERFACE, virtual_address(1, vhid)) in lab[host].addresses()


def test_a_faster_host_preempts_only_where_it_was_told_to(
    lab_factory: Callable[..., Lab], program: Callable[[str], str]
) -> None:
    """Slower masters meet faster newcomers: with preemption they yield, without they stay.

    vhid 1: ours yields to `ucarp --preempt`; 2: ours stays, ucarp does not preempt;
    3: ucarp yields to `preempt = true`; 4: ucarp stays, ours preempts only the demoted;
    5: as 3, in another multicast group.  The ucarps of 3 and 4 send to the broadcast MAC.
    """
    program("ucarp")
    lab = lab_factory("carp-fast-preempt", hosts=("a", "b", "c"), segments=1, medium="bridge")
    a, b, c = lab.hosts
    with Observer(c) as observer:
        early = start_ours(lab, "early", {1: {"advskew": SLOW}, 2: {"advskew": SLOW}})
        options = {3: ["--nomcast"], 4: ["--nomcast"], 5: [f"--mcast={OTHER_GROUP}"]}
        ucarps = {
            vhid: start_ucarp(b, lab.directory, 1, vhid, advskew=SLOW, arguments=arguments)
            for vhid, arguments in options.items()
        }
        early.wait_state("MASTER", 10)
        wait_ucarp_state(ucarps.values(), "MASTER", 10)

        ucarps[1] = start_ucarp(b, lab.directory, 1, 1, advskew=FAST, preempt=True)
        ucarps[2] = start_ucarp(b, lab.directory, 1, 2, advskew=FAST)
        late_settings: dict[int, dict[str, object]] = {
            3: {"advskew": FAST, "preempt": True},
            4: {"advskew": FAST},
            5: {"advskew": FAST, "preempt": True, "destination": OTHER_GROUP},
        }
        late = start_ours(lab, "late", late_settings)
        wait_ucarp_state([ucarps[1]], "MASTER", 10)
        early.wait_state("BACKUP", 10, [(INTERFACE, 1)])
        late.wait_state("MASTER", 10, [(INTERFACE, 3), (INTERFACE, 5)])
        wait_ucarp_state([ucarps[3], ucarps[5]], "BACKUP", 10)
        assert early.virtual_host(INTERFACE, 1)["reason"] == "faster_master"
        assert late.virtual_host(INTERFACE, 3)["reason"] == "preempted"
        yielded = f"{INTERFACE}/1: MASTER -> BACKUP (faster_master from {b.address(1)})"
        assert len(early.log_lines(re.escape(yielded))) == 1

        changed = len(early.log_lines("->")), len(late.log_lines("->"))
        require_alone(observer, {1: b, 2: a, 3: a, 4: b, 5: a})
        assert changed == (len(early.log_lines("->")), len(late.log_lines("->")))

    assert ucarps[1].states == ucarps[4].states == ["BACKUP", "MASTER"]
    assert ucarps[2].states == ["BACKUP"]
    for vhid in (3, 5):
        assert ucarps[vhid].scripts == [ucarps[vhid].down, ucarps[vhid].up, ucarps[vhid].down]
    for vhid in ucarps:
        master = "b" if vhid in (1, 4) else "a"
        assert holds(lab, master, vhid)
        assert not holds(lab, "a" if master == "b" else "b", vhid)


def require_alone(observer: Observer, masters: dict[int, Host]) -> None:
    """Each of these is heard for longer than any master-down time, and nobody else at all."""
    since_ns = observer.mark()

    def long_heard() -> bool:
        return all(
            heard.last_at_ns > since_ns + 4e9
            for vhid, master in masters.items()
            for heard in [observer.advertisements(master)[Key(1, vhid)]]
        )

    observer.wait_until(long_heard, 10, "four seconds of advertisements")
    assert observer.masters(within_s=4) == {
        Key(1, vhid): frozenset({master.address(1)}) for vhid, master in masters.items()
    }


def test_ucarp_takes_over_at_once_when_ours_resigns(
    lab_factory: Callable[..., Lab], program: Callable[[str], str]
) -> None:
    """SIGTERM: the addresses go first, then 255/255 is said, and ucarp does not wait its 3.4 s.

    A virtual host that is BACKUP (vhid 9, of which ucarp is master) says nothing when it leaves.
    """
    program("ucarp")
    vhids = range(1, 9)
    lab = lab_factory("carp-fast-resign", hosts=("a", "b", "c"), segments=1, medium="bridge")
    a, b, c = lab.hosts
    with Observer(c) as observer:
        settings: dict[int, dict[str, object]] = {vhid: {"advskew": FAST} for vhid in vhids}
        daemon = start_ours(lab, "a", {**settings, 9: {"advskew": SLOW}})
        ucarps = [start_ucarp(b, lab.directory, 1, vhid, advskew=SLOW) for vhid in vhids]
        backup_of = start_ucarp(b, lab.directory, 1, 9, advskew=FAST, preempt=True)
        daemon.wait_state("MASTER", 10, [(INTERFACE, vhid) for vhid in vhids])
        wait_ucarp_state([backup_of], "MASTER", 10)
        wait_ucarp_state(ucarps, "BACKUP", 10)
        daemon.wait_state("BACKUP", 10, [(INTERFACE, 9)])
        assert not holds(lab, "a", 9)

        observer.mark()
        assert daemon.stop() == 0
        assert a.addresses() == {(INTERFACE, a.address(1))}
        everything = {Key(1, vhid) for vhid in vhids}
        observer.wait_until(
            lambda: observer.first_since_mark(b).keys() >= everything, 10, "ucarp master of all"
        )
        last = observer.advertisements(a)
        assert {key for key, heard in last.items() if heard.resigned} == everything
        silences_s = observer.silences_s(a, b)
        waited_s = sorted(silences_s[key] for key in everything)
        print(f"ucarp after the resignation: {waited_s[0]:.3f} to {waited_s[-1]:.3f} s")
        assert waited_s[-1] < 2.5
        wait_ucarp_state(ucarps, "MASTER", 10)
        wait_for(lambda: all(holds(lab, "b", vhid) for vhid in vhids), 10, "addresses on host b")
        assert backup_of.states == ["BACKUP", "MASTER"]
