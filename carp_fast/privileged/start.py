"""Starts the helper's process, before anything else of the daemon is imported.

Must not know what the helper does. Imports nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from carp_fast.errors import CarpFastError

WORD = "privileged"  # of the command line, see carp_fast/__main__.py
HELPER, LOADER = "helper", "loader"

CHANNEL_VARIABLE = "CARP_FAST_SUCCEEDS"
"""The environment variable by which a successor knows the descriptor of its channel."""
AS_USER_VARIABLE = "CARP_FAST_SUCCEEDS_AS_USER"
"""Another one that a successor has whom the helper started: the daemon before it is not root."""


class HelperError(CarpFastError):
    """Raised when the privileged helper cannot be started or used; one line says why."""


class Started(NamedTuple):
    """A helper's process and our end of its socket."""

    process: subprocess.Popen[bytes]
    end: socket.socket


_begun: Started | None = None


def command(which: str) -> list[str]:
    """The command line of the helper or of a loader, without what follows."""
    main = Path(__file__).absolute().parent.parent / "__main__.py"
    return [sys.executable, "-P", str(main), WORD, which]


def command_line() -> list[str]:
    """The command line that starts this program again."""
    return [sys.executable or sys.orig_argv[0], *sys.orig_argv[1:]]


def start(table: bytes | None = None, again: Sequence[str] = ()) -> Started:
    """Starts a helper; see Beginning for `table` and `again`. Raises HelperError."""
    import msgspec

    from carp_fast.privileged.messages import Beginning, pair
    from carp_fast.programs.memory import sealed

    beginning = Beginning(table, tuple(map(os.fsencode, again)))
    with contextlib.ExitStack() as opened:
        try:
            ours, theirs = pair()
            opened.push(ours)
            with theirs, contextlib.ExitStack() as given_away:
                memory = sealed("beginning", [msgspec.msgpack.encode(beginning)])
                given_away.callback(os.close, memory)
                given = (theirs.fileno(), memory)
                words = [*command(HELPER), *map(str, given)]
                process = subprocess.Popen(words, pass_fds=given)
        except OSError as error:
            text = f"cannot start the privileged helper: {error.strerror}"
            raise HelperError(text) from error
        opened.pop_all()
        return Started(process, ours)


def begin() -> None:
    """Starts a helper that take() gives to the daemon: it and its loader begin meanwhile.

    Does nothing if take() will give none; a failure is left to take().
    """
    global _begun
    if wanted():
        with contextlib.suppress(HelperError):
            _begun = start(again=command_line())


def take() -> Started | None:
    """The helper that begin() started, or a new one; None if there is to be none.

    Raises HelperError.
    """
    global _begun
    started, _begun = _begun, None
    return started or (start(again=command_line()) if wanted() else None)


def wanted() -> bool:
    """Whether this process is to have a helper: one that is not root has nothing to keep apart."""
    return os.geteuid() == 0
