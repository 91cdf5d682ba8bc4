"""The configuration: TOML files, ranges and templates to frozen typed objects.

Every fault is a line `FILE: table: key = value: what is wrong and what is allowed`, and one run
finds all of them. Must not know the engine, sockets, interfaces that exist, or who reads it.

In this version `replay` is "off" and dialect "ucarp"; what is not built yet is refused by name.
"""

from __future__ import annotations

import difflib
import glob
import json
import os
import re
import socket
import stat
import tomllib
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_interface
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from carp_fast.secrets import (
    ENCRYPTED_PREFIX,
    KeyMissing,
    Passphrases,
    SecretError,
    read_key,
    read_key_credential,
    readable_by_others,
)

MAX_VIRTUAL_HOSTS = 131_072  # the engine's table
MAX_INTERFACES = 4_096  # the engine's dense interface numbers
INTERFACE_NAME_BYTES = 15  # the kernel's IFNAMSIZ less its NUL
SOCKET_PATH_BYTES = 107  # sun_path less its NUL
LONGEST_VALUE_SHOWN = 80  # characters of a value in a message
MAX_DELAY_S = 86_400

Item = TypeVar("Item")


class Fault(msgspec.Struct, frozen=True):
    """One thing wrong: `FILE: table: key = value: text`, less the parts that do not apply."""

    file: str
    table: str | None
    key: str | None
    value: str | None  # as shown: cut, escaped, and "(hidden)" for a secret
    text: str

    def __str__(self) -> str:
        what = self.key if self.value is None else f"{self.key} = {self.value}"
        return ": ".join(part for part in (self.file, self.table, what, self.text) if part)


class ConfigurationError(Exception):
    """A configuration that cannot be used; `faults` holds everything that is wrong with it."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = faults


class Origin(msgspec.Struct, frozen=True, gc=False):
    """Where a table stands: its file and its name, such as "virtual_host[3] (line 17)"."""

    file: str
    table: str

    def __str__(self) -> str:
        return f"{self.file}: {self.table}" if self.table else self.file


class Announce(msgspec.Struct, frozen=True, gc=False):
    """Gratuitous ARPs: `count` at once `interval_s` apart, again each `refresh_s` (0: never)."""

    count: int = 1
    interval_s: float = 0.0
    refresh_s: float = 0.0


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the virtual hosts of one table share. `up` and `down`: a path or "module:function"."""

    passphrase: bytes
    source: str | None = None
    advbase: int = 1
    advskew: int = 0
    dead_ratio: int = 3
    preempt: Literal["demoted"] | bool = "demoted"
    preempt_delay_s: float = 0.0
    startup_delay_s: float = 0.0
    dialect: str = "ucarp"
    destination: str = "224.0.0.18"
    advertise_mac: str = "interface"
    replay: str = "off"
    ignore_link_state: bool = False
    manage_addresses: bool = True
    announce: Announce = Announce()
    up: str | None = None
    down: str | None = None
    xparam: str | None = None
    origin: Origin = Origin("", "")

    def __rich_repr__(self) -> Iterable[tuple[str, Any]]:  # type: ignore[override]
        for field in self.__struct_fields__:
            yield field, "(hidden)" if field == "passphrase" else getattr(self, field)

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{k}={v!r}' for k, v in self.__rich_repr__())})"


class VirtualHost(msgspec.Struct, frozen=True, gc=False):
    """One virtual host; addresses as "192.0.2.10/24", in the order in which they were written."""

    interface: str
    vhid: int
    addresses: tuple[str, ...]
    unsigned_addresses: tuple[str, ...]
    settings: Settings

    @property
    def identity(self) -> tuple[str, str, int]:
        """(interface, destination, vhid): no two virtual hosts share it."""
        return self.interface, self.settings.destination, self.vhid

    @property
    def name(self) -> str:
        """As log lines have it: "eth0/7"."""
        return f"{self.interface}/{self.vhid}"


class Daemon(msgspec.Struct, frozen=True):
    """The [daemon] table: paths are absolute, `notify` is the path of a program or None."""

    control_socket: Path = Path("/run/carp-fast/control.sock")
    state_directory: Path = Path("/var/lib/carp-fast")
    receive: str = "auto"
    pump: str = "thread"
    notify: str | None = None
    hook_concurrency: int = 16
    hook_timeout_s: float = 30.0
    digest_grace_s: float = 300.0
    secret_key_file: Path | None = None


class Configuration(msgspec.Struct, frozen=True):
    """All of it: `files` are those read, the main one first; `warnings` are lines like faults."""

    path: Path
    files: tuple[Path, ...]
    daemon: Daemon
    virtual_hosts: list[VirtualHost]
    warnings: tuple[str, ...]


def load(path: Path) -> Configuration:
    """Reads `path` and what it includes; ConfigurationError holds every fault found."""
    return _Loader(path).load()


# --- values as messages show them ---------------------------------------------------------------

