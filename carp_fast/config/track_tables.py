"""Reads the [[track]] tables, and checks them against the virtual hosts that name them.

Must not know files, nor how anything is tracked.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from carp_fast.config.documents import SECRET_WORDS, Findings, Table
from carp_fast.config.model import Settings, as_key, as_shown, nearest_to
from carp_fast.config.rules import KIND_RULES, TABLE_KEYS, TRACK_RULES, Rule
from carp_fast.config.tracks import KINDS, TRACKS_MAX, Reachable, ScriptTrack, Track
from carp_fast.config.writers import Exposure, Writers

MOST, OPENBSD_MOST = 240, 255  # of the advskew, of OpenBSD's demote byte
REQUIRED = {
    "interface": ("interface",),
    "process": (),
    "file": ("path",),
    "script": ("script",),
    "ping": ("target",),
    "tcp": ("target", "port"),
}
# Every key of a track of any kind.
EVERY_KEY = dict.fromkeys((*TRACK_RULES, *(key for keys in KIND_RULES.values() for key in keys)))


class Parsed(Protocol):
    """What a parser returns: typed values by key, and the keys that were reported as faults."""

    @property
    def values(self) -> dict[str, Any]: ...

    @property
    def bad(self) -> set[str]: ...


Parse = Callable[[Table, dict[str, Rule], Sequence[str]], Parsed]


class TrackTables:
    """The tracks of one configuration. `found`: those without a fault, by name; `used`: those of
    them that virtual hosts name, in the same order.

    `parse`: reads the keys of a table by rules, and reports faults.
    """

    def __init__(self, findings: Findings, parse: Parse, writers: Writers) -> None:
        self.found: dict[str, Track] = {}
        self._findings = findings
        self._parse = parse
        self._writers = writers
        self._tables: dict[str, Table] = {}  # by name, those with faults included
        self._named: list[tuple[Table, tuple[str, ...]]] = []
        self._used: dict[str, bool] = {}  # by name: whether openbsd is the dialect of all its hosts
        self._excess = False

    def read(self, table: Table) -> None:
        """Reads one table."""
        kind = table.raw.get("kind")
        rules = KIND_RULES.get(kind, {}) if isinstance(kind, str) else {}
        known = {**TRACK_RULES, **rules}
        for key, value in table.raw.items():
            if key not in known:
                self._refuse_key(table, key, value, known if rules else EVERY_KEY, kind)
        raw = {key: value for key, value in table.raw.items() if key in known}
        parsed = self._parse(table._replace(raw=raw), known, ())
        values, bad = parsed.values, parsed.bad
        missing = self._miss(table, ("name", "kind", *REQUIRED.get(str(kind), ())))
        name = values.get("name")
        if name in self._tables:
            text = f"exists in {self._tables[name].origin}; allowed: a name for each track"
            self._fault(table, "name", text)
            return
        if name is not None:
            self._take(table, name)
        whole = not missing and not bad and raw.keys() == table.raw.keys()
        if name is None or "kind" not in values or not whole:
            return
        track = KINDS[values.pop("kind")](**values)
        if self._is_sound(table, track):
            self.found[name] = track

    def _take(self, table: Table, name: str) -> None:
        self._tables[name] = table
        if len(self._tables) > TRACKS_MAX and not self._excess:
            self._excess = True
            text = f"is one more than the tracks allowed: {TRACKS_MAX:,} (TRACKS_MAX)"
            self._fault(table, "name", text)

    def name(self, table: Table, names: tuple[str, ...]) -> None:
        """Notes that a table of virtual hosts, or [defaults], names these."""
        self._named.append((table, names))

    def use(self, settings: Settings) -> None:
        """Notes that virtual hosts have these settings."""
        openbsd = settings.dialect == "openbsd"
        for name in settings.track:
            self._used[name] = openbsd and self._used.get(name, True)

    @property
    def used(self) -> tuple[Track, ...]:
        return tuple(track for name, track in self.found.items() if name in self._used)

    def check_uses(self) -> None:
        """Reports names that no track has, tracks that no virtual host names, and demotions that
        the dialect of their virtual hosts does not have.
        """
        for table, names in self._named:
            for name in names:
                if name not in self._tables:
                    near = "there is none"
                    if self._tables:
                        near = f"the nearest is {as_shown(nearest_to(name, self._tables))}"
                    text = f"holds {as_shown(name)}, which is the name of no [[track]]; {near}"
                    self._fault(table, "track", text)
        for name, table in self._tables.items():
            if name not in self._used:
                text = "no virtual host names it in its key track, so it is not followed"
                self._findings.warn(table.origin, "name", as_shown(name), text)
            track = self.found.get(name)
            if track is None or track.demotion is None or track.demotion <= MOST:
                continue
            if not self._used.get(name, False):
                text = f"must be an integer from 1 to {MOST}, or to {OPENBSD_MOST} if every virtual"
                self._fault(table, "demotion", f'{text} host that names it has dialect "openbsd"')

    # -- one table

    def _refuse_key(
        self, table: Table, key: str, value: Any, known: Iterable[str], kind: Any
    ) -> None:
        allowed = [each for each in known if each not in ("name", "kind")]
        homes = [f'"{each}"' for each, rules in KIND_RULES.items() if key in rules]
        if homes:
            text = f"belongs to kind {' or '.join(homes)}; allowed for {as_shown(kind)}: "
            text += ", ".join(allowed)
        elif key in TABLE_KEYS:
            text = "unknown key here; it belongs in [defaults] or [[virtual_host]]"
        else:
            text = f"unknown key; the nearest known one is {nearest_to(key, known)}"
        shown = "(hidden)" if SECRET_WORDS.search(key) else as_shown(value)
        self._findings.fault(table.origin, as_key(key), shown, text)

    def _miss(self, table: Table, keys: Iterable[str]) -> bool:
        """Reports required keys that are missing; returns whether any is."""
        missing = False
        for key in keys:
            if key not in table.raw:
                missing = True
                allowed = "; allowed: " + ", ".join(f'"{each}"' for each in KINDS)
                text = "must be given" + (allowed if key == "kind" else "")
                self._findings.fault(table.origin, key, "(missing)", text)
        return missing

    def _is_sound(self, table: Table, track: Track) -> bool:
        """Reports keys that do not fit together, and a script that cannot be run."""
        before = len(self._findings.faults)
        if track.kind == "process" and not {"executable", "pid_file"} & table.raw.keys():
            text = "must be given; allowed: executable, pid_file, or both"
            self._findings.fault(table.origin, "executable", "(missing)", text)
        if isinstance(track, ScriptTrack):
            self._check_script(table, track.script[0])
        if isinstance(track, Reachable):
            self._check_target(table, track)
        return len(self._findings.faults) == before

    def _check_target(self, table: Table, track: Reachable) -> None:
        six = ":" in track.target
        if track.source is not None and six != (":" in track.source):
            text = f"must be an address of the family of target, {'IPv6' if six else 'IPv4'}"
            self._fault(table, "source", text)
        if track.target.startswith("fe80:") and track.interface is None:
            self._fault(table, "target", "is link-local; allowed with the key interface")

    def _check_script(self, table: Table, path: str) -> None:
        for exposure in self._writers.of(Path(path)):
            self._expose(table, exposure)
        try:
            runnable = stat.S_ISREG(Path(path).stat().st_mode) and os.access(path, os.X_OK)
        except OSError as error:
            text = f"cannot be run: {error.strerror}; allowed: an executable file"
            self._fault(table, "script", text)
        else:
            if not runnable:
                self._fault(table, "script", "is not an executable file; allowed: one that is")

    def _expose(self, table: Table, how: Exposure) -> None:
        self._findings.exposed(table.origin, "script", as_shown(table.raw["script"]), how)

    def _fault(self, table: Table, key: str, text: str) -> None:
        self._findings.fault(table.origin, key, as_shown(table.raw[key]), text)
