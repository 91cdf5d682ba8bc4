"""Shared by the commands: common options, printing, failures, the path of the control socket.

Must not know any command. Tables and JSON are formatted on a terminal and plain in a pipe.
"""

from __future__ import annotations

import contextlib
import re
import signal
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import click

from carp_fast.errors import CarpFastError
from carp_fast.standard import discard_output

PROGRAM = "carp-fast"
DEFAULT_CONFIGURATION = Path("/etc/carp-fast/carp-fast.toml")
DEFAULT_CONTROL_SOCKET = Path("/run/carp-fast/control.sock")
RICH_ROWS_MAX = 1_000
"""Longer tables are plain on a terminal, too: rich needs seconds to lay them out."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Failure(CarpFastError, click.ClickException):
    """Raised when a command fails: its lines are printed on stderr, and the exit code is 1."""

    exit_code = 1

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))

    def show(self, file: Any = None) -> None:
        """Prints the lines and nothing else."""
        click.echo(self.message, file=file, err=file is None)


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


@contextlib.contextmanager
def ended_like_an_interrupt() -> Iterator[None]:
    """Makes SIGTERM raise KeyboardInterrupt, as Ctrl-C does, so that results are still shown."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def print_json(document: bytes) -> None:
    """Prints a JSON document: indented on a terminal, otherwise on one line."""
    if sys.stdout.isatty():
        import msgspec

        document = msgspec.json.format(document, indent=2)
    print_text(document.decode())


def print_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    style: Callable[[Sequence[str]], str] = lambda row: "",
) -> None:
    """A table by rich on a terminal; else columns of plain text, nothing cut, nothing drawn."""
    if sys.stdout.isatty() and len(rows) <= RICH_ROWS_MAX:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in header:
            table.add_column(name, overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row), style=style(row))
        with writing():
            Console().print(table)
        return
    widths = [len(name) for name in header]
    for row in rows:
        widths = [max(width, len(cell)) for width, cell in zip(widths, row, strict=True)]
    for row in (header, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print_text("  ".join(cells).rstrip())


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
            type=click.Path(path_type=Path),
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
