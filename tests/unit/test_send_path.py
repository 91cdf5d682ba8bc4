"""What clones need in the kernel: the program's results, and the send path of the daemon."""

from __future__ import annotations

import errno
import logging
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from carp_fast.bpf import maps, programs, system
from carp_fast.bpf.maps import Array
from carp_fast.bpf.programs import Kind, Loaded
from carp_fast.bpf.system import Command
from carp_fast.daemon import sending
from carp_fast.daemon.sending import SendPath, planned
from carp_fast.engine.reports import ClonesGivenUp
from carp_fast.net import clones
from carp_fast.net.clones import Clones, ClonesError, clones_program

NOWHERE = 0x7FFFFFFF  # no interface has this index
UNTOUCHED = 1234
root = pytest.mark.root


def open_descriptors() -> set[str]:
    """The names of this process's descriptors, that of their directory included."""
    return {each.name for each in Path("/proc/self/fd").iterdir()}


def run(count: int, length: int, slots: int = 64) -> tuple[int, list[int]]:
    """Runs the program on frames for no interface: what it returns, and the results."""
    size = clones.FRAMES_AT + clones.FRAMES_A_RUN * clones.SLOT_BYTES + 8
    with Array(1, size) as frames, programs.load(Kind.SCHED_CLS, clones_program(frames)) as program:
        memory = frames.memory
        struct.pack_into("=I", memory, 0, count)
        for slot in range(slots):
            at = clones.FRAMES_AT + slot * clones.SLOT_BYTES
            struct.pack_into("=ii", memory, at, NOWHERE, UNTOUCHED)
        value = program.run(bytes(length)).value
        results = [
            struct.unpack_from("=i", memory, clones.FRAMES_AT + slot * clones.SLOT_BYTES + 4)[0]
            for slot in range(slots)
        ]
    return value, results


@root
@pytest.mark.parametrize("length", [42, 70, 86, 90, 112])
def test_every_frame_of_a_run_has_a_result(length: int) -> None:
    assert run(64, length) == (64, [-errno.EINVAL] * 64)


@root
@pytest.mark.parametrize("count", [0, 1, 63])
def test_only_the_frames_of_a_run_are_sent(count: int) -> None:
    assert run(count, 70) == (count, [-errno.EINVAL] * count + [UNTOUCHED] * (64 - count))


@root
@pytest.mark.parametrize(("count", "length"), [(65, 70), (0xFFFFFFFF, 70), (64, 113)])
def test_what_the_memory_has_no_room_for_is_not_sent(count: int, length: int) -> None:
    assert run(count, length) == (0, [UNTOUCHED] * 64)


@root
def test_closing_leaves_nothing_open() -> None:
    before = open_descriptors()
    with Clones() as opened:
        assert "lo" in os.listdir(opened.directory_fd)  # noqa: PTH208 (a descriptor has no Path)
        assert open_descriptors() > before
    assert open_descriptors() == before


@root
def test_without_the_right_to_mount_sysfs_that_of_the_system_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clones, "_own_sysfs", lambda: -1)
    with Clones() as opened:
        assert Path(f"/proc/self/fd/{opened.directory_fd}").samefile(clones.INTERFACES)


# ---------------------------------------------------------------------------- where BPF is refused

Refuse = Callable[[Command, int], None]


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """Has one command of the bpf system call fail with an errno."""

    def make(wanted: Command, number: int) -> None:
        def call(command: Command, attributes: bytearray) -> int:
            if command == wanted:
                raise OSError(number, os.strerror(number))
            return system.bpf(command, attributes)

        for module in (maps, programs):
            monkeypatch.setattr(module, "bpf", call)

    return make


NEEDED = [Command.MAP_CREATE, Command.PROG_LOAD, Command.PROG_TEST_RUN]


@root
@pytest.mark.parametrize("command", NEEDED)
@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS, errno.EINVAL, errno.ENOMEM])
def test_each_command_that_is_refused_leaves_the_packet_socket_and_nothing_open(
    refuse: Refuse, command: Command, number: int
) -> None:
    before = open_descriptors()
    refuse(command, number)
    with SendPath("auto") as path:
        assert path.path == "packet"
        assert path.reason.startswith("no clones: ")
        assert "\n" not in path.reason
    assert open_descriptors() == before


