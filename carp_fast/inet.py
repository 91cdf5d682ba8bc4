"""Converts addresses, prefixes and MACs from text to the bytes of the wire, and back.

Must not know anything else of carp-fast, so that every package may use it.
"""

from __future__ import annotations

import re
import socket

MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
# The kinds of virtual MAC, by the names of `advertise_mac`, and the fifth byte of each.
VIRTUAL_MACS = {"ucarp": 0, "bsd": 1}


def address_bytes(text: str) -> bytes:
    """The 4 or 16 bytes of an address without prefix length. Raises ValueError."""
    try:
        return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    except (OSError, ValueError):
        raise ValueError(f"{text!r} does not appear to be an IPv4 or IPv6 address") from None


def address_text(address: bytes) -> str:
    """The text of 4 or 16 bytes as inet_ntop writes it, which is how a configuration stores it."""
    return socket.inet_ntop(family_of(address), address)


def family_of(address: bytes) -> socket.AddressFamily:
    """The family of an address of 4 or 16 bytes, for a socket."""
    return socket.AF_INET if len(address) == 4 else socket.AF_INET6


def prefix_bytes(text: str) -> tuple[bytes, int]:
    """ "192.0.2.10/24" as (4 bytes, 24), "2001:db8::10/64" as (16 bytes, 64).

    Without a prefix length it is that of one address, 32 or 128. Raises ValueError.
    """
    host, slash, length = text.partition("/")
    address = address_bytes(host)
    most = 8 * len(address)
    if not slash:
        return address, most
    if not (length.isascii() and length.isdigit() and int(length) <= most):
        raise ValueError(f"{text!r} does not appear to be an IPv4 or IPv6 interface")
    return address, int(length)


def prefix_text(address: bytes, prefixlen: int) -> str:
    """The reverse of prefix_bytes()."""
    return f"{address_text(address)}/{prefixlen}"


def is_link_local(address: bytes) -> bool:
    """Whether 4 or 16 bytes are a link-local IPv6 address: fe80::/10."""
    return len(address) == 16 and address[0] == 0xFE and address[1] >> 6 == 0b10


def mac_bytes(text: str) -> bytes:
    """The 6 bytes of a MAC such as "02:00:00:00:00:01". Raises ValueError."""
    if MAC.fullmatch(text) is None:
        raise ValueError(f"{text}: not a MAC")
    return hardware_bytes(text)


def hardware_bytes(text: str) -> bytes:
    """The bytes of a hardware address, whose length depends on the kind of interface; none for "".

    Raises ValueError.
    """
    return bytes.fromhex(text.replace(":", ""))


def mac_text(mac: bytes) -> str:
    """A hardware address of any length as pairs of hex digits with colons."""
    return mac.hex(":")


def virtual_mac(kind: str, vhid: int) -> bytes:
    """The virtual MAC of a vhid; `kind`: one of VIRTUAL_MACS."""
    return bytes((0, 0, 0x5E, 0, VIRTUAL_MACS[kind], vhid))
