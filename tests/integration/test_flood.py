"""`carp-fast flood` on an interface of a namespace: by each backend, what arrives and what is left.

The other end is read by a packet socket and judged by the standard library.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import carp_fast
from carp_fast.bpf.assembly import R0, leave, move
from carp_fast.bpf.programs import Attach, Kind, Loaded, load
from carp_fast.capture.pcap import Writer
from carp_fast.engine._wire import parse
from carp_fast.lab.lab import Host, Lab, Process, wait_for
from carp_fast.loadtest._flood import Flood
from carp_fast.loadtest._mix import Mix
from carp_fast.loadtest._pace import Pace
from carp_fast.loadtest.backends import BackendError, Live, Sendmmsg
from carp_fast.loadtest.held import Held
from carp_fast.loadtest.sender import Backends, FloodError, Sender
from carp_fast.loadtest.streams import made_up, place_of
from carp_fast.net.kernel import ETH_P_ALL
from tests.support.segment import carp_digest, internet_checksum, ip

pytestmark = [pytest.mark.root, pytest.mark.alone]

DEADLINE_S = 60.0
RECEIVE_BUFFER_BYTES, SO_RCVBUFFORCE = 64 << 20, 33
XDP_PASS = 2
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(carp_fast.__file__).parent.parent)}
FRAMES = 20_000


def mix(vhids: range = range(1, 51), **weights: int) -> Mix:
    """Virtual hosts of IPv4 and IPv6 by turns, so that frames have two lengths."""
    addresses = [ip(f"10.1.1.{v}") if v % 2 else ip(f"2001:db8::{v}") for v in vhids]
    streams = made_up(list(vhids), addresses, b"secret", place_of("s1"))
    return Mix(
        streams.streams,
        weights or {"ok": 1},
        announcements=streams.announcements,
        walks={"counter": ("increment", range(1_000, 1_001))},
    )


@contextmanager
def listening(host: Host) -> Iterator[socket.socket]:
    with host.inside():
        heard = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        heard.bind(("s1", 0))
    with heard:
        heard.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
        heard.settimeout(DEADLINE_S)
        yield heard


@contextmanager
def takes_redirected(host: Host) -> Iterator[None]:
    """An XDP program at the other end of a veth, so that frames can be redirected to this one."""
    with host.inside():
        program = load(Kind.XDP, [move(R0, XDP_PASS), leave()])
        link = program.attach(socket.if_nametoindex("s1"), Attach.XDP)
    try:
        yield
    finally:
        os.close(link)
        program.close()


def open_of_ebpf() -> Counter[str]:
    """Maps, programs and links that this process holds."""
    found: Counter[str] = Counter()
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the directory itself
            found[str(each.readlink())] += 1
    return Counter({name: count for name, count in found.items() if "bpf" in name})


@contextmanager
def nothing_left() -> Iterator[None]:
    """What is open of eBPF after it is what was open before."""
    before = open_of_ebpf()
    yield
    assert open_of_ebpf() == before


@pytest.mark.parametrize("backend", ["sendmmsg", "live"])
def test_what_is_sent_arrives_whole_and_is_counted(
    lab_factory: Callable[..., Lab], backend: str
) -> None:
    a, b = lab_factory(segments=1).hosts
    with takes_redirected(b), listening(b) as heard, a.inside(), nothing_left():
        source = mix(ok=6, bad_ttl=1, replay=1, arp=1, vrrp=1)
        options = {"backend": backend, "rate": 50_000.0, "duration_s": DEADLINE_S}
        with Sender(
            source,
            Pace(rate=50_000),
            interface="s1",
            count=FRAMES,
            **options,  # type: ignore[arg-type]
        ) as sender:
            sender.start()
            frames = [heard.recv(2048) for _ in range(FRAMES)]
            assert sender.wait(DEADLINE_S)
            sent = sender.sent()
            assert (sender.trouble, sent.backend, sent.sent) == (None, backend, FRAMES)
    share = FRAMES // 10
    assert sent.kinds == {
        "ok": 6 * share, "bad_ttl": share, "replay": share, "arp": share, "vrrp": share
    }  # fmt: skip
    assert sent.interface_packets == FRAMES
    assert 0.5 < sent.rate / 50_000 < 1.1  # benches/flood.py asks for more, on a quiet machine
    assert sent.gaps is not None
    assert 0 < sent.gaps.p50_ns <= sent.gaps.p99_ns <= sent.gaps.max_ns
    assert Counter(map(len, frames)).keys() == {70, 90, 42, 54, 78}
    verdicts = Counter(parse(frame)["verdict"] for frame in frames)
    expected = {"ok": 7 * share, "bad_ttl": share, "not_carp": share, "vrrp": share}
    assert verdicts == expected
    judge(frames)
    counted: Counter[tuple[str, int]] = Counter()
    for each in sent.by_source:
        counted[str(each.source), int(each.vhid)] += each.sent
    assert counted.total() == 7 * share


def judge(frames: list[bytes]) -> None:
    """Digests, checksums, and counters that ascend by one for each source and vhid."""
    latest: dict[tuple[bytes, int], int] = {}
    for frame in frames:
        said = parse(frame)
        if said["verdict"] not in ("ok", "bad_ttl"):
            continue
        vhid, counter = said["vhid"], int.from_bytes(said["counter"], "big")
        address = ip(f"10.1.1.{vhid}") if vhid % 2 else ip(f"2001:db8::{vhid}")
        assert said["digest"] == carp_digest(b"secret", vhid, [address], said["counter"])
        assert internet_checksum(frame[-36:]) == 0
        before = latest.setdefault((said["source"], vhid), 999)
        assert counter in (before, before + 1)
        latest[said["source"], vhid] = counter


@pytest.mark.parametrize("backend", ["sendmmsg", "live"])
def test_stopped_early_it_counts_what_left_and_no_more(
    lab_factory: Callable[..., Lab], backend: str
) -> None:
    a, b = lab_factory(segments=1).hosts
    with takes_redirected(b), a.inside():
        source = mix()
        with Sender(source, Pace(), interface="s1", backend=backend) as sender:
            sender.start()
            wait_for(lambda: sender.flood.facts()["sent"] > 1_000, DEADLINE_S, "frames leave")
            sender.stop()
            sent = sender.sent()
        assert source.made() == {"ok": sent.sent}
        assert sum(each.sent for each in sent.by_source) == sent.sent
        assert sent.interface_packets == sent.sent


@pytest.mark.parametrize("backend", ["sendmmsg", "live"])
@pytest.mark.parametrize(("end", "said"), [("down", "link is down"), ("removed", "was removed")])
def test_a_link_that_is_lost_ends_it(
    lab_factory: Callable[..., Lab], backend: str, end: str, said: str
) -> None:
    lab = lab_factory(segments=1)
    a, b = lab.hosts
    with takes_redirected(b), a.inside(), nothing_left():
        source, pace = mix(), Pace(rate=1_000)
        with Sender(source, pace, interface="s1", backend=backend, duration_s=DEADLINE_S) as sender:
            sender.start()
            wait_for(lambda: sender.flood.facts()["sent"], DEADLINE_S, "frames leave")
            if end == "down":
                lab.set_link("b", 1, up=False)
            else:
                lab.delete_interface("a", 1)
            wait_for(lambda: sender.wait(0), DEADLINE_S, "it ends")
            wait_for(lambda: said in str(sender.trouble), DEADLINE_S, said)
            assert sender.sent().sent == sum(each.sent for each in sender.sent().by_source)


def test_why_live_frames_cannot_be_sent(lab_factory: Callable[..., Lab]) -> None:
    a, _ = lab_factory(segments=1).hosts
    with a.inside(), nothing_left():
        with pytest.raises(BackendError, match=r"^live: s1 takes no redirected frames: [^\n]*$"):
            Live("s1", 70, paced=True)
        with pytest.raises(BackendError, match="no such interface"):
            Sendmmsg("s9")
        with Sender(mix(), Pace(), interface="s1", duration_s=0.05) as sender:
            sender.start()
            assert sender.wait(DEADLINE_S)
            sent = sender.sent()
    assert sent.backend == "sendmmsg"
    assert [line.partition(" takes")[0] for line in sent.unavailable] == ["live: s1"]


def test_a_flood_after_another_has_its_program(lab_factory: Callable[..., Lab]) -> None:
    a, b = lab_factory(segments=1).hosts
    with (
        takes_redirected(b),
        listening(b) as heard,
        a.inside(),
        nothing_left(),
        Backends() as backends,
    ):
        programs = Counter[int]()
        for pace in (Pace(rate=50_000), Pace(), Pace(rate=50_000), Pace(), Pace()):
            source = mix()
            with Sender(
                source, pace, interface="s1", backend="live", count=70, backends=backends
            ) as sender:
                programs[id(sender._backend)] += 1
                sender.start()
                judge([heard.recv(2048) for _ in range(70)])
                assert sender.wait(DEADLINE_S)
                assert (sender.trouble, sender.sent().sent) == (None, 70)
        assert sorted(programs.values()) == [2, 3]
        heard.setblocking(False)
        with pytest.raises(BlockingIOError):
            heard.recv(2048)


def test_a_held_program_starts_and_ends_at_once(
    lab_factory: Callable[..., Lab],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    a, b = lab_factory(segments=1).hosts

    def shortest_s() -> float:
        took = []
        with Backends() as backends:
            for _ in range(10):
                with Sender(
                    mix(), Pace(), interface="s1", backend="live", count=10, backends=backends
                ) as sender:
                    begun_at = time.monotonic()
                    sender.flood.run()
                    took.append(time.monotonic() - begun_at)
                    assert (sender.trouble, sender.sent().sent) == (None, 10)
        return min(took)

    def refuse(program: Loaded) -> Held:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with takes_redirected(b), a.inside(), nothing_left(), caplog.at_level(logging.INFO):
        held_s = shortest_s()
        assert not caplog.messages
        monkeypatch.setattr("carp_fast.loadtest.backends.Held", refuse)
        assert held_s < shortest_s() / 2
    (line,) = caplog.messages
    assert line.startswith("live frames begin and end some 12 ms later: No space left")


@pytest.mark.parametrize("steady", [False, True])
def test_only_a_flood_that_is_not_steady_catches_up_after_it_was_held_up(
    lab_factory: Callable[..., Lab], tmp_path: Path, steady: bool
) -> None:
    a, b = lab_factory(segments=1).hosts
    script = (
        "import sys; from carp_fast.loadtest._mix import Mix; from carp_fast.loadtest._pace import"
        " Pace; from carp_fast.loadtest.sender import Sender; from carp_fast.loadtest.streams"
        " import made_up, place_of; import msgspec\n"
        "mix = Mix(made_up([1], [], b'x', place_of('s1')).streams, {'ok': 1})\n"
        f"with Sender(mix, Pace(rate=1000), interface='s1', count=500, steady={steady},"
        f" duration_s={DEADLINE_S}) as sender:\n"
        f"    sender.start(); sender.wait({DEADLINE_S}); sent = sender.sent()\n"
        "print(msgspec.json.encode(sent).decode())"
    )
    with listening(b) as heard:
        log = tmp_path / "log"
        running = a.start([sys.executable, "-c", script], log=log, env=ENVIRONMENT)
        heard.recv(2048)
        running.signal(signal.SIGSTOP)
        time.sleep(0.3)  # how long it is held up
        running.signal(signal.SIGCONT)
        assert running.wait(DEADLINE_S) == 0
    sent = json.loads(log.read_text())
    assert sent["sent"] == 500
    assert sent["gaps"]["max_ns"] >= 0.25e9
    if steady:
        assert sent["held_seconds"] >= 0.25
        assert sent["gaps"]["span_ns"] >= 0.25e9 + 499e6
        assert sent["gaps"]["longest_burst"] < 250
    else:
        assert sent["held_seconds"] == 0
        assert sent["gaps"]["longest_burst"] >= 250


def test_frames_that_the_interface_cannot_send_are_refused(
    lab_factory: Callable[..., Lab],
) -> None:
    a, _ = lab_factory(segments=1).hosts
    a.run(["ip", "link", "set", "s1", "mtu", "68"])
    with a.inside():
        streams = made_up([1], [ip("2001:db8::1")], b"x", place_of("s1")).streams
        source = Mix(streams, {"ok": 1})
        with pytest.raises(FloodError, match=r"^s1: a frame has 90 bytes; its MTU allows 86$"):
            Sender(source, Pace(rate=1), interface="s1", backend="sendmmsg")


def test_a_flood_runs_once(lab_factory: Callable[..., Lab]) -> None:
    a, _ = lab_factory(segments=1).hosts
    with a.inside():
        backend = Sendmmsg("s1")
        flood = Flood(mix(), backend, pace=Pace(), duration_ns=1_000_000, count=10)
        flood.run()
        assert flood.facts()["sent"] == 10
        with pytest.raises(ValueError, match="runs once"):
            flood.run()
        backend.close()


def flooding(host: Host, log: Path, *arguments: str) -> Process:
    words = [sys.executable, "-m", "carp_fast", "flood", "-i", "s1", *arguments]
    return host.start(words, log=log, env=ENVIRONMENT)


def test_the_command_says_what_it_sent(lab_factory: Callable[..., Lab], tmp_path: Path) -> None:
    a, b = lab_factory(segments=1).hosts
    log = tmp_path / "log"
    with listening(b) as heard:
        done = flooding(
            a, log, "--json", "--vhid", "1-2", "--rate", "2000", "--count", "1000", "--stamp"
        )
        frames = [heard.recv(2048) for _ in range(1000)]
        assert done.wait(DEADLINE_S) == 0
    said = json.loads(log.read_text())
    assert (said["sent"], said["kinds"], said["backend"]) == (1000, {"ok": 1000}, "sendmmsg")
    sources = [(each["vhid"], each["source"], each["sent"]) for each in said["by_source"]]
    assert sources == [
        (1, a.address(1).partition("/")[0], 500),
        (2, a.address(1).partition("/")[0], 500),
    ]
    stamps = [int.from_bytes(frame[74:82], "big") for frame in frames]
    assert all(frame[70:74] == b"sent" for frame in frames)
    assert stamps == sorted(stamps)
    assert abs(stamps[0] - time.time_ns()) < DEADLINE_S * 1e9


def test_a_recording_is_played_to_its_end_and_then_ends(
    lab_factory: Callable[..., Lab], tmp_path: Path
) -> None:
    a, b = lab_factory(segments=1).hosts
    file, log = tmp_path / "recording", tmp_path / "log"
    with open(file, "wb") as opened:
        writer = Writer(opened)
        for number, (_, frame) in enumerate(made(mix(), 200)):
            writer.write(number * 2_000_000, frame)
    with listening(b) as heard:
        played = flooding(a, log, "--from", str(file), "--json")
        frames = [heard.recv(2048) for _ in range(200)]
        assert played.wait(DEADLINE_S) == 0
    said = json.loads(log.read_text())
    assert (said["sent"], said["planned"], len(frames)) == (200, 200, 200)
    assert 199 * 0.002 <= said["seconds"] < DEADLINE_S
    assert said["rate"] == pytest.approx(200 / said["seconds"])


def made(source: Mix, count: int) -> list[tuple[str, bytes]]:
    return [each for each in (source.take() for _ in range(count)) if each is not None]


def test_ctrl_c_ends_it_with_its_table(lab_factory: Callable[..., Lab], tmp_path: Path) -> None:
    a, b = lab_factory(segments=1).hosts
    log = tmp_path / "log"
    with listening(b) as heard:
        running = flooding(a, log, "--duration", "1000")
        heard.recv(2048)
        running.signal(signal.SIGINT)
        assert running.wait(DEADLINE_S) == 130
    assert "frames by sendmmsg in" in log.read_text()
