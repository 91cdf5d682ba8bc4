"""The types of a configuration, all frozen, and the form in which messages show a value.

Must not know files, TOML, ranges, the rules of keys, or where a table stands.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from carp_fast.config.tracks import Track
from carp_fast.engine._auth import Passphrase
from carp_fast.engine.keys import Keys
from carp_fast.errors import CarpFastError

MAX_VIRTUAL_HOSTS = 131_072  # size of the engine's table
MAX_INTERFACES = 4_096  # size of the engine's table of interfaces
GROUPS_MAX = 65_535  # size of the engine's table of groups
PEERS_MAX = 16  # unicast peers of one virtual host
LONGEST_VALUE_SHOWN = 80  # characters of a value in a message
ONLY_IPV4, ONLY_IPV6, BOTH_FAMILIES = (4,), (6,), (4, 6)
RECORD_MAX = 16_777_216  # records of 64 bytes: 1 GiB


class Fault(msgspec.Struct, frozen=True):
    """One fault: `FILE:LINE: table: key = value: text`, without the parts that do not apply."""

    file: str
    table: str | None
    key: str | None
    value: str | None  # as shown: shortened, escaped, and "(hidden)" for a secret
    text: str
    line: int | None = None  # of the key, or of the table's header

    def __str__(self) -> str:
        file = self.file if self.line is None else f"{self.file}:{self.line}"
        what = self.key if self.value is None else f"{self.key} = {self.value}"
        return ": ".join(part for part in (file, self.table, what, self.text) if part)


class ConfigurationError(CarpFastError):
    """Raised when a configuration cannot be used; `faults` holds all that are in it."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = faults


class Origin(msgspec.Struct, frozen=True, gc=False):
    """The place of a table: its file, its name, such as "virtual_host[3]", and its header's line.

    `line`: None where it is not known without a scan, see config.lines.
    """

    file: str
    table: str
    line: int | None = None

    def __str__(self) -> str:
        file = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{file}: {self.table}" if self.table else file

    @property
    def here(self) -> str:
        """The place for messages about the same file: "virtual_host[3] (line 17)"."""
        return self.table if self.line is None else f"{self.table} (line {self.line})"

    def fault(self, key: str | None, value: str | None, text: str) -> Fault:
        """A fault in this table."""
        return Fault(self.file, self.table or None, key, value, text, self.line)


class Group(msgspec.Struct, frozen=True, gc=False):
    """A [[group]]: virtual hosts that share demotion.

    `demote_when`: "any", one member cannot be MASTER here, or "all", none of them can.
    """

    name: str
    demote_when: str = "any"


class Settings(Keys, frozen=True, kw_only=True):
    """The settings that the virtual hosts of one table share: the engine's keys, and these.

    `up` and `down`: a path or "module:function". Addresses have the form of inet_ntop; `peers` are
    sorted, IPv4 first. `passphrase` is empty if it is unknown, see load(), and without its text in
    a daemon. With peers, `destination`, `destination6`, `broadcast` and `advertise_mac` have their
    defaults.
    """

    passphrase: bytes | Passphrase
    source: str | None = None  # None: the interface's own
    source6: str | None = None
    destination: str = "224.0.0.18"
    destination6: str = "ff02::12"
    broadcast: bool = False
    peers: tuple[str, ...] = ()
    hold: str = "address"  # its IPv4 addresses: or "route", or "auto"
    lladdr: str | None = None
    group: Group | None = None
    track: tuple[str, ...] = ()  # names of tracks
    up: str | None = None
    down: str | None = None
    xparam: str | None = None
    origin: Origin = Origin("", "")

    @property
    def passphrase_text(self) -> bytes:
        """The passphrase; empty in a daemon, which does not keep its text."""
        return self.passphrase if isinstance(self.passphrase, bytes) else b""

    def __rich_repr__(self) -> Iterable[tuple[str, Any]]:  # type: ignore[override]
        for field in self.__struct_fields__:
            yield field, "(hidden)" if field == "passphrase" else getattr(self, field)

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{k}={v!r}' for k, v in self.__rich_repr__())})"


class Labels(msgspec.Struct, frozen=True, gc=False):
    """What people and their programs call a virtual host; "": no such label.

    `segment` groups virtual hosts across hosts, where interfaces have other names.
    """

    name: str = ""
    description: str = ""
    segment: str = ""

    @property
    def given(self) -> dict[str, str]:
        """Those that it has, by key."""
        if self is NO_LABELS:
            return {}
        return {key: text for key in self.__struct_fields__ if (text := getattr(self, key))}


NO_LABELS = Labels()


class VirtualHost(msgspec.Struct, frozen=True, gc=False):
    """One virtual host.

    Addresses are such as "192.0.2.10/24" or "2001:db8::10/64", in the form of inet_ntop and in the
    order of the file. `labels` change nothing about what it does.
    """

    interface: str
    vhid: int
    addresses: tuple[str, ...]
    unsigned_addresses: tuple[str, ...]
    settings: Settings
    labels: Labels = NO_LABELS

    @property
    def families(self) -> tuple[int, ...]:
        """The families that it advertises over: those of its peers or of its signed addresses."""
        return families_of(self.settings.peers or self.addresses)

    @property
    def destinations(self) -> tuple[str, ...]:
        """The addresses that it advertises to: its peers, or the group of each family."""
        return destinations_of(self.settings, self.families)

    @property
    def identity(self) -> tuple[str, tuple[str, ...], int]:
        """(interface, destinations, vhid).

        No two virtual hosts with the same interface and vhid have a destination in common.
        """
        return self.interface, self.destinations, self.vhid

    @property
    def keyed_addresses(self) -> Iterator[tuple[str, str]]:
        """(key, address) of every address that it holds, signed or not."""
        for address in self.addresses:
            yield "addresses", address
        for address in self.unsigned_addresses:
            yield "unsigned_addresses", address

    @property
    def name(self) -> str:
        """The name in log lines: "eth0/7"."""
        return f"{self.interface}/{self.vhid}"

    @property
    def segment(self) -> str:
        """The segment in metrics: the configured one, or the name of the interface."""
        return self.labels.segment or self.interface


