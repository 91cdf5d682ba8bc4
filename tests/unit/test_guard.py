"""Interfaces that a flood refuses: the default route, the session's address."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from carp_fast.loadtest import guard
from carp_fast.loadtest.walks import ipv4, ipv6
from carp_fast.net.interfaces import Interface, InterfaceAddress

ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0102000A\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth1\t0002000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
*\t00000000\t00000000\t0200\t0\t0\t0\t00000000\t0\t0\t0
"""
NOBODY = "0" * 32
ROUTES6 = f"""\
fe80{"0" * 28} 40 {NOBODY} 00 {NOBODY} 00000100 00000001 00000000 00000001     eth1
{NOBODY} 00 {NOBODY} 00 fe80{"0" * 27}1 00000400 00000002 00000000 00000003     eth2
{NOBODY} 00 {NOBODY} 00 {NOBODY} ffffffff 00000001 00000000 00200200       lo
"""
ADDRESSES = {
    "eth1": ipv4("10.0.2.5").to_bytes(4, "big"),
    "eth3": ipv6("fe80::5").to_bytes(16, "big"),
}


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Routes, addresses and processes of a machine that is not there."""
    (tmp_path / "route").write_text(ROUTES)
    (tmp_path / "ipv6_route").write_text(ROUTES6)
    monkeypatch.setattr(guard, "ROUTES", tmp_path / "route")
    monkeypatch.setattr(guard, "ROUTES6", tmp_path / "ipv6_route")
    monkeypatch.setattr(guard, "PROCESSES", tmp_path)
    monkeypatch.delenv("SSH_CONNECTION", raising=False)

    def read(names: list[str]) -> dict[str, Interface]:
        data = ADDRESSES.get(names[0])
        own = (InterfaceAddress(4 if len(data) == 4 else 6, data, 24, 0, 0, 0),) if data else ()
        return {names[0]: Interface(names[0], 1, bytes(6), True, own)}

    monkeypatch.setattr(guard, "read_interfaces", read)
    return tmp_path


@pytest.mark.parametrize("interface", ["eth0", "eth2"])
def test_the_default_route_of_either_family(interface: str) -> None:
    assert guard.refusal(interface) == f"{interface} holds the default route"


@pytest.mark.parametrize("interface", ["eth1", "eth3", "lo"])
def test_other_interfaces_are_free(interface: str) -> None:
    assert guard.refusal(interface) is None


@pytest.mark.parametrize(
    ("interface", "server"),
    [("eth1", "10.0.2.5"), ("eth3", "fe80::5%eth3"), ("eth1", "::ffff:10.0.2.5")],
)
def test_the_address_of_the_session(
    interface: str, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_CONNECTION", f"192.0.2.9 50000 {server} 22")
    assert guard.refusal(interface) == f"{interface} has the address of this SSH session"
    other = "eth3" if interface == "eth1" else "eth1"
    assert guard.refusal(other) is None


def test_a_session_that_sudo_has_taken_out_of_the_environment(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 30)
    for pid, parent, environment in (
        (30, 20, b"HOME=/root\0"),
        (20, 10, b"SSH_CONNECTION=192.0.2.9 50000 10.0.2.5 22\0HOME=/home/x\0"),
        (10, 1, b""),
    ):
        (machine / str(pid)).mkdir()
        (machine / str(pid) / "environ").write_bytes(environment)
        (machine / str(pid) / "stat").write_text(f"{pid} (a) b) S {parent} 0 0")
    assert guard.refusal("eth1") == "eth1 has the address of this SSH session"
    assert guard.refusal("eth3") is None


def test_a_session_that_says_nonsense_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for words in ("", "a b", "192.0.2.9 50000 nowhere 22"):
        monkeypatch.setenv("SSH_CONNECTION", words)
        assert guard.refusal("eth1") is None
