"""Shared by the commands: common options, printing, failures, the path of the control socket.

Must not know any command. Tables and JSON are formatted on a terminal and plain in a pipe.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO, TypeVar

import click

from carp_fast.cli import tables
from carp_fast.cli.tables import Column
from carp_fast.errors import CarpFastError
from carp_fast.standard import discard_output

PROGRAM = "carp-fast"
DEFAULT_CONFIGURATION = Path("/etc/carp-fast/carp-fast.toml")
DEFAULT_CONTROL_SOCKET = Path("/run/carp-fast/control.sock")
COLUMNS = 80  # of a terminal that does not know its width
FINITE_LEAST, FINITE_MAX = 1e-9, 1e9

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Finite(click.FloatRange):
    """The type of an option for seconds or a rate: a number of a range, neither nan nor infinite.

    Not above FINITE_MAX, and not between 0 and FINITE_LEAST: a whole number of ns has room for it.
    """

    def convert(
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> float:
        number = float(super().convert(value, parameter, context))
        if not number <= FINITE_MAX or 0 < number < FINITE_LEAST:
            text = f"{value}: must be a number from {FINITE_LEAST:g} to {FINITE_MAX:g}"
            self.fail(text, parameter, context)
        return number


class Failure(CarpFastError, click.ClickException):
    """Raised when a command fails: its lines are printed on stderr, and the exit code is 1."""

    exit_code = 1

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))

    def show(self, file: Any = None) -> None:
        """Prints the lines and nothing else."""
        if file is None:
            report(self.message)
        else:
            click.echo(self.message, file=file)


def failure(text: object) -> Failure:
    """A Failure with one line, which begins with the name of the program."""
    return Failure(f"{PROGRAM}: {text}")


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Turns an OSError from standard output into Failure; BrokenPipeError stays as it is."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_output()
        raise failure(f"standard output: {error.strerror}") from error


def print_text(text: str, *, end: str = "\n", flush: bool = False) -> None:
    """Prints `text` followed by `end`. Raises Failure."""
    with writing():
        sys.stdout.write(text + end)
        if flush:
            sys.stdout.flush()


@contextlib.contextmanager
def progress(*, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Yields a function that shows a progress line on stderr, or with `quiet` does nothing.

    On a terminal each line replaces the one before, and the last is erased on exit.
    """
    if quiet:
        yield lambda text: None
        return
    if not sys.stderr.isatty():
        yield lambda text: click.echo(text, err=True)
        return
    from rich.console import Console
    from rich.progress import Progress, TextColumn

    column = TextColumn("{task.description}", markup=False)
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    # No refresh thread: each new line refreshes it.
    with Progress(
        column,
        console=console,
        auto_refresh=False,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as line:
        task = line.add_task("")
        yield lambda text: line.update(task, description=text, refresh=True)


def print_json(document: bytes) -> None:
    """Prints a JSON document: indented on a terminal, otherwise on one line."""
    if sys.stdout.isatty():
        import msgspec

        document = msgspec.json.format(document, indent=2)
    print_text(document.decode())


def terminal_width(stream: TextIO) -> int | None:
    """The number of columns of the terminal that a stream is; None if it is not a terminal.

    $COLUMNS has precedence.
    """
    if not stream.isatty():
        return None
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given):
        return int(given)
    try:
        return os.get_terminal_size(stream.fileno()).columns or COLUMNS
    except OSError:
        return COLUMNS


def print_prose(text: str, *, flush: bool = False) -> None:
    """Prints lines that people read; on a terminal they are broken at spaces. Raises Failure."""
    width = terminal_width(sys.stdout)
    print_text(text if width is None else tables.wrapped(text, width), flush=flush)


def report(text: str) -> None:
    """Prints lines on stderr; on a terminal they are broken at spaces."""
    width = terminal_width(sys.stderr)
    click.echo(text if width is None else tables.wrapped(text, width), err=True)


