"""Advertisements from a packet socket in a lab; as a program: 2,000 of them at once, observed."""

from __future__ import annotations

import socket
import struct

from carp_fast.lab.lab import Host, Lab
from carp_fast.lab.observer import Observer

CARP_GROUP_MAC = bytes.fromhex("01005e000012")


def packet_socket(host: Host, interface: str) -> socket.socket:
    with host.inside():
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    raw.bind((interface, 3))
    return raw


def carp_frame(vhid: int, source: str, advbase: int = 1, advskew: int = 0) -> bytes:
    carp = bytes([0x21, vhid, advskew, 7, 0, advbase]) + bytes(30)
    ip = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0x10, 56, 0, 0x4000, 255, 112, 0,
        socket.inet_aton(source), socket.inet_aton("224.0.0.18"),
    )  # fmt: skip
    return CARP_GROUP_MAC + bytes.fromhex("00005e000001") + b"\x08\x00" + ip + carp


def main() -> None:
    """Runs in the user namespace, where the observer cannot have the receive buffer it wants."""
    frames = [carp_frame(vhid, f"10.1.0.{host}") for vhid in range(1, 251) for host in range(1, 9)]
    with (
        Lab("unprivileged", segments=1) as lab,
        Observer(lab["b"]) as observer,
        packet_socket(lab["a"], "s1") as sender,
    ):
        for frame in frames:
            sender.send(frame)
        observer.wait_until(
            lambda: sum(len(of) for of in observer.masters(60).values()) == len(frames),
            10,
            "every frame of the burst",
        )
        assert observer.dropped() == 0
        print(f"all of {len(frames)}")


if __name__ == "__main__":
    main()
