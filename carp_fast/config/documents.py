"""The files of a configuration as TOML tables, and the faults found in them.

Documents reads the main file and the files that it includes. Findings collects faults and
warnings, also those of the code that reads the tables. Must not know what a key means.
"""

from __future__ import annotations

import glob
import os
import re
import stat
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from carp_fast.config.lines import Lines, line_of_error, scan
from carp_fast.config.model import (
    ConfigurationError,
    Fault,
    Origin,
    as_key,
    as_printable,
    as_shown,
    nearest_to,
)
from carp_fast.config.readings import Readings
from carp_fast.config.rules import (
    ARRAYS,
    DAEMON_RULES,
    PASSPHRASE_KEYS,
    TABLE_KEYS,
    TABLES,
    Refused,
    plain_text,
)
from carp_fast.config.secrets import readable_by_others
from carp_fast.config.writers import Exposure, Writers

SECRET_WORDS = re.compile(r"pass|secret|psk|pw|token|key|auth", re.IGNORECASE)
HEADER = re.compile(r"\s*\[\[\s*virtual_host\s*\]\]")


def _header_lines(text: str, document: dict[str, Any]) -> tuple[int | None, ...]:
    """The line of each [[virtual_host]] table."""
    tables = document.get("virtual_host")
    count = len(tables) if isinstance(tables, list) else 0
    lines = tuple(
        number
        for number, line in enumerate(text.split("\n"), 1)
        if "[[" in line and HEADER.match(line)
    )
    if len(lines) == count:
        return lines
    # A header inside a multi-line string, a quoted name, or an array of inline tables.
    exact = scan(text)
    return tuple(exact.get(f"virtual_host[{number}]") for number in range(1, count + 1))


def _resolved(path: Path) -> Path:
    # Path.resolve raises on a loop of links; opening the file reports it with its name.
    return Path(os.path.realpath(path))


class Table(NamedTuple):
    """A table as parsed from TOML, or the whole document of a file."""

    origin: Origin
    raw: dict[str, Any]
    directory: Path  # paths in the table are relative to it
    exposed: bool  # others may read the file
    lines: tuple[int | None, ...] = ()  # line numbers of the file's [[virtual_host]] headers


class Findings:
    """Faults and warnings in the order in which they were found."""

    def __init__(self) -> None:
        self.faults: dict[Fault, None] = {}  # ordered set: many tables may inherit one fault
        self.warnings: dict[Fault, None] = {}
        self.texts: dict[str, str] = {}  # of the files that were parsed, by path

    def fault(self, origin: Origin, key: str | None, value: str | None, text: str) -> None:
        self.faults[origin.fault(key, value, text)] = None

    def warn(self, origin: Origin, key: str | None, value: str | None, text: str) -> None:
        self.warnings[origin.fault(key, value, text)] = None

    def error(self) -> ConfigurationError:
        """The error with every fault and its line."""
        return ConfigurationError(tuple(map(Lines(self.texts).of, self.faults)))

    def warning_lines(self) -> tuple[str, ...]:
        """Every warning, with its line."""
        return tuple(map(str, map(Lines(self.texts).of, self.warnings)))

    def exposed(self, origin: Origin, key: str | None, value: str | None, how: Exposure) -> None:
        """A file that others may change: a fault if everybody may."""
        (self.fault if how.to_all else self.warn)(origin, key, value, how.text)

    def unknown(self, origin: Origin, key: str, value: Any, known: Sequence[str]) -> None:
        nearest = nearest_to(key, known)
        text = f"unknown key; the nearest known one is {nearest}"
        if key in DAEMON_RULES or key in TABLE_KEYS:
            home = "[daemon]" if key in DAEMON_RULES else "[defaults] or [[virtual_host]]"
            text = f"unknown key here; it belongs in {home}"
        # A misspelt passphrase is still a passphrase.
        hidden = SECRET_WORDS.search(key) or nearest in PASSPHRASE_KEYS
        self.fault(origin, as_key(key), "(hidden)" if hidden else as_shown(value), text)


