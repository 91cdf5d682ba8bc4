"""Starts the helper's process, before anything else of the daemon is imported.

Must not know what the helper does. Imports nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from carp_fast.errors import CarpFastError

WORD = "privileged"  # of the command line, see carp_fast/__main__.py
HELPER, LOADER = "helper", "loader"


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


def start(table: bytes | None = None) -> Started:
    """Starts a helper. `table`: the programs, for a daemon whose configuration is no file.

    Raises HelperError.
    """
    from carp_fast.privileged.messages import pair
    from carp_fast.programs.memory import created

    with contextlib.ExitStack() as opened:
        try:
            ours, theirs = pair()
            opened.push(ours)
            with theirs, contextlib.ExitStack() as given_away:
                given = [theirs.fileno()]
                if table is not None:
                    given.append(created("table"))
                    given_away.callback(os.close, given[1])
                    with open(given[1], "wb", closefd=False) as file:
                        file.write(table)
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
            _begun = start()


def take() -> Started | None:
    """The helper that begin() started, or a new one; None if there is to be none.

    Raises HelperError.
    """
    global _begun
    started, _begun = _begun, None
    return started or (start() if wanted() else None)


def wanted() -> bool:
    """Whether this process is to have a helper: one that is not root has nothing to keep apart."""
    return os.geteuid() == 0
