"""The command line of ucarp: its options, their meaning, and what is refused.

Turns arguments into `Options`. Values are read as ucarp reads them: numbers in decimal, 0x and
octal, addresses by inet_pton, long options abbreviated and short ones joined. Values that ucarp
would silently wrap or truncate are refused. Must not know the daemon, loops or sockets.
"""

from __future__ import annotations

import getopt
import os
import re
import socket
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from carp_fast.config.secrets import overwrite
from carp_fast.config.writers import Writers
from carp_fast.errors import CarpFastError

DEFAULT_GROUP = "224.0.0.18"
PASSWORD_BYTES = 19  # the digest's key is a 20-byte field that ends in NUL
PASSFILE_LINE_BYTES = 511  # of the first line, as much as ucarp reads
BYTE_MAX = 255  # vhid, advbase, advskew and the dead ratio are one byte each
NUMBER = re.compile(r"\s*([+-]?)(?:0[xX]([0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]*))")

# (long name, short name, value, description), in the order of ucarp's own list.
OPTIONS = (
    ("interface", "i", "<if>", "the network interface to use"),
    ("srcip", "s", "<ip>", "the real address of this host, to advertise from"),
    ("mcastip", "m", "<ip>", f"the multicast group (default {DEFAULT_GROUP}); --mcast for short"),
    ("vhid", "v", "<id>", "the number of the virtual host (1-255)"),
    ("pass", "p", "<password>", "the password; it is hidden from ps"),
    ("passfile", "o", "<file>", "read the password from the first line of a file"),
    ("preempt", "P", "", "take over from a slower master immediately"),
    ("neutral", "n", "", "do not run the down script at the start"),
    ("addr", "a", "<ip>", "the virtual address"),
    ("help", "h", "", "this summary"),
    ("advbase", "b", "<seconds>", "seconds between advertisements (default 1)"),
    ("advskew", "k", "<skew>", "1/256 seconds more between them (0-255, default 0)"),
    ("upscript", "u", "<file>", "run <file> on becoming master"),
    ("downscript", "d", "<file>", "run <file> on becoming backup"),
    ("deadratio", "r", "<ratio>", "intervals of silence until a master is dead (default 3)"),
    ("debug", "D", "", "log debug messages, too"),
    ("shutdown", "z", "", "run the down script at exit, then resign"),
    ("daemonize", "B", "", "run in the background"),
    ("ignoreifstate", "S", "", "keep running while the interface is down or has no carrier"),
    ("nomcast", "M", "", "send to the broadcast address instead of the group's"),
    ("facility", "f", "<facility>", "the syslog facility (default daemon), or none"),
    ("xparam", "x", "<value>", "one more argument for the up and down script"),
)


class UsageError(CarpFastError):
    """Raised when the command line cannot be read: exit code 2."""


class SettingsError(CarpFastError):
    """Raised when a value is missing or wrong: exit code 1, or `exit_code` as ucarp has it."""

    def __init__(self, text: str, exit_code: int = 1) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class Options(msgspec.Struct, kw_only=True):
    """A checked command line. `interface` is "" if none was named.

    `notes` are lines to be logged as warnings, `faults` as errors that do not prevent the start.
    """

    interface: str = ""
    srcip: str = ""
    mcastip: str = DEFAULT_GROUP
    vhid: int = 0
    password: bytes | bytearray = b""
    preempt: bool = False
    neutral: bool = False
    addr: str = ""
    help: bool = False
    advbase: int = 1
    advskew: int = 0
    upscript: str | None = None
    downscript: str | None = None
    deadratio: int = 3
    debug: bool = False
    shutdown: bool = False
    daemonize: bool = False
    ignoreifstate: bool = False
    nomcast: bool = False
    facility: str = "daemon"
    xparam: str | None = None
    passfile: str | None = None
    notes: list[str] = []
    faults: list[str] = []

    def __repr__(self) -> str:
        return f"Options({self.interface}/{self.vhid})"  # a password must not appear in a traceback


def summary(program: str, version: str) -> str:
    """The text of --help."""
    lines = [f"{program}: the command line of ucarp 1.5.2, run by carp-fast {version}", ""]
    for name, letter, value, text in OPTIONS:
        long = f"--{name}={value}" if value else f"--{name}"
        short = f"-{letter} {value}".rstrip()
        lines.append(f"{long} ({short}): {text}")
    lines += [
        "",
        "SIGUSR1 logs the state, SIGUSR2 gives up being master for three seconds.",
        "Exit codes: 0 done, 1 a value is missing or wrong, 2 wrong usage or cannot start.",
    ]
    return "\n".join(lines)


def number(text: str) -> int | None:
    """An integer as strtoul(text, 0) reads it, the sign kept; None for anything else."""
    match = NUMBER.fullmatch(text)
    if match is None:
        return None
    sign, hexadecimal, octal, decimal = match.groups()
    base, digits = (16, hexadecimal) if hexadecimal else (8, octal) if octal else (10, decimal)
    value = int(digits, base)
    return -value if sign == "-" else value


def _byte(lowest: int, refusal: str) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = number(text)
        if value is None or not lowest <= value <= BYTE_MAX:
            raise SettingsError(f"{refusal} [{text}]")
        return value

    return parse


def _vhid(text: str) -> int:
    value = number(text)
    if value is None or not 1 <= value <= BYTE_MAX:
        raise SettingsError("vhid must be between 1 and 255.")
    return value


def _address(text: str) -> str:
    try:
        socket.inet_pton(socket.AF_INET, text)
    except (OSError, ValueError):
        raise SettingsError(f"Invalid address: [{text}]") from None
    return "" if text == "0.0.0.0" else text


