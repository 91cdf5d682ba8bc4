"""`explain`: timers, demotion, addresses, rejections, INIT, and what was asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from carp_fast.config.ranges import in_ranges
from carp_fast.control.explanations import Explanation
from carp_fast.control.protocol import ControlError
from carp_fast.daemon import explain_text, explain_words
from carp_fast.net.interfaces import Interface, absent
from tests.support.asked import ADVSKEW, ETH0, Asked, explained
from tests.support.segment import (
    GROUP,
    SECOND_NS,
    START_NS,
    advertisement,
    carp_header,
    ip,
    ipv4_frame,
    prepared,
)

# ----------------------------------------------------------------------- timers


def test_a_backup_takes_over_unless() -> None:
    asked = Asked().hear()
    asked.now_ns += SECOND_NS
    assert asked.facts()["timer"] == {"event": "master_down", "in_s": 2.391}
    assert asked.sections()["timers"] == ["takes over in 2.391 s unless a master is heard"]


def test_a_backup_whose_master_leaves() -> None:
    asked = Asked().hear().hear(advbase=255, advskew=255, counter=2)
    assert asked.sections()["timers"] == ["the master leaves: takes over in 0.391 s"]


def test_a_backup_whose_master_is_too_slow() -> None:
    asked = Asked().hear().hear(advbase=20, counter=2)
    assert asked.sections()["timers"] == [
        "the master advertises too rarely for us: takes over in 0.391 s"
    ]


def test_a_backup_that_lost_a_tie_lately_waits_for_its_turn() -> None:
    asked = Asked(dialect="freebsd", preempt=True).become("MASTER").hear(advskew=100)
    asked.hear(advskew=200, counter=2)
    assert asked.heard()["event"] == "contested"
    assert asked.facts()["timer"]["event"] == "our_turn"
    found = asked.sections()
    assert found["timers"][0].endswith(", unless another loser of it is faster")
    assert found["heard masters"][0].endswith("unless another host's jitter is shorter")


def test_a_master_advertises_next() -> None:
    asked = Asked().become("MASTER")
    asked.now_ns = asked.engine.host(0).deadline_ns - 312_000_000
    assert asked.sections()["timers"] == ["next advertisement in 312 ms"]


def test_a_timer_that_is_late_does_not_run_backwards() -> None:
    asked = Asked()
    asked.now_ns += 100 * SECOND_NS
    assert asked.facts()["timer"] == {"event": "master_down", "in_s": 0.0}


def test_a_startup_delay() -> None:
    asked = Asked({"startup_delay_s": 30.0}, startup_delay_ns=30 * SECOND_NS)
    asked.now_ns += 18 * SECOND_NS
    found = asked.sections()
    assert found["timers"] == ["startup_delay_s = 30 runs: takes part in 12.000 s"]
    assert found["to take part"] == ["nothing is missing: its startup delay has to end"]


def test_a_preempt_delay() -> None:
    asked = Asked({"preempt_delay_s": 3.0}, preempt=True, preempt_delay_ns=3 * SECOND_NS)
    asked.hear(advskew=200)
    asked.now_ns += SECOND_NS
    assert asked.sections()["timers"][1] == (
        "preempt_delay_s = 3 runs: takes over from a slower master in 2.000 s at the earliest;"
        " carp-fast preempt eth0 42 does not wait for it"
    )
    asked.now_ns += 3 * SECOND_NS
    assert len(asked.sections()["timers"]) == 1
    assert asked.heard()["event"] == "slower_master"
    # Another one that is faster, and the delay begins anew.
    asked.hear("10.77.0.4")
    assert asked.facts()["preempts_in_s"] is None
    assert (
        "but preempt_delay_s = 3 begins when it is next heard"
        in (asked.sections()["heard masters"][0])
    )


def test_silence_counts_from_the_end_of_an_absence() -> None:
    asked = Asked().hear()
    asked.now_ns += 2 * SECOND_NS
    asked.engine.stall(asked.now_ns, asked.now_ns - 2 * SECOND_NS)
    asked.now_ns += SECOND_NS
    takes_over, silence = asked.sections()["timers"]
    # Two seconds later than its deadline would have been: more than two intervals from then on.
    assert takes_over == "takes over in 2.391 s unless a master is heard"
    assert silence.startswith(
        "the pump did not run, or the kernel dropped frames: it waits longer for what it may have"
        " missed"
    )
    assert silence.endswith("Z (1.000 s ago)")
    assert asked.hear(counter=2).facts()["stalled"] is None


def test_the_jitter_after_a_tie_is_explained() -> None:
    asked = Asked().become("MASTER")
    asked.hear("10.77.0.1", advskew=ADVSKEW)
    (takes_over, jitter) = asked.sections()["timers"]
    facts = asked.facts()
    assert facts["ties"] == 1
    assert 0 < facts["jitter_s"] < facts["interval_s"] / 4
    assert takes_over.startswith(
        f"takes over in {facts['master_down_s'] + facts['jitter_s']:.3f} s"
    )
    assert jitter.startswith("it lost a tie recently (1 since only one master was heard")
    assert f"each wait is {facts['jitter_s']:.3f} s longer" in jitter


def test_an_absence_means_nothing_to_a_master() -> None:
    asked = Asked().become("MASTER")
    asked.engine.stall(asked.now_ns, asked.now_ns - 2 * SECOND_NS)
    assert asked.facts()["stalled"] is None


def test_an_absence_shorter_than_its_interval_means_nothing_to_a_backup() -> None:
    asked = Asked().hear()
    asked.now_ns += 2 * SECOND_NS
    asked.engine.stall(asked.now_ns, asked.now_ns - SECOND_NS)
    assert asked.facts()["stalled"] is None
    asked.engine.drop(asked.now_ns, asked.now_ns - SECOND_NS // 100)
    assert asked.facts()["stalled"] is not None


# ----------------------------------------------------------------------- addresses


def test_addresses_as_they_should_be() -> None:
    assert Asked().sections()["addresses"] == ["none held, as expected in BACKUP: 10.77.0.100/24"]
    assert Asked().become("MASTER").sections()["addresses"] == ["held: 10.77.0.100/24"]


def test_an_address_that_is_being_added_and_removed() -> None:
    asked = Asked().hear(advskew=0)
    asked.engine.expire(asked.now_ns + 4 * SECOND_NS)
    assert asked.node.state == "MASTER"
    asked.now_ns += 4 * SECOND_NS
    assert asked.sections()["addresses"] == [
        "0 held, 1 missing and being added: 10.77.0.100/24",
        "without any address for 0.000 s: after 10 s (address_deadline_s) it gives up",
    ]
    asked.node.take(asked.now_ns)
    asked.node.attach(asked.now_ns, up=False)
    assert asked.sections()["addresses"] == ["1 of 1 still held, being removed: 10.77.0.100/24"]


def test_addresses_with_a_problem() -> None:
    asked = Asked().become("MASTER")
    asked.problems.address_problems[0] = {"10.77.0.100/24": "address_foreign"}
    assert asked.sections()["addresses"] == [
        "foreign: 10.77.0.100/24 existed already and is not ours, left alone (address_foreign)"
    ]
    asked.problems.address_problems[0] = {"10.77.0.100/24": "Permission denied"}
    assert asked.sections()["addresses"] == [
        "failed: 10.77.0.100/24 could not be added (Permission denied)"
    ]


@pytest.mark.parametrize("state", ["INIT", "BACKUP"])
@pytest.mark.parametrize("why", ["address_foreign", "address_foreign as 10.77.0.100/32"])
def test_a_foreign_address_of_who_is_not_master(state: str, why: str) -> None:
    asked = Asked().become(state)
    asked.problems.address_problems[0] = {"10.77.0.100/24": why}
    assert asked.sections()["addresses"] == [
        "foreign: 10.77.0.100/24 is on eth0 and not ours, left alone: this host answers for it,"
        f" although it is {state} ({why})"
    ]


def test_a_foreign_address_beside_that_of_a_master() -> None:
    every = ["10.77.0.100/24", "fd77::100/64"]
    facts = Asked().become("MASTER").facts() | {"addresses": every, "addresses_held": 1}
    why = {address: f"address_foreign as {address.partition('/')[0]}/30" for address in every}
    # Two IPv4 addresses that differ in their prefix length alone are there at once, IPv6 ones not.
    assert list(explain_text.addresses(explained(facts | {"address_problems": why}))) == [
        "held: 10.77.0.100/24",
        "foreign: another program has added 10.77.0.100/24, too, and it stays when another host is"
        " MASTER (address_foreign as 10.77.0.100/30)",
        "foreign: fd77::100/64 existed already and is not ours, left alone"
        " (address_foreign as fd77::100/30)",
    ]


def test_what_is_not_foreign_is_not_held_by_a_backup() -> None:
    every = ["10.77.0.100/24", "10.77.0.101/24"]
    facts = Asked().facts() | {"addresses": every}
    facts["address_problems"] = {every[1]: "address_foreign"}
    first, second = explain_text.addresses(explained(facts))
    assert first == "none held, as expected in BACKUP: 10.77.0.100/24"
    assert second.startswith("foreign: 10.77.0.101/24 is on eth0 and not ours")


def test_many_addresses_are_cut() -> None:
    every = [f"10.0.0.{n}/32" for n in range(50)]
    facts = Asked().become("MASTER").facts() | {"addresses": every, "addresses_held": 50}
    [line] = explain_text.addresses(explained(facts))
    assert line.startswith("held: 10.0.0.0/32, ")
    assert line.endswith("10.0.0.15/32 and 34 more")
    bad = facts | {"addresses_held": 0, "address_problems": dict.fromkeys(every, "no")}
    said = list(explain_text.addresses(explained(bad)))
    assert len(said) == explain_text.ADDRESSES_LISTED + 1
    assert said[-1] == "... and 34 more that are foreign or failed"


def test_addresses_of_scripts() -> None:
    asked = Asked({"manage_addresses": False}, manage_addresses=False)
    assert asked.sections()["addresses"] == [
        "manage_addresses = false: its scripts add and remove 10.77.0.100/24"
    ]


# ----------------------------------------------------------------------- rejections and counters


def test_the_last_rejections_that_concern_it() -> None:
    asked = Asked()
    frames = [
        advertisement(source="10.77.0.9", passphrase=b"other"),
        advertisement(vhid=43),
        ipv4_frame(b"\x21\x2a"),
        ipv4_frame(carp_header(), destination=GROUP[:3] + b"\x19"),
    ]
    verdicts = [
        asked.engine.receive(0, frame, START_NS + n * SECOND_NS) for n, frame in enumerate(frames)
    ]
    assert verdicts == ["bad_auth", "bad_vhid", "bad_length", "bad_destination"]
    asked.now_ns += 5 * SECOND_NS
    assert [(e["verdict"], e["vhid"], e["source"]) for e in asked.facts()["rejections"]] == [
        ("bad_destination", 42, "10.77.0.1"),
        ("bad_length", None, None),
        ("bad_auth", 42, "10.77.0.9"),
    ]
    found = asked.sections()
    assert found["last rejections"] == [
        "bad_destination from 10.77.0.1, 2.000 s ago",
        "  bad_destination: sent to another group, or as unicast: compare destination, "
        "destination6 and peers on both hosts",
        "bad_length from an unknown source, for an unknown vhid, 3.000 s ago",
        "  bad_length: too short or truncated: damaged on its way, or not CARP's use of protocol"
        " 112",
        "bad_auth from 10.77.0.9, 5.000 s ago",
        "  bad_auth: another passphrase or other signed addresses: "
        "try carp-fast dump -i eth0 -c FILE",
    ]
    assert found["counters"] == [
        "bad_destination 1, bad_auth 1",
        "rejected on eth0, for any virtual host: bad_length 1, bad_vhid 1, bad_destination 1, "
        "bad_auth 1",
    ]


@pytest.mark.parametrize("verdict", explain_words.VERDICT_HINTS)
def test_every_hint_can_be_said(verdict: str) -> None:
    rejection = {"at": "", "verdict": verdict, "vhid": 42, "source": "10.77.0.9", "ago_s": 1.0}
    said = list(explain_text.rejections(explained(Asked().facts() | {"rejections": [rejection]})))
    assert said[0] == f"{verdict} from 10.77.0.9, 1.000 s ago"
    assert said[1].startswith(f"  {verdict}: ")
    assert "{" not in said[1]


def test_nothing_to_say_is_not_said() -> None:
    assert {"last rejections", "counters", "to take part"}.isdisjoint(Asked().sections())


# ----------------------------------------------------------------------- INIT


def interface_gone(asked: Asked) -> None:
    asked.node.attach(START_NS, ifindex=0)
    asked.network.now["eth0"] = absent("eth0")


def no_ethernet(asked: Asked) -> None:
    asked.node.attach(START_NS, ifindex=0)
    asked.network.now["eth0"] = Interface("eth0", 7, b"", True, ())


def link_down(asked: Asked) -> None:
    asked.node.attach(START_NS, up=False)


def set_down(asked: Asked) -> None:
    asked.node.attach(START_NS, up=False)
    asked.network.now["eth0"] = Interface("eth0", 7, ETH0.mac, False, (), set_up=False)


def no_source(asked: Asked) -> None:
    asked.node.attach(START_NS, source=None)


def in_use(asked: Asked) -> None:
    asked.engine.bar(0, True, START_NS)
    asked.in_use[0] = "pid 4711 (carp-fast)"


def in_use_by_whom(asked: Asked) -> None:
    asked.engine.bar(0, True, START_NS)


def leaving(asked: Asked) -> None:
    asked.engine.resign_all(START_NS)


@pytest.mark.parametrize(
    ("lose", "link", "reason", "sentence"),
    [
        (
            interface_gone,
            "missing",
            "interface_missing",
            "interface eth0 does not exist: it takes part as soon as it does",
        ),
        (
            no_ethernet,
            "unusable",
            "interface_missing",
            "eth0 is not an Ethernet interface: CARP needs one with a MAC",
        ),
        (
            link_down,
            "up",  # as the links tell it, who are not asked here
            "link_down",
            "eth0 is set up and has no carrier: look at its cable, the port of the switch, and the"
            " other end; with ignore_link_state = true it takes part without carrier",
        ),
        (set_down, "down", "link_down", "eth0 is set down: ip link set eth0 up"),
        (
            no_source,
            "up",
            "no_source",
            "eth0 needs an IPv4 address that is not virtual, or the configuration a source",
        ),
        (
            in_use,
            "up",
            "in_use",
            "pid 4711 (carp-fast) of this machine has it: as soon as that process ends, it takes "
            "part",
        ),
        (
            in_use_by_whom,
            "up",
            "in_use",
            "another process of this machine has it: as soon as that process ends, it takes part",
        ),
        (
            leaving,
            "up",
            "resigned",
            "it comes back when it is configured again, or the daemon is started again",
        ),
    ],
)
def test_what_is_missing(
    lose: Callable[[Asked], None], link: str, reason: str, sentence: str
) -> None:
    asked = Asked()
    lose(asked)
    facts = asked.facts()
    assert (facts["state"], facts["reason"], facts["link"]) == ("INIT", reason, link)
    assert facts["timer"] is None
    assert asked.sections()["to take part"] == [sentence]


def test_a_configured_source_that_is_missing_or_elsewhere() -> None:
    source = "10.77.0.9"
    asked = Asked({"source": source}, source=ip(source), source_missing=True)
    asked.node.attach(START_NS, source=None)
    facts = asked.facts()
    assert (facts["state"], facts["reason"]) == ("INIT", "no_source")
    assert facts["configured_sources"] == {source: "missing"}
    said = asked.sections()
    lines = ["source 10.77.0.9 is not an address of this host: eth0 needs it"]
    assert said["to take part"] == lines
    heading = "virtual host eth0/42"
    assert "its configured source 10.77.0.9 is not an address of this host" in said[heading]
    assert any("the configured source is missing" in line for line in said[heading])
    asked = Asked({"source": source}, source=ip(source))
    asked.network.local.add(ip(source))
    said = asked.sections()
    assert (
        "its configured source 10.77.0.9 is an address of another interface of this host"
        in said[heading]
    )
    assert "to take part" not in said


def test_a_link_that_is_down() -> None:
    asked = Asked()
    asked.network.now["eth0"] = Interface("eth0", 7, ETH0.mac, False, ())
    assert asked.facts()["link"] == "down"


# ----------------------------------------------------------------------- what was asked for


def test_every_virtual_host_of_the_vhid() -> None:
    asked = Asked()
    assert asked.take(42) == 1
    asked.engine.add(1, prepared(destination=GROUP[:3] + b"\x19"), START_NS)
    asked.take(7)
    asked.engine.add(2, prepared(vhid=7), START_NS)
    document = asked.document()
    assert [host.vhid for host in document.virtual_hosts] == [42, 42]
    text = explain_text.text(document)
    assert text.count("virtual host eth0/42\n") == 2
    assert "\n\nvirtual host eth0/42\n" in text


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (
            {"interface": "eth9"},
            "no virtual host on 'eth9': the nearest interface that has some is eth0 (of eth0)",
        ),
        ({"vhid": 40}, "eth0 has no virtual host 40: the nearest is 41 (of 41-42, 44)"),
        ({"vhid": 43}, "eth0 has no virtual host 43: the nearest is 42 (of 41-42, 44)"),
    ],
)
def test_what_there_is_not(request_: dict[str, Any], text: str) -> None:
    asked = Asked()
    asked.take(41)
    asked.take(44)
    with pytest.raises(ControlError) as refused:
        asked.document(**request_)
    assert str(refused.value) == text


def test_of_many_interfaces_some_are_named() -> None:
    asked = Asked()
    for number in range(100, 120):
        asked.take(1, f"vlan{number}")
    with pytest.raises(ControlError) as refused:
        asked.document(interface="vlan13")
    assert str(refused.value).endswith(
        "is vlan113 (of eth0, vlan100, vlan101, vlan102, vlan103 and 16 more)"
    )


def test_a_daemon_without_virtual_hosts() -> None:
    asked = Asked()
    asked.hosts.give_back(0)
    with pytest.raises(ControlError, match="the daemon has no virtual hosts"):
        asked.document()


def test_a_host_that_left_while_the_pump_copied_is_not_explained() -> None:
    asked = Asked()

    async def done() -> None:
        asked.hosts.give_back(0)

    asked.orders.done = done
    assert asked.document() == Explanation([])


@pytest.mark.parametrize(
    ("numbers", "text"), [((1,), "1"), ((3, 1, 2), "1-3"), ((255, 1, 3, 4), "1, 3-4, 255")]
)
def test_numbers_in_ranges(numbers: tuple[int, ...], text: str) -> None:
    assert in_ranges(numbers) == text