SECRET_WORDS = re.compile(r"pass|secret|psk|pw|token|key|auth", re.IGNORECASE)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def _shown(value: Any) -> str:
    """A value as TOML would write it, on one line and cut; of a table only that it is one."""
    if isinstance(value, dict):
        return "{...}"
    if isinstance(value, list):
        # Cut here already: the list may have a million items.
        items = [_shown(item) for item in value[:LONGEST_VALUE_SHOWN]]
        shown = f"[{', '.join(items)}{', ...' if len(value) > len(items) else ''}]"
    elif isinstance(value, bool):
        return "true" if value else "false"
    elif isinstance(value, int) and value.bit_length() > 64:
        return f"an integer of {value.bit_length()} bits"
    elif isinstance(value, str):
        shown = _printable(json.dumps(value[: 2 * LONGEST_VALUE_SHOWN], ensure_ascii=False))
    else:
        shown = str(value)
    if len(shown) > LONGEST_VALUE_SHOWN:
        return shown[: LONGEST_VALUE_SHOWN - 3] + "..."
    return shown


def _nearest(word: str, known: Iterable[str]) -> str:
    return difflib.get_close_matches(word[:LONGEST_VALUE_SHOWN], known, n=1, cutoff=0.0)[0]


# --- values: each rule returns the typed value or raises Refused with what is allowed -----------


class Refused(Exception):
    """Why a value is refused and what is allowed; whoever catches it knows the key and table."""


Rule = Callable[[Any], Any]


def _typed(kind: Any, allowed: str) -> Rule:
    def rule(value: Any) -> Any:
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError:
            raise Refused(f"must be {allowed}") from None

    return rule


def _integer(lowest: int, highest: int) -> Rule:
    kind = Annotated[int, Meta(ge=lowest, le=highest)]
    return _typed(kind, f"an integer from {lowest} to {highest}")


def _seconds(lowest: float, highest: float) -> Rule:
    kind = Annotated[float, Meta(ge=lowest, le=highest)]
    return _typed(kind, f"a number of seconds from {lowest:g} to {highest:g}")


def _choice(*allowed: str, later: Sequence[str] = ()) -> Rule:
    words = " or ".join(f'"{word}"' for word in allowed)

    def rule(value: Any) -> Any:
        if isinstance(value, str) and value in later:
            raise Refused(f"not available in this version; allowed: {words}")
        if not isinstance(value, str) or value not in allowed:
            raise Refused(f"must be {words}")
        return value

    return rule


def _not_available(neutral: Any = None) -> Rule:
    """A key that is not built yet; its documented default, which asks for nothing, is let pass."""
    allowed = "leave the key out"
    if neutral is not None:
        allowed = f"{_shown(neutral)}, or {allowed}"

    def rule(value: Any) -> None:
        if neutral is None or type(value) is not type(neutral) or value != neutral:
            raise Refused(f"not available in this version; allowed: {allowed}")

    return rule


_boolean = _typed(bool, "true or false")


def _text(value: Any, allowed: str = "a string") -> str:
    if not isinstance(value, str):
        raise Refused(f"must be {allowed}")
    if "\0" in value:
        raise Refused(f"holds a NUL character; must be {allowed}")
    return value


def _absolute_path(value: Any, allowed: str = "an absolute path") -> str:
    if not _text(value, allowed).startswith("/"):
        raise Refused(f"must be {allowed}")
    return str(value)


def _path(value: Any) -> Path:
    return Path(_absolute_path(value))


def _socket_path(value: Any) -> Path:
    path = _path(value)
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES:
        raise Refused(f"is too long; allowed: at most {SOCKET_PATH_BYTES} bytes")
    return path


def _hook(value: Any) -> str:
    allowed = 'an absolute path or "module:function"'
    module, colon, function = _text(value, allowed).partition(":")
    if colon and "/" not in value:
        if all(part.isidentifier() for part in (*module.split("."), *function.split("."))):
            return str(value)
        raise Refused(f"must be {allowed}")
    return _absolute_path(value, allowed)


def _preempt(value: Any) -> Any:
    if isinstance(value, bool) or value == "demoted":
        return value
    raise Refused('must be true, false or "demoted"')


def _ipv4(value: Any, allowed: str) -> int:
    try:
        return int.from_bytes(socket.inet_pton(socket.AF_INET, _text(value, allowed)))
    except (OSError, ValueError):
        raise Refused(f"{_why_not_ipv4(value)}; must be {allowed}") from None


def _source(value: Any) -> str:
    allowed = "one IPv4 address of a host, without prefix"
    if not 0 < _ipv4(value, allowed) < 0xE000_0000:
        raise Refused(f"is not the address of a host; must be {allowed}")
    return str(value)


def _destination(value: Any) -> str:
    allowed = "an IPv4 multicast group (224.0.0.0/4)"
    if _ipv4(value, allowed) >> 28 != 0xE:
        raise Refused(f"is not multicast; must be {allowed}")
    return str(value)


ANNOUNCE_RULES: dict[str, Rule] = {
    "announce.count": _integer(1, 10),
    "announce.interval_s": _seconds(0, 60),
    "announce.refresh_s": _seconds(0, 3600),
}

