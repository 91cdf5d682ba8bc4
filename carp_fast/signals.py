"""Signals of a daemon before it has a loop: remembered if they arrive, none inherited as ignored.

A daemon that is still importing, or reading its configuration, has no loop yet, and most signals
end such a process. Must not import anything else of carp-fast.
"""

from __future__ import annotations

import signal
from types import FrameType

_came: list[int] = []
# Python ignores the first two and resets them for programs. The others are of a terminal, which
# programs in sessions of their own do not have, and with a handler writing to it would fail.
_STAY_IGNORED = {
    *(signal.SIGPIPE, signal.SIGXFSZ),
    *(signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),
}


def remember(*numbers: signal.Signals) -> None:
    """Remembers these signals from now on, until something else handles them."""
    for number in numbers:
        signal.signal(number, _note)


def inherit_nothing() -> None:
    """Makes no signal blocked or ignored that the process was started with blocked or ignored.

    Programs that it starts inherit both. A signal that was ignored still does nothing here, since
    it gets a handler that does nothing; programs start with the default in place of a handler.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, no program could be waited for
    for number in signal.valid_signals() - _STAY_IGNORED:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, _do_nothing)


def take_remembered() -> list[int]:
    """Returns the remembered signals, each once, in the order of their first arrival."""
    taken = list(dict.fromkeys(_came))
    _came.clear()
    return taken


def _note(number: int, frame: FrameType | None) -> None:
    _came.append(number)


def _do_nothing(number: int, frame: FrameType | None) -> None:
    pass
