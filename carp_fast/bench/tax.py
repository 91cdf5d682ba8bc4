"""The tax: what a running daemon costs each packet of this host that does not concern it.

Two pairs of hosts, on one of which the daemon runs. One thread sends the same packets to either in
turn, in short bursts; as the far end of a veth pair receives in the context of the sender, the
difference of its CPU time is what the daemon's sockets and filters cost. Before the daemon starts
the difference is measured, too, and subtracted. Must not know how daemons receive.
"""

from __future__ import annotations

import socket
import statistics
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack

from carp_fast.bench._floor import Mover
from carp_fast.bench.contenders import Daemon
from carp_fast.bench.measurements import Tax, tax
from carp_fast.inet import address_bytes
from carp_fast.lab.fleet import keys_of
from carp_fast.lab.lab import Host, Lab, interface_name, virtual_address, wait_for

VIRTUAL_HOSTS = 10
ROUNDS = 40
BURST_S = 0.02
RATE = 200_000.0  # packets a second within a burst
TICK_NS = 1_000_000
UNUSED = "198.51.100.1"  # of no host: the far end drops it when it looks for a route
HOLDS_WITHIN_S = 30.0
CALM_S = 3.0  # carp-fast listens for a second to what else its machine sends, once it is MASTER
PROTOCOL_UDP = 17


def packet(mac: bytes) -> bytes:
    """A UDP packet of 70 bytes to this MAC."""
    udp = struct.pack(">HHHH28x", 40_000, 40_000, 36, 0)
    head = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0x4000, 64, PROTOCOL_UDP, 0,
        address_bytes("198.51.100.2"), address_bytes(UNUSED),
    )  # fmt: skip
    ethernet = mac + bytes.fromhex("020000000001 0800")
    return ethernet + head + udp


class _Road:
    """Packets from host a of a lab to its host b."""

    def __init__(self, lab: Lab, stack: ExitStack) -> None:
        a, b = lab["a"], lab["b"]
        with b.inside():
            into = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        with into:
            into.bind((interface_name(1), 0))
            self._packet = packet(into.getsockname()[4])
        with a.inside():
            kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
            out = stack.enter_context(socket.socket(socket.AF_PACKET, kind, 0))
            self._ifindex = socket.if_nametoindex(interface_name(1))
        self._mover = Mover(out.fileno(), TICK_NS)

    def burst(self) -> tuple[float, int]:
        """(ns of CPU a packet, packets)."""
        sent, cpu_ns, _ = self._mover.send([self._ifindex], [self._packet], RATE, BURST_S)
        return cpu_ns / sent, sent


def measure(name: str, daemon: Daemon, report: Callable[[str], None]) -> Tax:
    """Measures the tax of a daemon with VIRTUAL_HOSTS virtual hosts. `name`: of its labs.

    Raises LabError if it does not start.
    """
    report("building hosts")
    with ExitStack() as stack:
        taxed = stack.enter_context(Lab(f"{name}-taxed", segments=1))
        free = stack.enter_context(Lab(f"{name}-free", segments=1))
        roads = [_Road(lab, stack) for lab in (taxed, free)]
        report("measuring without it")
        before = [_round(roads) for _ in range(ROUNDS)]
        report("starting")
        _start(taxed, taxed["b"], daemon)
        time.sleep(CALM_S)
        report("measuring with it")
        after = [_round(roads) for _ in range(ROUNDS)]
    packets = sum(sent for _, _, sent in after)
    return tax(
        daemon.name,
        VIRTUAL_HOSTS,
        packets,
        free_ns=statistics.median(free_ns for _, free_ns, _ in after),
        before_ns=[taxed_ns - free_ns for taxed_ns, free_ns, _ in before],
        after_ns=[taxed_ns - free_ns for taxed_ns, free_ns, _ in after],
    )


def _round(roads: list[_Road]) -> tuple[float, float, int]:
    """(ns on the taxed road, ns on the free one, packets on the first)."""
    (taxed_ns, sent), (free_ns, _) = (road.burst() for road in roads)
    return taxed_ns, free_ns, sent


def _start(lab: Lab, host: Host, daemon: Daemon) -> None:
    """Starts the daemon, which the lab ends; returns when it holds every address."""
    counts = {1: VIRTUAL_HOSTS}
    log = lab.directory / f"{host.name}.log"
    for argv in daemon.commands(host, counts, lab.directory):
        host.start(argv, log=log)
    wanted = {(interface_name(key.segment), virtual_address(*key)) for key in keys_of(counts)}
    wait_for(lambda: host.addresses() >= wanted, HOLDS_WITHIN_S, f"{daemon.name} holds all")