class Documents:
    """The main file and the included ones; a file that cannot be read or parsed is a fault."""

    def __init__(self, path: Path, readings: Readings, found: Findings) -> None:
        self.path = path
        self.readings = readings
        self.found = found
        self.files: dict[Path, Path] = {}  # from the resolved path to the path as written
        self.writers = Writers()
        self._places: set[str] = set()  # that were reported: they concern many files

    def read(self, path: Path) -> Table | None:
        """The document of a file; None after a fault."""
        origin = Origin(str(path), "")
        main_file = not self.files
        self.files[_resolved(path)] = path
        text = ""
        try:
            content, status = self.readings.read(path)
            text = content.decode()
            document = tomllib.loads(text)
        except OSError as error:
            self.found.fault(origin, None, None, f"cannot be read: {error.strerror}")
        except UnicodeDecodeError as error:
            at = Origin(str(path), "", error.object.count(b"\n", 0, error.start) + 1)
            self.found.fault(at, None, None, f"is not TOML: not UTF-8 at byte {error.start}")
        except RecursionError:
            self.found.fault(origin, None, None, "is not TOML: nested too deeply")
        except ValueError as error:
            at = Origin(str(path), "", line_of_error(error, text))
            self.found.fault(at, None, None, f"is not TOML: {as_printable(str(error))}")
        else:
            self.found.texts[str(path)] = text
            self._report(origin, None, None, self.writers.of(path, status))
            exposed = stat.S_ISREG(status.st_mode) and readable_by_others(status)
            table = Table(origin, document, path.parent, exposed, _header_lines(text, document))
            self._check_top_level(table, main_file)
            return table
        return None

    def _report(
        self, origin: Origin, key: str | None, value: str | None, exposures: list[Exposure]
    ) -> None:
        for each in exposures:
            if each.place not in self._places:
                self.found.exposed(origin, key, value, each)
        self._places.update(each.place for each in exposures if each.place)

    def _check_top_level(self, file: Table, main_file: bool) -> None:
        for name, value in file.raw.items():
            is_table = isinstance(value, dict) or (
                isinstance(value, list) and len(value) > 0 and isinstance(value[0], dict)
            )
            origin = Origin(file.origin.file, as_printable(name) if is_table else "top level")
            if name not in TABLES and is_table:
                text = f"unknown table; the nearest known one is {nearest_to(name, TABLES[1:])}"
                self.found.fault(origin, None, None, text)
            elif name not in TABLES:
                self.found.unknown(origin, name, value, TABLES)
            elif name not in ARRAYS and not main_file:
                key = None if is_table else name
                allowed = " and ".join(f"[[{each}]]" for each in ARRAYS)
                text = f"belongs in {self.path}; allowed in an included file: {allowed}"
                self.found.fault(origin, key, key and as_shown(value), text)

    def table(self, file: Table, name: str) -> Table:
        raw = file.raw.get(name, {})
        origin = Origin(file.origin.file, name)
        if not isinstance(raw, dict):
            self.found.fault(
                origin, None, None, f"is not a table; allowed: one that begins [{name}]"
            )
            raw = {}
        return file._replace(origin=origin, raw=raw)

    def _array_of(self, file: Table, name: str) -> list[Table]:
        tables = file.raw.get(name, [])
        if not isinstance(tables, list) or not all(isinstance(raw, dict) for raw in tables):
            text = f"is not an array of tables; allowed: tables that begin [[{name}]]"
            self.found.fault(Origin(file.origin.file, name), None, None, text)
            return []
        lines = file.lines if name == "virtual_host" else (None,) * len(tables)
        return [
            file._replace(origin=Origin(file.origin.file, f"{name}[{number}]", line), raw=raw)
            for number, (raw, line) in enumerate(zip(tables, lines, strict=True), 1)
        ]

    def arrays(self, main: Table) -> dict[str, list[Table]]:
        """The tables of each of ARRAYS, in the main file and in all files that it includes."""
        files = [main, *filter(None, map(self.read, self._included(main)))]
        return {name: [t for file in files for t in self._array_of(file, name)] for name in ARRAYS}

    def _included(self, main: Table) -> list[Path]:
        """Files named by `include`, in its order; those of one pattern sorted; each only once."""
        origin = Origin(main.origin.file, "top level")
        patterns = main.raw.get("include", [])
        found: list[Path] = []
        for pattern in patterns if isinstance(patterns, list) else [patterns]:
            try:
                plain_text(pattern, "a path or pattern, or a list of them")
            except Refused as refused:
                self.found.fault(origin, "include", as_shown(pattern), str(refused))
                continue
            try:
                names = self.readings.match(pattern, main.directory)
            except RecursionError:  # glob calls itself for each part
                text = "has too many parts; must be a path or pattern, or a list of them"
                self.found.fault(origin, "include", as_shown(pattern), text)
                continue
            if not names and not glob.has_magic(pattern):
                text = "no such file; allowed: a file that exists, or a pattern with *, ? or []"
                self.found.fault(origin, "include", as_shown(pattern), text)
            path = main.directory / pattern
            self._check_folder(origin, pattern, path)
            if glob.has_magic(path.name):
                exposures = self.writers.of_folder(path.parent)
                self._report(origin, "include", as_shown(pattern), exposures)
            for path in (main.directory / name for name in names):
                if _resolved(path) not in self.files:
                    self.files[_resolved(path)] = path
                    found.append(path)
        return found

    def _check_folder(self, origin: Origin, pattern: str, path: Path) -> None:
        """Reports a directory that cannot be listed: glob treats it like one without a match."""
        try:
            os.scandir(path.parent).close()
        except (FileNotFoundError, NotADirectoryError):
            pass  # a pattern in the directory's name, or no such directory: no match
        except OSError as error:
            text = f"{path.parent} cannot be listed: {error.strerror}; allowed: one that can"
            self.found.fault(origin, "include", as_shown(pattern), text)
