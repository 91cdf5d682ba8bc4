"""Tracks by TCP: hosts that accept connections at a port. Nothing is sent over them.

Must not know what becomes of a result.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable

from carp_fast.config.tracks import TcpTrack, Track
from carp_fast.tracking.judging import Result
from carp_fast.tracking.rounds import Rounds

Take = Callable[[Result], None]


class Connections:
    """Connects to the hosts of tracks. All methods must be called on the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._attempts: set[_Attempt] = set()

    def watch(self, track: Track, take: Take) -> Callable[[], None]:
        """Connects to a track's host in rounds; `take` gets each result. Returns what ends that."""
        assert isinstance(track, TcpTrack)
        current: _Attempt | None = None

        def begin(end: Callable[[], None]) -> None:
            nonlocal current

            def done(attempt: _Attempt, result: Result) -> None:
                self._attempts.discard(attempt)
                take(result)
                end()

            current = _Attempt(self._loop, track, done)
            self._attempts.add(current)

        rounds = Rounds(self._loop, track.interval_s, begin)

        def stop() -> None:
            rounds.stop()
            if current is not None:
                current.abandon()
                self._attempts.discard(current)

        return stop

    def close(self) -> None:
        """Gives up every attempt."""
        for attempt in self._attempts:
            attempt.abandon()
        self._attempts.clear()


class _Attempt:
    """One attempt to connect; `done` is called once, not within the constructor."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        track: TcpTrack,
        done: Callable[[_Attempt, Result], None],
    ) -> None:
        self._loop = loop
        self._track = track
        self._done = done
        self._name = f"[{track.target}]" if ":" in track.target else track.target
        self._name += f":{track.port}"
        self._began_at = loop.time()
        self._socket: socket.socket | None = None
        self._timer: asyncio.Handle
        try:
            code = self._begin()
        except OSError as error:
            self._timer = loop.call_soon(self._end, error.strerror or str(error))
            return
        assert self._socket is not None
        if code not in (0, errno.EINPROGRESS):
            self._timer = loop.call_soon(self._end, os.strerror(code))
            return
        loop.add_writer(self._socket.fileno(), self._on_writable)
        self._timer = loop.call_later(track.timeout_s, self._on_timeout)

    def abandon(self) -> None:
        """Gives it up; `done` is not called."""
        self._timer.cancel()
        if self._socket is not None:
            self._loop.remove_writer(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _begin(self) -> int:
        """Begins to connect; returns an errno, EINPROGRESS as a rule. Raises OSError."""
        track = self._track
        six = ":" in track.target
        family = socket.AF_INET6 if six else socket.AF_INET
        kind = socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(family, kind)
        scope = 0
        if track.interface is not None:
            name = track.interface.encode() + b"\0"
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name)
            scope = socket.if_nametoindex(track.interface)
        if track.source is not None:
            local = scope if track.source.startswith("fe80:") else 0
            self._socket.bind((track.source, 0, 0, local) if six else (track.source, 0))
        local = scope if track.target.startswith("fe80:") else 0
        target = (track.target, track.port, 0, local) if six else (track.target, track.port)
        return self._socket.connect_ex(target)

    def _code(self) -> int | None:
        """The errno of the attempt, 0 once it is connected; None as long as it lasts."""
        assert self._socket is not None
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            return code
        try:
            self._socket.getpeername()
        except OSError:
            return None
        return 0

    def _on_writable(self) -> None:
        code = self._code()
        if code is not None:
            self._end(os.strerror(code) if code else None)

    def _on_timeout(self) -> None:
        # It may have been connected in time, with the loop too busy to notice.
        code = self._code()
        if code is None:
            self._end(f"no connection within {self._track.timeout_s:g} s")
        else:
            self._end(os.strerror(code) if code else None)

    def _end(self, why: str | None) -> None:
        self.abandon()
        took_s = self._loop.time() - self._began_at
        text = f"connected in {took_s * 1e3:.1f} ms" if why is None else why
        self._done(self, Result(why is None, f"{self._name}: {text}", took_s=took_s))
