"""The audit log: one line for each command that changes something, refused ones included.

A line has who gave the command, the command with its arguments, and its outcome. All of it is
bounded and escaped, so that no user can forge a line. Must not know what a command does.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from carp_fast.config.model import as_printable
from carp_fast.control.access import user_text
from carp_fast.control.log_limit import LogLimit
from carp_fast.control.protocol import Peer

logger = logging.getLogger(__name__)

TEXT_MAX = 400  # characters of a command with its arguments, and of an outcome
PROGRAM_MAX = 100  # of an executable's path
REFUSED_A_MINUTE = 10  # lines about commands that one user may not give; the others are counted
OK, INTERRUPTED = "ok", "interrupted"  # outcomes
UNFIT = "(arguments that do not fit)"


def peer_text(peer: Peer) -> str:
    """A peer as the log names it: "root (uid 0), pid 4711 (/usr/bin/python3.11, carp-fast)".

    The executable and the process's own name are left out where they cannot be read. They are a
    hint: a process may have ended, or have renamed itself.
    """
    if not peer.pid:
        return f"{user_text(peer.uid)}, a process that cannot be seen here"
    process = Path(f"/proc/{peer.pid}")
    names = []
    with contextlib.suppress(OSError):
        names.append(_shortened(str((process / "exe").readlink()), PROGRAM_MAX))
    with contextlib.suppress(OSError):
        name = (process / "comm").read_text(errors="replace").removesuffix("\n")
        names.append(_shortened(name, PROGRAM_MAX))
    named = f" ({', '.join(names)})" if names else ""
    return f"{user_text(peer.uid)}, pid {peer.pid}{named}"


def request_text(command: str, request: object | None) -> str:
    """A command and its arguments, without those that have their defaults; None: they are wrong."""
    if request is None:
        return f"{command} {UNFIT}"
    arguments: dict[str, Any] = msgspec.to_builtins(request)
    words = [command]
    for name, value in arguments.items():
        if name != "command":
            cut = value[:TEXT_MAX] if isinstance(value, str) else value
            words.append(f"{name}={json.dumps(cut, ensure_ascii=False)}")
    return _shortened(" ".join(words), TEXT_MAX)


def log_change(who: str, what: str, outcome: str) -> None:
    """Logs a change, or that it failed, of somebody who may make it."""
    logger.info("audit: %s: %s: %s", who, what, _shortened(outcome, TEXT_MAX))


class Audit:
    """The audit log of a control socket; `clock`: a monotonic one, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._limit = LogLimit(REFUSED_A_MINUTE)

    def refused(self, peer: Peer, what: str, why: str) -> None:
        """Logs a command that a user may not give; at most REFUSED_A_MINUTE of each user."""
        left_out = self._limit.admit(peer.uid, self._clock())
        if left_out is not None:
            outcome = _shortened(why, TEXT_MAX)
            logger.warning("audit: %s: %s: refused: %s%s", peer_text(peer), what, outcome, left_out)


def _shortened(text: str, most: int) -> str:
    shown = as_printable(text[: most + 1])
    return shown if len(shown) <= most else f"{shown[: most - 3]}..."
