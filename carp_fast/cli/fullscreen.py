"""A terminal that is taken as a whole: painted line by line, read key by key, restored at the end.

Plain escape sequences that every terminal emulator of today, and Linux's console, knows. Must not
know what is painted, nor what a key does.
"""

from __future__ import annotations

import contextlib
import os
import re
import termios
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from carp_fast.closing import Closing

# In a screen of its own, without a cursor and without continuing long lines on the next one.
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J", "\x1b[?7h\x1b[?25h\x1b[?1049l"
CLEAR, RESET = "\x1b[2J", "\x1b[0m"
KEYS = {
    **{"\x1b[A": "up", "\x1b[B": "down", "\x1b[C": "right", "\x1b[D": "left"},
    **{"\x1bOA": "up", "\x1bOB": "down", "\x1bOC": "right", "\x1bOD": "left"},
    **{"\x1b[5~": "pageup", "\x1b[6~": "pagedown", "\x1b[Z": "backtab"},
    **{"\x1b[H": "home", "\x1bOH": "home", "\x1b[1~": "home", "\x1b[7~": "home"},
    **{"\x1b[F": "end", "\x1bOF": "end", "\x1b[4~": "end", "\x1b[8~": "end"},
    **{"\t": "tab", "\r": "enter", "\n": "enter", "\x7f": "backspace", "\b": "backspace"},
}
# A whole escape sequence, one that is not complete, or one character.
TOKEN = re.compile(
    r"(?P<whole>\x1b\[[0-?]*[ -/]*[@-~]|\x1bO.)|(?P<begun>\x1b(?:\[[0-?]*[ -/]*|O)?$)|(?P<one>.)",
    re.DOTALL,
)
LOCAL, CHARACTERS = 3, 6  # places in what termios.tcgetattr() returns


class Keys:
    """Bytes of a terminal to the names of keys: characters that can be printed, and words.

    A sequence may come in pieces; flush() is called when nothing has come for a moment.
    """

    def __init__(self) -> None:
        self._begun = b""

    @property
    def begun(self) -> bool:
        """Whether a sequence has begun that is not complete."""
        return bool(self._begun)

    def feed(self, data: bytes) -> list[str]:
        """The keys that are complete."""
        found, self._begun = [], self._begun + data
        # Characters of several bytes come as a whole, or are dropped.
        text = self._begun.decode(errors="ignore")
        self._begun = b""
        for match in TOKEN.finditer(text):
            if match["begun"]:
                self._begun = match["begun"].encode()
            elif match[0] in KEYS:
                found.append(KEYS[match[0]])
            elif match["one"] and match[0].isprintable():
                found.append(match[0])
        return found

    def flush(self) -> list[str]:
        """The key escape, if that is all that has come of a sequence."""
        begun, self._begun = self._begun, b""
        return ["escape"] if begun == b"\x1b" else []


class FullScreen(Closing):
    """The terminal of these descriptors, for as long as it is open.

    `keyboard`: None, or not a terminal: there are no keys. `styles`: by name, the attributes of a
    style, such as "1;32"; `encoding`: what characters the terminal has. Raises OSError.
    """

    def __init__(
        self,
        output: int,
        keyboard: int | None,
        styles: Mapping[str, str],
        encoding: str = "utf-8",
    ) -> None:
        self._output = output
        self.keyboard = keyboard if keyboard is not None and os.isatty(keyboard) else None
        self._styles = styles
        self._encoding = encoding
        self._before: list[Any] | None = None
        self._painted: list[str] = []
        self.enter()

    def enter(self) -> None:
        """Takes the terminal, as at the beginning, or after leave()."""
        if self.keyboard is not None:
            self._before = termios.tcgetattr(self.keyboard)
            now = termios.tcgetattr(self.keyboard)
            now[LOCAL] &= ~(termios.ICANON | termios.ECHO)
            now[CHARACTERS][termios.VMIN], now[CHARACTERS][termios.VTIME] = 1, 0
            termios.tcsetattr(self.keyboard, termios.TCSADRAIN, now)
        self._write(ENTER)
        self._painted = []

    def leave(self) -> None:
        """Gives the terminal back as it was."""
        with contextlib.suppress(OSError):  # it may be gone
            self._write(LEAVE)
        if self.keyboard is not None and self._before is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self.keyboard, termios.TCSADRAIN, self._before)

    def close(self) -> None:
        """Gives the terminal back."""
        self.leave()

    def size(self) -> tuple[int, int]:
        """Its columns and lines now; 80 and 24 where it does not know."""
        try:
            found = os.get_terminal_size(self._output)
        except OSError:
            return 80, 24
        return found.columns or 80, found.lines or 24

    def clear(self) -> None:
        """Forgets what is painted: a terminal that changed its size may have moved it."""
        self._write(CLEAR)
        self._painted = []

    def paint(self, lines: Sequence[Iterable[tuple[str, str]]]) -> None:
        """Paints lines of (text, style) from the top, those that differ. Raises OSError."""
        every = ["".join(self._styled(*span) for span in line) for line in lines]
        changed = [
            f"\x1b[{number};1H{line}{RESET}\x1b[K"
            for number, line in enumerate(every, 1)
            if number > len(self._painted) or self._painted[number - 1] != line
        ]
        if changed:
            self._write("".join(changed))
        self._painted = every

    def read(self) -> bytes:
        """What was typed, when the keyboard is readable; empty at its end."""
        assert self.keyboard is not None
        try:
            return os.read(self.keyboard, 1024)
        except OSError:
            return b""

    def _styled(self, text: str, style: str) -> str:
        attributes = self._styles.get(style, "")
        return f"{RESET}\x1b[{attributes}m{text}" if attributes else f"{RESET}{text}"

    def _write(self, text: str) -> None:
        data = memoryview(text.encode(self._encoding, errors="replace"))
        while data:
            data = data[os.write(self._output, data) :]
