"""What else may be on the wire: strangers with another passphrase, other addresses, and VRRP.

Host a runs carp-fast as MASTER, host c as BACKUP, host b makes the noise.  Nothing of it may change
a state; each kind has its counter, and none fills the log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial

import pytest

from carp_fast.control.protocol import ControlTimeout
from carp_fast.lab.lab import Lab, interface_name, virtual_address, wait_for
from tests.support.daemons import RunningDaemon, start_daemon, write_configuration
from tests.support.pairs import Wire, start_keepalived, start_ucarp
from tests.support.segment import advertisement, ip

pytestmark = [
    pytest.mark.root,
    pytest.mark.own_paths("send", "hold", reason="what is refused has been received"),
]

INTERFACE = interface_name(1)
WRONG_PASSPHRASE, WRONG_ADDRESSES, VRRP2, VRRP3, VRRP2_AS_LONG, VRRP3_AS_LONG, FLOODED = range(1, 8)
NOT_OURS, NOT_OURS_VRRP = 77, 78  # no virtual host of ours has these numbers
HEARD_MIN = 8  # of each kind of noise, before the verdict
FLOOD, FLOOD_SLICE = 5000, 250


def vrrp_instance(vrid: int, version: int, addresses: int) -> str:
    """One instance of keepalived's, faster and with a higher priority than it needs."""
    lines = "\n".join(f"    10.1.{200 + vrid}.{n}/32" for n in range(1, addresses + 1))
    return f"""
vrrp_instance V{vrid} {{
  state MASTER
  version {version}
  interface {INTERFACE}
  virtual_router_id {vrid}
  priority 254
  advert_int 1
  virtual_ipaddress {{
{lines}
  }}
}}
"""


KEEPALIVED = (
    vrrp_instance(VRRP2, 2, 1)
    + vrrp_instance(VRRP3, 3, 1)
    + vrrp_instance(VRRP2_AS_LONG, 2, 7)  # its byte 3 is 7, as CARP's authlen
    + vrrp_instance(VRRP3_AS_LONG, 3, 7)  # 36 bytes, as CARP
    + vrrp_instance(NOT_OURS_VRRP, 2, 1)
)


def rejected(daemon: RunningDaemon) -> tuple[dict[str, int], dict[int, dict[str, int]]]:
    """The rejections that are not zero: of the interface, and by vhid."""
    status = daemon.status()
    words = {"bad_auth", "vrrp", "bad_vhid", "bad_length", "bad_checksum", "bad_version"}
    words |= {"bad_type", "bad_ttl", "bad_destination", "bad_source", "loop", "replay"}

    def some(counters: Mapping[str, int]) -> dict[str, int]:
        return {word: n for word, n in counters.items() if word in words and n}

    (interface,) = status["interfaces"]
    hosts = {host["vhid"]: some(host["counters"]) for host in status["virtual_hosts"]}
    return some(interface["counters"]), {vhid: found for vhid, found in hosts.items() if found}


def test_strangers_and_vrrp_change_nothing_and_are_counted(
    lab_factory: Callable[..., Lab], program: Callable[[str], str]
) -> None:
    """ucarp with another passphrase, ucarp with another address, keepalived with VRRP 2 and 3.

    All claim the numbers of virtual hosts of ours, at higher priority.  Then a flood of 5,000
    forged advertisements.
    """
    program("ucarp")
    program("keepalived")
    lab = lab_factory("carp-fast-noise", hosts=("a", "b", "c"), segments=1, medium="bridge")
    a, b, c = lab.hosts
    table = {
        "interface": INTERFACE,
        "vhid": f"{WRONG_PASSPHRASE}-{FLOODED}",
        "addresses": [virtual_address(1, 0).removesuffix("0") + "{vhid}/32"],
    }
    master = start_daemon(a, write_configuration(lab.directory, "a", [{**table, "advskew": 50}]))
    master.wait_state("MASTER", 10)
    backup = start_daemon(c, write_configuration(lab.directory, "c", [{**table, "advskew": 150}]))
    backup.wait_state("BACKUP", 10)
    logged = {daemon: len(daemon.log.splitlines()) for daemon in (master, backup)}

    with master.events() as at_master, backup.events() as at_backup, Wire(c, 1) as wire:
        directory = lab.directory
        wrong = "wrong passphrase"
        start_ucarp(b, directory, 1, WRONG_PASSPHRASE, passphrase=wrong, preempt=True)
        start_ucarp(b, directory, 1, WRONG_ADDRESSES, address="10.1.1.99", preempt=True)
        start_ucarp(b, directory, 1, NOT_OURS, preempt=True)
        start_keepalived(b, directory, KEEPALIVED)
        heard = noise_heard(wire, ip(b.address(1)))
        print(f"heard from host b: {dict(sorted(heard.items()))}")
        for daemon in (master, backup):
            require_counted(daemon, heard)
        flood(lab, master, backup)

        # Not one state changed: the streams are empty, and a state is what it was.
        for stream in (at_master, at_backup):
            with pytest.raises(ControlTimeout):
                print(stream.next_event(0.05))
    assert set(master.states().values()) == {"MASTER"}
    assert set(backup.states().values()) == {"BACKUP"}
    for daemon, became_master in ((master, 1), (backup, 0)):
        for host in daemon.status()["virtual_hosts"]:
            assert host["counters"]["became_master"] == became_master

    # Once a minute, for each virtual host: somebody else claims it, or has another passphrase.
    for daemon, word in ((master, "other_master"), (backup, "bad_auth")):
        said = [
            line for line in daemon.log.splitlines()[logged[daemon] :] if "incident" not in line
        ]
        assert len(said) == 3, said
        for vhid in (WRONG_PASSPHRASE, WRONG_ADDRESSES, FLOODED):
            assert len([line for line in said if f" {INTERFACE}/{vhid}: {word}: " in line]) == 1


