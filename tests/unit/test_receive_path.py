"""The choice of a receive path: rings where they can be had, packet sockets otherwise, and why."""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from carp_fast.bpf import maps, programs
from carp_fast.bpf.assembly import Instruction
from carp_fast.cli import main
from carp_fast.config.load import load
from carp_fast.daemon import receiving
from carp_fast.daemon.limits import Kernel
from carp_fast.daemon.plan import plan
from carp_fast.daemon.receiving import (
    ReceivePath,
    log_chosen,
    open_receivers,
    planned_receive,
)
from carp_fast.net import rings
from carp_fast.net.kernel import SO_TIMESTAMPNS
from carp_fast.net.lanes import LaneSockets
from carp_fast.net.rings import RingError, Rings, ring_bytes, slots_by_lane
from carp_fast.net.tcx import TcxError
from tests.support.bpf_refused import shim

WANTED = ("ring", 'daemon.receive = "ring"')
TEXT = """
[daemon]
receive = "ring"
[defaults]
passphrase = "k3Jx9QpL2mZt"
[[virtual_host]]
interface = "eth0"
vhid = 1
addresses = "10.0.0.1"
"""


class Refused:
    """Rings that the kernel refuses."""

    def __init__(self, slots: object, *, wakers: bool) -> None:
        raise RingError("the reason")


class Opened:
    """The sockets of a path, of which no rings can be opened."""

    def __init__(self, path: str, rate: float) -> None:
        if path == "ring":
            raise RingError("the reason")
        self.opened = path, rate


def test_packet_sockets_are_opened_where_rings_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "LaneSockets", Opened)
    opened: Any
    opened, chosen = open_receivers(WANTED, 10.0)
    assert opened.opened == ("packet", 10.0)
    assert chosen == ("packet", "no rings: the reason")
    opened, chosen = open_receivers(("raw", "why"), 10.0)
    assert (opened.opened, chosen) == (("raw", 10.0), ("raw", "why"))


@pytest.mark.root
@pytest.mark.parametrize(("path", "wants"), [("packet", 3), ("ring", 0), ("raw", 6), ("tcx", 6)])
def test_only_sockets_that_queue_frames_want_the_kernels_time_of_packets(
    path: str, wants: int
) -> None:
    with LaneSockets(path, 10.0) as opened:
        every = [*opened.by_lane.values(), *opened._standby.values()]
        stamped = [
            sock.getsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS)
            for receivers in every
            for sock in receivers.values()
        ]
    assert (sum(stamped), len(stamped)) == (wants, wants + 3 * (path in ("ring", "tcx")))


def test_rings_are_opened_where_tcx_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_sockets(path: str, rate: float) -> Any:
        if path == "tcx":
            raise TcxError("no such links")
        return Opened("packet", rate) if path != "ring" else path

    monkeypatch.setattr(receiving, "LaneSockets", open_sockets)
    wanted = ("tcx", 'daemon.receive = "tcx"')
    opened: Any
    opened, chosen = open_receivers(wanted, 10.0)
    assert (opened, chosen) == ("ring", ("ring", "no tcx: no such links"))


def test_a_path_that_is_given_up_is_logged_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    path = ReceivePath("tcx", "why")
    assert (path.path, path.reason, path.fallbacks) == ("tcx", "why", 0)
    path.on_fallen_back("eth0 is a port of br0")
    told = ("ring", "no tcx: eth0 is a port of br0", 1)
    assert (path.path, path.reason, path.fallbacks) == told
    (line,) = [each.message for each in caplog.records]
    assert line == "receive path: ring from now on (no tcx: eth0 is a port of br0)"


@pytest.mark.root
def test_check_tries_tcx_and_tells_what_comes_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ("tcx", 'daemon.receive = "tcx"')
    assert planned_receive(wanted, 10.0) == wanted

    def refuse(rings: object) -> None:
        raise TcxError("no such links")

    monkeypatch.setattr(receiving, "Tcx", refuse)
    assert planned_receive(wanted, 10.0) == ("ring", "no tcx: no such links")


