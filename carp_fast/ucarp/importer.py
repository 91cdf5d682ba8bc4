"""`carp-fast import`: turns ucarp command lines, and files that contain them, into one
configuration.

Reads shell scripts and units that start ucarp, running ucarps, Debian's interfaces files and the
vip-NNN.conf files of Red Hat's package. Each is reduced to the arguments of one ucarp, which are
read as ucarp reads them and written as a [[virtual_host]]. What a configuration cannot express, or
what is not known for certain, is reported. Must not know the daemon, nor change anything.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import tomli_w

from carp_fast.config.load import ConfigurationError, Fault, load
from carp_fast.config.model import as_printable
from carp_fast.config.secrets import ENCRYPTED_PREFIX, Passphrases, SecretError, readable_by_others
from carp_fast.ucarp import shell_scripts, units
from carp_fast.ucarp.options import (
    DEFAULT_GROUP,
    Options,
    SettingsError,
    UsageError,
    check,
    number,
    parse,
    split,
)
from carp_fast.ucarp.shell_commands import Found, Lost, Started, Text
from carp_fast.ucarp.shell_scripts import assigned, expanded, read_text
from carp_fast.ucarp.shell_words import Unclear, Value

ADVSKEW_MAX = 254  # of a configuration; 255 means resignation
MULTICAST = range(224, 240)  # the first byte of a multicast group
BLOTTED = b"********"  # how carp-fast hides the password of a running `carp-fast ucarp`
REQUIRED = ("interface", "vhid", "addresses")
PATHS = ("passfile", "upscript", "downscript")
VIP_FILE = re.compile(r"vip-(?!common)(.+)\.conf")
IFACE = re.compile(r"^[ \t]*iface[ \t]", re.MULTILINE)
UNIT_LINE = re.compile(rf"[ \t]*(?:{'|'.join(units.STARTING)})[ \t]*=")
TABLE_NUMBER = re.compile(r"virtual_host\[(\d+)\]")

DEBIAN_SCRIPTS = ("/usr/share/ucarp/vip-up", "/usr/share/ucarp/vip-down")
RED_HAT_SCRIPTS = ("/usr/libexec/ucarp/vip-up", "/usr/libexec/ucarp/vip-down")
UP_COMMANDS = frozenset({"up", "post-up", "pre-up"})
# Keys of an interfaces file: key, ucarp's option, whether the value is a yes or no.
DEBIAN_KEYS = (
    ("ucarp-advskew", "-k", False),
    ("ucarp-advbase", "-b", False),
    ("ucarp-deadratio", "-r", False),
    ("ucarp-xparam", "-x", False),
    ("ucarp-master", "-P", True),
    ("ucarp-nomcast", "-M", True),
)
SAYS_NO = re.compile("no|off|false|0")  # as Debian's hook matches it: at the beginning
RED_HAT_KEYS = (
    ("BIND_INTERFACE", "--interface"),
    ("SOURCE_ADDRESS", "--srcip"),
    ("VIP_ADDRESS", "--addr"),
    ("PASSWORD", "--pass"),
    ("PASSFILE", "--passfile"),
    ("PASSWORD_FILE", "--passfile"),
)


class CommandLine(NamedTuple):
    """The arguments of one ucarp, and where they were found.

    Relative paths are below the directory; None if it is not known.
    """

    origin: str
    arguments: list[str]
    directory: Path | None


class Imported(msgspec.Struct):
    """The result: `tables` are virtual hosts with their origins.

    `lost`: a line for each that could not be translated; `noted`: (origin, text) of what was
    translated but will behave differently.
    """

    tables: list[tuple[str, dict[str, Any]]] = []
    lost: list[str] = []
    noted: list[tuple[str, str]] = []

    @property
    def notes(self) -> list[str]:
        """The notes as lines."""
        return [f"{origin}: {text}" for origin, text in self.noted]

    def note(self, origin: str, text: str) -> None:
        self.noted.append((as_printable(origin), as_printable(text)))

    def lose(self, origin: str, text: str) -> None:
        self.lost.append(as_printable(f"{origin}: not translated: {text}"))


def import_files(paths: Iterable[Path], running: bool) -> Imported:
    """Reads everything. Raises OSError for a file that cannot be read."""
    found = Imported()
    lines: list[CommandLine] = []
    for path in paths:
        lines += _read(path, found)
    if running:
        lines += running_ucarps(Path("/proc"), found)
    for line in lines:
        _translate(line, found)
    _drop_duplicates(found)
    if found.tables:
        _drop_refused(found)
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
    data = path.read_bytes()
    text = data.decode(errors="surrogateescape")
    if IFACE.search(text):
        return list(debian(text, path, found))
    if units.SECTION.search(text):
        return list(_taken(units.started(text), path, found))
    return list(_taken(_started(text, path), path, found))


def _started(text: str, path: Path) -> list[Found]:
    """What a script starts. Lines of a unit in it are parsed as systemd parses them."""
    script: list[str] = []
    unit: list[str] = []
    continued = False
    for line in text.split("\n"):
        of_unit = continued or UNIT_LINE.match(line) is not None
        continued = of_unit and line.endswith("\\")
        script.append("" if of_unit else line)
        unit.append(line if of_unit else "")
    data = "\n".join(script).encode(errors="surrogateescape")
    everything = [*shell_scripts.started(data, path), *units.started("\n".join(unit))]
    return sorted(everything, key=lambda each: each.line)


def _taken(everything: Iterable[Found], path: Path, found: Imported) -> Iterator[CommandLine]:
    """The ucarps of a text; those not known well enough become lost, remarks become notes."""
    for each in everything:
        origin = f"{path}:{each.line}"
        if isinstance(each, Started):
            yield CommandLine(origin, each.arguments, each.directory)
        elif isinstance(each, Lost):
            found.lose(origin, each.why)
        else:
            found.note(origin, each.text)


def running_ucarps(proc: Path, found: Imported) -> Iterator[CommandLine]:
    """The ucarps of this network namespace, by process number."""
    own = (proc / "self/ns/net").readlink()
    for pid in sorted(int(each.name) for each in proc.iterdir() if each.name.isdigit()):
        process = proc / str(pid)
        try:
            words = (process / "cmdline").read_bytes().removesuffix(b"\0").split(b"\0")
            name = (process / "comm").read_text(errors="surrogateescape").rstrip("\n")
            here = (process / "ns/net").readlink() == own
            directory = (process / "cwd").readlink()
            owner = process.stat().st_uid
        except OSError:
            continue  # it has ended, or belongs to another user
        if name != "ucarp":
            continue
        origin = f"process {pid}"
        if not here:
            found.note(origin, "left out, it runs in another network namespace; import it there")
        elif owner not in (0, os.geteuid()):
            # Any user may name a process ucarp and give it scripts that the daemon would run.
            found.lose(origin, f"it is a process of user {owner}; import its own command line")
        else:
            yield CommandLine(origin, [os.fsdecode(word) for word in words[1:]], directory)


def debian(text: str, path: Path, found: Imported) -> Iterator[CommandLine]:
    """The ucarp-* options of an interfaces file, as Debian's if-up.d hook passes them on.

    Also the ucarps of its `up` commands.
    """
    stanza: dict[str, str] = {}
    for at, line in [*_logical_lines(text), (0, "iface -")]:
        keyword, value = [*line.split(None, 1), "", ""][:2]
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
        elif keyword in UP_COMMANDS and "iface" in stanza:
            given = {"IFACE": stanza["iface"]}
            yield from _taken(read_text(Text(value, "sh"), None, given, at), path, found)
        elif keyword and stanza:
            stanza[keyword] = value
        if "\r" in line and stanza:
            stanza["CR"] = str(at)


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """(number of its first line, line) of an interfaces file.

    Lines that end in a backslash are joined, comments left out.
    """
    joined, first = "", 0
    for at, line in enumerate(text.split("\n"), 1):
        first = first if joined else at
        if line.endswith("\\"):
            joined += line[:-1]
            continue
        if not (joined + line).lstrip().startswith("#"):
            yield first, joined + line
        joined = ""


def _debian_stanza(stanza: dict[str, str], path: Path, found: Imported) -> Iterator[CommandLine]:
    asked = [key for key in stanza if key.startswith("ucarp-")]
    if not asked:
        return
    origin = f"{path}:{stanza['line']}"
    if "CR" in stanza:
        found.lose(origin, f"line {stanza['CR']} ends in a carriage return, part of its value")
        return
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
    """One vip-NNN.conf over the vip-common.conf next to it, as Red Hat's init script does."""
    common = path.with_name("vip-common.conf")
    values: dict[str, Value] = {}
    for each in (common, path):
        if each == common and not common.exists():
            found.note(str(path), "there is no vip-common.conf next to it")
            continue
        values, others = assigned(each.read_bytes(), values)
        for other in others:
            found.note(f"{each}:{other.line}", f"not a plain assignment: {other.text.strip()}")
    name = VIP_FILE.fullmatch(path.name)
    assert name is not None
    try:
        vhid = _value(values, "VID") or name[1]
        up, down = RED_HAT_SCRIPTS
        arguments = ["--vhid", vhid]
        for key, option in RED_HAT_KEYS:
            value = _value(values, key)
            if value:
                arguments += [option, value]
        arguments += expanded("$OPTIONS", values) if _value(values, "OPTIONS") else []
        arguments += ["--upscript", _value(values, "UPSCRIPT") or up]
        arguments += ["--downscript", _value(values, "DOWNSCRIPT") or down]
    except Unclear as unclear:
        found.lose(str(path), str(unclear))
        return []
    if number(vhid) not in (None, int(vhid) if vhid.isdecimal() else None):
        found.note(str(path), f"{vhid} is octal to ucarp: its vhid is {number(vhid)}")
    return [CommandLine(str(path), arguments, path.absolute().parent)]


