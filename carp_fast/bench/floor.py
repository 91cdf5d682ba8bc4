"""The floor: the cost of moving a host's advertisements in a process that does nothing else.

One thread in the namespace of each of two hosts, with one packet socket for all interfaces: one
sends at the given rate, the other receives. The cost is the CPU time of these threads. Must not
know daemons: no host reacts to these frames, whose version no protocol has.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Sequence

from carp_fast.bench._floor import Mover
from carp_fast.bench.measurements import Floor
from carp_fast.engine._wire import checksum
from carp_fast.inet import address_bytes
from carp_fast.lab.lab import Host, LabError, interface_name
from carp_fast.net.filters import attach_filter, packet_filter
from carp_fast.net.kernel import (
    ETH_P_ALL,
    PACKET_ADD_MEMBERSHIP,
    PACKET_IGNORE_OUTGOING,
    PACKET_MR_MULTICAST,
    SO_RCVBUFFORCE,
    SOL_PACKET,
)

TICK_NS = 10_000_000
RECEIVE_BUFFER_BYTES = 64 << 20
DEADLINE_S = 10.0  # more than the requested duration
UNKNOWN_VERSION = 0xF1
CARP_BYTES = 36
GROUP_MAC = bytes.fromhex("01005e000012")


def frame(source: str = "10.0.0.1") -> bytes:
    """70 bytes, the length of an advertisement of one address, which every receiver discards."""
    head = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0x10, 20 + CARP_BYTES, 0, 0x4000, 255, 112, 0,
        address_bytes(source), address_bytes("224.0.0.18"),
    )  # fmt: skip
    head = head[:10] + checksum(head).to_bytes(2, "big") + head[12:]  # a bridge looks at it
    ethernet = GROUP_MAC + bytes.fromhex("020000000001 0800")
    return ethernet + head + bytes([UNKNOWN_VERSION]) + bytes(CARP_BYTES - 1)


def measure(
    sender: Host, receiver: Host, segments: Sequence[int], rate: float, seconds: float
) -> Floor:
    """Moves `rate` frames a second from one host to the other over these segments.

    The receiver joins the group, without which a macvlan passes nothing on, and takes each frame
    from its own interface alone: it also comes in below a macvlan. Raises LabError if the kernel
    refuses a frame.
    """
    with sender.inside():
        out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        indexes = [socket.if_nametoindex(interface_name(k)) for k in segments]
    with receiver.inside():
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        into = socket.socket(socket.AF_PACKET, kind, socket.htons(ETH_P_ALL))
        own = [socket.if_nametoindex(interface_name(k)) for k in segments]
        layered = len(socket.if_nameindex()) > len(own) + 1  # and the loopback interface
    with out, into:
        into.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        into.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
        attach_filter(into, packet_filter(own if layered else None))
        for ifindex in own:
            member = struct.pack("=iHH8s", ifindex, PACKET_MR_MULTICAST, 6, GROUP_MAC)
            into.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, member)
        sending, receiving = Mover(out.fileno(), TICK_NS), Mover(into.fileno(), TICK_NS)
        sent, received = _together(
            [sending, receiving],
            [
                lambda: sending.send(indexes, [frame()], rate, seconds),
                lambda: receiving.receive(seconds),
            ],
            seconds,
        )
    return Floor(
        send_cpu_percent=100 * sent[1] / sent[2],
        receive_cpu_percent=100 * received[1] / received[2],
        sent_per_s=sent[0] * 1e9 / sent[2],
        received_per_s=received[0] * 1e9 / received[2],
    )


def _together(
    movers: Sequence[Mover], works: Sequence[Callable[[], tuple[int, int, int]]], seconds: float
) -> list[tuple[int, int, int]]:
    """The results of all works, run at the same time in a thread each."""
    results: dict[int, tuple[int, int, int]] = {}
    failures: list[OSError] = []
    begin = threading.Barrier(len(works))

    def run(number: int, work: Callable[[], tuple[int, int, int]]) -> None:
        begin.wait()
        try:
            results[number] = work()
        except OSError as error:
            failures.append(error)

    threads = [
        threading.Thread(target=run, args=(number, work), name=f"floor-{number}", daemon=True)
        for number, work in enumerate(works)
    ]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join(seconds + DEADLINE_S)
    finally:
        for mover in movers:  # after Ctrl-C they must not outlive their sockets
            mover.stop()
        for thread in threads:
            thread.join()
    if failures:
        raise LabError(f"floor: {failures[0].strerror}")
    return [results[number] for number in range(len(works))]