def _deadratio(text: str) -> int:
    value = number(text)
    # Zero has its own message, at its own place in the order of checks.
    if value is None or not 0 <= value <= BYTE_MAX:
        raise SettingsError(f"deadratio must be between 1 and 255. [{text}]")
    return value


def read_passfile(path: str) -> bytearray:
    """The first line of a file, the only copy of it. Raises SettingsError in ucarp's words."""
    content, size = bytearray(PASSFILE_LINE_BYTES), 0
    try:
        with open(path, "rb", buffering=0) as file, memoryview(content) as room:
            while content.find(b"\n", 0, size) < 0 and (count := file.readinto(room[size:])):
                size += count
    except IsADirectoryError as error:
        raise SettingsError(f"error reading passfile {path}: {error.strerror}") from None
    except OSError as error:
        text = f"unable to open passfile {path} for reading: {error.strerror}"
        raise SettingsError(text) from None
    if not size:
        raise SettingsError(f"error reading passfile {path}: unexpected end of file")
    found = (content.find(mark, 0, size) for mark in (b"\n", b"\0"))
    password = bytearray(min((end for end in found if end >= 0), default=size))
    with memoryview(content) as line:
        password[:] = line[: len(password)]
    overwrite(content)
    return password


def others_may_read(path: str) -> bool:
    """Whether it is a file that other users of this host may read. Raises OSError."""
    mode = Path(path).stat().st_mode
    return stat.S_ISREG(mode) and bool(mode & stat.S_IROTH)


PARSERS: dict[str, Callable[[str], int | str]] = {
    "srcip": _address,
    "mcastip": _address,
    "addr": _address,
    "vhid": _vhid,
    "advbase": _byte(0, "advbase must be between 0 and 255."),
    "advskew": _byte(0, "advskew must be between 0 and 255."),
    "deadratio": _deadratio,
    "interface": str,
    "upscript": str,
    "downscript": str,
    "xparam": str,
}


def split(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """(long name, value) of each option in order, as getopt_long reads it. Raises UsageError.

    Arguments that are not options are ignored, as ucarp does.
    """
    letters = {letter: name for name, letter, _, _ in OPTIONS}
    short = "".join(letter + ":" * bool(value) for _, letter, value, _ in OPTIONS)
    long = [name + "=" * bool(value) for name, _, value, _ in OPTIONS]
    try:
        found, _ = getopt.gnu_getopt(list(arguments), short, long)
    except getopt.GetoptError as error:
        raise UsageError(error.msg) from None
    return [
        (option[2:] if option.startswith("--") else letters[option[1]], value)
        for option, value in found
    ]


def parse(arguments: Sequence[str], options: Options, directory: str = "") -> None:
    """Reads a command line into fresh options; a relative passfile is below `directory`.

    Raises UsageError, or SettingsError for the first wrong value; the options before it have been
    read then. `check` looks for missing ones.
    """
    for name, value in split(arguments):
        if name == "pass":
            options.password, options.passfile = os.fsencode(value), None
        elif name == "passfile":
            options.passfile = os.path.join(directory, value)  # noqa: PTH118 ("" stays "")
            options.password = read_passfile(options.passfile)
        elif name == "facility":
            if value.lower() in FACILITIES or value.lower() == "none":
                options.facility = value.lower()
            else:
                options.faults.append(f"Unknown syslog facility: [{value}]")
        elif name in PARSERS:
            setattr(options, name, PARSERS[name](value))
        else:
            setattr(options, name, True)


def check(options: Options) -> None:
    """Looks for missing options, in ucarp's order. Raises SettingsError; fills `notes`."""
    if not options.interface:
        raise SettingsError("You must supply a network interface")
    if options.vhid == 0:
        raise SettingsError("You must supply a valid virtual host id")
    if not options.password:
        raise SettingsError("You must supply a password")
    if options.advbase == options.advskew == 0:
        raise SettingsError("You must supply an advertisement time base")
    if not options.srcip:
        raise SettingsError("You must supply a persistent source address")
    if not options.addr:
        raise SettingsError("You must supply a virtual host address")
    if options.upscript is None:
        options.notes.append("Warning: no script called when going up")
    if options.downscript is None:
        options.notes.append("Warning: no script called when going down")
    if options.deadratio == 0:
        raise SettingsError("Dead ratio can't be zero")
    if len(options.password) > PASSWORD_BYTES:
        raise SettingsError("Password too long", exit_code=2)
    if options.advskew == BYTE_MAX:
        options.notes.append("advskew 255 means resignation to other CARP implementations")
    if options.passfile is not None and others_may_read(options.passfile):
        options.notes.append(f"passfile {options.passfile} can be read by others")


def exposures(options: Options) -> Iterator[str]:
    """Who else may change the scripts and the passfile, a line each."""
    writers = Writers()
    for what, path in (
        ("passfile", options.passfile),
        ("upscript", options.upscript),
        ("downscript", options.downscript),
    ):
        if path:
            yield from (f"{what} {path}: {each.text}" for each in writers.of(Path(path)))


def without_password(arguments: Sequence[str], password: str) -> list[str]:
    """The arguments with `password` blotted out wherever it occurs."""
    hidden = []
    for argument in arguments:
        shown = argument
        if password and argument == password:
            shown = "********"
        elif password and argument.startswith("-") and argument.endswith(password):
            shown = argument.removesuffix(password) + "********"
        hidden.append(shown)
    return hidden


# The facilities of syslog(3); "none" turns syslog off.
FACILITIES = {
    "kern": 0,
    "user": 1,
    "mail": 2,
    "daemon": 3,
    "auth": 4,
    "security": 4,
    "syslog": 5,
    "lpr": 6,
    "news": 7,
    "uucp": 8,
    "cron": 9,
    "authpriv": 10,
    "ftp": 11,
    "mark": 24,
    **{f"local{index}": 16 + index for index in range(8)},
}
