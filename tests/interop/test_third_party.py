"""A third party that knows the passphrase and speaks from our own source address, or repeats us.

Host a runs carp-fast as MASTER, host c as BACKUP, host b sends frames built without our code.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from carp_fast.control.protocol import ControlTimeout
from carp_fast.lab.lab import Lab, interface_name, virtual_address, wait_for
from tests.support.daemons import PASSPHRASE, RunningDaemon, start_daemon, write_configuration
from tests.support.pairs import Wire
from tests.support.segment import advertisement, ip

pytestmark = [pytest.mark.root, pytest.mark.each_path(reason="each path drops and sends alike")]

INTERFACE = interface_name(1)
TIE, SLOWER, FASTER, REFLECTED = VHIDS = range(1, 5)
ADVSKEW = {"a": 50, "c": 150}
SENT = 5
LOW_MAC = b"\x02\0\0\0\0\x01"  # below that of any veth


def start_pair(lab: Lab) -> tuple[RunningDaemon, RunningDaemon]:
    """carp-fast on hosts a and c; returns when a is MASTER of all."""
    table = {
        "interface": INTERFACE,
        "vhid": f"{VHIDS[0]}-{VHIDS[-1]}",
        "addresses": [virtual_address(1, 0).removesuffix("0") + "{vhid}/32"],
    }
    daemons = []
    for name, state in (("a", "MASTER"), ("c", "BACKUP")):
        tables = [{**table, "advskew": ADVSKEW[name]}]
        daemon = start_daemon(lab[name], write_configuration(lab.directory, name, tables))
        daemon.wait_state(state, 10)
        daemons.append(daemon)
    return daemons[0], daemons[1]


def wait_count(daemon: RunningDaemon, vhid: int, word: str, count: int) -> None:
    """Returns when the counter is there; AssertionError if it goes beyond."""
    wait_for(
        lambda: daemon.counters(INTERFACE, vhid)[word] >= count,
        10,
        f"{word} = {count} of {INTERFACE}/{vhid}",
    )
    assert daemon.counters(INTERFACE, vhid)[word] == count


@pytest.mark.own_paths("receive", reason="the kernel keeps our own source from a raw socket")
def test_another_host_that_uses_our_source_address(lab_factory: Callable[..., Lab]) -> None:
    """Said once with its MAC, counted each time, and decided as any advertisement.

    On a tie the higher MAC stays, which is ours; against a slower one we stay too and advertise at
    once, to a faster one we yield, and come back when it is silent.
    """
    lab = lab_factory("carp-fast-third", hosts=("a", "b", "c"), segments=1, medium="bridge")
    master, backup = start_pair(lab)
    with Wire(lab["b"], 1) as wire:

        def send(vhid: int, advskew: int, count: int) -> None:
            """Right advertisements from host a's address, their counters far from its own."""
            for number in range(count):
                wire.send(
                    advertisement(
                        source=lab["a"].address(1),
                        source_mac=LOW_MAC,
                        vhid=vhid,
                        advskew=advskew,
                        passphrase=PASSPHRASE.encode(),
                        addresses=[ip(virtual_address(1, vhid))],
                        counter=1000 + number,
                    )
                )

        send(TIE, ADVSKEW["a"], SENT)
        wait_count(master, TIE, "duplicate_source", SENT)
        send(SLOWER, ADVSKEW["a"] + 1, SENT)
        wait_count(master, SLOWER, "duplicate_source", SENT)
        for vhid in (TIE, SLOWER):
            host = master.virtual_host(INTERFACE, vhid)
            assert (host["state"], host["reason"]) == ("MASTER", "master_down")
            assert host["counters"]["became_master"] == 1

        with master.events() as events:
            send(FASTER, ADVSKEW["a"] - 1, 1)
            for state, reason in (("BACKUP", "faster_master"), ("MASTER", "master_down")):
                event = events.next_event(10)
                assert (event["vhid"], event["state"], event["reason"]) == (FASTER, state, reason)
        assert master.counters(INTERFACE, FASTER)["duplicate_source"] == 1

    mac = LOW_MAC.hex(":")
    for vhid in (TIE, SLOWER, FASTER):
        (line,) = master.log_lines(f" {INTERFACE}/{vhid}: duplicate_source")
        assert mac in line
    assert len(master.log_lines("duplicate_source")) == 3
    assert backup.log_lines("duplicate_source") == []
    assert set(backup.states().values()) == {"BACKUP"}


@pytest.mark.own_paths("receive", reason="the kernel keeps our own source from a raw socket")
def test_our_own_advertisement_reflected(lab_factory: Callable[..., Lab]) -> None:
    """A frame of ours that comes back is a `loop`: counted, no duplicate_source, no change.

    To the backup it is one more advertisement of its master.
    """
    lab = lab_factory("carp-fast-loop", hosts=("a", "b", "c"), segments=1, medium="bridge")
    master, backup = start_pair(lab)
    logged = len(master.log.splitlines()), len(backup.log.splitlines())
    with Wire(lab["b"], 1) as wire, master.events() as events:
        reflected = 0
        for frame in wire.heard(SENT + 5):
            if frame[35] == REFLECTED and frame[26:30] == ip(lab["a"].address(1)):
                wire.send(frame)
                reflected += 1
            if reflected == SENT:
                break
        wait_count(master, REFLECTED, "loop", reflected)
        wait_for(
            lambda: backup.counters(INTERFACE, REFLECTED)["advertisements_heard"] >= 2 * SENT,
            10,
            "what was sent and what was reflected, on host c",
        )
        assert master.interface(INTERFACE)["counters"]["loop"] == reflected
        assert master.counters(INTERFACE, REFLECTED)["duplicate_source"] == 0
        assert master.counters(INTERFACE, REFLECTED)["advertisements_heard"] == 0
        with pytest.raises(ControlTimeout):
            print(events.next_event(0.05))
    assert set(master.states().values()) == {"MASTER"}
    assert set(backup.states().values()) == {"BACKUP"}
    assert logged == (len(master.log.splitlines()), len(backup.log.splitlines()))
