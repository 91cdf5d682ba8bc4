"""Which addresses are ours, the messages that add and remove them, and the state file."""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
from pathlib import Path

import pytest

from carp_fast.inet import prefix_bytes, prefix_text
from carp_fast.net import addresses
from carp_fast.net.addresses import (
    StateFile,
    find_source,
    find_source6,
    leftovers,
    strays,
    templates,
)
from carp_fast.net.interfaces import (
    ATTRIBUTE,
    OWN_PROTOCOL,
    Interface,
    InterfaceAddress,
    LinkError,
    decode_address,
    messages,
)
from carp_fast.net.kernel import RTM_DELADDR, RTM_NEWADDR

RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 0, 253
MAC = b"\x02\0\0\0\0\x01"


def address(
    words: str, *, protocol: int = 0, scope: int = RT_SCOPE_UNIVERSE, flags: int = 0
) -> InterfaceAddress:
    family = 6 if ":" in words else 4
    return InterfaceAddress(family, *prefix_bytes(words), scope, flags, protocol)


def interface(*there: InterfaceAddress, name: str = "eth0") -> Interface:
    return Interface(name, 7, MAC, True, there)


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


def test_a_library_that_drops_our_mark_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As pyroute2 before 0.9.3 did: what it had no name for it left out, without a word."""
    from pyroute2.netlink.rtnl import ifaddrmsg  # type: ignore[import-untyped]

    class Older(ifaddrmsg.ifaddrmsg):  # type: ignore[misc]
        nla_map = tuple(each for each in ifaddrmsg.ifaddrmsg.nla_map if "IFA_PROTO" not in each)
        _nlmsg_base__compiled_nla = False  # the table of the class that it is made from

    assert len(Older.nla_map) < len(ifaddrmsg.ifaddrmsg.nla_map)
    monkeypatch.setattr(ifaddrmsg, "ifaddrmsg", Older)
    with pytest.raises(LinkError, match=r"^pyroute2 leaves our mark \(IFA_PROTO\) out .* 0\.9\.3"):
        templates()


IFA_F_NODAD, IFA_CACHEINFO = 0x02, 6


@pytest.mark.parametrize(
    ("key", "flags", "lifetimes"),
    [
        # (preferred, valid), in seconds; absent: both for ever.
        ((6, True), 0x1 | 0x4 | 0x400 | 0x200, (0, 0xFFFFFFFF)),
        ((6, True, "preferred"), 0x1 | 0x4 | 0x400 | 0x200, None),
        ((6, False), 0x1 | 0x4, None),
    ],
)
def test_templates_of_ipv6(
    key: tuple[int, bool], flags: int, lifetimes: tuple[int, int] | None
) -> None:
    message, placeholder = templates()[key]
    ((kind, found_flags, start, end),) = messages(message)
    adding = key[1]
    assert (kind, found_flags) == (RTM_NEWADDR if adding else RTM_DELADDR, flags)
    assert end == len(message) <= 96, "the pump has that much room"
    assert message.count(placeholder) == 1
    _, found = decode_address(message, start, end, {0}) or (0, None)
    nodad, protocol = (IFA_F_NODAD, OWN_PROTOCOL) if adding else (0, 0)
    assert found == InterfaceAddress(6, placeholder, 128, RT_SCOPE_UNIVERSE, nodad, protocol)
    at, attributes = start + 8, {}
    while at < end:
        length, attribute = ATTRIBUTE.unpack_from(message, at)
        attributes[attribute] = message[at + ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    cacheinfo = attributes.get(IFA_CACHEINFO)
    assert (cacheinfo and struct.unpack("=IIII", cacheinfo)[:2]) == lifetimes


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


CONFIGURED = {"eth0": ["192.0.2.1/24", "192.0.2.2/24", "2001:db8::1/64"]}
RECORDED = {"eth0": ["192.0.2.3/24", "fe80::3/64"], "eth1": ["192.0.2.4/24"]}


class TestLeftovers:
    def found(self, *there: Interface) -> list[str]:
        left = leftovers(there, CONFIGURED, RECORDED)
        return [f"{each.name} {prefix_text(data, prefixlen)}" for each, data, prefixlen in left]

    def test_with_marks_the_mark_and_the_name_decide(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(addresses, "kernel_keeps_marks", lambda: True)
        assert self.found(
            interface(
                address("192.0.2.1/24", protocol=OWN_PROTOCOL),
                address("192.0.2.2/24"),  # like ours, and a stranger's
                address("192.0.2.3/24", protocol=OWN_PROTOCOL),  # of the last run
                address("192.0.2.4/24", protocol=OWN_PROTOCOL),  # another daemon's
                address("192.0.2.1/32", protocol=OWN_PROTOCOL),  # another prefix: not this one
                address("2001:db8::1/64", protocol=OWN_PROTOCOL),
                address("2001:db8::2/64", protocol=OWN_PROTOCOL),  # another daemon's
                address("fe80::3/64", protocol=OWN_PROTOCOL, scope=RT_SCOPE_LINK),  # recorded
                address("fe80::3/64", scope=RT_SCOPE_LINK),  # a stranger's
            ),
            interface(address("192.0.2.4/24", protocol=OWN_PROTOCOL), name="eth1"),
        ) == [
            "eth0 192.0.2.1/24",
            "eth0 192.0.2.3/24",
            "eth0 2001:db8::1/64",
            "eth0 fe80::3/64",
            "eth1 192.0.2.4/24",
        ]

    def test_without_marks_only_the_state_file_decides(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(addresses, "kernel_keeps_marks", lambda: False)
        there = interface(
            address("192.0.2.1/24"),
            address("192.0.2.3/24"),
            address("2001:db8::1/64"),
            address("fe80::3/64", scope=RT_SCOPE_LINK),
        )
        assert self.found(there) == ["eth0 192.0.2.3/24", "eth0 fe80::3/64"]


def test_what_was_on_a_lost_interface_is_found_on_another() -> None:
    there = interface(
        address("192.0.2.1/24", protocol=OWN_PROTOCOL),
        address("192.0.2.1/24"),  # without our mark
        address("192.0.2.3/24", protocol=OWN_PROTOCOL),  # of the last run
        address("2001:db8::1/64", protocol=OWN_PROTOCOL),
        address("fe80::3/64", protocol=OWN_PROTOCOL, scope=RT_SCOPE_LINK),  # on every interface
        address("192.0.2.4/24", protocol=OWN_PROTOCOL),  # of an interface that is there
        name="lan0",
    )
    left = strays([there], ["eth0"], CONFIGURED, RECORDED)
    assert [(each.name, prefix_text(data, prefixlen)) for each, data, prefixlen in left] == [
        ("lan0", "192.0.2.1/24"),
        ("lan0", "192.0.2.3/24"),
        ("lan0", "2001:db8::1/64"),
    ]


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

    def test_the_next_run_writes_nothing_when_nothing_changed(self, tmp_path: Path) -> None:
        StateFile(tmp_path, tmp_path / "a.toml").write({"eth0": ["192.0.2.1/24"]})
        file = StateFile(tmp_path, tmp_path / "a.toml")
        inode = file.path.stat().st_ino
        file.write({"eth0": ["192.0.2.1/24"]})
        assert file.path.stat().st_ino == inode
        file.write({"eth0": []})
        assert file.path.stat().st_ino != inode

    def test_it_follows_the_path_that_was_given_and_not_where_it_leads(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "a.toml").touch()
        link = tmp_path / "current"
        link.symlink_to("one")
        file = StateFile(tmp_path, link / "a.toml")
        file.write({"eth0": ["192.0.2.1/24"]})
        link.unlink()
        link.symlink_to("two")
        assert StateFile(tmp_path, link / "a.toml").read() == {"eth0": ["192.0.2.1/24"]}
        monkeypatch.chdir(tmp_path)
        assert StateFile(tmp_path, Path("two/../current/a.toml")).path == file.path
        assert StateFile(tmp_path, tmp_path / "one/a.toml").read() == {}

    def test_what_an_earlier_version_wrote_is_read_until_ours_is_there(
        self, tmp_path: Path
    ) -> None:
        real = tmp_path / "real.toml"
        real.touch()
        (tmp_path / "a.toml").symlink_to(real)
        former = StateFile(tmp_path, real)  # as it was named then
        former.write({"eth0": ["192.0.2.1/24"]})
        file = StateFile(tmp_path, tmp_path / "a.toml")
        assert file.path != former.path
        assert file.read() == {"eth0": ["192.0.2.1/24"]}
        file.write({"eth0": ["192.0.2.2/24"]})
        assert file.read() == {"eth0": ["192.0.2.2/24"]}

    def test_what_is_recorded_already_needs_no_room(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        file = StateFile(tmp_path, tmp_path / "a.toml")
        assert not file.covers({"eth0": ["192.0.2.1/24"]})
        file.write({"eth0": ["192.0.2.1/24", "192.0.2.2/24"], "eth1": []})

        def full(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            file.write({"eth0": ["192.0.2.1/24"]})
        assert [each.name for each in tmp_path.iterdir()] == [file.path.name]
        assert file.covers({"eth0": ["192.0.2.2/24"]})
        assert not file.covers({"eth1": ["192.0.2.2/24"]})
        assert not file.covers({"eth0": ["192.0.2.3/24"]})
        for marks in (True, False):
            monkeypatch.setattr(addresses, "kernel_keeps_marks", lambda marks=marks: marks)
            caplog.clear()
            file.record({"eth0": ["192.0.2.2/24"]})
            assert "No space left on device: if this run crashes" in caplog.text
        with pytest.raises(OSError, match="No space left"):
            file.record({"eth0": ["192.0.2.3/24"]})
        monkeypatch.setattr(addresses, "kernel_keeps_marks", lambda: True)
        file.record({"eth0": ["192.0.2.3/24"]})
        file.path.write_bytes(b"{")
        assert not file.covers({})

    def test_what_stands_in_its_place_is_said_and_holds_nobody(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        for make in (os.mkfifo, os.mkdir):
            file = StateFile(tmp_path, tmp_path / f"{make.__name__}.toml")
            make(file.path)
            assert file.read() == {}
            assert f"state file {file.path} is not usable" in caplog.text
        with pytest.raises(IsADirectoryError):
            file.write({})

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"eth0": 1}', b"\xff\0"])
    def test_what_is_not_usable_is_said(
        self, content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        file = StateFile(tmp_path, tmp_path / "a.toml")
        file.path.write_bytes(content)
        with caplog.at_level(logging.WARNING, "carp_fast.net.addresses"):
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
        address("2001:db8::1/64"),
        address("169.254.0.1/16", scope=RT_SCOPE_LINK),
        address("192.0.2.10/24"),  # virtual, though without a mark
        address("192.0.2.11/24", protocol=OWN_PROTOCOL),  # of some daemon of ours
    )
    assert find_source(interface(*before, own), virtual) == own.address
    assert find_source(interface(*before), virtual) is None
    assert find_source(interface(), virtual) is None


def test_the_ipv6_source_is_the_first_link_local_that_can_be_used() -> None:
    virtual = {socket.inet_pton(socket.AF_INET6, "fe80::10")}

    def link_local(words: str, *, protocol: int = 0, flags: int = 0) -> InterfaceAddress:
        return address(words, scope=RT_SCOPE_LINK, protocol=protocol, flags=flags)

    own = link_local("fe80::1/64", protocol=3, flags=0x80)  # the kernel's own, permanent
    assert find_source6(interface(own, link_local("fe80::2/64")), virtual) == own.address
    before = (
        address("192.0.2.1/24"),
        address("169.254.0.1/16", scope=RT_SCOPE_LINK),
        address("2001:db8::1/64"),
        link_local("fe80::10/64"),  # virtual, though without a mark
        link_local("fe80::11/64", protocol=OWN_PROTOCOL),  # of some daemon of ours
        link_local("fe80::12/64", flags=0x40 | 0x80),  # tentative
        link_local("fe80::13/64", flags=0x08 | 0x80),  # somebody else has it
    )
    assert find_source6(interface(*before, own), virtual) == own.address
    assert find_source6(interface(*before), virtual) is None
    assert find_source6(interface(), virtual) is None