def print_table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    style: Callable[[Sequence[str]], str] = lambda row: "",
    *,
    headed: bool = True,
) -> None:
    """Prints a table: plain and complete in a pipe, with colours and fitted on a terminal.

    `style`: the colour of a row, or "". What a narrow terminal has no room for is named below.
    Raises Failure.
    """
    names = [column.name for column in columns]
    header = [names] if headed else []
    natural = tables.widths_of([*header, *rows], [0] * len(columns))
    room = terminal_width(sys.stdout)
    if room is None:
        for row in (*header, *rows):
            print_text(tables.row_text(columns, natural, row))
        return
    marks = marks_of_output()
    widths = tables.fit(columns, natural, room)
    coloured = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    for row in header:
        text = tables.row_text(columns, widths, row, marks.cut)
        print_text(click.style(text, bold=True) if coloured else text)
        print_text(marks.rule * (sum(widths) + len(tables.GAP) * (sum(map(bool, widths)) - 1)))
    for row in rows:
        text = tables.row_text(columns, widths, row, marks.cut)
        colour = style(row)
        print_text(click.style(text, fg=colour) if coloured and colour else text)
    _name_left_out(tables.left_out(columns, natural, widths), room)


class Stream:
    """Rows that are printed as they come, fitted on a terminal, see tables.Stream."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._room = terminal_width(sys.stdout)
        self._stream = tables.Stream(columns, self._room, marks_of_output().cut)
        self.line = self._stream.line

    def name_left_out(self) -> None:
        """Names the columns for which there was no room. Raises Failure."""
        if self._room is not None:
            _name_left_out(list(self._stream.left_out), self._room)


def _name_left_out(names: list[str], room: int) -> None:
    if names:
        print_prose(f"not shown on {room} columns: {', '.join(names)}")


def marks_of_output() -> tables.Marks:
    """The marks that the encoding of standard output has."""
    try:
        "".join(tables.UNICODE).encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return tables.ASCII
    return tables.UNICODE


def together(*options: Callable[[Any], Any]) -> Callable[[_Function], _Function]:
    """One decorator for several options, which --help lists in this order."""

    def decorate(function: _Function) -> _Function:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def config_option(function: _Function) -> _Function:
    """Adds -c FILE, the parameter `config`, to a command."""
    return click.option(
        "-c",
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help=f"The configuration file.  [default: {DEFAULT_CONFIGURATION}]",
    )(function)


def daemon_options(function: _Function) -> _Function:
    """Adds the parameters `config` and `control_socket`, which find the daemon, to a command."""
    return config_option(
        click.option(
            "--control-socket",
            # Not click's own check: a user without permission gets the line that says who has it.
            type=click.Path(path_type=Path, readable=False),
            metavar="PATH",
            help="The daemon's control socket, instead of the one named in the configuration.",
        )(function)
    )


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON only.")


def control_path(config: Path | None, control_socket: Path | None) -> Path:
    """The path of the daemon's control socket, from the `daemon_options`. Raises Failure."""
    return control_socket or daemon_path(config, "control_socket") or DEFAULT_CONTROL_SOCKET


def daemon_path(config: Path | None, key: str) -> Path | None:
    """A path from the [daemon] table; faults in the rest of the configuration are ignored.

    Raises Failure for a path that is not one, and for a file that cannot be read if it was named
    on the command line.
    """
    path = config or DEFAULT_CONFIGURATION
    try:
        value = _daemon_table(path.read_text("utf-8")).get(key)
    except (OSError, ValueError) as error:
        if config is None:
            return None
        reason = error.strerror if isinstance(error, OSError) else error
        raise failure(f"{path}: {reason}") from error
    if value is None:
        return None
    if isinstance(value, str) and value:
        return Path(value)
    raise failure(f"{path}: daemon: {key} = {value!r}: not a path")


_HEADER = re.compile(r"^[ \t]*\[", re.MULTILINE)
_DAEMON_HEADER = re.compile(r"^[ \t]*\[[ \t]*daemon[ \t]*\]", re.MULTILINE)


def _daemon_table(text: str) -> Mapping[str, Any]:
    """The [daemon] table, if possible without parsing tens of thousands of tables after it.

    Raises ValueError (tomllib.TOMLDecodeError) for text that is not TOML.
    """
    header = _DAEMON_HEADER.search(text)
    start, search_from = (header.start(), header.end()) if header else (0, 0)
    following = _HEADER.search(text, search_from)
    part = text[start : following.start() if following else len(text)]
    try:
        table = tomllib.loads(part).get("daemon", {})
    except tomllib.TOMLDecodeError:
        # The part ends inside a multi-line value, or the text has a fault.
        table = tomllib.loads(text).get("daemon", {})
    return table if isinstance(table, dict) else {}
