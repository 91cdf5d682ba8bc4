"""What every command shares: its options, what it prints, how it fails, where its daemon is.

Must not know any command. Tables and JSON look one way on a terminal and are plain in a pipe.
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
"""A longer table is printed plain on a terminal too: rich needs seconds to lay it out."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Failure(CarpFastError, click.ClickException):
    """Raised when a command did not succeed: its lines go to stderr, exit code 1."""

    exit_code = 1

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))

    def show(self, file: Any = None) -> None:
        """Prints the lines and nothing else."""
        click.echo(self.message, file=file, err=file is None)


def failure(text: object) -> Failure:
    """The one line that says why, for `raise`."""
    return Failure(f"{PROGRAM}: {text}")


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Writes to standard output in here fail with one line. Raises Failure, BrokenPipeError."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        discard_output()
        raise failure(f"standard output: {error.strerror}") from error


def print_text(text: str, *, end: str = "\n", flush: bool = False) -> None:
    """Prints a line, or what ends in `end`. Raises Failure."""
    with writing():
        sys.stdout.write(text + end)
        if flush:
            sys.stdout.flush()


@contextlib.contextmanager
def progress(*, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Gives the block a function that shows one line on stderr; `quiet`: it shows nothing.

    A terminal shows each in place of the last, and none once the block is left.
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
    # Without a thread: it is refreshed where there is a new line.
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
    """SIGTERM in here raises KeyboardInterrupt, as Ctrl-C does: the results are still shown."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def print_json(document: bytes) -> None:
    """One JSON document: indented for a terminal, in one line otherwise."""
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


def config_option(function: _Function) -> _Function:
    """-c FILE: the parameter `config`."""
    return click.option(
        "-c",
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help=f"The configuration file.  [default: {DEFAULT_CONFIGURATION}]",
    )(function)


def daemon_options(function: _Function) -> _Function:
    """What finds the daemon: the parameters `config` and `control_socket`."""
    return config_option(
        click.option(
            "--control-socket",
            type=click.Path(path_type=Path),
            metavar="PATH",
            help="The daemon's control socket, instead of the one named in the configuration.",
        )(function)
    )


json_option = click.option("--json", "as_json", is_flag=True, help="JSON, and nothing else.")


def control_path(config: Path | None, control_socket: Path | None) -> Path:
    """Where the daemon listens, by what was given of `daemon_options`. Raises Failure."""
    return control_socket or daemon_path(config, "control_socket") or DEFAULT_CONTROL_SOCKET


def daemon_path(config: Path | None, key: str) -> Path | None:
    """A path from the [daemon] table, read leniently: other faults do not matter here.

    Raises Failure only for a configuration that was named on the command line.
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
    """The [daemon] table, without parsing tens of thousands of tables after it where possible.

    Raises ValueError (tomllib.TOMLDecodeError) for text that is not TOML.
    """
    header = _DAEMON_HEADER.search(text)
    start, search_from = (header.start(), header.end()) if header else (0, 0)
    following = _HEADER.search(text, search_from)
    part = text[start : following.start() if following else len(text)]
    try:
        table = tomllib.loads(part).get("daemon", {})
    except tomllib.TOMLDecodeError:
        # The cut went through a multi-line value, or the text has a fault.
        table = tomllib.loads(text).get("daemon", {})
    return table if isinstance(table, dict) else {}
