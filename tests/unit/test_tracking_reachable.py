"""Tracks by ping and TCP, on loopback."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from carp_fast.config.tracks import PingTrack, TcpTrack
from carp_fast.tracking import pings
from carp_fast.tracking.pings import checksum
from tests.support.followed import Follower, open_descriptors

SOON = {"interval_s": 0.1, "timeout_s": 5.0, "rise": 1, "fall": 1}


def ping(target: str, name: str = "p", **keys: str | float) -> PingTrack:
    return PingTrack(name=name, target=target, **SOON | keys)  # type: ignore[arg-type]


def tcp(target: str, port: int, name: str = "t", **keys: str | float) -> TcpTrack:
    return TcpTrack(name=name, target=target, port=port, **SOON | keys)  # type: ignore[arg-type]


@contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as server:
        server.bind((address, 0))
        server.listen()
        yield server


def test_the_checksum_of_an_echo_request() -> None:
    data = bytes.fromhex("08000000abcd0001")
    assert checksum(data) == 0xFFFF - (0x0800 + 0xABCD + 0x0001)
    assert checksum(b"\xff\xff\xff\xff\x00\x01") == 0xFFFE


@pytest.mark.parametrize("target", ["127.0.0.1", "::1"])
def test_a_host_that_answers_pings(target: str) -> None:
    with Follower(ping(target), ping(target, "from", source=target, interface="lo")) as follower:
        assert follower.wait_state("p", "ok").text.startswith(f"{target}: answered in ")
        follower.wait_state("from", "ok")
        text = follower.judged("p").text
        follower.wait(lambda: follower.judged("p").text != text, "a further answer")


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"source": "192.0.2.77"}, "cannot be asked"),
        ({"interface": "nonexistent0"}, "cannot be asked: no interface with this name"),
    ],
)
def test_a_way_that_does_not_exist(keys: dict[str, str], why: str) -> None:
    tracks = ping("127.0.0.1", **keys), tcp("127.0.0.1", 1, **keys)
    with Follower(*tracks) as follower:
        assert why in follower.wait_state("p", "failed").text
        follower.wait_state("t", "failed")


def test_answers_of_others_and_forged_ones_do_not_count() -> None:
    with Follower(ping("127.0.0.1", timeout_s=0.2)) as follower:
        follower.wait_state("p", "ok")
        own = follower.tracks._pings
        target, token = own._sockets[4], own._token
        number = 1 << 40
        with pings.open_socket(4) as forger:
            for payload in (token + number.to_bytes(8), bytes(16), b""):
                head = pings.ICMP.pack(pings.ECHO_REPLY, 0, 0, 0, 0)
                forger.sendto(head + payload, ("127.0.0.1", 0))
        follower.run(0.1)
        assert follower.judged("p").state == "ok"
        assert target.fileno() >= 0


def test_many_hosts_are_asked_through_one_socket() -> None:
    tracks = [ping(f"127.0.{number}.1", str(number)) for number in range(100)]
    with Follower(*tracks) as follower:
        follower.wait(lambda: all(judged.state == "ok" for judged in follower.tracks))
        before = open_descriptors()
        follower.follow(*tracks[:1])
        assert open_descriptors() == before
        follower.follow()
        assert open_descriptors() == before - 1


def test_an_answer_that_was_not_read_in_time_counts_all_the_same() -> None:
    with Follower(ping("127.0.0.1", timeout_s=0.05, interval_s=0.2)) as follower:
        follower.wait_state("p", "ok")
        answers = follower.tracks._pings
        fd = answers._sockets[4].fileno()
        follower.loop.remove_reader(fd)  # as if the loop were busy
        text = follower.judged("p").text
        follower.wait(lambda: follower.judged("p").text != text, "a further answer")
        assert (follower.judged("p").state, follower.judged("p").flaps) == ("ok", 0)
        follower.loop.add_reader(fd, answers._read, 4)


@pytest.mark.parametrize("target", ["127.0.0.1", "::1"])
def test_a_host_that_accepts_connections(target: str) -> None:
    with listening(target) as server:
        port = server.getsockname()[1]
        name = f"[{target}]:{port}" if ":" in target else f"{target}:{port}"
        tracks = tcp(target, port), tcp(target, port, "from", source=target, interface="lo")
        with Follower(*tracks) as follower:
            assert follower.wait_state("t", "ok").text.startswith(f"{name}: connected in ")
            follower.wait_state("from", "ok")
            server.close()
            follower.wait_state("t", "failed")
            assert follower.judged("t").text == f"{name}: Connection refused"


def test_a_host_that_does_not_answer_a_connection() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        address = server.getsockname()
        # A full backlog: the kernel drops what comes.
        with socket.create_connection(address), socket.socket() as more:
            more.setblocking(False)
            more.connect_ex(address)
            track = tcp(*address, timeout_s=0.2)
            with Follower(track) as follower:
                text = follower.wait_state("t", "failed").text
                assert text.endswith("no connection within 0.2 s")


def test_nothing_is_left_open() -> None:
    with listening("127.0.0.1") as server, Follower() as follower:
        before = open_descriptors()
        follower.follow(tcp(*server.getsockname()), ping("127.0.0.1"))
        follower.wait_state("t", "ok")
        follower.wait_state("p", "ok")
        follower.follow()
        assert open_descriptors() == before
