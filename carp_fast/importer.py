"""`carp-fast import`: ucarp command lines and what wraps them, as one configuration.

Reads shell scripts and units that start ucarp, running ucarps, Debian's interfaces files and the
vip-NNN.conf files of Red Hat's package.  Each comes down to the arguments of one ucarp, which are
read as ucarp reads them and written as a [[virtual_host]].  What cannot be said there is named.
Must not know the daemon, nor change anything.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from carp_fast.ucarp_options import (
    DEFAULT_GROUP,
    Options,
    SettingsError,
    UsageError,
    check,
    number,
    others_may_read,
    parse,
)

ADVSKEW_MAX = 254  # of a configuration; 255 is a resignation's
MULTICAST = range(224, 240)  # first bytes of a group
BLOTTED = b"********"  # how carp-fast hides the password of a running `carp-fast ucarp`
ENCRYPTED = b"encrypted:"  # begins a passphrase that is none itself
REQUIRED = ("interface", "vhid", "addresses")
OPERATORS = re.compile(r"[;&|<>(){}]+|fi|then|done")
ASSIGNMENT = re.compile(r"\s*(?:export\s+|local\s+|readonly\s+)?([A-Za-z_]\w*)=(.*)")
VARIABLE = re.compile(r"\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))")
TEXT_OR_VARIABLE = re.compile(rf"'[^']*'|\\.|{VARIABLE.pattern}", re.DOTALL)
DOLLAR = "\0"  # stands for a dollar sign that begins no variable, until words have been made
VIP_FILE = re.compile(r"vip-(?!common)(.+)\.conf")
IFACE = re.compile(r"^\s*iface\s", re.MULTILINE)

DEBIAN_SCRIPTS = ("/usr/share/ucarp/vip-up", "/usr/share/ucarp/vip-down")
RED_HAT_SCRIPTS = ("/usr/libexec/ucarp/vip-up", "/usr/libexec/ucarp/vip-down")
# Of an interfaces file: key, ucarp's option, whether the value is a yes or no.
DEBIAN_KEYS = (
    ("ucarp-advskew", "-k", False),
    ("ucarp-advbase", "-b", False),
    ("ucarp-deadratio", "-r", False),
    ("ucarp-xparam", "-x", False),
    ("ucarp-master", "-P", True),
    ("ucarp-nomcast", "-M", True),
)
SAYS_NO = re.compile("no|off|false|0")  # as Debian's hook has it: at the beginning


class CommandLine(NamedTuple):
    """The arguments of one ucarp, where they were found, and what relative paths start from."""

    origin: str
    arguments: list[str]
    directory: Path


class Imported(msgspec.Struct):
    """`tables` are virtual hosts with their origins; `lost`: what is missing from them altogether;
    `notes`: what is there and will behave differently.
    """

    tables: list[tuple[str, dict[str, Any]]] = []
    lost: list[str] = []
    notes: list[str] = []

    def note(self, origin: str, text: str) -> None:
        self.notes.append(f"{origin}: {text}")

    def lose(self, origin: str, text: str) -> None:
        self.lost.append(f"{origin}: not translated: {text}")


def import_files(paths: Iterable[Path], running: bool) -> Imported:
    """Reads everything.  Raises OSError for a file that cannot be read."""
    found = Imported()
    lines: list[CommandLine] = []
    for path in paths:
        lines += _read(path, found)
    if running:
        lines += running_ucarps(Path("/proc"), found)
    for line in lines:
        _translate(line, found)
    _drop_duplicates(found)
    return found


# ------------------------------------------------------------------------------------- where from


def _read(path: Path, found: Imported) -> list[CommandLine]:
    if path.is_dir():
        return [
            line
            for each in sorted(path.iterdir())
            if VIP_FILE.fullmatch(each.name)
            for line in red_hat(each, found)
        ]
    if VIP_FILE.fullmatch(path.name):
        return red_hat(path, found)
    text = path.read_text(errors="surrogateescape")
    if IFACE.search(text):
        return list(debian(text, str(path), found))
    return list(shell(text, path, found))


def shell(text: str, path: Path, found: Imported) -> Iterator[CommandLine]:
    """Command lines of ucarp in a script, an init script, a unit, or by themselves.

    Variables that the same text sets to plain words before are filled in; no shell is run.
    """
    variables: dict[str, str] = {}
    for at, line in _logical_lines(text):
        origin = f"{path}:{at}"
        assignment = ASSIGNMENT.fullmatch(line)
        if assignment is not None:
            words = _words(_filled(assignment[2], variables))
            if len(words) <= 1:
                variables[assignment[1]] = words[0] if words else ""
                continue
        filled = _filled(line, variables)
        if "ucarp" not in filled:
            continue
        arguments = _arguments(_words(filled))
        if arguments is None:
            continue
        unknown = _variables(arguments)
        if unknown:
            found.lose(origin, f"${unknown[0]} is not known; give it its value")
        else:
            plain = [word.replace(DOLLAR, "$") for word in arguments]
            yield CommandLine(origin, plain, path.absolute().parent)


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """(number of its first line, line), lines that end in a backslash joined, comments left out."""
    joined, first = "", 0
    for at, line in enumerate(text.splitlines(), 1):
        first = first if joined else at
        if line.endswith("\\"):
            joined += line[:-1] + " "
            continue
        if not (joined + line).lstrip().startswith("#"):
            yield first, joined + line
        joined = ""


def _variables(words: Iterable[str]) -> list[str]:
    """The variables in words that have not been filled in."""
    return [one or other for word in words for one, other in VARIABLE.findall(word)]


def _filled(text: str, variables: Mapping[str, str]) -> str:
    """The text with its variables' values, save within single quotes and behind a backslash."""

    def fill(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        return match[0].replace("$", DOLLAR) if name is None else variables.get(name, match[0])

    return TEXT_OR_VARIABLE.sub(fill, text)


def _words(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        return list(lexer)
    except ValueError:  # a quote that does not close: no command line of ours
        return []


def _arguments(words: Sequence[str]) -> list[str] | None:
    """What follows the word ucarp up to the end of the command; None where nothing asks for it."""
    for at, word in enumerate(words):
        if not word.rpartition("/")[2].endswith("ucarp"):
            continue
        rest = list(words[at + 1 :])
        if rest[:1] == ["--"]:  # as start-stop-daemon wants it
            rest = rest[1:]
        end = next((i for i, each in enumerate(rest) if OPERATORS.fullmatch(each)), len(rest))
        # The words "ucarp" of kill commands and tests have no options of ucarp behind them.
        if end and (rest[0].startswith("-") or rest[0].startswith("$")):
            return rest[:end]
    return None


def running_ucarps(proc: Path, found: Imported) -> Iterator[CommandLine]:
    """The ucarps of this network namespace, by process number."""
    own = (proc / "self/ns/net").readlink()
    for pid in sorted(int(each.name) for each in proc.iterdir() if each.name.isdigit()):
        process = proc / str(pid)
        try:
            words = (process / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
            name = (process / "comm").read_text().rstrip("\n")
            here = (process / "ns/net").readlink() == own
            directory = (process / "cwd").readlink()
        except OSError:
            continue  # it has ended, or is somebody else's
        if name != "ucarp":
            continue
        origin = f"process {pid}"
        if not here:
            found.note(origin, "left out, it runs in another network namespace; import it there")
            continue
        yield CommandLine(origin, [os.fsdecode(word) for word in words[1:]], directory)


def debian(text: str, path: str, found: Imported) -> Iterator[CommandLine]:
    """The ucarp-* options of an interfaces file, as Debian's if-up.d hook passes them on."""
    stanza: dict[str, str] = {}
    for at, line in [*_logical_lines(text), (0, "iface -")]:
        keyword, _, value = line.strip().partition(" ")
        value = value.strip()
        if keyword in {"iface", "auto", "mapping", "source", "source-directory"} or (
            keyword.startswith("allow-")
        ):
            yield from _debian_stanza(stanza, path, found)
            stanza = {}
        if keyword == "iface":
            stanza = {"iface": value.split()[0] if value else "", "line": str(at)}
        elif keyword in {"source", "source-directory"}:
            found.note(f"{path}:{at}", f"{keyword} {value}: not followed, name these files too")
        elif keyword and stanza:
            stanza[keyword] = value


def _debian_stanza(stanza: dict[str, str], path: str, found: Imported) -> Iterator[CommandLine]:
    asked = [key for key in stanza if key.startswith("ucarp-")]
    if not asked:
        return
    origin = f"{path}:{stanza['line']}"
    missing = [key for key in ("ucarp-vid", "ucarp-vip", "ucarp-password") if not stanza.get(key)]
    if missing:
        found.lose(origin, f"iface {stanza['iface']} has {asked[0]} but no {', '.join(missing)}")
        return
    up, down = DEBIAN_SCRIPTS
    arguments = ["-i", stanza["iface"], "-z", "-v", stanza["ucarp-vid"]]
    arguments += ["-p", stanza["ucarp-password"], "-a", stanza["ucarp-vip"]]
    arguments += ["-u", stanza.get("ucarp-upscript") or up]
    arguments += ["-d", stanza.get("ucarp-downscript") or down]
    if "address" in stanza:
        arguments += ["-s", stanza["address"].partition("/")[0]]
    known = {"ucarp-vid", "ucarp-vip", "ucarp-password", "ucarp-upscript", "ucarp-downscript"}
    for key, option, is_yes_or_no in DEBIAN_KEYS:
        known.add(key)
        value = stanza.get(key, "")
        if is_yes_or_no and value and not SAYS_NO.match(value):
            arguments.append(option)
        elif value and not is_yes_or_no:
            arguments += [option, value]
    for key in asked:
        if key not in known:
            found.note(origin, f"{key} {stanza[key]}: unknown, also to Debian's hook")
    yield CommandLine(origin, arguments, Path("/"))


def red_hat(path: Path, found: Imported) -> list[CommandLine]:
    """One vip-NNN.conf over the vip-common.conf beside it, as Red Hat's init script and unit do."""
    common = path.with_name("vip-common.conf")
    variables: dict[str, str] = {}
    for each in (common, path):
        if each == common and not common.exists():
            found.note(str(path), "there is no vip-common.conf beside it")
            continue
        for at, line in _logical_lines(each.read_text(errors="surrogateescape")):
            assignment = ASSIGNMENT.fullmatch(line)
            if assignment is None:
                if line.strip():
                    found.note(f"{each}:{at}", f"no plain assignment: {line.strip()}")
                continue
            words = _words(_filled(assignment[2], variables))
            variables[assignment[1]] = words[0] if words else ""
    name = VIP_FILE.fullmatch(path.name)
    assert name is not None
    vhid = variables.get("VID") or name[1]
    if number(vhid) not in (None, int(vhid) if vhid.isdecimal() else None):
        found.note(str(path), f"{vhid} is octal to ucarp: its vhid is {number(vhid)}")
    up, down = RED_HAT_SCRIPTS
    arguments = ["--vhid", vhid]
    for key, option in (
        ("BIND_INTERFACE", "--interface"),
        ("SOURCE_ADDRESS", "--srcip"),
        ("VIP_ADDRESS", "--addr"),
        ("PASSWORD", "--pass"),
        ("PASSFILE", "--passfile"),
        ("PASSWORD_FILE", "--passfile"),
    ):
        if variables.get(key):
            arguments += [option, variables[key]]
    arguments += _words(variables.get("OPTIONS", ""))
    arguments += ["--upscript", variables.get("UPSCRIPT") or up]
    arguments += ["--downscript", variables.get("DOWNSCRIPT") or down]
    unknown = _variables(arguments)
    if unknown:
        found.lose(str(path), f"${unknown[0]} is not known; give it its value")
        return []
    plain = [word.replace(DOLLAR, "$") for word in arguments]
    return [CommandLine(str(path), plain, path.absolute().parent)]


# -------------------------------------------------------------------------------------- what to


def _translate(line: CommandLine, found: Imported) -> None:
    options = Options()
    try:
        parse(line.arguments, options, str(line.directory))
        if options.help:
            return
        # The interface's own address is what `source` is where it is left out.
        options.srcip, source = options.srcip or "127.0.0.1", options.srcip
        check(options)
    except (UsageError, SettingsError) as error:
        found.lose(line.origin, str(error))
        return
    passphrase = _passphrase(line, options, found)
    if passphrase is None:
        return
    table: dict[str, Any] = {
        "interface": options.interface,
        "vhid": options.vhid,
        "addresses": f"{options.addr}/32",
        **passphrase,
    }
    if source:
        table["source"] = source
    else:
        found.note(line.origin, "no source address: the interface's first one is taken")
    table |= {"preempt": options.preempt, "manage_addresses": False, "advertise_mac": "ucarp"}
    table |= _unless_default(options, line.origin, found)
    for key, script in (("up", options.upscript), ("down", options.downscript)):
        if script:
            table[key] = str(line.directory / script)
    if options.xparam is not None:
        table["xparam"] = options.xparam
    _note_manners(line.origin, options, found)
    found.tables.append((line.origin, table))


def _unless_default(options: Options, origin: str, found: Imported) -> dict[str, Any]:
    table: dict[str, Any] = {}
    if options.advbase != 1:
        table["advbase"] = options.advbase
    if options.advskew:
        table["advskew"] = min(options.advskew, ADVSKEW_MAX)
    if options.advskew > ADVSKEW_MAX:
        found.note(origin, f"advskew {options.advskew} becomes {ADVSKEW_MAX}")
    if options.deadratio != 3:
        table["dead_ratio"] = options.deadratio
    if options.mcastip != DEFAULT_GROUP:
        if int(options.mcastip.partition(".")[0] or 0) in MULTICAST:
            table["destination"] = options.mcastip
        else:
            found.note(origin, f"mcast {options.mcastip} is no group: {DEFAULT_GROUP} is used")
    if options.nomcast:
        table["broadcast"] = True
    if options.ignoreifstate:
        table["ignore_link_state"] = True
    return table


def _passphrase(line: CommandLine, options: Options, found: Imported) -> dict[str, str] | None:
    """The key for the passphrase; None where there is none to be had."""
    if options.passfile is not None:
        path = options.passfile
        if others_may_read(path):
            found.note(line.origin, f"others may read {path}: carp-fast refuses it, chmod 600")
        return {"passphrase_file": path}
    if options.password == BLOTTED:
        found.lose(line.origin, "its password is hidden; import the command line's own source")
        return None
    try:
        text = options.password.decode()
    except UnicodeDecodeError:
        found.lose(line.origin, "the password is not UTF-8; put it into a passfile")
        return None
    if options.password.startswith(ENCRYPTED):
        found.lose(line.origin, 'the password begins with "encrypted:"; put it into a passfile')
        return None
    return {"passphrase": text}


def _note_manners(origin: str, options: Options, found: Imported) -> None:
    if options.downscript and not options.neutral:
        found.note(origin, "the down script is not run at the start, as with --neutral")
    if not options.shutdown:
        found.note(origin, "at the end the down script is run and the host resigns, as with -z")
    if options.facility != "daemon":
        found.note(origin, f"facility {options.facility}: the log goes to stderr and the journal")


def _drop_duplicates(found: Imported) -> None:
    """Of two tables for the same interface, destination and vhid the first one stays."""
    owners: dict[tuple[str, str, int], str] = {}
    kept = []
    for origin, table in found.tables:
        identity = (table["interface"], table.get("destination", DEFAULT_GROUP), table["vhid"])
        owner = owners.setdefault(identity, origin)
        if owner == origin:
            kept.append((origin, table))
        else:
            found.lose(origin, f"{identity[0]}/{identity[2]} is in {owner} already")
    found.tables = kept


# ------------------------------------------------------------------------------------- as TOML


def as_toml(found: Imported) -> str:
    """The configuration, with what was lost and what differs as comments at its top."""
    lines = ["# Made by carp-fast import.  It holds passphrases: keep it to yourself, mode 0600."]
    lines += [f"# {text}" for text in found.lost]
    lines += [f"# {text}" for text in _condensed(found.notes)]
    shared = _shared([table for _, table in found.tables])
    if shared:
        lines += ["", "[defaults]", *_pairs(shared)]
    for origin, table in found.tables:
        own = {key: value for key, value in table.items() if key not in shared}
        lines += ["", f"# {_one_line(origin)}", "[[virtual_host]]", *_pairs(own)]
    return "\n".join(lines) + "\n"


def _condensed(notes: Sequence[str]) -> list[str]:
    """Each text once, with the first origin and how many more."""
    origins: dict[str, list[str]] = {}
    for note in notes:
        origin, _, text = note.partition(": ")
        origins.setdefault(text, []).append(origin)
    return [
        _one_line(f"{found[0]}{f' and {len(found) - 1} more' if found[1:] else ''}: {text}")
        for text, found in origins.items()
    ]


def _shared(tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all tables say alike, where there are several."""
    if len(tables) < 2:
        return {}
    first = tables[0]
    return {
        key: value
        for key, value in first.items()
        if key not in REQUIRED and all(key in table and table[key] == value for table in tables)
    }


def _pairs(table: Mapping[str, Any]) -> list[str]:
    # The strings, numbers and booleans of JSON are those of TOML.
    return [f"{key} = {msgspec.json.encode(value).decode()}" for key, value in table.items()]


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
