"""A batch of address changes as the pump makes them, against pyroute2 with a message each.

In a network namespace, on a real interface: both figures include the kernel's work.
"""

from __future__ import annotations

import os
import shutil

import pytest
from pyroute2 import IPRoute  # type: ignore[import-untyped]
from pytest_benchmark.fixture import BenchmarkFixture

from benches.comparison import SideBySide
from carp_fast.inet import address_bytes
from carp_fast.lab.lab import Lab
from carp_fast.lab.namespaces import ip_batch
from carp_fast.net.addresses import templates
from carp_fast.net.sockets import open_netlink, open_receiver, open_sender
from carp_fast.pump._pump import Pump

ADDRESSES = 1_000
ROUNDS = 10


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root (network namespaces)")
@pytest.mark.skipif(shutil.which("ip") is None, reason="needs the program ip (iproute2)")
@pytest.mark.parametrize("family", [4, 6])
def test_address_batch_beside_pyroute2(
    benchmark: BenchmarkFixture, side_by_side: SideBySide, family: int
) -> None:
    texts = [f"10.200.{number // 250}.{number % 250 + 1}" for number in range(ADDRESSES)]
    if family == 6:
        texts = [f"fd00::{number + 1:x}" for number in range(ADDRESSES)]
    prefixlen = 32 if family == 4 else 128
    nodad = " nodad" if family == 6 else ""
    with Lab("carp-fast-benches", segments=1, ipv6=True) as lab, lab["a"].inside():
        sockets = open_receiver(1), open_sender(), open_netlink()
        receiver, sender, netlink = (sock.fileno() for sock in sockets)
        pump = Pump([("packet", receiver)], sender, netlink, templates())
        with IPRoute() as route:
            (index,) = route.link_lookup(ifname="s1")
            batch = [(index, address_bytes(text), prefixlen) for text in texts]

            def add() -> None:
                commands = [f"addr add {text}/{prefixlen} dev s1{nodad}" for text in texts]
                ip_batch(commands, lab["a"].namespace)

            def ours() -> None:
                assert set(pump.remove_addresses(batch)) == {0}

            def theirs() -> None:
                for text in texts:
                    route.addr("delete", index=index, address=text, prefixlen=prefixlen)

            benchmark.pedantic(ours, setup=add, rounds=ROUNDS)
            side_by_side(None, "pyroute2", theirs, ADDRESSES, setup=add)
        for sock in sockets:
            sock.close()