def _value(values: Mapping[str, Value], name: str) -> str:
    """The value of a variable, "" if it is not set. Raises Unclear."""
    value = values.get(name, Value(""))
    if value.text is None:
        raise Unclear(f"${name} is not known: {value.why}")
    return value.text


# -------------------------------------------------------------------------------------- what to


def _translate(line: CommandLine, found: Imported) -> None:
    options = Options()
    try:
        if line.directory is None:
            _refuse_relative(line.arguments)
        directory = line.directory or Path("/")
        parse(line.arguments, options, str(directory))
        if options.help:
            return
        # Without `source` the interface's own address is used.
        options.srcip, source = options.srcip or "127.0.0.1", options.srcip
        check(options)
    except (UsageError, SettingsError) as error:
        found.lose(line.origin, str(error))
        return
    passphrase = _passphrase(line.origin, options, found)
    if passphrase is None:
        return
    if {"[", "]"} & set(options.interface):
        found.lose(line.origin, f"{options.interface} is a range of interfaces to carp-fast")
        return
    interface, alias, _ = options.interface.partition(":")
    if alias:
        text = f"the alias {options.interface} is {interface}, which is what the scripts get"
        found.note(line.origin, text)
    table: dict[str, Any] = {
        "interface": interface,
        "vhid": options.vhid,
        "addresses": f"{options.addr}/32",
        **passphrase,
    }
    if source:
        table["source"] = source
    else:
        found.note(line.origin, "no source address: the interface's first one is used")
    table |= {"preempt": options.preempt, "manage_addresses": False, "advertise_mac": "ucarp"}
    table |= _unless_default(options, line.origin, found)
    for key, script in (("up", options.upscript), ("down", options.downscript)):
        if script:
            table[key] = str(directory / script)
    if options.xparam is not None:
        table["xparam"] = options.xparam
    for key, value in table.items():
        if isinstance(value, str) and not _is_utf8(value):
            found.lose(line.origin, f"{key} is not UTF-8")
            return
    _note_manners(line.origin, options, found)
    found.tables.append((line.origin, table))