@pytest.mark.root
def test_the_rings_that_are_wanted_are_opened() -> None:
    opened, chosen = open_receivers(WANTED, 10.0)
    with opened:
        assert chosen == WANTED
        receivers: Iterable[Any] = opened.receivers
        assert [(kind, lane) for kind, _, lane, _ in receivers] == [
            ("ring", "genuine"),
            ("ring", "common"),
            ("ring", "stray"),
        ]
        memory = [memory for *_, memory in receivers]
        assert len({control for control, *_ in memory}) == 3
        assert [slots for _, _, slots, _ in memory] == [4_096, 16_384, 1_024]


@pytest.mark.root
def test_sockets_whose_filter_is_refused_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Rings, lane: str, sock: object) -> None:
        raise RingError(f"the filter of {lane}")

    before = sorted(Path("/proc/self/fd").iterdir())
    monkeypatch.setattr(Rings, "attach", refuse)
    with pytest.raises(RingError, match="the filter of stray"):
        LaneSockets("ring", 10.0)
    assert sorted(Path("/proc/self/fd").iterdir()) == before


@pytest.mark.root
@pytest.mark.parametrize(
    ("text", "field", "reason"),
    [
        ("call map_lookup_elem", "value", "invalid func"),
        ("call skb_load_bytes", "value", "invalid func"),
        ("call ktime_get_ns", "value", "invalid func"),
        ("call ktime_get_coarse_ns", "value", "invalid func"),  # before Linux 5.11
        ("fetch", "value", "invalid atomic opcode"),  # before Linux 5.12
        ("exchange", "value", "invalid atomic opcode"),
        (r"= map \d+\[0\]", "source", "unrecognized bpf_ld_imm64"),  # before 5.5
    ],
)
def test_a_kernel_without_an_instruction_or_helper_has_packet_sockets(
    monkeypatch: pytest.MonkeyPatch, text: str, field: str, reason: str
) -> None:
    made = rings.ring_program
    unknown: dict[str, Any] = {field: {"value": 0xFF0, "source": 15}[field]}
    asked = []

    def without(*arguments: Any) -> list[Any]:
        program = made(*arguments)
        places = [at for at, line in enumerate(program) if re.search(text, str(line))]
        asked.extend(places)
        for at in places:
            line = program[at]
            assert isinstance(line, Instruction)
            program[at] = dataclasses.replace(line, **unknown)
        return program

    monkeypatch.setattr(rings, "ring_program", without)
    before = sorted(Path("/proc/self/fd").iterdir())
    opened, (path, why) = open_receivers(WANTED, 10.0)
    with opened:
        assert asked
        assert path == "packet"
        assert why.startswith("no rings: the kernel refused the program (SOCKET_FILTER)")
        assert reason in why
        assert "\n" not in why
        assert {kind for kind, *_ in opened.receivers} == {"packet"}
        assert planned_receive(WANTED, 10.0) == (path, why)
    assert sorted(Path("/proc/self/fd").iterdir()) == before


@pytest.mark.root
def test_a_limit_of_locked_memory_is_met_with_packet_sockets_by_daemon_and_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A kernel that counts maps against RLIMIT_MEMLOCK refuses with EPERM what is beyond it."""
    room = 4 << 20
    locked = 0

    class Counted(maps.Array):
        def __init__(self, entries: int, value_bytes: int, name: str = "") -> None:
            nonlocal locked
            if locked + entries * value_bytes > room:
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
            super().__init__(entries, value_bytes)
            locked += entries * value_bytes

        def close(self) -> None:
            nonlocal locked
            super().close()
            locked -= self.entries * self.value_bytes

    monkeypatch.setattr(rings, "Array", Counted)
    for rate, path in ((10.0, "ring"), (65_280.0, "packet")):
        opened, (found, why) = open_receivers(WANTED, rate)
        opened.close()
        assert found == path
        assert (rate, locked) == (rate, 0)
        assert planned_receive(WANTED, rate) == (found, why)
    assert "or RLIMIT_MEMLOCK is too small" in why


@pytest.mark.root
@pytest.mark.parametrize("what", ["MAP_CREATE", "MMAP", "PROG_LOAD", "ATTACH"])
@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS, errno.EINVAL, errno.ENOMEM])
def test_check_and_daemon_fall_back_alike_whatever_is_refused(what: str, number: int) -> None:
    assert chosen_by_a_process(shim(what, number)) == ["packet"] * 2


@pytest.mark.root
def test_a_container_without_bpf_has_packet_sockets() -> None:
    """In its user namespace it is root, with every capability; the kernel asks for more."""
    assert chosen_by_a_process(("unshare", "--user", "--map-root-user", "--net")) == ["packet"] * 2


def chosen_by_a_process(wrapper: tuple[str, ...]) -> list[str]:
    """The paths of a daemon and of `check`, after it was found that both give the same reason."""
    text = """
