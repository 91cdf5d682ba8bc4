"""Which addresses are ours, the messages that add and remove them, and the state file."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carp_fast import addresses
from carp_fast.addresses import StateFile, find_source, leftovers, split, templates, text
from carp_fast.interfaces import (
    OWN_PROTOCOL,
    RTM_DELADDR,
    RTM_NEWADDR,
    Interface,
    InterfaceAddress,
    decode_address,
    messages,
)

RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 0, 253
MAC = b"\x02\0\0\0\0\x01"


def address(
    words: str, *, protocol: int = 0, scope: int = RT_SCOPE_UNIVERSE, family: int = 4
) -> InterfaceAddress:
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    host, _, prefixlen = words.partition("/")
    return InterfaceAddress(
        family, socket.inet_pton(kind, host), int(prefixlen), scope, 0, protocol
    )


def interface(*there: InterfaceAddress, name: str = "eth0") -> Interface:
    return Interface(name, 7, MAC, True, there)


@given(st.binary(min_size=4, max_size=4), st.integers(0, 32))
def test_split_reverses_text(data: bytes, prefixlen: int) -> None:
    assert split(text(data, prefixlen)) == (data, prefixlen)


@pytest.mark.parametrize("adding", [True, False])
def test_templates_are_whole_messages(adding: bool) -> None:
    message, placeholder = templates()[4, adding]
    ((kind, flags, start, end),) = messages(message)
    assert kind == (RTM_NEWADDR if adding else RTM_DELADDR)
    assert end == len(message)
    # NLM_F_REQUEST and NLM_F_ACK; for an addition NLM_F_CREATE, and NLM_F_EXCL: never take over
    # an address that is there.
    assert flags == (0x1 | 0x4 | 0x400 | 0x200 if adding else 0x1 | 0x4)
    assert message.count(placeholder) == 2
    _, found = decode_address(message, start, end, {0}) or (0, None)
    expected = OWN_PROTOCOL if adding else 0
    assert found == InterfaceAddress(4, placeholder, 32, RT_SCOPE_UNIVERSE, 0, expected)


@pytest.mark.parametrize(
    ("release", "keeps"),
    [
        ("5.15.0-91-generic", False),
        ("5.18.0-rc1", True),
        ("5.18+", True),
        ("6.1.0-13-amd64", True),
        ("4.19.0", False),
        ("10.0", True),
    ],
)
def test_which_kernel_keeps_marks(
    release: str, keeps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = list(os.uname())
    now[2] = release
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(now))
    assert addresses.kernel_keeps_marks() is keeps


CONFIGURED = {"eth0": ["192.0.2.1/24", "192.0.2.2/24"]}
RECORDED = {"eth0": ["192.0.2.3/24"], "eth1": ["192.0.2.4/24"]}


class TestLeftovers:
    def found(self, *there: Interface) -> list[str]:
        left = leftovers(there, CONFIGURED, RECORDED)
        return [f"{each.name} {text(data, prefixlen)}" for each, data, prefixlen in left]

    def test_with_marks_the_mark_and_the_name_decide(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(addresses, "kernel_keeps_marks", lambda: True)
        assert self.found(
            interface(
                address("192.0.2.1/24", protocol=OWN_PROTOCOL),
                address("192.0.2.2/24"),  # like ours, and a stranger's
                address("192.0.2.3/24", protocol=OWN_PROTOCOL),  # of the last run
                address("192.0.2.4/24", protocol=OWN_PROTOCOL),  # another daemon's
                address("192.0.2.1/32", protocol=OWN_PROTOCOL),  # another prefix: not this one
                address("2001:db8::1/64", protocol=OWN_PROTOCOL, family=6),
            ),
            interface(address("192.0.2.4/24", protocol=OWN_PROTOCOL), name="eth1"),
        ) == ["eth0 192.0.2.1/24", "eth0 192.0.2.3/24", "eth1 192.0.2.4/24"]

    def test_without_marks_only_the_state_file_decides(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(addresses, "kernel_keeps_marks", lambda: False)
        there = interface(address("192.0.2.1/24"), address("192.0.2.3/24"))
        assert self.found(there) == ["eth0 192.0.2.3/24"]


class TestStateFile:
    def test_it_is_read_as_it_was_written(self, tmp_path: Path) -> None:
        file = StateFile(tmp_path / "new" / "state", tmp_path / "a.toml")
        assert file.read() == {}
        file.write({"eth1": ["192.0.2.2/24", "192.0.2.1/24"], "eth0": []})
        assert file.read() == {"eth0": [], "eth1": ["192.0.2.1/24", "192.0.2.2/24"]}
        again = StateFile(tmp_path / "new" / "state", tmp_path / "a.toml")
        assert again.read() == file.read()
        other = StateFile(tmp_path / "new" / "state", tmp_path / "b.toml")
        assert other.read() == {}
        assert [each.name for each in file.path.parent.iterdir()] == [file.path.name]

    def test_nothing_is_written_when_nothing_changed(self, tmp_path: Path) -> None:
        file = StateFile(tmp_path, tmp_path / "a.toml")
        file.write({"eth0": ["192.0.2.1/24", "192.0.2.2/24"]})
        inode = file.path.stat().st_ino
        file.write({"eth0": {"192.0.2.2/24", "192.0.2.1/24"}})
        assert file.path.stat().st_ino == inode
        file.write({"eth0": ["192.0.2.1/24"]})
        assert file.read() == {"eth0": ["192.0.2.1/24"]}

    @pytest.mark.parametrize("content", [b"", b"{", b'{"eth0": 1}', b"\xff\0"])
    def test_what_is_not_usable_is_said(
        self, content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        file = StateFile(tmp_path, tmp_path / "a.toml")
        file.path.write_bytes(content)
        with caplog.at_level(logging.WARNING, "carp_fast.addresses"):
            assert file.read() == {}
        assert f"state file {file.path} is not usable" in caplog.text

    def test_a_directory_that_cannot_be_made_raises(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(OSError, match="Not a directory"):
            StateFile(tmp_path / "file" / "state", tmp_path / "a.toml").write({})


def test_the_source_is_the_first_global_address_that_is_no_virtual_one() -> None:
    virtual = {socket.inet_aton("192.0.2.10")}
    own = address("192.0.2.1/24")
    assert find_source(interface(own, address("192.0.2.2/24")), virtual) == own.address
    before = (
        address("2001:db8::1/64", family=6),
        address("169.254.0.1/16", scope=RT_SCOPE_LINK),
        address("192.0.2.10/24"),  # virtual, though without a mark
        address("192.0.2.11/24", protocol=OWN_PROTOCOL),  # of some daemon of ours
    )
    assert find_source(interface(*before, own), virtual) == own.address
    assert find_source(interface(*before), virtual) is None
    assert find_source(interface(), virtual) is None