def _refuse_relative(arguments: Sequence[str]) -> None:
    """Raises SettingsError if a path is relative to a directory that is not known."""
    for name, value in split(arguments):
        if name in PATHS and value and not value.startswith("/"):
            raise SettingsError(f"--{name} {value} is relative to a directory that is not known")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


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
            found.note(origin, f"mcast {options.mcastip} is not a group: {DEFAULT_GROUP} is used")
    if options.nomcast:
        table["broadcast"] = True
    if options.ignoreifstate:
        table["ignore_link_state"] = True
    return table


def _passphrase(origin: str, options: Options, found: Imported) -> dict[str, str] | None:
    """The key for the passphrase; None if it cannot be read."""
    password, path = options.password, options.passfile
    if password == BLOTTED:
        found.lose(origin, "its password is hidden; import the command line's own source")
        return None
    if password.startswith(ENCRYPTED_PREFIX.encode()):
        found.lose(
            origin,
            f'the password begins with "{ENCRYPTED_PREFIX}", the mark of encryption',
        )
        return None
    if path is not None and not password.endswith(b"\r"):
        try:
            Passphrases(None).from_file(Path(path))
        except SecretError as error:
            if not readable_by_others(Path(path).stat()):
                found.lose(origin, f"{path}: {error.text}")
                return None
            found.note(origin, f"others may read {path}: carp-fast refuses it, chmod 600")
        return {"passphrase_file": path}
    if path is not None:
        text = f"{path} ends its line in a carriage return, which is part of ucarp's password:"
        found.note(origin, f"{text} the passphrase is written here, including it")
    try:
        return {"passphrase": password.decode()}
    except UnicodeDecodeError:
        found.lose(origin, "the password is not UTF-8; put it into a passfile")
        return None


