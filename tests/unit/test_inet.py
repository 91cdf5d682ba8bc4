"""Addresses, prefixes and MACs as text and as bytes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carp_fast import inet

ipv4 = st.tuples(st.binary(min_size=4, max_size=4), st.integers(0, 32))
ipv6 = st.tuples(st.binary(min_size=16, max_size=16), st.integers(0, 128))


@given(ipv4 | ipv6)
def test_prefix_bytes_reverses_prefix_text(prefix: tuple[bytes, int]) -> None:
    assert inet.prefix_bytes(inet.prefix_text(*prefix)) == prefix
    assert inet.address_bytes(inet.address_text(prefix[0])) == prefix[0]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("2001:DB8:0:0:1::a/64", "2001:db8::1:0:0:a/64"),
        ("2001:db8:0:1:0:0:0:1/128", "2001:db8:0:1::1/128"),
        ("192.0.2.1/24", "192.0.2.1/24"),
        ("192.0.2.1", "192.0.2.1/32"),
        ("::", "::/128"),
    ],
)
def test_an_address_has_one_text(text: str, kept: str) -> None:
    assert inet.prefix_text(*inet.prefix_bytes(text)) == kept


@pytest.mark.parametrize("text", ["", "192.0.2", "192.0.2.1/24", "fe80::1%eth0", "host", "1\0"])
def test_what_is_not_an_address_is_refused_by_its_text(text: str) -> None:
    said = re.escape(f"{text!r} does not appear to be an IPv4 or IPv6 address")
    with pytest.raises(ValueError, match=f"^{said}$"):
        inet.address_bytes(text)


@pytest.mark.parametrize("length", ["", "33", "-1", "x", "²", "255.255.255.0"])
def test_a_prefix_length_is_a_number_of_the_family(length: str) -> None:
    with pytest.raises(ValueError, match="IPv4 or IPv6 interface"):
        inet.prefix_bytes(f"192.0.2.1/{length}")


def test_only_fe80_to_febf_is_link_local() -> None:
    texts = ["fe7f::1", "fe80::1", "febf::1", "fec0::1", "254.128.0.1"]
    found = [text for text in texts if inet.is_link_local(inet.address_bytes(text))]
    assert found == ["fe80::1", "febf::1"]


@given(st.binary(min_size=6, max_size=6))
def test_mac_bytes_reverses_mac_text(mac: bytes) -> None:
    assert inet.mac_bytes(inet.mac_text(mac)) == inet.mac_bytes(inet.mac_text(mac).upper()) == mac


@pytest.mark.parametrize("text", ["", "02:00:00:00:00", "020000000001", "02:00:00:00:00:0g"])
def test_what_is_not_a_mac_is_refused_by_its_text(text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text}: not a MAC$"):
        inet.mac_bytes(text)


def test_a_hardware_address_has_any_length() -> None:
    assert inet.hardware_bytes("") == b""
    assert inet.hardware_bytes(inet.mac_text(bytes(range(20)))) == bytes(range(20))


def test_virtual_macs_end_in_the_vhid() -> None:
    macs = [inet.mac_text(inet.virtual_mac(kind, 42)) for kind in ("ucarp", "bsd")]
    assert macs == ["00:00:5e:00:00:2a", "00:00:5e:00:01:2a"]
