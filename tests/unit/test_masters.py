"""How the many virtual hosts of `flood --hosts` are numbered."""

from __future__ import annotations

from collections import Counter

import pytest

from carp_fast.hosts import Hosts
from carp_fast.masters import HOSTS_MAX, Masters, MastersError, virtual_hosts


def test_each_has_a_source_a_mac_and_an_address_of_its_own() -> None:
    every = virtual_hosts("s1", HOSTS_MAX // 2, families=(4, 6))
    every += virtual_hosts("s1", HOSTS_MAX // 2, part=1, families=(4, 6))
    settings = [host.settings for host in every]
    for name in ("source", "source6", "advertise_mac"):
        assert len({getattr(each, name) for each in settings}) == HOSTS_MAX, name
    addresses = Counter(address for host in every for address in host.addresses)
    assert set(addresses.values()) == {2}  # a master's and its backup's
    sources = {each.source for each in settings} | {each.source6 for each in settings}
    assert not sources & {address.partition("/")[0] for address in addresses}


def test_no_two_of_a_part_meet_in_a_group() -> None:
    every = virtual_hosts("s1", HOSTS_MAX, families=(4, 6))
    assert len({host.identity for host in every}) == HOSTS_MAX
    assert every[0].destinations == ("224.0.0.18", "ff02::12")
    assert every[255].destinations == ("239.112.0.1", "ff12::112:1")
    assert every[-1].settings.source == "198.18.255.0"


def test_the_first_ones_have_the_virtual_macs_of_the_field() -> None:
    macs = [host.settings.advertise_mac for host in virtual_hosts("s1", 256)]
    assert macs[0] == "00:00:5e:00:00:01"
    assert macs[254:] == ["00:00:5e:00:00:ff", "02:00:5e:00:01:01"]
    assert virtual_hosts("s1", 1, part=1)[0].settings.advertise_mac == "00:00:5e:00:01:01"


def test_they_are_prepared_as_the_daemons_are() -> None:
    hosts = Hosts()
    for host in virtual_hosts("s1", 2, families=(4, 6)):
        hosts.prepare(host)  # ValueError for what the engine would not take
    assert hosts.names == ["s1"]


@pytest.mark.parametrize(("count", "election"), [(0, False), (1, True), (HOSTS_MAX + 1, False)])
def test_how_many_there_may_be(count: int, election: bool) -> None:
    with pytest.raises(MastersError, match=r"65,280 \(HOSTS_MAX\)"):
        Masters("s1", count, election=election)


def test_an_interface_that_is_not_there() -> None:
    with pytest.raises(MastersError, match="nosuch0: no such interface"):
        Masters("nosuch0", 1)