SETTING_RULES: dict[str, Rule] = {
    "source": _source,
    "advbase": _integer(0, 255),
    "advskew": _integer(0, 254),
    "dead_ratio": _integer(1, 255),
    "preempt": _preempt,
    "preempt_delay_s": _seconds(0, MAX_DELAY_S),
    "startup_delay_s": _seconds(0, MAX_DELAY_S),
    "dialect": _choice("ucarp", later=("freebsd", "openbsd")),
    "destination": _destination,
    "destination6": _not_available(),
    "broadcast": _not_available(False),
    "peers": _not_available([]),
    "advertise_mac": _choice("interface", later=("ucarp", "bsd")),
    "address_mac": _not_available("interface"),
    "replay": _choice("off", later=("learn", "strict")),
    "ignore_link_state": _boolean,
    "manage_addresses": _boolean,
    "group": _not_available(),
    "track": _not_available([]),
    "up": _hook,
    "down": _hook,
    "xparam": _text,
}
HOST_KEYS = {  # with what is allowed
    "interface": 'a name such as "eth0", a range such as "vlan[100-163]", or a list of them',
    "vhid": 'an integer from 1 to 255, a range such as "1,3,5-9", or a list of them',
    "addresses": 'an IPv4 address such as "192.0.2.10/24", or a list of them',
    "unsigned_addresses": 'an IPv4 address such as "192.0.2.10/24", or a list of them',
}
ADDRESS_KEYS = ("addresses", "unsigned_addresses")
PASSPHRASE_KEYS = ("passphrase", "passphrase_file", "passphrase_credential")
OTHER_KEYS = (*HOST_KEYS, *PASSPHRASE_KEYS, "announce")
TABLE_KEYS = (*SETTING_RULES, *OTHER_KEYS)

DAEMON_RULES: dict[str, Rule] = {
    "control_socket": _socket_path,
    "state_directory": _path,
    "receive": _choice("auto", "packet", later=("raw",)),
    "pump": _choice("thread", "loop"),
    "notify": _absolute_path,
    "hook_concurrency": _integer(1, 1024),
    "hook_timeout_s": _seconds(0.01, MAX_DELAY_S),
    "digest_grace_s": _seconds(0, MAX_DELAY_S),
    "secret_key_file": _text,
    "metrics": _not_available(),
}
TABLES = ("include", "daemon", "defaults", "virtual_host")
TABLES_LATER = ("group", "track")


# --- ranges and address templates ---------------------------------------------------------------

Interfaces = list[tuple[str, int | None]]  # name, and the number that its brackets gave it
RANGE = re.compile(r" *([0-9]{1,9}) *(?:- *([0-9]{1,9}) *)?")
BRACKETS = re.compile(r"([^\[\]]*)\[([^\[\]]*)\]([^\[\]]*)")
HEADER = re.compile(r"\s*\[\[\s*virtual_host\s*\]\]")
IN_BRACES = re.compile(r"\{([^{}]*)\}")
RESERVED = (0, 0xFFFF_FFFF)
NOT_A_HOST = "is no address of a host; allowed: any but 0.0.0.0 and 255.255.255.255"
FIELDS = ("vhid", "number", "index")
SUM = re.compile(r"([^+]*)\+(vhid|number|index)")
TEMPLATES_ALLOWED = "{vhid}, {number}, {index} or {ADDRESS+vhid}, {ADDRESS+number}, {ADDRESS+index}"


def _ranges(text: str, lowest: int, highest: int, most: int) -> list[tuple[int, str]]:
    """The numbers of "1,3,5-9", each with its digits: "01-16" keeps the width of its start."""
    allowed = f'a range such as "1,3,5-9" of numbers from {lowest} to {highest}'
    numbers: list[tuple[int, str]] = []
    for part in text.split(","):
        match = RANGE.fullmatch(part)
        if match is None:
            raise Refused(f"{_shown(part)} is no number or range; must be {allowed}")
        start, end = match[1], match[2] or match[1]
        if int(start) > int(end):
            raise Refused(f"{_shown(part)} makes no virtual host; must be {allowed}")
        if int(start) < lowest or int(end) > highest:
            raise Refused(f"{_shown(part)} is out of bounds; must be {allowed}")
        if len(numbers) + int(end) - int(start) >= most:
            raise Refused(f"makes more than {most} numbers; must be {allowed}")
        width = len(start) if start.startswith("0") else 0
        numbers += ((n, str(n).zfill(width)) for n in range(int(start), int(end) + 1))
    return numbers


