"""A privileged helper as a test talks to it: its own process, its requests one by one."""

from __future__ import annotations

import os
import select
from collections.abc import Sequence
from pathlib import Path

from carp_fast.closing import Closing
from carp_fast.privileged import messages, start
from carp_fast.privileged.messages import REPLIES, Load, Loaded, Reply, Request, Start
from carp_fast.programs.packets import close_all

DEADLINE_S = 60.0


class Asked(Closing):
    """A helper that was started for this test; `path`: the configuration, loaded as number 1.

    `again`: the command line of the daemon that it serves.
    """

    def __init__(
        self,
        path: Path | None = None,
        table: bytes | None = None,
        again: Sequence[str] = (),
    ) -> None:
        self.process, self.end = start.start(table, again)
        self._handles = 0
        if path is not None:
            self.ask(Load(1, os.fsencode(path)))
            self.outcome = self.loaded(1)

    def ask(self, request: Request, *descriptors: int) -> None:
        messages.send(self.end, messages.packed(request), descriptors)

    def reply(self) -> tuple[Reply, list[int]] | None:
        """What comes next; None: it has closed the socket."""
        poll = select.poll()
        poll.register(self.end, select.POLLIN)
        assert poll.poll(DEADLINE_S * 1000), "no reply"
        try:
            return messages.receive(self.end, REPLIES)
        except ConnectionResetError:  # it closed with requests unread
            return None

    def only(self) -> Reply:
        """What comes next, without descriptors."""
        received = self.reply()
        assert received is not None
        reply, descriptors = received
        assert descriptors == []
        return reply

    def loaded(self, number: int) -> bytes:
        """The outcome of a Load."""
        received = self.reply()
        assert received is not None
        reply, (descriptor,) = received
        assert reply == Loaded(number)
        found = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        close_all([descriptor])
        return found

    def start(
        self,
        program: int,
        place: tuple[str, str] | None = None,
        *,
        table: int = 1,
        leaves_nothing: bool = False,
        variables: dict[str, str] | None = None,
    ) -> tuple[int, int]:
        """Starts a program with a pipe for its output; returns its handle and our end."""
        self._handles += 1
        ours, theirs = os.pipe()
        request = Start(
            self._handles, table, program, place, variables or {}, leaves_nothing=leaves_nothing
        )
        self.ask(request, theirs)
        os.close(theirs)
        return self._handles, ours

    def assert_ended(self) -> None:
        """It has closed the socket, and ends."""
        assert self.reply() is None
        assert self.process.wait(DEADLINE_S) == 0

    def close(self) -> None:
        self.end.close()
        if self.process.poll() is None:
            self.process.wait(DEADLINE_S)


def output(descriptor: int) -> bytes:
    """All that comes through a pipe until its end, which is closed."""
    with open(descriptor, "rb") as file:
        return file.read()
