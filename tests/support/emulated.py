"""A terminal for tests: a program runs on a pty, and what it paints becomes lines of text."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence

DEADLINE_S = 30.0
TOKEN = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|([^\x1b])", re.DOTALL)


class Emulated:
    """Knows the sequences that fullscreen.py writes, and raises ValueError for others."""

    def __init__(self, columns: int, lines: int) -> None:
        self.resize(columns, lines)
        self.alternate = False
        self._rest = ""

    def resize(self, columns: int, lines: int) -> None:
        self.columns = columns
        self.rows = [" " * columns for _ in range(lines)]
        self.row = self.column = 0

    @property
    def text(self) -> list[str]:
        """The lines, without spaces at their ends."""
        return [row.rstrip() for row in self.rows]

    def feed(self, text: str) -> None:
        data, self._rest = self._rest + text, ""
        at = 0
        while at < len(data):
            match = TOKEN.match(data, at)
            if match is None:  # the beginning of a sequence
                if len(data) - at > 20:
                    raise ValueError(f"not known: {data[at : at + 20]!r}")
                self._rest = data[at:]
                return
            at = match.end()
            if match[3] is not None:
                self._put(match[3])
            else:
                self._obey(match[1], match[2])

    def _put(self, char: str) -> None:
        if char == "\r":
            self.column = 0
        elif char == "\n":
            self.row += 1
        elif self.column < self.columns and self.row < len(self.rows):
            row = self.rows[self.row]
            self.rows[self.row] = row[: self.column] + char + row[self.column + 1 :]
            self.column += 1

    def _obey(self, given: str, final: str) -> None:
        if final == "H":
            row, _, column = given.partition(";")
            self.row, self.column = int(row) - 1, int(column) - 1
        elif final == "K":
            row = self.rows[self.row] if self.row < len(self.rows) else ""
            if row:
                self.rows[self.row] = row[: self.column].ljust(self.columns)
        elif final == "J":
            self.rows = [" " * self.columns for _ in self.rows]
        elif final in "hl" and given == "?1049":
            self.alternate = final == "h"
        elif final not in "mhl":
            raise ValueError(f"not known: {given!r} {final!r}")


class OnTerminal:
    """A program on a terminal of its own. A context manager, which ends it."""

    def __init__(
        self,
        argv: Sequence[str],
        environment: Mapping[str, str],
        columns: int = 80,
        lines: int = 24,
    ) -> None:
        self._leader, self.follower = pty.openpty()
        self.screen = Emulated(columns, lines)
        self._set_size()
        self.before = termios.tcgetattr(self.follower)
        self.process = subprocess.Popen(
            argv,
            env={**environment, "TERM": "xterm-256color"},
            stdin=self.follower,
            stdout=self.follower,
            stderr=self.follower,
            start_new_session=True,
        )

    def __enter__(self) -> OnTerminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(DEADLINE_S)
        os.close(self._leader)
        os.close(self.follower)

    def resize(self, columns: int, lines: int) -> None:
        """Gives the terminal another size, and tells the program."""
        self.screen.resize(columns, lines)
        self._set_size()
        self.process.send_signal(signal.SIGWINCH)

    def _set_size(self) -> None:
        size = struct.pack("HHHH", len(self.screen.rows), self.screen.columns, 0, 0)
        fcntl.ioctl(self.follower, termios.TIOCSWINSZ, size)

    def type(self, keys: str) -> None:
        """Types these keys."""
        os.write(self._leader, keys.encode())

    def until(self, wanted: Callable[[list[str]], object]) -> list[str]:
        """The lines as soon as they are wanted. Raises TimeoutError."""
        deadline_at = time.monotonic() + DEADLINE_S
        while not wanted(self.screen.text):
            if not self._read(deadline_at - time.monotonic()):
                shown = "\n".join(self.screen.text)
                raise TimeoutError(f"not shown within {DEADLINE_S:g} s:\n{shown}")
        return self.screen.text

    def until_shown(self, text: str) -> list[str]:
        """The lines as soon as this text is among them. Raises TimeoutError."""
        return self.until(lambda lines: text in "\n".join(lines))

    def ends(self) -> int:
        """The exit code, when everything is read. Raises TimeoutExpired."""
        code = self.process.wait(DEADLINE_S)
        while self._read(0.0):
            pass
        return code

    def _read(self, within_s: float) -> bool:
        """Takes some of what the program has written; whether it did so in this time."""
        readable, _, _ = select.select([self._leader], [], [], max(within_s, 0.0))
        if readable:
            self.screen.feed(os.read(self._leader, 65_536).decode(errors="replace"))
        return bool(readable)
