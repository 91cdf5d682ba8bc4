"""What a configuration is made of: its typed, frozen objects, and the rule of each key.

A rule turns the value that TOML gave into the typed one, or says why not and what is allowed.
Must not know files, TOML, ranges, or where a table stands.

In this version `replay` is "off" and dialect "ucarp"; what is not built yet is refused by name.
"""

from __future__ import annotations

import difflib
import json
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_interface
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

MAX_VIRTUAL_HOSTS = 131_072  # the engine's table
MAX_INTERFACES = 4_096  # the engine's dense interface numbers
INTERFACE_NAME_BYTES = 15  # the kernel's IFNAMSIZ less its NUL
SOCKET_PATH_BYTES = 107  # sun_path less its NUL
LONGEST_VALUE_SHOWN = 80  # characters of a value in a message
MAX_DELAY_S = 86_400


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
    broadcast: bool = False
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


# --- values as messages show them ---------------------------------------------------------------


def as_printable(text: str) -> str:
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def as_shown(value: Any) -> str:
    """A value as TOML would write it, on one line and cut; of a table only that it is one."""
    if isinstance(value, dict):
        return "{...}"
    if isinstance(value, list):
        # Cut here already: the list may have a million items.
        items = [as_shown(item) for item in value[:LONGEST_VALUE_SHOWN]]
        shown = f"[{', '.join(items)}{', ...' if len(value) > len(items) else ''}]"
    elif isinstance(value, bool):
        return "true" if value else "false"
    elif isinstance(value, int) and value.bit_length() > 64:
        return f"an integer of {value.bit_length()} bits"
    elif isinstance(value, str):
        shown = as_printable(json.dumps(value[: 2 * LONGEST_VALUE_SHOWN], ensure_ascii=False))
    else:
        shown = str(value)
    if len(shown) > LONGEST_VALUE_SHOWN:
        return shown[: LONGEST_VALUE_SHOWN - 3] + "..."
    return shown


def nearest_to(word: str, known: Iterable[str]) -> str:
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
        allowed = f"{as_shown(neutral)}, or {allowed}"

    def rule(value: Any) -> None:
        if neutral is None or type(value) is not type(neutral) or value != neutral:
            raise Refused(f"not available in this version; allowed: {allowed}")

    return rule


_boolean = _typed(bool, "true or false")


def plain_text(value: Any, allowed: str = "a string") -> str:
    if not isinstance(value, str):
        raise Refused(f"must be {allowed}")
    if "\0" in value:
        raise Refused(f"holds a NUL character; must be {allowed}")
    return value


def _absolute_path(value: Any, allowed: str = "an absolute path") -> str:
    if not plain_text(value, allowed).startswith("/"):
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
    module, colon, function = plain_text(value, allowed).partition(":")
    if colon and "/" not in value:
        if all(part.isidentifier() for part in (*module.split("."), *function.split("."))):
            return str(value)
        raise Refused(f"must be {allowed}")
    return _absolute_path(value, allowed)


def _preempt(value: Any) -> Any:
    if isinstance(value, bool) or value == "demoted":
        return value
    raise Refused('must be true, false or "demoted"')


def why_not_ipv4(value: str) -> str:
    try:
        if ip_interface(value).version == 6:
            return "IPv6 is not available in this version"
    except ValueError:
        pass
    return "is not an IPv4 address"


def ipv4_number(value: Any, allowed: str) -> int:
    try:
        return int.from_bytes(socket.inet_pton(socket.AF_INET, plain_text(value, allowed)))
    except (OSError, ValueError):
        raise Refused(f"{why_not_ipv4(value)}; must be {allowed}") from None


def _source(value: Any) -> str:
    allowed = "one IPv4 address of a host, without prefix"
    if not 0 < ipv4_number(value, allowed) < 0xE000_0000:
        raise Refused(f"is not the address of a host; must be {allowed}")
    return str(value)


def _destination(value: Any) -> str:
    allowed = "an IPv4 multicast group (224.0.0.0/4)"
    if ipv4_number(value, allowed) >> 28 != 0xE:
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
    "broadcast": _boolean,
    "peers": _not_available([]),
    "advertise_mac": _choice("interface", "ucarp", "bsd"),
    "address_mac": _not_available("interface"),
    "replay": _choice("off", later=("learn", "strict")),
    "ignore_link_state": _boolean,
    "manage_addresses": _boolean,
    "group": _not_available(),
    "track": _not_available([]),
    "up": _hook,
    "down": _hook,
    "xparam": plain_text,
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
    "secret_key_file": plain_text,
    "metrics": _not_available(),
}
TABLES = ("include", "daemon", "defaults", "virtual_host")
TABLES_LATER = ("group", "track")