def _interfaces(value: Any) -> Interfaces:
    """What "eth0" or "vlan[100-163]" names."""
    allowed = f'1 to {INTERFACE_NAME_BYTES} bytes without "/", ":" or space'
    if not isinstance(value, str):
        raise Refused('must be an interface name such as "eth0" or "vlan[100-163]"')
    before, after = value, ""
    numbers: Sequence[tuple[int | None, str]] = [(None, "")]
    if "[" in value or "]" in value:
        match = BRACKETS.fullmatch(value)
        if match is None:
            raise Refused('must hold one number range in brackets, such as "vlan[100-163]"')
        before, after = match[1], match[3]
        numbers = _ranges(match[2], 0, 999_999_999, MAX_INTERFACES)
    named: Interfaces = []
    for number, digits in numbers:
        name = before + digits + after
        if not 1 <= len(name.encode()) <= INTERFACE_NAME_BYTES:
            raise Refused(f"{_shown(name)} has {len(name.encode())} bytes; allowed: {allowed}")
        if name in {".", ".."} or any(c in "/: " or not c.isprintable() for c in name):
            raise Refused(f"{_shown(name)} is no interface name; allowed: {allowed}")
        named.append((name, number))
    return named


def _vhids(value: Any) -> list[int]:
    if isinstance(value, str):
        return [number for number, _ in _ranges(value, 1, 255, 255)]
    if type(value) is not int or not 1 <= value <= 255:
        raise Refused('must be an integer from 1 to 255, or a range such as "1,3,5-9"')
    return [value]


def _why_not_ipv4(value: str) -> str:
    try:
        if ip_interface(value).version == 6:
            return "IPv6 is not available in this version"
    except ValueError:
        pass
    return "is not an IPv4 address"


def _prefix(text: str) -> str:
    """What follows an address: "/24" of "/24", "/32" of nothing."""
    digits = text.removeprefix("/") if text else "32"
    if text == digits or not re.fullmatch("[0-9]{1,2}", digits) or not 1 <= int(digits) <= 32:
        raise Refused("has no prefix length from 1 to 32; must be one such as 192.0.2.10/24")
    return f"/{int(digits)}"


def _host_part(address: str) -> str:
    return address.partition("/")[0]


def _address(text: str) -> str:
    host, slash, prefix = text.partition("/")
    try:
        value = int.from_bytes(socket.inet_pton(socket.AF_INET, host))
    except (OSError, ValueError):
        raise Refused(f"{_why_not_ipv4(text)}; must be one such as 192.0.2.10/24") from None
    if value in RESERVED:
        raise Refused(NOT_A_HOST)
    return host + _prefix(slash + prefix)


class _Template:
    """One item of `addresses`: constant, or a text to fill in for each virtual host."""

    __slots__ = ("base", "constant", "failed", "field", "suffix", "text")

    def __init__(self, text: str, numbered: bool) -> None:
        self.text = text
        self.failed = False  # said once, however many virtual hosts it fails for
        self.constant = ""
        self.field = self.suffix = ""
        self.base = 0
        fields = IN_BRACES.findall(text)
        names = [field.rpartition("+")[2] for field in fields]
        rest = IN_BRACES.sub("", text)
        if "{" in rest or "}" in rest:
            raise Refused(f"a brace has no partner; allowed in an address: {TEMPLATES_ALLOWED}")
        if "number" in names and not numbered:
            raise Refused('{number} needs an interface with a range, such as "vlan[100-163]"')
        if not fields:
            self.constant = _address(text)
        elif any(field not in FIELDS for field in fields):
            self._set_sum(fields)

    def _set_sum(self, fields: list[str]) -> None:
        for field in fields:
            if field not in FIELDS and SUM.fullmatch(field) is None:
                shown = _shown("{" + field + "}")
                raise Refused(f"{shown} is unknown; allowed in an address: {TEMPLATES_ALLOWED}")
        first = "{" + fields[0] + "}"
        match = SUM.fullmatch(fields[0])
        if match is None or len(fields) > 1 or not self.text.startswith(first):
            raise Refused("must have {ADDRESS+...} first, followed by /PREFIX or nothing")
        self.base = _ipv4(match[1], f"an IPv4 address in {_shown(first)}")
        self.field = match[2]
        self.suffix = _prefix(self.text[len(first) :])

    def at(self, vhid: int, number: int | None, index: int) -> str:
        """The address of one virtual host, as "192.0.2.10/24"."""
        if self.constant:
            return self.constant
        if not self.field:
            filled = self.text.format(vhid=vhid, number=number, index=index)
            try:
                return _address(filled)
            except Refused as refused:
                raise Refused(f"{_shown(filled)} {refused}") from None
        added = index if self.field == "index" else vhid if self.field == "vhid" else number
        value = self.base + (added or 0)
        if value > 0xFFFF_FFFF:
            raise Refused("goes beyond 255.255.255.255; allowed: a lower ADDRESS or range")
        address = socket.inet_ntoa(value.to_bytes(4))
        if value in RESERVED:
            raise Refused(f"{address} {NOT_A_HOST}")
        return address + self.suffix


def _parsers(numbered: bool) -> dict[str, Callable[[Any], Sequence[Any]]]:
    """Of HOST_KEYS: each makes a list of one item; `numbered`: every interface has a number."""

    def template(value: Any) -> list[_Template]:
        return [_Template(_text(value, "an IPv4 address, or a list of them"), numbered)]

    return {
        "interface": _interfaces,
        "vhid": _vhids,
        "addresses": template,
        "unsigned_addresses": template,
    }


