"""How the many virtual hosts of `flood --hosts` are numbered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec
import pytest
from click.testing import CliRunner

from carp_fast.cli import main as cli
from carp_fast.cli.masters import line_of, result_lines
from carp_fast.config.model import VirtualHost
from carp_fast.daemon.table import Hosts
from carp_fast.loadtest.masters import HOSTS_MAX, Held, Masters, MastersError, virtual_host


def made(numbers: Iterable[int], part: int = 0) -> list[VirtualHost]:
    return [virtual_host("s1", number, part=part, families=(4, 6)) for number in numbers]


def test_each_has_a_source_a_mac_and_an_address_of_its_own() -> None:
    half = HOSTS_MAX // 2
    numbers = {*range(0, half, 61), *range(254, half, 255), half - 1}
    every = made(numbers) + made(numbers, part=1)
    settings = [host.settings for host in every]
    for name in ("source", "source6", "advertise_mac"):
        assert len({getattr(each, name) for each in settings}) == 2 * len(numbers), name
    addresses = Counter(address for host in every for address in host.addresses)
    assert set(addresses.values()) == {2}  # a master's and its backup's
    sources = {each.source for each in settings} | {each.source6 for each in settings}
    assert not sources & {address.partition("/")[0] for address in addresses}
    # The last one of all, and its backup's first: the networks of the parts do not meet.
    assert made([half - 1])[0].settings.source == "198.18.127.128"
    assert made([0], part=1)[0].settings.source == "198.18.128.1"


def test_no_two_of_a_part_meet_in_a_group() -> None:
    every = made([0, 1, 254, 255, 256, 509, 510, HOSTS_MAX - 1])
    assert len({host.identity for host in every}) == len(every)
    assert every[0].destinations == ("224.0.0.18", "ff02::12")
    assert every[3].destinations == ("239.112.0.1", "ff12::112:1")
    assert (every[-1].vhid, every[-1].destinations[0]) == (255, "239.112.0.255")


def test_the_first_ones_have_the_virtual_macs_of_the_field() -> None:
    macs = [host.settings.advertise_mac for host in made([0, 254, 255])]
    assert macs == ["00:00:5e:00:00:01", "00:00:5e:00:00:ff", "02:00:5e:00:01:01"]
    assert made([0], part=1)[0].settings.advertise_mac == "00:00:5e:00:01:01"


def test_they_are_prepared_as_the_daemons_are() -> None:
    hosts = Hosts()
    for host in made([0, 300]):
        hosts.prepare(host)  # ValueError for what the engine would not take
    assert hosts.names == ["s1"]


@pytest.mark.parametrize(("count", "election"), [(0, False), (1, True), (HOSTS_MAX + 1, False)])
def test_how_many_there_may_be(count: int, election: bool) -> None:
    with pytest.raises(MastersError, match=r"65,280 \(HOSTS_MAX\)"):
        Masters("s1", count, election=election)


def test_an_interface_that_is_not_there() -> None:
    with pytest.raises(MastersError, match="nosuch0: no such interface"):
        Masters("nosuch0", 1)


def test_how_they_stand_in_one_line() -> None:
    held = Held(4.2, 1_000, 20, 3, 5_000, 6_000, 1_000, 0, 0)
    assert line_of(held) == (
        "4 s  1,000 MASTER  20 BACKUP  3 INIT  5,000 advertisements sent, 6,000 heard"
    )


def test_the_command_says_why_it_cannot() -> None:
    arguments = ["flood", "-i", "nosuch0", "--hosts", "3"]
    result = CliRunner().invoke(cli.main, arguments, prog_name="carp-fast")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "carp-fast: nosuch0: no such interface\n"


def test_hosts_that_sent_nothing_say_so() -> None:
    held = Held(0.5, 0, 4, 0, 0, 0, 0, 0, 0)
    assert [line for line in result_lines(held) if line.startswith("nothing was sent")]
    sent = msgspec.structs.replace(held, advertisements_sent=1, interrupted=True)
    *_, last = result_lines(sent)
    assert last == "interrupted after 0.5 s: the result is partial"
