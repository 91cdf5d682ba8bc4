"""Messages with descriptors between two processes: bounded, typed, with deadlines."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from typing import ClassVar

import msgspec
import pytest

from carp_fast.programs import channel as channels
from carp_fast.programs.channel import (
    DESCRIPTORS_MAX,
    MESSAGE_BYTES_MAX,
    Channel,
    ChannelEnded,
    ChannelError,
    ChannelTimeout,
    Message,
)
from tests.support.followed import open_descriptors

SOON_S = 10.0


class Hello(Message, frozen=True):
    text: str
    number: int = 7


class Files(Message, frozen=True):
    carries: ClassVar[tuple[str, ...]] = ("one", "other")


Known = Hello | Files


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    one, other = channels.pair()
    with Channel(one, Known) as left, Channel(other, Known) as right:
        yield left, right


@pytest.fixture
def raw() -> Iterator[tuple[socket.socket, Channel]]:
    one, other = channels.pair()
    with one, Channel(other, Known) as right:
        yield one, right


def test_a_message_arrives_as_it_was_sent(ends: tuple[Channel, Channel]) -> None:
    left, right = ends
    left.send_now(Hello("a", 1), within_s=SOON_S)
    left.send_now(Hello("b"), within_s=SOON_S)
    assert right.receive_now(Hello, within_s=SOON_S).message == Hello("a", 1)
    assert right.receive_now(Hello, Files, within_s=SOON_S).message == Hello("b")


def test_descriptors_arrive_as_new_ones_that_no_program_inherits(
    ends: tuple[Channel, Channel],
) -> None:
    left, right = ends
    read, write = os.pipe()
    left.send_now(Files(), (read, write), within_s=SOON_S)
    received = right.receive_now(Files, within_s=SOON_S).descriptors
    assert not {read, write} & {*received}
    assert all(fcntl.fcntl(each, fcntl.F_GETFD) & fcntl.FD_CLOEXEC for each in received)
    os.write(received[1], b"x")
    assert os.read(read, 1) == b"x"
    channels.close_all((read, write, *received))


def test_a_loop_waits_for_a_message_and_for_room() -> None:
    async def exchange() -> int:
        one, other = channels.pair()
        with Channel(one, Known) as left, Channel(other, Known) as right:
            count = 200  # more than the socket holds
            text = "x" * 50_000

            async def send() -> None:
                for number in range(count):
                    await left.send(Hello(text, number), within_s=SOON_S)

            sending = asyncio.create_task(send())
            for number in range(count):
                received = await right.receive(Hello, within_s=SOON_S)
                assert received.message == Hello(text, number)
            await sending
            return count

    assert asyncio.run(exchange()) == 200


def test_a_message_that_does_not_come_in_time_is_not_waited_for(
    ends: tuple[Channel, Channel],
) -> None:
    left, right = ends
    with pytest.raises(ChannelTimeout, match=r"not within 0\.01 s"):
        right.receive_now(Hello, within_s=0.01)
    with pytest.raises(ChannelTimeout, match=r"not within 0\.01 s"):
        asyncio.run(right.receive(Hello, within_s=0.01))
    full = Hello("x" * 60_000)
    with contextlib.suppress(ChannelTimeout):
        for _ in range(1000):
            left.send_now(full, within_s=0.01)
    with pytest.raises(ChannelTimeout):
        left.send_now(full, within_s=0.01)
    with pytest.raises(ChannelTimeout):
        asyncio.run(left.send(full, within_s=0.01))


def test_the_end_of_the_other_process_is_told(ends: tuple[Channel, Channel]) -> None:
    left, right = ends
    left.close()
    with pytest.raises(ChannelEnded, match="the other process has ended"):
        right.receive_now(Hello, within_s=SOON_S)
    with pytest.raises(ChannelEnded, match="the other process has ended"):
        right.send_now(Hello("x"), within_s=SOON_S)
    with pytest.raises(ChannelEnded):
        asyncio.run(right.receive(Hello, within_s=SOON_S))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\xc1", "that this version does not know: MessagePack data is malformed"),
        (b"", "the other process has ended"),
        (msgspec.msgpack.encode({"type": "Other"}), "Invalid value 'Other'"),
        (msgspec.msgpack.encode({"type": "Hello"}), "missing required field `text`"),
        (msgspec.msgpack.encode({"type": "Hello", "text": 1}), "Expected `str`, got `int`"),
        (
            msgspec.msgpack.encode({"type": "Hello", "text": "", "colour": 1}),
            "unknown field `colour`",
        ),
        (msgspec.msgpack.encode({"type": "Files"}), "Files in place of Hello: refused"),
        (b"\x91" * 60_000, "that this version does not know"),
        (b"x" * (MESSAGE_BYTES_MAX + 1), f"more than {MESSAGE_BYTES_MAX} bytes"),
    ],
)
def test_what_is_not_an_expected_message_is_refused_and_says_why(
    raw: tuple[socket.socket, Channel], data: bytes, why: str
) -> None:
    one, right = raw
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MESSAGE_BYTES_MAX)
    one.send(data)
    with pytest.raises(ChannelError, match=why):
        right.receive_now(Hello, within_s=SOON_S)


@pytest.mark.parametrize("count", [1, 2, 3, DESCRIPTORS_MAX, DESCRIPTORS_MAX + 1, 100])
def test_no_descriptor_of_a_refused_message_stays_open(
    raw: tuple[socket.socket, Channel], count: int
) -> None:
    one, right = raw
    before = open_descriptors()
    socket.send_fds(one, [msgspec.msgpack.encode(Hello("x"))], [one.fileno()] * count)
    with pytest.raises(ChannelError, match="descriptors"):
        right.receive_now(Hello, within_s=SOON_S)
    socket.send_fds(one, [b"garbled"], [one.fileno()] * count)
    with pytest.raises(ChannelError):
        right.receive_now(Hello, within_s=SOON_S)
    assert open_descriptors() == before


def test_a_message_is_not_sent_without_what_it_carries(ends: tuple[Channel, Channel]) -> None:
    left, _ = ends
    with pytest.raises(ValueError, match="Files carries 2 descriptors"):
        left.send_now(Files(), (0,), within_s=SOON_S)


def test_a_message_that_is_too_long_is_not_sent(ends: tuple[Channel, Channel]) -> None:
    left, _ = ends
    with pytest.raises(ChannelError, match=f"allowed: {MESSAGE_BYTES_MAX}"):
        left.send_now(Hello("x" * MESSAGE_BYTES_MAX), within_s=SOON_S)


def test_an_inherited_descriptor_has_to_be_an_end() -> None:
    one, other = channels.pair()
    with one, Channel.from_descriptor(other.detach(), Known) as right:
        one.send(msgspec.msgpack.encode(Hello("x")))
        assert right.receive_now(Hello, within_s=SOON_S).message == Hello("x")
        assert not os.get_inheritable(right.fileno())
    read, write = os.pipe()
    with pytest.raises(ChannelError, match=f"descriptor {read}: "):
        Channel.from_descriptor(read, Known)
    channels.close_all((read, write))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        with pytest.raises(ChannelError, match="not a socket of the expected kind"):
            Channel.from_descriptor(stream.fileno(), Known)
        assert stream.fileno() >= 0
