"""Messages between daemon and helper: what is sent arrives, and nothing else is taken for one."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carp_fast.privileged import messages
from carp_fast.privileged.messages import (
    DESCRIPTORS_MAX,
    MESSAGE_BYTES,
    REPLIES,
    REQUESTS,
    VARIABLES_MAX,
    Applied,
    Begun,
    Exited,
    Failed,
    Kill,
    Load,
    Loaded,
    MessageError,
    NotLoaded,
    Start,
    StopLoading,
    Succeed,
)
from carp_fast.programs.packets import close_all

numbers = st.integers(0, messages.SEQUENCE_MAX)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9)
variables = st.dictionaries(st.from_regex(r"\ACARP_[A-Z0-9_]{1,32}\Z"), texts, max_size=4)
requests = st.one_of(
    st.builds(Load, numbers, st.none() | st.binary(max_size=99)),
    st.just(StopLoading()),
    st.builds(Applied, numbers),
    st.builds(
        Start,
        numbers,
        numbers,
        numbers,
        st.none() | st.tuples(texts, texts),
        variables,
        st.booleans(),
        st.booleans(),
    ),
    st.builds(Kill, numbers, st.integers(1, 64), st.booleans()),
    st.builds(Succeed, numbers),
)
replies = st.one_of(
    st.builds(Loaded, numbers),
    st.builds(NotLoaded, numbers, texts),
    st.builds(Failed, numbers, texts, texts),
    st.builds(Begun, numbers, st.integers(1, 2**22)),
    st.builds(Exited, numbers, st.integers(-64, 255)),
)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = messages.pair()
    with one, other:
        yield one, other


@given(requests, replies)
def test_every_message_arrives_as_it_was_sent(request: Any, reply: Any) -> None:
    one, other = messages.pair()
    with one, other:
        messages.send(one, messages.packed(request))
        assert messages.receive(other, REQUESTS) == (request, [])
        messages.send(other, messages.packed(reply))
        assert messages.receive(one, REPLIES) == (reply, [])


@given(st.binary(min_size=1, max_size=200))
def test_any_other_bytes_are_refused(packet: bytes) -> None:
    one, other = messages.pair()
    with one, other:
        one.send(packet)
        try:
            received = messages.receive(other, REQUESTS)
        except MessageError:
            return
        assert received is not None
        assert messages.packed(received[0])  # it was one of ours, by chance


@given(requests, st.data())
def test_a_garbled_message_is_refused_or_is_another_one(request: Any, data: st.DataObject) -> None:
    packet = bytearray(messages.packed(request))
    for _ in range(2):
        packet[data.draw(st.integers(0, len(packet) - 1))] = data.draw(st.integers(0, 255))
    one, other = messages.pair()
    with one, other:
        one.send(packet)
        try:
            assert messages.receive(other, REQUESTS) is not None
        except MessageError:
            pass


WRONG: tuple[tuple[str, Any], ...] = (
    ("another type", ["Reboot", 1]),
    ("a reply", Exited(1, 0)),
    ("too many fields", ["Applied", 1, 2]),
    ("too few", ["Applied"]),
    ("a negative number", ["Applied", -1]),
    ("too large a number", ["Applied", messages.SEQUENCE_MAX + 1]),
    ("no signal", ["Kill", 1, 0, False]),
    ("another variable", ["Start", 1, 1, 0, None, {"LD_PRELOAD": "x"}, False, False]),
    ("a line in a name", ["Start", 1, 1, 0, None, {"CARP_X\n": "x"}, False, False]),
    ("NUL in a value", ["Start", 1, 1, 0, None, {"CARP_X": "x\0y"}, False, False]),
    ("NUL in a place", ["Start", 1, 1, 0, ["eth0\0", "x"], {}, False, False]),
    (
        "too many variables",
        ["Start", 1, 1, 0, None, {f"CARP_{n}": "" for n in range(VARIABLES_MAX + 1)}, False, False],
    ),
    ("a path for a successor", ["Succeed", 1, "/bin/sh"]),
    ("a path for a program", ["Start", 1, 1, "/bin/sh", None, {}, False, False]),
)


@pytest.mark.parametrize(("what", "wrong"), WRONG, ids=[what for what, _ in WRONG])
def test_messages_with_wrong_fields_are_refused(
    what: str, wrong: Any, ends: tuple[socket.socket, socket.socket]
) -> None:
    ends[0].send(msgspec.msgpack.encode(wrong))
    with pytest.raises(MessageError, match="not a message"):
        messages.receive(ends[1], REQUESTS)


def test_the_longest_message_arrives_and_a_longer_one_is_refused_by_both(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    fits = Failed(1, "x" * (MESSAGE_BYTES - 32), "")
    messages.send(ends[0], messages.packed(fits))
    assert messages.receive(ends[1], REPLIES) == (fits, [])
    with pytest.raises(MessageError, match="MESSAGE_BYTES"):
        messages.packed(Failed(1, "x" * MESSAGE_BYTES, ""))
    ends[0].send(msgspec.msgpack.encode(Failed(1, "x" * MESSAGE_BYTES, "")))
    with pytest.raises(MessageError, match="too long"):
        messages.receive(ends[1], REPLIES)


def test_text_that_is_not_utf_8_is_refused_before_it_is_sent() -> None:
    with pytest.raises(MessageError, match="cannot be encoded"):
        messages.packed(Failed(1, "\udcff", ""))


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208


def test_no_descriptor_of_a_refused_message_stays_open(
    ends: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    before = descriptors()
    with open(tmp_path / "file", "wb") as file:
        for packet, count in ((b"?", 1), (messages.packed(StopLoading()), DESCRIPTORS_MAX + 2)):
            socket.send_fds(ends[0], [packet], [file.fileno()] * count)
            with pytest.raises(MessageError):
                messages.receive(ends[1], REQUESTS)
    assert descriptors() == before


def test_descriptors_that_arrive_are_closed_in_programs(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    messages.send(ends[0], messages.packed(Loaded(1)), [0])
    received = messages.receive(ends[1], REPLIES)
    assert received is not None
    reply, (descriptor,) = received
    assert (reply, os.get_inheritable(descriptor)) == (Loaded(1), False)
    close_all([descriptor])
