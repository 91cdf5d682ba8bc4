"""The commands of carp-fast: options, tables, exit codes.

Holds what people type and see; code shared by the commands is in carp_fast.cli.terminal. Must not
know how the daemon works: `run` calls carp_fast.daemon, and all that concerns a running daemon goes
through its control socket. Each command imports what it needs when it runs, so that the program
starts quickly and the daemon stays small.

Exit codes: 0 success; 1 failure, with the reason on stderr in one line (for a configuration one
line per fault); 2 wrong usage; 130 after Ctrl-C, and after a load test that SIGTERM ended.
A closed output pipe is not a failure.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

import click

from carp_fast import __version__
from carp_fast.cli.bench import bench
from carp_fast.cli.check import check
from carp_fast.cli.demote import demote, undemote
from carp_fast.cli.dump import dump
from carp_fast.cli.events import events
from carp_fast.cli.explain import explain
from carp_fast.cli.flood import flood
from carp_fast.cli.hand_over import preempt, yields
from carp_fast.cli.maintenance import maintenance
from carp_fast.cli.replay import record, replay
from carp_fast.cli.sink import sink
from carp_fast.cli.status import status
from carp_fast.cli.terminal import (
    DEFAULT_CONFIGURATION,
    PROGRAM,
    Failure,
    config_option,
    control_path,
    daemon_options,
    daemon_path,
    failure,
    print_prose,
    print_text,
    writing,
)
from carp_fast.cli.upgrade import TIMEOUT_S, is_other_version, run_upgrade, upgrade
from carp_fast.cli.watch import watch
from carp_fast.standard import discard_output

logger = logging.getLogger(__name__)

INTERRUPTED = 130

_LOG_LEVELS = ("debug", "info", "warning", "error")


class _Group(click.Group):
    """The top group: Ctrl-C and a closed output pipe end a command quietly."""

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        try:
            return super().make_context(*args, **extra)  # prints --help and --version
        except BrokenPipeError:
            discard_output()
            raise click.exceptions.Exit(0) from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            with writing():
                sys.stdout.flush()
            return result
        except BrokenPipeError:
            discard_output()
            raise click.exceptions.Exit(0) from None
        except (KeyboardInterrupt, click.Abort):
            raise click.exceptions.Exit(INTERRUPTED) from None


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
def main() -> None:
    """CARP virtual-IP failover: tens of thousands of virtual hosts in one process."""


main.add_command(bench)
main.add_command(check)
main.add_command(demote)
main.add_command(undemote)
main.add_command(yields)
main.add_command(preempt)
main.add_command(maintenance)
main.add_command(dump)
main.add_command(events)
main.add_command(watch)
main.add_command(explain)
main.add_command(record)
main.add_command(replay)
main.add_command(flood)
main.add_command(sink)
main.add_command(status)
main.add_command(upgrade)


@main.command()
@config_option
@click.option(
    "--log-format",
    type=click.Choice(("text", "json", "journal")),
    help='Format of the log on stderr; "journal": entries of journald, with fields.'
    '  [default: "journal" if stderr is the journal, else "text"]',
)
@click.option(
    "--log-level",
    type=click.Choice(_LOG_LEVELS, case_sensitive=False),
    default="info",
    show_default=True,
)
@click.option("--pid-file", type=click.Path(path_type=Path), metavar="FILE")
@click.pass_context
def run(
    context: click.Context,
    config: Path | None,
    log_format: str | None,
    log_level: str,
    pid_file: Path | None,
) -> None:
    """Runs the daemon in the foreground.

    SIGTERM and SIGINT: resigns and exits. SIGHUP: reloads the configuration.
    """
    from carp_fast.config.load import ConfigurationError
    from carp_fast.daemon import run as own_process
    from carp_fast.daemon.journal import ENDS
    from carp_fast.daemon.systemd import start_logging

    chosen = start_logging(log_format, logging.getLevelName(log_level.upper()))
    try:
        code = own_process.run(config or DEFAULT_CONFIGURATION, pid_file)
    except (ConfigurationError, own_process.StartError) as error:
        lines = str(error).splitlines()
        if chosen == "text":
            prefix = "" if isinstance(error, ConfigurationError) else f"{PROGRAM}: "
            raise Failure(*(prefix + line for line in lines)) from error
        # With another log format the reason has that format as well.
        for line in lines:
            logger.error("%s", line, extra=ENDS)
        code = 1
    context.exit(code)


@main.command()
@daemon_options
@click.option(
    "--force",
    is_flag=True,
    help="Reload even if more than half of the MASTERs are removed or a file seems truncated.",
)
@click.option(
    "--or-upgrade",
    is_flag=True,
    help="Upgrade instead if another version is installed than runs; it reloads, too.",
)
def reload(
    config: Path | None, control_socket: Path | None, *, force: bool, or_upgrade: bool
) -> None:
    """Reloads the configuration. Prints what changed.

    A reload that looks like an accident is refused and changes nothing: more than half of the
    MASTERs or every virtual host would be removed, an include pattern that matched files matches
    none, or a file no longer ends with a newline although it did.
    """
    from carp_fast.control.client import ControlClient
    from carp_fast.control.documents import counts_text
    from carp_fast.control.protocol import ControlError

    path = control_path(config, control_socket)
    client = ControlClient(path)
    try:
        if or_upgrade and is_other_version(client):
            run_upgrade(path, TIMEOUT_S)
            return
        done = client.reload(force=force)
    except ControlError as error:
        raise (Failure(*error.faults) if error.faults else failure(error)) from error
    for line in done.changed:
        print_prose(line)
    counts = counts_text(done.added, done.removed, done.altered, done.keys, done.kept)
    print_prose(f"virtual hosts: {counts} ({done.seconds:.2f} s)")


@main.command(
    name="ucarp",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def ucarp_command(context: click.Context, arguments: tuple[str, ...]) -> None:
    """Runs one virtual host like ucarp. Takes the command line of ucarp 1.5.2."""
    from carp_fast.ucarp.main import main as run_ucarp

    context.exit(run_ucarp([PROGRAM, "ucarp"], arguments))


@main.command(name="import")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE]...")
@click.option("--running", is_flag=True, help="Also the ucarp processes that are running.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the configuration to FILE, mode 0600; an existing file is not overwritten.",
)
def import_command(files: tuple[Path, ...], running: bool, output: Path | None) -> None:
    """Prints a configuration that replaces ucarps.

    FILE: scripts and units that start ucarp, Debian's /etc/network/interfaces, vip-NNN.conf of Red
    Hat's package or their directory. What cannot be translated is listed, and the exit code is 1.
    """
    from carp_fast.ucarp.importer import as_toml, import_files

    if not files and not running:
        raise click.UsageError("nothing to import: name files, or --running")
    try:
        found = import_files(files, running)
    except OSError as error:
        raise failure(f"{error.filename}: {error.strerror}") from error
    text = as_toml(found)
    if output is None:
        print_text(text, end="")
    else:
        try:
            with open(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(text)
        except OSError as error:
            raise failure(f"{output}: {error.strerror}") from error
    if found.lost:
        raise Failure(*found.lost)
    if not found.tables:
        raise failure("no command line of ucarp was found")


@main.group()
def secret() -> None:
    """Encrypts passphrases. For a configuration kept in git."""


@secret.command("key")
@click.argument("file", type=click.Path(path_type=Path))
def secret_key(file: Path) -> None:
    """Writes a new key to FILE (mode 0600), which must not exist yet."""
    from carp_fast.config.secrets import SecretError, create_key

    try:
        create_key(file)
    except SecretError as error:
        raise failure(error) from error


@secret.command("encrypt")
@config_option
@click.option(
    "--key",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The key file.  [default: daemon.secret_key_file of the configuration]",
)
def secret_encrypt(config: Path | None, key: Path | None) -> None:
    """Encrypts a passphrase from the terminal or stdin; prints encrypted:TOKEN."""
    from carp_fast.config.secrets import SecretError, encrypt, read_key

    key = key or daemon_path(config, "secret_key_file")
    if key is None:
        where = config or DEFAULT_CONFIGURATION
        raise failure(f"no key: give --key FILE, or set daemon.secret_key_file in {where}")
    try:
        # The key first: do not ask for a passphrase that cannot be encrypted.
        key_bytes = read_key(key)
        token = encrypt(_read_passphrase(), key_bytes)
    except SecretError as error:
        raise failure(error) from error
    print_text(token)


def _read_passphrase() -> bytes:
    if sys.stdin.isatty():
        text: str = click.prompt("Passphrase", hide_input=True, confirmation_prompt=True, err=True)
        return text.encode()
    return sys.stdin.buffer.readline().removesuffix(b"\n").removesuffix(b"\r")


@main.command()
@click.option("--instances", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--segments", type=click.IntRange(1, 256), default=4, show_default=True)
@click.pass_context
def demo(context: click.Context, instances: int, segments: int) -> None:
    """Measures a take-over. Runs two hosts in network namespaces and kills the master."""
    if instances > 255 * segments:
        raise click.UsageError(
            f"{instances} virtual hosts do not fit {segments} segments: 255 vhids each"
        )
    from rich.console import Console

    from carp_fast.lab.demo import run_demo

    context.exit(run_demo(Console(), instances, segments))


@main.command()
@click.option(
    "--seed",
    type=click.IntRange(0),
    metavar="N",
    help="Run one world and print every event.",
)
@click.option("--seeds", metavar="A-B", help="Run the worlds of the seeds from A to B.")
@click.option("--large", is_flag=True, help="Use worlds of 8 hosts with 4,000 virtual hosts.")
@click.option(
    "--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes to use."
)
def simulate(**options: Any) -> None:
    """Checks invariants in simulated networks. Time, networks and faults are virtual."""
    from carp_fast.simulate.run import show

    try:
        broken = show(print_prose, **options)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if broken:
        raise failure(broken)