class AnnounceRate(msgspec.Struct, frozen=True):
    """The pace of gratuitous ARPs and neighbour advertisements.

    `interface`: of each interface a second; `at_once`: so many beyond that, after a pause; `all`: a
    second of all interfaces, 0: no limit.
    """

    interface: int = 10_000
    at_once: int = 512
    all: int = 0


class ControlGroup(msgspec.Struct, frozen=True):
    """The group whose members may read by the control socket; `gid`: None: of no group.

    `name`: as configured, or that of the number; the number as text if it has none.
    """

    name: str
    gid: int | None

    def __str__(self) -> str:
        return '""' if self.gid is None else f"group {self.name} (gid {self.gid})"


class User(msgspec.Struct, frozen=True):
    """The user that the daemon becomes, with its own group; `uid`: 0: it stays root."""

    name: str
    uid: int
    gid: int

    def __str__(self) -> str:
        return f"{self.name} (uid {self.uid})"


class MetricsAddress(msgspec.Struct, frozen=True):
    """Where metrics are asked for: an address and port, or the `path` of a Unix socket."""

    host: str = ""  # in the form of inet_ntop
    port: int = 0
    path: Path | None = None

    @property
    def is_local(self) -> bool:
        """Whether only this host can reach it."""
        return self.path is not None or self.host == "::1" or self.host.startswith("127.")

    def __str__(self) -> str:
        if self.path is not None:
            return str(self.path)
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Daemon(msgspec.Struct, frozen=True):
    """The [daemon] table. Paths are absolute; `notify` is the path of a program or None; `user` and
    `control_group` are None for the usual ones, if this host has them; `metrics` None: there are
    none.
    """

    control_socket: Path = Path("/run/carp-fast/control.sock")
    control_group: ControlGroup | None = None
    user: User | None = None
    state_directory: Path = Path("/var/lib/carp-fast")
    receive: str = "auto"
    send: str = "auto"
    pump: str = "thread"
    announce_rate: AnnounceRate = AnnounceRate()
    notify: str | None = None
    hook_concurrency: int = 16
    hook_timeout_s: float = 30.0
    track_concurrency: int = 16
    digest_grace_s: float = 300.0
    maintenance_rate: int = 200
    record: int = 65_536
    secret_key_file: Path | None = None
    metrics: MetricsAddress | None = None
    metrics_detail: str = "interface"
    metrics_public: bool = False
    metrics_page: bool = True


class Configuration(msgspec.Struct, frozen=True):
    """A whole configuration.

    `files`: those that were read, the main one first; `warnings`: lines in the form of faults;
    `ended`: for each file, passphrase files included, whether it ends with a newline; `patterns`:
    for each pattern of `include`, the number of files that it matched.
    """

    path: Path
    files: tuple[Path, ...]
    daemon: Daemon
    virtual_hosts: list[VirtualHost]
    warnings: tuple[str, ...]
    ended: Mapping[Path, bool] = {}
    patterns: Mapping[str, int] = {}
    tracks: tuple[Track, ...] = ()


def is_function(target: str) -> bool:
    """Whether a hook's target is "module:function" rather than the path of a program."""
    return ":" in target and "/" not in target


def families_of(addresses: Iterable[str]) -> tuple[int, ...]:
    """The families of addresses, with or without prefix length: (), (4,), (6,) or (4, 6)."""
    ipv4 = ipv6 = False
    for address in addresses:
        if ":" in address:
            ipv6 = True
        else:
            ipv4 = True
    return BOTH_FAMILIES if ipv4 and ipv6 else ONLY_IPV4 if ipv4 else ONLY_IPV6 if ipv6 else ()


def destinations_of(settings: Settings, families: tuple[int, ...]) -> tuple[str, ...]:
    """The peers, or without peers the group of each of these families."""
    if settings.peers:
        return settings.peers
    if families == ONLY_IPV4:
        return (settings.destination,)
    return tuple(settings.destination if each == 4 else settings.destination6 for each in families)


# --- values as messages show them ---------------------------------------------------------------


def as_printable(text: str) -> str:
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def as_shown(value: Any) -> str:
    """A value in TOML's form, on one line and shortened; a table is only "{...}"."""
    if isinstance(value, dict):
        return "{...}"
    if isinstance(value, list):
        # Shortened here already: the list may have a million items.
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


def as_key(key: str) -> str:
    """A key as messages show it: quoted if it has unusual characters."""
    return key if re.fullmatch(r"[\w.-]+", key) else as_shown(key)


def nearest_to(word: str, known: Iterable[str]) -> str:
    return difflib.get_close_matches(word[:LONGEST_VALUE_SHOWN], known, n=1, cutoff=0.0)[0]