from carp_fast.daemon.receiving import open_receivers, planned_receive
wanted = ("ring", "why")
opened, chosen = open_receivers(wanted, 10.0)
planned = planned_receive(wanted, 10.0)
assert chosen == planned, (chosen, planned)
assert chosen[1].startswith("no rings: "), chosen
assert len(chosen[1].splitlines()) == 1, chosen
print(chosen[0], planned[0])
"""
    done = subprocess.run(
        [*wrapper, sys.executable, "-c", text], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_check_tries_what_the_daemon_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "may_use_bpf", lambda: True)
    monkeypatch.setattr(receiving, "Rings", Refused)
    assert planned_receive(WANTED, 10.0) == ("packet", "no rings: the reason")
    assert planned_receive(("raw", "why"), 10.0) == ("raw", "why")
    monkeypatch.setattr(receiving, "may_use_bpf", lambda: False)
    path, reason = planned_receive(WANTED, 10.0)
    assert (path, reason.startswith(f"{WANTED[1]}; if the daemon, unlike this user")) == (
        "ring",
        True,
    )


@pytest.mark.root
def test_check_tries_the_size_and_the_filter_of_a_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[dict[str, int]] = []
    attached: list[str] = []

    class Watched(Rings):
        def __init__(self, slots: dict[str, int], *, wakers: bool) -> None:
            tried.append(slots)
            super().__init__(slots)

        def attach(self, lane: str, sock: socket.socket) -> None:
            super().attach(lane, sock)
            attached.append(lane)

    monkeypatch.setattr(receiving, "Rings", Watched)
    before = sorted(Path("/proc/self/fd").iterdir())
    assert planned_receive(WANTED, 4_080.0) == WANTED
    assert (tried, attached) == ([slots_by_lane(4_080.0)], ["stray"])
    monkeypatch.setattr(programs, "SO_ATTACH_BPF", 0x7FFF)
    path, reason = planned_receive(WANTED, 4_080.0)
    assert path == "packet"
    assert reason == "no rings: the filter of a socket: Protocol not available"
    assert sorted(Path("/proc/self/fd").iterdir()) == before


@pytest.mark.parametrize("capable", [True, False])
def test_the_memory_of_rings_is_part_of_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capable: bool
) -> None:
    monkeypatch.setattr(receiving, "may_use_bpf", lambda: capable)
    monkeypatch.setattr(receiving, "Rings", Refused)
    path = tmp_path / "carp.toml"
    path.write_text(TEXT)
    path.chmod(0o600)
    made = plan(load(path), lambda _: None, Kernel())
    (item,) = made.interfaces
    assert (item.receive, made.ring_bytes) == (
        ("packet", 0) if capable else ("ring", ring_bytes(1.0))
    )
    assert "of a VLAN or on another interface" in made.uncounted


def test_check_shows_the_path_and_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "may_use_bpf", lambda: False)
    path = tmp_path / "carp.toml"
    path.write_text(TEXT)
    path.chmod(0o600)
    result = CliRunner().invoke(main.main, ["check", "-c", str(path)])
    assert result.exit_code == 0, result.output
    (row,) = [line for line in result.stdout.splitlines() if line.startswith("eth0")]
    assert "ring" in row
    size = ring_bytes(1.0) / (1 << 20)
    assert f"memory: {size:.1f} MiB for frames received" in result.stdout


@pytest.mark.parametrize(
    ("wanted", "got", "level"),
    [
        ("ring", "packet", logging.WARNING),
        ("ring", "ring", logging.INFO),
        ("auto", "packet", logging.INFO),
        ("raw", "raw", logging.INFO),
    ],
)
def test_a_path_that_was_asked_for_and_refused_is_a_warning(
    caplog: pytest.LogCaptureFixture, wanted: str, got: str, level: int
) -> None:
    with caplog.at_level(logging.INFO):
        log_chosen(wanted, (got, "why"))
    assert [(each.levelno, each.message) for each in caplog.records] == [
        (level, f"receive path: {got} (why)")
    ]