def _keyed_addresses(host: VirtualHost) -> Iterable[tuple[str, str]]:
    for address in host.addresses:
        yield "addresses", address
    for address in host.unsigned_addresses:
        yield "unsigned_addresses", address


# --- from files to virtual hosts ----------------------------------------------------------------


def _resolved(path: Path) -> Path:
    # Path.resolve raises on a loop of links, which the attempt to open the file will name.
    return Path(os.path.realpath(path))


class _Table(NamedTuple):
    """A table as TOML has it, or the whole document of a file."""

    origin: Origin
    raw: dict[str, Any]
    directory: Path  # paths in the table are relative to it
    exposed: bool  # others may read the file
    lines: tuple[int, ...] = ()  # of the file's [[virtual_host]] headers


class _Values(NamedTuple):
    """Typed values of a table over those it inherits; `bad` keys have been reported as faults."""

    values: dict[str, Any]
    bad: set[str]


class _Loader:
    """One run over the main file and the included ones; collects faults and never stops at one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.faults: dict[Fault, None] = {}  # in order, each once however many tables inherit it
        self.warnings: dict[str, None] = {}
        self.files: dict[Path, Path] = {}  # as resolved to as named
        self.defaults = _Table(Origin(str(path), "defaults"), {}, path.parent, exposed=False)
        self.passphrases = Passphrases(None)
        self.key_broken = False
        self.count = 0
        self.virtual_hosts: list[VirtualHost] = []
        self.interfaces: dict[str, list[VirtualHost]] = {}
        self.owners: dict[tuple[str, str], list[Origin | None]] = {}  # by interface, destination

    def load(self) -> Configuration:
        main = self.read(self.path)
        if main is None:
            raise ConfigurationError(tuple(self.faults))
        daemon = self.daemon(self.table(main, "daemon"))
        self.defaults = self.table(main, "defaults")
        inherited = self.settings(self.defaults, _Values({"passphrase": b""}, set()))
        for key, parse in _parsers(numbered=True).items():
            if key in self.defaults.raw:
                self.items(self.defaults, key, parse)
        tables = self.virtual_host_tables(main)
        for path in self.included(main):
            file = self.read(path)
            if file is not None:
                tables += self.virtual_host_tables(file)
        for table in tables:
            self.virtual_host(table, inherited)
        if self.faults:
            raise ConfigurationError(tuple(self.faults))
        if not self.virtual_hosts:
            self.warn(main.origin, None, None, "no virtual host is configured")
        self.find_shared_addresses()
        files = tuple(self.files.values())
        return Configuration(self.path, files, daemon, self.virtual_hosts, tuple(self.warnings))

    def fault(self, origin: Origin, key: str | None, value: str | None, text: str) -> None:
        self.faults[Fault(origin.file, origin.table or None, key, value, text)] = None

    def warn(self, origin: Origin, key: str | None, value: str | None, text: str) -> None:
        self.warnings[str(Fault(origin.file, origin.table or None, key, value, text))] = None

    def unknown(self, origin: Origin, key: str, value: Any, known: Sequence[str]) -> None:
        nearest = _nearest(key, known)
        text = f"unknown key; the nearest known one is {nearest}"
        if key in DAEMON_RULES or key in TABLE_KEYS:
            home = "[daemon]" if key in DAEMON_RULES else "[defaults] or [[virtual_host]]"
            text = f"unknown key here; it belongs in {home}"
        # A misspelt passphrase is still a passphrase.
        hidden = SECRET_WORDS.search(key) or nearest in PASSPHRASE_KEYS
        name = key if re.fullmatch(r"[\w.-]+", key) else _shown(key)
        self.fault(origin, name, "(hidden)" if hidden else _shown(value), text)

    def read(self, path: Path) -> _Table | None:
        """The document of a file; None after a fault."""
        origin = Origin(str(path), "")
        main_file = not self.files
        self.files[_resolved(path)] = path
        try:
            with open(path, "rb") as file:
                status = os.fstat(file.fileno())
                text = file.read().decode()
            document = tomllib.loads(text)
        except OSError as error:
            self.fault(origin, None, None, f"cannot be read: {error.strerror}")
        except UnicodeDecodeError as error:
            self.fault(origin, None, None, f"is not TOML: not UTF-8 at byte {error.start}")
        except RecursionError:
            self.fault(origin, None, None, "is not TOML: nested too deeply")
        except ValueError as error:
            self.fault(origin, None, None, f"is not TOML: {_printable(str(error))}")
        else:
            exposed = stat.S_ISREG(status.st_mode) and readable_by_others(status)
            lines = tuple(
                number
                for number, line in enumerate(text.split("\n"), 1)
                if "[[" in line and HEADER.match(line)
            )
            table = _Table(origin, document, path.parent, exposed, lines)
            self.check_top_level(table, main_file)
            return table
        return None

    def check_top_level(self, file: _Table, main_file: bool) -> None:
        for name, value in file.raw.items():
            is_table = isinstance(value, dict) or (
                isinstance(value, list) and len(value) > 0 and isinstance(value[0], dict)
            )
            origin = Origin(file.origin.file, _printable(name) if is_table else "top level")
            if name in TABLES_LATER:
                text = "not available in this version; allowed: leave it out"
                self.fault(origin, None, None, text)
            elif name not in TABLES and is_table:
                text = f"unknown table; the nearest known one is {_nearest(name, TABLES[1:])}"
                self.fault(origin, None, None, text)
            elif name not in TABLES:
                self.unknown(origin, name, value, TABLES)
            elif name != "virtual_host" and not main_file:
                key = None if is_table else name
                text = f"belongs in {self.path}; allowed in an included file: [[virtual_host]]"
                self.fault(origin, key, key and _shown(value), text)

    def table(self, file: _Table, name: str) -> _Table:
        raw = file.raw.get(name, {})
        origin = Origin(file.origin.file, name)
        if not isinstance(raw, dict):
            self.fault(origin, None, None, f"is not a table; allowed: one that begins [{name}]")
            raw = {}
        return file._replace(origin=origin, raw=raw)

    def virtual_host_tables(self, file: _Table) -> list[_Table]:
        tables = file.raw.get("virtual_host", [])
        if not isinstance(tables, list) or not all(isinstance(raw, dict) for raw in tables):
            text = "is not an array of tables; allowed: tables that begin [[virtual_host]]"
            self.fault(Origin(file.origin.file, "virtual_host"), None, None, text)
            return []
        # A header inside a multi-line string would shift the lines: then none is named.
        lines = file.lines if len(file.lines) == len(tables) else ()
        made = []
        for number, raw in enumerate(tables, 1):
            name = f"virtual_host[{number}]" + (f" (line {lines[number - 1]})" if lines else "")
            made.append(file._replace(origin=Origin(file.origin.file, name), raw=raw))
        return made

    def included(self, main: _Table) -> list[Path]:
        """Files named by `include`, in its order, those of one pattern sorted, each once."""
        origin = Origin(main.origin.file, "top level")
        patterns = main.raw.get("include", [])
        found: list[Path] = []
        for pattern in patterns if isinstance(patterns, list) else [patterns]:
            try:
                _text(pattern, "a path or pattern, or a list of them")
            except Refused as refused:
                self.fault(origin, "include", _shown(pattern), str(refused))
                continue
            # Path.glob refuses absolute patterns.
            names = sorted(glob.glob(pattern, root_dir=main.directory))  # noqa: PTH207
            if not names and not glob.has_magic(pattern):
                text = "no such file; allowed: a file that exists, or a pattern with *, ? or []"
                self.fault(origin, "include", _shown(pattern), text)
            self.check_folder(origin, pattern, main.directory / pattern)
            for path in (main.directory / name for name in names):
                if _resolved(path) not in self.files:
                    self.files[_resolved(path)] = path
                    found.append(path)
        return found

    def check_folder(self, origin: Origin, pattern: str, path: Path) -> None:
        """A directory that may not be listed looks to glob like one without a match."""
        try:
            os.scandir(path.parent).close()
        except (FileNotFoundError, NotADirectoryError):
            pass  # a pattern in the directory's name, or nothing there: no match
        except OSError as error:
            text = f"{path.parent} cannot be listed: {error.strerror}; allowed: one that can"
            self.fault(origin, "include", _shown(pattern), text)

    def parse(self, table: _Table, rules: dict[str, Rule], others: Sequence[str]) -> _Values:
        """The values of a table by `rules`; `others` are keys that are read elsewhere."""
        result = _Values({}, set())
        for key, value in table.raw.items():
            if key in others:
                continue
            if key not in rules:
                self.unknown(table.origin, key, value, (*rules, *others))
                continue
            try:
                typed = rules[key](value)
            except Refused as refused:
                self.fault(table.origin, key, _shown(value), str(refused))
                result.bad.add(key)
            else:
                if typed is not None:  # None: the default of a key that is not built yet
                    result.values[key] = typed
        return result

    def daemon(self, table: _Table) -> Daemon:
        """[daemon], and the key for encrypted passphrases that it names."""
        values, bad = self.parse(table, DAEMON_RULES, ())
        key = None
        try:
            if "secret_key_file" in values:
                path = (table.directory / values["secret_key_file"]).absolute()
                values["secret_key_file"] = path
                key = read_key(path)
            elif "secret_key_file" not in bad:
                key = read_key_credential()
        except SecretError as error:
            shown = _shown(table.raw.get("secret_key_file", str(error.path)))
            self.fault(table.origin, "secret_key_file", shown, error.text)
            bad.add("secret_key_file")
        self.key_broken = "secret_key_file" in bad
        self.passphrases = Passphrases(key)
        if "notify" in values:
            self.check_program(table, "notify")
        return Daemon(**values)

    def check_program(self, table: _Table, key: str) -> None:
        path = table.raw[key]
        try:
            runnable = stat.S_ISREG(Path(path).stat().st_mode) and os.access(path, os.X_OK)
        except OSError as error:
            self.warn(table.origin, key, _shown(path), f"cannot be run: {error.strerror}")
        else:
            if not runnable:
                self.warn(table.origin, key, _shown(path), "is not an executable file")

    def settings(self, table: _Table, inherited: _Values) -> _Values:
        """The settings of [defaults] or of a virtual host's table, over what it inherits."""
        raw = table.raw
        values, bad = self.parse(table, SETTING_RULES, OTHER_KEYS)
        overridden = set(raw)
        if not overridden.isdisjoint(PASSPHRASE_KEYS):
            overridden.add("passphrase")
            passphrase = self.passphrase(table)
            if passphrase is None:
                bad.add("passphrase")
            else:
                values["passphrase"] = passphrase
        if "announce" in raw:
            values["announce"] = self.announce(table, inherited.values.get("announce", Announce()))
        for key in ("up", "down"):
            if values.get(key, "").startswith("/"):
                self.check_program(table, key)
        return _Values(inherited.values | values, bad | (inherited.bad - overridden))

    def announce(self, table: _Table, inherited: Announce) -> Announce:
        """`announce` key by key: what a table leaves out comes from [defaults]."""
        raw = table.raw["announce"]
        if not isinstance(raw, dict):
            text = "must be a table such as {count = 1, interval_s = 0, refresh_s = 0}"
            self.fault(table.origin, "announce", _shown(raw), text)
            return inherited
        dotted = {f"announce.{key}": value for key, value in raw.items()}
        values, _ = self.parse(table._replace(raw=dotted), ANNOUNCE_RULES, ())
        return msgspec.structs.replace(
            inherited, **{key.removeprefix("announce."): value for key, value in values.items()}
        )

    def passphrase(self, table: _Table) -> bytes | None:
        """The passphrase of a table that names one; None after a fault."""
        given = [key for key in PASSPHRASE_KEYS if key in table.raw]
        key = given[-1]
        value = table.raw[key]
        shown = "(hidden)" if key == "passphrase" else _shown(value)
        if len(given) > 1:
            text = (
                f"{' and '.join(given)} in one table; allowed: one of {', '.join(PASSPHRASE_KEYS)}"
            )
            self.fault(table.origin, key, shown, text)
            return None
        try:
            _text(value)
            if key == "passphrase_file":
                return self.passphrases.from_file(table.directory / value)
            if key == "passphrase_credential":
                return self.passphrases.from_credential(value)
            if table.exposed and not value.startswith(ENCRYPTED_PREFIX):
                text = "others may read this file; use passphrase_file or encrypt the passphrase"
                self.warn(table.origin, key, shown, text)
            return self.passphrases.from_text(value)
        except KeyMissing as error:
            if not self.key_broken:  # else that is the fault, and it has been reported
                self.fault(table.origin, key, shown, error.text)
        except SecretError as error:
            self.fault(table.origin, key, shown, error.text)
        except Refused as refused:
            self.fault(table.origin, key, shown, str(refused))
        return None

    def owner(self, table: _Table, key: str) -> _Table:
        return table if key in table.raw else self.defaults

    def items(self, table: _Table, key: str, parse: Callable[[Any], Sequence[Item]]) -> list[Item]:
        """The items of a key that is one value or a list, parsed; empty after a fault."""
        owner = self.owner(table, key)
        allowed = HOST_KEYS[key]
        if key not in owner.raw:
            if key != "unsigned_addresses":
                self.fault(table.origin, key, "(missing)", f"must be given; allowed: {allowed}")
            return []
        value = owner.raw[key]
        parsed: list[Item] = []
        failed = False
        for item in value if isinstance(value, list) else [value]:
            try:
                parsed += parse(item)
            except Refused as refused:
                self.fault(owner.origin, key, _shown(item), str(refused))
                failed = True
            if key == "interface" and len(parsed) > MAX_INTERFACES:
                break  # more than the limit, which is reported where tables are counted
        if value == [] and key != "unsigned_addresses":
            text = f"is empty and makes no virtual host; allowed: {allowed}"
            self.fault(owner.origin, key, "[]", text)
        return [] if failed else parsed

    def virtual_host(self, table: _Table, inherited: _Values) -> None:
        """Makes the virtual hosts of one table."""
        values, bad = self.settings(table, inherited)
        if not values["passphrase"] and "passphrase" not in bad:
            words = ", ".join(PASSPHRASE_KEYS)
            text = f"must be given; allowed: one of {words}, here or in [defaults]"
            self.fault(table.origin, "passphrase", "(missing)", text)
        settings = Settings(**values, origin=table.origin)
        if settings.advbase == settings.advskew == 0 and bad.isdisjoint({"advbase", "advskew"}):
            owner = table if "advbase" in table.raw else self.owner(table, "advskew")
            text = "must be from 1 to 254 where advbase is 0, or advbase from 1 to 255"
            self.fault(owner.origin, "advskew", "0", text)
        interfaces: Interfaces = self.items(table, "interface", _interfaces)
        vhids = self.items(table, "vhid", _vhids)
        parsers = _parsers(numbered=all(number is not None for _, number in interfaces))
        templates = {key: self.items(table, key, parsers[key]) for key in ADDRESS_KEYS}
        if self.within_limits(table, interfaces, len(vhids)):
            if "destination" not in bad:
                self.claim(table, interfaces, vhids, settings.destination)
            self.expand(table, interfaces, vhids, templates, settings)

    def within_limits(self, table: _Table, interfaces: Interfaces, vhids: int) -> bool:
        """Whether the engine has room for the table too; the first that does not fit is named."""
        before = (len(self.interfaces), self.count)
        for name, _ in interfaces:
            self.interfaces.setdefault(name, [])
        self.count += len(interfaces) * vhids
        now = (len(self.interfaces), self.count)
        limits = (
            ("interface", "interfaces", "MAX_INTERFACES", MAX_INTERFACES),
            ("vhid", "virtual hosts", "MAX_VIRTUAL_HOSTS", MAX_VIRTUAL_HOSTS),
        )
        for had, has, (key, noun, name, most) in zip(before, now, limits, strict=True):
            if had <= most < has:
                text = f"makes {has:,} {noun} with the tables before; allowed: {most:,} ({name})"
                shown = _shown(self.owner(table, key).raw[key])
                self.fault(table.origin, key, shown, text)
        return now[0] <= MAX_INTERFACES and now[1] <= MAX_VIRTUAL_HOSTS

    def claim(
        self, table: _Table, interfaces: Interfaces, vhids: list[int], destination: str
    ) -> None:
        """Takes the identities of a table; one that is taken is a fault that names both tables."""
        taken: dict[Origin, list[str]] = {}
        for interface, _ in interfaces:
            owners = self.owners.setdefault((interface, destination), [None] * 256)
            for vhid in vhids:
                owner = owners[vhid]
                if owner is None:
                    owners[vhid] = table.origin
                else:
                    taken.setdefault(owner, []).append(f"{interface}/{vhid}")
        for owner, names in taken.items():
            where = "this table" if owner == table.origin else str(owner)
            more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
            text = (
                f"{names[0]}{more} with destination {destination} made by {where} already;"
                " allowed: one virtual host of an interface, destination and vhid"
            )
            self.fault(table.origin, "vhid", _shown(self.owner(table, "vhid").raw["vhid"]), text)

    def expand(
        self,
        table: _Table,
        interfaces: Interfaces,
        vhids: list[int],
        templates: dict[str, list[_Template]],
        settings: Settings,
    ) -> None:
        """Fills in the templates, interface by interface and VHIDs within."""
        index = 0
        repeated = False
        for interface, number in interfaces:
            hosts = self.interfaces[interface]
            for vhid in vhids:
                filled: list[tuple[str, ...]] = []
                for key in ADDRESS_KEYS:
                    texts = []
                    for template in templates[key]:
                        try:
                            texts.append(template.at(vhid, number, index))
                        except Refused as refused:
                            if not template.failed:
                                template.failed = True
                                text = f"for {interface}/{vhid}: {refused}"
                                self.fault(table.origin, key, _shown(template.text), text)
                    filled.append(tuple(texts))
                host = VirtualHost(interface, vhid, filled[0], filled[1], settings)
                if not repeated and len(filled[0]) + len(filled[1]) > 1:
                    repeated = self.find_repeated_address(table, host)
                self.virtual_hosts.append(host)
                hosts.append(host)
                index += 1

    def find_repeated_address(self, table: _Table, host: VirtualHost) -> bool:
        seen: set[str] = set()
        for key, address in _keyed_addresses(host):
            text = f"{host.name} holds it twice; allowed: once, signed or unsigned"
            if _host_part(address) in seen:
                self.fault(table.origin, key, _shown(address), text)
                return True
            seen.add(_host_part(address))
        return False

    def find_shared_addresses(self) -> None:
        """Warns of an address in two virtual hosts of an interface, once for two tables."""
        shared: dict[tuple[Origin, Origin], list[tuple[str, str, str]]] = {}
        for hosts in self.interfaces.values():
            holders: dict[str, VirtualHost] = {}
            for host in hosts:
                for key, address in _keyed_addresses(host):
                    other = holders.setdefault(_host_part(address), host)
                    if other is not host:
                        tables = (host.settings.origin, other.settings.origin)
                        text = f"{host.name} and {other.name}"
                        shared.setdefault(tables, []).append((key, _shown(address), text))
        for (origin, other_origin), found in shared.items():
            key, address, text = found[0]
            more = f", and {len(found) - 1:,} more such" if len(found) > 1 else ""
            where = "this table" if origin == other_origin else str(other_origin)
            self.warn(origin, key, address, f"held by both {text} ({where}){more}")