def _note_manners(origin: str, options: Options, found: Imported) -> None:
    if options.downscript and not options.neutral:
        found.note(origin, "the down script is not run at the start, as with --neutral")
    if not options.shutdown:
        found.note(origin, "at the end the down script is run and the host resigns, as with -z")
    if options.facility != "daemon":
        found.note(origin, f"facility {options.facility}: the log goes to stderr and the journal")


def _drop_duplicates(found: Imported) -> None:
    """Of two tables for the same interface, destination and vhid, keeps the first one."""
    owners: dict[tuple[str, str, int], str] = {}
    kept = []
    for origin, table in found.tables:
        identity = (table["interface"], table.get("destination", DEFAULT_GROUP), table["vhid"])
        owner = owners.setdefault(identity, origin)
        if owner == origin:
            kept.append((origin, table))
        else:
            found.lose(origin, f"{identity[0]}/{identity[2]} is already in {owner}")
    found.tables = kept


def _drop_refused(found: Imported) -> None:
    """Turns what the loader refuses into lost lines, in the loader's words; the rest is valid.

    A passphrase file that others may read stays: a note tells how to fix it.
    """
    text = "\n".join(f"[[virtual_host]]\n{tomli_w.dumps(table)}" for _, table in found.tables)
    refused: dict[int, Fault] = {}
    with open(os.memfd_create("carp-fast import"), "wb", buffering=0) as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(text.encode())
        try:
            load(Path(f"/proc/self/fd/{file.fileno()}"))
        except ConfigurationError as error:
            for fault in error.faults:
                number = TABLE_NUMBER.match(fault.table or "")
                assert number is not None, str(fault)
                if fault.key != "passphrase_file":
                    refused.setdefault(int(number[1]) - 1, fault)
    for at, fault in refused.items():
        found.lose(found.tables[at][0], f"{fault.key} = {fault.value}: {fault.text}")
    found.tables = [each for at, each in enumerate(found.tables) if at not in refused]


# ------------------------------------------------------------------------------------- as TOML


def as_toml(found: Imported) -> str:
    """The configuration, with what was lost and what differs as comments at its top."""
    lines = ["# Made by carp-fast import.  It holds passphrases: keep it to yourself, mode 0600."]
    lines += [f"# {text}" for text in found.lost]
    lines += [f"# {text}" for text in _condensed(found.noted)]
    shared = _shared([table for _, table in found.tables])
    made = "\n".join(lines) + "\n"
    if shared:
        made += f"\n[defaults]\n{tomli_w.dumps(shared)}"
    for origin, table in found.tables:
        own = {key: value for key, value in table.items() if key not in shared}
        made += f"\n# {as_printable(origin)}\n[[virtual_host]]\n{tomli_w.dumps(own)}"
    return made


def _condensed(noted: Sequence[tuple[str, str]]) -> list[str]:
    """Each text once, with its first origin and the number of others."""
    origins: dict[str, list[str]] = {}
    for origin, text in noted:
        origins.setdefault(text, []).append(origin)
    return [
        f"{found[0]}{f' and {len(found) - 1} more' if found[1:] else ''}: {text}"
        for text, found in origins.items()
    ]


def _shared(tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The keys that have the same value in all tables, if there are several."""
    if len(tables) < 2:
        return {}
    first = tables[0]
    return {
        key: value
        for key, value in first.items()
        if key not in REQUIRED and all(key in table and table[key] == value for table in tables)
    }
