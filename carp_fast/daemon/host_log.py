"""Log lines about virtual hosts: one each while they are few, one per interface when they are many.

Tens of thousands of virtual hosts may change in the same second, and a journal discards lines of a
service that logs too many, important ones included. Must not know what a line means.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

logger = logging.getLogger(__name__)

LINES_A_SECOND = 20  # of one level; further lines are logged at level debug, and in a summary
SUMMARIES_A_SECOND = 1000  # of one level; further interfaces share one, with all their numbers
KINDS_MAX = 10  # of lines that a summary distinguishes
NAMED_MAX = 3  # so few virtual hosts are named in a summary, more are counted
PERIOD_S = 1.0
NO_FIELDS: Mapping[str, str] = MappingProxyType({})


class _Kind:
    """The lines of one kind in a summary: their number, and the first virtual hosts."""

    def __init__(self) -> None:
        self.count = 0
        self.vhids: list[str] = []

    def add(self, count: int, vhids: list[str]) -> None:
        self.count += count
        self.vhids += vhids[: NAMED_MAX - len(self.vhids)]


class HostLog:
    """Logs lines about virtual hosts, at most LINES_A_SECOND of each level one by one.

    The others of that second are logged at level debug and counted by interface and kind; when the
    second ends, each interface has a line with the numbers. `call_later` is that of the loop.
    """

    def __init__(self, call_later: Callable[[float, Callable[[], None]], object]) -> None:
        self._call_later = call_later
        self._waiting = False  # for the end of a second
        self._logged: dict[int, int] = {}  # by level
        self._more: dict[int, dict[str, dict[str, _Kind]]] = {}  # by level, interface and kind

    def log(
        self,
        level: int,
        name: str,
        text: str,
        kind: str = "",
        *,
        error: BaseException | None = None,
        fields: Mapping[str, str] = NO_FIELDS,
    ) -> None:
        """Logs that `text` is the case for the virtual host `name` ("eth0/7").

        `kind`: what a summary has in place of `text`, for texts that differ in details; `error`:
        its traceback follows the line. `fields`: what the formats with fields have besides the
        interface and the vhid.
        """
        if not logger.isEnabledFor(level):
            return
        if not self._waiting:
            self._waiting = True
            self._call_later(PERIOD_S, self._on_period)
        interface, _, vhid = name.rpartition("/")
        # For the formats with fields, see systemd.JsonFormatter and journal.JournalHandler.
        number = {"vhid": int(vhid)} if vhid.isdecimal() else {}
        extra = {"carp": {"interface": interface, **number, **fields}}
        logged = self._logged.get(level, 0)
        if logged < LINES_A_SECOND:
            self._logged[level] = logged + 1
            logger.log(level, "%s: %s", name, text, exc_info=error, extra=extra)
            return
        logger.debug("%s: %s", name, text, exc_info=error, extra=extra)
        kinds = self._more.setdefault(level, {}).setdefault(interface, {})
        kinds.setdefault(kind or text, _Kind()).add(1, [vhid])

    def _on_period(self) -> None:
        self._waiting = False
        self.flush()

    def flush(self) -> None:
        """Logs the summaries of what was not logged one by one since the last ones."""
        self._logged.clear()
        more, self._more = self._more, {}
        for level, interfaces in more.items():
            count = sum(kind.count for kinds in interfaces.values() for kind in kinds.values())
            logger.log(
                level,
                "%d lines about virtual hosts beyond LINES_A_SECOND (%d), in summary:",
                count,
                LINES_A_SECOND,
            )
            for line in _summaries(interfaces):
                logger.log(level, "%s", line)


def _summaries(interfaces: dict[str, dict[str, _Kind]]) -> Iterator[str]:
    """A line for each interface, and one for those beyond SUMMARIES_A_SECOND."""
    names = list(interfaces)
    for name in names[:SUMMARIES_A_SECOND]:
        yield f"{name}: {_listed(interfaces[name])}"
    others = names[SUMMARIES_A_SECOND:]
    if others:
        together: dict[str, _Kind] = {}
        for name in others:
            for text, kind in interfaces[name].items():
                vhids = [f"{name}/{vhid}" for vhid in kind.vhids]
                together.setdefault(text, _Kind()).add(kind.count, vhids)
        yield f"{len(others)} more interfaces: {_listed(together)}"


def _listed(kinds: dict[str, _Kind]) -> str:
    """ "254 BACKUP -> MASTER (master_down); 1 MASTER -> INIT (resigned): 7"."""
    ordered = sorted(kinds.items(), key=lambda each: -each[1].count)
    texts = [
        f"{kind.count} {text}"
        + (f": {', '.join(kind.vhids)}" if kind.count == len(kind.vhids) else "")
        for text, kind in ordered[:KINDS_MAX]
    ]
    rest = sum(kind.count for _, kind in ordered[KINDS_MAX:])
    if rest:
        texts.append(f"{rest} of {len(ordered) - KINDS_MAX} other kinds")
    return "; ".join(texts)