@root
def test_a_map_that_cannot_be_mapped_leaves_the_packet_socket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    before = open_descriptors()
    monkeypatch.setattr("carp_fast.bpf.maps.mmap.mmap", refused)
    with pytest.raises(ClonesError, match="in spite of the capabilities"):
        Clones()
    assert open_descriptors() == before


@root
@pytest.mark.parametrize(("wanted", "level"), [("auto", logging.INFO), ("clones", logging.WARNING)])
def test_the_reason_is_logged_in_one_line(
    refuse: Refuse, caplog: pytest.LogCaptureFixture, wanted: str, level: int
) -> None:
    refuse(Command.MAP_CREATE, errno.ENOSYS)
    caplog.set_level(logging.INFO)
    with SendPath(wanted) as path:
        path.log()
    (record,) = caplog.records
    assert record.levelno == level
    assert record.getMessage() == (
        "send path: packet (no clones: the bpf system call does not exist:"
        " this kernel was built without it)"
    )


@root
def test_the_words_of_the_verifier_are_part_of_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    right = clones_program
    monkeypatch.setattr(clones, "clones_program", lambda frames: right(frames)[:-2])
    with SendPath("auto") as path:
        (line,) = path.reason.splitlines()
    refused = "no clones: the kernel refused the program (SCHED_CLS): Invalid argument: "
    assert line.startswith(refused)
    assert "jump out of range" in line


# --------------------------------------------------------------------------------------- the path


class Pump:
    """Writes down what it is given; `failed`: interfaces whose trial failed."""

    def __init__(self) -> None:
        self.given: list[tuple[int, int, int]] = []
        self.failed: set[int] = set()

    def send_clones(self, *what: int) -> None:
        self.given.append(what)  # type: ignore[arg-type]

    def sends_clones(self, interface: int) -> bool:
        return interface not in self.failed


@root
@pytest.mark.parametrize("wanted", ["auto", "clones"])
def test_a_pump_is_given_the_program_where_clones_can_be_sent(wanted: str) -> None:
    pump = Pump()
    with SendPath(wanted) as path:
        path.use(pump)  # type: ignore[arg-type]
        assert path.path == path.path_of(0) == "clones"
        pump.failed.add(1)
        assert [path.path_of(number) for number in range(3)] == ["clones", "packet", "clones"]
        assert path.reason.startswith(f'daemon.send = "{wanted}"; ')
        ((program_fd, address, directory_fd),) = pump.given
        assert Loaded(Kind.SCHED_CLS, program_fd).run(bytes(70)).value == 0
        assert address % 4096 == 0
        assert directory_fd >= 0


def test_nothing_of_bpf_is_tried_with_a_packet_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "Clones", None)
    pump = Pump()
    with SendPath("packet") as path:
        path.use(pump)  # type: ignore[arg-type]
        assert (path.path, path.reason) == ("packet", 'daemon.send = "packet"')
        assert path.path_of(0) == "packet"
    assert pump.given == []


@root
def test_what_the_pump_gives_up_is_logged_and_known(caplog: pytest.LogCaptureFixture) -> None:
    with SendPath("auto") as path:
        path.on_given_up("eth1", ClonesGivenUp(1, 1, "uncounted", 0))
        path.on_given_up("eth2", ClonesGivenUp(1, 2, "unread", errno.ENOENT))
        path.on_given_up("eth3", ClonesGivenUp(1, 3, "refused", errno.ENOBUFS))
        assert path.path == "clones"
        path.on_given_up(None, ClonesGivenUp(1, None, "run", errno.EPERM))
        assert path.path == "packet"
        assert (
            path.reason == "no clones any more: cannot run their program: Operation not permitted"
        )
    assert [record.getMessage() for record in caplog.records] == [
        "eth1: no clones are sent: its transmit counter did not count the first ones",
        "eth2: no clones are sent: its transmit counter cannot be read: No such file or directory",
        "eth3: no clones are sent: it refuses them, but not the frames of a packet socket:"
        " No buffer space available",
        f"send path: packet ({path.reason})",
    ]


@pytest.mark.parametrize("wanted", ["auto", "clones"])
def test_check_does_not_judge_the_daemon_by_its_own_user(
    monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    monkeypatch.setattr(sending, "may_use_bpf", lambda: False)
    assert planned(wanted) == (
        "clones",
        f'daemon.send = "{wanted}"; if the daemon, unlike this user, may use BPF',
    )
    assert planned("packet") == ("packet", 'daemon.send = "packet"')
