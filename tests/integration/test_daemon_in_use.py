"""Two processes of one machine with the same virtual host: one takes part, the other waits for it.

A machine does not hear what it sends, so both would be MASTER, and the second to step down would
remove the first one's address.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from carp_fast.lab.lab import Host, Lab, wait_for
from tests.support.daemons import PASSPHRASE, RunningDaemon, start_daemon, write_configuration

pytestmark = [
    pytest.mark.root,
    pytest.mark.each_path(reason="a daemon waits for another on its host"),
]

RETRIED_WITHIN_S = 10.0
MASTER_WITHIN_S = RETRIED_WITHIN_S + 5


def table(vhids: str, interface: str = "s1", **keys: Any) -> dict[str, Any]:
    return {
        "interface": interface,
        "vhid": vhids,
        "addresses": ["10.1.1.{vhid}/32"],
        **keys,
    }


def start(
    host: Host, directory: Path, name: str, *tables: Mapping[str, Any], **daemon: Any
) -> RunningDaemon:
    return start_daemon(host, write_configuration(directory, name, tables, daemon=daemon))


def told(daemon: RunningDaemon) -> dict[int, tuple[str, str]]:
    return {
        each["vhid"]: (each["state"], each["reason"]) for each in daemon.status()["virtual_hosts"]
    }


def all_missing(daemon: RunningDaemon) -> bool:
    """Whether the interface of every virtual host is known to be gone."""
    return {each[1] for each in told(daemon).values()} == {"interface_missing"}


IN_USE = ("INIT", "in_use")


def test_the_second_daemon_waits_and_takes_part_when_the_first_has_gone(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, _ = lab_factory(segments=1).hosts
    first = start(a, tmp_path, "first", table("1-3"))
    first.wait_state("MASTER", 10)
    held = a.addresses()
    second = start(a, tmp_path, "second", table("2-5"))
    second.wait_state("MASTER", 10, [("s1", 4), ("s1", 5)])
    assert {told(second)[vhid] for vhid in (2, 3)} == {IN_USE}
    # Its mark is ours, too, and still nothing was taken from it at the start.
    assert held <= a.addresses()
    assert not first.log_lines("removed by another program")
    assert [first.counters("s1", vhid)["addresses_restored"] for vhid in (1, 2, 3)] == [0, 0, 0]
    pid = first.process.pid
    second.wait_log(rf"WARNING s1/2 and 1 more: in_use: pid {pid} \(", 10)
    assert len(second.log_lines("WARNING.*in_use")) == 1
    by = second.virtual_host("s1", 2)["in_use_by"]
    assert by.startswith(f"pid {pid} (")
    assert (
        by
        in second.client.request("explain", interface="s1", vhid=2)["explain"]["virtual_hosts"][0][
            "in_use_by"
        ]
    )
    assert first.virtual_host("s1", 2)["in_use_by"] is None

    # `check` says so before it is started, and nothing of the daemon's own.
    checked = [
        a.run([sys.executable, "-m", "carp_fast", "check", "-c", str(each.configuration)]).stderr
        for each in (first, second)
    ]
    assert f"warning: s1/2 and 1 more: in_use: pid {pid} (" in checked[1]
    assert "s1/4" not in checked[1]
    assert "in_use" not in checked[0]

    # What the second one does not have, it does not touch: not at a reload, nor at its end.
    second.reload()
    assert second.stop() == 0
    assert set(first.states().values()) == {"MASTER"}
    assert held <= a.addresses()

    second = start(a, tmp_path, "second", table("2-5"))
    assert {told(second)[vhid] for vhid in (2, 3)} == {IN_USE}
    first.kill()
    second.wait_log("s1/2 and 1 more: no longer in_use", RETRIED_WITHIN_S)
    second.wait_state("MASTER", MASTER_WITHIN_S)
    # And the other way round: who comes back waits now, but for what is free.
    first = start(a, tmp_path, "first", table("1-3"))
    first.wait_state("MASTER", 10, [("s1", 1)])
    assert {told(first)[vhid] for vhid in (2, 3)} == {IN_USE}
    assert set(second.states().values()) == {"MASTER"}
    taken = {("s1", "10.1.1.2"), ("s1", "10.1.1.3")}
    wait_for(lambda: taken <= a.addresses(), 10, "their addresses")


def test_a_reload_takes_what_is_free_and_waits_for_the_rest(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    lab = lab_factory(segments=1)
    a, _ = lab.hosts
    first = start(a, tmp_path, "first", table("1-2"))
    first.wait_state("MASTER", 10)
    second = start(a, tmp_path, "second", table("5"))
    write_configuration(tmp_path, "second", [table("5"), table("2-3")])
    assert second.reload()["added"] == 2
    second.wait_state("MASTER", 10, [("s1", 3), ("s1", 5)])
    assert told(second)[2] == IN_USE
    # The first one gives it up by a reload: no process ends.
    write_configuration(tmp_path, "first", [table("1")])
    first.reload()
    second.wait_state("MASTER", MASTER_WITHIN_S)
    # Another group is another virtual host, with another address.
    other = table("2", destination="239.0.0.1") | {"addresses": "10.1.2.2/32"}
    write_configuration(tmp_path, "first", [table("1"), other])
    first.reload()
    first.wait_state("MASTER", 10)
    assert set(second.states().values()) == {"MASTER"}


def test_a_recreated_interface_has_its_virtual_hosts_shared_out_anew(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    lab = lab_factory(segments=1)
    a, _ = lab.hosts
    first = start(a, tmp_path, "first", table("1-3"))
    first.wait_state("MASTER", 10)
    second = start(a, tmp_path, "second", table("1-3"))
    assert set(told(second).values()) == {IN_USE}
    lab.delete_interface("a", 1)
    for daemon in (first, second):
        daemon.wait_state("INIT", 10)
        wait_for(
            partial(all_missing, daemon),
            10,
            "the interface's end",
        )
    lab.recreate_interface(1)

    def shared_out() -> bool:
        both = [told(daemon) for daemon in (first, second)]
        return all(
            sorted(each[vhid] == IN_USE for each in both) == [False, True] for vhid in (1, 2, 3)
        )

    wait_for(shared_out, 10, "each virtual host in one of the two")

    def one_master_each() -> bool:
        both = [told(daemon) for daemon in (first, second)]
        return all(
            sorted(each[vhid][0] for each in both) == ["INIT", "MASTER"] for vhid in (1, 2, 3)
        )

    wait_for(one_master_each, 10, "one MASTER for each virtual host")


def test_the_command_line_of_ucarp_takes_part(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, _ = lab_factory(segments=1).hosts
    first = start(a, tmp_path, "first", table("1"))
    first.wait_state("MASTER", 10)
    words = f"-i s1 -s {a.address(1)} -v 1 -p {PASSPHRASE} -a 10.1.1.1"
    argv = [sys.executable, "-m", "carp_fast", "ucarp", *words.split()]
    log = tmp_path / "ucarp.log"
    process = a.start(argv, log=log)
    wait_for(lambda: "in_use" in process.output(), 10, "the lock that is taken")
    assert "MASTER" not in process.output()
    first.process.signal(signal.SIGKILL)
    wait_for(lambda: "Switching to state: MASTER" in process.output(), MASTER_WITHIN_S, "MASTER")
    again = start(a, tmp_path, "first", table("1"))
    assert told(again)[1] == IN_USE
    assert str(process.pid) in again.wait_log("in_use: pid", 10)[-1]


def test_two_hosts_of_one_machine_in_namespaces_of_their_own_do_not_meet(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, b = lab_factory(segments=1).hosts
    first = start(a, tmp_path, "first", table("1"))
    second = start(b, tmp_path, "second", table("1", advskew=100))
    first.wait_state("MASTER", 10)
    second.wait_state("BACKUP", 15)
    assert not second.log_lines("in_use")
