"""What the daemon and its privileged helper say to each other, over a SOCK_SEQPACKET socket.

One message is one packet of msgpack, with descriptors beside it where a message says so. A packet
that is not one of these messages, is longer than MESSAGE_BYTES or has another number of descriptors
is refused with MessageError, after which its receiver closes the socket: nothing is guessed.
Must not know what is done with a message.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable
from typing import Annotated, TypeVar

import msgspec

from carp_fast.errors import CarpFastError
from carp_fast.programs import packets
from carp_fast.programs.packets import close_all

MESSAGE_BYTES = 196_608  # the longest variable that Linux gives a program has 131,072
BUFFER_BYTES = 1_048_576  # of the sockets: some messages of that length
DESCRIPTORS_MAX = 2
VARIABLES_MAX = 64  # of a program's environment
SEQUENCE_MAX = 2**53

Number = Annotated[int, msgspec.Meta(ge=0, le=SEQUENCE_MAX)]
Name = Annotated[str, msgspec.Meta(pattern=r"^CARP_[A-Z0-9_]{1,32}\Z")]
Text = Annotated[str, msgspec.Meta(pattern=r"^[^\x00]*\Z")]
Variables = Annotated[dict[Name, Text], msgspec.Meta(max_length=VARIABLES_MAX)]

Message = TypeVar("Message")


class MessageError(CarpFastError):
    """Raised when a packet is not a message, or a message is too long to be sent."""


class _Request(msgspec.Struct, frozen=True, tag=True, array_like=True, forbid_unknown_fields=True):
    """What the daemon asks; the helper can be taught more by another subclass in Request."""


class _Reply(msgspec.Struct, frozen=True, tag=True, array_like=True, forbid_unknown_fields=True):
    """What the helper answers or reports."""


class Beginning(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a helper is started with, in memory of the daemon that is root as yet.

    `table`: the programs of a daemon whose configuration is no file; `again`: the command line of
    the daemon, for its successors, empty if it has none.
    """

    table: bytes | None
    again: tuple[bytes, ...]


class Load(_Request, frozen=True):
    """Has the configuration read; Loaded or NotLoaded of the same number follows.

    `path`: the main file; only the first one is taken, all later ones have to be None. A request
    ends the one before it, which then has no answer.
    """

    number: Number
    path: bytes | None = None


class StopLoading(_Request, frozen=True):
    """Ends what Load began; there is no answer."""


class Applied(_Request, frozen=True):
    """The daemon now runs the configuration of the Load of this number; there is no answer.

    Programs of the one before it can still be started.
    """

    number: Number


class Start(_Request, frozen=True):
    """Starts the program `program` of the table that was found by the Load of number `table`.

    `handle`: a new number, by which it is known from now on. `place`: interface and address, which
    have to be configured for this program; None for one that is no hook. Descriptors, but for a
    program that inherits: the writing end of a pipe for its output; if `stdin`, the reading end of
    one for its input. Failed or Exited follows.
    """

    handle: Number
    table: Number
    program: Number
    place: tuple[Text, Text] | None
    variables: Variables
    stdin: bool = False
    leaves_nothing: bool = False


class Kill(_Request, frozen=True):
    """Sends a signal to a program; `rest`: SIGKILL to its group once the program itself has ended.

    Does nothing if it has ended.
    """

    handle: Number
    signal: Annotated[int, msgspec.Meta(ge=1, le=64)]
    rest: bool = False


class Succeed(_Request, frozen=True):
    """Starts a successor of the daemon: its own command line again, as root, which the helper knows
    from its own start.

    `handle`: as in Start. The descriptor is the successor's end of its channel. Failed follows, or
    Begun and later Exited. The successor is left alone when this daemon ends.
    """

    handle: Number


class Loaded(_Reply, frozen=True):
    """The outcome of a Load, an Outcome in the sealed memfd that comes with it."""

    number: Number


class NotLoaded(_Reply, frozen=True):
    """The loader ended without an outcome, or gave one that cannot be used."""

    number: Number
    text: str


class Failed(_Reply, frozen=True):
    """A program or successor could not be started; `text` and `reason` as those of ChildError."""

    handle: Number
    text: str
    reason: str


class Begun(_Reply, frozen=True):
    """A successor runs; a descriptor of its process (pidfd) comes with this."""

    handle: Number
    pid: Annotated[int, msgspec.Meta(ge=1)]


class Exited(_Reply, frozen=True):
    """A program has ended, or a successor; `status` is that of subprocess."""

    handle: Number
    status: int


Request = Load | StopLoading | Applied | Start | Kill | Succeed
Reply = Loaded | NotLoaded | Failed | Begun | Exited

REQUESTS = msgspec.msgpack.Decoder(Request)
REPLIES = msgspec.msgpack.Decoder(Reply)


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets for messages. Raises OSError."""
    ends = packets.pair()
    for end in ends:
        _make_room(end)
    return ends


def _make_room(end: socket.socket) -> None:
    force = getattr(socket, "SO_SNDBUFFORCE", 32)  # whatever net.core.wmem_max is
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        end.setsockopt(socket.SOL_SOCKET, force, BUFFER_BYTES)


def packed(message: object) -> bytes:
    """A message as a packet. Raises MessageError if it is too long."""
    try:
        packet = msgspec.msgpack.encode(message)
    except ValueError as error:  # text that is not UTF-8
        raise MessageError(f"a message that cannot be encoded: {error}") from None
    if len(packet) > MESSAGE_BYTES:
        raise MessageError(f"{len(packet):,} bytes of {MESSAGE_BYTES:,} (MESSAGE_BYTES)")
    return packet


def send(end: socket.socket, packet: bytes, descriptors: Iterable[int] = ()) -> None:
    """Sends a packet with descriptors. Raises OSError."""
    given = list(descriptors)
    if given:
        socket.send_fds(end, [packet], given)
    else:
        end.send(packet)


def receive(
    end: socket.socket, decoder: msgspec.msgpack.Decoder[Message]
) -> tuple[Message, list[int]] | None:
    """The next message and its descriptors, which the caller has to close; None at the end.

    Raises MessageError for anything else, and OSError, BlockingIOError where nothing waits.
    """
    packet, found, flags = packets.receive(end, MESSAGE_BYTES + 1, DESCRIPTORS_MAX)
    descriptors = list(found)
    if not packet and not descriptors:
        return None
    try:
        if len(packet) > MESSAGE_BYTES or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise MessageError("a packet that is too long or has too many descriptors")
        return decoder.decode(packet), descriptors
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        close_all(descriptors)
        raise MessageError(f"not a message: {error}") from None
    except MessageError:
        close_all(descriptors)
        raise
