"""The lines of keys and tables in TOML text, which tomllib does not report.

Used only for messages: a file is scanned when something in it is reported. Must not know what a key
means, nor judge the text: it has been parsed before.
"""

from __future__ import annotations

import functools
import re
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from carp_fast.config.model import Fault, as_key

_QUOTED = r'"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\''
_BETWEEN = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_HEADER = re.compile(rf"\[\[?((?:{_QUOTED}|[^\]\"'\n])+)\]\]?")
_KEY = re.compile(rf"((?:{_QUOTED}|[^=\"'\n#])+)=")
# The parts of a value: strings, comments, brackets, ends of lines, and what is between them.
_PART = re.compile(
    r'"""(?:\\.|[^\\])*?"""(?:"{0,2}(?!"))'
    r"|'''.*?'''(?:'{0,2}(?!'))"
    rf"|{_QUOTED}|#[^\n]*|[\[\]{{}}\n]|[^\"'#\[\]{{}}\n]+",
    re.DOTALL,
)
_AT_LINE = re.compile(r"\(at line (\d+), column \d+\)")


def line_of_error(error: ValueError, text: str) -> int:
    """The line that an error of tomllib names; the last one if it names the end."""
    named = _AT_LINE.search(str(error))
    return int(named.group(1)) if named else text.rstrip("\n").count("\n") + 1


def scan(text: str) -> dict[str, int]:
    """The line of each table and key, by its path: "virtual_host[2]", "virtual_host[2].vhid".

    The n-th table of an array is "NAME[n]", from 1. A path that occurs only as the beginning of
    others has the line of the first. What is inside of an inline table or an array is left out.
    """
    lines: dict[str, int] = {}
    counts: dict[str, int] = {}
    table = ""
    line, counted, at = 1, 0, 0
    while True:
        between = _BETWEEN.match(text, at)
        at = between.end() if between else at
        line += text.count("\n", counted, at)
        counted = at
        header = _HEADER.match(text, at)
        if header is not None:
            table = _table_path(header.group(), _names(header.group(1)), counts)
            _note(lines, table, line)
            at = header.end()
            continue
        key = _KEY.match(text, at)
        if key is None:
            return lines
        _note(lines, ".".join([*([table] if table else []), *_names(key.group(1))]), line)
        at = _end_of_value(text, key.end())


def _note(lines: dict[str, int], path: str, line: int) -> None:
    while path and path not in lines:
        lines[path] = line
        path = _parent(path)


def _parent(path: str) -> str:
    """The path of what contains it: "virtual_host[2].vhid", "virtual_host[2]", "virtual_host"."""
    if path.endswith("]"):
        return path[: path.rindex("[")]
    return path.rpartition(".")[0]


def _table_path(header: str, names: tuple[str, ...], counts: dict[str, int]) -> str:
    """The path of a table, in the last element of each array of tables that contains it."""
    path = ""
    for number, name in enumerate(names, 1):
        path = f"{path}.{name}" if path else name
        if number == len(names) and header.startswith("[["):
            counts[path] = counts.get(path, 0) + 1
        if path in counts:
            path = f"{path}[{counts[path]}]"
    return path


@functools.lru_cache(maxsize=1024)
def _names(key: str) -> tuple[str, ...]:
    """The parts of a dotted key, as messages show them."""
    if '"' not in key and "'" not in key:
        return tuple(part.strip() for part in key.split("."))
    names = []
    table = tomllib.loads(f"{key.strip()} = 0")
    while isinstance(table, dict):
        ((name, table),) = table.items()
        names.append(as_key(name))
    return tuple(names)


def _end_of_value(text: str, at: int) -> int:
    depth = 0
    while True:
        part = _PART.match(text, at)
        if part is None:
            return len(text)
        first = text[at]
        if first in "[{":
            depth += 1
        elif first in "]}":
            depth -= 1
        elif first == "\n" and depth <= 0:
            return at
        at = part.end()


class Lines:
    """Adds to faults the line of their key, or of their table if the key is not in it.

    `texts`: the text of files by their path; other files are read again. A file that cannot be read
    again, such as a pipe, has no lines.
    """

    def __init__(self, texts: Mapping[str, str] | None = None) -> None:
        self._texts = texts or {}
        self._lines: dict[str, dict[str, int]] = {}

    def of(self, fault: Fault) -> Fault:
        """The fault with its line; as it is if none was found, or if it has a key's already."""
        if fault.table is None:
            return fault
        if fault.file not in self._lines:
            self._lines[fault.file] = self._scanned(fault.file)
        lines = self._lines[fault.file]
        table = "" if fault.table == "top level" else fault.table
        path = ".".join(part for part in (table, fault.key) if part)
        while path and path not in lines:
            path = _parent(path)
        line = lines.get(path, fault.line)
        return fault if line == fault.line else msgspec.structs.replace(fault, line=line)

    def _scanned(self, file: str) -> dict[str, int]:
        text = self._texts.get(file)
        try:
            if text is None:
                if not stat.S_ISREG(Path(file).stat().st_mode):
                    return {}
                text = Path(file).read_text("utf-8")
            return scan(text)
        except (OSError, ValueError):  # it has changed since it was loaded
            return {}
