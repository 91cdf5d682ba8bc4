"""Typed messages, with file descriptors, between two processes of carp-fast.

Holds `Channel`, one end of a pair of SOCK_SEQPACKET sockets, and `Message`, the base class of what
is sent. Everything is bounded: the bytes and descriptors of a message, and the time for it. Must
not know what the messages mean, nor which processes they are for.
"""

from __future__ import annotations

import asyncio
import select
import socket
import struct
import time
from array import array
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import msgspec

from carp_fast.closing import Closing
from carp_fast.errors import CarpFastError
from carp_fast.programs.packets import close_all, pair, receive

__all__ = [
    "Channel",
    "ChannelEnded",
    "ChannelError",
    "ChannelTimeout",
    "Message",
    "Received",
    "close_all",
    "pair",
]

_UCRED = struct.Struct("iii")  # pid, uid, gid

MESSAGE_BYTES_MAX = 65_536
DESCRIPTORS_MAX = 16  # of one message; the kernel takes 253


class ChannelError(CarpFastError):
    """Raised when a message cannot be sent or received; one line says why."""


class ChannelEnded(ChannelError):
    """Raised when the other process has closed its end, or has ended."""


class ChannelTimeout(ChannelError):
    """Raised when a message could not be sent or received within its time."""


class Message(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """A message. `carries`: what each of the file descriptors is that come with it.

    Fields that another version does not send have their defaults; those that this version does not
    know are refused, by their names.
    """

    carries: ClassVar[tuple[str, ...]] = ()

    @property
    def carried(self) -> tuple[str, ...]:
        """What this message carries: `carries`, unless it says so itself."""
        return self.carries


class Received(NamedTuple):
    """A message and its file descriptors, which belong to the receiver from now on."""

    message: Any
    descriptors: tuple[int, ...]


class Channel(Closing):
    """One end. `receives`: the class, or the union of classes, of the messages that may come.

    `send_now` and `receive_now` block the thread, `send` and `receive` are for a running loop. All
    of them raise ChannelError, and close the descriptors of a message that they refuse. `now` is
    the clock of the deadlines, in seconds.
    """

    def __init__(
        self, end: socket.socket, receives: Any, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._end = end
        self._now = now
        self._decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(receives)
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MESSAGE_BYTES_MAX)

    @classmethod
    def from_descriptor(cls, descriptor: int, receives: Any) -> Self:
        """The end that this process was started with. Raises ChannelError."""
        try:
            end = socket.socket(fileno=descriptor)
        except OSError as error:
            raise ChannelError(f"descriptor {descriptor}: {error.strerror}") from error
        if (end.family, end.type & ~socket.SOCK_NONBLOCK) != (
            socket.AF_UNIX,
            socket.SOCK_SEQPACKET,
        ):
            end.detach()
            raise ChannelError(f"descriptor {descriptor} is not a socket of the expected kind")
        end.set_inheritable(False)
        return cls(end, receives)

    def fileno(self) -> int:
        """The socket's file descriptor; -1 once it is closed."""
        return self._end.fileno()

    @property
    def peer_uid(self) -> int:
        """The user of the process that made the pair, when it did."""
        size = _UCRED.size
        found = self._end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        return int(_UCRED.unpack(found)[1])

    def close(self) -> None:
        """Closes this end: the other one is told."""
        self._end.close()

    # -- blocking

    def send_now(
        self, message: Message, descriptors: Sequence[int] = (), *, within_s: float
    ) -> None:
        """Sends a message and what it carries; the descriptors stay open here."""
        data, until = _encoded(message, descriptors), self._now() + within_s
        while not self._sent(data, descriptors):
            self._wait(select.POLLOUT, until, within_s)

    def receive_now(self, *kinds: type[Message], within_s: float) -> Received:
        """Waits for the next message, which has to be of one of these classes."""
        until = self._now() + within_s
        while (received := self._received(kinds)) is None:
            self._wait(select.POLLIN, until, within_s)
        return received

    def _wait(self, events: int, until: float, within_s: float) -> None:
        poll = select.poll()
        poll.register(self._end, events)
        if not poll.poll(max(0.0, until - self._now()) * 1000):
            raise _late(within_s)

    # -- on a loop

    async def send(
        self, message: Message, descriptors: Sequence[int] = (), *, within_s: float
    ) -> None:
        """Sends a message and what it carries; the descriptors stay open here."""
        data = _encoded(message, descriptors)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(within_s):
                while not self._sent(data, descriptors):
                    await _ready(self._end, loop.add_writer, loop.remove_writer)
        except TimeoutError:
            raise _late(within_s) from None

    async def receive(self, *kinds: type[Message], within_s: float) -> Received:
        """Waits for the next message, which has to be of one of these classes."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(within_s):
                while (received := self._received(kinds)) is None:
                    await _ready(self._end, loop.add_reader, loop.remove_reader)
        except TimeoutError:
            raise _late(within_s) from None
        return received

    # -- one attempt

    def _sent(self, data: bytes, descriptors: Sequence[int]) -> bool:
        """Whether the socket took the message; False: it is full."""
        try:
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", descriptors))
            self._end.sendmsg([data], [rights] if descriptors else [], socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        except (BrokenPipeError, ConnectionError) as error:
            raise ChannelEnded("the other process has ended") from error
        except OSError as error:
            raise ChannelError(f"cannot send: {error.strerror}") from error
        return True

    def _received(self, kinds: tuple[type[Message], ...]) -> Received | None:
        """The next message; None if there is none yet."""
        try:
            data, descriptors, flags = receive(self._end, MESSAGE_BYTES_MAX, DESCRIPTORS_MAX)
        except BlockingIOError:
            return None
        except ConnectionError as error:
            raise ChannelEnded("the other process has ended") from error
        except OSError as error:
            raise ChannelError(f"cannot receive: {error.strerror}") from error
        try:
            if not data and not descriptors:
                raise ChannelEnded("the other process has ended")
            return Received(self._decoded(data, len(descriptors), flags, kinds), descriptors)
        except BaseException:
            close_all(descriptors)
            raise

    def _decoded(
        self, data: bytes, descriptors: int, flags: int, kinds: tuple[type[Message], ...]
    ) -> Message:
        if flags & socket.MSG_TRUNC:
            raise ChannelError(f"a message of more than {MESSAGE_BYTES_MAX} bytes: refused")
        if flags & socket.MSG_CTRUNC:
            raise ChannelError(f"a message with more than {DESCRIPTORS_MAX} descriptors: refused")
        try:
            message = self._decoder.decode(data)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ChannelError(f"a message that this version does not know: {error}") from error
        if not isinstance(message, kinds):
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise ChannelError(f"{type(message).__name__} in place of {wanted}: refused")
        if descriptors != len(message.carried):
            name, most = type(message).__name__, len(message.carried)
            raise ChannelError(f"{name} with {descriptors} descriptors in place of {most}: refused")
        return message


def _encoded(message: Message, descriptors: Sequence[int]) -> bytes:
    name = type(message).__name__
    if len(descriptors) != len(message.carried):
        raise ValueError(f"{name} carries {len(message.carried)} descriptors")
    data = msgspec.msgpack.encode(message)
    if len(data) > MESSAGE_BYTES_MAX:
        raise ChannelError(f"{name} of {len(data)} bytes: allowed: {MESSAGE_BYTES_MAX}")
    return data


def _late(within_s: float) -> ChannelTimeout:
    return ChannelTimeout(f"not within {within_s:g} s")


async def _ready(
    end: socket.socket, add: Callable[..., None], remove: Callable[[int], object]
) -> None:
    """Waits until the socket is ready for what `add` watches."""
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    descriptor = end.fileno()

    def on_ready() -> None:
        if not ready.done():
            ready.set_result(None)

    add(descriptor, on_ready)
    try:
        await ready
    finally:
        remove(descriptor)