def noise_heard(wire: Wire, source: bytes) -> Counter[tuple[int, int]]:
    """Listens until each kind of noise was heard HEARD_MIN times; how often, by (version, vhid)."""
    expected = {(2, WRONG_PASSPHRASE), (2, WRONG_ADDRESSES), (2, NOT_OURS), (2, NOT_OURS_VRRP)}
    expected |= {(2, VRRP2), (3, VRRP3), (2, VRRP2_AS_LONG), (3, VRRP3_AS_LONG)}
    heard: Counter[tuple[int, int]] = Counter()
    for frame in wire.heard(25):
        if frame[26:30] != source:
            continue
        heard[frame[34] >> 4, frame[35]] += 1
        if all(heard[kind] >= HEARD_MIN for kind in expected):
            break
    assert heard.keys() == expected
    return heard


def require_counted(daemon: RunningDaemon, heard: Counter[tuple[int, int]]) -> None:
    """Each kind is counted under its word, at least as often as the wire had it by then."""
    vrrp = {(2, VRRP2), (2, VRRP2_AS_LONG), (3, VRRP3), (3, VRRP3_AS_LONG), (2, NOT_OURS_VRRP)}
    strangers = (WRONG_PASSPHRASE, WRONG_ADDRESSES)
    expected = {
        "vrrp": sum(heard[kind] for kind in vrrp),
        "bad_vhid": heard[2, NOT_OURS],
        "bad_auth": sum(heard[2, vhid] for vhid in strangers),
    }

    def counted() -> bool:
        # The daemon reads in batches, a tick later than the wire.
        interface, hosts = rejected(daemon)
        return all(interface.get(word, 0) >= count for word, count in expected.items()) and all(
            hosts.get(vhid, {}).get("bad_auth", 0) >= heard[2, vhid] for vhid in strangers
        )

    wait_for(counted, 10, f"{expected} on host {daemon.host.name}")
    interface, hosts = rejected(daemon)
    assert interface.keys() == expected.keys()
    # VRRP concerns no virtual host, but some of it can be told only by the number's digest.
    for vhid, found in hosts.items():
        assert found.keys() == ({"bad_auth"} if vhid in strangers else {"vrrp"}), hosts


def flood(lab: Lab, master: RunningDaemon, backup: RunningDaemon) -> None:
    """FLOOD forged advertisements as fast as they are taken; both count every one."""
    with Wire(lab["b"], 1) as wire:
        forged = advertisement(
            source=lab["b"].address(1), source_mac=wire.mac, vhid=FLOODED, passphrase=b"guessed"
        )
        for sent in range(FLOOD_SLICE, FLOOD + 1, FLOOD_SLICE):
            for _ in range(FLOOD_SLICE):
                wire.send(forged)
            for daemon in (master, backup):
                wait_for(
                    partial(has_counted, daemon, sent),
                    10,
                    f"{sent} forged advertisements counted on host {daemon.host.name}",
                )


def has_counted(daemon: RunningDaemon, count: int) -> bool:
    return daemon.counters(INTERFACE, FLOODED)["bad_auth"] == count
