"""The command lines that systemd units start, parsed as systemd parses them, not a shell.

Quoting, escapes, `$VARIABLE` and `%` are systemd's; what depends on the instance or the machine is
reported. Must not know what ucarp's options mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from carp_fast.ucarp.shell_commands import (
    Found,
    Lost,
    Remark,
    Started,
    Starts,
    Text,
    Unknown,
    meaning,
)
from carp_fast.ucarp.shell_scripts import read_text
from carp_fast.ucarp.shell_words import ANSI_LETTERS, Unclear

SECTION = re.compile(r"^\[(?:Unit|Service|Install)\]\s*$", re.MULTILINE)
LINE_END = re.compile("\r\n|\n|\r")
SETTING = re.compile(r"\s*(\w+)\s*=\s*(.*)", re.DOTALL)
STARTING = ("ExecStartPre", "ExecStart", "ExecStartPost")
PREFIXES = "@-:+!|"  # before the program
ESCAPE = re.compile(
    r"\\(?:([abfnrtvs\\\"'])|x([0-9a-fA-F]{2})|([0-7]{3})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8}))"
)
VARIABLE = re.compile(r"\$(?:(\$)|\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))")
SPECIFIER = re.compile(r"%(.?)", re.DOTALL)


class Setting(NamedTuple):
    """`key = value` of a unit, with continued lines joined."""

    line: int
    key: str
    value: str


def settings(text: str) -> Iterator[Setting]:
    """Yields the settings in order; a backslash joins lines, also across comments between them."""
    joined, first = "", 0
    for at, line in enumerate(LINE_END.split(text), 1):
        if line.lstrip().startswith(("#", ";")):
            continue
        first = first if joined else at
        if line.endswith("\\"):
            joined += line[:-1] + " "
            continue
        match = SETTING.fullmatch(joined + line)
        joined = ""
        if match is not None:
            yield Setting(first, match[1], match[2].rstrip())


def started(text: str) -> Iterator[Found]:
    """What a unit starts. Relative paths are below its WorkingDirectory, or /."""
    every = list(settings(text))
    directory = Path("/")
    known: dict[str, str] = {}
    for setting in every:
        if setting.key == "WorkingDirectory" and setting.value.startswith("/"):
            directory = Path(setting.value)
        elif setting.key == "EnvironmentFile":
            yield Remark(setting.line, f"EnvironmentFile={setting.value} is not read")
            known.clear()
        elif setting.key == "Environment":
            try:
                assignments = [word for word, _ in _words(setting.value)]
                known |= dict(_specified(each).split("=", 1) for each in assignments)
            except (Unclear, ValueError):
                known.clear()
    for setting in every:
        if setting.key in STARTING:
            yield from _commands(setting, directory, known)


def _commands(setting: Setting, directory: Path, known: Mapping[str, str]) -> Iterator[Found]:
    """The commands of one setting, separated by a `;` on its own."""
    try:
        words = [*_words(setting.value), (";", False)]
    except Unclear as unclear:
        if "ucarp" in setting.value:
            yield Lost(setting.line, str(unclear))
        return
    command: list[str] = []
    for word, quoted in words:
        if word != ";" or quoted:
            command.append(word)
            continue
        if command:
            yield from _command(setting, command, directory, known)
        command = []


def _command(
    setting: Setting, command: list[str], directory: Path, known: Mapping[str, str]
) -> Iterator[Found]:
    program = command[0].lstrip(PREFIXES)
    prefixes = command[0][: len(command[0]) - len(program)]
    rest = command[2:] if "@" in prefixes else command[1:]
    words: list[str | Unclear] = [program]
    for word in rest:
        try:
            words += _filled(_specified(word), known, verbatim=":" in prefixes)
        except Unclear as unclear:
            words.append(unclear)
    found = meaning(words, setting.value)
    if isinstance(found, Starts):
        place = Path("/") if found.at_root else directory
        yield Started(setting.line, found.arguments, place)
    elif isinstance(found, Unknown):
        yield Lost(setting.line, found.why)
    elif isinstance(found, Text):
        yield from read_text(found, directory, known, setting.line)


def _words(value: str) -> Iterator[tuple[str, bool]]:
    """Yields words with quotes and escapes removed, and whether there were any. Raises Unclear."""
    at, word, quoted, quote = 0, "", False, ""
    began = False
    while at < len(value):
        c = value[at]
        if c == "\\":
            match = ESCAPE.match(value, at)
            if match is None:
                raise Unclear(f"{value[at : at + 2]} is an escape that systemd refuses")
            letter, *numbers = match.groups()
            digits = next((each for each in numbers if each), "")
            number = int(digits, 8 if numbers[1] else 16) if digits else 0
            if digits and not 0 < number < 0x11_0000:
                raise Unclear(f"{match[0]} is not a valid character")
            word += chr(number) if digits else " " if letter == "s" else ANSI_LETTERS[letter]
            at, began, quoted = match.end(), True, True
            continue
        if quote:
            quote = "" if c == quote else quote
            word += c if quote else ""
        elif c in "\"'":
            quote, began, quoted = c, True, True
        elif c in " \t\n\r":
            if began:
                yield word, quoted
            word, quoted, began = "", False, False
        else:
            word, began = word + c, True
        at += 1
    if quote:
        raise Unclear("a quote does not close")
    if began:
        yield word, quoted


def _specified(word: str) -> str:
    """A word with %% as %. Raises Unclear for specifiers that systemd fills in."""

    def specifier(match: re.Match[str]) -> str:
        if match[1] != "%":
            raise Unclear(f"{match[0]} is filled in by systemd; give it its value")
        return "%"

    return SPECIFIER.sub(specifier, word)


def _filled(word: str, known: Mapping[str, str], *, verbatim: bool) -> list[str]:
    """A word with its variables; one that is only $NAME is split. Raises Unclear."""

    def fill(match: re.Match[str]) -> str:
        if match[1]:
            return "$"
        name = match[2]
        if name is None:  # $NAME within a word has no meaning
            return match[0]
        if name not in known:
            raise Unclear(f"${name} is not known; give it its value")
        return known[name]

    if verbatim:
        return [word]
    whole = VARIABLE.fullmatch(word)
    if whole is not None and whole[3]:
        if whole[3] not in known:
            raise Unclear(f"${whole[3]} is not known; give it its value")
        if re.search(r"[\"'\\]", known[whole[3]]):
            raise Unclear(f"${whole[3]} contains quotes, which systemd parses again")
        return known[whole[3]].split()
    return [VARIABLE.sub(fill, word)]
