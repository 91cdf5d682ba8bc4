"""Virtual addresses that are on the host by other hands: told in every state, and never touched."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from carp_fast.lab.lab import Host, Lab, wait_for
from tests.support.daemons import RunningDaemon, start_daemon, write_configuration

pytestmark = [
    pytest.mark.root,
    pytest.mark.own_paths(
        "send", "receive", "hold", reason="addresses are compared with those of others"
    ),
]

FOUR, SIX = "10.1.1.1/24", "2001:db8::1/64"
FOREIGN = "address_foreign"


def table(*addresses: str, vhids: str = "1") -> dict[str, Any]:
    return {"interface": "s1", "vhid": vhids, "addresses": list(addresses)}


def ip(host: Host, words: str) -> None:
    host.run(["ip", *words.split()])


def held(host: Host) -> set[str]:
    links = json.loads(host.run(["ip", "-j", "addr", "show", "dev", "s1"]).stdout)
    entries = (entry for link in links for entry in link["addr_info"])
    return {f"{entry['local']}/{entry['prefixlen']}" for entry in entries}


def command(daemon: RunningDaemon, *words: str) -> str:
    argv = [sys.executable, "-m", "carp_fast", *words]
    done = daemon.host.run([*argv[:4], "-c", str(daemon.configuration), *argv[4:]])
    return done.stdout + done.stderr


def problems(daemon: RunningDaemon, vhid: int = 1) -> dict[str, str]:
    found: dict[str, str] = daemon.virtual_host("s1", vhid)["address_problems"]
    return found


@pytest.mark.parametrize(
    ("address", "on_host"),
    [(FOUR, FOUR), (FOUR, "10.1.1.1/32"), (SIX, SIX), (SIX, "2001:db8::1/128")],
)
def test_a_backup_tells_what_its_host_has_by_other_hands(
    lab_factory: Callable[..., Lab], tmp_path: Path, address: str, on_host: str
) -> None:
    a, b = lab_factory(segments=1, ipv6=True).hosts
    tables = [table(address)]
    master = start_daemon(a, write_configuration(tmp_path, "a", tables, defaults={"dead_ratio": 1}))
    master.wait_state("MASTER", 10)
    path = write_configuration(tmp_path, "b", tables, defaults={"advskew": 100})
    flags = " nodad" if ":" in address else ""
    ip(b, f"addr add {on_host} dev s1{flags}")
    wait_for(lambda: on_host in held(b), 10, "the foreign address")
    why = FOREIGN if on_host == address else f"{FOREIGN} as {on_host}"
    # At the start.
    backup = start_daemon(b, path)
    backup.wait_state("BACKUP", 15)
    backup.wait_log(f"WARNING s1/1: {FOREIGN}: {address} is on the interface and not ours", 10)
    assert problems(backup) == {address: why}
    said = command(backup, "explain", "s1", "1")
    assert "none held" not in said
    assert f"foreign: {address} is on s1 and not ours, left alone: this host answers" in said
    assert f'{address}": of s1/1 is on this host already' in command(backup, "check")
    # It goes while the daemon runs, and comes again.
    ip(b, f"addr del {on_host} dev s1")
    wait_for(lambda: problems(backup) == {}, 10, "no problem left")
    assert "none held, as expected in BACKUP" in command(backup, "explain", "s1", "1")
    assert "is on this host already" not in command(backup, "check")
    assert "no virtual host to show" in command(backup, "status", "--problems")
    ip(b, f"addr add {on_host} dev s1{flags}")
    wait_for(lambda: problems(backup) == {address: why}, 10, "the problem again")
    assert len(backup.log_lines(f"WARNING s1/1: {FOREIGN}")) == 2
    assert len(backup.log_lines("is no longer foreign")) == 1
    # It is left alone, as BACKUP and at the end.
    assert backup.stop() == 0
    assert on_host in held(b)
    assert problems(master) == {}
    assert "is on this host already" not in command(master, "check"), "ours bear our mark"
    assert master.stop() == 0


def test_a_reload_and_a_missing_link_tell_it_too(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, _ = lab_factory(segments=1).hosts
    ip(a, "addr add 10.1.1.2/32 dev s1")
    ip(a, "link set s1 down")
    path = write_configuration(tmp_path, "a", [table("10.1.1.1/24")])
    daemon = start_daemon(a, path)
    daemon.wait_state("INIT", 10)
    assert problems(daemon) == {}
    write_configuration(tmp_path, "a", [table("10.1.1.{vhid}/24", vhids="1-2")])
    daemon.reload()
    assert problems(daemon, 2) == {"10.1.1.2/24": f"{FOREIGN} as 10.1.1.2/32"}
    assert daemon.virtual_host("s1", 2)["state"] == "INIT"
    # One that another interface has is told where it cannot be followed: at start and reload.
    ip(a, "addr add 10.1.1.3/32 dev lo")
    write_configuration(tmp_path, "a", [table("10.1.1.{vhid}/24", vhids="1-3")])
    daemon.reload()
    assert problems(daemon, 3) == {}
    daemon.wait_log(r"of s1/3 is on this host already, .* lo \(10.1.1.3/32\)", 10)
    # Another address in place of the one that is foreign, and back.
    write_configuration(tmp_path, "a", [table("10.1.1.1{vhid}/24", vhids="1-2")])
    daemon.reload()
    assert problems(daemon, 2) == {}
    write_configuration(tmp_path, "a", [table("10.1.1.{vhid}/32", vhids="1-2")])
    daemon.reload()
    assert problems(daemon, 2) == {"10.1.1.2/32": FOREIGN}
    assert daemon.stop() == 0
    assert "10.1.1.2/32" in held(a)


def test_a_master_holds_its_own_beside_a_foreign_one(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, _ = lab_factory(segments=1).hosts
    ip(a, "addr add 10.1.1.1/32 dev s1")
    path = write_configuration(tmp_path, "a", [table(FOUR)], defaults={"dead_ratio": 1})
    daemon = start_daemon(a, path)
    daemon.wait_state("MASTER", 10)
    wait_for(lambda: {FOUR, "10.1.1.1/32"} <= held(a), 10, "both addresses")
    assert problems(daemon) == {FOUR: f"{FOREIGN} as 10.1.1.1/32"}
    said = command(daemon, "explain", "s1", "1")
    assert f"held: {FOUR}" in said
    assert f"foreign: another program has added {FOUR}, too, and it stays when" in said
    assert daemon.stop() == 0
    assert FOUR not in held(a)
    assert "10.1.1.1/32" in held(a)
